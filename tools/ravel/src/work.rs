//! `ravel work`: runs a command for each job of a queue.

pub mod guard;
pub mod job;
mod kept;
mod memory;
mod run;

use std::io::{self, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::Failure;
use crate::cli::Work;
use crate::queue::keys::Keys;
use crate::queue::link::{Link, Trouble, Until};
use crate::queue::{Popped, Queue, Reserved};
use crate::remedy::Remedy;
use crate::screen::count;
use crate::stop::Stop;
use guard::Guard;
use job::{Fate, How, Job};
use kept::Kept;
use run::{Outcome, Run};

/// How long to wait for a token at most: a producer that pushes none is found out then.
const LOOK: f64 = 1.0;

/// Until when a job is surely ours that was reserved, or asked for, at that time: the server counts whole seconds.
fn until(asked: Instant, args: &Work) -> Instant {
    asked + Duration::from_secs(args.retry_after - 1)
}

/// How long an answer of the server may take: a reservation has to be renewed in time.
fn patience(args: &Work) -> Duration {
    (Duration::from_secs(args.retry_after) / 3).min(Duration::from_secs(5))
}

/// Works until there is nothing more to do, or it is asked to end.
pub fn run(args: &Work) -> Result<(), Failure> {
    let keys = Keys::new(&args.queue.prefix, &args.queue.queue);
    let mut link = Link::open(&args.queue.redis, patience(args), keys.share_a_slot())
        .map_err(Failure::Events)?;
    let stop = Stop::listen().map_err(Failure::Output)?;
    let mut worker = Worker {
        args,
        queue: Queue::new(keys),
        stop,
        kept: None,
        guard: None,
        host: rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
    };
    let result = worker.work(&mut link);
    result.map_err(|error| match error {
        Error::Link(Trouble::Refused(error)) => Failure::Events(link.explain(&error)),
        Error::Link(Trouble::Silent) => Failure::Events(Remedy::new(
            "Redis could not be told what became of a job: it is run again once its reservation ends",
            "the server's log",
        )),
        Error::Command(error) => Failure::Events(Remedy::new(
            format!("cannot run {:?}: {error}", args.command.first().cloned().unwrap_or_default()),
            "the path of a program that is there, behind --",
        )),
    })
}

enum Error {
    Link(Trouble),
    /// The command cannot be started: no job is to blame.
    Command(io::Error),
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        Self::Link(trouble)
    }
}

struct Worker<'a> {
    args: &'a Work,
    queue: Queue,
    stop: Stop,
    /// Goes before the guard: what is kept may have work to end.
    kept: Option<Kept>,
    guard: Option<Guard>,
    host: String,
}

impl Worker<'_> {
    fn work(&mut self, link: &mut Link) -> Result<(), Error> {
        let mut left = self.args.count.unwrap_or(u64::MAX);
        let mut woken = false;
        while left > 0 && self.stop.asked() == 0 {
            let asked = Instant::now();
            let heeding = Until {
                stop: Some(&self.stop),
                ..Until::default()
            };
            let popped = match self.queue.pop(link, heeding, self.args.retry_after, woken) {
                Err(Trouble::Silent) => break,
                popped => popped?,
            };
            woken = false;
            match popped {
                Popped::Job(job) => {
                    self.take(link, &job, until(asked, self.args))?;
                    left -= 1;
                }
                Popped::Empty(_) if self.args.no_wait => break,
                Popped::Empty(due) => {
                    let time = due.map_or(LOOK, |due| (due as f64).clamp(0.01, LOOK));
                    woken = match self.queue.wait(link, heeding, time) {
                        Err(Trouble::Silent) => break,
                        woken => woken?,
                    };
                }
            }
        }
        Ok(())
    }

    /// Does what is to be done about a job that was taken.
    fn take(&mut self, link: &mut Link, reserved: &Reserved, ours: Instant) -> Result<(), Error> {
        let job = match Job::parse(reserved.job()) {
            Ok(job) => job,
            Err(why) => {
                let why = format!("it is no job: {why}");
                return self.bury(link, reserved, &Job::default(), &why);
            }
        };
        let attempts = reserved.attempts.unwrap_or(1);
        if let Some(why) = job.is_over(attempts, now(), self.args) {
            return self.bury(link, reserved, &job, &why);
        }
        let run = Run {
            args: self.args,
            queue: &self.queue,
            job: reserved,
            id: &job.id,
            timeout: job.timeout(self.args),
            ours,
        };
        let outcome = match run.run(link, &self.stop, &mut self.guard, &mut self.kept) {
            Ok(outcome) => outcome,
            Err(error) => {
                self.give_back(link, reserved)?;
                return Err(Error::Command(error));
            }
        };
        match outcome {
            Outcome::Done => {
                if !self.queue.done(link, self.surely(), reserved)? {
                    self.say(
                        &job,
                        "was done, but another worker has it by now: it is done twice",
                    );
                }
                Ok(())
            }
            Outcome::Failed(how, why) => self.failed(link, reserved, &job, how, &why),
            Outcome::Refused(why) => self.failed(link, reserved, &job, How::Ended, &why),
            Outcome::Stopped => {
                self.say(
                    &job,
                    "was ended, and given back, since this worker is to end",
                );
                self.give_back(link, reserved)
            }
            Outcome::Lost => {
                self.say(
                    &job,
                    "was ended: its reservation could not be kept, and others may run it",
                );
                Ok(())
            }
        }
    }

    fn failed(
        &self,
        link: &mut Link,
        reserved: &Reserved,
        job: &Job,
        how: How,
        why: &str,
    ) -> Result<(), Error> {
        match job.fate(how, now(), self.args) {
            Fate::Failed => self.bury(link, reserved, job, why),
            Fate::Again(pause) => {
                self.say(job, &format!("{why}; again in {pause} s"));
                let until = self.surely();
                if !self
                    .queue
                    .release(link, until, reserved, pause, &[("failures", 1)])?
                {
                    self.say(job, "was given to another worker by then");
                }
                Ok(())
            }
        }
    }

    /// Puts a job among those that failed.
    fn bury(
        &self,
        link: &mut Link,
        reserved: &Reserved,
        job: &Job,
        why: &str,
    ) -> Result<(), Error> {
        let attempts = reserved.attempts.unwrap_or(0);
        let fields = [
            ("why", why.to_owned()),
            ("id", job.id.clone()),
            ("attempts", attempts.to_string()),
            ("failed_at", now().to_string()),
            ("host", self.host.clone()),
        ];
        self.say(
            job,
            &format!(
                "{why}; it has failed, after {}",
                count(attempts.into(), "attempt", "attempts")
            ),
        );
        if !self.queue.bury(link, self.surely(), reserved, &fields)? {
            self.say(job, "was given to another worker by then");
        }
        Ok(())
    }

    /// Gives a job back as if it had not been taken.
    fn give_back(&self, link: &mut Link, reserved: &Reserved) -> Result<(), Error> {
        self.queue
            .release(link, self.surely(), reserved, 0, &[("attempts", -1)])?;
        Ok(())
    }

    /// What has become of a job is told also to a server that is away for long, and while this program is to end;
    /// not once it was asked twice.
    fn surely(&self) -> Until<'_> {
        Until {
            stop: Some(&self.stop),
            spare: 1,
            time: None,
        }
    }

    fn say(&self, job: &Job, text: &str) {
        // Nobody is left to be told where even stderr is closed.
        let _ = writeln!(anstream::stderr(), "ravel: job {:?} {text}", job.id);
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH);
    time.map_or(0, |time| time.as_secs())
}
