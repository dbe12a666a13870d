// SPDX-License-Identifier: GPL-2.0
//! The same for the files of streams of events, one of which has events that are handed out and back meanwhile.

mod inputs;
mod model;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};

use anyhow::{Context, Result};

use super::fuzz::{FORMAT, documented};
use crate::harness::say;
use crate::module::{self, DIR, errno_name, read_file, write_errno};
use crate::process::Child;
use crate::random::Random;
use crate::stream::{Forker, Made, client};
use crate::sys::{self, PAGE};
use crate::{check, check_eq, tests, tier};
use inputs::input;
use model::{FULL, LAST_PID, Model, Order, Reader, Target, number, numbers};

tests!("fuzz":
    every_order_to_a_stream_is_answered_as_documented [300 s],
);

const EVENTS: &str = include_str!("../../../../src/events/EVENTS.md");

/// The words of the list of streams that a failed write must not change. Time moves what was handed out, and other
/// processes fork.
fn settled() -> Result<Vec<String>> {
    let text = String::from_utf8(read_file("streams")?.whole()?)?;
    let mut all = Vec::new();
    for line in text.lines() {
        let full = line.contains(&format!("name={FULL} "));
        let moves = ["waiting", "ready", "reserved", "delayed", "failed"];
        let counts = ["events", "lost", "acked", "cleared"];
        let mut held = 0;
        for word in line.split(' ') {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            if full && moves.contains(&key) {
                held += value.parse::<u64>()?;
            }
            let settings = !moves.contains(&key) && !["leases", "attempts"].contains(&key);
            if settings && (full || !counts.contains(&key)) {
                all.push(word.to_owned());
            }
        }
        if full {
            all.push(format!("held={held}"));
        }
    }
    Ok(all)
}

fn open(name: &str) -> Result<File> {
    let path = format!("{DIR}/{name}");
    let mut options = OpenOptions::new();
    options.read(true).write(true).open(&path).context(path)
}

/// Whether a request could take more memory than a small machine has, or take the full stream away.
fn is_unwanted(order: Option<&Order>, input: &[u8]) -> bool {
    let large = |text: &str| number(text, 1 << 20, u64::MAX).is_some();
    match order {
        Some(Order::Create { .. }) => String::from_utf8_lossy(input)
            .split([' ', '\n'])
            .any(|word| word.strip_prefix("bytes=").is_some_and(large)),
        Some(Order::Remove(name)) => name == FULL,
        _ => false,
    }
}

/// The streams as the module lists them, and whether each goes with a descriptor.
fn listed() -> Result<BTreeMap<String, bool>> {
    let streams = client().streams()?.streams.into_iter();
    Ok(streams
        .map(|stream| (stream.name, stream.until_close))
        .collect())
}

fn every_order_to_a_stream_is_answered_as_documented() -> Result<()> {
    let count = tier::fuzz_inputs() / 20;
    let seed = match tier::asked("RAVEL_FUZZ_SEED") {
        Some(seed) => seed,
        None => Random::seed()?,
    };
    say(format_args!("{count} inputs, RAVEL_FUZZ_SEED={seed}"));
    let mut random = Random::new(seed);
    let mut forker = Forker::new(None)?;
    let mut zombie = Child::idle()?;
    zombie.make_zombie()?;
    let idle = Child::idle()?;

    let gone = Made::new("gone", "sources=fork")?;
    let mut gone_files = [open("events/gone/events")?, open("events/gone/failed")?];
    client().control_streams("remove gone")?;
    drop(gone);
    let terms = format!("sources=fork pid={} attempts=3", forker.pid());
    let full = Made::new(FULL, &terms)?;
    forker.fork(100)?;

    let readers = (0..2).map(|_| -> Result<Reader> {
        let file = open(&format!("events/{FULL}/events"))?;
        Ok(Reader {
            file,
            ms: 30_000,
            binary: false,
            batch: BTreeSet::new(),
            holds: false,
        })
    });
    let sources = String::from_utf8(read_file("sources")?.whole()?)?;
    let names = sources
        .lines()
        .filter_map(|line| line.strip_prefix("source name="));
    let mut model = Model {
        sources: names
            .filter_map(|rest| Some(rest.split_once(' ')?.0.to_owned()))
            .collect(),
        streams: BTreeMap::from([(FULL.to_owned(), false)]),
        alive: [1, 2, sys::getpid(), idle.pid].map(|pid| pid as u64).into(),
        zombie: zombie.pid as u64,
        pid_max: fs::read_to_string("/proc/sys/kernel/pid_max")?
            .trim()
            .parse()?,
        readers: readers.collect::<Result<_>>()?,
        failed: BTreeSet::new(),
        acked: BTreeSet::new(),
    };
    check!(!model.sources.is_empty(), "no sources in {sources}");
    let mut pids: Vec<u64> = model.alive.iter().copied().collect();
    pids.extend([model.zombie, LAST_PID, LAST_PID - 1]);
    let [mut streams, mut failed, mut plain] = [
        open("streams")?,
        open(&format!("events/{FULL}/failed"))?,
        open("sources")?,
    ];
    let files = 3 + model.readers.len() + gone_files.len();
    let hole = sys::map_anon(PAGE, libc::PROT_NONE)?;
    let known: BTreeSet<String> = documented(FORMAT)
        .into_iter()
        .chain(documented(EVENTS))
        .collect();

    let mut answers: BTreeMap<String, u64> = BTreeMap::new();
    for n in 0..count {
        if n % 100 == 0 && full.state()?.ready < 50 {
            forker.fork(100)?;
        }
        let target = match random.below(16) {
            0..=5 => Target::Streams,
            6..=11 => Target::Reader(random.below(2)),
            12..=13 => Target::Failed,
            14 => Target::Sources,
            _ => Target::Gone(random.below(2)),
        };
        let at = random.below(2);
        if random.one_in(8) {
            model.readers[at].read()?;
        }
        if target == Target::Failed {
            let text = read_file(&format!("events/{FULL}/failed"))?.whole()?;
            model.failed = numbers(&String::from_utf8(text)?)?;
        }
        let input = input(&mut random, target, &model, &pids);
        let (readable, looks) = (!random.one_in(100), random.one_in(10));
        let (expected, order) = model.expect(target, &input, readable);
        if is_unwanted(order.as_ref(), &input) {
            continue;
        }
        let before = if looks { settled()? } else { Vec::new() };
        let file = match target {
            Target::Streams => &mut streams,
            Target::Reader(at) => &mut model.readers[at].file,
            Target::Failed => &mut failed,
            Target::Sources => &mut plain,
            Target::Gone(at) => &mut gone_files[at],
        };
        let errno = if readable {
            write_errno(file, &input)
        } else {
            match sys::write_from_address(file, hole, input.len()) {
                Ok(_) => 0,
                Err(error) => sys::errno(&error),
            }
        };
        let told = || {
            let text = String::from_utf8_lossy(&input[..input.len().min(300)]).into_owned();
            format!(
                "input {n} of RAVEL_FUZZ_SEED={seed}: {text:?}, {} bytes to {target:?}",
                input.len()
            )
        };
        check!(
            expected.contains(&errno),
            "{}: errno {errno}, wanted one of {expected:?}",
            told()
        );
        let name = if errno == 0 { "0" } else { errno_name(errno) };
        check!(
            errno == 0 || known.contains(name),
            "{}: {name} is not documented",
            told()
        );
        *answers.entry(name.to_owned()).or_default() += 1;
        if errno != 0 && looks {
            check_eq!(settled()?, before, "the streams, after {}", told());
        }
        if let Some(order) = order {
            model.took(target, order, errno).with_context(told)?;
        }
        if n % 1000 == 0 || n + 1 == count {
            check_eq!(listed()?, model.streams, "streams, after {}", told());
            check_eq!(
                module::references()?,
                files as i64,
                "references, after {}",
                told()
            );
        }
    }
    model.readers.clear();
    let state = full.state()?;
    check_eq!(state.lost, 0, "events lost");
    check_eq!(state.reserved, 0, "records reserved when no reader is left");
    check_eq!(
        state.acked,
        model.acked.len() as u64,
        "records acknowledged"
    );
    check_eq!(
        state.ready + state.delayed + state.failed + state.acked + state.cleared + state.waiting,
        state.events,
        "records in all, of {state:?}"
    );
    let left: BTreeSet<u64> = full.drain()?.iter().map(|event| event.seq()).collect();
    check!(
        left.is_disjoint(&model.acked),
        "what was acknowledged is handed out again"
    );
    drop((streams, failed, plain, gone_files, full));
    // With the descriptor that made them go those that were to.
    model
        .streams
        .retain(|name, until_close| name != FULL && !*until_close);
    check_eq!(listed()?, model.streams, "streams behind the descriptor");
    for name in model.streams.keys() {
        client().control_streams(&format!("remove {name}"))?;
    }
    check!(client().streams()?.streams.is_empty(), "streams are left");
    check_eq!(module::references()?, 0, "references at the end");
    say(format_args!("answers: {answers:?}"));
    for errno in [
        "0", "EINVAL", "ESRCH", "EEXIST", "ENOENT", "ENOSPC", "EFAULT", "ENODATA", "EIO",
    ] {
        check!(
            count < 10_000 || answers.contains_key(errno),
            "no input was answered with {errno}"
        );
    }
    Ok(())
}
