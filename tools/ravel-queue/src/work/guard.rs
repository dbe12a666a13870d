//! Kills a job's processes when their worker dies, or does not renew its claim on the job in time.
//!
//! The jobs of a worker are in a process group of their own, which the guard leads. It reads from a pipe until when the
//! jobs are the worker's, and kills the group at that time, or at the end of the pipe, of which the worker alone holds
//! the other end: another worker will be given the job, and it must not run twice at once. The worker may be stopped,
//! or hang in a write to its stderr; the machine may be suspended, during which the time goes on.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use crate::clock::Moment;

/// The guard's side: waits, then kills its own group.
pub fn run() -> io::Result<()> {
    // What ends a job is not to end this.
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::<AtomicBool>::default())?;
    }
    // Whatever goes wrong here, nobody would guard the jobs any more.
    let _ = stand();
    Ok(kill_process_group(
        rustix::process::getpgrp(),
        Signal::KILL,
    )?)
}

/// Returns at the deadline, or when the worker has died.
fn stand() -> io::Result<()> {
    // Without a buffer: what is in it, poll() does not see.
    let mut input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let timer = timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC)?;
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(timer.as_fd(), PollFlags::IN),
            PollFd::new(&input, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            polled => polled?,
        };
        let [timer_has, input_has] = fds.map(|fd| fd.revents());
        // The pipe first: it may have a later deadline, written in time.
        if !input_has.is_empty() {
            let mut last = [0; 8];
            input.read_exact(&mut last)?;
            arm(&timer, u64::from_ne_bytes(last))?;
        } else if !timer_has.is_empty() {
            return Ok(());
        }
    }
}

/// Sets the timer to a moment, in nanoseconds since the boot; 0 stops it.
fn arm(timer: &impl AsFd, nanos: u64) -> io::Result<()> {
    let value = match nanos {
        0 => Timespec::default(),
        nanos => Moment::from_nanos(nanos).timespec(),
    };
    let times = Itimerspec {
        it_interval: Timespec::default(),
        it_value: value,
    };
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &times)?;
    Ok(())
}

/// The worker's side.
pub struct Guard {
    child: Child,
    /// Ends when this program does.
    pipe: ChildStdin,
    group: Pid,
    /// The deadline that it knows.
    deadline: Option<Moment>,
}

impl Guard {
    /// Starts one.
    pub fn start() -> io::Result<Self> {
        // The program that runs, also where another has taken its place in the file system.
        let mut child = Command::new("/proc/self/exe")
            .arg0("ravel-queue")
            .arg("guard-jobs")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()?;
        let group = Pid::from_child(&child);
        let pipe = child.stdin.take();
        let pipe = pipe.ok_or_else(|| io::Error::other("no pipe to the guard"))?;
        // A guard that does not read is one that does not guard.
        fcntl_setfl(&pipe, fcntl_getfl(&pipe)? | OFlags::NONBLOCK)?;
        Ok(Self {
            child,
            pipe,
            group,
            deadline: None,
        })
    }

    /// Sets the deadline at which the guard kills the jobs. A slightly later one than it knows is not written at once:
    /// that would cost as much as a short job.
    pub fn hold_until(&mut self, deadline: Moment) -> io::Result<()> {
        if let Some(known) = self.deadline {
            let left = known.left();
            if known <= deadline && deadline.since(known) < left / 4 {
                return Ok(());
            }
        }
        self.write(deadline.as_nanos())?;
        self.deadline = Some(deadline);
        Ok(())
    }

    /// Clears the deadline: no job is running.
    pub fn stand_down(&mut self) -> io::Result<()> {
        match self.deadline.take() {
            Some(_) => self.write(0),
            None => Ok(()),
        }
    }

    fn write(&mut self, nanos: u64) -> io::Result<()> {
        match self.pipe.write(&nanos.to_ne_bytes()) {
            Ok(8) => Ok(()),
            Ok(_) => Err(ErrorKind::WriteZero.into()),
            Err(error) => Err(error),
        }
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
    pub fn kill(self) {
        drop(self);
    }

    /// Whether it still stands guard.
    pub fn stands(&self) -> bool {
        // It stays a zombie until all of its group have been killed: no other group gets its number before.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(waitid(WaitId::Pid(self.group), look), Ok(None))
    }

    /// Whether it can guard further jobs: it stands, and its last deadline is not about to pass.
    pub fn is_usable(&self) -> bool {
        let is_near = |deadline: Moment| deadline.left() < Duration::from_millis(50);
        self.stands() && !self.deadline.is_some_and(is_near)
    }

    /// Whether it has killed the jobs, or is about to, since their time was over.
    pub fn is_due(&self) -> bool {
        self.deadline.is_some_and(Moment::is_over)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}
