// SPDX-License-Identifier: GPL-2.0
//! Report sockets: what only some kinds of sockets have, and memory and drops of all.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use etherparse::PacketBuilder;
use ravel_records::{Fin, PacketRing, Protocol, RingVersion, SkState, SocketDetail, SocketMemory};

use super::peers::{pair, wait_for};
use super::wire::{self, THEM, US, Wire};
use crate::report::{own_socket, socket, sockets};
use crate::sys::{self, Address};
use crate::{check, check_eq, tests};

tests!("sockets":
    mptcp_listener_has_its_subflows_queue,
    fast_open_brings_bytes_before_the_handshake_ends,
    bytes_in_a_sockmap_are_counted,
    packets_in_a_ring_are_counted,
    name_of_an_old_packet_socket_is_what_it_is_bound_to,
    memory_and_drops_are_those_of_meminfo,
    listener_counts_dropped_connections,
);

fn memory(detail: &SocketDetail) -> Result<&SocketMemory> {
    detail.memory.as_ref().context("no memory is reported")
}

fn mptcp_listener_has_its_subflows_queue() -> Result<()> {
    let mptcp = || sys::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP);
    let listener = mptcp()?;
    let (socket, detail) = own_socket(&listener)?;
    check_eq!(socket.protocol, Protocol::from("mptcp"), "protocol");
    check_eq!((detail.backlog, detail.rx_packets), (0, 0), "a fresh one");
    sys::bind(&listener, &Address::loopback(0))?;
    sys::listen(&listener, 5)?;
    let port = sys::port_of(&listener)?;
    let one = mptcp()?;
    sys::connect(&one, &Address::loopback(port))?;
    let two = TcpStream::connect(("127.0.0.1", port))?;
    sys::send(&one, b"ten bytes.", 0)?;
    (&two).write_all(b"seven b")?;
    let find = || -> Result<_> {
        let report = sockets(sys::getpid())?;
        Ok(self::socket(&report, &listener)?.clone())
    };
    wait_for("both connections' bytes", || {
        let bytes = find()?
            .waiting
            .iter()
            .map(|waiting| waiting.rx_bytes)
            .sum::<u64>();
        Ok(bytes == 17)
    })?;
    let found = find()?;
    let detail = found.detail.as_ref().context("busy")?;
    check_eq!(detail.sk_state, SkState::Listen, "sk_state");
    check_eq!(
        (detail.backlog, detail.rx_packets, detail.rx_bytes),
        (5, 2, 0),
        "backlog, rx_packets, rx_bytes"
    );
    let remotes: Vec<_> = found.waiting.iter().map(|w| w.remote.to_string()).collect();
    let own = [sys::port_of(&one)?, two.local_addr()?.port()];
    let want = own.map(|port| format!("127.0.0.1:{port}")).to_vec();
    check_eq!(remotes, want, "who connected");
    let bytes: Vec<_> = found.waiting.iter().map(|w| w.rx_bytes).collect();
    check_eq!(bytes, [10, 7], "bytes of each");
    for waiting in &found.waiting {
        let accepted = sys::accept(&listener)?;
        check_eq!(
            own_socket(&accepted)?.0.id,
            waiting.id,
            "what accept() returns"
        );
    }
    check_eq!(
        own_socket(&listener)?.1.rx_packets,
        0,
        "once they are accepted"
    );
    Ok(())
}

fn fast_open_brings_bytes_before_the_handshake_ends() -> Result<()> {
    wire::in_a_namespace(|| {
        // For servers, and without a cookie.
        fs::write("/proc/sys/net/ipv4/tcp_fastopen", "514")?;
        let wire = Wire::new()?;
        let listener = TcpListener::bind("10.77.0.1:0")?;
        sys::set_option(&listener, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 5)?;
        let mut syn = Vec::new();
        PacketBuilder::ipv4(THEM, US, 64)
            .tcp(4000, listener.local_addr()?.port(), 1, 60_000)
            .syn()
            .write_to_vec(&mut syn, b"ten bytes.")?;
        wire.send(&syn)?;
        wait_for("the connection", || {
            Ok(own_socket(&listener)?.1.rx_packets == 1)
        })?;
        let (found, _) = own_socket(&listener)?;
        let waiting = found.waiting.first().context("nobody waits")?;
        check_eq!(
            (&waiting.sk_state, waiting.rx_bytes),
            (&SkState::SynRecv, 10),
            "state and bytes of the waiting connection"
        );
        let (mut stream, _) = listener.accept()?;
        let (_, detail) = own_socket(&stream)?;
        check_eq!(detail.sk_state, SkState::SynRecv, "sk_state");
        check_eq!(
            (detail.rx_bytes, detail.rx_packets, detail.unread),
            (10, 1, true),
            "rx_bytes, rx_packets, unread"
        );
        check_eq!(detail.inq, i64::from(sys::inq(&stream)?), "inq");
        check_eq!(
            (detail.tx_bytes, detail.tx_packets),
            (0, 0),
            "nothing was written"
        );
        stream.write_all(b"seven b")?;
        let (_, detail) = own_socket(&stream)?;
        check_eq!(
            detail.sk_state,
            SkState::SynRecv,
            "sk_state after an answer"
        );
        let tcp = detail.tcp.as_ref().context("not of TCP")?;
        check_eq!(
            (detail.tx_bytes, tcp.unsent + tcp.unacked),
            (7, 7),
            "tx_bytes, and unsent with unacked"
        );
        check_eq!(detail.outq, i64::from(sys::outq(&stream)?), "outq");
        let mut bytes = [0; 10];
        stream.read_exact(&mut bytes)?;
        check_eq!(&bytes, b"ten bytes.", "what it reads");
        let (_, detail) = own_socket(&stream)?;
        check_eq!(
            (detail.rx_bytes, detail.unread),
            (0, false),
            "once it is read"
        );
        Ok(())
    })
}

fn bytes_in_a_sockmap_are_counted() -> Result<()> {
    let (to, mut to_peer) = pair()?;
    let (mut from, _from_peer) = pair()?;
    check_eq!(own_socket(&to)?.1.sockmap, None, "outside a sockmap");
    let map = sys::Sockmap::new().context("no sockmap")?;
    map.put(0, &to)?;
    map.put(1, &from)?;
    let psock = |fd: &TcpStream| -> Result<(Option<u64>, u64, i64)> {
        let (_, detail) = own_socket(fd)?;
        let bytes = detail.sockmap.as_ref().map(|sockmap| sockmap.psock_bytes);
        check_eq!(detail.inq, i64::from(sys::inq(fd)?), "inq");
        Ok((bytes, detail.rx_bytes, detail.inq))
    };
    check_eq!(psock(&to)?, (Some(0), 0, 0), "psock_bytes, rx_bytes, inq");
    from.write_all(&[1; 100])?;
    check_eq!(psock(&to)?, (Some(100), 0, 100), "what was redirected");
    check_eq!(psock(&from)?, (Some(0), 0, 0), "who sent it");
    to_peer.write_all(&[2; 30])?;
    wait_for("bytes of the peer", || Ok(psock(&to)?.1 == 30))?;
    check_eq!(psock(&to)?, (Some(100), 30, 130), "with bytes of the peer");
    Ok(())
}

/// A packet socket with a ring that receives from the loopback device.
fn ring(version: i32) -> Result<OwnedFd> {
    let fd = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
    sys::set_option(&fd, libc::SOL_PACKET, libc::PACKET_VERSION, version)?;
    sys::set_option(&fd, libc::SOL_PACKET, 23, 1)?;
    // Blocks of two pages, 16 of them, frames of 2 KiB; version 3 hands over a block after 20 ms.
    let request = [8192_u32, 16, 2048, 64, 20, 0, 0];
    let words = if version == libc::tpacket_versions::TPACKET_V3 as i32 {
        7
    } else {
        4
    };
    if words == 7 {
        sys::set_option(&fd, libc::SOL_PACKET, libc::PACKET_RX_RING, request)?;
    } else {
        let request: [u32; 4] = [request[0], request[1], request[2], request[3]];
        sys::set_option(&fd, libc::SOL_PACKET, libc::PACKET_RX_RING, request)?;
    }
    sys::bind(&fd, &Address::packet(0x0800, 1))?;
    Ok(fd)
}

fn packets_in_a_ring_are_counted() -> Result<()> {
    wire::in_a_namespace(|| {
        let plain = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
        check_eq!(own_socket(&plain)?.1.ring, None, "without a ring");
        let to = UdpSocket::bind("127.0.0.1:0")?;
        let from = UdpSocket::bind("127.0.0.1:0")?;
        for (number, version, frames) in [
            (0, RingVersion::V1, 64),
            (1, RingVersion::V2, 64),
            (2, RingVersion::V3, 16),
        ] {
            let fd = ring(number)?;
            let found =
                || -> Result<PacketRing> { own_socket(&fd)?.1.ring.context("no ring is reported") };
            let empty = PacketRing {
                ring: version.clone(),
                ring_frames: frames,
                ring_used: 0,
                ring_packets: 0,
            };
            check_eq!(found()?, empty, "an empty ring");
            for _ in 0..5 {
                from.send_to(b"a packet", to.local_addr()?)?;
            }
            wait_for("five packets", || Ok(found()?.ring_packets == 5))?;
            let ring = found()?;
            match version {
                RingVersion::V3 => check!(ring.ring_used >= 1, "blocks in use: {ring:?}"),
                _ => check_eq!(ring.ring_used, 5, "frames in use"),
            }
            let (_, detail) = own_socket(&fd)?;
            check_eq!(
                (detail.rx_packets, detail.rx_bytes),
                (0, 0),
                "rx of {version:?}"
            );
        }
        Ok(())
    })
}

fn name_of_an_old_packet_socket_is_what_it_is_bound_to() -> Result<()> {
    // SOCK_PACKET
    let fd = sys::socket(libc::AF_PACKET, 10, i32::from(0x0806_u16.to_be()))?;
    check_eq!(
        own_socket(&fd)?.1.local.to_string(),
        "0x0806:0",
        "before bind()"
    );
    sys::bind(&fd, &Address::device(b"lo"))?;
    let (found, detail) = own_socket(&fd)?;
    check_eq!(found.r#type.to_string(), "packet", "type");
    check_eq!(
        detail.local.to_string(),
        "0x0806:1",
        "bound to the loopback device"
    );
    Ok(())
}

/// Compares memory and drops with SO_MEMINFO, where that is the same before and after.
fn check_memory(fd: &impl AsRawFd, what: &str) -> Result<SocketMemory> {
    for _ in 0..100 {
        let before = sys::meminfo(fd)?;
        let (_, detail) = own_socket(fd)?;
        if sys::meminfo(fd)? != before {
            continue;
        }
        let [rmem, rcvbuf, wmem, sndbuf, _, _, _, _, drops] = before.map(u64::from);
        let want = SocketMemory {
            sndbuf,
            rmem,
            rcvbuf,
            drops,
        };
        check_eq!(memory(&detail)?, &want, "memory of {what}");
        check_eq!(detail.wmem, wmem as i64, "wmem of {what}");
        return Ok(want);
    }
    anyhow::bail!("{what} does not stand still")
}

fn memory_and_drops_are_those_of_meminfo() -> Result<()> {
    let to = UdpSocket::bind("127.0.0.1:0")?;
    let from = UdpSocket::bind("127.0.0.1:0")?;
    from.connect(to.local_addr()?)?;
    sys::set_option(&to, libc::SOL_SOCKET, libc::SO_RCVBUF, 8192)?;
    for _ in 0..100 {
        from.send(&[0; 1000])?;
    }
    let udp = check_memory(&to, "a full UDP socket")?;
    let rcvbuf = sys::get_option(&to, libc::SOL_SOCKET, libc::SO_RCVBUF)?;
    check_eq!(udp.rcvbuf, rcvbuf as u64, "rcvbuf");
    let received = own_socket(&to)?.1.rx_packets;
    check!(received > 0, "nothing was received");
    check_eq!(udp.drops, 100 - received, "datagrams dropped");
    to.set_nonblocking(true)?;
    while to.recv(&mut [0; 1000]).is_ok() {}
    check_eq!(
        check_memory(&to, "an empty UDP socket")?.drops,
        udp.drops,
        "drops stay"
    );
    let (one, mut two) = pair()?;
    two.write_all(&[0; 5000])?;
    check!(check_memory(&one, "a TCP socket")?.rmem > 0, "no rmem");
    check_memory(&two, "its peer")?;
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
        let (one, two) = sys::socketpair(kind)?;
        sys::set_option(&one, libc::SOL_SOCKET, libc::SO_SNDBUF, 100_000)?;
        sys::send(&one, &[0; 3000], 0)?;
        check_memory(&one, "a unix socket that has sent")?;
        check_memory(&two, "a unix socket that has received")?;
    }
    let raw = sys::socket(libc::AF_INET, libc::SOCK_RAW, 255)?;
    check_memory(&raw, "a raw socket")?;
    let netlink = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, 0)?;
    check_memory(&netlink, "a netlink socket")?;
    wire::in_a_namespace(|| {
        let packet = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
        sys::set_option(&packet, libc::SOL_SOCKET, libc::SO_RCVBUF, 8192)?;
        sys::bind(&packet, &Address::packet(0x0800, 1))?;
        let to = UdpSocket::bind("127.0.0.1:0")?;
        for _ in 0..100 {
            to.send_to(&[0; 1000], to.local_addr()?)?;
        }
        let found = check_memory(&packet, "a packet socket")?;
        check!(found.drops > 0, "a full packet socket drops nothing");
        Ok(())
    })
}

fn listener_counts_dropped_connections() -> Result<()> {
    let listener = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    sys::bind(&listener, &Address::loopback(0))?;
    sys::listen(&listener, 1)?;
    check_eq!(check_memory(&listener, "a listener")?.drops, 0, "at first");
    let port = sys::port_of(&listener)?;
    let mut clients = Vec::new();
    for _ in 0..6 {
        let fd = sys::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
        let _ = sys::connect(&fd, &Address::loopback(port));
        clients.push(fd);
    }
    wait_for("a dropped connection", || {
        Ok(check_memory(&listener, "a full listener")?.drops > 0)
    })
}

/// FIN without memory.
pub use faults::TESTS as FAULTS;

mod faults {
    use super::*;
    use crate::tests::faults::{can_be_made, with_fault};

    tests!("sockets" when can_be_made:
        fin_without_memory_is_no_byte,
    );

    fn fin_without_memory_is_no_byte() -> Result<()> {
        for (name, value) in [
            ("require-start", "0"),
            ("require-end", "0xffffffffffffffff"),
            ("ignore-gfp-wait", "N"),
            ("verbose", "0"),
        ] {
            fs::write(format!("/sys/kernel/debug/failslab/{name}"), value)?;
        }
        let mut failed = 0;
        for nth in 1..20 {
            let (one, two) = pair()?;
            // Where shutdown() has fewer allocations, the next one fails, that of reading what is
            // left of the number.
            let Ok((result, true)) = with_fault(nth, || sys::shutdown(&one, libc::SHUT_WR)) else {
                break;
            };
            result?;
            let (_, detail) = own_socket(&one)?;
            let tcp = detail.tcp.as_ref().context("not of TCP")?;
            check_eq!(
                (detail.tx_bytes, tcp.unsent, tcp.unacked),
                (0, 0, 0),
                "bytes of a socket that wrote none, with allocation {nth} failed"
            );
            if tcp.fin == Fin::Failed {
                check_eq!(detail.sk_state, SkState::FinWait1, "sk_state");
                check_eq!(
                    own_socket(&two)?.1.sk_state,
                    SkState::Established,
                    "its peer"
                );
                failed += 1;
            }
        }
        check!(failed > 0, "no FIN failed");
        Ok(())
    }
}
