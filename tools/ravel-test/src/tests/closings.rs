// SPDX-License-Identifier: GPL-2.0
//! Events of shutdown(), of closed descriptors and of released sockets: each that a program knows of, once.

use std::io::Write;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use ravel_records::{Close, Event, Family, Protocol, Shutdown, SkState};

use super::netevents::{alone, inode};
use super::peers::{full_pair, pair, wait_for};
use crate::process::Child;
use crate::stream::{Made, check_numbers};
use crate::sys;
use crate::tier::scale;
use crate::{check, check_eq, tests};

tests!("closings":
    every_shutdown_and_close_is_told_once [120 s],
    what_is_queued_is_told,
    exit_closes_what_the_process_has,
    exec_dup2_and_messages_close,
    shutdown_that_fails_is_told,
);

/// An event, as far as a program knows it beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    Shutdown(u64, Shutdown),
    Close(u64, u64),
    Release(u64),
}

fn known(events: &[Event]) -> Vec<Known> {
    let known = events.iter().filter_map(|event| match event {
        Event::Shutdown(event) => Some(Known::Shutdown(event.inode, event.how.clone())),
        Event::Close(event) => Some(Known::Close(event.inode, event.refs)),
        Event::Release(event) => Some(Known::Release(event.inode)),
        _ => None,
    });
    known.collect()
}

/// A socket that has a second descriptor is shut, and both are closed.
fn shut_and_close(socket: impl Into<OwnedFd>, round: usize, done: &mut Vec<Known>) -> Result<()> {
    let socket = socket.into();
    let inode = inode(&socket)?;
    let (how, word) = [
        (libc::SHUT_RD, Shutdown::Rd),
        (libc::SHUT_WR, Shutdown::Wr),
        (libc::SHUT_RDWR, Shutdown::RdWr),
    ][round % 3]
        .clone();
    let second = socket.try_clone()?;
    // Of one that is not connected it fails, and is told all the same.
    sys::shutdown(&socket, how).ok();
    done.push(Known::Shutdown(inode, word));
    drop(socket);
    done.push(Known::Close(inode, 1));
    drop(second);
    done.push(Known::Close(inode, 0));
    done.push(Known::Release(inode));
    Ok(())
}

fn every_shutdown_and_close_is_told_once() -> Result<()> {
    alone()?;
    let rounds = scale(400, 80);
    // Made and closed before: the listeners of the pairs.
    let mut sockets: Vec<OwnedFd> = Vec::new();
    sys::allow_descriptors(8 * rounds as u64 + 100)?;
    for _ in 0..rounds {
        let (one, two) = pair()?;
        sockets.extend([OwnedFd::from(one), OwnedFd::from(two)]);
        let (one, two) = sys::socketpair(libc::SOCK_STREAM)?;
        sockets.extend([one, two]);
        let (one, two) = sys::socketpair(libc::SOCK_DGRAM)?;
        sockets.extend([one, two]);
        sockets.push(UdpSocket::bind("[::1]:0")?.into());
    }
    let terms = format!(
        "sources=shutdown,close,release bytes=16777216 pid={}",
        sys::getpid()
    );
    let stream = Made::new("each", &terms)?;
    let mut done = Vec::new();
    for (round, socket) in sockets.into_iter().enumerate() {
        shut_and_close(socket, round, &mut done)?;
    }
    let events = stream.drain()?;
    check_eq!(
        check_numbers(&events, 1)?,
        done.len() as u64 + 1,
        "the number behind the last"
    );
    check_eq!(done.len(), rounds * 7 * 4, "what was done");
    for (at, (told, did)) in known(&events).iter().zip(&done).enumerate() {
        check_eq!(told, did, "event {at}");
    }
    let state = stream.state()?;
    check_eq!((state.lost, state.missed), (0, 0), "lost and missed");
    for event in &events {
        let by = match event {
            Event::Shutdown(event) => (event.pid, event.tid),
            Event::Close(event) => (event.pid, event.tid),
            Event::Release(event) => (event.pid, event.tid),
            other => anyhow::bail!("what is this: {other:?}"),
        };
        check_eq!(
            (by.0 as i32, by.1 as i32),
            (sys::getpid(), sys::gettid()),
            "who did it"
        );
    }
    Ok(())
}

/// The one close event of a socket.
fn close_of(events: &[Event], inode: u64) -> Result<&Close> {
    let mut found = events.iter().filter_map(|event| match event {
        Event::Close(close) if close.inode == inode => Some(close),
        _ => None,
    });
    let close = found.next().context("no close of it")?;
    check!(found.next().is_none(), "two closes of one descriptor");
    Ok(close)
}

fn what_is_queued_is_told() -> Result<()> {
    let netns = alone()?;
    let (one, mut two) = pair()?;
    two.write_all(&[1; 5000])?;
    wait_for("the bytes", || Ok(sys::inq(&one)? == 5000))?;
    let addresses = (one.local_addr()?.to_string(), two.local_addr()?.to_string());
    let (unix, other) = sys::socketpair(libc::SOCK_STREAM)?;
    sys::send(&other, &[2; 700], 0)?;
    let (datagram, sender) = sys::socketpair(libc::SOCK_DGRAM)?;
    let udp = UdpSocket::bind("127.0.0.1:0")?;
    for _ in 0..3 {
        sys::send(&sender, b"three", 0)?;
        UdpSocket::bind("127.0.0.1:0")?.send_to(b"three", udp.local_addr()?)?;
    }
    // Nothing is taken there: it fills both buffers.
    let (full, deaf, written) = full_pair()?;
    let (queued, unsent) = (sys::outq(&full)?, sys::outq_unsent(&full)?);
    check!(unsent > 0, "nothing waits to be sent");
    let inodes = [
        inode(&one)?,
        inode(&unix)?,
        inode(&datagram)?,
        inode(&udp)?,
        inode(&full)?,
    ];
    let stream = Made::new("queued", &format!("sources=close pid={}", sys::getpid()))?;
    drop((one, unix, datagram, udp, full));
    let events = stream.drain()?;
    let told = inodes.map(|inode| close_of(&events, inode));
    let [tcp, unix, datagram, udp, full] = told;
    let tcp = tcp?;
    check_eq!((tcp.rx_bytes, tcp.tx_bytes), (5000, 0), "TCP");
    check_eq!(
        (tcp.local.to_string(), tcp.remote.to_string(), tcp.netns),
        (addresses.0, addresses.1, netns),
        "its ends"
    );
    check_eq!(
        (&tcp.family, &tcp.protocol, &tcp.sk_state, &tcp.shutdown),
        (
            &Family::Inet,
            &Protocol::Tcp,
            &SkState::Established,
            &Shutdown::None
        ),
        "what it is"
    );
    let unix = unix?;
    check_eq!((unix.rx_bytes, unix.rx_packets), (700, 1), "unix stream");
    check_eq!(unix.family, Family::Unix, "family");
    check_eq!(datagram?.rx_packets, 3, "unix datagrams");
    check_eq!(udp?.rx_packets, 3, "UDP datagrams");
    let full = full?;
    // A probe may find room for a few bytes more: there were no more before, and no fewer after.
    let arrived = sys::inq(&deaf)? as u64;
    check!(
        (written - arrived..=queued as u64).contains(&full.tx_bytes),
        "{} bytes unacknowledged; by ioctl {queued} before, {} after",
        full.tx_bytes,
        written - arrived
    );
    check!(
        full.unsent > 0 && full.unsent <= (unsent as u64).min(full.tx_bytes),
        "{} bytes unsent; by ioctl {unsent} before",
        full.unsent
    );
    drop((two, other, sender, deaf));
    Ok(())
}

fn exit_closes_what_the_process_has() -> Result<()> {
    let (one, two) = sys::socketpair(libc::SOCK_STREAM)?;
    let inodes = [inode(&one)?, inode(&two)?];
    // It has a copy of each.
    let mut child = Child::spawn(|link| {
        link.wait()?;
        Ok(())
    })?;
    let mut killed = Child::idle()?;
    let stream = Made::new(
        "exits",
        &format!("sources=close,release tree={}", sys::getpid()),
    )?;
    let pids = [child.pid, killed.pid];
    child.link.send("go")?;
    child.join()?;
    killed.end_by(libc::SIGKILL)?.ok();
    let events = stream.drain()?;
    for (pid, refs) in pids.into_iter().zip([2, 1]) {
        for inode in inodes {
            let found = events.iter().find_map(|event| match event {
                Event::Close(close) if close.pid as i32 == pid && close.inode == inode => {
                    Some(close)
                }
                _ => None,
            });
            let close = found.with_context(|| format!("{pid} did not close {inode}"))?;
            check_eq!((close.refs, close.exiting), (refs, true), "{close:?}");
        }
    }
    let released = |events: &[Event]| {
        let known = known(events);
        inodes.map(|inode| known.contains(&Known::Release(inode)))
    };
    check_eq!(
        released(&events),
        [false, false],
        "released by the children"
    );
    drop((one, two));
    let events = stream.drain()?;
    check_eq!(released(&events), [true, true], "released by us");
    for inode in inodes {
        let close = close_of(&events, inode)?;
        check_eq!((close.refs, close.exiting), (0, false), "{close:?}");
    }
    Ok(())
}

fn exec_dup2_and_messages_close() -> Result<()> {
    // dup2() over it.
    let stream = Made::new(
        "others",
        &format!("sources=close,release tree={}", sys::getpid()),
    )?;
    let (one, two) = sys::socketpair(libc::SOCK_STREAM)?;
    let inodes = [inode(&one)?, inode(&two)?];
    sys::dup_over(&two, &one)?;
    check_eq!(
        known(&stream.drain()?),
        [Known::Close(inodes[0], 0), Known::Release(inodes[0])],
        "dup2()"
    );
    drop(one);
    drop(two);
    check_eq!(
        known(&stream.drain()?),
        [
            Known::Close(inodes[1], 1),
            Known::Close(inodes[1], 0),
            Known::Release(inodes[1])
        ],
        "its two descriptors"
    );
    // On its way in a message, which nobody reads.
    let (carrier, end) = sys::socketpair(libc::SOCK_DGRAM)?;
    let (one, two) = sys::socketpair(libc::SOCK_STREAM)?;
    let inodes = [inode(&one)?, inode(&end)?];
    sys::send_descriptor(&carrier, &one)?;
    drop(one);
    check_eq!(
        known(&stream.drain()?),
        [Known::Close(inodes[0], 1)],
        "one that a message has, too"
    );
    drop(end);
    wait_for("the message's end", || {
        let events = known(&stream.drain()?);
        Ok(events.contains(&Known::Release(inodes[0])))
    })?;
    drop((carrier, two));
    // execve() closes what has the flag.
    let (kept, closed) = (
        sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?,
        sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?,
    );
    sys::keep_over_exec(&kept, true)?;
    let inodes = [inode(&kept)?, inode(&closed)?];
    let mut child = Child::spawn(move |link| {
        link.wait()?;
        let error = std::os::unix::process::CommandExt::exec(
            std::process::Command::new("/proc/self/exe").arg("--list"),
        );
        Err(error.into())
    })?;
    stream.drain()?;
    let pid = child.pid;
    child.link.send("go")?;
    child.join()?;
    let events = stream.drain()?;
    let of = |inode: u64| {
        events.iter().find_map(|event| match event {
            Event::Close(close) if close.pid as i32 == pid && close.inode == inode => {
                Some(close.exiting)
            }
            _ => None,
        })
    };
    check_eq!(
        inodes.map(of),
        [Some(true), Some(false)],
        "by exit, by exec"
    );
    drop((kept, closed));
    Ok(())
}

fn shutdown_that_fails_is_told() -> Result<()> {
    // A shutdown() that fails is told, too: the state says why it could not be.
    let socket = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    let stream = Made::new("fails", &format!("sources=shutdown pid={}", sys::getpid()))?;
    let failed = sys::shutdown(&socket, libc::SHUT_WR);
    check_eq!(
        failed.err().map(|error| sys::errno(&error)),
        Some(libc::ENOTCONN),
        "errno"
    );
    let failed = sys::shutdown(&socket, 77);
    check_eq!(
        failed.err().map(|error| sys::errno(&error)),
        Some(libc::EINVAL),
        "errno of what is no direction"
    );
    let events = stream.drain()?;
    let told: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Shutdown(event) => Some((
                event.how.as_str().to_owned(),
                event.sk_state.clone(),
                event.inode,
            )),
            _ => None,
        })
        .collect();
    let inode = inode(&socket)?;
    check_eq!(
        told,
        [
            ("WR".to_owned(), SkState::Close, inode),
            ("how_77".to_owned(), SkState::Close, inode)
        ],
        "shutdowns"
    );
    check!(socket.as_raw_fd() >= 0, "the descriptor is open");
    Ok(())
}
