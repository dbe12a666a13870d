// SPDX-License-Identifier: GPL-2.0
//! The kernel's own tests (`tools/testing/selftests`), each run alone and then again while all of its processes
//! are read by every report: what passes alone still passes.
//!
//! They are there where `make selftests` has put them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use super::page::kinds::Swap;
use super::storm::{Seen, ask, judge, lock, requests};
use crate::harness::say;
use crate::module::{self, open_query};
use crate::random::Random;
use crate::sys::Pid;
use crate::{check, check_eq, tests, tier};

pub mod net;
pub mod packetdrill;

tests!("selftests" when are_there:
    mm_cow [300 s],
    mm_droppable [60 s],
    mm_guard_regions [120 s],
    mm_ksm_functional_tests [300 s],
    mm_madv_populate [60 s],
    mm_merge [60 s],
    mm_migration [400 s],
    mm_mkdirty [60 s],
    mm_mlock2_tests [60 s],
    mm_mremap_dontunmap [60 s],
    mm_mremap_test [400 s],
    mm_pagemap_ioctl [300 s],
    mm_process_madv [60 s],
    mm_rmap [300 s],
    mm_soft_dirty [120 s],
    mm_split_huge_page_test [300 s],
    af_unix_diag_uid [300 s],
    af_unix_msg_oob [300 s],
    af_unix_scm_inq [300 s],
    af_unix_scm_pidfd [300 s],
    af_unix_scm_rights [300 s],
    af_unix_so_peek_off [300 s],
    af_unix_unix_connect [300 s],
    af_unix_unix_connreset [300 s],
    af_unix_unix_listen [300 s],
);

fn are_there() -> bool {
    module::beside("mm").is_ok_and(|folder| folder.exists())
}

macro_rules! programs {
    ($($test:ident: $program:literal),* $(,)?) => {
        $(fn $test() -> Result<()> {
            program_passes($program)
        })*
    };
}

programs!(
    mm_cow: "mm/cow",
    mm_droppable: "mm/droppable",
    mm_guard_regions: "mm/guard-regions",
    mm_ksm_functional_tests: "mm/ksm_functional_tests",
    mm_madv_populate: "mm/madv_populate",
    mm_merge: "mm/merge",
    mm_migration: "mm/migration",
    mm_mkdirty: "mm/mkdirty",
    mm_mlock2_tests: "mm/mlock2-tests",
    mm_mremap_dontunmap: "mm/mremap_dontunmap",
    mm_mremap_test: "mm/mremap_test",
    mm_pagemap_ioctl: "mm/pagemap_ioctl",
    mm_process_madv: "mm/process_madv",
    mm_rmap: "mm/rmap",
    mm_soft_dirty: "mm/soft-dirty",
    mm_split_huge_page_test: "mm/split_huge_page_test",
    af_unix_diag_uid: "net/af_unix/diag_uid",
    af_unix_msg_oob: "net/af_unix/msg_oob",
    af_unix_scm_inq: "net/af_unix/scm_inq",
    af_unix_scm_pidfd: "net/af_unix/scm_pidfd",
    af_unix_scm_rights: "net/af_unix/scm_rights",
    af_unix_so_peek_off: "net/af_unix/so_peek_off",
    af_unix_unix_connect: "net/af_unix/unix_connect",
    af_unix_unix_connreset: "net/af_unix/unix_connreset",
    af_unix_unix_listen: "net/af_unix/unix_listen",
);

/// Where they run.
const FOLDER: &str = "/tmp/selftests";

/// What came of one of a program's tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
    Skipped,
}

/// What a program found, by the number of its test (`man 1 prove` has the format, TAP).
#[derive(PartialEq, Eq)]
struct Found {
    verdicts: BTreeMap<u32, Verdict>,
    text: String,
}

impl Found {
    /// Of a program that numbers no tests, how it ended is the only one.
    fn of(text: String, ended_well: bool) -> Self {
        let mut found = Self::parse(text);
        if found.verdicts.is_empty() {
            let verdict = match ended_well {
                true => Verdict::Passed,
                false => Verdict::Failed,
            };
            found.verdicts.insert(1, verdict);
        }
        found
    }

    fn parse(text: String) -> Self {
        let verdict = |line: &str| {
            let (passed, rest) = match line.strip_prefix("not ok ") {
                Some(rest) => (false, rest),
                None => (true, line.strip_prefix("ok ")?),
            };
            let number = rest.split_whitespace().next()?.parse().ok()?;
            let verdict = match passed {
                _ if rest.contains("# SKIP") || rest.contains("# XFAIL") => Verdict::Skipped,
                true => Verdict::Passed,
                false => Verdict::Failed,
            };
            Some((number, verdict))
        };
        Self {
            verdicts: text.lines().filter_map(verdict).collect(),
            text,
        }
    }

    fn count(&self, which: Verdict) -> usize {
        self.verdicts.values().filter(|v| **v == which).count()
    }

    /// The lines about a test; all of a program that numbers none.
    fn lines(&self, number: u32) -> String {
        let names = [format!("ok {number} "), format!("not ok {number} ")];
        let about = |line: &&str| names.iter().any(|name| line.starts_with(name));
        let lines: Vec<&str> = self.text.lines().filter(about).collect();
        match lines.is_empty() {
            true => self.text.clone(),
            false => lines.join("; "),
        }
    }
}

/// Runs a program to its end.
fn run(command: &mut Command, mut meanwhile: impl FnMut(Pid) -> Result<()>) -> Result<Found> {
    fs::create_dir_all(FOLDER)?;
    let output = PathBuf::from(FOLDER).join("output");
    let file = fs::File::create(&output)?;
    // What it may leave behind is killed with the test.
    let mut child = command
        .current_dir(FOLDER)
        .stdin(Stdio::null())
        .stderr(file.try_clone()?)
        .stdout(file)
        .spawn()
        .context("run it")?;
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > tier::patience(300) {
            child.kill()?;
            child.wait()?;
            bail!("it does not end: {}", fs::read_to_string(&output)?);
        }
        meanwhile(child.id() as Pid)?;
    };
    Ok(Found::of(fs::read_to_string(&output)?, status.success()))
}

/// A process and its descendants. Those that come and go meanwhile may be missed.
fn family(first: Pid) -> Vec<Pid> {
    let mut found = vec![first];
    let mut at = 0;
    while let Some(pid) = found.get(at) {
        for thread in fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let children = fs::read_to_string(thread.path().join("children"));
            let children = children.unwrap_or_default();
            found.extend(
                children
                    .split_whitespace()
                    .filter_map(|pid| pid.parse::<Pid>().ok()),
            );
        }
        at += 1;
    }
    found
}

/// Reads every report of some processes.
fn read_all(pids: &[Pid], random: &mut Random, seen: &Mutex<Seen>) -> Result<()> {
    let mut file = open_query()?;
    for &pid in pids {
        for (report, request) in requests(pid, random) {
            let answer = ask(&mut file, &request)?;
            judge(report, pid, &answer, seen)?;
        }
    }
    Ok(())
}

fn program_passes(name: &str) -> Result<()> {
    // Some want huge pages, and some swap.
    fs::write("/proc/sys/vm/nr_hugepages", "64")?;
    let _swap = Swap::on()?;
    let adapted = module::beside(&format!("slow/{name}"))?;
    let program = match tier::is_debug() && adapted.exists() {
        true => adapted,
        false => module::beside(name)?,
    };
    // One runs itself again, by its name where it is.
    let link = PathBuf::from(FOLDER).join(name.rsplit('/').next().unwrap_or(name));
    fs::create_dir_all(FOLDER)?;
    let _ = fs::remove_file(&link);
    symlink(&program, &link)?;
    passes_while_read(name, || Ok(Command::new(&link)), |_| Ok(())).map(drop)
}

/// Runs a program alone, and then while it is read; `beside` is done without pause then, too. What came of it
/// alone.
fn passes_while_read(
    name: &str,
    program: impl Fn() -> Result<Command>,
    beside: impl Fn(Pid) -> Result<()> + Sync,
) -> Result<Found> {
    let alone = run_alone(&program)?;
    passes_again(name, &alone, program, beside)?;
    Ok(alone)
}

/// Runs a program that nobody reads.
fn run_alone(program: impl Fn() -> Result<Command>) -> Result<Found> {
    let alone = run(&mut program()?, |_| {
        thread::sleep(Duration::from_millis(10));
        Ok(())
    })?;
    check!(
        alone.count(Verdict::Passed) > 0,
        "not one of its tests passes without being read:\n{}",
        alone.text
    );
    Ok(alone)
}

/// Runs a program while it is read and `beside` is done: what passed alone has to pass.
fn passes_again(
    name: &str,
    alone: &Found,
    program: impl Fn() -> Result<Command>,
    beside: impl Fn(Pid) -> Result<()> + Sync,
) -> Result<()> {
    let seen = Mutex::new(Seen::default());
    let target = Mutex::new(None);
    let stop = AtomicBool::new(false);
    let runs = thread::scope(|scope| -> Result<Vec<Found>> {
        let reader = |which| {
            let (seen, target, stop) = (&seen, &target, &stop);
            move || -> Result<()> {
                let mut random = Random::new(which);
                while !stop.load(Ordering::Relaxed) {
                    let first: Option<Pid> = *lock(target)?;
                    match first {
                        Some(pid) => read_all(&family(pid), &mut random, seen)?,
                        None => thread::sleep(Duration::from_millis(1)),
                    }
                }
                Ok(())
            }
        };
        let besides = || -> Result<()> {
            while !stop.load(Ordering::Relaxed) {
                let first: Option<Pid> = *lock(&target)?;
                first.map_or(Ok(()), &beside)?;
                thread::sleep(Duration::from_millis(tier::scale(1, 100) as u64));
            }
            Ok(())
        };
        let readers = tier::scale(2, 1) as u64;
        let readers: Vec<_> = (1..=readers)
            .map(|which| scope.spawn(reader(which)))
            .collect();
        let besides = scope.spawn(besides);
        let run = || {
            let found = run(&mut program()?, |pid| {
                *lock(&target)? = Some(pid);
                thread::sleep(Duration::from_millis(10));
                Ok(())
            });
            *lock(&target)? = None;
            found
        };
        let mut runs = vec![run()];
        // Some are gone in no time.
        while runs.len() < 50 && lock(&seen)?.whole() < 20 {
            runs.push(run());
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers.into_iter().chain([besides]) {
            reader.join().map_err(|_| anyhow!("a reader panicked"))??;
        }
        runs.into_iter().collect()
    })?;
    let seen = seen
        .into_inner()
        .map_err(|_| anyhow!("a reader panicked"))?;
    say(format_args!(
        "{name}: {} passed, {} failed and {} skipped, alone; and read {} times, with {} reports, {} of them whole",
        alone.count(Verdict::Passed),
        alone.count(Verdict::Failed),
        alone.count(Verdict::Skipped),
        runs.len(),
        seen.count(),
        seen.whole(),
    ));
    let failed = alone
        .verdicts
        .iter()
        .filter(|(_, v)| **v == Verdict::Failed);
    for (number, _) in failed {
        say(format_args!("{name}, alone: {}", alone.lines(*number)));
    }
    check!(
        seen.broken().is_empty(),
        "reports neither whole nor marked: {:?}",
        seen.broken()
    );
    check!(seen.whole() > 10, "hardly a report was read");
    // What fails alone, too, is this machine's matter.
    let passed = alone
        .verdicts
        .iter()
        .filter(|(_, v)| **v == Verdict::Passed);
    for ((number, _), read) in passed.flat_map(|one| runs.iter().map(move |read| (one, read))) {
        check_eq!(
            read.verdicts.get(number),
            Some(&Verdict::Passed),
            "what came of its test {number} while it was read ({}; alone: {})",
            read.lines(*number),
            alone.lines(*number)
        );
    }
    Ok(())
}
