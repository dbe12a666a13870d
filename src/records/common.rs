// SPDX-License-Identifier: GPL-2.0

//! Records that all reports have, and those of the module itself.

use super::{Comm, Hex, Id, Number, Short, Signed, Str};

enumeration! {
    /// The name of a report.
    ReportName else "report_" {
        /// Anonymous memory: VMAs, their anon_vmas and the members of those.
        ANON_VMA = 1 "anon_vma",
        /// The sockets among the descriptors.
        SOCKETS = 2 "sockets",
        /// The sockets, and the sk_buffs in their queues.
        SKBS = 3 "skbs",
        /// The sockets, and what waits on them.
        WAITERS = 4 "waiters",
        /// Private memory, and with whom it is shared.
        COW = 5 "cow",
        /// Ancestors and descendants, and what they share.
        LINEAGE = 6 "lineage",
        /// Pages at some addresses, and who maps each.
        PAGE = 7 "page",
        /// anon_vma chains without their members, and the location of pages.
        CHAINS = 8 "chains",
        /// All holders of an open file.
        SHARERS = 9 "sharers",
        /// A request that names no report.
        QUERY = 10 "query",
        /// The list of attached processes.
        ATTACHED = 11 "attached",
        /// The list of locks.
        LOCKS = 12 "locks",
        /// A batch of events.
        EVENTS = 13 "events",
        /// The events that failed.
        FAILED = 14 "failed",
        /// The list of streams.
        STREAMS = 15 "streams",
        /// The list of sources of events.
        SOURCES = 16 "sources",
    }

    /// The error of a system call, by its symbolic name.
    Errno else "errno_" {
        /// The request or the process is not valid.
        EINVAL = 22 "EINVAL",
        /// There is no such process, or it has exited.
        ESRCH = 3 "ESRCH",
        /// No request was written.
        ENODATA = 61 "ENODATA",
        /// Out of memory.
        ENOMEM = 12 "ENOMEM",
        /// A fatal signal is pending.
        EINTR = 4 "EINTR",
        /// The process has no such descriptor.
        EBADF = 9 "EBADF",
        /// The buffer of the caller is not accessible.
        EFAULT = 14 "EFAULT",
        /// Any other error.
        EIO = 5 "EIO",
    }

    /// Whether a process runs.
    ProcessState else "state_" {
        /// It does.
        LIVE = 0 "live",
        /// None of its threads runs any more; a zombie has exited.
        EXITED = 1 "exited",
    }

    /// The relation of a process to the requested one, along `real_parent`.
    Relation else "relation_" {
        /// The same address space or process.
        ITSELF = 0 "self",
        /// A parent, or an ancestor of a parent.
        ANCESTOR = 1 "ancestor",
        /// A child, or a descendant of a child.
        DESCENDANT = 2 "descendant",
        /// Neither.
        OTHER = 3 "other",
        /// It is not `live`, or more than 1024 generations away.
        UNKNOWN = 4 "unknown",
    }
}

record! {
    /// The first record of a report.
    Report = 1 "report" {
        /// The name of the report.
        name: ReportName,
        /// The version of the format: 1.
        format: Number,
        /// The process, by its number in the initial pid namespace.
        pid: Signed,
        /// The name of the process, that of its main thread.
        comm: Comm,
        /// The release of the kernel.
        kernel: Str,
    }

    /// Replaces a report, or the rest of one.
    Error = 2 "error" {
        /// The name of the report, or `query`.
        report: ReportName,
        /// The process; 0 if the request named none.
        pid: Signed,
        /// The symbolic name of the error; `EIO` for one that has no name here.
        errno: Errno,
        /// The reason, in a sentence.
        message: Str,
    }

    /// The module.
    Version = 3 "version" {
        /// The version of the module.
        module: Str,
        /// The release of the kernel.
        kernel: Str,
        /// The version of the format.
        format: Number,
        /// A hash of the definitions of all records: the binary form of a module that has another
        /// one has other records.
        schema: Id,
    }

    /// An attached process.
    Attached = 4 "attached" {
        /// Its number in the initial pid namespace.
        pid: Signed,
        /// Its name; empty if it has exited.
        comm: Comm,
        /// Whether it runs.
        state: ProcessState,
    }

    /// The counts of the list of attached processes.
    AttachedSummary = 5 "summary" {
        /// `attached`.
        report: ReportName,
        /// `attached` records.
        attached: Number,
        /// The most processes that can be attached.
        limit: Number,
        /// Always 0.
        cut: Number,
    }

    /// The longest time that ravel has held a kind of lock since the module was loaded, or since
    /// `reset`: the longest delay that a hold can have caused.
    Lock = 6 "lock" {
        /// The kind of lock.
        name: LockName,
        /// The time; 0 if it was never held.
        longest_ns: Signed [ns],
    }

    /// The counts of the list of locks.
    LocksSummary = 7 "summary" {
        /// `locks`.
        report: ReportName,
        /// `lock` records.
        locks: Number,
        /// Always 0.
        cut: Number,
    }
}

enumeration! {
    /// A kind of lock.
    LockName else "lock_" {
        /// The lock of a process, or of one of its VMAs, for reading.
        MMAP = 0 "mmap_lock",
        /// The lock of the root of a tree of anon_vmas, for reading.
        ANON_VMA = 1 "anon_vma",
        /// The lock of the mappings of a file, for reading.
        I_MMAP = 2 "i_mmap",
        /// The spinlock of a socket, with bottom halves disabled.
        SOCKET = 3 "socket",
        /// The spinlock of a queue, with bottom halves disabled; of an error queue, with interrupts
        /// disabled.
        QUEUE = 4 "queue",
        /// The state lock of a unix socket.
        UNIX = 5 "unix",
        /// The spinlock of a wait queue, with interrupts disabled.
        WAIT = 6 "wait",
        /// A spinlock of a task, together with the one of its descriptor table.
        TASK = 7 "task_lock",
        /// The lock of an io_uring.
        URING = 8 "uring_lock",
    }
}

part! {
    /// The process that owns an address space.
    Owner {
        /// The process that owns the address space (`mm->owner`); 0 unless `state` is `live`.
        pid: Signed,
        /// The name of that process; empty if it is exiting.
        comm: Comm,
        /// Whether it can be named.
        state: OwnerState,
        /// The address space: it distinguishes processes.
        mm: Id,
        /// The relation of its process to the requested one.
        relation: Relation,
    }

    /// The bounds of a VMA.
    Bounds {
        /// Its first address (`vm_start`).
        start: Hex,
        /// The first address behind it (`vm_end`).
        end: Hex,
        /// `rwxp` as in /proc/PID/maps, `-` for a missing permission, `s` if shared.
        perms: Short,
    }
}

enumeration! {
    /// Whether the owner of an address space can be named.
    OwnerState else "state_" {
        /// It has a pid and a name.
        LIVE = 0 "live",
        /// fork() is creating it, and it has no pid yet.
        FORKING = 1 "forking",
        /// The owner has exited, its memory is not yet freed.
        EXITING = 2 "exiting",
    }
}
