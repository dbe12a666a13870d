//! The module's own store of events (src/events/store.rs) under random histories, against a model that is
//! nothing but a list of records with a state each.

use proptest::collection::vec;
use proptest::prelude::*;

#[allow(dead_code)]
#[path = "../../../src/events/store.rs"]
mod store;

use store::{Counts, Ended, Entry, Lease, Places, Store};

impl Places for Vec<Entry<u64>> {
    type What = u64;

    fn add(&mut self, entry: Entry<u64>) -> bool {
        self.push(entry);
        true
    }
}

/// Few, so that they run out.
const LEASES: usize = 4;

/// What may be done to a store.
#[derive(Clone, Debug)]
enum Step {
    Push,
    Lease { count: u32, time: u64 },
    Ack { lease: usize, upto: Option<usize> },
    GiveBack { lease: usize, delay: u64 },
    Replay { which: Option<usize> },
    Clear { which: Option<usize> },
    Wait { time: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let which = || prop::option::of(0..20usize);
    let step = prop_oneof![
        4 => Just(Step::Push),
        3 => (0..6u32, 1..50u64).prop_map(|(count, time)| Step::Lease { count, time }),
        2 => (0..8usize, which()).prop_map(|(lease, upto)| Step::Ack { lease, upto }),
        2 => (0..8usize, prop_oneof![Just(0), 1..50u64])
            .prop_map(|(lease, delay)| Step::GiveBack { lease, delay }),
        1 => which().prop_map(|which| Step::Replay { which }),
        1 => which().prop_map(|which| Step::Clear { which }),
        2 => (1..30u64).prop_map(|time| Step::Wait { time }),
    ];
    vec(step, 0..200)
}

/// What a record of the model is up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    Reserved(u64),
    Delayed(u64),
    Failed,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    seq: u64,
    attempts: u32,
    state: State,
}

/// The same by plain means: every question is answered by looking at all records.
struct Model {
    records: Vec<Record>,
    deadlines: Vec<(u64, u64)>,
    most: u32,
}

impl Model {
    fn tick(&mut self, now: u64) {
        let past: Vec<u64> = (self.deadlines.iter())
            .filter(|(_, deadline)| *deadline <= now)
            .map(|(lease, _)| *lease)
            .collect();
        past.into_iter().for_each(|lease| self.give_back(lease, 0));
        for record in &mut self.records {
            if matches!(record.state, State::Delayed(due) if due <= now) {
                record.state = State::Ready;
            }
        }
    }

    fn holds(&self, lease: u64) -> bool {
        self.deadlines.iter().any(|(held, _)| *held == lease)
    }

    fn give_back(&mut self, lease: u64, due: u64) {
        for record in &mut self.records {
            if record.state == State::Reserved(lease) {
                record.state = match due {
                    _ if record.attempts >= self.most => State::Failed,
                    0 => State::Ready,
                    due => State::Delayed(due),
                };
            }
        }
        self.deadlines.retain(|(held, _)| *held != lease);
    }

    fn seqs(&self, which: impl Fn(State) -> bool) -> Vec<u64> {
        let records = self.records.iter().filter(|record| which(record.state));
        records.map(|record| record.seq).collect()
    }

    fn counts(&self) -> Counts {
        let count = |which: fn(State) -> bool| self.seqs(which).len() as u64;
        Counts {
            ready: count(|state| state == State::Ready),
            reserved: count(|state| matches!(state, State::Reserved(_))),
            delayed: count(|state| matches!(state, State::Delayed(_))),
            failed: count(|state| state == State::Failed),
            leases: self.deadlines.len() as u64,
        }
    }

    fn due(&self) -> Option<u64> {
        let delays = self.records.iter().filter_map(|record| match record.state {
            State::Delayed(due) => Some(due),
            _ => None,
        });
        delays.chain(self.deadlines.iter().map(|(_, at)| *at)).min()
    }
}

proptest! {
    #[test]
    fn store_does_what_the_model_does(steps in steps(), places in 1..30usize, most in 1..4u32) {
        let mut store = Store::new(Vec::with_capacity(places), places as u32, vec![Lease::FREE; LEASES], most);
        let mut model = Model { records: Vec::new(), deadlines: Vec::new(), most };
        // Leases that were ever out, the dead ones too.
        let mut leases: Vec<u64> = Vec::new();
        let (mut now, mut seq) = (1u64, 0u64);
        for step in steps {
            store.tick(now);
            model.tick(now);
            match step {
                Step::Push => {
                    let room = model.records.len() < places;
                    // Numbers have gaps, as losses make them.
                    seq += 1 + seq % 3;
                    prop_assert_eq!(store.room() > 0, room);
                    prop_assert_eq!(store.push(seq, seq * 7), room);
                    if room {
                        model.records.push(Record { seq, attempts: 0, state: State::Ready });
                    }
                }
                Step::Lease { count, time } => {
                    let ready = model.seqs(|state| state == State::Ready);
                    let want = &ready[..ready.len().min(count as usize)];
                    let free = model.deadlines.len() < LEASES;
                    prop_assert_eq!(store.has_lease(), free);
                    let lease = store.lease(count, now + time);
                    prop_assert_eq!(lease.is_some(), free && !want.is_empty());
                    if let Some(lease) = lease {
                        prop_assert!(!leases.contains(&lease));
                        leases.push(lease);
                        model.deadlines.push((lease, now + time));
                        for record in &mut model.records {
                            if want.contains(&record.seq) {
                                record.state = State::Reserved(lease);
                                record.attempts += 1;
                            }
                        }
                    }
                }
                Step::Ack { lease, upto } => {
                    let Some(lease) = leases.iter().rev().nth(lease).copied() else { continue };
                    let held = model.seqs(|state| state == State::Reserved(lease));
                    // Also numbers that are not of this lease.
                    let upto = upto.map(|at| model.records.get(at).map_or(seq + 1, |record| record.seq));
                    let done = store.acknowledge(lease, upto);
                    if !model.holds(lease) {
                        prop_assert_eq!(done, Err(Ended));
                    } else if upto.is_some_and(|upto| !held.contains(&upto)) {
                        prop_assert_eq!(done, Ok(None));
                    } else {
                        let gone = |seq: u64| held.contains(&seq) && upto.is_none_or(|upto| seq <= upto);
                        let count = held.iter().filter(|seq| gone(**seq)).count();
                        prop_assert_eq!(done, Ok(Some(count as u64)));
                        model.records.retain(|record| !gone(record.seq));
                        if count == held.len() {
                            model.deadlines.retain(|(id, _)| *id != lease);
                        }
                    }
                }
                Step::GiveBack { lease, delay } => {
                    let Some(lease) = leases.iter().rev().nth(lease).copied() else { continue };
                    let due = if delay == 0 { 0 } else { now + delay };
                    let want = if model.holds(lease) { Ok(()) } else { Err(Ended) };
                    prop_assert_eq!(store.give_back(lease, due), want);
                    model.give_back(lease, due);
                }
                Step::Replay { which } => {
                    let failed = model.seqs(|state| state == State::Failed);
                    let which = which.map(|at| failed.get(at).copied().unwrap_or(seq + 1));
                    let mut count = 0;
                    for record in &mut model.records {
                        if record.state == State::Failed && which.is_none_or(|seq| seq == record.seq) {
                            (record.state, record.attempts) = (State::Ready, 0);
                            count += 1;
                        }
                    }
                    prop_assert_eq!(store.replay(which), count);
                }
                Step::Clear { which } => {
                    let failed = model.seqs(|state| state == State::Failed);
                    let which = which.map(|at| failed.get(at).copied().unwrap_or(seq + 1));
                    let gone = |record: &Record| {
                        record.state == State::Failed && which.is_none_or(|seq| seq == record.seq)
                    };
                    let count = model.records.iter().filter(|record| gone(record)).count();
                    model.records.retain(|record| !gone(record));
                    prop_assert_eq!(store.clear(which), count as u64);
                }
                Step::Wait { time } => now += time,
            }
            let told = |entries: Vec<(u64, u64, u32)>, state: State| {
                let want = model.records.iter().filter(|record| record.state == state);
                entries == want.map(|record| (record.seq, record.seq * 7, record.attempts)).collect::<Vec<_>>()
            };
            let plain = |entry: &Entry<u64>| (entry.seq, entry.what, entry.attempts);
            prop_assert!(told(store.ready().map(plain).collect(), State::Ready));
            prop_assert!(told(store.failed(0).map(plain).collect(), State::Failed));
            prop_assert_eq!(store.counts(), model.counts());
            prop_assert_eq!(store.is_ready(), model.counts().ready > 0);
            prop_assert_eq!(store.next_due(), model.due());
            prop_assert_eq!(store.room() as usize, places - model.records.len());
            for lease in &leases {
                prop_assert_eq!(store.holds(*lease), model.holds(*lease));
            }
        }
    }
}
