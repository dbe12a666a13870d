//! What one reverse-mapping walk costs in a family of processes, under each design that Linux has had.
//!
//! The definitions, and where they come from, stand in `COST.md`.

use std::collections::{BTreeMap, BTreeSet};

use ravel_records::{Chain, ChainsReport, Header, Hex, Id, Text};
use serde::Serialize;

use crate::family::Family;

/// Page table entries in one `pte_chain` of Linux 2.6.0, with cache lines of 64 bytes.
const PTE_CHAIN_ENTRIES: u64 = 7;
/// Bytes of one.
const PTE_CHAIN_BYTES: u64 = 64;
/// Bytes of `struct anon_vma` in Linux 2.6.11, on 64 bits: a spinlock and a list's head.
const OLD_ANON_VMA_BYTES: u64 = 24;

/// The whole answer.
#[derive(Debug, Serialize)]
pub struct Cost {
    /// Of the process asked for.
    pub header: Header,
    /// Address spaces.
    pub processes: u64,
    /// Their VMAs.
    pub vmas: u64,
    /// Those that have a chain.
    pub chained: u64,
    /// Page table entries that map anonymous pages.
    pub entries: u64,
    /// Anonymous pages, each once.
    pub pages: u64,
    /// Address spaces in the same anon_vmas that could not be read.
    pub unread: u64,
    /// Times that something was not found again after a pause of the module.
    pub moved: u64,
    /// What each design costs, from the oldest to the one that runs.
    pub designs: Vec<Design>,
    /// The VMAs that descend from one, by forks and splits: those with the same root.
    pub families: Vec<Shared>,
}

/// What one design costs.
#[derive(Debug, Serialize)]
pub struct Design {
    /// A word for it.
    pub name: &'static str,
    /// The kernels that had it.
    pub kernel: &'static str,
    /// What a walk visits: `vmas` or `ptes`.
    pub unit: &'static str,
    /// How many for one page: the mean over all pages.
    pub mean: f64,
    /// And for the page with the most.
    pub worst: u64,
    /// Objects that are allocated for reverse mapping.
    pub objects: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Locks, each of which guards a part of it.
    pub locks: u64,
    /// The most VMAs, or PTEs, that one of them guards.
    pub under_one: u64,
}

/// What is shared by the VMAs under one root.
#[derive(Debug, Serialize)]
pub struct Shared {
    /// The root anon_vma.
    pub root: Id,
    /// A process that has such a VMA: the first of the reports.
    pub pid: u32,
    /// That VMA's first address,
    pub start: Hex,
    /// the first behind it,
    pub end: Hex,
    /// and its name.
    pub name: Text,
    /// Address spaces with such VMAs.
    pub processes: u64,
    /// Such VMAs: what a walk visits where there is one anon_vma for all of them.
    pub vmas: u64,
    /// anon_vmas under the root that they are linked to.
    pub anon_vmas: u64,
    /// anon_vma_chains that link them.
    pub links: u64,
    /// The greatest depth of an anon_vma below the root.
    pub depth: u64,
    /// Page table entries of theirs that map anonymous pages.
    pub entries: u64,
    /// Anonymous pages, each once.
    pub pages: u64,
    /// What a walk visits in PTE chains: the mean.
    pub ptes_mean: f64,
    /// And the most.
    pub ptes_worst: u64,
    /// The `pte_chain`s that this takes.
    pub pte_chains: u64,
    /// What a walk visits by anon_vma_chains: the mean.
    pub avcs_mean: f64,
    /// And the most.
    pub avcs_worst: u64,
}

/// How many VMAs of an anon_vma's tree cover each of its offsets.
#[derive(Default)]
struct Coverage {
    /// Bounds of the VMAs.
    vmas: Vec<(u64, u64)>,
    /// Where the number changes, and to what.
    steps: Vec<(u64, u64)>,
}

impl Coverage {
    fn finish(&mut self) {
        let begins = self.vmas.iter().map(|(begin, _)| (*begin, 1i64));
        let ends = self.vmas.iter().map(|(_, end)| (*end, -1i64));
        let mut changes = BTreeMap::new();
        for (at, change) in begins.chain(ends) {
            *changes.entry(at).or_insert(0) += change;
        }
        let mut number = 0i64;
        for (at, change) in changes {
            number += change;
            self.steps.push((at, number.unsigned_abs()));
        }
    }

    /// Parts of a range of offsets, with what covers each.
    fn parts(&self, begin: u64, end: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let first = self.steps.partition_point(|(at, _)| *at <= begin);
        let steps = &self.steps[first.saturating_sub(1)..];
        let next = steps.iter().skip(1).map(|(at, _)| *at);
        let parts = steps.iter().zip(next.chain([u64::MAX]));
        parts
            .take_while(move |((at, _), _)| *at < end)
            .map(move |((at, number), next)| {
                let (from, to) = ((*at).max(begin), next.min(end));
                (to.saturating_sub(from), *number)
            })
            .filter(|(pages, number)| *pages > 0 && *number > 0)
    }
}

/// Page table entries, by how often their page is mapped: so each page can be counted once.
#[derive(Default)]
struct Entries(BTreeMap<u64, u64>);

impl Entries {
    fn add(&mut self, mapcount: u64, entries: u64) {
        let sum = self.0.entry(mapcount.max(1)).or_insert(0);
        *sum = sum.saturating_add(entries);
    }

    fn entries(&self) -> u64 {
        self.0.values().copied().fold(0, u64::saturating_add)
    }

    /// The pages, each with a weight: a page that is mapped five times has five entries.
    fn pages(&self, weight: impl Fn(u64) -> f64) -> f64 {
        let each = |(mapcount, entries): (&u64, &u64)| {
            *entries as f64 / *mapcount as f64 * weight(*mapcount)
        };
        self.0.iter().map(each).sum()
    }

    fn worst(&self) -> u64 {
        self.0.keys().next_back().copied().unwrap_or(0)
    }

    fn pte_chains(&self) -> u64 {
        let each = |mapcount: u64| match mapcount {
            // The page itself points to its one entry (`PG_direct`).
            0 | 1 => 0.0,
            more => more.div_ceil(PTE_CHAIN_ENTRIES) as f64,
        };
        self.pages(each).round() as u64
    }
}

/// What is summed up under one root.
#[derive(Default)]
struct Sum<'a> {
    first: Option<(&'a ChainsReport, &'a Chain)>,
    processes: BTreeSet<Id>,
    vmas: u64,
    anon_vmas: BTreeSet<Id>,
    links: u64,
    depth: u64,
    entries: Entries,
    /// Candidates that walks visit, summed over the pages, each once.
    visited: f64,
    worst: u64,
}

/// A mean over pages, 0 where there is none.
fn mean(sum: f64, pages: f64) -> f64 {
    if pages > 0.0 { sum / pages } else { 0.0 }
}

/// Computes it.
pub fn compute(family: &Family) -> Option<Cost> {
    let header = family.header()?.clone();
    let reports = &family.reports;
    let chains = || {
        let each = |report| chains_of(report);
        reports.iter().flat_map(each)
    };
    let mut coverage: BTreeMap<Id, Coverage> = BTreeMap::new();
    for (_, vma) in chains() {
        let begin = vma.anon_pgoff.0;
        for link in &vma.link {
            let cover = coverage.entry(link.anon_vma).or_default();
            cover.vmas.push((begin, begin.saturating_add(vma.pages())));
        }
    }
    coverage.values_mut().for_each(Coverage::finish);
    let mut sums: BTreeMap<Id, Sum> = BTreeMap::new();
    for (report, vma) in chains() {
        let sum = sums.entry(vma.root).or_default();
        sum.first.get_or_insert((report, vma));
        sum.processes.insert(report.summary.mm);
        sum.vmas += 1;
        sum.links += vma.link.len() as u64;
        for link in &vma.link {
            sum.anon_vmas.insert(link.anon_vma);
            sum.depth = sum.depth.max(link.depth);
        }
        for run in &vma.run {
            sum.entries.add(run.mapcount, run.pages);
            let begin = vma.index(run);
            let end = begin.saturating_add(run.pages);
            // A page whose anon_vma nobody is linked to any more has moved meanwhile.
            let cover = coverage.get(&run.anon_vma);
            for (pages, number) in cover.into_iter().flat_map(|cover| cover.parts(begin, end)) {
                sum.visited += pages as f64 * number as f64 / run.mapcount.max(1) as f64;
                sum.worst = sum.worst.max(number);
            }
        }
    }
    let designs = designs(reports, &sums);
    let mut families: Vec<Shared> = sums
        .into_iter()
        .filter_map(|(root, sum)| shared(root, &sum))
        .collect();
    families.sort_by_key(|of| {
        let order = (u64::MAX - of.vmas, u64::MAX - of.pages);
        (order, of.pid, of.start, of.root)
    });
    let count = |of: fn(&ChainsReport) -> u64| reports.iter().map(of).fold(0, u64::saturating_add);
    Some(Cost {
        header,
        processes: reports.len() as u64,
        vmas: count(|report| report.summary.vmas),
        chained: count(|report| report.summary.chained),
        entries: families
            .iter()
            .map(|of| of.entries)
            .fold(0, u64::saturating_add),
        pages: families
            .iter()
            .map(|of| of.pages)
            .fold(0, u64::saturating_add),
        unread: family.unread,
        moved: family.moved(),
        designs,
        families,
    })
}

fn chains_of(report: &ChainsReport) -> impl Iterator<Item = (&ChainsReport, &Chain)> {
    report.vmas.iter().map(move |vma| (report, vma))
}

fn shared(root: Id, sum: &Sum<'_>) -> Option<Shared> {
    let (report, vma) = sum.first?;
    let pages = sum.entries.pages(|_| 1.0);
    Some(Shared {
        root,
        pid: report.header.pid,
        start: vma.start,
        end: vma.end,
        name: vma.name.clone(),
        processes: sum.processes.len() as u64,
        vmas: sum.vmas,
        anon_vmas: sum.anon_vmas.len() as u64,
        links: sum.links,
        depth: sum.depth,
        entries: sum.entries.entries(),
        pages: pages.round() as u64,
        ptes_mean: mean(sum.entries.entries() as f64, pages),
        ptes_worst: sum.entries.worst(),
        pte_chains: sum.entries.pte_chains(),
        avcs_mean: mean(sum.visited, pages),
        avcs_worst: sum.worst,
    })
}

fn designs(reports: &[ChainsReport], sums: &BTreeMap<Id, Sum<'_>>) -> Vec<Design> {
    let all = || sums.values();
    // Families without a page are visited by no walk.
    let walked = || all().filter(|sum| sum.entries.worst() > 0);
    let pages: f64 = all().map(|sum| sum.entries.pages(|_| 1.0)).sum();
    let entries = all()
        .map(|sum| sum.entries.entries())
        .fold(0, u64::saturating_add);
    let vmas = reports
        .iter()
        .map(|report| report.summary.vmas)
        .fold(0, u64::saturating_add);
    let roots = sums.len() as u64;
    let largest = all().map(|sum| sum.vmas).max().unwrap_or(0);
    let anon_vmas: u64 = all().map(|sum| sum.anon_vmas.len() as u64).sum();
    let links: u64 = all().map(|sum| sum.links).sum();
    let pte_chains = all()
        .map(|sum| sum.entries.pte_chains())
        .fold(0, u64::saturating_add);
    let ptes_worst = all().map(|sum| sum.entries.worst()).max().unwrap_or(0);
    let related: f64 = all()
        .map(|sum| sum.entries.pages(|_| sum.vmas as f64))
        .sum();
    let visited: f64 = all().map(|sum| sum.visited).sum();
    let sizes = reports.first().map(|report| &report.summary);
    let (anon_vma_bytes, avc_bytes) =
        sizes.map_or((0, 0), |sizes| (sizes.anon_vma_bytes, sizes.avc_bytes));
    let any = |number: u64| if pages > 0.0 { number } else { 0 };
    vec![
        Design {
            name: "scan",
            kernel: "2.4",
            unit: "vmas",
            mean: any(vmas) as f64,
            worst: any(vmas),
            objects: 0,
            bytes: 0,
            locks: reports.len() as u64,
            under_one: reports
                .iter()
                .map(|report| report.summary.vmas)
                .max()
                .unwrap_or(0),
        },
        Design {
            name: "pte_chains",
            kernel: "2.5",
            unit: "ptes",
            mean: mean(entries as f64, pages),
            worst: ptes_worst,
            objects: pte_chains,
            bytes: pte_chains.saturating_mul(PTE_CHAIN_BYTES),
            locks: pages.round() as u64,
            under_one: ptes_worst,
        },
        Design {
            name: "anon_vma",
            kernel: "2.6.11",
            unit: "vmas",
            mean: mean(related, pages),
            worst: walked().map(|sum| sum.vmas).max().unwrap_or(0),
            objects: roots,
            bytes: roots.saturating_mul(OLD_ANON_VMA_BYTES),
            locks: roots,
            under_one: largest,
        },
        Design {
            name: "anon_vma_chain",
            kernel: "2.6.32",
            unit: "vmas",
            mean: mean(visited, pages),
            worst: all().map(|sum| sum.worst).max().unwrap_or(0),
            objects: anon_vmas + links,
            bytes: anon_vmas
                .saturating_mul(anon_vma_bytes)
                .saturating_add(links.saturating_mul(avc_bytes)),
            locks: roots,
            under_one: largest,
        },
    ]
}
