// SPDX-License-Identifier: GPL-2.0
//! Before a handshake ends, and sockets that have no other end.

use std::fs;
use std::net::TcpListener;

use anyhow::{Context, Result};
use etherparse::PacketBuilder;
use ravel_records::{Effect, Operation, SkState};

use super::scenes::{Make, Place, Scene, sends, state_of, udp_pair};
use super::{First, heard, matrix, write};
use crate::check_eq;
use crate::report::own_socket;
use crate::sys::{self, Address};
use crate::tests::peers::wait_for;
use crate::tests::wire::{self, Wire};

pub(super) fn shutdown_before_the_handshake_ends() -> Result<()> {
    for operation in [Operation::ShutWr, Operation::ShutRdWr] {
        wire::in_a_namespace(|| {
            // For servers, and without a cookie.
            fs::write("/proc/sys/net/ipv4/tcp_fastopen", "514")?;
            let wire = Wire::new()?;
            let listener = TcpListener::bind("10.77.0.1:0")?;
            sys::set_option(&listener, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 5)?;
            let port = listener.local_addr()?.port();
            let mut syn = Vec::new();
            PacketBuilder::ipv4(wire::THEM, wire::US, 64)
                .tcp(4000, port, 1, 60_000)
                .syn()
                .write_to_vec(&mut syn, b"ten bytes.")?;
            wire.send(&syn)?;
            let (stream, _) = listener.accept()?;
            let (socket, detail) = own_socket(&stream)?;
            check_eq!(detail.sk_state, SkState::SynRecv, "sk_state");
            let verdict = socket.verdict(operation).context("nothing is foreseen")?;
            check_eq!(verdict.effect, Effect::FinLater { behind: 0 }, "effect");
            sys::shutdown(
                &stream,
                match operation {
                    Operation::ShutWr => libc::SHUT_WR,
                    _ => libc::SHUT_RDWR,
                },
            )?;
            check_eq!(own_socket(&stream)?.1.sk_state, verdict.state, "state");
            // The last packet of the handshake: it acknowledges the SYN.
            let answered = wire.tcp_to(4000)?;
            let mut ack = Vec::new();
            PacketBuilder::ipv4(wire::THEM, wire::US, 64)
                .tcp(4000, port, 12, 60_000)
                .ack(answered.wrapping_add(1))
                .write_to_vec(&mut ack, &[])?;
            wire.send(&ack)?;
            wait_for("FIN", || {
                let state = own_socket(&stream)?.1.sk_state;
                Ok(state == SkState::FinWait1)
            })?;
            let mut fin = Vec::new();
            PacketBuilder::ipv4(wire::THEM, wire::US, 64)
                .tcp(4000, port, 12, 60_000)
                .ack(answered.wrapping_add(2))
                .write_to_vec(&mut fin, &[])?;
            wire.send(&fin)?;
            wait_for("its acknowledgement", || {
                Ok(own_socket(&stream)?.1.sk_state == verdict.settled)
            })
        })?;
    }
    Ok(())
}

pub(super) fn closed_listener_gives_up_handshakes() -> Result<()> {
    let place = Place::new()?;
    for first in [First::Read, First::Write] {
        let (listener, address) = place.listener(5)?;
        sys::set_option(&listener, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 100)?;
        let client = place.stream()?;
        sys::connect(&client, &address)?;
        wait_for("the handshake", || {
            let (_, detail) = own_socket(&listener)?;
            Ok(detail.tcp.is_some_and(|tcp| tcp.requests == 1))
        })?;
        let (_, theirs) = own_socket(&client)?;
        let other = theirs.other.context("no other end")?;
        check_eq!(other.peer_state, SkState::NewSynRecv, "the other end");
        let (socket, _) = own_socket(&listener)?;
        let verdict = socket.verdict(Operation::Close).context("no verdict")?;
        let given_up = Effect::ResetsWaiting {
            connections: 0,
            handshakes: 1,
        };
        check_eq!((verdict.effect, verdict.peer), (given_up, None), "foreseen");
        heard(&place);
        drop(listener);
        check_eq!(heard(&place), vec![], "packets of close()");
        check_eq!(state_of(&client)?, 1, "the client is ESTABLISHED");
        check_eq!(write(&client), 0, "its first write");
        wait_for("the reset", || Ok(state_of(&client)? == 7))?;
        let (read, wrote) = match first {
            First::Read => {
                let read = sys::recv(&client, 10, libc::MSG_DONTWAIT);
                (read.map_or_else(|e| sys::errno(&e), |_| 0), write(&client))
            }
            First::Write => {
                let wrote = write(&client);
                let read = sys::recv(&client, 10, libc::MSG_DONTWAIT);
                (read.map_or_else(|e| sys::errno(&e), |_| 0), wrote)
            }
        };
        let want = match first {
            First::Read => (libc::ECONNRESET, libc::EPIPE),
            First::Write => (0, libc::ECONNRESET),
        };
        check_eq!(
            (read, wrote),
            want,
            "its read and its next write, {first:?} first"
        );
    }
    Ok(())
}

pub(super) fn sockets_that_tell_nobody() -> Result<()> {
    let place = Place::new()?;
    let raw = || sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_UDP);
    let scenes: &[(&str, Make)] = &[
        ("raw", |_| {
            let fd = sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_UDP)?;
            Ok(Scene::new(fd, vec![]))
        }),
        ("raw, connected", |_| {
            let fd = sys::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_UDP)?;
            sys::connect(&fd, &Address::loopback(0))?;
            Ok(Scene::new(fd, vec![]))
        }),
        ("ping", |_| {
            fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0")?;
            let fd = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP)?;
            Ok(Scene::new(fd, vec![]))
        }),
        ("netlink", |_| {
            let fd = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, 0)?;
            Ok(Scene::new(fd, vec![]))
        }),
        ("packet", |_| {
            let fd = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)?;
            Ok(Scene::new(fd, vec![]))
        }),
    ];
    matrix(&place, scenes, &Operation::ALL, None, false)?;
    // What is unread is lost.
    let receiver = raw()?;
    let (one, two) = udp_pair()?;
    sends(&one, &two, 30)?;
    wait_for("the packet", || Ok(own_socket(&receiver)?.1.rx_packets > 0))?;
    let (socket, detail) = own_socket(&receiver)?;
    let close = socket.verdict(Operation::Close).context("no verdict")?;
    check_eq!(close.loses_unread, detail.rx_bytes, "lost bytes");
    check_eq!(detail.rx_bytes, 20 + 8 + 30, "IPv4, UDP and data");
    Ok(())
}
