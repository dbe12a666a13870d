// SPDX-License-Identifier: GPL-2.0
//! Tasks that sleep in a system call.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, anyhow};
use ravel_records::{WaitQueue, Waiter, WaitsBy};

use super::super::peers::{full_pair, pair, wait_for};
use super::{call_by_proc, only, own, sleeper};
use crate::process::Child;
use crate::sys::{self, Address, PAGE};
use crate::{check, check_eq};

/// Checks that this child, and nobody else, sleeps for a descriptor of ours.
fn check_sleeper(
    fd: &impl AsRawFd,
    child: &Child,
    queue: WaitQueue,
    function: &str,
    number: libc::c_long,
) -> Result<()> {
    let all = own(fd)?.waiters;
    let tasks: Vec<&Waiter> = all.iter().filter(|w| w.by == WaitsBy::Task).collect();
    let [found] = tasks[..] else {
        anyhow::bail!("not one task waits, but {tasks:?}");
    };
    check_eq!(found.queue, queue, "how it waits");
    check!(all[found.pos as usize] == *found, "its place: {found:?}");
    check_eq!(found.function.to_string(), function, "function");
    check!(found.module.is_empty(), "module: {found:?}");
    let pid = Some(child.pid as u32);
    check_eq!((found.pid, found.tid), (pid, pid), "who waits");
    check_eq!(
        found.comm.as_ref().map(|comm| format!("{comm}\n")),
        Some(fs::read_to_string(format!("/proc/{}/comm", child.pid))?),
        "name"
    );
    check_eq!(
        (found.syscall, found.i386, found.worker),
        (Some(number), Some(false), Some(false)),
        "system call"
    );
    check_eq!(
        call_by_proc(child.pid)?,
        Some(number),
        "system call by /proc"
    );
    Ok(())
}

pub(super) fn blocked_in_recv() -> Result<()> {
    let number = libc::SYS_recvfrom;
    let (tcp, _peer) = pair()?;
    let mut child = sleeper(number, || sys::recv(&tcp, 1, 0))?;
    check_sleeper(
        &tcp,
        &child,
        WaitQueue::Socket,
        "woken_wake_function",
        number,
    )?;
    check!(!only(&tcp)?.exclusive, "exclusive");
    // A second one stands beside the first.
    let mut other = sleeper(libc::SYS_read, || {
        sys::read_to_address(&sys::file_from(tcp.as_raw_fd()), 0, 1)
    })?;
    let both = own(&tcp)?.waiters;
    let mut pids: Vec<_> = both.iter().map(|w| (w.pid, w.syscall)).collect();
    let mut want = vec![
        (Some(child.pid as u32), Some(number)),
        (Some(other.pid as u32), Some(libc::SYS_read)),
    ];
    pids.sort_unstable();
    want.sort_unstable();
    check_eq!(pids, want, "both that wait");
    other.kill()?;
    child.kill()?;
    check!(own(&tcp)?.waiters.is_empty(), "killed ones wait");

    let udp = UdpSocket::bind("127.0.0.1:0")?;
    let child = sleeper(number, || sys::recv(&udp, 1, 0))?;
    check_sleeper(
        &udp,
        &child,
        WaitQueue::Socket,
        "receiver_wake_function",
        number,
    )?;
    check!(only(&udp)?.exclusive, "not exclusive");
    let (stream, _peer) = sys::socketpair(libc::SOCK_STREAM)?;
    let child = sleeper(number, || sys::recv(&stream, 1, 0))?;
    check_sleeper(
        &stream,
        &child,
        WaitQueue::Socket,
        "autoremove_wake_function",
        number,
    )?;
    let (dgram, _peer) = sys::socketpair(libc::SOCK_DGRAM)?;
    let child = sleeper(number, || sys::recv(&dgram, 1, 0))?;
    check_sleeper(
        &dgram,
        &child,
        WaitQueue::Socket,
        "receiver_wake_function",
        number,
    )?;
    let netlink = sys::socket(libc::AF_NETLINK, libc::SOCK_RAW, 0)?;
    let child = sleeper(number, || sys::recv(&netlink, 1, 0))?;
    check_sleeper(
        &netlink,
        &child,
        WaitQueue::Socket,
        "receiver_wake_function",
        number,
    )
}

pub(super) fn blocked_in_send() -> Result<()> {
    let number = libc::SYS_sendto;
    let (tcp, _peer, _) = full_pair()?;
    tcp.set_nonblocking(false)?;
    let child = sleeper(number, || sys::send(&tcp, &[0; 100_000], 0))?;
    check_sleeper(
        &tcp,
        &child,
        WaitQueue::Socket,
        "woken_wake_function",
        number,
    )?;
    let (stream, _peer) = sys::socketpair(libc::SOCK_STREAM)?;
    let child = sleeper(
        number,
        || {
            while sys::send(&stream, &[0; 4096], 0).is_ok() {}
        },
    )?;
    check_sleeper(
        &stream,
        &child,
        WaitQueue::Socket,
        "autoremove_wake_function",
        number,
    )
}

pub(super) fn blocked_in_accept() -> Result<()> {
    let number = libc::SYS_accept4;
    let tcp = TcpListener::bind("127.0.0.1:0")?;
    let children = [
        sleeper(number, || sys::accept4(&tcp))?,
        sleeper(number, || sys::accept4(&tcp))?,
    ];
    let found = own(&tcp)?.waiters;
    check!(found.iter().all(|waiter| waiter.exclusive), "{found:?}");
    let pids: Vec<_> = found.iter().filter_map(|waiter| waiter.pid).collect();
    let want: Vec<_> = children.iter().map(|child| child.pid as u32).collect();
    check_eq!(pids, want, "who waits for connections, first come first");
    drop(children);
    let unix = sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    sys::bind(&unix, &Address::unix(b"\0ravel-test waiters accept"))?;
    sys::listen(&unix, 1)?;
    let child = sleeper(number, || sys::accept4(&unix))?;
    check_sleeper(
        &unix,
        &child,
        WaitQueue::Socket,
        "receiver_wake_function",
        number,
    )
}

pub(super) fn blocked_in_connect() -> Result<()> {
    let number = libc::SYS_connect;
    let listener = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    sys::bind(&listener, &Address::loopback(0))?;
    sys::listen(&listener, 0)?;
    let address = Address::loopback(sys::port_of(&listener)?);
    let first = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    sys::connect(&first, &address)?;
    // Nobody accepts, and there is no more room: the SYN of the second is dropped.
    let second = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    let child = sleeper(number, || sys::connect(&second, &address))?;
    check_sleeper(
        &second,
        &child,
        WaitQueue::Socket,
        "woken_wake_function",
        number,
    )
}

/// A socket that is full of datagrams from the other one, which is connected to it.
fn full_dgrams() -> Result<(OwnedFd, OwnedFd)> {
    let to = sys::socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0)?;
    let address = Address::unix(b"\0ravel-test waiters room");
    sys::bind(&to, &address)?;
    let from = sys::socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0)?;
    sys::connect(&from, &address)?;
    while sys::send(&from, b"x", libc::MSG_DONTWAIT).is_ok() {}
    Ok((to, from))
}

pub(super) fn waits_for_room_in_another_socket() -> Result<()> {
    // Whoever found it full without waiting is told when there is room (unix_dgram_peer_wake_me()): a relay stays.
    let (to, from) = full_dgrams()?;
    check_eq!(only(&to)?.by, WaitsBy::Relay, "what the sends left");
    let number = libc::SYS_sendto;
    let mut child = sleeper(number, || sys::send(&from, b"x", 0))?;
    check_sleeper(
        &to,
        &child,
        WaitQueue::Room,
        "autoremove_wake_function",
        number,
    )?;
    check!(
        own(&from)?.waiters.is_empty(),
        "someone waits on the sender's own socket"
    );
    child.kill()?;

    let child = sleeper(libc::SYS_poll, || sys::poll(&from, libc::POLLOUT, -1))?;
    let relay = only(&to)?;
    check_eq!(
        (&relay.by, &relay.queue),
        (&WaitsBy::Relay, &WaitQueue::Room),
        "relay"
    );
    check_eq!(
        relay.function.to_string(),
        "unix_dgram_peer_wake_relay",
        "function"
    );
    check_eq!(relay.pid, None, "pid of a relay");
    let poller = own(&from)?;
    check_eq!(relay.relay, Some(poller.socket.id), "socket that is told");
    check_eq!(relay.relay_inode, Some(poller.socket.inode), "its inode");
    check_eq!(poller.waiters.len(), 1, "pollers of the sender");
    check_eq!(poller.waiters[0].pid, Some(child.pid as u32), "who polls");
    drop(child);

    let listener = sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    let address = Address::unix(b"\0ravel-test waiters full");
    sys::bind(&listener, &address)?;
    sys::listen(&listener, 0)?;
    let first = sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    sys::connect(&first, &address)?;
    let second = sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    let number = libc::SYS_connect;
    let child = sleeper(number, || sys::connect(&second, &address))?;
    check_sleeper(
        &listener,
        &child,
        WaitQueue::Room,
        "autoremove_wake_function",
        number,
    )
}

pub(super) fn waits_for_the_lock() -> Result<()> {
    let (one, _two) = pair()?;
    // sendmsg() holds the socket's lock while it copies; the page that it copies from is ours to withhold.
    let page = sys::map_anon(PAGE, libc::PROT_READ | libc::PROT_WRITE)?;
    let fault = sys::userfault(page, PAGE, sys::Fault::Missing)?;
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| sys::send_address(&one, page, 100));
        let checked = (|| -> Result<()> {
            check!(
                sys::poll(&fault, libc::POLLIN, 10_000)?,
                "no one comes to the page"
            );
            let other = scope.spawn(|| {
                let tid = sys::gettid();
                (tid, sys::recv(&one, 1, libc::MSG_DONTWAIT))
            });
            let mut found = None;
            wait_for("the one who waits", || {
                found = own(&one)?.waiters.pop();
                Ok(found.is_some())
            })?;
            let busy = own(&one)?.socket.busy;
            sys::zero_page(&fault, page, PAGE)?;
            let (tid, _) = other.join().map_err(|_| anyhow!("it panicked"))?;
            let found = found.context("nobody")?;
            check!(busy, "the socket is not told as busy");
            check_eq!(
                (found.by, found.queue),
                (WaitsBy::Task, WaitQueue::Lock),
                "how"
            );
            check_eq!(
                (found.pid, found.tid),
                (Some(sys::getpid() as u32), Some(tid as u32)),
                "process and thread"
            );
            check_eq!(found.syscall, Some(libc::SYS_recvfrom), "system call");
            Ok(())
        })();
        if checked.is_err() {
            sys::zero_page(&fault, page, PAGE)?;
        }
        sender
            .join()
            .map_err(|_| anyhow!("the sender panicked"))??;
        checked
    })
}
