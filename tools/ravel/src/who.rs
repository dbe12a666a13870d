//! `ravel who`: the sockets that are asked for, and everything that has or uses each, anywhere on
//! the machine.

mod find;
mod owners;
mod references;
mod saved;
mod wanted;

use ravel_records::{Family, Protocol, Sharer, SkState, SocketKind, Text};
use serde::Serialize;

use crate::census::Place;
use crate::census::calls::Call;
use crate::census::holders::{Descriptor, Registered};
use crate::census::kernel::KernelOwner;
use crate::census::queues::Queue;
use crate::census::socket::{Sock, What};
use crate::epoll::Watch;
use crate::proc::Unread;

pub use find::{Missing, find};
pub use references::{Known, Seeker};
pub use saved::search;
pub use wanted::Wanted;

/// The answer.
#[derive(Debug, Default, Serialize)]
pub struct Answer {
    /// The kernel's release; empty if the machine was not asked.
    pub kernel: Text,
    /// Processes that were read.
    #[serde(rename = "processes_read")]
    pub processes: u64,
    /// Processes that exited before they were read.
    #[serde(rename = "processes_exited")]
    pub exited: u64,
    /// The network namespaces that were searched.
    pub namespaces: Vec<Place>,
    /// What could not be read.
    pub unread: Unread,
    /// The kinds of owners for which it was searched.
    pub searched: Searched,
    /// What else there is to say about what was asked.
    pub remarks: Vec<String>,
    /// The sockets.
    pub sockets: Vec<Found>,
}

/// For which kinds of owners the sockets were searched, beside descriptors. None were found unless
/// a socket has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Searched {
    /// Messages (SCM_RIGHTS) that wait to be received.
    pub messages: bool,
    /// Registered files of io_urings.
    pub rings: bool,
    /// The kernel's own sockets.
    pub kernel: bool,
    /// What is left of closed connections.
    pub remnants: bool,
    /// System calls in progress.
    pub calls: bool,
}

/// A socket, with everything that has or uses it.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// Inode of its network namespace.
    pub netns: u64,
    /// How that is named.
    pub namespace: Place,
    /// Its inode; 0 if no open file has it.
    pub inode: u64,
    /// Its family.
    pub family: Family,
    /// Its type.
    pub r#type: SocketKind,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its state.
    pub sk_state: SkState,
    /// What it is, if it is not a socket.
    pub what: Kind,
    /// What it is bound to.
    pub local: Text,
    /// What it is connected to.
    pub remote: Text,
    /// IPV6_V6ONLY of an IPv6 socket that is in no connection.
    pub v6only: Option<bool>,
    /// The device that it is bound to.
    pub device: Option<String>,
    /// The user who created it.
    pub uid: Option<u32>,
    /// The place in which the kernel's lookup chooses it; sockets with the same number share what
    /// is sent.
    pub order: Option<u32>,
    /// Unix: why it matches the path.
    pub path: Option<PathFound>,
    /// Its holders.
    #[serde(flatten)]
    pub owners: Owners,
    /// The other end of its connection.
    pub peer: Option<Other>,
    /// Who has that.
    pub peer_holders: Vec<Descriptor>,
}

/// What an entry of the kernel's lists is, as answers name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A socket.
    Socket,
    /// What is left of a closed connection, in TIME_WAIT or FIN_WAIT2.
    Remnant,
    /// A connection in its handshake.
    Request,
    /// A connection that waits for accept().
    NotAccepted,
    /// A connection that its process has closed.
    Orphan,
    /// A TCP connection or listener of an MPTCP socket.
    Subflow,
}

impl Kind {
    fn of(sock: &Sock) -> Self {
        match sock.what {
            _ if sock.is_subflow => Self::Subflow,
            What::Socket => Self::Socket,
            What::Remnant => Self::Remnant,
            What::Request => Self::Request,
            What::NotAccepted => Self::NotAccepted,
            What::Orphan => Self::Orphan,
        }
    }
}

/// How a unix socket matches a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathFound {
    /// connect() with this path gets to it.
    pub is_reached: bool,
    /// The file that it is bound to is not there any more under this path.
    pub is_former: bool,
    /// A process in whose root directory the path leads to it; null if it does here.
    pub root_of: Option<u32>,
}

/// Everything that has or uses a socket.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Owners {
    /// Descriptors.
    pub holders: Vec<Descriptor>,
    /// References that are no descriptors, as the module reports them.
    pub others: Vec<Sharer>,
    /// io_urings that it is registered with.
    pub rings: Vec<Registered>,
    /// Threads in a system call on it, whose descriptor is gone.
    pub calls: Vec<Call>,
    /// Unix sockets in whose unread messages it may be, if nothing else has it.
    pub queues: Vec<Queue>,
    /// io_urings with a request that may be one on it, if nothing else has it.
    pub requests: Vec<Descriptor>,
    /// The part of the kernel that it belongs to.
    pub kernel: Option<KernelOwner>,
    /// A unix listener: who has connected and was not accepted.
    pub clients: Vec<Descriptor>,
    /// A connection that is not accepted: the listener's inode and holders.
    pub listener: Option<Listener>,
    /// Epoll sets that watch it; they do not hold it.
    pub watches: Vec<Watch>,
    /// References whose holders are not known; null where they were not counted.
    pub unnamed: Option<u64>,
}

impl Owners {
    /// How many there are of which one is likely to have the socket, since nothing else has it.
    pub fn candidates(&self) -> usize {
        self.calls.len() + self.queues.len() + self.requests.len()
    }

    /// Whether nothing is known to have the socket.
    pub fn is_unknown(&self) -> bool {
        self.holders.is_empty()
            && self.others.is_empty()
            && self.rings.is_empty()
            && self.candidates() == 0
            && self.kernel.is_none()
            && self.listener.is_none()
    }
}

/// The listener of a connection that waits for accept() or is in its handshake.
#[derive(Clone, Debug, Serialize)]
pub struct Listener {
    /// Its inode.
    pub inode: u64,
    /// Its holders.
    pub holders: Vec<Descriptor>,
}

/// The other end of a connection.
#[derive(Clone, Debug, Serialize)]
pub struct Other {
    /// Its inode; 0 if no open file has it.
    pub inode: u64,
    /// How its network namespace is named.
    pub namespace: Place,
    /// Its state.
    pub sk_state: SkState,
    /// What it is.
    pub what: Kind,
    /// The connection waits for accept(), and this is the listener.
    pub is_listener: bool,
    /// The addresses of the two differ: they are translated on the way.
    pub is_translated: bool,
}
