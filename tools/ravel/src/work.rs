//! `ravel work`: runs a command for each job of a queue.
//!
//! Jobs are reserved some at a time (`--prefetch`), and given to the command as far as it takes them. What has become
//! of them is told to the server with the question for more, so that one answer is waited for in place of many. With
//! one at a time it is the same, one after the other.

pub mod guard;
mod hold;
pub mod job;
mod kept;
mod memory;
mod seat;
mod verdicts;
mod watch;

use std::io::{self, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::Failure;
use crate::cli::Work;
use crate::queue::keys::Keys;
use crate::queue::link::{Link, Trouble, Until};
use crate::queue::{Queue, Reserved, Wanted};
use crate::remedy::Remedy;
use crate::stop::Stop;
use guard::Guard;
use hold::{Held, Hold};
use job::{Fate, How, Job};
use seat::Seat;
use verdicts::{Failed, Verdicts};
use watch::Course;

/// How long to wait for a token at most: a producer that pushes none is found out then.
const LOOK: f64 = 1.0;
/// How many bytes of jobs are taken ahead.
const BYTES: usize = 1 << 20;
/// How long after the server did not answer it is asked again, while a command is looked after.
const AGAIN: Duration = Duration::from_millis(500);

/// Until when a job is surely ours that was reserved, or asked for, at that time: the server counts whole seconds.
fn ours(asked: Instant, args: &Work) -> Instant {
    asked + Duration::from_secs(args.retry_after - 1)
}

/// How long an answer of the server may take: a reservation has to be renewed in time.
fn patience(args: &Work) -> Duration {
    (Duration::from_secs(args.retry_after) / 3).min(Duration::from_secs(5))
}

/// What cannot be asked for together.
fn refuse(args: &Work) -> Option<Remedy> {
    if args.prefetch == 1 {
        return None;
    }
    if !args.keep {
        return Some(Remedy::new(
            "--prefetch is for a command that does job after job",
            "--keep, with a command that reads each job from a line, or no --prefetch",
        ));
    }
    (args.lost == 1).then(|| {
        Remedy::new(
            "with --prefetch and --lost 1 a job would be taken to have failed that was never begun, where another ends \
             its worker",
            "--lost 2, or no --prefetch",
        )
    })
}

/// Works until there is nothing more to do, or it is asked to end.
pub fn run(args: &Work) -> Result<(), Failure> {
    if let Some(remedy) = refuse(args) {
        return Err(Failure::Events(remedy));
    }
    let keys = Keys::new(&args.queue.prefix, &args.queue.queue);
    let mut link = Link::open(&args.queue.redis, patience(args), keys.share_a_slot())
        .map_err(Failure::Events)?;
    let stop = Stop::listen().map_err(Failure::Output)?;
    let mut worker = Worker {
        args,
        queue: Queue::new(keys),
        stop,
        hold: Hold::default(),
        verdicts: Verdicts::default(),
        left: args.count.unwrap_or(u64::MAX),
        dry: false,
        due: None,
        woken: false,
        next_try: None,
        course: Course::default(),
        seat: None,
        guard: None,
        voice: Voice {
            host: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
        },
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
    hold: Hold,
    verdicts: Verdicts,
    /// How many jobs may yet be taken.
    left: u64,
    /// There were fewer jobs than were asked for last.
    dry: bool,
    /// In how many seconds the next was due then.
    due: Option<u64>,
    /// A token of `notify` was taken for the next job.
    woken: bool,
    /// The server did not answer: while a command is looked after, it is not asked before that.
    next_try: Option<Instant>,
    course: Course,
    /// Goes before the guard: it may have work to end.
    seat: Option<Box<dyn Seat>>,
    guard: Option<Guard>,
    voice: Voice,
}

impl Worker<'_> {
    fn work(&mut self, link: &mut Link) -> Result<(), Error> {
        let ended = self.go_on(link);
        match ended {
            Ok(()) | Err(Error::Link(Trouble::Silent)) => ended,
            // What is answered is told, and what is not is given back, if that can be.
            Err(error) => {
                self.left = 0;
                self.halt();
                let _ = self.exchange(link);
                Err(error)
            }
        }
    }

    fn go_on(&mut self, link: &mut Link) -> Result<(), Error> {
        loop {
            match self.stop.asked() {
                0 => {}
                1 => {
                    let waiting = self.hold.take_waiting();
                    self.verdicts.back(waiting);
                }
                _ => self.halt(),
            }
            self.exchange(link)?;
            if !self.hold.is_empty() {
                self.hand()?;
                self.watch(link)?;
            } else if self.verdicts.is_empty() {
                if self.is_over() || self.dry && self.args.no_wait {
                    return Ok(());
                }
                if self.dry {
                    self.wait(link)?;
                }
            }
        }
    }

    /// Whether no more jobs are to be taken.
    fn is_over(&self) -> bool {
        self.left == 0 || self.stop.asked() > 0
    }

    /// How many jobs to ask for now.
    fn wanted(&self) -> usize {
        let most = self.args.prefetch as usize;
        let is_full = self.hold.len() > most / 2 || self.hold.bytes() > BYTES / 2;
        let is_lost = self.hold.first().is_some_and(Held::was_lost);
        if self.is_over() || is_full || is_lost {
            return 0;
        }
        // While there is something to do, only along with what is to be told.
        if self.dry && !self.hold.is_empty() && self.verdicts.all_done().is_empty() {
            return 0;
        }
        usize::try_from(self.left).map_or(most, |left| left.min(most - self.hold.len()))
    }

    /// Whether it is time to tell the server what has become of jobs.
    fn is_time_to_tell(&self) -> bool {
        let due = self.verdicts.due();
        due.is_some_and(|due| self.hold.begun() == 0 || Instant::now() >= due)
    }

    /// Tells the server what has become of jobs, and takes more, where it is time for either.
    fn exchange(&mut self, link: &mut Link) -> Result<(), Error> {
        let most = self.wanted();
        let is_early = self.next_try.is_some_and(|time| Instant::now() < time);
        if self.hold.begun() > 0 && is_early || most == 0 && !self.is_time_to_tell() {
            return Ok(());
        }
        self.next_try = None;
        match self.ask(link, most) {
            Err(Trouble::Silent) if self.hold.begun() > 0 => {
                self.verdicts.unanswered();
                self.next_try = Some(Instant::now() + AGAIN);
                Ok(())
            }
            // It is asked to end.
            Err(Trouble::Silent) if self.verdicts.is_empty() => Ok(()),
            asked => Ok(asked?),
        }
    }

    fn ask(&mut self, link: &mut Link, most: usize) -> Result<(), Trouble> {
        let until = Until {
            stop: Some(&self.stop),
            // What has become of a job is told also to a server that is away for long, and while this program is to
            // end; not once it was asked twice.
            spare: u32::from(!self.verdicts.is_empty()),
            // The command has to be looked after.
            time: (self.hold.begun() > 0).then(Instant::now),
        };
        self.verdicts.tell(&self.queue, link, until, &self.voice)?;
        if most == 0 && self.verdicts.is_empty() {
            return Ok(());
        }
        let wanted = Wanted {
            done: self.verdicts.all_done(),
            most,
            bytes: BYTES - self.hold.bytes().min(BYTES),
            seconds: self.args.retry_after,
            others: self.hold.len(),
            woken: self.woken,
        };
        let turn = self.queue.turn(link, until, &wanted)?;
        self.verdicts.told_done(&turn.missed, &self.voice);
        if most > 0 {
            self.woken = false;
            self.dry = turn.jobs.len() < most;
            self.left -= turn.jobs.len() as u64;
            self.due = turn.due;
        }
        if self.hold.is_empty() {
            self.course.reserved(turn.from, self.args);
        }
        for job in turn.jobs {
            self.take(job, ours(turn.from, self.args));
        }
        Ok(())
    }

    /// Waits for a job.
    fn wait(&mut self, link: &mut Link) -> Result<(), Error> {
        let heeding = Until {
            stop: Some(&self.stop),
            ..Until::default()
        };
        let time = self.due.map_or(LOOK, |due| (due as f64).clamp(0.01, LOOK));
        match self.queue.wait(link, heeding, time) {
            Ok(woken) => self.woken = woken,
            // It is asked to end.
            Err(Trouble::Silent) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Has a job that was taken wait for its turn, unless it is not to be run.
    fn take(&mut self, reserved: Reserved, ours: Instant) {
        let (job, over) = match Job::parse(reserved.job()) {
            Ok(job) => {
                let attempts = reserved.attempts.unwrap_or(1);
                let over = job.is_over(attempts, now(), self.args);
                (job, over)
            }
            Err(why) => (Job::default(), Some(format!("it is no job: {why}"))),
        };
        let held = Held {
            reserved,
            job,
            ours,
        };
        match over {
            Some(why) => self.fail(held, Fate::Failed, why),
            None => self.hold.add(held),
        }
    }

    /// A run of a job has failed.
    fn failed(&mut self, held: Held, how: How, why: String) {
        let fate = held.job.fate(how, now(), self.args);
        self.fail(held, fate, why);
    }

    fn fail(&mut self, held: Held, fate: Fate, why: String) {
        let failed = Failed {
            reserved: held.reserved,
            job: held.job,
            fate,
            why,
            at: now(),
        };
        failed.say(&self.voice);
        self.verdicts.failed(failed);
    }

    /// Ends the command, and gives back what it has not answered by then.
    fn halt(&mut self) {
        let is_amid = self.end_command();
        if let Some(held) = self.hold.first().filter(|_| is_amid) {
            self.voice.say(
                &held.job,
                "was ended, and given back, since this worker is to end",
            );
        }
        let all = self.hold.take_waiting();
        self.verdicts.back(all);
    }
}

/// Who tells of jobs.
struct Voice {
    host: String,
}

impl Voice {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    #[test]
    fn jobs_ahead_are_for_a_command_that_is_kept() {
        let refused = |words: &str| {
            let words = format!("ravel work --queue q {words} -- true");
            match Cli::try_parse_from(words.split_whitespace()).map(|cli| cli.command) {
                Ok(Some(Command::Work(args))) => refuse(&args).and_then(|remedy| remedy.mend),
                Ok(_) => panic!("{words}"),
                Err(error) => Some(error.to_string()),
            }
        };
        for words in ["", "--keep", "--prefetch 1", "--keep --prefetch 1 --lost 1"] {
            assert_eq!(refused(words), None, "{words}");
        }
        for words in ["--keep --prefetch 2", "--keep --prefetch 1000 --lost 2"] {
            assert_eq!(refused(words), None, "{words}");
        }
        for (words, part) in [
            ("--prefetch 2", "--keep, with a command"),
            ("--keep --prefetch 2 --lost 1", "--lost 2"),
            ("--keep --prefetch 0", "0 is not in 1..=1000"),
            ("--keep --prefetch 1001", "1001 is not in 1..=1000"),
        ] {
            let said = refused(words).unwrap_or_default();
            assert!(said.contains(part), "{words}: {said}");
        }
    }
}
