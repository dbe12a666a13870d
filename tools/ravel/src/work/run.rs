//! A job's command under watch.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use super::guard::Guard;
use super::job::How;
use super::kept::{self, Kept};
use super::memory;
use crate::cli::Work;
use crate::queue::link::{Link, Until};
use crate::queue::{Queue, Reserved};
use crate::stop::Stop;

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// The command ended well.
    Done,
    /// It did not.
    Failed(How, String),
    /// One that does job after job says that it could not do this one.
    Refused(String),
    /// This program was asked twice to end.
    Stopped,
    /// The job is no more ours: the server did not let us keep it, or was not to be reached.
    Lost,
}

/// How long a command has between being asked to end and being killed.
const GRACE: Duration = Duration::from_secs(5);
/// How long after a renewal that failed the next is tried.
const AGAIN: Duration = Duration::from_millis(500);
/// What surely fits into an empty pipe.
const PIPE: usize = 32_768;
/// How often its memory is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// A job that is to be run.
pub struct Run<'a> {
    /// What the command line says.
    pub args: &'a Work,
    /// The queue.
    pub queue: &'a Queue,
    /// The job.
    pub job: &'a Reserved,
    /// Its name.
    pub id: &'a str,
    /// Seconds that it may take, 0: any.
    pub timeout: u32,
    /// Until then it is ours.
    pub ours: Instant,
}

/// A job under way, as it is watched.
pub trait Seat {
    /// Who does it.
    fn pid(&self) -> Pid;
    /// Readable when there may be something to be seen.
    fn fd(&self) -> BorrowedFd<'_>;
    /// How it ended, if it has.
    fn look(&mut self) -> io::Result<Option<Outcome>>;
}

/// A process for one job.
struct Once {
    child: Child,
    ended: OwnedFd,
}

impl Seat for Once {
    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    fn look(&mut self) -> io::Result<Option<Outcome>> {
        Ok(self.child.try_wait()?.map(outcome))
    }
}

impl Run<'_> {
    /// Runs it to its end, and keeps it reserved meanwhile.
    pub fn run(
        mut self,
        link: &mut Link,
        stop: &Stop,
        guard: &mut Option<Guard>,
        kept: &mut Option<Kept>,
    ) -> io::Result<Outcome> {
        if !guard.as_mut().is_some_and(Guard::stands) {
            *kept = None;
            *guard = Some(Guard::start()?);
        }
        let Some(standing) = guard.as_ref() else {
            return Err(io::Error::other("no guard"));
        };
        if self.args.keep {
            return self.hand(link, stop, guard, kept);
        }
        let child = self.start(standing)?;
        let ended = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        let mut seat = Once { child, ended };
        let outcome = self.watch(&mut seat, link, stop, standing);
        if !matches!(outcome, Ok(Outcome::Done)) {
            // With all that it has left running.
            if let Some(guard) = guard.take() {
                guard.kill();
            }
            // It may have left the group.
            seat.child.kill()?;
            seat.child.wait()?;
        }
        outcome
    }

    /// Gives it to a command that does job after job.
    fn hand(
        &mut self,
        link: &mut Link,
        stop: &Stop,
        guard: &mut Option<Guard>,
        kept: &mut Option<Kept>,
    ) -> io::Result<Outcome> {
        let Some(standing) = guard.as_ref() else {
            return Err(io::Error::other("no guard"));
        };
        let mut seat = match kept.take() {
            Some(seat) => seat,
            None => Kept::start(&self.args.command, &self.args.queue.queue, standing)?,
        };
        let line = kept::line(self.job.job());
        let outcome = match seat.feed() {
            // Where it does not read, it does not end: the limits are watched meanwhile.
            Ok(mut input) => thread::scope(|scope| {
                let mut writer = None;
                if line.len() < PIPE {
                    // Who has gone is found out by what he does not say.
                    let _ = input.write_all(&line);
                } else {
                    writer = Some(scope.spawn(move || input.write_all(&line)));
                }
                let mut outcome = self.watch(&mut seat, link, stop, standing);
                let read = writer.is_none_or(|writer| kept::soon(|| writer.is_finished()));
                if !read && matches!(outcome, Ok(Outcome::Done | Outcome::Refused(_))) {
                    let why = "it answered before it had read the job".to_owned();
                    outcome = Ok(Outcome::Failed(How::Ended, why));
                }
                if !matches!(outcome, Ok(Outcome::Done | Outcome::Refused(_))) {
                    seat.kill();
                }
                outcome
            }),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(Outcome::Done | Outcome::Refused(_)) => {
                // Between two jobs nothing is lost by it.
                if self.too_large(seat.pid()).is_none() {
                    *kept = Some(seat);
                }
            }
            _ => {
                drop(seat);
                if let Some(guard) = guard.take() {
                    guard.kill();
                }
            }
        }
        outcome
    }

    fn start(&self, guard: &Guard) -> io::Result<Child> {
        // A file, not a pipe: nobody has to feed it, and it may be read twice.
        let mut input = File::from(rustix::fs::memfd_create("job", MemfdFlags::CLOEXEC)?);
        input.write_all(self.job.job())?;
        input.rewind()?;
        command(&self.args.command, &self.args.queue.queue, guard)?
            .env("RAVEL_JOB", self.id)
            .env("RAVEL_ATTEMPT", self.job.attempts.unwrap_or(1).to_string())
            .stdin(input)
            .spawn()
    }

    fn watch(
        &mut self,
        seat: &mut dyn Seat,
        link: &mut Link,
        stop: &Stop,
        guard: &Guard,
    ) -> io::Result<Outcome> {
        let begun = Instant::now();
        let limit = Duration::from_secs(self.timeout.into());
        let beat = Duration::from_secs(self.args.retry_after) / 3;
        let mut next = begun + beat;
        // Since when it has been asked to end, and what it will be said to have failed by.
        let mut asked: Option<(Instant, How, String)> = None;
        loop {
            if let Some(outcome) = seat.look()? {
                return Ok(match asked {
                    Some((_, how, why)) => Outcome::Failed(how, why),
                    None => outcome,
                });
            }
            let now = Instant::now();
            if stop.asked() > 1 {
                return Ok(Outcome::Stopped);
            }
            if now >= self.ours {
                return Ok(Outcome::Lost);
            }
            match &asked {
                Some((since, how, why)) if now >= *since + GRACE => {
                    return Ok(Outcome::Failed(*how, why.clone()));
                }
                Some(_) => {}
                None if self.timeout > 0 && now >= begun + limit => {
                    let why = format!("it took longer than {} s", self.timeout);
                    guard.signal(Signal::TERM);
                    asked = Some((now, How::Late, why));
                }
                None if self.args.keep => {}
                None => {
                    if let Some(why) = self.too_large(seat.pid()) {
                        return Ok(Outcome::Failed(How::Ended, why));
                    }
                }
            }
            if now >= next {
                // Once: the command has to be looked after. Its answer may take a third of the time.
                let until = Until {
                    time: Some(now),
                    ..Until::default()
                };
                let asked_at = Instant::now();
                let (queue, seconds) = (self.queue, self.args.retry_after);
                match queue.extend(link, until, self.job, seconds) {
                    Ok(true) => {
                        self.ours = super::until(asked_at, self.args);
                        next = asked_at + beat;
                    }
                    Ok(false) => return Ok(Outcome::Lost),
                    Err(_) => next = Instant::now() + AGAIN,
                }
            }
            let mut wake = next.min(self.ours);
            match &asked {
                Some((since, ..)) => wake = wake.min(*since + GRACE),
                None if self.timeout > 0 => wake = wake.min(begun + limit),
                None => {}
            }
            if self.args.memory.is_some() && !self.args.keep {
                wake = wake.min(now + LOOK);
            }
            let time = wake.saturating_duration_since(Instant::now());
            // A signal is looked at once, at the top of the loop.
            stop.wait(Some(seat.fd()), Some(time))?;
        }
    }

    fn too_large(&self, pid: Pid) -> Option<String> {
        let most = self.args.memory?;
        let has = memory::resident(pid.as_raw_nonzero().get()) / 1024;
        (has > most).then(|| format!("it had {has} MiB of memory, more than {most}"))
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
        .process_group(guard.group());
    Ok(command)
}

fn outcome(status: ExitStatus) -> Outcome {
    match (status.code(), status.signal()) {
        (Some(0), _) => Outcome::Done,
        (Some(code), _) => Outcome::Failed(How::Ended, format!("exit code {code}")),
        (None, signal) => {
            let signal = signal.unwrap_or_default();
            Outcome::Failed(How::Ended, format!("killed by signal {signal}"))
        }
    }
}
