//! Results of jobs, until they are reported to the server.

use std::collections::VecDeque;
use std::time::Duration;

use super::Log;
use super::hold::Held;
use super::job::{Job, Outcome};
use crate::clock::Moment;
use crate::queue::link::{Link, Trouble, Until};
use crate::queue::{Queue, Reserved};
use ravel_common::screen::count;

/// How long results are held back while more are about to come.
pub const LINGER: Duration = Duration::from_millis(10);

/// Results that are not reported yet.
#[derive(Default)]
pub struct Results {
    failed: VecDeque<Failed>,
    back: Vec<Reserved>,
    done: Vec<Reserved>,
    /// What those say of themselves that are done.
    jobs: Vec<Job>,
    /// When it was the first of them.
    since: Option<Moment>,
    /// They were sent, and the server may have received them.
    again: bool,
}

/// A job that has failed.
pub struct Failed {
    /// As it is reserved.
    pub reserved: Reserved,
    /// What it says of itself.
    pub job: Job,
    /// What is to become of it.
    pub outcome: Outcome,
    /// Why.
    pub why: String,
    /// Seconds since 1970 then.
    pub at: u64,
}

impl Results {
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
        self.since.get_or_insert_with(Moment::now);
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.since.is_none()
    }

    /// Returns when they are to be reported at the latest.
    pub fn due(&self) -> Option<Moment> {
        Some(self.since? + LINGER)
    }

    /// Returns the jobs that are done, which the worker's next turn reports.
    pub fn all_done(&self) -> &[Reserved] {
        &self.done
    }

    /// Notes that the server did not answer, and may have received them.
    pub fn unanswered(&mut self) {
        self.again = true;
    }

    /// Notes that the jobs that are done were reported: the reservations of those at `missed` did not hold any more.
    pub fn reported_done(&mut self, missed: &[usize], log: &Log) {
        if !std::mem::take(&mut self.again) {
            for job in missed.iter().filter_map(|place| self.jobs.get(*place)) {
                log.write(
                    job,
                    "was done after its reservation had ended: another worker may do it, too",
                );
            }
        }
        self.done.clear();
        self.jobs.clear();
        self.since = None;
    }

    /// Reports all but those that are done.
    pub fn report(
        &mut self,
        queue: &Queue,
        link: &mut Link,
        until: Until<'_>,
        log: &Log,
    ) -> Result<(), Trouble> {
        while let Some(failed) = self.failed.front() {
            let ours = match failed.outcome {
                Outcome::Again(pause) => queue.release(link, until, &failed.reserved, pause)?,
                Outcome::Failed => {
                    let fields = failed.fields(log);
                    queue.bury(link, until, &failed.reserved, &fields)?
                }
            };
            if !ours && !self.again {
                log.write(
                    &failed.job,
                    "has lost its reservation by then: another worker may have it",
                );
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
    pub fn say(&self, log: &Log) {
        let why = &self.why;
        let text = match self.outcome {
            Outcome::Again(pause) => format!("{why}; again in {pause} s"),
            Outcome::Failed => {
                let attempts = self.attempts().into();
                let attempts = count(attempts, "attempt", "attempts");
                format!("{why}; it has failed, after {attempts}")
            }
        };
        log.write(&self.job, &text);
    }

    fn attempts(&self) -> u32 {
        self.reserved.attempts.unwrap_or(0)
    }

    /// What is stored with it.
    fn fields(&self, log: &Log) -> [(&'static str, String); 5] {
        [
            ("why", self.why.clone()),
            ("id", self.job.id.clone()),
            ("attempts", self.attempts().to_string()),
            ("failed_at", self.at.to_string()),
            ("host", log.host.clone()),
        ]
    }
}
