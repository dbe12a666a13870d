// SPDX-License-Identifier: GPL-2.0
//! The walk over everyone who shares a process' anonymous memory, beside drgn's.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ravel_records::{AnonVmaReport, MemberState, Relation};
use serde_json::Value;

use super::{Usage, least, read_report};
use crate::module::{DIR, beside};
use crate::process::{Area, Child, die_with};
use crate::stream::client;
use crate::sys::{self, Forked, PAGE, Pid};

/// How a process is read that has that many children.
pub fn quiet() -> Result<()> {
    println!(
        "\nEveryone who shares a process' anonymous memory, beside drgn {}: ratios of ravel's figure to drgn's\n\
         {:<34}{:>26}{:>26}",
        version()?,
        "",
        "drgn's helpers",
        "hand-tuned"
    );
    for children in [50, 200, 1_000] {
        let mut family = Family::new(children)?;
        let drgn = [
            Drgn::run("helpers", 3, family.pid())?,
            Drgn::run("raw", 3, family.pid())?,
        ];
        let rows = same_rows(family.pid())?;
        let ours = Ours::measure(family.pid())?;
        println!("{children} children, {rows} rows");
        // With what is aimed at, beside drgn's helpers and beside what is tuned by hand.
        let line = |what: &str, aims: [u32; 2], ratio: &dyn Fn(&Drgn) -> f64| {
            let cell = |n: usize| {
                let found = ratio(&drgn[n]);
                match aims[n] {
                    0 => format!("{found:.1}"),
                    aim if found >= aim.into() => format!("{found:.1} (aim {aim})"),
                    aim => format!("{found:.1} (aim {aim}, missed)"),
                }
            };
            println!("  {what:<32}{:>26}{:>26}", cell(0), cell(1));
        };
        let per = |time: Duration| move |drgn: &Drgn| drgn.walk / time.as_secs_f64();
        line("rows a second, as text", [0, 20], &per(ours.text));
        line("the same, parsed", [0, 0], &per(ours.parsed_text));
        line("rows a second, in binary", [0, 0], &per(ours.binary));
        line("the same, parsed", [300, 100], &per(ours.parsed));
        line("first result sooner", [1000, 1000], &|drgn| {
            drgn.first / ours.first.as_secs_f64()
        });
        line("CPU time less, start to end", [0, 0], &|drgn| {
            drgn.cpu / ours.cpu.as_secs_f64()
        });
        line("memory less", [0, 0], &|drgn| drgn.memory / ours.memory);
        family.end()?;
    }
    Ok(())
}

/// Which walks are wrong while the process forks without pause.
pub fn moving() -> Result<()> {
    println!("\nWalks that tell what was never so, of a process that forks as fast as is said");
    for pause in [Duration::from_millis(50), Duration::ZERO] {
        let mut forker = Forking::new(pause)?;
        let mut cells = Vec::new();
        for style in ["helpers", "raw"] {
            let drgn = Drgn::judge(style, 20, forker.pid())?;
            cells.push(format!(
                "drgn, {style}: {} of 20 {}",
                drgn.wrong(),
                drgn.why
            ));
        }
        let mut wrong = Vec::new();
        let walks = 100;
        for _ in 0..walks {
            wrong.extend(forker.judge()?);
        }
        println!(
            "  {:.0} forks/s: {}; ravel: {} of {walks} {}",
            forker.end()?,
            cells.join("; "),
            wrong.len(),
            wrong.first().map_or("", String::as_str)
        );
    }
    Ok(())
}

/// A process with ten areas of ten pages, and its children.
struct Family {
    parent: Child,
    children: usize,
}

fn areas() -> Result<Vec<Area>> {
    let mut areas = Vec::new();
    for _ in 0..10 {
        let area = Area::map(10)?;
        area.touch();
        areas.push(area);
        // Keeps the next apart.
        sys::map_anon(PAGE, libc::PROT_NONE)?;
    }
    Ok(areas)
}

impl Family {
    fn new(children: usize) -> Result<Self> {
        let mut parent = Child::spawn(move |link| {
            let _areas = areas()?;
            let us = sys::getpid();
            for _ in 0..children {
                if matches!(sys::fork()?, Forked::Child) {
                    die_with(us);
                    loop {
                        std::thread::park();
                    }
                }
            }
            // Until they have all come to rest.
            std::thread::sleep(Duration::from_secs(1) + Duration::from_millis(children as u64 * 4));
            link.send("ready")?;
            link.wait().map(drop)
        })?;
        parent.link.wait()?;
        Ok(Self { parent, children })
    }

    fn pid(&self) -> Pid {
        self.parent.pid
    }

    fn end(&mut self) -> Result<()> {
        self.parent.kill()?;
        // They die with it.
        std::thread::sleep(Duration::from_millis(200 + self.children as u64 * 4));
        Ok(())
    }
}

/// What a walk of drgn's took.
struct Drgn {
    walk: f64,
    cpu: f64,
    first: f64,
    memory: f64,
    wrong: Value,
    why: String,
    text: String,
}

fn python() -> Result<Command> {
    let peers = beside("peers")?;
    let mut python = Command::new("python3");
    let lib = peers.join("stdlib");
    let path = [lib.clone(), lib.join("lib-dynload"), peers.join("packages")];
    let path: Vec<String> = path.iter().map(|dir| dir.display().to_string()).collect();
    python.env("PYTHONPATH", path.join(":"));
    Ok(python)
}

fn version() -> Result<String> {
    let output = python()?
        .args(["-c", "import drgn; print(drgn.__version__)"])
        .output()?;
    ensure!(
        output.status.success(),
        "drgn does not run: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

impl Drgn {
    fn run(style: &str, repeat: usize, pid: Pid) -> Result<Self> {
        Self::run_with(style, repeat, pid, &[])
    }

    fn judge(style: &str, repeat: usize, pid: Pid) -> Result<Self> {
        Self::run_with(style, repeat, pid, &["--check", STATES, AREAS])
    }

    fn run_with(style: &str, repeat: usize, pid: Pid, options: &[&str]) -> Result<Self> {
        let output = python()?
            .arg(beside("peers/walk.py")?)
            .args([style, &repeat.to_string(), &pid.to_string()])
            .args(options)
            .output()?;
        let text = String::from_utf8(output.stdout)?;
        let last = text.lines().last().unwrap_or("");
        let Ok(told) = serde_json::from_str::<Value>(last) else {
            bail!("drgn: {}{text}", String::from_utf8_lossy(&output.stderr));
        };
        let number = |key: &str| {
            told[key]
                .as_f64()
                .with_context(|| format!("no {key} in {last}"))
        };
        let why = told["wrong"].as_object().map(|wrong| {
            let reasons: Vec<String> = wrong.iter().map(|(why, n)| format!("{why} {n}")).collect();
            format!("({})", reasons.join(", "))
        });
        Ok(Self {
            walk: number("walk_s")?,
            cpu: number("cpu_s")?,
            first: number("first_s")?,
            memory: number("rss_kib")?,
            why: why.filter(|why| why.len() > 2).unwrap_or_default(),
            wrong: told["wrong"].clone(),
            text,
        })
    }

    /// How many walks were wrong.
    fn wrong(&self) -> u64 {
        let counts = self.wrong.as_object().into_iter().flatten();
        counts.filter_map(|(_, count)| count.as_u64()).sum()
    }
}

/// The rows of both, one by one: who has which range in common with which VMA.
fn same_rows(pid: Pid) -> Result<usize> {
    let drgn = Drgn::run_with("raw", 1, pid, &["--rows"])?;
    let us = sys::getpid() as u64;
    let mut theirs: Vec<Vec<u64>> = drgn
        .text
        .lines()
        .filter(|line| !line.starts_with('{'))
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let hex = |at: usize| u64::from_str_radix(words[at], 16);
            Ok(vec![hex(0)?, words[1].parse()?, hex(2)?, hex(3)?])
        })
        // Our own memory moves while we read.
        .filter(|row: &Result<Vec<u64>>| !matches!(row, Ok(row) if row[1] == us))
        .collect::<Result<_>>()?;
    let report = crate::report::anon(pid)?;
    let mut ours = Vec::new();
    for vma in &report.vmas {
        for group in report.chain(vma) {
            for member in group
                .member
                .iter()
                .filter(|member| u64::from(member.pid) != us)
            {
                ours.push(vec![
                    vma.start.0,
                    member.pid.into(),
                    member.start.0,
                    member.end.0,
                ]);
            }
        }
    }
    ours.sort_unstable();
    theirs.sort_unstable();
    let differ = ours.iter().zip(&theirs).find(|(our, their)| our != their);
    ensure!(
        ours == theirs,
        "{} rows by ravel, {} by drgn; the first that differ: {differ:?}",
        ours.len(),
        theirs.len()
    );
    Ok(ours.len())
}

/// What ravel takes for the same.
struct Ours {
    /// Until a program has its bytes, and until it has them as records of its own.
    text: Duration,
    parsed_text: Duration,
    binary: Duration,
    parsed: Duration,
    first: Duration,
    cpu: Duration,
    /// Kilobytes.
    memory: f64,
}

impl Ours {
    fn measure(pid: Pid) -> Result<Self> {
        let mut buffer = vec![0; 1 << 20];
        read_report("anon_vma", pid, &mut buffer)?;
        let text = least(5, || read_report("anon_vma", pid, &mut buffer).map(drop))?;
        let binary = least(5, || {
            read_report("binary anon_vma", pid, &mut buffer).map(drop)
        })?;
        let parsed = least(5, || {
            client().anon_vma(pid as u32)?;
            Ok(())
        })?;
        let parsed_text = least(5, || crate::report::anon(pid).map(drop))?;
        // From a program's start to the first records it has; drgn has nothing before its first walk ends.
        let ask = format!("exec 3<>{DIR}/query; echo anon_vma {pid} >&3; head -c 4000 <&3");
        let first = least(3, || {
            Usage::of(Command::new("sh").args(["-c", &ask])).map(drop)
        })?;
        let all = ["anon", "--json", &pid.to_string()];
        let usage = Usage::of(Command::new(beside("ravel")?).args(all))?;
        Ok(Self {
            text,
            binary,
            parsed,
            parsed_text,
            first,
            cpu: usage.cpu,
            memory: usage.kilobytes as f64,
        })
    }
}

const STATES: &str = "/tmp/bench-pids";
const AREAS: &str = "/tmp/bench-areas";
/// As many as there can be pids.
const PIDS: usize = 4 << 20;
const LASTING: usize = 50;

/// A process with lasting children that makes and reaps others all the time, and notes who lives.
struct Forking {
    parent: Child,
    start: Instant,
}

impl Forking {
    fn new(pause: Duration) -> Result<Self> {
        let mut states = vec![0; PIDS];
        for entry in fs::read_dir("/proc")? {
            if let Ok(pid) = entry?.file_name().to_string_lossy().parse::<usize>() {
                states[pid] = 1;
            }
        }
        fs::write(STATES, states)?;
        let mut parent = Child::spawn(move |link| {
            let states = fs::OpenOptions::new().write(true).open(STATES)?;
            let set = |pid: Pid, state: u8| states.write_all_at(&[state], pid as u64);
            let areas: Vec<String> = areas()?
                .iter()
                .map(|area| format!("{:x}\n", area.start))
                .collect();
            fs::write(AREAS, areas.concat())?;
            let us = sys::getpid();
            set(us, 1)?;
            for _ in 0..LASTING {
                match sys::fork()? {
                    Forked::Parent(pid) => set(pid, 2)?,
                    Forked::Child => {
                        die_with(us);
                        loop {
                            std::thread::park();
                        }
                    }
                }
            }
            link.send("ready")?;
            let mut forks = 0u64;
            let mut living = std::collections::VecDeque::new();
            while !link.is_told()? {
                match sys::fork()? {
                    Forked::Parent(pid) => {
                        set(pid, 1)?;
                        living.push_back(pid);
                        forks += 1;
                    }
                    Forked::Child => {
                        std::thread::sleep(Duration::from_millis(20));
                        sys::exit_now(0);
                    }
                }
                if living.len() > 8 {
                    let pid = living.pop_front().unwrap_or_default();
                    sys::wait(pid)?.ok();
                    set(pid, 3)?;
                }
                std::thread::sleep(pause);
            }
            link.send(&forks.to_string())
        })?;
        parent.link.wait()?;
        Ok(Self {
            parent,
            start: Instant::now(),
        })
    }

    fn pid(&self) -> Pid {
        self.parent.pid
    }

    /// Forks for each second.
    fn end(&mut self) -> Result<f64> {
        self.parent.link.send("stop")?;
        let forks: f64 = self.parent.link.wait()?.parse()?;
        let seconds = self.start.elapsed().as_secs_f64();
        self.parent.kill()?;
        Ok(forks / seconds)
    }

    /// What is wrong in a walk of ravel's, by the measure that drgn's are judged by.
    fn judge(&self) -> Result<Option<String>> {
        let areas: BTreeSet<u64> = fs::read_to_string(AREAS)?
            .lines()
            .map(|line| u64::from_str_radix(line, 16))
            .collect::<Result<_, _>>()?;
        let before = states()?;
        let report = crate::report::anon(self.pid())?;
        std::thread::sleep(Duration::from_millis(300));
        Ok(what_is_wrong(&report, &before, &states()?, &areas))
    }
}

fn states() -> Result<Vec<u8>> {
    let mut all = vec![0; PIDS];
    File::open(STATES)?.read_exact_at(&mut all, 0)?;
    Ok(all)
}

fn what_is_wrong(
    report: &AnonVmaReport,
    before: &[u8],
    after: &[u8],
    areas: &BTreeSet<u64>,
) -> Option<String> {
    let told: BTreeSet<u64> = report.vmas.iter().map(|vma| vma.start.0).collect();
    if !areas.is_subset(&told) {
        return Some("an area is missing".into());
    }
    let ranges: BTreeSet<(u64, u64)> = report
        .vmas
        .iter()
        .map(|vma| (vma.start.0, vma.end.0))
        .collect();
    let lasting: BTreeSet<u32> = (0..)
        .zip(before)
        .filter(|(_, state)| **state == 2)
        .map(|(pid, _)| pid)
        .collect();
    for vma in &report.vmas {
        for group in report.chain(vma) {
            let mut seen = BTreeSet::new();
            let mut pids = Vec::new();
            for member in &group.member {
                let pid = member.pid as usize;
                if !seen.insert((member.mm, member.start.0)) {
                    return Some(format!("one twice: {member:?}"));
                }
                if !ranges.contains(&(member.start.0, member.end.0)) {
                    return Some(format!("a range that nobody has: {member:?}"));
                }
                if member.state == MemberState::Live && member.relation != Relation::Self_ {
                    if before[pid] == 3 || after[pid] == 0 {
                        return Some(format!("a process that is not there: {member:?}"));
                    }
                    pids.push(member.pid);
                }
            }
            // Elsewhere a process may have two: of an area that was split.
            let times = |pid: u32| pids.iter().filter(|other| **other == pid).count();
            if areas.contains(&vma.start.0) && lasting.iter().any(|pid| times(*pid) != 1) {
                return Some(format!(
                    "one that lasts is missing in {:?}, or there twice",
                    group.id
                ));
            }
        }
    }
    None
}
