// SPDX-License-Identifier: GPL-2.0

//! Records of the reports on processes and open files: `lineage`, `sharers`.

use super::common::{ProcessState, Relation, ReportName};
use super::{Comm, Flag, Id, Number, Signed};

record! {
    /// A process of the tree.
    Process = 40 "process" {
        /// Its number in the initial pid namespace.
        pid: Signed,
        /// Its relation to the requested process, along `real_parent`; `other`: neither ancestor
        /// nor descendant, but it has the same address space, traces it or is traced by it.
        role: Relation,
        /// The distance in generations: 1 for the parent and for a child, 0 for `self` and `other`.
        generation: Number,
        /// Its name.
        comm: Comm,
        /// Whether any of its threads runs.
        state: ProcessState,
        /// The process of its `real_parent`: the one that forked it, or the one that it was
        /// reparented to; 0 for none. The kernel does not record which process forked an orphan.
        parent: Signed,
        /// The process that traces its main thread (ptrace) and receives its signals instead of the
        /// parent; 0 for none.
        tracer: Signed,
        /// Its number in its own pid namespace.
        ns_pid: Signed,
        /// Its threads.
        threads: Number,
        /// The time of its fork, since boot.
        born_ns: Number [ns],
        /// It has called exec() since it was forked.
        exec: Flag,
        /// Its creator waits until it exits or calls exec().
        vfork: Flag,
        /// It is the init of its pid namespace, to which orphans are reparented.
        init: Flag,
        /// Orphans among its descendants are reparented to it (`PR_SET_CHILD_SUBREAPER`).
        subreaper: Flag,
        /// It shares the address space of the requested process (CLONE_VM, vfork); 1 for `self`. If
        /// its threads differ in this, a running thread is used.
        same_vm: Flag,
        /// It shares its descriptor table (CLONE_FILES), likewise.
        same_files: Flag,
        /// It shares its root, working directory and umask (CLONE_FS), likewise.
        same_fs: Flag,
    }

    /// The namespaces of the `process` before it, by the inode numbers that `/proc/PID/ns` shows. 0
    /// if the process has released it, as a zombie has, and if the kernel was built without that
    /// kind.
    Namespaces = 41 "namespaces" {
        /// The process.
        pid: Signed,
        /// Of control groups.
        cgroup_ns: Number,
        /// Of System V IPC and message queues.
        ipc_ns: Number,
        /// Of the network.
        net_ns: Number,
        /// Of pids.
        pid_ns: Number,
        /// Of the pids of its next children.
        pid_ns_for_children: Number,
        /// Of clocks.
        time_ns: Number,
        /// Of the clocks of its next children.
        time_ns_for_children: Number,
        /// Of users.
        user_ns: Number,
        /// Of the host name.
        uts_ns: Number,
    }

    /// The open files that a process shares with the requested one.
    Shared = 42 "shared" {
        /// The process.
        pid: Signed,
        /// Descriptors of this process that were examined.
        fds: Number,
        /// Of `fds`, those of an open file that the requested process also has open, under any
        /// number.
        files: Number,
        /// Of `files`, those that are sockets.
        sockets: Number,
        /// Descriptors after the first 16384.
        cut: Number,
    }

    /// A thread of the requested process; at most 1024.
    Thread = 43 "thread" {
        /// Its number.
        tid: Signed,
        /// Its name.
        comm: Comm,
    }

    /// The counts of the report `lineage`.
    LineageSummary = 44 "summary" {
        /// `lineage`.
        report: ReportName,
        /// `process` records of ancestors.
        ancestors: Number,
        /// `process` records of descendants.
        descendants: Number,
        /// `process` records of others.
        others: Number,
        /// `thread` records.
        threads: Number,
        /// Descriptors of the process itself that were compared.
        fds: Number,
        /// Processes that could not be read because their ancestors were reaped.
        moved: Number,
        /// Ancestors, threads and descriptors that exceed a limit, and processes more than 1024
        /// generations below the first one.
        cut: Number,
    }

    /// The open file that the report `sharers` is about.
    File = 45 "file" {
        /// The requested descriptor.
        fd: Number,
        /// Its inode.
        inode: Number,
        /// It is a socket.
        socket: Flag,
        /// An epoll set contains it, which holds no reference.
        watched: Flag,
    }

    /// A holder of the open file.
    Sharer = 46 "sharer" {
        /// The process.
        pid: Signed,
        /// The name of the task through which it was found.
        comm: Comm,
        /// The descriptor; for `message` and `ring`, that of the unix socket or of the ring.
        fd: Number,
        /// How it holds the file.
        holds: Holds,
        /// The descriptor table: processes may share one (CLONE_FILES), and threads may have their
        /// own.
        table: Id,
        /// References counted in this record; 0 if the same references were reported already, for
        /// another process with the same table, or for another descriptor of the same socket or
        /// ring.
        counted: Number,
    }

    /// The counts of the report `sharers`.
    SharersSummary = 47 "summary" {
        /// `sharers`.
        report: ReportName,
        /// Tasks that were examined.
        tasks: Number,
        /// Descriptors that were examined.
        fds: Number,
        /// `sharer` records.
        sharers: Number,
        /// References to the file before the walk, without those of readers of `sharers`.
        refs_before: Number,
        /// References to the file after the walk, likewise.
        refs: Number,
        /// References of the sharers.
        named: Number,
        /// `refs` minus `named`: held by a system call in progress, by a socket that is itself in a
        /// message, temporarily by epoll or io_uring, or by the kernel.
        unnamed: Number,
        /// `refs_before` and `refs` differ, or `refs` is less than `named`.
        moved: Flag,
        /// Rings that were in use for 100 ms, and messages after the first 65536 of a socket, where
        /// each descriptor in them counts as one more.
        missed: Number,
        /// Omitted sharers: those after the first 4096, and those after 16384 places with
        /// references, where they count as `unnamed`.
        cut: Number,
    }
}

enumeration! {
    /// How an open file is held.
    Holds else "holder_" {
        /// By a descriptor.
        DESCRIPTOR = 0 "descriptor",
        /// In messages (SCM_RIGHTS) that this unix socket has received and that are not read, or
        /// that are queued in a connection that is not accepted from it.
        MESSAGE = 1 "message",
        /// Registered with this io_uring.
        RING = 2 "ring",
    }
}
