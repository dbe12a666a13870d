//! `ravel work`: runs a command for each job of a queue.
//!
//! Jobs are reserved in batches (`--prefetch`) and passed to the command as fast as it accepts them. Their results are
//! reported to the server along with the request for more, which saves round trips.

pub mod guard;
mod hold;
pub mod job;
mod kept;
mod memory;
mod results;
mod slot;
mod watch;

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::Failure;
use crate::cli::Work;
use crate::clock::Moment;
use crate::queue::keys::Keys;
use crate::queue::link::{Link, Trouble, Until};
use crate::queue::{Queue, Reserved, Wanted};
use guard::Guard;
use hold::{Held, Hold};
use job::{How, Job, Outcome};
use ravel_common::remedy::Remedy;
use ravel_common::stop::Stop;
use results::{Failed, Results};
use slot::Slot;
use watch::Progress;

/// How long to wait for a token at most: a producer that pushes none is found out then.
const LOOK: f64 = 1.0;
/// How many bytes of jobs are taken ahead.
const BYTES: usize = 1 << 20;
/// How long a server that refuses is waited for with --no-wait.
const WITHOUT_WAITING: Duration = Duration::from_secs(5);
/// How long after the server did not answer it is asked again, while a command is looked after.
const AGAIN: Duration = Duration::from_millis(500);

/// How often a worker is noted anew by the server, which forgets others in time.
const NOTED: Duration = Duration::from_secs(6 * 3600);

/// Until when a job is surely ours that was reserved, or asked for, at that time: the server counts whole seconds, its
/// clock may go a little faster, and to kill processes takes a moment.
fn ours(asked: Moment, args: &Work) -> Moment {
    let seconds = Duration::from_secs(args.retry_after);
    asked + (seconds - seconds / 1000 - Duration::from_millis(1500))
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
        return Err(Failure::Explained(remedy));
    }
    let keys = Keys::new(&args.queue.prefix, &args.queue.queue);
    let mut link = crate::open(&args.queue, patience(args), &keys)?;
    let stop = Stop::listen().map_err(Failure::Output)?;
    let mut worker = Worker {
        args,
        queue: Queue::new(keys),
        stop,
        hold: Hold::default(),
        results: Results::default(),
        left: args.count.unwrap_or(u64::MAX),
        dry: false,
        due: None,
        woken: false,
        next_try: None,
        progress: Progress::default(),
        slot: None,
        guard: None,
        number: 0,
        noted: None,
        log: Log {
            host: rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned(),
        },
    };
    let result = worker.work(&mut link);
    result.map_err(|error| match error {
        Error::Link(Trouble::Refused(error)) => Failure::Explained(link.explain(&error)),
        Error::Link(Trouble::Silent) if worker.is_idle() => Failure::Explained(link.explain_silence()),
        Error::Link(Trouble::Silent) => Failure::Explained(Remedy::new(
            "the result of a job could not be reported to Redis: it is run again once its reservation ends",
            "the server's log",
        )),
        Error::Command(error) => Failure::Explained(Remedy::new(
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
    results: Results,
    /// How many jobs may yet be taken.
    left: u64,
    /// There were fewer jobs than were asked for last.
    dry: bool,
    /// In how many seconds the next was due then.
    due: Option<u64>,
    /// A token of `notify` was taken for the next job.
    woken: bool,
    /// The server did not answer: while a command is looked after, it is not asked before that.
    next_try: Option<Moment>,
    progress: Progress,
    /// Goes before the guard: it may have work to end.
    slot: Option<Box<dyn Slot>>,
    guard: Option<Guard>,
    /// Its number among the workers of the queue, and when that was noted by the server.
    number: u64,
    noted: Option<Moment>,
    log: Log,
}

impl Worker<'_> {
    fn work(&mut self, link: &mut Link) -> Result<(), Error> {
        let ended = self.go_on(link);
        match ended {
            Ok(()) | Err(Error::Link(Trouble::Silent)) => ended,
            // Results are reported, and unanswered jobs are released, if the server can be reached.
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
                    self.results.back(waiting);
                }
                _ => self.halt(),
            }
            self.exchange(link)?;
            if !self.hold.is_empty() {
                self.hand()?;
                self.watch(link)?;
            } else if self.results.is_empty() {
                if self.is_over() || self.dry && self.args.no_wait {
                    return Ok(());
                }
                if self.dry {
                    self.stand_down();
                    self.wait(link)?;
                }
            }
        }
    }

    /// Whether it has no job, and nothing to say of one.
    fn is_idle(&self) -> bool {
        self.hold.is_empty() && self.results.is_empty()
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
        // While there is something to do, only along with results.
        if self.dry && !self.hold.is_empty() && self.results.all_done().is_empty() {
            return 0;
        }
        usize::try_from(self.left).map_or(most, |left| left.min(most - self.hold.len()))
    }

    /// Whether results are to be reported to the server now.
    fn is_report_due(&self) -> bool {
        let due = self.results.due();
        due.is_some_and(|due| self.hold.begun() == 0 || Moment::now() >= due)
    }

    /// Reports results to the server and takes more jobs, if either is due.
    fn exchange(&mut self, link: &mut Link) -> Result<(), Error> {
        let most = self.wanted();
        let is_early = self.next_try.is_some_and(|time| !time.is_over());
        if self.hold.begun() > 0 && is_early || most == 0 && !self.is_report_due() {
            return Ok(());
        }
        self.next_try = None;
        match self.ask(link, most) {
            Err(Trouble::Silent) if self.hold.begun() > 0 => {
                self.results.unanswered();
                self.next_try = Some(Moment::now() + AGAIN);
                Ok(())
            }
            // It is asked to end.
            Err(Trouble::Silent) if self.results.is_empty() && self.stop.asked() > 0 => Ok(()),
            asked => Ok(asked?),
        }
    }

    fn ask(&mut self, link: &mut Link, most: usize) -> Result<(), Trouble> {
        let until = Until {
            stop: Some(&self.stop),
            // Results are reported even if the server is away for long or this program is asked to end; not once it is
            // asked twice.
            spare: u32::from(!self.results.is_empty()),
            // The command has to be looked after.
            time: match self.hold.begun() {
                0 if self.args.no_wait => Some(Moment::now() + WITHOUT_WAITING),
                0 => None,
                _ => Some(Moment::now()),
            },
            limit: self.hold.begun_until(),
        };
        self.results.report(&self.queue, link, until, &self.log)?;
        if most == 0 && self.results.is_empty() {
            return Ok(());
        }
        let is_noted = self.noted.is_some_and(|noted| noted.elapsed() < NOTED);
        if most > 0 && !is_noted {
            let who = format!("{} {}", std::process::id(), self.log.host);
            self.number = self.queue.enlist(link, until, self.number, &who)?;
            self.noted = Some(Moment::now());
        }
        let wanted = Wanted {
            done: self.results.all_done(),
            most,
            bytes: BYTES - self.hold.bytes().min(BYTES),
            seconds: self.args.retry_after,
            others: self.hold.len(),
            woken: self.woken,
            worker: self.number,
        };
        let turn = self.queue.turn(link, until, &wanted)?;
        self.results.reported_done(&turn.missed, &self.log);
        if most > 0 {
            self.woken = false;
            self.dry = turn.jobs.len() < most;
            self.left -= turn.jobs.len() as u64;
            self.due = turn.due;
        }
        if self.hold.is_empty() {
            self.progress.reserved(turn.from, self.args);
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
    fn take(&mut self, reserved: Reserved, ours: Moment) {
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
            Some(why) => self.fail(held, Outcome::Failed, why),
            None => self.hold.add(held),
        }
    }

    /// A run of a job has failed.
    fn failed(&mut self, held: Held, how: How, why: String) {
        let outcome = held.job.outcome(how, now(), self.args);
        self.fail(held, outcome, why);
    }

    fn fail(&mut self, held: Held, outcome: Outcome, why: String) {
        let failed = Failed {
            reserved: held.reserved,
            job: held.job,
            outcome,
            why,
            at: now(),
        };
        failed.say(&self.log);
        self.results.failed(failed);
    }

    /// Ends the command, and gives back what it has not answered by then.
    fn halt(&mut self) {
        let is_amid = self.end_command();
        if let Some(held) = self.hold.first().filter(|_| is_amid) {
            self.log.write(
                &held.job,
                "was ended, and given back, since this worker is to end",
            );
        }
        let all = self.hold.take_waiting();
        self.results.back(all);
    }
}

/// Writes messages about jobs.
struct Log {
    host: String,
}

impl Log {
    fn write(&self, job: &Job, text: &str) {
        // A closed stderr is ignored: there is nowhere to report it.
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
                Ok(Command::Work(args)) => refuse(&args).and_then(|remedy| remedy.mend),
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
