//! The report `lineage`: the processes above and below a process, and what they share.

use serde::{Deserialize, Serialize};

use crate::body::{Body, check};
use crate::line::record;
use crate::{Error, Header, ProcessState, ReportName, Role, Text};

/// A whole report `lineage`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineageReport {
    /// Whose it is.
    pub header: Header,
    /// The process itself, its ancestors from the parent up, then the others by their pids.
    pub processes: Vec<Kin>,
    /// Threads of the process itself.
    pub threads: Vec<Thread>,
    /// The counts.
    pub summary: LineageSummary,
}

record! {
    /// A process of the tree.
    Kin {
        /// Its number in the initial pid namespace.
        pid: u32,
        /// What it is to the process asked for.
        role: Role,
        /// How many generations above or below.
        generation: u64,
        /// Its name.
        comm: Text,
        /// Whether a thread of it still runs.
        state: ProcessState,
        /// The process that is its real parent; 0 for none.
        parent: u32,
        /// The process that traces its main thread; 0 for none.
        tracer: u32,
        /// Its number in its own pid namespace.
        ns_pid: u32,
        /// How many threads it has.
        threads: u64,
        /// When it was forked, in nanoseconds since boot.
        born_ns: u64,
        /// It went through exec() since.
        exec: bool,
        /// Its maker waits until it exits or goes through exec().
        vfork: bool,
        /// Orphans of its pid namespace come to it.
        init: bool,
        /// Orphans among its descendants come to it.
        subreaper: bool,
        /// It has the address space of the process asked for.
        same_vm: bool,
        /// Its table of descriptors, too.
        same_files: bool,
        /// Its root, working directory and umask, too.
        same_fs: bool,
    }
    plus {
        /// Its namespaces.
        namespaces: Namespaces,
        /// What of its descriptors is shared; none for far ancestors, and where it has none.
        shared: Option<Shared>,
    }
}

record! {
    /// The namespaces of a process, by inode numbers as in /proc/PID/ns; 0 for what it has given up.
    #[derive(Default)]
    Namespaces {
        /// The process.
        pid: u32,
        /// Of control groups.
        cgroup_ns: u32,
        /// Of System V IPC and message queues.
        ipc_ns: u32,
        /// Of network.
        net_ns: u32,
        /// Of pids.
        pid_ns: u32,
        /// Of the pids of its next children.
        pid_ns_for_children: u32,
        /// Of clocks.
        time_ns: u32,
        /// Of the clocks of its next children.
        time_ns_for_children: u32,
        /// Of users.
        user_ns: u32,
        /// Of the host's name.
        uts_ns: u32,
    }
}

record! {
    /// What of a process' descriptors the process asked for has, too.
    Shared {
        /// The process.
        pid: u32,
        /// Descriptors that were looked at.
        fds: u64,
        /// Of these, those of an open file that the process asked for has open, too.
        files: u64,
        /// Of these, sockets.
        sockets: u64,
        /// Descriptors that were not looked at.
        cut: u64,
    }
}

record! {
    /// A thread.
    Thread {
        /// Its number.
        tid: u32,
        /// Its name.
        comm: Text,
    }
}

record! {
    /// The counts of a report `lineage`.
    LineageSummary {
        /// The report's name.
        report: ReportName,
        /// Ancestors told.
        ancestors: u64,
        /// Descendants told.
        descendants: u64,
        /// Others told.
        others: u64,
        /// Threads told.
        threads: u64,
        /// Descriptors of the process itself.
        fds: u64,
        /// Places that could not be told because processes ended meanwhile.
        moved: u64,
        /// What a bound left out.
        cut: u64,
    }
}

impl LineageReport {
    /// Parses a whole report; see [`Error`] for what a text may be instead.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let (header, mut body) = Body::open(text, &ReportName::Lineage)?;
        let mut processes: Vec<Kin> = Vec::new();
        let mut threads = Vec::new();
        while let Some(line) = body.next()? {
            match line.kind {
                "process" => processes.push(Kin::from_line(line)?),
                "namespaces" => {
                    let namespaces = Namespaces::from_line(line)?;
                    let of = processes.last_mut().filter(|of| of.pid == namespaces.pid);
                    of.ok_or_else(|| line.error("`namespaces` not under its `process`"))?
                        .namespaces = namespaces;
                }
                "shared" => {
                    let shared = Shared::from_line(line)?;
                    let of = processes.last_mut().filter(|of| of.pid == shared.pid);
                    of.ok_or_else(|| line.error("a `shared` not under its `process`"))?
                        .shared = Some(shared);
                }
                "thread" => threads.push(Thread::from_line(line)?),
                _ => {}
            }
        }
        let last = body.summary()?;
        let summary = LineageSummary::from_line(&last)?;
        let count = |role| processes.iter().filter(|of| of.role == role).count();
        for (key, stated, found) in [
            ("ancestors", summary.ancestors, count(Role::Ancestor)),
            ("descendants", summary.descendants, count(Role::Descendant)),
            ("others", summary.others, count(Role::Unrelated)),
            ("threads", summary.threads, threads.len()),
            ("processes asked for", 1, count(Role::Self_)),
        ] {
            check(&last, key, stated, found, 0)?;
        }
        Ok(Self {
            header,
            processes,
            threads,
            summary,
        })
    }

    /// The process asked for.
    pub fn itself(&self) -> Option<&Kin> {
        self.processes.iter().find(|of| of.role == Role::Self_)
    }

    /// A process by its pid.
    pub fn process(&self, pid: u32) -> Option<&Kin> {
        self.processes.iter().find(|of| of.pid == pid)
    }

    /// The processes whose parent is `pid`, in the order of pids.
    pub fn children(&self, pid: u32) -> impl Iterator<Item = &Kin> {
        self.processes
            .iter()
            .filter(move |of| of.parent == pid && of.role == Role::Descendant)
    }
}
