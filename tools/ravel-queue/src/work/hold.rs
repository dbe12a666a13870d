//! The jobs that a worker has reserved, in their order.

use std::collections::VecDeque;

use super::job::Job;
use crate::clock::Moment;
use crate::queue::Reserved;

/// One of them.
pub struct Held {
    /// As it is reserved.
    pub reserved: Reserved,
    /// What it says of itself.
    pub job: Job,
    /// Until then it is surely ours.
    pub ours: Moment,
}

impl Held {
    /// Whether it was lost with a worker before.
    pub fn was_lost(&self) -> bool {
        self.job.lost(self.reserved.attempts.unwrap_or(1)) > 0
    }
}

/// All that are not over. Those in front are begun: the command that runs has them, or a part.
#[derive(Default)]
pub struct Hold {
    jobs: VecDeque<Held>,
    begun: usize,
}

impl Hold {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// How many bytes they have.
    pub fn bytes(&self) -> usize {
        self.jobs.iter().map(|held| held.reserved.text.len()).sum()
    }

    /// How many are begun.
    pub fn begun(&self) -> usize {
        self.begun
    }

    /// The one whose turn it is.
    pub fn first(&self) -> Option<&Held> {
        self.jobs.front()
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Held> + Clone {
        self.jobs.iter()
    }

    /// The same, to be changed.
    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut Held> {
        self.jobs.iter_mut()
    }

    /// Those that are not begun.
    pub fn waiting(&self) -> impl Iterator<Item = &Held> {
        self.jobs.range(self.begun..)
    }

    /// Adds one behind all others.
    pub fn add(&mut self, held: Held) {
        self.jobs.push_back(held);
    }

    /// So many more are begun.
    pub fn begin(&mut self, count: usize) {
        self.begun = (self.begun + count).min(self.jobs.len());
    }

    /// The command is gone: none is begun.
    pub fn begin_anew(&mut self) {
        self.begun = 0;
    }

    /// Lets go of the first.
    pub fn end_first(&mut self) -> Option<Held> {
        self.begun = self.begun.saturating_sub(1);
        self.jobs.pop_front()
    }

    /// Lets go of those that are not begun.
    pub fn take_waiting(&mut self) -> Vec<Held> {
        self.jobs.split_off(self.begun).into()
    }

    /// Whether one is begun that may be another's by then.
    pub fn is_begun_in_vain(&self, now: Moment) -> bool {
        self.jobs.range(..self.begun).any(|held| now >= held.ours)
    }

    /// Until when all that are begun are surely ours; none where none is begun.
    pub fn begun_until(&self) -> Option<Moment> {
        self.jobs.range(..self.begun).map(|held| held.ours).min()
    }

    /// Until when all are surely ours; none where there is none.
    pub fn until(&self) -> Option<Moment> {
        self.jobs.iter().map(|held| held.ours).min()
    }

    /// Lets go of those that may be another's by then, where none of them is begun.
    pub fn take_lost(&mut self, now: Moment) -> Vec<Held> {
        let all = self.jobs.drain(..);
        let (lost, ours) = all.partition(|held| now >= held.ours);
        self.jobs = ours;
        Vec::from_iter::<VecDeque<Held>>(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn hold(ids: &[&str], begun: usize, ours: Moment) -> Hold {
        let mut hold = Hold::default();
        for id in ids {
            let text = format!("{{\"id\":\"{id}\"}}").into_bytes();
            hold.add(Held {
                job: Job::parse(&text).unwrap(),
                reserved: Reserved {
                    text,
                    attempts: Some(1),
                },
                ours,
            });
        }
        hold.begin(begun);
        hold
    }

    fn ids<'a>(of: impl IntoIterator<Item = &'a Held>) -> String {
        of.into_iter().map(|held| held.job.id.as_str()).collect()
    }

    #[test]
    fn jobs_end_in_their_order_and_those_behind_stay() {
        let mut hold = hold(&["a", "b", "c", "d"], 2, Moment::now());
        assert_eq!(ids(hold.waiting()), "cd");
        assert_eq!(hold.bytes(), 4 * "{'id':'a'}".len());
        assert_eq!(ids(&hold.end_first()), "a");
        assert_eq!((hold.begun(), ids(hold.all())), (1, "bcd".into()));
        hold.begin_anew();
        assert_eq!(ids(hold.waiting()), "bcd");
        hold.begin(1);
        assert_eq!(ids(&hold.take_waiting()), "cd");
        assert_eq!(ids(hold.first()), "b");
        assert_eq!(ids(&hold.end_first()), "b");
        assert!(hold.end_first().is_none() && hold.is_empty() && hold.begun() == 0);
    }

    #[test]
    fn those_that_are_lost_are_let_go_of() {
        let now = Moment::now();
        let mut hold = hold(&["a", "b", "c"], 1, now + Duration::from_secs(60));
        assert!(hold.take_lost(now).is_empty());
        hold.all_mut().nth(1).unwrap().ours = now;
        assert!(!hold.is_begun_in_vain(now));
        assert_eq!(ids(&hold.take_lost(now)), "b");
        assert_eq!((hold.begun(), ids(hold.all())), (1, "ac".into()));
        hold.all_mut().next().unwrap().ours = now;
        assert!(hold.is_begun_in_vain(now));
    }

    #[test]
    fn attempts_beyond_failures_are_losses() {
        let mut hold = hold(&["a"], 0, Moment::now());
        for (failures, attempts, lost) in [
            (0, Some(1), false),
            (0, Some(2), true),
            (1, Some(2), false),
            (1, Some(3), true),
            (0, None, false),
        ] {
            let held = hold.all_mut().next().unwrap();
            held.job.failures = failures;
            held.reserved.attempts = attempts;
            assert_eq!(held.was_lost(), lost, "{failures} {attempts:?}");
        }
    }
}
