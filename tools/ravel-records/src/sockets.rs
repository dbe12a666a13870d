//! The report `sockets`: the state of every descriptor that is a socket.

use serde::{Deserialize, Serialize};

use crate::body::{Body, check, split};
use crate::line::{Line, record};
use crate::{
    Error, Family, Fin, Flags, Header, Id, Linger, Protocol, ReportName, RingVersion, Shutdown,
    SkState, SocketKind, SocketState, TcpTimer, Text, Timer,
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
        /// O_NONBLOCK: its reads and writes do not wait.
        nonblock: bool,
        /// Its user held the lock for as long as ravel waits: there is no `detail`.
        busy: bool,
    }
    plus {
        /// A listener: the connections that wait for accept(), the first of them.
        #[serde(default)]
        waiting: Vec<Waiting>,
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
        /// Flags of the socket.
        flags: Flags,
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
        /// close() would throw away something that nobody has read.
        unread: bool,
        /// TCP: bytes from the first unacknowledged to the last written; others: 0.
        tx_bytes: u64,
        /// Packets: sk_buffs not yet sent, and packets sent and not acknowledged.
        tx_packets: u64,
        /// Bytes of memory of what it sent and nobody has yet freed.
        wmem: i64,
        /// What ioctl SIOCINQ would give, in bytes; -1 where it would fail.
        #[serde(with = "crate::value::negative_is_null")]
        inq: i64,
        /// What ioctl SIOCOUTQ would give, in bytes; -1 where it would fail.
        #[serde(with = "crate::value::negative_is_null")]
        outq: i64,
        /// A listener: how many connections may wait for accept().
        backlog: u64,
        /// The other end, where it is on this machine; none otherwise.
        peer: Id,
    }
    plus {
        /// Its memory, and what it dropped for want of it; older modules do not report it.
        #[serde(flatten)]
        memory: Option<SocketMemory>,
        /// The other end.
        #[serde(flatten)]
        other: Option<Peer>,
        /// Where it is in a sockmap: what that keeps for it.
        #[serde(flatten)]
        sockmap: Option<Sockmap>,
        /// What TCP alone has.
        #[serde(flatten)]
        tcp: Option<Tcp>,
        /// A packet socket's receive ring.
        #[serde(flatten)]
        ring: Option<PacketRing>,
    }
}

record! {
    /// Memory of a socket, in bytes.
    SocketMemory {
        /// Limit of `wmem` (SO_SNDBUF, as the kernel keeps it).
        sndbuf: u64,
        /// What it received and nobody has yet freed.
        rmem: u64,
        /// Limit of `rmem` (SO_RCVBUF, as the kernel keeps it).
        rcvbuf: u64,
        /// Packets that it dropped; a TCP listener: connections.
        drops: u64,
    }
}

record! {
    /// What a sockmap keeps for a socket.
    Sockmap {
        /// Bytes that were redirected to it, and not read.
        psock_bytes: u64,
    }
}

record! {
    /// A packet socket's receive ring, which its program has mapped.
    PacketRing {
        /// Its version.
        ring: RingVersion,
        /// Frames that it has; of version 3, blocks.
        ring_frames: u64,
        /// Of these, those that the program has not returned.
        ring_used: u64,
        /// Packets in these.
        ring_packets: u64,
    }
}

record! {
    /// The other end of a connection, as it was a moment later.
    Peer {
        /// Its inode; 0 where nobody has it open.
        peer_inode: u64,
        /// Its state.
        peer_state: SkState,
        /// Its shut directions.
        peer_shutdown: Shutdown,
        /// Bytes that wait to be read there (TCP, unix streams).
        peer_rx_bytes: u64,
        /// sk_buffs in its receive queue.
        peer_rx_packets: u64,
    }
}

record! {
    /// What a TCP socket says beyond others.
    Tcp {
        /// How far its own FIN is.
        fin: Fin,
        /// The peer's FIN has come.
        fin_received: bool,
        /// Bytes written that were never sent.
        unsent: u64,
        /// Bytes sent that were not acknowledged.
        unacked: u64,
        /// Bytes that the peer has room for (`snd_wnd`), from the first unacknowledged.
        window: u64,
        /// Packets that may be on their way (`snd_cwnd`).
        cwnd: u64,
        /// Packets that are.
        in_flight: u64,
        /// A listener: handshakes under way.
        requests: u64,
        /// Retransmissions of what the timer waits for.
        retransmits: u64,
        /// Probes of a closed window, or of a silent peer, that had no answer.
        probes: u64,
        /// Doublings of the timer.
        backoff: u64,
        /// What the timer that sends something will do.
        timer: TcpTimer,
        /// Milliseconds until then.
        timer_ms: Timer,
        /// Milliseconds until a delayed acknowledgement goes.
        ack_ms: Timer,
        /// Milliseconds until the keepalive timer fires.
        keepalive_ms: Timer,
        /// Milliseconds that FIN_WAIT2 lasts once nobody has the socket; off: it is reset at once.
        fin_timeout_ms: Timer,
        /// Milliseconds since the peer's last packet with an acknowledgement; off: there was none.
        silent_ms: Timer,
    }
}

record! {
    /// A connection that waits for accept().
    Waiting {
        /// The listener's descriptor.
        fd: u32,
        /// Place in the queue, from 0.
        pos: u64,
        /// The socket that accept() will give.
        id: Id,
        /// Its state.
        sk_state: SkState,
        /// Its shut directions.
        shutdown: Shutdown,
        /// The peer's address; empty for unix.
        remote: Text,
        /// unix: the peer's inode; 0 where nobody has it open.
        peer_inode: u64,
        /// Bytes that wait to be read already.
        rx_bytes: u64,
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
        /// Connections that wait for accept().
        waiting: u64,
        /// Of the sockets, the busy ones.
        busy: u64,
        /// Records that a bound left out.
        cut: u64,
    }
}

impl SocketsReport {
    /// Parses a whole report; see [`Error`] for what a text may be instead.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let (header, mut body) = Body::open(text, &ReportName::Sockets)?;
        let mut sockets: Vec<Socket> = Vec::new();
        while let Some(line) = body.next()? {
            match line.kind {
                "socket" => sockets.push(Socket::parse(line)?),
                "waiting" => {
                    let waiting = Waiting::from_line(line)?;
                    sockets
                        .last_mut()
                        .filter(|socket| socket.fd == waiting.fd)
                        .ok_or_else(|| line.error("a `waiting` not under its `socket`"))?
                        .waiting
                        .push(waiting);
                }
                _ => {}
            }
        }
        let last = body.summary()?;
        let summary = SocketsSummary::from_line(&last)?;
        let cut = summary.cut;
        let busy = sockets.iter().filter(|socket| socket.busy).count();
        check(&last, "sockets", summary.sockets, sockets.len(), cut)?;
        check(&last, "busy", summary.busy, busy, cut)?;
        let waiting = sockets.iter().map(|socket| socket.waiting.len()).sum();
        check(&last, "waiting", summary.waiting, waiting, cut)?;
        Ok(Self {
            header,
            sockets,
            summary,
        })
    }

    /// Parses several reports that stand one behind the other, such as those of all processes.
    pub fn parse_all(text: &[u8]) -> Result<Vec<Self>, Error> {
        split(text)?.into_iter().map(Self::parse).collect()
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
            let mut detail = SocketDetail::from_line(line)?;
            if !detail.peer.is_none() {
                detail.other = Some(Peer::from_line(line)?);
            }
            if line.value("rcvbuf").is_some() {
                detail.memory = Some(SocketMemory::from_line(line)?);
            }
            if line.value("psock_bytes").is_some() {
                detail.sockmap = Some(Sockmap::from_line(line)?);
            }
            if line.value("fin").is_some() {
                detail.tcp = Some(Tcp::from_line(line)?);
            }
            if line.value("ring").is_some() {
                detail.ring = Some(PacketRing::from_line(line)?);
            }
            socket.detail = Some(detail);
        }
        Ok(socket)
    }
}
