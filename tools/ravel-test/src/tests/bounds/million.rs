// SPDX-License-Identifier: GPL-2.0
//! A process with a million AVCs, whose reports are read as they come: nobody has room for them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::time::Instant;

use anyhow::{Context, Result};

use super::{affordable, generation};
use crate::harness::say;
use crate::measure::{Holds, kernel_bytes};
use crate::module::{open_query, write_errno};
use crate::process::Area;
use crate::sys::{self, PAGE, Pid};
use crate::{check, check_eq, tests, tier};

tests!("bounds":
    process_with_1000000_avcs [400 s],
);

/// anon_vmas in each chain of the last generation: its own, and one of each before it.
const DEPTH: usize = 16;

/// The value of a key in a record.
fn value<'l>(line: &'l str, key: &str) -> Result<&'l str> {
    let mut words = line.split(' ');
    let found = words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    found.with_context(|| format!("no {key} in {line}"))
}

fn hex(line: &str, key: &str) -> Result<u64> {
    let digits = value(line, key)?.trim_start_matches("0x");
    Ok(u64::from_str_radix(digits, 16)?)
}

fn number(line: &str, key: &str) -> Result<u64> {
    Ok(value(line, key)?.parse()?)
}

/// Which page of the area a record is about.
fn place(line: &str, key: &str, area: Area) -> Result<Option<usize>> {
    let at = hex(line, key)?;
    let inside = (area.start..area.end()).contains(&at);
    Ok(inside.then(|| (at - area.start) as usize / PAGE))
}

/// Hands each line of a report on, as it comes; says what that cost.
fn stream(report: &str, pid: Pid, mut each: impl FnMut(&str) -> Result<()>) -> Result<()> {
    const SAMPLE: usize = 20_000;
    Holds::forget()?;
    let mut file: File = open_query()?;
    let before = kernel_bytes()?;
    let start = Instant::now();
    let request = format!("{report} {pid}");
    check_eq!(write_errno(&mut file, request.as_bytes()), 0, "write");
    let mut file = BufReader::with_capacity(1 << 20, file);
    let (mut line, mut lines, mut bytes, mut memory) = (String::new(), 0, 0, 0);
    while file.read_line(&mut line)? > 0 {
        lines += 1;
        bytes += line.len();
        if lines % SAMPLE == 0 {
            memory = memory.max(kernel_bytes()? - before);
        }
        each(line.trim_end()).with_context(|| line.clone())?;
        line.clear();
    }
    let holds = Holds::now()?;
    say(format_args!(
        "{report}: {lines} records, {} MiB, in {:.1?}; longest holds: {holds}; kernel memory meanwhile: at most \
         {} KiB more",
        bytes >> 20,
        start.elapsed(),
        memory >> 10,
    ));
    affordable(report, &holds, memory)
}

/// Counts, and forgets nothing: which of the area's VMAs were told of.
struct Told(Vec<bool>);

impl Told {
    fn new(vmas: usize) -> Self {
        Self(vec![false; vmas])
    }

    fn add(&mut self, at: usize) -> Result<()> {
        check!(!self.0[at], "VMA {at} is told twice");
        self.0[at] = true;
        Ok(())
    }

    fn count(&self) -> usize {
        self.0.iter().filter(|told| **told).count()
    }
}

fn process_with_1000000_avcs() -> Result<()> {
    // A process has at most 65,530 mappings.
    let vmas = tier::scale(62_500, 2_500);
    let area = Area::map(vmas)?;
    sys::poke(area.start as usize, 1);
    let start = Instant::now();
    let mut first = generation(DEPTH - 2, area)?;
    let leaf: Pid = first.link.wait()?.parse()?;
    say(format_args!(
        "{} AVCs, in {vmas} chains of {DEPTH}, made in {:.1?}",
        vmas * DEPTH,
        start.elapsed()
    ));

    // Each VMA once, and under each its chain; each anon_vma once, and under each its members.
    let mut told = Told::new(vmas);
    let mut avcs = Vec::new();
    let mut ours: BTreeMap<String, u64> = BTreeMap::new();
    let mut groups: BTreeMap<String, (u64, u64, Told)> = BTreeMap::new();
    let (mut records, mut summary) = (BTreeMap::new(), None);
    let mut chain = 0;
    stream("anon_vma", leaf, |line| {
        let kind = line.split(' ').next().unwrap_or_default();
        *records.entry(kind.to_owned()).or_insert(0u64) += 1;
        match kind {
            "vma" => {
                check_eq!(avcs.len(), chain, "AVCs of the VMA before");
                avcs.clear();
                chain = number(line, "chain")? as usize;
                if let Some(at) = place(line, "start", area)? {
                    told.add(at)?;
                    check_eq!(chain, DEPTH, "chain");
                }
            }
            "avc" => {
                let id = value(line, "anon_vma")?.to_owned();
                check!(!avcs.contains(&id), "told twice");
                if place(line, "vma", area)?.is_some() {
                    match ours.get_mut(&id) {
                        Some(count) => *count += 1,
                        None => drop(ours.insert(id.clone(), 1)),
                    }
                }
                avcs.push(id);
            }
            "anon_vma" => {
                let id = value(line, "id")?.to_owned();
                let (depth, members) = (number(line, "depth")?, number(line, "members")?);
                let before = groups.insert(id, (depth, members, Told::new(vmas)));
                check!(before.is_none(), "told twice");
            }
            "member" => {
                let group = groups.get_mut(value(line, "anon_vma")?);
                let (_, left, told) = group.context("no such anon_vma")?;
                *left = left.checked_sub(1).context("a member too many")?;
                if value(line, "relation")? == "self" {
                    if let Some(at) = place(line, "start", area)? {
                        told.add(at)?;
                    }
                }
            }
            "summary" => summary = Some(line.to_owned()),
            _ => {}
        }
        Ok(())
    })?;
    check_eq!(told.count(), vmas, "VMAs of the area");
    check_eq!(ours.len(), DEPTH, "anon_vmas of the area");
    let mut depths = Vec::new();
    for (id, avcs) in &ours {
        let (depth, left, told) = groups.get(id).context("an anon_vma that was not told")?;
        check_eq!(*avcs, vmas as u64, "AVCs to the anon_vma at depth {depth}");
        check_eq!(told.count(), vmas, "members at depth {depth}");
        check_eq!(*left, 0, "members missing at depth {depth}");
        depths.push(*depth as usize);
    }
    depths.sort();
    check!(depths.iter().copied().eq(0..DEPTH), "depths: {depths:?}");
    let summary = summary.context("no summary")?;
    for (kind, key) in [
        ("vma", "chained"),
        ("avc", "avcs"),
        ("anon_vma", "anon_vmas"),
        ("member", "members"),
    ] {
        check_eq!(number(&summary, key)?, records[kind], "{key}");
    }
    for key in ["moved", "cut"] {
        check_eq!(number(&summary, key)?, 0, "{key}");
    }

    let mut links = 0;
    stream("chains", leaf, |line| {
        if line.starts_with("link ") && place(line, "vma", area)?.is_some() {
            links += 1;
        }
        Ok(())
    })?;
    check_eq!(links, vmas * DEPTH, "links of the area");

    let mut records = Told::new(vmas);
    stream("cow", leaf, |line| {
        if line.starts_with("cow ") {
            if let Some(at) = place(line, "start", area)? {
                records.add(at)?;
            }
        }
        Ok(())
    })?;
    check_eq!(records.count(), vmas, "VMAs of the area in cow");
    first.kill()
}
