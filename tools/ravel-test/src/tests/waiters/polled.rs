// SPDX-License-Identifier: GPL-2.0
//! Tasks in select() and poll(), and epoll sets.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail};
use ravel_records::{WaitQueue, WaitsBy};

use super::super::peers::{full_pair, pair, wait_for};
use super::{IN, OUT, call_by_proc, only, own, sets, sleeper, waiters};
use crate::process::Child;
use crate::sys;
use crate::{check, check_eq};

pub(super) fn in_select_and_poll() -> Result<()> {
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

pub(super) fn in_a_system_call_of_32_bit() -> Result<()> {
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

pub(super) fn in_epoll_sets() -> Result<()> {
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

pub(super) fn many_are_cut() -> Result<()> {
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
