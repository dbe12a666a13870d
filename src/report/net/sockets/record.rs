// SPDX-License-Identifier: GPL-2.0

//! The records `socket` and `waiting`.

#![deny(unsafe_code)]

use super::{
    words::{address, is_inet, shutdown},
    Seen,
};
use crate::{
    object::net::{
        accept::Waiting,
        af_packet::Packet,
        inet::Addresses,
        socket::{Common, SockFlags},
        state::{Own, Peer, State},
        tcp::{Fin, Tcp},
        unix::{Unix, UnixName},
        vsock::VsockAddress,
    },
    records::{
        sockets::{
            self, Detail, Family, Protocol, RingVersion, SkState, SocketFlags, SocketState,
            SocketType, TcpTimer,
        },
        Address, OrOff, Str,
    },
    report::text::Text,
};
use kernel::prelude::*;

fn vsock(address: &Option<VsockAddress>) -> Address {
    address.map_or_else(Address::default, |VsockAddress { cid, port }| {
        Address::vsock(cid, port)
    })
}

/// What a packet socket is bound to.
fn bound(packet: &Packet) -> Address {
    match (packet.protocol, packet.device) {
        (0, 0) => Address::default(),
        (protocol, device) => Address::packet(protocol, device),
    }
}

/// Both addresses, except of a unix socket.
fn names(own: &Own) -> (Address, Address) {
    let inet = |addresses: &Addresses| {
        let Addresses {
            family,
            local,
            remote,
        } = addresses;
        let remote = remote.map_or_else(Address::default, |remote| {
            address(*family, &remote.bytes, Some(remote.port))
        });
        (address(*family, &local.bytes, Some(local.port)), remote)
    };
    match own {
        Own::Tcp(tcp) => inet(&tcp.addresses),
        Own::Inet(addresses) => inet(addresses),
        Own::Netlink(netlink) => (
            Address::netlink(netlink.port),
            Address::netlink(netlink.peer),
        ),
        Own::Packet(packet) => (bound(packet), Address::default()),
        Own::Vsock(own) => (vsock(&own.local), vsock(&own.remote)),
        Own::Unix(_) | Own::Other => Default::default(),
    }
}

fn flags(common: &Common, own: &Own) -> SocketFlags {
    const FLAGS: [(u32, u64); 5] = [
        (SockFlags::DEAD, SocketFlags::DEAD),
        (SockFlags::DONE, SocketFlags::DONE),
        (SockFlags::URGINLINE, SocketFlags::URGINLINE),
        (SockFlags::LINGER, SocketFlags::LINGER),
        (SockFlags::KEEPALIVE, SocketFlags::KEEPALIVE),
    ];
    let mut all = 0;
    for (flag, bit) in FLAGS {
        if common.flags.has(flag) {
            all |= bit;
        }
    }
    // Repair mode is TCP's own.
    if matches!(own, Own::Tcp(tcp) if tcp.repair) {
        all |= SocketFlags::REPAIR;
    }
    SocketFlags::new(all)
}

/// Fills in what a TCP socket has beyond others.
fn fill_tcp(to: &mut sockets::Tcp, common: &Common, tcp: &Tcp) {
    to.fin = match tcp.fin {
        Fin::None => sockets::Fin::NONE,
        Fin::Queued => sockets::Fin::QUEUED,
        Fin::Sent => sockets::Fin::SENT,
        Fin::Acked => sockets::Fin::ACKED,
        Fin::Failed => sockets::Fin::FAILED,
        Fin::Unknown => sockets::Fin::UNKNOWN,
    };
    to.fin_received = common.flags.has(SockFlags::DONE).into();
    to.unsent = tcp.unsent.into();
    to.unacked = tcp.unacked.into();
    to.window = tcp.window.into();
    to.cwnd = tcp.cwnd.into();
    to.in_flight = tcp.in_flight.into();
    to.requests = tcp.requests.into();
    to.retransmits = tcp.retransmits.into();
    to.probes = tcp.probes.into();
    to.backoff = tcp.backoff.into();
    to.timer = match tcp.timer {
        // include/net/inet_connection_sock.h
        timer @ (0 | 1 | 3 | 5 | 6) => TcpTimer::new(timer.into()),
        _ => TcpTimer::OTHER,
    };
    to.timer_ms = tcp.timer_ms.into();
    to.ack_ms = tcp.ack_ms.into();
    to.keepalive_ms = tcp.keepalive_ms.into();
    to.fin_timeout_ms = tcp.fin_timeout_ms.into();
    to.silent_ms = tcp.silent_ms.into();
}

fn fill_peer(to: &mut sockets::Peer, peer: &Peer) {
    to.peer_inode = peer.inode.into();
    to.peer_state = SkState::new(peer.state.into());
    to.peer_shutdown = shutdown(peer.shutdown);
    to.peer_rx_bytes = peer.rx_bytes.into();
    to.peer_rx_packets = peer.rx_packets.into();
}

/// Fills in what was read under the lock.
#[inline(never)]
fn fill(to: &mut Detail, state: &State) {
    let State {
        common,
        queued,
        peer,
        own,
    } = state;
    to.socket_state = SocketState::new(common.socket_state.into());
    to.sk_state = SkState::new(common.state.into());
    to.shutdown = shutdown(common.shutdown);
    to.flags = flags(common, own);
    (to.local, to.remote) = names(own);
    to.linger = match common.flags.has(SockFlags::LINGER) {
        true => common.linger.into(),
        false => OrOff::new(-1),
    };
    to.err = common.err.into();
    to.soft_err = common.soft_err.into();
    to.rx_bytes = queued.rx_bytes.into();
    to.rx_packets = queued.rx_packets.into();
    to.unread = queued.unread.into();
    to.tx_bytes = queued.tx_bytes.into();
    to.tx_packets = queued.tx_packets.into();
    to.wmem = common.wmem.into();
    to.sndbuf = common.sndbuf.into();
    to.rmem = common.rmem.into();
    to.rcvbuf = common.rcvbuf.into();
    to.drops = common.drops.into();
    to.inq = queued.inq.into();
    to.outq = queued.outq.into();
    to.backlog = common.backlog.into();
    match peer {
        Some(peer) => {
            to.peer = peer.id.into();
            fill_peer(to.other.there(), peer);
        }
        None => {
            to.peer = Default::default();
            to.other.clear();
        }
    }
    to.psock_bytes = common.psock.map(|psock| psock.bytes.into()).into();
    match own {
        Own::Tcp(tcp) => fill_tcp(to.tcp.there(), common, tcp),
        _ => to.tcp.clear(),
    }
    match own {
        Own::Packet(Packet {
            ring: Some(ring), ..
        }) => {
            let to = to.packet_ring.there();
            to.ring = RingVersion::new(ring.version.into());
            to.ring_frames = ring.frames.into();
            to.ring_used = ring.used.into();
            to.ring_packets = ring.packets.into();
        }
        _ => to.packet_ring.clear(),
    }
}

/// Writes the record of a unix socket, whose names are its strings.
#[inline(never)]
fn put_unix(record: &mut sockets::Socket, unix: &Unix, text: &mut Text) -> Result {
    let printable = |name: &UnixName| {
        let mut name = *name;
        name.make_printable();
        name
    };
    let (local, remote) = (printable(&unix.local), printable(&unix.remote));
    let (local, remote) = (local.bytes(), remote.bytes());
    let detail = record.detail.there();
    detail.local = Address::path(Str::at(0, local.len()));
    detail.remote = Address::path(Str::at(local.len(), remote.len()));
    text.put(record, &[local, remote])
}

impl Seen {
    /// Writes its record, in a place that is used for one after another.
    // Not in the frame of the caller: a kernel stack is small.
    #[inline(never)]
    pub(super) fn write(&self, record: &mut sockets::Socket, text: &mut Text) -> Result {
        let ident = &self.ident;
        record.fd = self.fd.into();
        record.id = self.id.into();
        record.inode = self.inode.into();
        record.netns = ident.netns.into();
        record.family = Family::new(ident.family.into());
        record.r#type = SocketType::new(ident.type_.into());
        record.protocol = Protocol::of(is_inet(ident.family), ident.protocol);
        record.file_refs = self.references.into();
        record.nonblock = self.nonblocking.into();
        record.busy = self.state.is_none().into();
        match &self.state {
            Some(state) => fill(record.detail.there(), state),
            None => record.detail.clear(),
        }
        match &self.state {
            Some(State {
                own: Own::Unix(unix),
                ..
            }) => put_unix(record, unix, text),
            _ => text.put(record, &[]),
        }
    }
}

/// Writes a connection that waits for accept() at a listener's descriptor.
pub(super) fn write_waiting(text: &mut Text, fd: u32, pos: usize, waiting: &Waiting) -> Result {
    let remote = &waiting.remote;
    let record = sockets::Waiting {
        fd: fd.into(),
        pos: pos.into(),
        id: waiting.id.into(),
        sk_state: SkState::new(waiting.state.into()),
        shutdown: shutdown(waiting.shutdown),
        remote: match remote.port {
            0 => Address::default(),
            port => address(waiting.family, &remote.bytes, Some(port)),
        },
        peer_inode: waiting.peer_inode.into(),
        rx_bytes: waiting.rx_bytes.into(),
    };
    text.put(&record, &[])
}
