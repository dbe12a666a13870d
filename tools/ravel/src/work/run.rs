//! A job's command under watch.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use super::guard::Guard;
use super::job::How;
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
    /// This program was asked twice to end.
    Stopped,
    /// The job is no more ours: the server did not let us keep it, or was not to be reached.
    Lost,
}

/// How long a command has between being asked to end and being killed.
const GRACE: Duration = Duration::from_secs(5);
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

impl Run<'_> {
    /// Runs it to its end, and keeps it reserved meanwhile.
    pub fn run(
        mut self,
        link: &mut Link,
        stop: &Stop,
        guard: &mut Option<Guard>,
    ) -> io::Result<Outcome> {
        if !guard.as_mut().is_some_and(Guard::stands) {
            *guard = Some(Guard::start()?);
        }
        let Some(standing) = guard.as_ref() else {
            return Err(io::Error::other("no guard"));
        };
        let mut child = self.start(standing)?;
        let outcome = self.watch(&mut child, link, stop, standing);
        if !matches!(outcome, Ok(Outcome::Done)) {
            // With all that it has left running.
            if let Some(guard) = guard.take() {
                guard.kill();
            }
            // It may have left the group.
            child.kill()?;
            child.wait()?;
        }
        outcome
    }

    fn start(&self, guard: &Guard) -> io::Result<Child> {
        // A file, not a pipe: nobody has to feed it, and it may be read twice.
        let mut input = File::from(rustix::fs::memfd_create("job", MemfdFlags::CLOEXEC)?);
        input.write_all(self.job.job())?;
        input.rewind()?;
        let (name, arguments) = match self.args.command.split_first() {
            Some(words) => words,
            None => return Err(io::Error::other("no command is named")),
        };
        Command::new(name)
            .args(arguments)
            .env("RAVEL_QUEUE", &self.args.queue.queue)
            .env("RAVEL_JOB", self.id)
            .env("RAVEL_ATTEMPT", self.job.attempts.unwrap_or(1).to_string())
            .stdin(input)
            .process_group(guard.group())
            .spawn()
    }

    fn watch(
        &mut self,
        child: &mut Child,
        link: &mut Link,
        stop: &Stop,
        guard: &Guard,
    ) -> io::Result<Outcome> {
        let pid = Pid::from_child(child);
        let ended = pidfd_open(pid, PidfdFlags::empty())?;
        let begun = Instant::now();
        let limit = Duration::from_secs(self.timeout.into());
        let beat = Duration::from_secs(self.args.retry_after) / 3;
        let mut next = begun + beat;
        // Since when it has been asked to end, and what it will be said to have failed by.
        let mut asked: Option<(Instant, How, String)> = None;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(match asked {
                    Some((_, how, why)) => Outcome::Failed(how, why),
                    None => outcome(status),
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
                None => {
                    if let Some(why) = self.too_large(pid) {
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
                match self
                    .queue
                    .extend(link, until, self.job, self.args.retry_after)
                {
                    Ok(true) => self.ours = super::until(asked_at, self.args),
                    Ok(false) => return Ok(Outcome::Lost),
                    Err(_) => {}
                }
                next = match self.ours > asked_at + beat {
                    true => asked_at + beat,
                    false => Instant::now() + Duration::from_millis(200),
                };
            }
            let mut wake = next.min(self.ours);
            match &asked {
                Some((since, ..)) => wake = wake.min(*since + GRACE),
                None if self.timeout > 0 => wake = wake.min(begun + limit),
                None => {}
            }
            if self.args.memory.is_some() {
                wake = wake.min(now + LOOK);
            }
            let time = wake.saturating_duration_since(Instant::now());
            // A signal is looked at once, at the top of the loop.
            rest(stop, &ended, time)?;
        }
    }

    fn too_large(&self, pid: Pid) -> Option<String> {
        let most = self.args.memory?;
        let has = memory::resident(pid.as_raw_nonzero().get()) / 1024;
        (has > most).then(|| format!("it had {has} MiB of memory, more than {most}"))
    }
}

fn rest(stop: &Stop, ended: &rustix::fd::OwnedFd, time: Duration) -> io::Result<()> {
    use rustix::fd::AsFd;
    stop.wait(Some(ended.as_fd()), Some(time))
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
