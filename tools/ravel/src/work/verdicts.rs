//! What has become of jobs, until the server is told.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::Voice;
use super::hold::Held;
use super::job::{Fate, Job};
use crate::queue::link::{Link, Trouble, Until};
use crate::queue::{Queue, Reserved};
use crate::screen::count;

/// How long the server is not told while more is about to come.
pub const LINGER: Duration = Duration::from_millis(10);

/// What has become of jobs.
#[derive(Default)]
pub struct Verdicts {
    failed: VecDeque<Failed>,
    back: Vec<Reserved>,
    done: Vec<Reserved>,
    /// What those say of themselves that are done.
    jobs: Vec<Job>,
    /// When it was the first of them.
    since: Option<Instant>,
    /// The server was told, and may have heard it.
    again: bool,
}

/// A job that has failed.
pub struct Failed {
    /// As it is reserved.
    pub reserved: Reserved,
    /// What it says of itself.
    pub job: Job,
    /// What is to become of it.
    pub fate: Fate,
    /// Why.
    pub why: String,
    /// Seconds since 1970 then.
    pub at: u64,
}

impl Verdicts {
    /// A job that is done.
    pub fn done(&mut self, held: Held) {
        self.begin();
        self.done.push(held.reserved);
        self.jobs.push(held.job);
    }

    /// Jobs that are given back as if they had not been taken.
    pub fn back(&mut self, held: Vec<Held>) {
        if !held.is_empty() {
            self.begin();
            self.back.extend(held.into_iter().map(|held| held.reserved));
        }
    }

    /// A job that has failed.
    pub fn failed(&mut self, failed: Failed) {
        self.begin();
        self.failed.push_back(failed);
    }

    fn begin(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.since.is_none()
    }

    /// When it is to be told at the latest.
    pub fn due(&self) -> Option<Instant> {
        Some(self.since? + LINGER)
    }

    /// Those that are done, which are told by the worker's next turn.
    pub fn all_done(&self) -> &[Reserved] {
        &self.done
    }

    /// The server may have heard them, and did not answer.
    pub fn unanswered(&mut self) {
        self.again = true;
    }

    /// The server was told which are done: those at `missed` are another's.
    pub fn told_done(&mut self, missed: &[usize], voice: &Voice) {
        if !std::mem::take(&mut self.again) {
            for job in missed.iter().filter_map(|place| self.jobs.get(*place)) {
                voice.say(
                    job,
                    "was done, but another worker has it by now: it is done twice",
                );
            }
        }
        self.done.clear();
        self.jobs.clear();
        self.since = None;
    }

    /// Tells all but which are done.
    pub fn tell(
        &mut self,
        queue: &Queue,
        link: &mut Link,
        until: Until<'_>,
        voice: &Voice,
    ) -> Result<(), Trouble> {
        while let Some(failed) = self.failed.front() {
            let ours = match failed.fate {
                Fate::Again(pause) => queue.release(link, until, &failed.reserved, pause)?,
                Fate::Failed => {
                    let fields = failed.fields(voice);
                    queue.bury(link, until, &failed.reserved, &fields)?
                }
            };
            if !ours && !self.again {
                voice.say(&failed.job, "was given to another worker by then");
            }
            self.failed.pop_front();
        }
        if !self.back.is_empty() {
            queue.give_back(link, until, &self.back)?;
            self.back.clear();
        }
        if self.done.is_empty() {
            self.since = None;
            self.again = false;
        }
        Ok(())
    }
}

impl Failed {
    /// Says what becomes of it.
    pub fn say(&self, voice: &Voice) {
        let why = &self.why;
        let text = match self.fate {
            Fate::Again(pause) => format!("{why}; again in {pause} s"),
            Fate::Failed => {
                let attempts = self.attempts().into();
                let attempts = count(attempts, "attempt", "attempts");
                format!("{why}; it has failed, after {attempts}")
            }
        };
        voice.say(&self.job, &text);
    }

    fn attempts(&self) -> u32 {
        self.reserved.attempts.unwrap_or(0)
    }

    /// What is stored with it.
    fn fields(&self, voice: &Voice) -> [(&'static str, String); 5] {
        [
            ("why", self.why.clone()),
            ("id", self.job.id.clone()),
            ("attempts", self.attempts().to_string()),
            ("failed_at", self.at.to_string()),
            ("host", voice.host.clone()),
        ]
    }
}
