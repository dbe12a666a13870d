// SPDX-License-Identifier: GPL-2.0
//! Runs tests, each in a process of its own, and tells how they went.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;

use crate::feature::Feature;
use crate::klog::{self, Log};
use crate::stream::client;
use crate::sys::{self, Pid};
use crate::{module, tests, tier};

/// One test.
pub struct Test {
    /// `subject.fact`.
    pub name: &'static str,
    /// The test.
    pub run: fn() -> Result<()>,
    /// Seconds until it is killed, on the stock kernel.
    pub limit: u64,
    /// Whether this tier has it; where not, it is not even listed.
    pub when: fn() -> bool,
    /// What it needs of the kernel; where that is missing, it is skipped.
    pub needs: Option<Feature>,
    /// Whether it may run beside others of its kind: it mostly waits, and looks at what it made itself and nothing else.
    pub beside: bool,
}

impl Test {
    /// Returns the feature because of which it cannot be run, if there is one.
    fn lacks(&self) -> Option<Feature> {
        self.needs.filter(|feature| !feature.is_there())
    }
}

/// The tests of a subject: `tests!("subject": fact, other_fact [120 s], ...)`, or, where not every
/// tier has them, `tests!("subject" when condition: ...)`, or, where they may run beside each other,
/// `tests!("subject" beside: ...)`. `fact needs Feature` is skipped where the kernel lacks the feature.
#[macro_export]
macro_rules! tests {
    (@limit) => { 60 };
    (@limit $limit:literal) => { $limit };
    (@needs) => { None };
    (@needs $feature:ident) => { Some($crate::feature::Feature::$feature) };
    (@unwrap ()) => { || true };
    (@unwrap ($when:path)) => { $when };
    ($subject:literal beside: $($name:ident $(needs $feature:ident)? $([$limit:literal s])?),* $(,)?) => {
        $crate::tests!(@all $subject, (), true, $($name $(needs $feature)? $([$limit])?),*);
    };
    ($subject:literal $(when $when:path)?:
        $($name:ident $(needs $feature:ident)? $([$limit:literal s])?),* $(,)?) => {
        $crate::tests!(@all $subject, ($($when)?), false, $($name $(needs $feature)? $([$limit])?),*);
    };
    (@all $subject:literal, $when:tt, $beside:literal,
        $($name:ident $(needs $feature:ident)? $([$limit:literal])?),*) => {
        /// The tests of this subject.
        pub const TESTS: &[$crate::harness::Test] = &[$(
            $crate::harness::Test {
                name: concat!($subject, ".", stringify!($name)),
                run: $name,
                limit: $crate::tests!(@limit $($limit)?),
                when: $crate::tests!(@unwrap $when),
                needs: $crate::tests!(@needs $($feature)?),
                beside: $beside,
            },
        )*];
    };
}

/// The last test, which this file makes itself.
const LOG_TEST: &str = "kernel_log_clean";

/// Where results go, if it is there.
const RESULTS: &str = "/run/results";

fn all() -> impl Iterator<Item = &'static Test> {
    tests::ALL
        .iter()
        .copied()
        .flatten()
        .filter(|test| (test.when)())
}

/// Tells the reader of the results something: a line that is shown also where the test passes.
pub fn say(what: impl std::fmt::Display) {
    println!("{SAID}{what}");
}

/// Adds a line to a file among the results, where those are kept: what is too much to be shown.
pub fn keep(name: &str, what: impl std::fmt::Display) -> Result<()> {
    let path = Path::new(RESULTS).join(name);
    if Path::new(RESULTS).is_dir() {
        let mut file = File::options().create(true).append(true).open(path)?;
        file.write_all(format!("{what}\n").as_bytes())?;
    }
    Ok(())
}

/// What a line of say() begins with.
const SAID: &str = "# ";

/// Prints all names.
pub fn list() {
    for test in all() {
        println!("{}", test.name);
    }
    println!("{LOG_TEST}");
}

/// Runs one test in this process, which was made for it.
pub fn run_one(name: &str) -> ExitCode {
    let Some(test) = all().find(|test| test.name == name) else {
        eprintln!("no such test");
        return ExitCode::FAILURE;
    };
    match (test.run)() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e:#}");
            ExitCode::FAILURE
        }
    }
}

struct Outcome {
    name: &'static str,
    time: Duration,
    /// First line of what went wrong, and the rest.
    failure: Option<(String, String)>,
    /// What it told by say().
    told: Vec<String>,
}

/// Whether a test is asked for: its name has one of the patterns, if there are any, and none of those that
/// stand behind a `!`.
fn is_chosen(name: &str, patterns: &[&str]) -> bool {
    let (not, only): (Vec<&str>, Vec<&str>) = patterns.iter().partition(|p| p.starts_with('!'));
    (only.is_empty() || only.iter().any(|p| name.contains(p)))
        && !not.iter().any(|p| name.contains(&p[1..]))
}

/// Fails where a pattern is that of no test of any kernel: it is misspelled, or its test has gone.
fn check_patterns(patterns: &[&str]) -> Result<()> {
    let names: Vec<&str> = tests::ALL
        .iter()
        .copied()
        .flatten()
        .map(|t| t.name)
        .collect();
    for pattern in patterns {
        let part = pattern.strip_prefix('!').unwrap_or(pattern);
        ensure!(
            names.iter().any(|name| name.contains(part)),
            "no test has a name with {part:?}"
        );
    }
    Ok(())
}

/// Returns the tests that show in minutes whether a kernel suits: the first short one of each
/// subject, and those that not every kernel can run.
fn smoke() -> Vec<&'static Test> {
    let mut subjects = HashSet::new();
    all()
        .filter(|test| {
            let subject = test.name.split('.').next();
            test.needs.is_some() || test.limit <= 60 && subjects.insert(subject)
        })
        .collect()
}

/// Which tests are asked for.
pub enum Choice<'a> {
    /// Those that the patterns choose, see is_chosen().
    Patterns(&'a [&'a str]),
    /// See smoke().
    Smoke,
}

/// Runs the tests that are asked for: whether all passed, and at least one ran.
pub fn run(choice: &Choice<'_>) -> Result<bool> {
    tier::check_variables()?;
    let asked = match choice {
        Choice::Patterns(patterns) => {
            check_patterns(patterns)?;
            all().filter(|t| is_chosen(t.name, patterns)).collect()
        }
        Choice::Smoke => smoke(),
    };
    let (skipped, chosen): (Vec<_>, Vec<_>) =
        asked.into_iter().partition(|test| test.lacks().is_some());
    sys::prctl(libc::PR_SET_CHILD_SUBREAPER, 1).context("become a subreaper")?;
    let mut log = Log::open()?;
    log.new_complaints()?;
    module::mount_debugfs()?;
    if module::is_loaded() {
        module::remove().context("remove the module that is there")?;
    }
    let mut outcomes = Vec::new();
    for group in chosen.chunk_by(|one, next| one.beside && next.beside) {
        let done = if klog::has_died()? {
            let why = "not run: the kernel has had an Oops (see the first failure)";
            group
                .iter()
                .map(|test| Outcome::new(test.name, Duration::ZERO, &[why.to_owned()], Vec::new()))
                .collect()
        } else {
            run_group(group, &mut log)
        };
        done.iter().for_each(tell);
        outcomes.extend(done);
        write_results(&outcomes, &skipped);
    }
    let start = Instant::now();
    let failure = finish(&mut log).err();
    let faults: Vec<_> = failure.iter().map(|e| format!("{e:#}")).collect();
    let outcome = Outcome::new(LOG_TEST, start.elapsed(), &faults, Vec::new());
    tell(&outcome);
    outcomes.push(outcome);
    write_results(&outcomes, &skipped);
    let failed = outcomes.iter().filter(|o| o.failure.is_some()).count();
    for test in &skipped {
        if let Some(feature) = test.lacks() {
            println!(
                "skipped {}: the kernel has no {}",
                test.name,
                feature.name()
            );
        }
    }
    print!("{} passed, {failed} failed", outcomes.len() - failed);
    if !skipped.is_empty() {
        print!(", {} skipped", skipped.len());
    }
    println!();
    Ok(failed == 0 && !chosen.is_empty())
}

impl Outcome {
    fn new(name: &'static str, time: Duration, faults: &[String], told: Vec<String>) -> Self {
        let text = faults.join("\n");
        let (why, details) = text.trim().split_once('\n').unwrap_or((text.trim(), ""));
        let why = if why.is_empty() {
            "no reason given"
        } else {
            why
        };
        let failure = (!faults.is_empty()).then(|| (why.to_owned(), details.to_owned()));
        Self {
            name,
            time,
            failure,
            told,
        }
    }
}

fn tell(outcome: &Outcome) {
    let seconds = outcome.time.as_secs_f64();
    match &outcome.failure {
        None => {
            println!("ok {} ({seconds:.2} s)", outcome.name);
            for line in &outcome.told {
                println!("    {line}");
            }
        }
        Some((why, details)) => {
            println!("FAILED {}: {why} ({seconds:.2} s)", outcome.name);
            for line in details.lines().take(200) {
                let end = line
                    .char_indices()
                    .nth(2000)
                    .map_or(line.len(), |(end, _)| end);
                println!("    {}", &line[..end]);
            }
        }
    }
    let _ = io::stdout().flush();
}

fn write_results(outcomes: &[Outcome], skipped: &[&Test]) {
    if !Path::new(RESULTS).is_dir() {
        return;
    }
    let tests: Vec<_> = outcomes
        .iter()
        .map(|o| {
            let failure = o.failure.as_ref();
            json!({
                "name": o.name,
                "passed": failure.is_none(),
                "seconds": (o.time.as_secs_f64() * 1000.0).round() / 1000.0,
                "told": o.told,
                "failure": failure.map(|(why, _)| why),
                "details": failure.map(|(_, details)| details),
            })
        })
        .collect();
    let failed = outcomes.iter().filter(|o| o.failure.is_some()).count();
    let all = json!({
        "passed": outcomes.len() - failed,
        "failed": failed,
        "complete": outcomes.last().is_some_and(|o| o.name == LOG_TEST),
        "skipped": skipped.iter().map(|test| json!({
            "name": test.name,
            "lacks": test.lacks().map(Feature::name),
        })).collect::<Vec<_>>(),
        "tests": tests,
    });
    let path = Path::new(RESULTS).join("ravel-test.json");
    if let Err(e) = fs::write(&path, format!("{all:#}\n")) {
        eprintln!("{}: {e}", path.display());
    }
}

/// How many tests run at once that may: one waits while two have the CPUs.
const AT_ONCE: usize = 3;

/// Runs one test, or some beside each other, each in the order of its beginning. What shows only when all have ended,
/// such as a complaint of the kernel, fails each of them.
fn run_group(group: &[&'static Test], log: &mut Log) -> Vec<Outcome> {
    let start = Instant::now();
    let mut faults: Vec<String> = Vec::new();
    let mut note = |result: Result<()>| faults.extend(result.err().map(|e| format!("{e:#}")));
    let inserted = if module::is_loaded() {
        Ok(())
    } else {
        module::insert()
    };
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some(test) = group.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (start, mut told) = (Instant::now(), Vec::new());
            let result = run_child(test, &mut told);
            done.push((*test, start, start.elapsed(), result, told));
        }
        done
    };
    let mut done = Vec::new();
    if inserted.is_ok() {
        thread::scope(|scope| {
            let workers: Vec<_> = group
                .iter()
                .take(AT_ONCE)
                .map(|_| scope.spawn(work))
                .collect();
            for worker in workers {
                match worker.join() {
                    Ok(some) => done.extend(some),
                    Err(_) => note(Err(anyhow!("the harness panicked"))),
                }
            }
        });
    }
    done.sort_by_key(|(_, start, ..)| *start);
    note(inserted);
    note(clean_up());
    match log.new_complaints() {
        Ok(lines) if lines.is_empty() => {}
        Ok(lines) => note(Err(anyhow!("the kernel complained:\n{}", lines.join("\n")))),
        Err(e) => note(Err(e)),
    }
    if let [test] = group {
        // The time to insert the module and to clean up is this one's.
        let (result, told) = done.pop().map_or((Ok(()), Vec::new()), |of| (of.3, of.4));
        let own = result.err().map(|e| format!("{e:#}"));
        faults.splice(0..0, own);
        return vec![Outcome::new(test.name, start.elapsed(), &faults, told)];
    }
    if done.len() < group.len() && faults.is_empty() {
        faults.push(String::from("not all were run"));
    }
    if done.is_empty() {
        return group
            .iter()
            .map(|test| Outcome::new(test.name, Duration::ZERO, &faults, Vec::new()))
            .collect();
    }
    done.into_iter()
        .map(|(test, _, time, result, told)| {
            let own = result.err().map(|e| format!("{e:#}"));
            let all: Vec<_> = own.into_iter().chain(faults.iter().cloned()).collect();
            Outcome::new(test.name, time, &all, told)
        })
        .collect()
}

/// Runs a test's process to its end, or kills it at its limit; then everything it made.
fn run_child(test: &Test, told: &mut Vec<String>) -> Result<()> {
    let mut output = sys::memfd("output")?;
    let pid = Command::new(std::env::current_exe()?)
        .args(["--one", test.name])
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .process_group(0)
        .spawn()
        .context("start the test's process")?
        .id() as Pid;
    let watch = sys::pidfd_open(pid)?;
    let others = if test.beside { AT_ONCE as u64 } else { 1 };
    let limit = tier::limit(test.limit) * others;
    let start = Instant::now();
    let mut in_time = false;
    // Who waits for a lock of a task that died in the kernel waits for ever.
    while !in_time && start.elapsed() < Duration::from_secs(limit) && !klog::has_died()? {
        in_time = sys::poll(&watch, libc::POLLIN, 1000)?;
    }
    let mut why = String::new();
    if !in_time {
        let seconds = start.elapsed().as_secs();
        why = format!("not done after {seconds} s\n{}", describe(&descendants()?));
        sys::kill(pid, libc::SIGKILL)?;
        if !sys::poll(&watch, libc::POLLIN, 10_000)? {
            why += "\nand SIGKILL does not end it";
            return Err(anyhow!(why));
        }
    }
    let end = sys::wait(pid)?;
    let output = said(&mut output)?;
    told.extend(
        output
            .lines()
            .filter_map(|line| line.strip_prefix(SAID))
            .map(String::from),
    );
    why += &output;
    if in_time && end == Ok(0) {
        return Ok(());
    }
    if let (true, Err(signal)) = (in_time, end) {
        why = format!("killed by signal {signal}\n{why}");
    }
    Err(anyhow!(why))
}

fn said(output: &mut File) -> Result<String> {
    let mut text = Vec::new();
    output.rewind()?;
    output.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Reaps all children that have exited: whether there are others.
fn reap() -> Result<bool> {
    loop {
        match sys::reap_any() {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(true),
            Err(e) if sys::errno(&e) == libc::ECHILD => return Ok(false),
            Err(e) => return Err(e.into()),
        }
    }
}

/// Kills what a test left running, and checks that it left nothing in the module.
fn clean_up() -> Result<()> {
    let start = Instant::now();
    // Whose parent has gone is our child: with none of those there are no descendants.
    while reap()? {
        let left = descendants()?;
        for pid in &left {
            // One that is gone meanwhile is what we want.
            let _ = sys::kill(*pid, libc::SIGKILL);
        }
        if start.elapsed() > tier::patience(10) {
            return Err(anyhow!("processes cannot be killed:\n{}", describe(&left)));
        }
        thread::sleep(Duration::from_millis(1));
    }
    if !module::is_loaded() {
        return Ok(());
    }
    let attached = module::folders()?;
    module::detach_all()?;
    let streams = module::streams()?;
    for name in &streams {
        client().control_streams(&format!("remove {name}"))?;
    }
    let references = module::references()?;
    if !attached.is_empty() {
        return Err(anyhow!("it left processes attached: {attached:?}"));
    }
    if !streams.is_empty() {
        return Err(anyhow!("it left streams: {streams:?}"));
    }
    if references != 0 {
        return Err(anyhow!("it left {references} references on the module"));
    }
    Ok(())
}

/// The last test: the module goes, and neither log nor taint tell of a fault.
fn finish(log: &mut Log) -> Result<()> {
    let removed = if module::is_loaded() {
        module::remove()
    } else {
        Ok(())
    };
    let (complaints, lost, lines) = log.all()?;
    if !complaints.is_empty() {
        return Err(anyhow!(
            "{} complaints\n{}",
            complaints.len(),
            complaints.join("\n")
        ));
    }
    removed.context("remove the module")?;
    if lost > 0 {
        return Err(anyhow!(
            "the log was overwritten {lost} times before it was read"
        ));
    }
    if lines == 0 {
        return Err(anyhow!("the kernel log is empty"));
    }
    match klog::unexpected_taint()? {
        0 => Ok(()),
        taint => Err(anyhow!("the kernel is tainted: {taint:#x} beyond O and E")),
    }
}

/// Parent of each process, from /proc.
fn parents() -> Result<HashMap<Pid, Pid>> {
    let mut parents = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        // A process that is gone meanwhile has no stat.
        let Ok(stat) = fs::read(format!("/proc/{pid}/stat")) else {
            continue;
        };
        let stat = String::from_utf8_lossy(&stat);
        let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
        if let Some(parent) = after.split_whitespace().nth(1).and_then(|p| p.parse().ok()) {
            parents.insert(pid, parent);
        }
    }
    Ok(parents)
}

/// All processes below this one, zombies too.
fn descendants() -> Result<Vec<Pid>> {
    let parents = parents()?;
    let us = sys::getpid();
    let is_below = |pid: &&Pid| {
        let mut at = **pid;
        while let Some(parent) = parents.get(&at) {
            if *parent == us {
                return true;
            }
            at = *parent;
        }
        false
    };
    Ok(parents.keys().filter(is_below).copied().collect())
}

/// What processes are doing, for the details of a hang.
fn describe(pids: &[Pid]) -> String {
    let mut text = String::new();
    for pid in pids.iter().take(20) {
        for task in fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let read = |name: &str| fs::read_to_string(task.path().join(name)).unwrap_or_default();
            let stat = read("stat");
            let state = stat.rsplit_once(") ").map_or("?", |(_, rest)| &rest[..1]);
            let name = task.file_name();
            text += &format!(
                "{} {} {state}\n",
                name.to_string_lossy(),
                read("comm").trim()
            );
            for line in read("stack").lines() {
                text += &format!("    {line}\n");
            }
        }
    }
    text
}
