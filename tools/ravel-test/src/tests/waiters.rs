// SPDX-License-Identifier: GPL-2.0
//! Report waiters: who waits on a socket and how, compared with what the test has them do, and with
//! /proc/PID/syscall.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use io_uring::{IoUring, opcode, types};
use ravel_records::{SocketWaiters, Waiter, WaitersReport, WaitsBy};

use super::peers::{pair, wait_for};
use crate::module::report_text;
use crate::process::Child;
use crate::sys::{self, Pid};
use crate::{check, check_eq, tests, tier};

mod blocked;
mod polled;
mod rings;
mod signals;
pub(super) mod wild;

use blocked::{
    blocked_in_accept, blocked_in_connect, blocked_in_recv, blocked_in_send,
    waits_for_room_in_another_socket, waits_for_the_lock,
};
use polled::{in_a_system_call_of_32_bit, in_epoll_sets, in_select_and_poll, many_are_cut};
use rings::{in_io_uring, old_aio_is_told_by_its_function, worker_of_io_uring};
use signals::signals_and_their_owners;

tests!("waiters":
    nobody_waits,
    blocked_in_recv,
    blocked_in_send,
    blocked_in_accept,
    blocked_in_connect,
    waits_for_room_in_another_socket,
    waits_for_the_lock,
    in_select_and_poll,
    in_a_system_call_of_32_bit,
    in_epoll_sets,
    in_io_uring,
    worker_of_io_uring,
    old_aio_is_told_by_its_function,
    signals_and_their_owners,
    many_are_cut,
    while_they_come_and_go [120 s],
);

/// The report `waiters` of a process, by `query`.
fn waiters(pid: Pid) -> Result<WaitersReport> {
    let text = report_text("waiters", pid)?;
    WaitersReport::parse(&text).map_err(|e| anyhow!("{e}\n{}", String::from_utf8_lossy(&text)))
}

/// Who waits on one of our own descriptors.
fn own(fd: &impl AsRawFd) -> Result<SocketWaiters> {
    let report = waiters(sys::getpid())?;
    let found = report.socket(fd.as_raw_fd() as u32).cloned();
    found.with_context(|| format!("no record of descriptor {}", fd.as_raw_fd()))
}

/// The one who waits on it.
fn only(fd: &impl AsRawFd) -> Result<Waiter> {
    let found = own(fd)?;
    check_eq!(found.waiters.len(), 1, "waiters in {found:?}");
    Ok(found.waiters[0].clone())
}

/// The number of the system call in which a thread sleeps, by /proc.
fn call_by_proc(pid: Pid) -> Result<Option<i64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/syscall"))?;
    Ok(text
        .split(' ')
        .next()
        .and_then(|word| word.trim().parse().ok()))
}

/// Events that are asked for.
const IN: u64 = libc::EPOLLIN as u64;
const OUT: u64 = libc::EPOLLOUT as u64;

/// What `ravel sockets --waiters --json` says of the epoll sets that have a socket.
fn sets(pid: Pid, inode: u64) -> Result<Vec<serde_json::Value>> {
    let out = std::process::Command::new(crate::module::beside("ravel")?)
        .args(["sockets", "--waiters", "--json", &pid.to_string()])
        .output()?;
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    check!(out.status.success(), "the CLI says {errors}");
    let document: serde_json::Value = serde_json::from_slice(&out.stdout)?;
    let sets = document["epoll"].as_array().context("no epoll in it")?;
    Ok(sets
        .iter()
        .filter(|set| set["inode"] == inode)
        .cloned()
        .collect())
}

/// A child that does something for ever, once it sleeps in that system call.
fn sleeper<T>(number: libc::c_long, call: impl FnOnce() -> T) -> Result<Child> {
    let child = Child::spawn(|_| {
        call();
        bail!("it came back")
    })?;
    wait_for("the child's sleep", || {
        Ok(call_by_proc(child.pid)? == Some(number))
    })?;
    Ok(child)
}

fn nobody_waits() -> Result<()> {
    let (one, _two) = pair()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    for fd in [one.as_raw_fd(), listener.as_raw_fd()] {
        let found = own(&fd)?;
        check!(found.waiters.is_empty(), "{found:?}");
        check!(found.signal.is_none(), "{found:?}");
    }
    let report = waiters(sys::getpid())?;
    let fds = fs::read_dir("/proc/self/fd")?.count() as u64;
    // Each is one more while it is read: the folder, and the report.
    check_eq!(report.summary.fds, fds, "fds in the summary");
    check_eq!(report.summary.waiters, 0, "waiters in the summary");
    check_eq!(report.summary.cut, 0, "cut");
    Ok(())
}

fn while_they_come_and_go() -> Result<()> {
    let (tcp, tcp_peer) = pair()?;
    let (unix, unix_peer) = sys::socketpair(libc::SOCK_STREAM)?;
    let udp = UdpSocket::bind("127.0.0.1:0")?;
    let short = libc::timeval {
        tv_sec: 0,
        tv_usec: 1500,
    };
    for fd in [tcp.as_raw_fd(), unix.as_raw_fd(), udp.as_raw_fd()] {
        sys::set_option(&fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, short)?;
    }
    let fds = [tcp.as_raw_fd(), unix.as_raw_fd(), udp.as_raw_fd()];
    let mut children = Vec::new();
    for role in 0..4 {
        let peers = (tcp_peer.as_raw_fd(), unix_peer.as_raw_fd());
        children.push(Child::spawn(move |_| {
            let mut ring = IoUring::new(8)?;
            for round in 0u64.. {
                let fd = fds[(round % 3) as usize];
                match role {
                    0 => drop(sys::recv(&fd, 1, 0)),
                    1 => drop(sys::poll(&fd, libc::POLLIN, 1)),
                    2 => {
                        let set = sys::epoll()?;
                        sys::epoll_add(&set, &fd, libc::EPOLLIN as u32)?;
                        // What a ring has done may come in between.
                        if let Err(error) = sys::epoll_wait(&set, 1) {
                            check_eq!(sys::errno(&error), libc::EINTR, "epoll_wait()");
                        }
                        let poll = opcode::PollAdd::new(types::Fd(fd), libc::POLLIN as u32);
                        sys::ring_submit(&mut ring, &poll.build())?;
                        if ring.completion().count() > 0 || round % 8 == 7 {
                            ring = IoUring::new(8)?;
                        }
                    }
                    // Whoever waits is woken now and then.
                    _ => {
                        sys::send(&peers.0, b"x", libc::MSG_DONTWAIT).ok();
                        sys::send(&peers.1, b"x", libc::MSG_DONTWAIT).ok();
                        std::thread::sleep(Duration::from_micros(300));
                    }
                }
            }
            Ok(())
        })?);
    }
    let pids: Vec<u32> = children.iter().map(|child| child.pid as u32).collect();
    let us = sys::getpid();
    let (start, mut seen, mut reports) = (Instant::now(), [0u64; 4], 0);
    let longest = tier::moving() + tier::patience(20);
    while start.elapsed() < tier::moving() || (seen.contains(&0) && start.elapsed() < longest) {
        let report = waiters(us)?;
        reports += 1;
        for waiter in report.sockets.iter().flat_map(|of| &of.waiters) {
            let (at, functions, calls) = match waiter.by {
                WaitsBy::Task => (
                    0,
                    &[
                        "woken_wake_function",
                        "autoremove_wake_function",
                        "receiver_wake_function",
                    ][..],
                    &[libc::SYS_recvfrom][..],
                ),
                WaitsBy::Poll => (
                    1,
                    &["pollwake"][..],
                    &[libc::SYS_poll, libc::SYS_restart_syscall][..],
                ),
                WaitsBy::Epoll => (2, &["ep_poll_callback"][..], &[][..]),
                WaitsBy::IoUring => (3, &["io_poll_wake"][..], &[][..]),
                _ => bail!("nobody waits so: {waiter:?}"),
            };
            seen[at] += 1;
            let function = waiter.function.to_string();
            check!(functions.contains(&&*function), "function of {waiter:?}");
            if let Some(number) = waiter.syscall {
                check!(calls.contains(&number), "system call of {waiter:?}");
            }
            if let Some(pid) = waiter.pid {
                check!(pids.contains(&pid), "not one of {pids:?}: {waiter:?}");
            }
        }
    }
    let locks = fs::read_to_string("/sys/kernel/debug/ravel/locks")?;
    let held = locks
        .lines()
        .find(|line| line.starts_with("lock name=wait "));
    println!("longest: {}", held.context("no such lock")?);
    println!("{reports} reports: {seen:?} blocked, polling, epoll, io_uring");
    check!(
        seen.iter().all(|number| *number > 0),
        "not all were met: {seen:?}"
    );
    for child in &mut children {
        child.kill()?;
    }
    Ok(())
}
