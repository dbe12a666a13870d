// SPDX-License-Identifier: GPL-2.0
//! Report sockets: what one record says is of one moment, whatever others do meanwhile.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ravel_records::{Shutdown, SkState};

use super::peers::{pair, wait_for};
use crate::report::{own_socket, socket, sockets};
use crate::sys;
use crate::{check, check_eq, tests};

tests!("sockets":
    udp_datagrams_are_in_one_of_both_queues [180 s],
    unix_peer_is_as_far_as_its_traces [180 s],
    unread_bytes_of_a_peer_are_no_more_than_fit [180 s],
);

/// How long a report takes.
fn duration(f: impl Fn() -> Result<()>) -> Result<Duration> {
    let mut least = Duration::MAX;
    for _ in 0..10 {
        let since = Instant::now();
        f()?;
        least = least.min(since.elapsed());
    }
    Ok(least)
}

/// Does one thing, and another one so much later, in another thread.
fn beside<T>(delay: Duration, other: impl FnOnce() + Send, one: impl FnOnce() -> T) -> T {
    let barrier = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            barrier.wait();
            let since = Instant::now();
            while since.elapsed() < delay {
                std::hint::spin_loop();
            }
            other();
        });
        barrier.wait();
        one()
    })
}

fn udp_datagrams_are_in_one_of_both_queues() -> Result<()> {
    const DATAGRAMS: u64 = 400;
    const ROUNDS: u32 = 150;
    let (to, from) = (
        UdpSocket::bind("127.0.0.1:0")?,
        UdpSocket::bind("127.0.0.1:0")?,
    );
    from.connect(to.local_addr()?)?;
    sys::set_option(&to, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20)?;
    let mut whole = Duration::ZERO;
    for round in 0..ROUNDS {
        for _ in 0..DATAGRAMS {
            from.send(b"x")?;
        }
        wait_for("all datagrams", || {
            Ok(own_socket(&to)?.1.rx_packets == DATAGRAMS)
        })?;
        if round == 0 {
            whole = duration(|| own_socket(&to).map(drop))?;
        }
        // SIOCINQ moves all of them from one queue to the other.
        let found = beside(
            whole * round / ROUNDS,
            || drop(sys::inq(&to)),
            || own_socket(&to),
        )?;
        check_eq!(
            (found.1.rx_packets, found.1.rx_bytes, found.1.inq),
            (DATAGRAMS, DATAGRAMS, 1),
            "rx_packets, rx_bytes, inq while they are moved"
        );
        for _ in 0..DATAGRAMS {
            to.recv(&mut [0; 1])?;
        }
    }
    Ok(())
}

fn unix_peer_is_as_far_as_its_traces() -> Result<()> {
    const ROUNDS: u32 = 1000;
    let whole = {
        let (one, _two) = sys::socketpair(libc::SOCK_STREAM)?;
        duration(|| own_socket(&one).map(drop))?
    };
    let mut traces = 0;
    for round in 0..ROUNDS {
        let (one, two) = sys::socketpair(libc::SOCK_STREAM)?;
        // The peer is closed with something unread: a reset.
        sys::send(&one, b"x", 0)?;
        let (_, detail) = beside(
            whole * (round % 500) / 500,
            || drop(two),
            || own_socket(&one),
        )?;
        let peer = detail.other.as_ref().context("no peer")?;
        if detail.shutdown == Shutdown::RdWr || detail.err != 0 {
            traces += 1;
            check_eq!(
                (&peer.peer_state, peer.peer_inode),
                (&SkState::Close, 0),
                "the peer that left shutdown {} and error {}",
                detail.shutdown,
                detail.err
            );
        }
    }
    check!(traces > 0, "no record saw the peer closed");
    Ok(())
}

fn unread_bytes_of_a_peer_are_no_more_than_fit() -> Result<()> {
    let (one, two) = pair()?;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) && (&one).write(&[0; 3000]).is_ok() {
                std::hint::spin_loop();
            }
            let _ = sys::shutdown(&one, libc::SHUT_RDWR);
        });
        scope.spawn(|| {
            let mut bytes = [0; 1500];
            while (&two).read(&mut bytes).is_ok_and(|n| n > 0) {}
        });
        let look = || -> Result<()> {
            let mut seen = 0;
            while seen < 200 {
                let report = sockets(sys::getpid())?;
                // The writer owns the socket now and then for longer than ravel waits.
                let Some(detail) = &socket(&report, &one)?.detail else {
                    continue;
                };
                let peer = detail.other.as_ref().context("no peer")?;
                check!(
                    peer.peer_rx_bytes < 1 << 30,
                    "{} unread bytes of the peer",
                    peer.peer_rx_bytes
                );
                seen += 1;
            }
            Ok(())
        };
        let looked = look();
        done.store(true, Relaxed);
        looked
    })
}
