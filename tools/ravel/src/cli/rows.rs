//! What the command line says of tables: which rows and columns are shown.

use clap::Args;
use ravel_records::{Socket, SocketDetail};

use crate::identity::{ProcessFilter, Processes};
use crate::screen::plain;
use crate::stuck::Stuck;
use crate::sweep::Holder;

/// How a table is shown.
#[derive(Clone, Debug, Default, Args)]
pub struct Rows {
    /// Show everything, and fold nothing
    #[arg(long)]
    pub all: bool,
    /// Show at most so many rows
    #[arg(long, value_name = "N")]
    pub top: Option<usize>,
    /// Sort by this column: numbers from the greatest, words from the first
    #[arg(long, value_name = "COLUMN")]
    pub sort: Option<String>,
    /// Show these columns, with commas between
    #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
    pub columns: Vec<String>,
    /// Use lines of any length
    #[arg(long)]
    pub wide: bool,
}

/// Which sockets are shown.
#[derive(Clone, Debug, Default, Args)]
pub struct Filter {
    /// Only sockets in this state, such as close_wait
    #[arg(long)]
    pub state: Option<String>,
    /// Only sockets with this port at either end
    #[arg(long)]
    pub port: Option<u16>,
    /// Only sockets of the network namespace with this inode
    #[arg(long, value_name = "INODE")]
    pub netns: Option<u64>,
}

/// Which connections are shown, by their holders as well.
#[derive(Clone, Debug, Default, Args)]
pub struct HolderFilter {
    #[command(flatten)]
    pub socket: Filter,
    /// Only connections that this process holds or is responsible for
    #[arg(long)]
    pub pid: Option<u32>,
    /// The same of processes with this name
    #[arg(long, value_name = "NAME")]
    pub comm: Option<String>,
    #[command(flatten)]
    pub process: ProcessFilter,
}

impl Filter {
    fn is_empty(&self) -> bool {
        self.state.is_none() && self.port.is_none() && self.netns.is_none()
    }

    fn has_state(&self, state: &str) -> bool {
        let plain = |text: &str| text.to_ascii_lowercase().replace(['-', '_'], "");
        self.state
            .as_ref()
            .is_none_or(|wanted| plain(wanted) == plain(state))
    }

    /// Whether a socket is shown.
    pub fn has(&self, socket: &Socket) -> bool {
        if self.is_empty() {
            return true;
        }
        let Some(detail) = &socket.detail else {
            return self.state.is_none() && self.port.is_none() && self.netns == Some(socket.netns);
        };
        self.has_detail(socket, detail)
    }

    fn has_detail(&self, socket: &Socket, detail: &SocketDetail) -> bool {
        let is_port = |wanted: u16| {
            [&detail.local, &detail.remote]
                .iter()
                .any(|end| end.socket_address().is_some_and(|end| end.port() == wanted))
        };
        self.has_state(detail.sk_state.as_str())
            && self.port.is_none_or(is_port)
            && self.netns.is_none_or(|netns| netns == socket.netns)
    }
}

impl HolderFilter {
    /// Whether a connection is shown.
    pub fn has_stuck(&self, of: &Stuck, known: &Processes) -> bool {
        let is_port = |wanted: u16| {
            [&of.local, &of.remote]
                .iter()
                .any(|end| end.socket_address().is_some_and(|end| end.port() == wanted))
        };
        let holders = || of.holders.iter().chain(&of.blame);
        let is_named = |holder: &Holder, comm: &String| plain(&holder.comm) == *comm;
        self.socket.has_state(of.sk_state.as_str())
            && self.socket.port.is_none_or(is_port)
            && self.socket.netns.is_none_or(|netns| netns == of.netns)
            && self
                .pid
                .is_none_or(|pid| holders().any(|holder| holder.pid == pid))
            && self
                .comm
                .as_ref()
                .is_none_or(|comm| holders().any(|holder| is_named(holder, comm)))
            && self
                .process
                .has_any(known, holders().map(|holder| holder.pid))
    }
}
