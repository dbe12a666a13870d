//! A command under watch: what it answers, and its limits.

use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::guard::Guard;
use super::hold::Held;
use super::job::How;
use super::kept::Kept;
use super::memory;
use super::seat::{Once, Outcome};
use super::{AGAIN, Error, Worker, ours};
use crate::cli::Work;
use crate::queue::link::{Link, Until};

/// How long a command has between being asked to end and being killed.
const GRACE: Duration = Duration::from_secs(5);
/// How often the memory of a command for one job is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long answers are left to gather at most.
const GATHER: Duration = Duration::from_millis(1);

/// How far the job has come whose turn it is, and when reservations are to be renewed.
#[derive(Default)]
pub struct Course {
    /// Since when it is its turn.
    begun: Option<Instant>,
    /// Since when the command has been asked to end, and what the job will be said to have failed by.
    asked: Option<(Instant, How, String)>,
    renewal: Option<Instant>,
}

impl Course {
    /// The reservations were asked for then.
    pub fn reserved(&mut self, asked: Instant, args: &Work) {
        self.renewal = Some(asked + Duration::from_secs(args.retry_after) / 3);
    }

    /// It is the next one's turn, if there is one.
    fn next(&mut self, is_begun: bool) {
        self.begun = is_begun.then(Instant::now);
        self.asked = None;
    }

    /// When its time is over, or that of the command to end by itself.
    fn end(&self, timeout: u32) -> Option<Instant> {
        match (&self.asked, self.begun) {
            (Some((since, ..)), _) => Some(*since + GRACE),
            (None, Some(begun)) if timeout > 0 => Some(begun + Duration::from_secs(timeout.into())),
            _ => None,
        }
    }
}

impl Worker<'_> {
    /// Gives jobs to the command, as far as it takes them. One that may be another's by now is not begun.
    pub(super) fn hand(&mut self) -> Result<(), Error> {
        self.give_up_lost();
        self.begin().map_err(Error::Command)
    }

    fn begin(&mut self) -> io::Result<()> {
        let Some(first) = self.hold.first() else {
            return Ok(());
        };
        if self.hold.begun() == 0 && !self.guard.as_mut().is_some_and(Guard::stands) {
            self.seat = None;
            self.guard = Some(Guard::start()?);
        }
        let (Some(guard), args) = (&self.guard, self.args) else {
            return Ok(());
        };
        let seat = match &mut self.seat {
            Some(seat) => seat,
            none => none.insert(match args.keep {
                true => Box::new(Kept::start(&args.command, &args.queue.queue, guard)?),
                false => Box::new(Once::start(args, first, guard)?),
            }),
        };
        let begun = seat.feed(&mut self.hold.waiting());
        if self.hold.begun() == 0 {
            self.course.next(begun > 0);
        }
        self.hold.begin(begun);
        Ok(())
    }

    /// Heeds what the command answers, and its limits, until there may be something else to be done.
    pub(super) fn watch(&mut self, link: &mut Link) -> Result<(), Error> {
        if self.look().map_err(Error::Command)? || self.limit() {
            return Ok(());
        }
        self.renew(link);
        if self.hold.begun() > 0 {
            self.wait_for_answers().map_err(Error::Command)?;
        }
        Ok(())
    }

    /// Takes all answers that there are: whether there was one.
    fn look(&mut self) -> io::Result<bool> {
        let mut any = false;
        while self.hold.begun() > 0 {
            let Some(outcome) = self.seat.as_mut().map_or(Ok(None), |seat| seat.look())? else {
                break;
            };
            any = true;
            match self.course.asked.take() {
                Some((_, how, why)) => self.blame(how, why),
                None => self.answered(outcome),
            }
        }
        if any && self.args.keep && self.too_large().is_some() {
            // It does those that it has been given.
            if let Some(seat) = &mut self.seat {
                seat.close();
            }
        }
        if any && self.hold.begun() == 0 && self.seat.as_ref().is_some_and(|seat| seat.is_over()) {
            self.seat = None;
        }
        Ok(any)
    }

    fn answered(&mut self, outcome: Outcome) {
        if let Outcome::Failed(how, why) = outcome {
            return self.blame(how, why);
        }
        let Some(held) = self.hold.end_first() else {
            return;
        };
        self.course.next(self.hold.begun() > 0);
        match outcome {
            Outcome::Refused(why) => self.failed(held, How::Ended, why),
            _ => self.verdicts.done(held),
        }
    }

    /// The job whose turn it is has failed with its command. Those behind it are another command's.
    fn blame(&mut self, how: How, why: String) {
        let Some(held) = self.hold.end_first() else {
            return;
        };
        // Nobody knows any more which answer is to which job.
        self.hold.begin_anew();
        self.end_command();
        self.failed(held, how, why);
    }

    /// Ends the command with all that it has left running: whether it was amid a job. What it has answered by then
    /// counts.
    pub(super) fn end_command(&mut self) -> bool {
        if let Some(mut seat) = self.seat.take() {
            seat.kill();
            while self.hold.begun() > 0 {
                match seat.look() {
                    Ok(Some(outcome @ (Outcome::Done | Outcome::Refused(_)))) => {
                        self.answered(outcome)
                    }
                    _ => break,
                }
            }
        }
        if let Some(guard) = self.guard.take() {
            guard.kill();
        }
        let is_amid = self.hold.begun() > 0;
        self.hold.begin_anew();
        is_amid
    }

    /// Whether the job whose turn it is has come to a limit.
    fn limit(&mut self) -> bool {
        let now = Instant::now();
        let timeout = self.timeout();
        let is_late = self.course.end(timeout).is_some_and(|end| now >= end);
        match self.course.asked.take() {
            Some((_, how, why)) if is_late => self.blame(how, why),
            Some(asked) => {
                self.course.asked = Some(asked);
                return false;
            }
            None if is_late => {
                let why = format!("it took longer than {timeout} s");
                if let Some(guard) = &self.guard {
                    guard.signal(Signal::TERM);
                }
                self.course.asked = Some((now, How::Late, why));
                return false;
            }
            None if self.args.keep => return false,
            None => match self.too_large() {
                Some(why) => self.blame(How::Ended, why),
                None => return false,
            },
        }
        true
    }

    fn timeout(&self) -> u32 {
        self.hold
            .first()
            .map_or(0, |held| held.job.timeout(self.args))
    }

    fn too_large(&self) -> Option<String> {
        let most = self.args.memory?;
        let pid: Pid = self.seat.as_ref()?.pid();
        let has = memory::resident(pid.as_raw_nonzero().get()) / 1024;
        (has > most).then(|| format!("it had {has} MiB of memory, more than {most}"))
    }

    /// Has all reservations hold for longer, where it is time for it.
    fn renew(&mut self, link: &mut Link) {
        let asked = Instant::now();
        if self.course.renewal.is_none_or(|time| asked < time) {
            return;
        }
        // Once: the command has to be looked after. Its answer may take a third of the time.
        let until = Until {
            time: Some(asked),
            ..Until::default()
        };
        let all = self.hold.all().map(|held| &held.reserved);
        match self.queue.extend(link, until, all, self.args.retry_after) {
            Ok(holds) => {
                self.course.reserved(asked, self.args);
                for (held, holds) in self.hold.all_mut().zip(holds) {
                    held.ours = if holds { ours(asked, self.args) } else { asked };
                }
            }
            Err(_) => self.course.renewal = Some(Instant::now() + AGAIN),
        }
        self.give_up_lost();
    }

    /// Lets go of jobs that may be another's by now, and of a command that has one.
    fn give_up_lost(&mut self) {
        let now = Instant::now();
        if self.hold.is_begun_in_vain(now) {
            self.end_command();
        }
        for held in self.hold.take_lost(now) {
            self.voice.say(
                &held.job,
                "was given up: its reservation could not be kept, and others may run it",
            );
        }
    }

    fn wait_for_answers(&mut self) -> io::Result<()> {
        let Some(seat) = &self.seat else {
            return Ok(());
        };
        let now = Instant::now();
        let ours = self.hold.all().map(|held: &Held| held.ours).min();
        let times = [
            self.course.end(self.timeout()),
            self.course.renewal,
            ours,
            self.verdicts
                .due()
                .map(|due| self.next_try.map_or(due, |time| time.max(due))),
            (self.args.memory.is_some() && !self.args.keep).then(|| now + LOOK),
        ];
        let wake = times.into_iter().flatten().min().unwrap_or(now);
        // A signal is looked at once, at the top of the loop.
        self.stop
            .wait_for(&seat.events(), Some(wake.saturating_duration_since(now)))?;
        if self.hold.begun() > 1 {
            // Where one answer is, others are to come: all at once, before it has done half of what it has.
            let pace = self.course.begun.map_or(GATHER, |begun| begun.elapsed());
            self.stop
                .sleep((pace * (self.hold.begun() / 2) as u32).min(GATHER));
        }
        Ok(())
    }
}
