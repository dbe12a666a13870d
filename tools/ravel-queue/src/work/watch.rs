//! A command under watch: what it answers, and its limits.

use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::guard::Guard;
use super::job::How;
use super::kept::Kept;
use super::memory;
use super::slot::{Once, RunEnd};
use super::{AGAIN, Error, Worker, ours};
use crate::cli::Work;
use crate::clock::Moment;
use crate::queue::link::{Link, Until};

/// How long a command has between being asked to end and being killed.
const GRACE: Duration = Duration::from_secs(5);
/// How often the memory of a command for one job is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// What is said of a job that may be another's.
const GIVEN_UP: &str = "was given up: its reservation could not be kept, and others may run it";
/// How long answers are left to gather at most.
const GATHER: Duration = Duration::from_millis(1);

/// How far the job has come whose turn it is, and when reservations are to be renewed.
#[derive(Default)]
pub struct Progress {
    /// Since when it is its turn.
    begun: Option<Instant>,
    /// Since when the command has been asked to end, and what the job will be said to have failed by.
    asked: Option<(Instant, How, String)>,
    renewal: Option<Moment>,
    /// When it was found last that shared memory counts only in part.
    measured: Option<Instant>,
}

impl Progress {
    /// The reservations were asked for then.
    pub fn reserved(&mut self, asked: Moment, args: &Work) {
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
        if self.hold.begun() == 0 && !self.guard.as_ref().is_some_and(Guard::is_usable) {
            self.slot = None;
            self.guard = Some(Guard::start()?);
        }
        let (Some(guard), args) = (&mut self.guard, self.args) else {
            return Ok(());
        };
        // Before any of them is begun.
        let updated = self
            .hold
            .until()
            .map_or(Ok(()), |until| guard.hold_until(until));
        if updated.is_err() {
            // It is dead, or hangs: watch() deals with jobs that are begun, and the next call starts another.
            if self.hold.begun() == 0 {
                self.slot = None;
                self.guard = None;
            }
            return Ok(());
        }
        let slot = match &mut self.slot {
            Some(slot) => slot,
            none => none.insert(match args.keep {
                true => Box::new(Kept::start(&args.command, &args.queue.queue, guard)?),
                false => Box::new(Once::start(args, first, guard)?),
            }),
        };
        let begun = slot.feed(&mut self.hold.waiting());
        if self.hold.begun() == 0 {
            self.progress.next(begun > 0);
        }
        self.hold.begin(begun);
        Ok(())
    }

    /// Heeds what the command answers, and its limits, until there may be something else to be done.
    pub(super) fn watch(&mut self, link: &mut Link) -> Result<(), Error> {
        if self.look().map_err(Error::Command)? || self.is_unguarded() || self.limit() {
            return Ok(());
        }
        self.renew(link);
        self.update_guard();
        if self.hold.begun() > 0 {
            self.wait_for_answers().map_err(Error::Command)?;
        }
        Ok(())
    }

    /// Updates the guard's deadline to the end of the claim on the jobs that are begun.
    fn update_guard(&mut self) {
        if let (Some(guard), Some(until)) = (&mut self.guard, self.hold.begun_until()) {
            // Where it fails, the guard does not stand any more.
            let _ = guard.hold_until(until);
        }
    }

    /// Clears the guard's deadline: no job is begun.
    pub(super) fn stand_down(&mut self) {
        if self
            .guard
            .as_mut()
            .is_some_and(|guard| guard.stand_down().is_err())
        {
            self.slot = None;
            self.guard = None;
        }
    }

    /// Ends the command where its guard has ended: whether that was so.
    fn is_unguarded(&mut self) -> bool {
        if self.hold.begun() == 0 || self.guard.as_ref().is_some_and(Guard::stands) {
            return false;
        }
        match self.is_fenced() {
            true => self.give_up_begun(),
            false => self.blame(How::Ended, "its guard was killed".to_owned()),
        }
        true
    }

    /// Whether the guard has killed the command, or is about to.
    fn is_fenced(&self) -> bool {
        self.guard.as_ref().is_some_and(Guard::is_due)
    }

    /// Gives up the jobs that are begun: their time was over, and the guard has killed them. The
    /// next worker runs them again.
    fn give_up_begun(&mut self) {
        let begun = self.hold.begun();
        self.end_command();
        for _ in 0..begun {
            if let Some(held) = self.hold.end_first() {
                self.log.write(&held.job, GIVEN_UP);
            }
        }
    }

    /// Takes all answers that there are: whether there was one.
    fn look(&mut self) -> io::Result<bool> {
        let mut any = false;
        while self.hold.begun() > 0 {
            let Some(outcome) = self.slot.as_mut().map_or(Ok(None), |slot| slot.look())? else {
                break;
            };
            any = true;
            if self.is_fenced() && matches!(outcome, RunEnd::Failed(..)) {
                self.give_up_begun();
                break;
            }
            match self.progress.asked.take() {
                Some((_, how, why)) => self.blame(how, why),
                None => self.answered(outcome),
            }
        }
        if any && self.args.keep && self.too_large().is_some() {
            // It does those that it has been given.
            if let Some(slot) = &mut self.slot {
                slot.close();
            }
        }
        if any && self.hold.begun() == 0 && self.slot.as_ref().is_some_and(|slot| slot.is_over()) {
            self.slot = None;
        }
        Ok(any)
    }

    fn answered(&mut self, outcome: RunEnd) {
        if let RunEnd::Failed(how, why) = outcome {
            return self.blame(how, why);
        }
        let Some(held) = self.hold.end_first() else {
            return;
        };
        self.progress.next(self.hold.begun() > 0);
        match outcome {
            RunEnd::Refused(why) => self.failed(held, How::Ended, why),
            _ => self.results.done(held),
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
        if let Some(mut slot) = self.slot.take() {
            slot.kill();
            while self.hold.begun() > 0 {
                match slot.look() {
                    Ok(Some(outcome @ (RunEnd::Done | RunEnd::Refused(_)))) => {
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
        let is_late = self.progress.end(timeout).is_some_and(|end| now >= end);
        match self.progress.asked.take() {
            Some((_, how, why)) if is_late => self.blame(how, why),
            Some(asked) => {
                self.progress.asked = Some(asked);
                return false;
            }
            None if is_late => {
                let why = format!("it took longer than {timeout} s");
                if let Some(guard) = &self.guard {
                    guard.signal(Signal::TERM);
                }
                self.progress.asked = Some((now, How::Late, why));
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

    fn too_large(&mut self) -> Option<String> {
        let most = self.args.memory?;
        let pid: Pid = self.slot.as_ref()?.pid();
        let pid = pid.as_raw_nonzero().get();
        if memory::at_most(pid) / 1024 <= most {
            return None;
        }
        // What it shares with others counts only in part. To find that out takes time.
        let now = Instant::now();
        if self.progress.measured.is_some_and(|last| now - last < LOOK) {
            return None;
        }
        let has = memory::share(pid) / 1024;
        if has <= most {
            self.progress.measured = Some(now);
            return None;
        }
        Some(format!("it had {has} MiB of memory, more than {most}"))
    }

    /// Has all reservations hold for longer, where it is time for it.
    fn renew(&mut self, link: &mut Link) {
        if self.progress.renewal.is_none_or(|time| !time.is_over()) {
            return;
        }
        // Once, since the command has to be looked after, and for no longer than the reservations hold.
        let until = Until {
            time: Some(Moment::now()),
            limit: self.hold.until(),
            ..Until::default()
        };
        let all = self.hold.all().map(|held| &held.reserved);
        match self.queue.extend(link, until, all, self.args.retry_after) {
            Ok((holds, asked)) => {
                self.progress.reserved(asked, self.args);
                for (held, holds) in self.hold.all_mut().zip(holds) {
                    held.ours = if holds { ours(asked, self.args) } else { asked };
                }
            }
            Err(_) => self.progress.renewal = Some(Moment::now() + AGAIN),
        }
        self.give_up_lost();
    }

    /// Gives up jobs that may be another's by now, and a command that has one.
    fn give_up_lost(&mut self) {
        let now = Moment::now();
        if self.hold.is_begun_in_vain(now) {
            self.end_command();
        }
        for held in self.hold.take_lost(now) {
            self.log.write(&held.job, GIVEN_UP);
        }
    }

    fn wait_for_answers(&mut self) -> io::Result<()> {
        let Some(slot) = &self.slot else {
            return Ok(());
        };
        let now = Instant::now();
        let moments = [
            self.progress.renewal,
            self.hold.until(),
            self.results
                .due()
                .map(|due| self.next_try.map_or(due, |time| time.max(due))),
        ];
        let times = [
            self.progress.end(self.timeout()),
            (self.args.memory.is_some() && !self.args.keep).then(|| now + LOOK),
        ];
        let left = moments.into_iter().flatten().map(Moment::left);
        let times = times.into_iter().flatten();
        let left = left.chain(times.map(|time| time.saturating_duration_since(now)));
        // A signal is looked at once, at the top of the loop.
        self.stop
            .wait_for(&slot.events(), Some(left.min().unwrap_or_default()))?;
        if self.hold.begun() > 1 {
            // Where one answer is, others are to come: all at once, before it has done half of what it has.
            let pace = self.progress.begun.map_or(GATHER, |begun| begun.elapsed());
            self.stop
                .sleep((pace * (self.hold.begun() / 2) as u32).min(GATHER));
        }
        Ok(())
    }
}
