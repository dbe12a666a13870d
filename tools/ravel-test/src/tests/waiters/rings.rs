// SPDX-License-Identifier: GPL-2.0
//! Requests of an io_uring, and of its elder.

use std::fs;
use std::net::TcpListener;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use io_uring::{IoUring, opcode, types};
use ravel_records::{WaitQueue, WaitsBy};

use super::super::peers::{pair, wait_for};
use super::{IN, OUT, only, own};
use crate::process::Child;
use crate::sys;
use crate::{check, check_eq};

pub(super) fn in_io_uring() -> Result<()> {
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

pub(super) fn worker_of_io_uring() -> Result<()> {
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

pub(super) fn old_aio_is_told_by_its_function() -> Result<()> {
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
