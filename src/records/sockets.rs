// SPDX-License-Identifier: GPL-2.0

//! Records of the report `sockets`, which `skbs` and `waiters` have as well.

use super::common::ReportName;
use super::{Address, Flag, Id, Maybe, Number, OrOff, Signed};

record! {
    /// A descriptor that is a socket.
    Socket = 50 "socket" {
        /// The descriptor.
        fd: Number,
        /// The socket (`struct sock`).
        id: Id,
        /// Its inode, as in /proc/PID/fd and `ss -e`.
        inode: Number,
        /// The inode of its network namespace.
        netns: Number,
        /// Its address family.
        family: Family,
        /// Its type.
        r#type: SocketType,
        /// Its protocol.
        protocol: Protocol,
        /// References to the open file (descriptors of all processes, and others), without the one
        /// of ravel.
        file_refs: Number,
        /// `O_NONBLOCK` is set on the open file.
        nonblock: Flag,
        /// A process held the socket lock for as long as ravel waits (100 ms): the record has no
        /// further keys.
        busy: Flag,
        /// What the lock of the socket protects.
        detail: Maybe<Detail>,
    }

    /// A connection that is not accepted, of the `socket` before it.
    Waiting = 51 "waiting" {
        /// The descriptor of the listener.
        fd: Number,
        /// Its position in the queue, from 0.
        pos: Number,
        /// The socket that accept() will return.
        id: Id,
        /// Its state, as in `socket`.
        sk_state: SkState,
        /// Its shut directions, as in `socket`.
        shutdown: Shutdown,
        /// The address of the peer; empty for unix.
        remote: Address,
        /// unix: the inode of the socket that connected; 0 if it no longer exists.
        peer_inode: Number,
        /// Bytes that the peer has sent already.
        rx_bytes: Number [bytes],
    }

    /// The counts of the report `sockets`.
    SocketsSummary = 52 "summary" {
        /// `sockets`.
        report: ReportName,
        /// Descriptors that were examined.
        fds: Number,
        /// `socket` records.
        sockets: Number,
        /// Connections that are not accepted.
        waiting: Number,
        /// Of `sockets`, those that are busy.
        busy: Number,
        /// sk_buffs that `rx_bytes` does not include (those after the first 16384 of a queue, and
        /// likewise frames of a ring), omitted `waiting` records, and listeners whose connections
        /// could not be read because a process held the socket lock.
        cut: Number,
    }
}

part! {
    /// What the lock of a socket protects.
    Detail {
        /// `socket->state`.
        socket_state: SocketState,
        /// `sk_state`, with the names of TCP, which other families also use.
        sk_state: SkState,
        /// `sk_shutdown`.
        shutdown: Shutdown,
        /// `sk_flags`.
        flags: SocketFlags,
        /// `ADDRESS:PORT`, `[ADDRESS]:PORT`, a unix path (an abstract one begins with `@`), the
        /// port of netlink, `CID:PORT` of vsock (`*` for any), `0xETHERTYPE:IFINDEX` to which a
        /// packet socket is bound, or empty.
        local: Address,
        /// The address of the peer, likewise.
        remote: Address,
        /// The time of SO_LINGER, or `off`.
        linger: OrOff [s],
        /// `sk_err`: an errno value, 0 for none.
        err: Number,
        /// `sk_err_soft`: an errno value, 0 for none.
        soft_err: Number,
        /// Payload received and not yet read; a listener: 0. TCP: also in SYN_RECV, if Fast Open
        /// delivered bytes with the SYN. Data in a sockmap or in a ring is not included.
        rx_bytes: Number [bytes],
        /// sk_buffs received and not yet read; a listener: the connections not yet accepted.
        rx_packets: Number,
        /// close() would discard unread data and notify the peer (TCP, unix stream and seqpacket).
        unread: Flag,
        /// TCP: bytes written and not yet acknowledged; SYN and FIN are not counted. Others: 0,
        /// since the data that they send is queued at the receiver or the device.
        tx_bytes: Number [bytes],
        /// TCP: sk_buffs not yet sent, and packets sent and not acknowledged (`packets_out`; one
        /// sk_buff may hold several; a FIN counts, a SYN does not). Others: 0.
        tx_packets: Number,
        /// Memory of data that this socket sent and that is not yet freed (`sk_wmem_alloc`).
        wmem: Number [bytes],
        /// The limit of `wmem` (`sk_sndbuf`), as SO_SNDBUF returns it.
        sndbuf: Number [bytes],
        /// Memory of data that this socket received and that is not yet freed (`sk_rmem_alloc`).
        rmem: Number [bytes],
        /// The limit of `rmem` (`sk_rcvbuf`), as SO_RCVBUF returns it.
        rcvbuf: Number [bytes],
        /// Packets that this socket dropped, mostly because `rmem` had reached `rcvbuf`; a TCP
        /// listener: among others, connections and requests that found its accept queue full. It is
        /// the count of `ss -m` (`d`), modulo 2^32; for an MPTCP listener, that of its first
        /// subflow is added.
        drops: Number,
        /// The result of ioctl SIOCINQ: TCP and unix streams: unread bytes (TCP in a handshake: 0;
        /// in a sockmap: including `psock_bytes`, or only those if a program decides about all
        /// received data); UDP, raw, packet and unix datagrams: bytes of the next one; -1 if the
        /// ioctl would fail, and if ravel cannot determine it (MPTCP, SCTP, vsock and others; UDP
        /// in a sockmap).
        inq: Signed [bytes],
        /// The result of ioctl SIOCOUTQ, or -1, likewise.
        outq: Signed [bytes],
        /// A listener: the limit of its accept queue (`sk_max_ack_backlog`), which can hold one
        /// connection more; otherwise 0.
        backlog: Number,
        /// The other end: the peer of a unix socket, or the socket at the other end of a TCP
        /// connection if it is in the same network namespace; zero if there is none.
        peer: Id,
        /// The other end, if there is one.
        other: Maybe<Peer>,
        /// Present if the socket is in a sockmap: bytes that were redirected to it and not read.
        psock_bytes: Maybe<Number> [bytes],
        /// What only TCP has.
        tcp: Maybe<Tcp>,
        /// The receive ring of a packet socket, if it has one.
        packet_ring: Maybe<Ring>,
    }

    /// The other end of a connection, read afterwards and without its lock.
    Peer {
        /// Its inode; 0 if no process has it open: not yet accepted, or closed.
        peer_inode: Number,
        /// Its `sk_state`.
        peer_state: SkState,
        /// Its `sk_shutdown`.
        peer_shutdown: Shutdown,
        /// Bytes that it received and has not yet read (TCP, unix streams).
        peer_rx_bytes: Number [bytes],
        /// sk_buffs that it received and has not yet read.
        peer_rx_packets: Number,
    }

    /// What only TCP has.
    Tcp {
        /// The FIN of this side.
        fin: Fin,
        /// The FIN of the peer was processed.
        fin_received: Flag,
        /// Bytes written and never sent; without SYN and FIN.
        unsent: Number [bytes],
        /// Bytes sent and not acknowledged; without SYN and FIN.
        unacked: Number [bytes],
        /// Bytes that the peer accepts, from the first unacknowledged one (`snd_wnd`).
        window: Number [bytes],
        /// The congestion window.
        cwnd: Number [packets],
        /// The packets in flight.
        in_flight: Number [packets],
        /// A listener: handshakes in progress.
        requests: Number,
        /// Retransmissions.
        retransmits: Number,
        /// Unanswered probes.
        probes: Number,
        /// Doublings of the timer.
        backoff: Number,
        /// The action of the retransmit timer.
        timer: TcpTimer,
        /// The time until `timer` expires, or `off`.
        timer_ms: OrOff [ms],
        /// The time until the delayed acknowledgement timer expires, or `off`.
        ack_ms: OrOff [ms],
        /// The time until the keepalive timer expires, or `off`.
        keepalive_ms: OrOff [ms],
        /// The duration of FIN_WAIT2 after the last close(); `off`: it is reset at once
        /// (TCP_LINGER2 below 0).
        fin_timeout_ms: OrOff [ms],
        /// The time since the last packet of the peer with an acknowledgement, including a FIN
        /// (`tcpi_last_ack_recv`), or since connect() if there was none; `off`: a listener, and a
        /// socket that was never connected.
        silent_ms: OrOff [ms],
    }

    /// The receive ring of a packet socket (PACKET_RX_RING). It is read from memory that the
    /// program can write to.
    Ring {
        /// Its version.
        ring: RingVersion,
        /// Its frames; of `v3` its blocks.
        ring_frames: Number,
        /// Of `ring_frames`, those that the program has not returned.
        ring_used: Number,
        /// The packets in these.
        ring_packets: Number,
    }
}

enumeration! {
    /// A socket's address family.
    Family else "af_" {
        UNIX = 1 "unix",
        INET = 2 "inet",
        INET6 = 10 "inet6",
        NETLINK = 16 "netlink",
        PACKET = 17 "packet",
        ALG = 38 "alg",
        VSOCK = 40 "vsock",
        XDP = 44 "xdp",
    }

    /// A socket's type.
    SocketType else "type_" {
        STREAM = 1 "stream",
        DGRAM = 2 "dgram",
        RAW = 3 "raw",
        RDM = 4 "rdm",
        SEQPACKET = 5 "seqpacket",
        DCCP = 6 "dccp",
        PACKET = 10 "packet",
    }

    /// A socket's protocol, or what IP carries; a number for families that are not inet.
    Protocol else "" {
        ICMP = 1 "icmp",
        TCP = 6 "tcp",
        UDP = 17 "udp",
        ICMPV6 = 58 "icmpv6",
        SCTP = 132 "sctp",
        UDPLITE = 136 "udplite",
        RAW = 255 "raw",
        MPTCP = 262 "mptcp",
        /// There is no IP header.
        NONE = 0x2_0000_0000 "none",
    }

    /// `socket->state`.
    SocketState else "state_" {
        FREE = 0 "free",
        UNCONNECTED = 1 "unconnected",
        CONNECTING = 2 "connecting",
        CONNECTED = 3 "connected",
        DISCONNECTING = 4 "disconnecting",
    }

    /// `sk_state`.
    SkState else "state_" {
        ESTABLISHED = 1 "ESTABLISHED",
        SYN_SENT = 2 "SYN_SENT",
        SYN_RECV = 3 "SYN_RECV",
        FIN_WAIT1 = 4 "FIN_WAIT1",
        FIN_WAIT2 = 5 "FIN_WAIT2",
        TIME_WAIT = 6 "TIME_WAIT",
        CLOSE = 7 "CLOSE",
        CLOSE_WAIT = 8 "CLOSE_WAIT",
        LAST_ACK = 9 "LAST_ACK",
        LISTEN = 10 "LISTEN",
        CLOSING = 11 "CLOSING",
        NEW_SYN_RECV = 12 "NEW_SYN_RECV",
        BOUND_INACTIVE = 13 "BOUND_INACTIVE",
        /// There is no socket.
        NONE = 0x1_0000_0000 "none",
    }

    /// Directions.
    Shutdown else "shutdown_" {
        NONE = 0 "none",
        RD = 1 "RD",
        WR = 2 "WR",
        RDWR = 3 "RDWR",
    }

    /// The FIN of this side.
    Fin else "fin_" {
        NONE = 0 "none",
        /// It waits behind unsent bytes.
        QUEUED = 1 "queued",
        SENT = 2 "sent",
        ACKED = 3 "acked",
        /// It could not be allocated and is never sent.
        FAILED = 4 "failed",
        /// The connection has ended, and the socket does not record how.
        UNKNOWN = 5 "unknown",
    }

    /// The action of the retransmit timer (`ICSK_TIME_*`).
    TcpTimer else "timer_" {
        NONE = 0 "none",
        RETRANSMIT = 1 "retransmit",
        /// Zero window probe.
        PROBE = 3 "probe",
        LOSS_PROBE = 5 "loss_probe",
        REORDER = 6 "reorder",
        OTHER = 0xff "other",
    }

    /// The version of a receive ring.
    RingVersion else "v" {
        V1 = 1 "v1",
        V2 = 2 "v2",
        V3 = 3 "v3",
    }
}

impl Protocol {
    /// The protocol of a socket or a packet of that family: only those of inet have names.
    pub const fn of(is_inet: bool, number: u16) -> Self {
        match is_inet {
            true => Self::new(number as u64),
            false => Self::new((1 << 32) | number as u64),
        }
    }
}

bits! {
    /// Flags of a socket.
    SocketFlags {
        /// No process has it open any more.
        DEAD = 0x1 "dead",
        /// The FIN of the peer was processed.
        DONE = 0x2 "done",
        URGINLINE = 0x4 "urginline",
        LINGER = 0x8 "linger",
        KEEPALIVE = 0x10 "keepalive",
        /// TCP_REPAIR.
        REPAIR = 0x20 "repair",
    }
}
