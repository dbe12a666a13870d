// SPDX-License-Identifier: GPL-2.0

//! The records `socket` and `waiting`.

#![deny(unsafe_code)]

use super::{
    words::{tell_family, tell_inet, tell_protocol, tell_shutdown, tell_sk_state},
    Seen, UnixName,
};
use crate::{
    bindings,
    object::socket::{SockState, WaitingState},
    report::text::{Line, Text},
};
use kernel::prelude::*;

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

/// Milliseconds until a timer fires; `off` where it is not set.
fn tell_timer<'t>(line: Line<'t>, key: &'static str, ms: i64) -> Line<'t> {
    match u64::try_from(ms) {
        Ok(ms) => line.number(key, ms),
        Err(_) => line.word(key, b"off"),
    }
}

/// An address as a string: a unix path with `@` for the 0 byte of an abstract one.
fn tell_unix<'t>(line: Line<'t>, key: &'static str, name: &UnixName) -> Line<'t> {
    let bytes = &name.path[..name.len];
    if bytes.first() != Some(&0) {
        return line.string(key, bytes);
    }
    let mut abstract_name = name.path;
    abstract_name[0] = b'@';
    line.string(key, &abstract_name[..name.len])
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
    let line = tell_timer(line, "fin_timeout_ms", state.fin_timeout_ms);
    tell_timer(line, "silent_ms", state.silent_ms)
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
        line = tell_protocol(line, "protocol", state.family, state.protocol);
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
