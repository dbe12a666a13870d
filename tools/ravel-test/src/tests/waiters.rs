// SPDX-License-Identifier: GPL-2.0
//! Report waiters: who waits on a socket and how, compared with what the test has them do, and with
//! /proc/PID/syscall.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use io_uring::{IoUring, opcode, types};
use ravel_records::{SignalTo, SocketWaiters, WaitQueue, Waiter, WaitersReport, WaitsBy};

use super::peers::{full_pair, pair, wait_for};
use crate::module::report_text;
use crate::process::Child;
use crate::sys::{self, Address, Owner, PAGE, Pid};
use crate::{check, check_eq, tests, tier};

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

fn blocked_in_recv() -> Result<()> {
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

fn blocked_in_send() -> Result<()> {
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

fn blocked_in_accept() -> Result<()> {
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

fn blocked_in_connect() -> Result<()> {
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

fn waits_for_room_in_another_socket() -> Result<()> {
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

fn waits_for_the_lock() -> Result<()> {
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

const IN: u64 = libc::EPOLLIN as u64;
const OUT: u64 = libc::EPOLLOUT as u64;

fn in_select_and_poll() -> Result<()> {
    let (one, _two, _) = full_pair()?;
    type Call<'a> = Box<dyn Fn() + 'a>;
    let poll = |events| {
        let one = &one;
        Box::new(move || drop(sys::poll(one, events, -1))) as Call<'_>
    };
    let select = |write| {
        let one = &one;
        Box::new(move || drop(sys::select(one, write))) as Call<'_>
    };
    let ways = [
        (libc::SYS_poll, poll(libc::POLLIN), IN),
        (libc::SYS_poll, poll(libc::POLLOUT), OUT),
        (libc::SYS_poll, poll(libc::POLLIN | libc::POLLOUT), IN | OUT),
        (libc::SYS_select, select(false), IN),
        (libc::SYS_select, select(true), OUT),
    ];
    for (number, call, events) in ways {
        let child = sleeper(number, call)?;
        let found = only(&one)?;
        check_eq!(
            (&found.by, &found.queue),
            (&WaitsBy::Poll, &WaitQueue::Socket),
            "how"
        );
        check_eq!(found.function.to_string(), "pollwake", "function");
        let pid = Some(child.pid as u32);
        check_eq!((found.pid, found.tid), (pid, pid), "who polls");
        check_eq!(
            (found.syscall, found.i386, found.worker),
            (Some(number), Some(false), Some(false)),
            "system call"
        );
        let asked = found.events.map_or(0, |events| events.0 & (IN | OUT));
        check_eq!(asked, events, "events of system call {number}");
    }
    Ok(())
}

fn in_a_system_call_of_32_bit() -> Result<()> {
    if !fs::read_to_string("/proc/kallsyms")?.contains("int80_emulation") {
        // Without CONFIG_IA32_EMULATION nobody can be in one.
        check!(
            tier::is_debug(),
            "this kernel has no system calls of 32 bit"
        );
        return Ok(());
    }
    let (one, _two) = pair()?;
    let child = Child::spawn(|_| {
        sys::read_i386(&one);
        bail!("it came back")
    })?;
    let mut found = None;
    wait_for("the child's sleep", || {
        found = own(&one)?.waiters.pop();
        Ok(found.is_some())
    })?;
    let found = found.context("nobody")?;
    check_eq!(found.pid, Some(child.pid as u32), "who waits");
    check_eq!(
        (found.syscall, found.i386),
        (Some(3), Some(true)),
        "system call"
    );
    check_eq!(call_by_proc(child.pid)?, Some(3), "system call by /proc");
    Ok(())
}

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

fn in_epoll_sets() -> Result<()> {
    let us = sys::getpid();
    let (one, mut two) = pair()?;
    let (edge, once) = (libc::EPOLLET as u32, libc::EPOLLONESHOT as u32);
    let (exclusive, wanted) = (libc::EPOLLEXCLUSIVE as u32, libc::EPOLLIN as u32);
    let kinds = [0, edge, exclusive, edge | exclusive, once];
    let mut all = Vec::new();
    for kind in kinds {
        let set = sys::epoll()?;
        sys::epoll_add(&set, &one, wanted | kind)?;
        all.push((set, kind));
    }
    let mut child = sleeper(libc::SYS_epoll_wait, || sys::epoll_wait(&all[1].0, -1))?;
    let found = own(&one)?;
    for waiter in &found.waiters {
        check_eq!(
            (&waiter.by, &waiter.queue),
            (&WaitsBy::Epoll, &WaitQueue::Socket),
            "how"
        );
        check_eq!(waiter.function.to_string(), "ep_poll_callback", "function");
        check_eq!(
            (waiter.pid, waiter.syscall),
            (None, None),
            "pid and system call"
        );
    }
    check_eq!(found.waiters.len(), kinds.len(), "entries");
    // The exclusive ones go to the queue's end.
    let marks: Vec<bool> = found
        .waiters
        .iter()
        .map(|waiter| waiter.exclusive)
        .collect();
    check_eq!(marks, [false, false, false, true, true], "exclusive");

    // Which sets they are: ours, and the child's, which fork() gave it.
    let inode = found.socket.inode;
    let always = (libc::EPOLLERR | libc::EPOLLHUP) as u32;
    let told = sets(us, inode)?;
    check_eq!(told.len(), 2 * kinds.len(), "sets by the CLI: {told:?}");
    for (set, kind) in &all {
        let fd = set.as_raw_fd();
        for pid in [us, child.pid] {
            let of: Vec<_> = told
                .iter()
                .filter(|told| told["pid"] == pid && told["fd"] == fd)
                .collect();
            check_eq!(of.len(), 1, "sets with descriptor {fd} of {pid}");
            let events = format!("{:#x}", wanted | always | kind);
            check_eq!(of[0]["events"].as_str(), Some(&*events), "events");
            check_eq!(
                of[0]["target"].as_i64(),
                Some(one.as_raw_fd().into()),
                "target"
            );
            let waits = pid == child.pid && fd == all[1].0.as_raw_fd();
            let threads = of[0]["threads"].as_array().map(Vec::len);
            check_eq!(threads, Some(waits.into()), "threads at the set");
        }
    }
    child.kill()?;

    // What has fired once has no events left.
    std::io::Write::write_all(&mut two, b"x")?;
    wait_for("the byte", || Ok(sys::poll(&one, libc::POLLIN, 0)?))?;
    check_eq!(
        sys::epoll_wait(&all[4].0, 1000)?,
        Some(wanted),
        "the one shot"
    );
    let told = sets(us, inode)?;
    let spent = all[4].0.as_raw_fd();
    let spent = told.iter().find(|told| told["fd"] == spent);
    check_eq!(
        spent.context("not told")?["events"].as_str(),
        Some(&*format!("{once:#x}")),
        "events of what has fired"
    );
    check_eq!(own(&one)?.waiters.len(), kinds.len(), "entries then");
    drop(all);
    check!(
        own(&one)?.waiters.is_empty(),
        "entries of sets that are closed"
    );
    Ok(())
}

fn in_io_uring() -> Result<()> {
    let (one, _two) = pair()?;
    let us = Some(sys::getpid() as u32);
    let mut ring = IoUring::new(8)?;
    let fd = types::Fd(one.as_raw_fd());
    let poll = opcode::PollAdd::new(fd, libc::POLLIN as u32)
        .build()
        .user_data(0xdead_beef_1234);
    sys::ring_submit(&mut ring, &poll)?;
    sys::ring_recv(&mut ring, &one, 77)?;
    let found = own(&one)?;
    check_eq!(found.waiters.len(), 2, "requests in {found:?}");
    for waiter in &found.waiters {
        check_eq!(
            (&waiter.by, &waiter.queue),
            (&WaitsBy::IoUring, &WaitQueue::Socket),
            "how"
        );
        check_eq!(waiter.function.to_string(), "io_poll_wake", "function");
        check_eq!((waiter.pid, waiter.tid), (us, us), "who made it");
        check_eq!(
            waiter.events.map_or(0, |events| events.0 & (IN | OUT)),
            IN,
            "events"
        );
        check_eq!(waiter.ring, found.waiters[0].ring, "ring");
        check_eq!(waiter.syscall, None, "system call");
    }
    let mut requests: Vec<_> = found
        .waiters
        .iter()
        .map(|waiter| (waiter.opcode, waiter.user_data.map(|data| data.0)))
        .collect();
    requests.sort_unstable();
    let want = [
        (
            Some(u32::from(opcode::PollAdd::CODE)),
            Some(0xdead_beef_1234),
        ),
        (Some(u32::from(opcode::Recv::CODE)), Some(77)),
    ];
    check_eq!(requests, want, "operation and user_data");
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let fd = types::Fd(listener.as_raw_fd());
    let none = std::ptr::null_mut();
    let mut other = IoUring::new(8)?;
    sys::ring_submit(
        &mut other,
        &opcode::Accept::new(fd, none, none.cast()).build(),
    )?;
    let accept = only(&listener)?;
    check_eq!(
        accept.opcode,
        Some(u32::from(opcode::Accept::CODE)),
        "operation"
    );
    check!(
        accept.ring != found.waiters[0].ring,
        "two rings have one id"
    );
    drop((ring, other));
    wait_for("the rings' end", || {
        Ok(own(&one)?.waiters.is_empty() && own(&listener)?.waiters.is_empty())
    })
}

fn worker_of_io_uring() -> Result<()> {
    let (one, _two) = pair()?;
    let (_kept, to) = sys::pipe(false)?;
    let mut ring = IoUring::new(8)?;
    // A splice is done by a worker, who sleeps as any task would.
    let fds = (types::Fd(one.as_raw_fd()), types::Fd(to.as_raw_fd()));
    let splice = opcode::Splice::new(fds.0, -1, fds.1, -1, 1).build();
    sys::ring_submit(&mut ring, &splice)?;
    let mut found = None;
    wait_for("the worker", || {
        found = own(&one)?.waiters.pop();
        Ok(found.is_some())
    })?;
    let found = found.context("nobody")?;
    check_eq!(
        (&found.by, &found.queue),
        (&WaitsBy::Task, &WaitQueue::Socket),
        "how"
    );
    check_eq!(
        (found.worker, found.syscall),
        (Some(true), Some(-1)),
        "worker, system call"
    );
    check_eq!(found.pid, Some(sys::getpid() as u32), "process");
    let tid = found.tid.context("no thread")?;
    let comm = fs::read_to_string(format!("/proc/self/task/{tid}/comm"))?;
    check_eq!(
        found.comm.map(|comm| comm.to_string()),
        Some(comm.trim().to_owned()),
        "name"
    );
    check!(comm.starts_with("iou-wrk-"), "name of the worker: {comm}");
    Ok(())
}

fn old_aio_is_told_by_its_function() -> Result<()> {
    let (one, _two) = pair()?;
    let child = Child::spawn(|link| {
        sys::aio_poll(&one)?;
        link.send("there")?;
        link.wait().map(drop)
    });
    let mut child = child?;
    check_eq!(child.link.recv()?, "there", "answer");
    let found = only(&one)?;
    check_eq!(
        (&found.by, &found.queue),
        (&WaitsBy::Unknown, &WaitQueue::Socket),
        "how"
    );
    check_eq!(found.function.to_string(), "aio_poll_wake", "function");
    check!(found.module.is_empty() && found.pid.is_none(), "{found:?}");
    Ok(())
}

fn signals_and_their_owners() -> Result<()> {
    let (one, _two) = pair()?;
    let us = sys::getpid();
    let signal = || own(&one)?.signal.context("no signal");
    let flags = sys::file_flags(&one)?;
    let mut child = Child::idle()?;
    sys::set_file_flags(&one, flags | libc::O_ASYNC)?;
    let found = signal()?;
    check_eq!(
        (found.r#async, found.to, found.pid, found.signal),
        (true, SignalTo::None, 0, 0),
        "O_ASYNC without an owner"
    );
    for (owner, kind, pid) in [
        (Owner::Process(child.pid), SignalTo::Process, child.pid),
        (Owner::Thread(us), SignalTo::Thread, us),
        (Owner::Group(sys::group()?), SignalTo::Group, sys::group()?),
        (Owner::Process(child.pid), SignalTo::Process, child.pid),
    ] {
        sys::set_owner(&one, owner)?;
        let found = signal()?;
        check_eq!((found.to, found.pid), (kind, pid as u32), "of {owner:?}");
    }
    sys::set_signal(&one, 35)?;
    check_eq!(signal()?.signal, 35, "signal of F_SETSIG");
    sys::set_file_flags(&one, flags)?;
    let found = signal()?;
    check_eq!(
        (found.r#async, found.pid),
        (false, child.pid as u32),
        "without O_ASYNC"
    );
    child.kill()?;
    let found = signal()?;
    check_eq!(
        (found.to, found.pid),
        (SignalTo::Process, 0),
        "of a process that is gone"
    );
    check!(
        own(&one)?.waiters.is_empty(),
        "it is no entry of a wait queue"
    );
    // O_NONBLOCK is told beside all that.
    check!(!own(&one)?.socket.nonblock, "nonblock");
    sys::set_file_flags(&one, flags | libc::O_NONBLOCK)?;
    check!(own(&one)?.socket.nonblock, "not nonblock");
    Ok(())
}

fn many_are_cut() -> Result<()> {
    const SETS: usize = 700;
    const TOLD: usize = 512;
    let (one, _two) = pair()?;
    sys::allow_descriptors(2048)?;
    let mut all = Vec::new();
    for _ in 0..SETS {
        all.push(sys::epoll_of(&one)?);
    }
    let report = waiters(sys::getpid())?;
    let found = report.socket(one.as_raw_fd() as u32).context("no record")?;
    check_eq!(found.waiters.len(), TOLD, "entries that are told");
    check_eq!(
        report.summary.waiters,
        TOLD as u64,
        "waiters in the summary"
    );
    check_eq!(report.summary.cut, (SETS - TOLD) as u64, "cut");
    let places: Vec<u64> = found.waiters.iter().map(|waiter| waiter.pos).collect();
    check!(places.into_iter().eq(0..TOLD as u64), "places: {found:?}");
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
    let long = Duration::from_secs(tier::scale(10, 30) as u64);
    while start.elapsed() < long {
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
