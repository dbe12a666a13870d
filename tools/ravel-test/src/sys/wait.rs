// SPDX-License-Identifier: GPL-2.0
//! System calls that wait, in whatever way, and that say who is told of what happens meanwhile.

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use io_uring::{IoUring, squeue};
use libc::c_int;

use super::{Pid, cvt, cvt_long};

/// select() for reading, or for writing, by the system call of that name.
pub fn select(fd: &impl AsRawFd, write: bool) -> io::Result<()> {
    let fd = fd.as_raw_fd();
    // SAFETY: All-zero is a valid fd_set, and it lives during the call; none is a valid pointer to one.
    unsafe {
        let mut set: libc::fd_set = zeroed();
        libc::FD_SET(fd, &raw mut set);
        let (none, set) = (ptr::null_mut(), &raw mut set);
        let (read, write) = if write { (none, set) } else { (set, none) };
        let none = ptr::null_mut::<libc::timeval>();
        cvt_long(libc::syscall(
            libc::SYS_select,
            fd + 1,
            read,
            write,
            none,
            none,
        ))
        .map(drop)
    }
}

/// A raw system call with a descriptor, no memory, and flags: accept4(), or read() of nothing.
pub fn accept4(fd: &impl AsRawFd) -> io::Result<OwnedFd> {
    let none = ptr::null_mut::<u8>();
    // SAFETY: No address is asked for; the descriptor is ours.
    unsafe {
        let fd = libc::syscall(libc::SYS_accept4, fd.as_raw_fd(), none, none, 0);
        Ok(OwnedFd::from_raw_fd(cvt_long(fd)? as c_int))
    }
}

/// read() of one byte by a 32-bit program's system call, which has number 3.
pub fn read_i386(fd: &impl AsRawFd) {
    // SAFETY: No memory is at address 0, so the kernel stores nothing. RBX is given back.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {fd}",
            "int 0x80",
            "xchg rbx, {fd}",
            fd = inout(reg) i64::from(fd.as_raw_fd()) => _,
            inout("rax") 3i64 => _,
            in("rcx") 0i64,
            in("rdx") 1i64,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
}

/// An epoll set with nothing in it.
pub fn epoll() -> io::Result<OwnedFd> {
    // SAFETY: The descriptor is ours.
    unsafe {
        Ok(OwnedFd::from_raw_fd(cvt(libc::epoll_create1(
            libc::EPOLL_CLOEXEC,
        ))?))
    }
}

/// EPOLL_CTL_ADD.
pub fn epoll_add(set: &impl AsRawFd, fd: &impl AsRawFd, events: u32) -> io::Result<()> {
    let mut event = libc::epoll_event { events, u64: 0 };
    let (set, fd) = (set.as_raw_fd(), fd.as_raw_fd());
    // SAFETY: The event lives during the call.
    cvt(unsafe { libc::epoll_ctl(set, libc::EPOLL_CTL_ADD, fd, &raw mut event) }).map(drop)
}

/// epoll_wait() for one event: its events.
pub fn epoll_wait(set: &impl AsRawFd, timeout_ms: c_int) -> io::Result<Option<u32>> {
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    // SAFETY: There is room for one event.
    let n = unsafe { libc::epoll_wait(set.as_raw_fd(), &raw mut event, 1, timeout_ms) };
    Ok((cvt(n)? > 0).then_some(event.events))
}

/// Who is sent signals of a file.
#[derive(Clone, Copy, Debug)]
pub enum Owner {
    /// One thread.
    Thread(Pid),
    /// A process.
    Process(Pid),
    /// A process group.
    Group(Pid),
}

/// fcntl(F_SETOWN_EX).
pub fn set_owner(fd: &impl AsRawFd, owner: Owner) -> io::Result<()> {
    // struct f_owner_ex: F_OWNER_TID, F_OWNER_PID and F_OWNER_PGRP, and a number.
    let pair: [c_int; 2] = match owner {
        Owner::Thread(tid) => [0, tid],
        Owner::Process(pid) => [1, pid],
        Owner::Group(group) => [2, group],
    };
    const F_SETOWN_EX: c_int = 15;
    // SAFETY: The pair lives during the call.
    cvt(unsafe { libc::fcntl(fd.as_raw_fd(), F_SETOWN_EX, pair.as_ptr()) }).map(drop)
}

/// fcntl(F_SETSIG).
pub fn set_signal(fd: &impl AsRawFd, signal: c_int) -> io::Result<()> {
    const F_SETSIG: c_int = 10;
    // SAFETY: No memory is involved.
    cvt(unsafe { libc::fcntl(fd.as_raw_fd(), F_SETSIG, signal) }).map(drop)
}

/// Sets the file's flags, such as O_NONBLOCK and O_ASYNC.
pub fn set_file_flags(fd: &impl AsRawFd, flags: c_int) -> io::Result<()> {
    // SAFETY: No memory is involved.
    cvt(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags) }).map(drop)
}

/// Hands one request to an io_uring.
///
/// # Safety
///
/// What the request points to lives until the ring is gone.
unsafe fn submit(ring: &mut IoUring, request: &squeue::Entry) -> io::Result<()> {
    // SAFETY: By the caller.
    unsafe { ring.submission().push(request) }.map_err(io::Error::other)?;
    ring.submit().map(drop)
}

/// Has an io_uring do something that needs no memory: poll, splice, accept.
pub fn ring_submit(ring: &mut IoUring, request: &squeue::Entry) -> io::Result<()> {
    // SAFETY: Used with requests that point to nothing.
    unsafe { submit(ring, request) }
}

/// Has an io_uring receive one byte.
pub fn ring_recv(ring: &mut IoUring, fd: &impl AsRawFd, user_data: u64) -> io::Result<()> {
    let byte = Box::leak(Box::new(0u8));
    let recv = io_uring::opcode::Recv::new(io_uring::types::Fd(fd.as_raw_fd()), byte, 1);
    // SAFETY: The byte is leaked.
    unsafe { submit(ring, &recv.build().user_data(user_data)) }
}

/// Watches a descriptor by the old asynchronous I/O (IOCB_CMD_POLL), until the process ends.
pub fn aio_poll(fd: &impl AsRawFd) -> io::Result<()> {
    // struct iocb, of 64 bytes: the operation is at 16, the descriptor at 20, the events at 24.
    let mut request = [0u32; 16];
    request[4] = 5;
    request[5] = fd.as_raw_fd() as u32;
    request[6] = libc::POLLIN as u32;
    let (mut context, list) = (0u64, [request.as_ptr()]);
    // SAFETY: The context's name is stored, and the request read, during the calls.
    unsafe {
        cvt_long(libc::syscall(libc::SYS_io_setup, 1, &raw mut context))?;
        cvt_long(libc::syscall(
            libc::SYS_io_submit,
            context,
            1,
            list.as_ptr(),
        ))
        .map(drop)
    }
}
