// SPDX-License-Identifier: GPL-2.0

//! The records `socket` and `waiting`.

#![deny(unsafe_code)]

use super::{Seen, UnixName};
use crate::{
    bindings,
    object::socket::{SockState, WaitingState},
    report::text::{Line, Text},
};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use kernel::{fmt::Write, prelude::*, str::Formatter};

/// `SOCK_STREAM` and the like.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Type(pub(super) u32);

impl Type {
    pub(super) const STREAM: Self = Self(1);
    pub(super) const RAW: Self = Self(3);
    pub(super) const SEQPACKET: Self = Self(5);

    fn tell<'t>(self, line: Line<'t>) -> Line<'t> {
        const NAMES: [&str; 6] = ["stream", "dgram", "raw", "rdm", "seqpacket", "dccp"];
        match self.0 {
            n @ 1..=6 => line.word("type", NAMES[n as usize - 1].as_bytes()),
            10 => line.word("type", b"packet"),
            n => line.numbered("type", "type_", n.into()),
        }
    }
}

fn tell_family(line: Line<'_>, family: u16) -> Line<'_> {
    let name: &[u8] = match u32::from(family) {
        bindings::AF_UNIX => b"unix",
        bindings::AF_INET => b"inet",
        bindings::AF_INET6 => b"inet6",
        bindings::AF_NETLINK => b"netlink",
        bindings::AF_PACKET => b"packet",
        bindings::AF_ALG => b"alg",
        bindings::AF_VSOCK => b"vsock",
        bindings::AF_XDP => b"xdp",
        n => return line.numbered("family", "af_", n.into()),
    };
    line.word("family", name)
}

fn tell_protocol(line: Line<'_>, family: u16, protocol: u16) -> Line<'_> {
    let family = u32::from(family);
    if family != bindings::AF_INET && family != bindings::AF_INET6 {
        return line.number("protocol", protocol.into());
    }
    let name: &[u8] = match protocol {
        1 => b"icmp",
        6 => b"tcp",
        17 => b"udp",
        58 => b"icmpv6",
        132 => b"sctp",
        136 => b"udplite",
        255 => b"raw",
        262 => b"mptcp",
        n => return line.number("protocol", n.into()),
    };
    line.word("protocol", name)
}

pub(super) fn tell_sk_state<'t>(line: Line<'t>, key: &'static str, state: u8) -> Line<'t> {
    // include/net/tcp_states.h
    const NAMES: [&str; 13] = [
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "CLOSING",
        "NEW_SYN_RECV",
        "BOUND_INACTIVE",
    ];
    match usize::from(state).checked_sub(1).and_then(|i| NAMES.get(i)) {
        Some(name) => line.word(key, name.as_bytes()),
        None => line.numbered(key, "state_", state.into()),
    }
}

fn tell_socket_state(line: Line<'_>, state: u8) -> Line<'_> {
    // include/uapi/linux/net.h
    const NAMES: [&str; 5] = [
        "free",
        "unconnected",
        "connecting",
        "connected",
        "disconnecting",
    ];
    match NAMES.get(usize::from(state)) {
        Some(name) => line.word("socket_state", name.as_bytes()),
        None => line.numbered("socket_state", "state_", state.into()),
    }
}

fn tell_shutdown<'t>(line: Line<'t>, key: &'static str, shutdown: u8) -> Line<'t> {
    line.word(
        key,
        match shutdown {
            0 => b"none",
            1 => b"RD",
            2 => b"WR",
            _ => b"RDWR",
        },
    )
}

/// Milliseconds until a timer fires; `off` where it is not set.
fn tell_timer<'t>(line: Line<'t>, key: &'static str, ms: i64) -> Line<'t> {
    match u64::try_from(ms) {
        Ok(ms) => line.number(key, ms),
        Err(_) => line.word(key, b"off"),
    }
}

/// An address as a string: a unix path with `@` for the 0 byte of an abstract one.
fn tell_unix<'t>(line: Line<'t>, key: &'static str, name: &UnixName) -> Line<'t> {
    let mut path = name.path;
    if name.len > 0 && path[0] == 0 {
        path[0] = b'@';
    }
    line.string(key, &path[..name.len])
}

pub(super) fn tell_inet<'t>(
    line: Line<'t>,
    key: &'static str,
    family: u16,
    address: &[u8; 16],
    port: u16,
) -> Line<'t> {
    let ip: IpAddr = if u32::from(family) == bindings::AF_INET {
        let [a, b, c, d, ..] = *address;
        Ipv4Addr::new(a, b, c, d).into()
    } else {
        Ipv6Addr::from(*address).into()
    };
    let mut text = [0u8; 64];
    let mut to = Formatter::new(&mut text);
    // The longest address with its port has 58 bytes.
    let _ = write!(to, "{}", SocketAddr::new(ip, port));
    let len = to.bytes_written();
    line.string(key, &text[..len])
}

/// The flags' names.
const FLAGS: [(u32, &[u8]); 6] = [
    (bindings::RAVEL_SOCK_DEAD, b"dead"),
    (bindings::RAVEL_SOCK_DONE, b"done"),
    (bindings::RAVEL_SOCK_URGINLINE, b"urginline"),
    (bindings::RAVEL_SOCK_LINGER, b"linger"),
    (bindings::RAVEL_SOCK_KEEPOPEN, b"keepalive"),
    (bindings::RAVEL_SOCK_REPAIR, b"repair"),
];

/// What a TCP socket says beyond others.
fn tell_tcp<'t>(line: Line<'t>, state: &SockState) -> Line<'t> {
    // include/net/inet_connection_sock.h
    let timer: &[u8] = match state.timer {
        0 => b"none",
        1 => b"retransmit",
        3 => b"probe",
        5 => b"loss_probe",
        6 => b"reorder",
        _ => b"other",
    };
    let line = line
        .word(
            "fin",
            match u32::from(state.fin) {
                bindings::RAVEL_FIN_NONE => b"none",
                bindings::RAVEL_FIN_QUEUED => b"queued",
                bindings::RAVEL_FIN_SENT => b"sent",
                bindings::RAVEL_FIN_ACKED => b"acked",
                _ => b"unknown",
            },
        )
        .flag("fin_received", state.fin_received != 0)
        .number("unsent", state.unsent.into())
        .number("unacked", state.unacked.into())
        .number("window", state.window.into())
        .number("cwnd", state.cwnd.into())
        .number("in_flight", state.in_flight.into())
        .number("requests", state.requests.into())
        .number("retransmits", state.retransmits.into())
        .number("probes", state.probes.into())
        .number("backoff", state.backoff.into())
        .word("timer", timer);
    let line = tell_timer(line, "timer_ms", state.timer_ms);
    let line = tell_timer(line, "ack_ms", state.ack_ms);
    let line = tell_timer(line, "keepalive_ms", state.keepalive_ms);
    tell_timer(line, "fin_timeout_ms", state.fin_timeout_ms)
}

impl Seen {
    pub(super) fn tell(&self, text: &mut Text) -> Result {
        let state = &self.state;
        let mut line = text
            .record("socket")
            .number("fd", self.fd.into())
            .id("id", self.id)
            .number("inode", self.inode as u64)
            .number("netns", state.netns);
        line = tell_family(line, state.family);
        line = Type(state.type_.into()).tell(line);
        line = tell_protocol(line, state.family, state.protocol);
        line = line
            .number("file_refs", self.references as u64)
            .flag("nonblock", self.nonblocking)
            .flag("busy", self.busy);
        if self.busy {
            return line.end();
        }
        line = tell_socket_state(line, state.socket_state);
        line = tell_sk_state(line, "sk_state", state.state);
        line = tell_shutdown(line, "shutdown", state.shutdown);
        let flags = u32::from(state.flags);
        line = line.words(
            "flags",
            FLAGS
                .into_iter()
                .filter_map(|(bit, name)| (flags & bit != 0).then_some(name)),
        );
        if state.has_address != 0 {
            line = tell_inet(line, "local", state.family, &state.local, state.local_port);
            line = if state.has_peer != 0 {
                tell_inet(
                    line,
                    "remote",
                    state.family,
                    &state.remote,
                    state.remote_port,
                )
            } else {
                line.string("remote", b"")
            };
        } else {
            line = tell_unix(line, "local", &self.local);
            line = tell_unix(line, "remote", &self.remote);
        }
        line = if flags & bindings::RAVEL_SOCK_LINGER != 0 {
            line.number("linger", state.linger)
        } else {
            line.word("linger", b"off")
        };
        line = line
            .number("err", state.err.into())
            .number("soft_err", state.soft_err.into())
            .number("rx_bytes", state.rx_bytes.into())
            .number("rx_packets", state.rx_packets.into())
            .flag("unread", state.unread != 0)
            .number("tx_bytes", state.tx_bytes.into())
            .number("tx_packets", state.tx_packets.into())
            .number("wmem", state.wmem.into())
            .signed("inq", state.inq)
            .signed("outq", state.outq)
            .number("backlog", state.backlog.into())
            .id("peer", state.peer.id());
        if state.peer.sock != 0 {
            line = line.number("peer_inode", state.peer.inode);
            line = tell_sk_state(line, "peer_state", state.peer.state);
            line = tell_shutdown(line, "peer_shutdown", state.peer.shutdown)
                .number("peer_rx_bytes", state.peer.rx_bytes.into())
                .number("peer_rx_packets", state.peer.rx_packets.into());
        }
        if state.is_tcp != 0 {
            line = tell_tcp(line, state);
        }
        line.end()
    }
}

/// Tells a connection that waits for accept() at a listener's descriptor.
pub(super) fn tell_waiting(text: &mut Text, fd: u32, pos: usize, waiting: &WaitingState) -> Result {
    let line = text
        .record("waiting")
        .number("fd", fd.into())
        .number("pos", pos as u64)
        .id("id", waiting.id());
    let line = tell_sk_state(line, "sk_state", waiting.state);
    let line = tell_shutdown(line, "shutdown", waiting.shutdown);
    let line = if waiting.remote_port != 0 {
        tell_inet(
            line,
            "remote",
            waiting.family,
            &waiting.remote,
            waiting.remote_port,
        )
    } else {
        line.string("remote", b"")
    };
    line.number("peer_inode", waiting.peer_inode)
        .number("rx_bytes", waiting.rx_bytes.into())
        .end()
}
