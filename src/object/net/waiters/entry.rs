// SPDX-License-Identifier: GPL-2.0

//! Entries of wait queues, read by the function that wakes each.

use super::{Function, Functions, Wakes};
use crate::bindings;
use crate::object::{process::Comm, sync::id::Id, sync::read_once};
use core::{
    ffi::c_void,
    mem::{align_of, offset_of},
    ptr::NonNull,
};

/// An entry as it was when it was looked at.
pub(crate) struct Waiter {
    pub(crate) function: Function,
    /// A wake-up reaches only one of those.
    pub(crate) exclusive: bool,
    pub(crate) target: Target,
}

/// What an entry wakes.
pub(crate) enum Target {
    /// A task that sleeps in the kernel.
    Task(Sleeper),
    /// A task in select() or poll().
    Poll {
        task: Sleeper,
        /// `EPOLL*`: what it waits for.
        events: u32,
    },
    /// An epoll set.
    Epoll,
    /// A request of an io_uring.
    Request {
        /// The task that made it.
        task: Sleeper,
        events: u32,
        ring: Id,
        opcode: u8,
        user_data: u64,
    },
    /// The pollers of a unix socket that is connected to this one.
    Relay {
        socket: Id,
        /// 0: no process has it open.
        inode: u64,
    },
    /// Something that ravel does not follow.
    Other,
}

/// A task. Pids are those of the initial namespace.
pub(crate) struct Sleeper {
    pub(crate) pid: i32,
    pub(crate) tid: i32,
    pub(crate) comm: Comm,
    /// A thread of the kernel, or a worker of an io_uring: there is no system call.
    pub(crate) worker: bool,
    /// The number of its system call; none where that is not known.
    pub(crate) syscall: Option<i32>,
    /// The number is one of a 32-bit program.
    pub(crate) i386: bool,
}

/// Reads an entry.
///
/// # Safety
///
/// The entry is in a queue that is locked.
pub(super) unsafe fn read(
    entry: NonNull<bindings::wait_queue_entry>,
    functions: &mut Functions,
) -> Waiter {
    let entry = entry.as_ptr();
    // SAFETY: The queue is locked, by the caller, and the entry's function is the one that each of
    // these is for: a wake-up, which could come as soon as the lock is free, would follow it
    // likewise.
    unsafe {
        let function = Function((*entry).func.map_or(0, |function| function as usize));
        let target = match functions.wakes(function) {
            Wakes::Task => Target::Task(Sleeper::of((*entry).private.cast(), entry.cast())),
            Wakes::Poll => poll(entry),
            Wakes::Request => request(entry),
            Wakes::Relay => relay(entry),
            Wakes::Epoll => Target::Epoll,
            Wakes::Other => Target::Other,
        };
        Waiter {
            function,
            exclusive: (*entry).flags & bindings::WQ_FLAG_EXCLUSIVE != 0,
            target,
        }
    }
}

impl Sleeper {
    /// Reads a task that an entry would wake, and that therefore stays. `frame` is of the entry's:
    /// where it lies on the task's own stack, that stays as well, and with it the registers with
    /// which the task entered the kernel. It has not returned, for it takes the entry out first.
    ///
    /// # Safety
    ///
    /// The entry's queue is locked.
    unsafe fn of(task: *mut bindings::task_struct, frame: *const c_void) -> Self {
        // SAFETY: The entry keeps the task while its queue is locked.
        unsafe {
            let mut sleeper = Self::without_call(task);
            let stack = (*task).stack.addr();
            let on_stack = stack..stack.wrapping_add(bindings::RAVEL_THREAD_SIZE);
            if !sleeper.worker && on_stack.contains(&frame.addr()) {
                sleeper.syscall = Some(bindings::task_syscall_nr(task));
                sleeper.i386 = bindings::syscall_get_arch(task) as u32 == bindings::AUDIT_ARCH_I386;
            }
            sleeper
        }
    }

    /// # Safety
    ///
    /// Something keeps the task.
    unsafe fn without_call(task: *mut bindings::task_struct) -> Self {
        const WORKERS: u32 = bindings::PF_KTHREAD | bindings::PF_USER_WORKER;

        // SAFETY: By the caller.
        unsafe {
            Self {
                pid: (*task).tgid,
                tid: (*task).pid,
                comm: Comm::of(task),
                worker: read_once!((*task).flags) & WORKERS != 0,
                syscall: None,
                i386: false,
            }
        }
    }
}

/// The function is pollwake(): select(), poll() and the like.
///
/// # Safety
///
/// The entry's queue is locked, and that is its function.
unsafe fn poll(entry: *mut bindings::wait_queue_entry) -> Target {
    // SAFETY: The entry is part of a poll_table_entry, and leads to the table of the task that
    // polls.
    unsafe {
        let table = (*entry).private.cast::<bindings::poll_wqueues>();
        let of = entry
            .wrapping_byte_sub(offset_of!(bindings::poll_table_entry, wait))
            .cast::<bindings::poll_table_entry>();
        Target::Poll {
            task: Sleeper::of((*table).polling_task, table.cast()),
            events: (*of).key,
        }
    }
}

/// The function is io_poll_wake(). A request is taken out of the queue before it ends, and until
/// then has a reference to the task that made it, which keeps what io_uring knows of the task.
///
/// # Safety
///
/// The entry's queue is locked, and that is its function.
unsafe fn request(entry: *mut bindings::wait_queue_entry) -> Target {
    // The lowest bits mark a second entry.
    let marks = align_of::<bindings::io_kiocb>().wrapping_sub(1);
    // SAFETY: The entry is part of an io_poll, and leads to its request.
    unsafe {
        let request = (*entry)
            .private
            .map_addr(|addr| addr & !marks)
            .cast::<bindings::io_kiocb>();
        Target::Request {
            task: Sleeper::without_call((*(*request).tctx).task),
            events: bindings::io_poll_events(entry),
            ring: Id::of((*request).ctx),
            opcode: (*request).opcode,
            user_data: (*request).cqe.user_data,
        }
    }
}

/// The function is unix_dgram_peer_wake_relay(): the entry is part of a unix_sock that is connected
/// to this one and was polled for room. It takes the entry out before it is freed.
///
/// # Safety
///
/// The entry's queue is locked, and that is its function.
unsafe fn relay(entry: *mut bindings::wait_queue_entry) -> Target {
    let from = entry
        .wrapping_byte_sub(offset_of!(bindings::unix_sock, peer_wake))
        .cast::<bindings::unix_sock>();
    Target::Relay {
        socket: Id::of(from),
        // SAFETY: The socket stays while its entry is in the queue, which is locked.
        inode: unsafe { read_once!((*from).sk.sk_ino) },
    }
}
