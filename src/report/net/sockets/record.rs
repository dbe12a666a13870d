// SPDX-License-Identifier: GPL-2.0

//! The records `socket` and `waiting`.

#![deny(unsafe_code)]

use super::{
    words::{display, write_family, write_inet, write_protocol, write_shutdown, write_sk_state},
    Seen,
};
use crate::{
    object::net::{
        accept::Waiting,
        af_packet::{Packet, Ring},
        inet::Addresses,
        socket::{Common, SockFlags},
        state::{Own, Peer, State},
        tcp::{Fin, Tcp},
        unix::UnixName,
        vsock::VsockAddress,
    },
    report::text::{Line, Text},
};
use kernel::prelude::*;

/// Writes the type of a socket (`SOCK_STREAM` and the like).
fn write_type(line: Line<'_>, type_: u16) -> Line<'_> {
    const NAMES: [&str; 6] = ["stream", "dgram", "raw", "rdm", "seqpacket", "dccp"];
    match type_ {
        n @ 1..=6 => line.word("type", NAMES[usize::from(n) - 1].as_bytes()),
        10 => line.word("type", b"packet"),
        n => line.numbered("type", "type_", n.into()),
    }
}

fn write_socket_state(line: Line<'_>, state: u32) -> Line<'_> {
    // include/uapi/linux/net.h
    const NAMES: [&str; 5] = [
        "free",
        "unconnected",
        "connecting",
        "connected",
        "disconnecting",
    ];
    match NAMES.get(state as usize) {
        Some(name) => line.word("socket_state", name.as_bytes()),
        None => line.numbered("socket_state", "state_", state.into()),
    }
}

/// Writes the milliseconds until a timer fires; `off` where it is not set.
fn write_timer<'t>(line: Line<'t>, key: &'static str, ms: Option<i64>) -> Line<'t> {
    match ms.and_then(|ms| u64::try_from(ms).ok()) {
        Some(ms) => line.number(key, ms),
        None => line.word(key, b"off"),
    }
}

/// Writes a unix path, with `@` for the 0 byte of an abstract name.
fn write_unix<'t>(line: Line<'t>, key: &'static str, name: &UnixName) -> Line<'t> {
    let bytes = name.bytes();
    if bytes.first() != Some(&0) {
        return line.string(key, bytes);
    }
    let mut abstract_name = *name;
    abstract_name.make_printable();
    line.string(key, abstract_name.bytes())
}

/// Writes netlink's port; empty for none.
fn write_port<'t>(line: Line<'t>, key: &'static str, port: u32) -> Line<'t> {
    if port == 0 {
        return line.string(key, b"");
    }
    line.string(key, display(port, &mut [0; 64]))
}

fn write_vsock<'t>(line: Line<'t>, key: &'static str, address: &Option<VsockAddress>) -> Line<'t> {
    let mut text = [0; 64];
    line.string(
        key,
        match address {
            None => b"",
            Some(VsockAddress { cid: None, port }) => display(format_args!("*:{port}"), &mut text),
            Some(VsockAddress {
                cid: Some(cid),
                port,
            }) => display(format_args!("{cid}:{port}"), &mut text),
        },
    )
}

/// Writes what a packet socket is bound to.
fn write_packet<'t>(line: Line<'t>, packet: &Packet) -> Line<'t> {
    let Packet {
        protocol, device, ..
    } = packet;
    let mut text = [0; 64];
    let bound: &[u8] = if *protocol == 0 && *device == 0 {
        b""
    } else {
        display(format_args!("{protocol:#06x}:{device}"), &mut text)
    };
    line.string("local", bound).string("remote", b"")
}

fn write_addresses<'t>(line: Line<'t>, addresses: &Addresses) -> Line<'t> {
    let Addresses {
        family,
        local,
        remote,
    } = addresses;
    let line = write_inet(line, "local", *family, &local.bytes, local.port);
    match remote {
        Some(remote) => write_inet(line, "remote", *family, &remote.bytes, remote.port),
        None => line.string("remote", b""),
    }
}

/// Writes the addresses, of whatever family.
fn write_names<'t>(line: Line<'t>, own: &Own) -> Line<'t> {
    match own {
        Own::Tcp(tcp) => write_addresses(line, &tcp.addresses),
        Own::Inet(addresses) => write_addresses(line, addresses),
        Own::Unix(unix) => {
            let line = write_unix(line, "local", &unix.local);
            write_unix(line, "remote", &unix.remote)
        }
        Own::Netlink(netlink) => {
            let line = write_port(line, "local", netlink.port);
            write_port(line, "remote", netlink.peer)
        }
        Own::Packet(packet) => write_packet(line, packet),
        Own::Vsock(vsock) => {
            let line = write_vsock(line, "local", &vsock.local);
            write_vsock(line, "remote", &vsock.remote)
        }
        Own::Other => line.string("local", b"").string("remote", b""),
    }
}

/// The flags' names. Repair mode is TCP's own.
const FLAGS: [(Option<u32>, &[u8]); 6] = [
    (Some(SockFlags::DEAD), b"dead"),
    (Some(SockFlags::DONE), b"done"),
    (Some(SockFlags::URGINLINE), b"urginline"),
    (Some(SockFlags::LINGER), b"linger"),
    (Some(SockFlags::KEEPALIVE), b"keepalive"),
    (None, b"repair"),
];

fn write_flags<'t>(line: Line<'t>, common: &Common, own: &Own) -> Line<'t> {
    let is_repaired = matches!(own, Own::Tcp(tcp) if tcp.repair);
    line.words(
        "flags",
        FLAGS.into_iter().filter_map(|(flag, name)| match flag {
            Some(flag) => common.flags.has(flag).then_some(name),
            None => is_repaired.then_some(name),
        }),
    )
}

fn write_peer<'t>(line: Line<'t>, peer: &Peer) -> Line<'t> {
    let line = line.number("peer_inode", peer.inode);
    let line = write_sk_state(line, "peer_state", peer.state);
    write_shutdown(line, "peer_shutdown", peer.shutdown)
        .number("peer_rx_bytes", peer.rx_bytes.into())
        .number("peer_rx_packets", peer.rx_packets.into())
}

/// Writes what a TCP socket has beyond others.
fn write_tcp<'t>(line: Line<'t>, common: &Common, tcp: &Tcp) -> Line<'t> {
    // include/net/inet_connection_sock.h
    let timer: &[u8] = match tcp.timer {
        0 => b"none",
        1 => b"retransmit",
        3 => b"probe",
        5 => b"loss_probe",
        6 => b"reorder",
        _ => b"other",
    };
    let fin: &[u8] = match tcp.fin {
        Fin::None => b"none",
        Fin::Queued => b"queued",
        Fin::Sent => b"sent",
        Fin::Acked => b"acked",
        Fin::Failed => b"failed",
        Fin::Unknown => b"unknown",
    };
    let line = line
        .word("fin", fin)
        .flag("fin_received", common.flags.has(SockFlags::DONE))
        .number("unsent", tcp.unsent.into())
        .number("unacked", tcp.unacked.into())
        .number("window", tcp.window.into())
        .number("cwnd", tcp.cwnd.into())
        .number("in_flight", tcp.in_flight.into())
        .number("requests", tcp.requests.into())
        .number("retransmits", tcp.retransmits.into())
        .number("probes", tcp.probes.into())
        .number("backoff", tcp.backoff.into())
        .word("timer", timer);
    let line = write_timer(line, "timer_ms", tcp.timer_ms);
    let line = write_timer(line, "ack_ms", tcp.ack_ms);
    let line = write_timer(line, "keepalive_ms", tcp.keepalive_ms);
    let line = write_timer(line, "fin_timeout_ms", tcp.fin_timeout_ms);
    write_timer(line, "silent_ms", tcp.silent_ms)
}

fn write_ring<'t>(line: Line<'t>, ring: &Ring) -> Line<'t> {
    let version: &[u8] = match ring.version {
        1 => b"v1",
        2 => b"v2",
        _ => b"v3",
    };
    line.word("ring", version)
        .number("ring_frames", ring.frames.into())
        .number("ring_used", ring.used.into())
        .number("ring_packets", ring.packets.into())
}

impl State {
    fn write<'t>(&self, mut line: Line<'t>) -> Line<'t> {
        let Self {
            common,
            queued,
            peer,
            own,
        } = self;
        line = write_socket_state(line, common.socket_state);
        line = write_sk_state(line, "sk_state", common.state);
        line = write_shutdown(line, "shutdown", common.shutdown);
        line = write_flags(line, common, own);
        line = write_names(line, own);
        line = if common.flags.has(SockFlags::LINGER) {
            line.number("linger", common.linger)
        } else {
            line.word("linger", b"off")
        };
        line = line
            .number("err", common.err.into())
            .number("soft_err", common.soft_err.into())
            .number("rx_bytes", queued.rx_bytes.into())
            .number("rx_packets", queued.rx_packets.into())
            .flag("unread", queued.unread)
            .number("tx_bytes", queued.tx_bytes.into())
            .number("tx_packets", queued.tx_packets.into())
            .number("wmem", common.wmem.into())
            .number("sndbuf", common.sndbuf.into())
            .number("rmem", common.rmem.into())
            .number("rcvbuf", common.rcvbuf.into())
            .number("drops", common.drops.into())
            .signed("inq", queued.inq)
            .signed("outq", queued.outq)
            .number("backlog", common.backlog.into());
        line = match peer {
            Some(peer) => write_peer(line.id("peer", peer.id), peer),
            None => line.id("peer", Default::default()),
        };
        if let Some(psock) = &common.psock {
            line = line.number("psock_bytes", psock.bytes.into());
        }
        match own {
            Own::Tcp(tcp) => write_tcp(line, common, tcp),
            Own::Packet(Packet {
                ring: Some(ring), ..
            }) => write_ring(line, ring),
            _ => line,
        }
    }
}

impl Seen {
    // Not in the frame of the caller: a kernel stack is small.
    #[inline(never)]
    pub(super) fn write(&self, text: &mut Text) -> Result {
        let ident = &self.ident;
        let mut line = text
            .record("socket")
            .number("fd", self.fd.into())
            .id("id", self.id)
            .number("inode", self.inode as u64)
            .number("netns", ident.netns.into());
        line = write_family(line, ident.family);
        line = write_type(line, ident.type_);
        line = write_protocol(line, "protocol", ident.family, ident.protocol);
        line = line
            .number("file_refs", self.references as u64)
            .flag("nonblock", self.nonblocking)
            .flag("busy", self.state.is_none());
        match &self.state {
            Some(state) => state.write(line).end(),
            None => line.end(),
        }
    }
}

/// Writes a connection that waits for accept() at a listener's descriptor.
pub(super) fn write_waiting(text: &mut Text, fd: u32, pos: usize, waiting: &Waiting) -> Result {
    let line = text
        .record("waiting")
        .number("fd", fd.into())
        .number("pos", pos as u64)
        .id("id", waiting.id);
    let line = write_sk_state(line, "sk_state", waiting.state);
    let line = write_shutdown(line, "shutdown", waiting.shutdown);
    let remote = &waiting.remote;
    let line = if remote.port != 0 {
        write_inet(line, "remote", waiting.family, &remote.bytes, remote.port)
    } else {
        line.string("remote", b"")
    };
    line.number("peer_inode", waiting.peer_inode)
        .number("rx_bytes", waiting.rx_bytes.into())
        .end()
}
