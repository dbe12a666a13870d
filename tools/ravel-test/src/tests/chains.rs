// SPDX-License-Identifier: GPL-2.0
//! Report chains: the same links as report anon_vma, and runs of pages as pagemap has them.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result};
use ravel_records::{Chain, ChainsReport, Id};

use crate::module::query;
use crate::pagemap::{self, Frames, kpf};
use crate::process::{Area, Child, HUGE, Stage};
use crate::report::{anon, chain, chains, parse_chains};
use crate::sys::{self, PAGE, Pid};
use crate::{check, check_eq, maps, tests, tier};

tests!("chains":
    links_are_those_of_anon_vma,
    runs_end_where_pages_differ,
    huge_page_is_one_run_until_it_is_split needs HugePages,
    pages_that_are_not_anonymous_are_counted,
    pages_agree_with_pagemap,
    chain_longer_than_a_chunk [120 s],
    more_runs_than_a_chunk_holds,
    while_everything_moves [120 s],
);

fn record(report: &ChainsReport, area: Area) -> Result<&Chain> {
    let found = report.vmas.iter().find(|vma| vma.start.0 == area.start);
    let vma = found.with_context(|| format!("no record of {area:x?}: {report:#?}"))?;
    check_eq!(vma.end.0, area.end(), "end of {area:x?}");
    check_eq!(vma.link.len() as u64, vma.links, "links of {area:x?}");
    Ok(vma)
}

/// Place of its first page in the area, pages, mapcount, and whether they are of the area's own anon_vma.
fn runs(vma: &Chain) -> Vec<(u64, u64, u64, bool)> {
    vma.run
        .iter()
        .map(|run| {
            let place = (run.address.0 - vma.start.0) / PAGE as u64;
            (place, run.pages, run.mapcount, run.anon_vma == vma.anon_vma)
        })
        .collect()
}

fn links_are_those_of_anon_vma() -> Result<()> {
    let mut parent = Stage::new(3)?.start()?;
    let area = parent.map(6)?;
    parent.write(area)?;
    let mut child = parent.fork()?;
    child.write(area.pages(0, 1))?;
    let grandchild = child.fork()?;
    for puppet in [&parent, &child, &grandchild] {
        puppet.settle()?;
        let (told, want) = (chains(puppet.pid)?, anon(puppet.pid)?);
        check_eq!(told.summary.vmas, want.summary.vmas, "VMAs");
        check_eq!(told.summary.links, want.summary.avcs, "links");
        check_eq!(told.vmas.len(), want.vmas.len(), "records");
        for (vma, other) in told.vmas.iter().zip(&want.vmas) {
            check_eq!(
                (vma.start, vma.end, &vma.perms, vma.anon_pgoff, &vma.name),
                (
                    other.start,
                    other.end,
                    &other.perms,
                    other.anon_pgoff,
                    &other.name
                ),
                "a VMA"
            );
            check_eq!(vma.anon_vma, other.anon_vma, "its anon_vma");
            let mut links: Vec<_> = vma.link.iter().collect();
            links.sort_by_key(|link| (link.depth, link.anon_vma));
            let groups = want.chain(other);
            check_eq!(links.len(), groups.len(), "links of {other:?}");
            for (link, group) in links.iter().zip(groups) {
                check_eq!(vma.root, group.root, "root");
                check_eq!(link.own, group.id == other.anon_vma, "own");
                check_eq!(
                    (link.anon_vma, link.parent, link.depth, link.children),
                    (group.id, group.parent, group.depth, group.children),
                    "a link"
                );
                check_eq!(
                    (link.active_vmas, link.refcount),
                    (group.active_vmas, group.refcount),
                    "its counts"
                );
            }
        }
        let members: BTreeSet<Id> = chain(&want, area)?[0]
            .member
            .iter()
            .filter(|member| member.pid as Pid == puppet.pid)
            .map(|member| member.mm)
            .collect();
        check_eq!(members, BTreeSet::from([told.summary.mm]), "mm");
    }
    Ok(())
}

fn runs_end_where_pages_differ() -> Result<()> {
    let mut parent = Stage::new(2)?.start()?;
    let area = parent.map(10)?;
    parent.write(area.pages(0, 3))?;
    parent.write(area.pages(5, 4))?;
    let report = chains(parent.pid)?;
    let vma = record(&report, area)?;
    check_eq!(runs(vma), [(0, 3, 1, true), (5, 4, 1, true)], "alone");
    let mut child = parent.fork()?;
    child.write(area.pages(1, 1))?;
    child.write(area.pages(3, 1))?;
    let report = chains(child.pid)?;
    check_eq!(
        runs(record(&report, area)?),
        [
            (0, 1, 2, false),
            (1, 1, 1, true),
            (2, 1, 2, false),
            (3, 1, 1, true),
            (5, 4, 2, false)
        ],
        "the child's"
    );
    let report = chains(parent.pid)?;
    let vma = record(&report, area)?;
    check_eq!(
        runs(vma),
        [
            (0, 1, 2, true),
            (1, 1, 1, true),
            (2, 1, 2, true),
            (5, 4, 2, true)
        ],
        "the parent's"
    );
    check_eq!(
        vma.index(&vma.run[3]),
        vma.anon_pgoff.0 + 5,
        "offset of the last"
    );
    Ok(())
}

fn huge_page_is_one_run_until_it_is_split() -> Result<()> {
    let mut parent = Stage::new(2)?.start()?;
    let area = parent.map_aligned(HUGE / PAGE, 0)?;
    parent.advise(area, libc::MADV_HUGEPAGE)?;
    parent.write(area)?;
    let report = chains(parent.pid)?;
    check_eq!(runs(record(&report, area)?), [(0, 512, 1, true)], "alone");
    let mut child = parent.fork()?;
    child.write(area.pages(100, 1))?;
    let report = chains(child.pid)?;
    let vma = record(&report, area)?;
    let places: Vec<_> = runs(vma).iter().map(|run| (run.0, run.1, run.3)).collect();
    check_eq!(
        places,
        [(0, 100, false), (100, 1, true), (101, 411, false)],
        "the child's"
    );
    Ok(())
}

fn pages_that_are_not_anonymous_are_counted() -> Result<()> {
    let mut puppet = Stage::new(1)?.start()?;
    let area = puppet.map(6)?;
    puppet.write(area.pages(0, 2))?;
    let before = chains(puppet.pid)?.summary.other;
    puppet.read(area.pages(2, 3))?;
    let report = chains(puppet.pid)?;
    check_eq!(runs(record(&report, area)?), [(0, 2, 1, true)], "runs");
    check_eq!(report.summary.other, before + 3, "zero pages in `other`");
    Ok(())
}

fn pages_agree_with_pagemap() -> Result<()> {
    let mut parent = Stage::new(3)?.start()?;
    parent.exec()?;
    let area = parent.map_written(1, 700)?[0];
    let mut one = parent.fork()?;
    one.write(area.pages(100, 50))?;
    let mut two = one.fork()?;
    two.write(area.pages(120, 60))?;
    let frames = Frames::open()?;
    for puppet in [&parent, &one, &two] {
        puppet.settle()?;
        let report = chains(puppet.pid)?;
        check_eq!(report.summary.moved, 0, "moved");
        let maps = maps::of(puppet.pid)?;
        for map in maps.iter().filter(|map| map.perms.ends_with('p')) {
            let mut want = Vec::new();
            let entries = pagemap::entries(puppet.pid, map.start, map.end)?;
            for (address, entry) in (map.start..).step_by(PAGE).zip(entries) {
                if !entry.present() {
                    continue;
                }
                let flags = frames.flags(entry.pfn())?;
                if flags & kpf::ANON != 0 && flags & kpf::ZERO == 0 {
                    want.push((address, frames.mapcount(entry.pfn())?));
                }
            }
            let vma = report.vmas.iter().find(|vma| vma.start.0 == map.start);
            let told: Vec<_> = vma
                .iter()
                .flat_map(|vma| &vma.run)
                .flat_map(|run| {
                    let pages = (run.address.0..).step_by(PAGE).take(run.pages as usize);
                    pages.map(|address| (address, run.mapcount))
                })
                .collect();
            check_eq!(told, want, "pages of {map:x?} in {}", puppet.pid);
        }
    }
    Ok(())
}

/// A line of descendants, each the only child of the one before, of which all live.
fn chain_longer_than_a_chunk() -> Result<()> {
    // One area of 600 VMAs in a process of the fifth generation has 3000 links.
    let stage = Stage::new(5)?;
    let mut line = vec![stage.start()?];
    let area = line[0].map(600)?;
    line[0].write(area)?;
    for _ in 1..5 {
        let last = line.len() - 1;
        let child = line[last].fork()?;
        line.push(child);
    }
    let last = line.last_mut().context("nobody")?;
    for place in (0..600).step_by(2) {
        last.protect(area.pages(place, 1), libc::PROT_READ)?;
    }
    let report = chains(last.pid)?;
    let inside: Vec<&Chain> = report
        .vmas
        .iter()
        .filter(|vma| (area.start..area.end()).contains(&vma.start.0))
        .collect();
    check_eq!(inside.len(), 600, "VMAs of the area");
    for (place, vma) in inside.iter().enumerate() {
        check_eq!(vma.start.0, area.pages(place as u64, 1).start, "start");
        let mut depths: Vec<u64> = vma.link.iter().map(|link| link.depth).collect();
        depths.sort_unstable();
        check_eq!(depths, [0, 1, 2, 3, 4], "depths of its links");
        check_eq!(runs(vma), [(0, 1, 5, false)], "runs");
    }
    check_eq!(report.summary.moved, 0, "moved");
    Ok(())
}

fn more_runs_than_a_chunk_holds() -> Result<()> {
    let mut parent = Stage::new(2)?.start()?;
    let area = parent.map(3000)?;
    // khugepaged would undo what the child does.
    parent.advise(area, libc::MADV_NOHUGEPAGE)?;
    parent.write(area)?;
    let mut child = parent.fork()?;
    for place in (1..3000).step_by(2) {
        child.write(area.pages(place, 1))?;
    }
    let report = chains(child.pid)?;
    let found = runs(record(&report, area)?);
    let want: Vec<_> = (0..3000)
        .map(|place| match place % 2 {
            0 => (place, 1, 2, false),
            _ => (place, 1, 1, true),
        })
        .collect();
    check!(found == want, "{} runs, wanted 3000", found.len());
    Ok(())
}

fn while_everything_moves() -> Result<()> {
    let area = Area::map(700)?;
    area.touch();
    let here = move |round| {
        let part = area.pages(round % 700, 1);
        sys::protect(part.start as usize, PAGE, libc::PROT_READ)?;
        sys::advise(part.start as usize, PAGE, libc::MADV_DONTNEED)?;
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        sys::protect(area.start as usize, area.len as usize, rw)?;
        // No more than a half is gone at any time.
        area.pages((round + 350) % 700, 1).touch();
        Ok(())
    };
    let there = move |round| area.pages(round % 600, 100).touch();
    let mut churner = Child::churner(0, here, there)?;
    let (mut reports, mut moved) = (0u64, 0u64);
    let end = Instant::now() + tier::moving();
    while Instant::now() < end {
        let (errno, answer) = query(format!("chains {}", churner.pid).as_bytes())?;
        check_eq!(errno, 0, "write");
        let report = parse_chains(&answer.whole()?)?;
        reports += 1;
        moved += report.summary.moved;
        let mut before = 0;
        for vma in &report.vmas {
            // One that was merged while it was read is come to again, as a part of what it became.
            check!(
                vma.start.0 >= before || report.summary.moved > 0,
                "out of order: {vma:?}"
            );
            before = vma.end.0;
            let mut next = vma.start.0;
            for run in &vma.run {
                check!(run.address.0 >= next, "runs overlap: {vma:?}");
                next = run.address.0 + run.pages * PAGE as u64;
                check!(run.mapcount <= 4, "mapped {} times: {vma:?}", run.mapcount);
            }
        }
        let inside = report
            .vmas
            .iter()
            .filter(|vma| (area.start..area.end()).contains(&vma.start.0));
        let pages: u64 = inside.flat_map(|vma| &vma.run).map(|run| run.pages).sum();
        check!(
            report.summary.moved > 0 || pages >= 349,
            "{pages} pages of the area: {report:#?}"
        );
    }
    churner.kill()?;
    crate::harness::say(format_args!("{reports} reports, moved {moved} times"));
    Ok(())
}
