//! What ends a job's processes when their worker dies, by whatever signal.
//!
//! The jobs of a worker are in a process group of their own, which the guard leads. It waits for the end of a pipe
//! that the worker alone holds the other end of, and then kills the group: another worker will be given the job, and
//! it must not run twice at once.

use std::env;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::{Pid, Signal, kill_process_group};

/// The guard's side: waits, then kills its own group.
pub fn run() -> io::Result<()> {
    // What ends a job is not to end this.
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::<AtomicBool>::default())?;
    }
    let mut end = Vec::new();
    io::stdin().read_to_end(&mut end)?;
    Ok(kill_process_group(
        rustix::process::getpgrp(),
        Signal::KILL,
    )?)
}

/// The worker's side.
pub struct Guard {
    child: Child,
    /// Ends when this program does.
    _pipe: Option<ChildStdin>,
    group: Pid,
}

impl Guard {
    /// Starts one.
    pub fn start() -> io::Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .arg("guard-jobs")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        let pipe = child.stdin.take();
        let group = Pid::from_child(&child);
        Ok(Self {
            child,
            _pipe: pipe,
            group,
        })
    }

    /// The group for jobs, as a new process wants it.
    pub fn group(&self) -> i32 {
        self.group.as_raw_nonzero().get()
    }

    /// Sends a signal to all processes of jobs.
    pub fn signal(&self, signal: Signal) {
        // None is left, perhaps: so much the better.
        let _ = kill_process_group(self.group, signal);
    }

    /// Kills them all, the guard too.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// Whether it still stands guard.
    pub fn stands(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}
