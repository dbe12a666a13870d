// SPDX-License-Identifier: GPL-2.0
//! The promise of delivery, as a whole: processes that know exactly what they did, against what arrives, while
//! everybody on the way is killed at any moment, disks fill, servers forget, and the stream is removed.
//!
//! Each run draws who consumes the stream and what goes wrong. RAVEL_PROOF_RUNS says how many there are;
//! RAVEL_PROOF_SEED has the first of them draw the same again.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::netfilters::{Cgroup, cgroups};
use crate::harness::{keep, say};
use crate::random::Random;
use crate::server::until;
use crate::stream::{Made, client};
use crate::sys;
use crate::tier::{asked, proof_runs, scale};
use crate::{check, check_eq, tests};

use consumer::{Consumer, Readers, Spool};
use disk::Disk;
use ledger::{Arrived, Harm, Life, Tally, balance};
use makers::{Deed, Makers};
use queue::{Keeps, Queue};

mod consumer;
mod disk;
mod ledger;
mod makers;
mod queue;

tests!("proof": what_happened_is_delivered_or_counted [180 s]);

/// So many runs have everything in them that can go wrong.
const MANY: u64 = 50;

/// Memory for all that happens, and the least that a stream can have.
const ROOMY: usize = 4 << 20;
const TIGHT: usize = 16 << 10;

/// Its name.
const STREAM: &str = "proof";

/// Who consumes the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Readers,
    Spool,
    Queue(Keeps),
}

/// What a run is to be.
#[derive(Debug)]
struct Plan {
    seed: u64,
    way: Way,
    /// How much memory the stream has.
    bytes: usize,
    /// It is removed amid all, and made again.
    removed: bool,
    /// The consumer's disk can be full.
    small: bool,
    /// How often a record is handed out at most.
    attempts: u64,
    /// How many events there are, at least.
    events: usize,
}

impl Plan {
    fn draw(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let ways = [
            Way::Readers,
            Way::Spool,
            Way::Queue(Keeps::Everything),
            Way::Queue(Keeps::Durable),
            Way::Queue(Keeps::Nothing),
        ];
        // One after the other, so that a few runs have them all.
        let way = ways[(seed % ways.len() as u64) as usize];
        let removed = random.one_in(4);
        let has_disk = !matches!(way, Way::Readers | Way::Queue(Keeps::Nothing));
        // Those who hand on have what failed handed out again: behind what came later.
        let fails = way != Way::Readers && !removed && random.one_in(2);
        Self {
            seed,
            way,
            bytes: if !removed && random.one_in(3) {
                TIGHT << random.below(3)
            } else {
                ROOMY
            },
            removed,
            small: has_disk && random.one_in(2),
            attempts: if fails { 3 } else { 1000 },
            events: least_events() + random.below(scale(300, 100)),
        }
    }

    fn name(&self) -> &'static str {
        match self.way {
            Way::Readers => "readers",
            Way::Spool => "spool",
            Way::Queue(Keeps::Everything) => "queue, all on its disk",
            Way::Queue(Keeps::Durable) => "queue, --durable",
            Way::Queue(Keeps::Nothing) => "queue, that forgets",
        }
    }

    /// Whether one alone reads the stream and gives nothing up, and so gets everything in order.
    fn is_alone(&self) -> bool {
        self.attempts > 3 && self.way != Way::Readers
    }

    fn terms(&self, cgroup: &Cgroup) -> Result<String> {
        let (bytes, attempts) = (self.bytes, self.attempts);
        let cgroup = cgroup.id()?;
        Ok(format!(
            "sources=fork,reset,shutdown,close bytes={bytes} attempts={attempts} cgroup={cgroup}"
        ))
    }

    fn consumer(&self, folder: &Path, random: &mut Random) -> Result<Box<dyn Consumer>> {
        let some = 1 + random.below(3);
        let ahead = [1, 2, 10, 100][random.below(4)];
        Ok(match self.way {
            Way::Readers => Box::new(Readers::new(folder, some, random)?),
            Way::Spool => Box::new(Spool::new(folder, self.small)?),
            Way::Queue(keeps) => Box::new(Queue::new(
                folder,
                keeps,
                self.small,
                self.is_alone(),
                [some, ahead],
            )?),
        })
    }

    fn run(&self) -> Result<Tally> {
        let folder = Disk::here(Path::new("/var/tmp/proof"))?;
        let cgroup = Cgroup::new(cgroups()?.join(format!("ravel-proof-{}", self.seed)))?;
        let mut random = Random::new(!self.seed);
        let mut makers = Makers::new(&cgroup, &folder.path, self.events, &mut random)?;
        let mut trial = Trial::new(self, &cgroup, &folder.path, random)?;
        let start = Instant::now();
        makers.begin()?;
        trial.disturb(|| makers.are_done())?;
        let deeds = makers.deeds()?;
        let done = start.elapsed();
        trial.empty()?;
        let empty = start.elapsed();
        let arrived = trial.arrive()?;
        let times = [done, empty, start.elapsed()].map(|time| time.as_secs_f64());
        let tally = trial.balance(deeds, arrived)?;
        makers.end()?;
        keep(
            "proof",
            format!("{self:?}: {tally}; done, out of the stream, and arrived after {times:.1?} s"),
        )?;
        Ok(tally)
    }
}

/// A run amid it.
struct Trial<'p> {
    plan: &'p Plan,
    random: Random,
    /// Goes before the stream.
    consumer: Box<dyn Consumer>,
    stream: Made,
    terms: String,
    /// By that time it was made.
    made: u64,
    /// The stream's that are over.
    lives: Vec<Life>,
    harm: Vec<Harm>,
}

impl<'p> Trial<'p> {
    fn new(plan: &'p Plan, cgroup: &Cgroup, folder: &Path, mut random: Random) -> Result<Self> {
        let terms = plan.terms(cgroup)?;
        let stream = Made::new(STREAM, &terms)?;
        let made = sys::boot_ns()?;
        Ok(Self {
            plan,
            consumer: plan.consumer(folder, &mut random)?,
            random,
            stream,
            terms,
            made,
            lives: Vec::new(),
            harm: Vec::new(),
        })
    }

    /// Does harm until all that is to happen has.
    fn disturb(&mut self, are_done: impl Fn() -> Result<bool>) -> Result<()> {
        let removal = self.plan.removed.then(|| 1 + self.random.below(3));
        for step in 0.. {
            if step > 3 && are_done()? {
                break;
            }
            pause(&mut self.random, 150);
            if removal == Some(step) {
                self.remove()?;
                pause(&mut self.random, 50);
                client().control_streams(&format!("create {STREAM} {}", self.terms))?;
                self.made = sys::boot_ns()?;
            }
            self.strike()?;
        }
        Ok(())
    }

    /// Removes the stream, whoever uses it.
    fn remove(&mut self) -> Result<()> {
        let asked = sys::boot_ns()?;
        let state = self.stream.state()?;
        client().control_streams(&format!("remove {STREAM}"))?;
        self.lives.push(Life {
            made: self.made,
            until: sys::boot_ns()?,
            acked: state.acked,
            events: state.events,
            asked: Some(asked),
        });
        self.harm.push("streams removed");
        Ok(())
    }

    /// Harms one of those on the way or several at once, and has them come back a little later.
    fn strike(&mut self) -> Result<()> {
        for _ in 0..=self.random.below(3) {
            self.harm.extend(self.consumer.harm(&mut self.random)?);
        }
        pause(&mut self.random, 60);
        self.consumer.mend()
    }

    /// Has what is left in the stream handed on, at first in no more peace than before.
    fn empty(&mut self) -> Result<()> {
        for _ in 0..self.random.below(4) {
            self.strike()?;
        }
        self.consumer.relieve()?;
        until("the stream is empty", || {
            self.consumer.mend()?;
            let state = self.stream.state()?;
            let left = state.ready + state.reserved + state.delayed + state.failed + state.waiting;
            Ok(left == 0)
        })?;
        let state = self.stream.state()?;
        check_eq!((state.missed, state.cleared), (0, 0), "missed and cleared");
        self.lives.push(Life {
            made: self.made,
            until: u64::MAX,
            acked: state.acked,
            events: state.events,
            asked: None,
        });
        Ok(())
    }

    /// Has all of it come to its end: what has arrived.
    fn arrive(&mut self) -> Result<Arrived> {
        let mut arrived = self.consumer.finish(&mut self.random)?;
        self.harm.append(&mut arrived.harm);
        arrived.alone = self.plan.is_alone();
        arrived.ordered = arrived.alone && self.plan.way == Way::Spool;
        Ok(arrived)
    }

    fn balance(mut self, deeds: Vec<Vec<Deed>>, arrived: Arrived) -> Result<Tally> {
        let mut tally = balance(&deeds, &self.lives, &arrived)?;
        check!(
            self.plan.bytes < ROOMY || tally.lost == 0,
            "{} lost, with room for all",
            tally.lost
        );
        check!(
            tally.happened >= self.plan.events as u64,
            "no more than {} events",
            tally.happened
        );
        for harm in self.harm {
            *tally.harm.entry(harm).or_default() += 1;
        }
        if !self.plan.removed {
            every_one_counts(deeds, &self.lives, arrived, &mut self.random)?;
        }
        Ok(tally)
    }
}

/// That accounts balance says something only where they do not with a record less, or a deed.
fn every_one_counts(
    mut deeds: Vec<Vec<Deed>>,
    lives: &[Life],
    mut arrived: Arrived,
    random: &mut Random,
) -> Result<()> {
    let all: Vec<_> = arrived.told.iter().chain(&arrived.forgotten).collect();
    let one = (**random.pick(&all)).clone();
    let (told, forgotten) = (arrived.told.clone(), arrived.forgotten.clone());
    arrived.told.retain(|told| *told != one);
    arrived.forgotten.retain(|told| *told != one);
    let result = balance(&deeds, lives, &arrived);
    ensure!(result.is_err(), "it would balance without {one:?}");
    (arrived.told, arrived.forgotten) = (told, forgotten);
    let some = deeds.iter_mut().max_by_key(|deeds| deeds.len());
    let some = some.context("no deeds")?;
    let one = some.remove(random.below(some.len()));
    let result = balance(&deeds, lives, &arrived);
    ensure!(result.is_err(), "it would balance without {}", one.what);
    Ok(())
}

/// How many events there are in a run, at least: 100,000 in 200.
fn least_events() -> usize {
    scale(500, 100)
}

/// What is to have gone wrong, in as many runs as prove something.
const ALL_HARM: [Harm; 8] = [
    "readers killed",
    "spools killed",
    "forwarders killed",
    "workers killed",
    "servers killed",
    "servers emptied",
    "disks filled",
    "streams removed",
];

fn pause(random: &mut Random, most: usize) {
    let most = most * scale(1, 4);
    thread::sleep(Duration::from_millis(random.below(most) as u64));
}

fn what_happened_is_delivered_or_counted() -> Result<()> {
    let first = match asked("RAVEL_PROOF_SEED") {
        Some(seed) => seed,
        None => Random::seed()?,
    };
    let (start, runs) = (Instant::now(), proof_runs());
    let mut tallies: BTreeMap<&str, Tally> = BTreeMap::new();
    let mut all = Tally::default();
    let mut failures = Vec::new();
    for run in 0..runs {
        let plan = Plan::draw(first.wrapping_add(run));
        match plan.run() {
            Ok(tally) => {
                tallies.entry(plan.name()).or_default().add(&tally);
                all.add(&tally);
            }
            Err(error) => failures.push(format!("{plan:?}: {error:#}")),
        }
    }
    ensure!(
        failures.is_empty(),
        "{} of {runs} runs failed (RAVEL_PROOF_RUNS=1 RAVEL_PROOF_SEED=... for one alone)\n{}",
        failures.len(),
        failures.join("\n")
    );
    for (name, tally) in &tallies {
        say(format!("{name}: {tally}"));
    }
    let seconds = start.elapsed().as_secs();
    say(format!("all, from seed {first} on: {all}, in {seconds} s"));
    let least = runs * least_events() as u64;
    ensure!(all.happened >= least, "less than {least} events");
    if runs >= MANY {
        for one in ALL_HARM {
            ensure!(all.harm.contains_key(one), "that many runs, and no {one}");
        }
        let came = [all.lost, all.removed, all.forgotten, all.again];
        ensure!(!came.contains(&0), "that many runs, and one of them is 0");
    }
    Ok(())
}
