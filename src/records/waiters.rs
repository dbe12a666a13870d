// SPDX-License-Identifier: GPL-2.0

//! Records of the report `waiters`.

use super::common::ReportName;
use super::{Comm, Flag, Hex, Id, Maybe, Number, Signed, Str};

record! {
    /// The owner that the file of the `socket` before it sends signals to. Present if fcntl() has
    /// set an owner or O_ASYNC.
    Signal = 70 "signal" {
        /// The descriptor.
        fd: Number,
        /// O_ASYNC: the owner receives `signal` when the socket becomes readable or writable, has a
        /// connection, or is closed by the peer; 0: only SIGURG, when urgent data arrives.
        r#async: Flag,
        /// The kind of owner that F_SETOWN or F_SETOWN_EX has set.
        to: SignalTo,
        /// Its number in the initial pid namespace; 0 if there is none, or it no longer exists.
        pid: Signed,
        /// The signal of F_SETSIG; 0: SIGIO.
        signal: Number,
    }

    /// An entry of a wait queue of the `socket` before it.
    Waiter = 71 "waiter" {
        /// The descriptor.
        fd: Number,
        /// The wait queue.
        queue: WaitQueue,
        /// Its position in that queue, from 0.
        pos: Number,
        /// The kind of the entry, by its function.
        by: WaitsBy,
        /// The function that a wake-up calls, by its symbol; empty if there is none.
        function: Str,
        /// The module of this function, in brackets; empty: the kernel itself.
        module: Str,
        /// A wake-up ends with the first exclusive entry that accepts it; all other entries receive
        /// every wake-up.
        exclusive: Flag,
        /// The waiting task, of `task`, `poll` and `io_uring`.
        task: Maybe<Sleeper>,
        /// Its system call, of `task` and `poll`.
        call: Maybe<Call>,
        /// With `by=poll` and `io_uring`: the requested events, EPOLLIN etc., including those that
        /// the kernel adds.
        events: Maybe<Hex>,
        /// The request, of `io_uring`.
        request: Maybe<Request>,
        /// The socket that is polled, of `relay`.
        relayed: Maybe<Relay>,
    }

    /// The counts of the report `waiters`.
    WaitersSummary = 72 "summary" {
        /// `waiters`.
        report: ReportName,
        /// Descriptors that were examined.
        fds: Number,
        /// `socket` records.
        sockets: Number,
        /// `waiter` records.
        waiters: Number,
        /// Of `sockets`, those that are busy.
        busy: Number,
        /// Omitted entries.
        cut: Number,
    }
}

part! {
    /// A task that waits.
    Sleeper {
        /// With `by=task`, `poll` and `io_uring`: the process; for a request, its submitter.
        pid: Signed,
        /// With `pid`: its thread.
        tid: Signed,
        /// With `pid`: the name of the thread.
        comm: Comm,
    }

    /// A system call in which a task waits.
    Call {
        /// With `by=task` and `poll`: the thread is a kernel thread, or an io_uring worker that
        /// waits for a request of its process.
        worker: Flag,
        /// With `by=task` and `poll`: the system call in which it waits, as in /proc/PID/syscall:
        /// recv, send, accept, connect and others sleep in the same functions and differ in this
        /// key only; -1: none (`worker`), or the entry is not on the stack of the thread.
        syscall: Signed,
        /// With `by=task` and `poll`: the number is one of the 32-bit system call table.
        i386: Flag,
    }

    /// A request of an io_uring.
    Request {
        /// With `by=io_uring`: the ring.
        ring: Id,
        /// With `by=io_uring`: IORING_OP_*.
        opcode: Number,
        /// With `by=io_uring`: the value that the program gave it.
        user_data: Hex,
    }

    /// A socket that is polled through another.
    Relay {
        /// With `by=relay`: the socket that is polled.
        relay: Id,
        /// With `by=relay`: its inode; 0 if no process has it open.
        relay_inode: Number,
    }
}

enumeration! {
    /// A kind of owner that signals are sent to.
    SignalTo else "to_" {
        NONE = 0 "none",
        THREAD = 1 "thread",
        PROCESS = 2 "process",
        GROUP = 3 "group",
    }

    /// A wait queue of a socket.
    WaitQueue else "queue_" {
        /// Waiters for data, for send buffer space, for a connection, or for the end of connect().
        SOCKET = 0 "socket",
        /// Of a unix socket: senders of a datagram or a connection that find its queue full.
        ROOM = 1 "room",
        /// Tasks that wait for the socket lock.
        LOCK = 2 "lock",
    }

    /// The kind of an entry of a wait queue.
    WaitsBy else "by_" {
        /// A sleeping task.
        TASK = 0 "task",
        /// A task in select() or poll().
        POLL = 1 "poll",
        /// An epoll set contains the socket.
        EPOLL = 2 "epoll",
        /// A request that waits for the socket.
        IO_URING = 3 "io_uring",
        /// A unix datagram socket that is connected to this one is polled for write: the wake-up is
        /// forwarded to its own pollers.
        RELAY = 4 "relay",
        /// Unknown to ravel.
        OTHER = 5 "other",
    }
}
