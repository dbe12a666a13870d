//! A command that does jobs.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::guard::Guard;
use super::hold::Held;
use super::job::How;
use crate::cli::Work;

/// How the job ended whose turn it was.
#[derive(Debug)]
pub enum RunEnd {
    /// It is done.
    Done,
    /// It is not, and the command can be given no other.
    Failed(How, String),
    /// The command says that it could not do this one.
    Refused(String),
}

/// A command at its work.
pub trait Slot {
    /// Its process.
    fn pid(&self) -> Pid;
    /// What to wait for until there may be something to be seen, or to be done.
    fn events(&self) -> Vec<PollFd<'_>>;
    /// Gives it jobs, as far as it takes them without being waited for, and one where it has none: how many.
    fn feed(&mut self, jobs: &mut dyn Iterator<Item = &Held>) -> usize;
    /// How the job ended whose turn it was, if it has.
    fn look(&mut self) -> io::Result<Option<RunEnd>>;
    /// It is to be given no more jobs.
    fn close(&mut self);
    /// Whether it is to be given no more once it has none.
    fn is_over(&self) -> bool;
    /// Ends it at once.
    fn kill(&mut self);
}

/// A process for one job.
pub struct Once {
    child: Child,
    ended: OwnedFd,
    given: bool,
}

impl Once {
    /// Starts one for a job.
    pub fn start(args: &Work, held: &Held, guard: &Guard) -> io::Result<Self> {
        // A file, not a pipe: nobody has to feed it, and it may be read twice.
        let mut input = File::from(rustix::fs::memfd_create("job", MemfdFlags::CLOEXEC)?);
        input.write_all(held.reserved.job())?;
        input.rewind()?;
        let attempt = held.reserved.attempts.unwrap_or(1);
        let child = command(&args.command, &args.queue.queue, guard)?
            .env("RAVEL_JOB", &held.job.id)
            .env("RAVEL_ATTEMPT", attempt.to_string())
            .stdin(input)
            .spawn()?;
        let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        Ok(Self {
            child,
            ended,
            given: false,
        })
    }
}

impl Slot for Once {
    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn events(&self) -> Vec<PollFd<'_>> {
        vec![PollFd::from_borrowed_fd(self.ended.as_fd(), PollFlags::IN)]
    }

    fn feed(&mut self, _: &mut dyn Iterator<Item = &Held>) -> usize {
        // It has read it, or will.
        usize::from(!std::mem::replace(&mut self.given, true))
    }

    fn look(&mut self) -> io::Result<Option<RunEnd>> {
        Ok(self.child.try_wait()?.map(outcome))
    }

    fn close(&mut self) {}

    fn is_over(&self) -> bool {
        self.given
    }

    fn kill(&mut self) {
        // It is gone, perhaps: so much the better.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command for jobs, in the group that the guard leads.
pub fn command(words: &[OsString], queue: &str, guard: &Guard) -> io::Result<Command> {
    let Some((name, arguments)) = words.split_first() else {
        return Err(io::Error::other("no command is named"));
    };
    let mut command = Command::new(name);
    command
        .args(arguments)
        .env("RAVEL_QUEUE", queue)
        .env_remove(crate::queue::address::PASSWORD)
        .env_remove(crate::queue::address::URL)
        .process_group(guard.group());
    Ok(command)
}

fn outcome(status: ExitStatus) -> RunEnd {
    match (status.code(), status.signal()) {
        (Some(0), _) => RunEnd::Done,
        (Some(code), _) => RunEnd::Failed(How::Ended, format!("exit code {code}")),
        (None, signal) => {
            let signal = signal.unwrap_or_default();
            RunEnd::Failed(How::Ended, format!("killed by signal {signal}"))
        }
    }
}
