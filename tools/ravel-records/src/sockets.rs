//! The report `sockets`: the state of every descriptor that is a socket.

use serde::{Deserialize, Serialize};

use crate::body::{Body, check};
use crate::line::{Line, record};
use crate::{
    Error, Family, Header, Id, Linger, Protocol, ReportName, Shutdown, SkState, SocketKind,
    SocketState, Text,
};

/// A whole report `sockets`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketsReport {
    /// Whose it is.
    pub header: Header,
    /// One for each descriptor that is a socket, in the order of descriptors.
    pub sockets: Vec<Socket>,
    /// The counts.
    pub summary: SocketsSummary,
}

record! {
    /// A descriptor that is a socket.
    Socket {
        /// The descriptor.
        fd: u32,
        /// The socket; two descriptors of one have the same.
        id: Id,
        /// As in /proc/PID/fd and `ss -e`.
        inode: u64,
        /// Inode of its network namespace.
        netns: u64,
        /// Address family.
        family: Family,
        /// Type.
        r#type: SocketKind,
        /// Protocol.
        protocol: Protocol,
        /// References on the open file: descriptors in all processes, and others.
        file_refs: i64,
        /// Its user held the lock for as long as ravel waits: there is no `detail`.
        busy: bool,
    }
    plus {
        /// What only the socket's lock lets one see; in JSON these keys stand among the others.
        #[serde(flatten)]
        detail: Option<SocketDetail>,
    }
}

record! {
    /// The part of a socket that was read under its lock, in one hold.
    SocketDetail {
        /// What the system calls see.
        socket_state: SocketState,
        /// The protocol's state.
        sk_state: SkState,
        /// The directions that are shut.
        shutdown: Shutdown,
        /// `ADDRESS:PORT`, `[ADDRESS]:PORT`, a unix path, or empty.
        local: Text,
        /// The peer's, in the same form.
        remote: Text,
        /// SO_LINGER.
        linger: Linger,
        /// Pending error, an errno value; 0 for none.
        err: i32,
        /// Error that may pass, an errno value; 0 for none.
        soft_err: i32,
        /// Payload bytes received and not yet read.
        rx_bytes: u64,
        /// sk_buffs that hold them; a listener: connections not yet accepted.
        rx_packets: u64,
        /// TCP: bytes from the first unacknowledged to the last written; others: 0.
        tx_bytes: u64,
        /// sk_buffs that hold them.
        tx_packets: u64,
        /// Bytes of memory of what it sent and nobody has yet freed.
        wmem: i64,
        /// What ioctl SIOCINQ would give, in bytes; -1 where it would fail.
        inq: i64,
        /// What ioctl SIOCOUTQ would give, in bytes; -1 where it would fail.
        outq: i64,
    }
}

record! {
    /// The counts of a report `sockets`.
    SocketsSummary {
        /// The report's name.
        report: ReportName,
        /// Descriptors looked at.
        fds: u64,
        /// socket records.
        sockets: u64,
        /// Of these, the busy ones.
        busy: u64,
        /// Records that a bound left out.
        cut: u64,
    }
}

impl SocketsReport {
    /// Parses a whole report; see [`Error`] for what a text may be instead.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let (header, mut body) = Body::open(text, &ReportName::Sockets)?;
        let mut sockets = Vec::new();
        while let Some(line) = body.next()? {
            if line.kind == "socket" {
                sockets.push(Socket::parse(&line)?);
            }
        }
        let last = body.summary()?;
        let summary = SocketsSummary::from_line(&last)?;
        let cut = summary.cut;
        let busy = sockets.iter().filter(|socket| socket.busy).count();
        check(&last, "sockets", summary.sockets, sockets.len(), cut)?;
        check(&last, "busy", summary.busy, busy, cut)?;
        Ok(Self {
            header,
            sockets,
            summary,
        })
    }

    /// The socket of a descriptor.
    pub fn socket(&self, fd: u32) -> Option<&Socket> {
        self.sockets.iter().find(|socket| socket.fd == fd)
    }
}

impl Socket {
    /// A `socket` record, with what a busy one does not have.
    pub(crate) fn parse(line: &Line<'_>) -> Result<Self, Error> {
        let mut socket = Self::from_line(line)?;
        if !socket.busy {
            socket.detail = Some(SocketDetail::from_line(line)?);
        }
        Ok(socket)
    }
}
