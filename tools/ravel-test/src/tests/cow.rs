// SPDX-License-Identifier: GPL-2.0
//! Report cow: how much of a process' memory is shared, and with whom, against /proc's own view.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use ravel_records::{Cow, CowReport, PageCounts, Relation};

use crate::module::{self, query};
use crate::pagemap::{self, Frames, kpf};
use crate::process::{Area, Child, HUGE, Puppet, Stage};
use crate::report::{cow, parse_cow};
use crate::sys::{self, PAGE, Pid};
use crate::tier::{moving, patience};
use crate::{check, check_eq, maps, tests};

use Relation::{Ancestor, Descendant, Unrelated};

tests!("cow":
    one_process_has_all_to_itself,
    parent_and_children_with_partial_writes,
    grandchild_inherits_from_two,
    pages_of_an_anon_vma_that_fork_took_over,
    moved_and_split_areas,
    moved_area_that_keeps_its_mapping,
    exec_shares_nothing_any_more,
    child_in_another_pid_namespace,
    huge_pages needs HugePages,
    public_mappings_are_passed_over,
    sums_agree_with_pagemap_and_smaps,
    sums_of_every_process_agree_with_smaps,
    while_everything_moves [120 s],
    cli_shows_the_report,
);

fn record(report: &CowReport, area: Area) -> Result<&Cow> {
    let vma = report.vma_at(area.start);
    let vma = vma.with_context(|| format!("no record of {area:x?}: {report:#?}"))?;
    check_eq!(
        (vma.start.0, vma.end.0),
        (area.start, area.end()),
        "bounds of {area:x?}"
    );
    check_eq!(vma.moved, 0, "moved");
    Ok(vma)
}

/// anon, exclusive, shared, own, inherited.
fn numbers(vma: &Cow) -> (u64, u64, u64, u64, u64) {
    let pages = &vma.pages;
    (
        pages.anon,
        pages.exclusive,
        pages.shared,
        pages.own,
        pages.inherited,
    )
}

/// Checks with whom a VMA's pages are shared, and how many.
fn check_shares(vma: &Cow, want: &[(Pid, Relation, u64)]) -> Result<()> {
    let mut found: Vec<_> = vma
        .shares
        .iter()
        .map(|share| (share.pid as Pid, share.relation.clone(), share.pages))
        .collect();
    found.sort();
    let mut want = want.to_vec();
    want.sort();
    check_eq!(found, want, "shares of {:x}", vma.start.0);
    Ok(())
}

fn one_process_has_all_to_itself() -> Result<()> {
    let mut puppet = Stage::new(1)?.start()?;
    let area = puppet.map(6)?;
    puppet.write(area.pages(0, 3))?;
    puppet.read(area.pages(4, 1))?;
    let report = cow(puppet.pid)?;
    check_eq!(report.header.pid as Pid, puppet.pid, "pid");
    let vma = record(&report, area)?;
    check_eq!(numbers(vma), (3, 3, 0, 3, 0), "numbers");
    check_eq!((vma.pages.zero, vma.pages.file), (1, 0), "zero, file");
    check_eq!(
        (vma.perms.as_str(), vma.name.as_bytes().is_empty()),
        ("rw-p", true),
        "perms"
    );
    check_shares(vma, &[])
}

fn parent_and_children_with_partial_writes() -> Result<()> {
    let mut parent = Stage::new(3)?.start()?;
    let area = parent.map(10)?;
    parent.write(area.pages(0, 8))?;
    let (mut one, mut two) = (parent.fork()?, parent.fork()?);
    one.write(area.pages(0, 3))?;
    two.write(area.pages(2, 3))?;
    two.write(area.pages(9, 1))?;
    parent.write(area.pages(7, 1))?;
    let (p, a, b) = (parent.pid, one.pid, two.pid);
    // 0, 1: p, b; 2: p; 3, 4: p, a; 5, 6: all; 7: a, b, and p its copy; 9: b.
    let report = cow(p)?;
    let vma = record(&report, area)?;
    check_eq!(numbers(vma), (8, 2, 6, 8, 0), "the parent's");
    check_shares(vma, &[(a, Descendant, 4), (b, Descendant, 4)])?;
    let report = cow(a)?;
    let vma = record(&report, area)?;
    check_eq!(numbers(vma), (8, 3, 5, 3, 5), "the first child's");
    check_shares(vma, &[(p, Ancestor, 4), (b, Unrelated, 3)])?;
    let report = cow(b)?;
    let vma = record(&report, area)?;
    check_eq!(numbers(vma), (9, 4, 5, 4, 5), "the second child's");
    check_shares(vma, &[(p, Ancestor, 4), (a, Unrelated, 3)])?;
    one.exit()?;
    let report = cow(b)?;
    let vma = record(&report, area)?;
    check_eq!(numbers(vma), (9, 5, 4, 4, 5), "after the first's exit");
    check_shares(vma, &[(p, Ancestor, 4)])
}

fn grandchild_inherits_from_two() -> Result<()> {
    let mut parent = Stage::new(3)?.start()?;
    let area = parent.map(4)?;
    parent.write(area)?;
    let mut child = parent.fork()?;
    child.write(area.pages(0, 2))?;
    let mut grandchild = child.fork()?;
    grandchild.write(area.pages(0, 1))?;
    let report = cow(grandchild.pid)?;
    let vma = record(&report, area)?;
    check_eq!(numbers(vma), (4, 1, 3, 1, 3), "numbers");
    check_shares(vma, &[(parent.pid, Ancestor, 2), (child.pid, Ancestor, 3)])
}

/// Each generation writes a page and exits after it has forked the next. fork() then gives every other generation the
/// anon_vma of one that has exited, with the pages that it wrote.
fn pages_of_an_anon_vma_that_fork_took_over() -> Result<()> {
    const GENERATIONS: u64 = 7;
    let mut last = Stage::new(GENERATIONS as usize + 1)?.start()?;
    let area = last.map(10)?;
    last.write(area)?;
    for generation in 1..GENERATIONS {
        let mut next = last.fork_lasting()?;
        last.exit()?;
        next.write(area.pages(generation, 1))?;
        last = next;
    }
    // It wrote one page, and what it wrote is not shared.
    let report = cow(last.pid)?;
    let pages = &record(&report, area)?.pages;
    let unknown = |pages: &PageCounts| pages.unknown.unwrap_or(0);
    check_eq!((pages.anon, pages.exclusive), (10, 10), "anon, exclusive");
    check_eq!(
        pages.own,
        1,
        "own, of what one has that wrote 1 page: {pages:?}"
    );
    check_eq!(
        pages.own + unknown(pages) + pages.inherited,
        10,
        "sum of own, unknown and inherited"
    );
    check!(
        unknown(pages) < 9,
        "nothing is known to be inherited: {pages:?}"
    );
    // Its child has written none, and the page that it wrote itself cannot be told from others any more.
    let child = last.fork()?;
    let report = cow(child.pid)?;
    let pages = &record(&report, area)?.pages;
    check_eq!((pages.anon, pages.shared), (10, 10), "anon, shared");
    check_eq!(
        pages.own,
        0,
        "own, of what one has that wrote nothing: {pages:?}"
    );
    let report = cow(last.pid)?;
    let pages = &record(&report, area)?.pages;
    check!(
        pages.own <= 1,
        "own, of what one has that wrote 1 page: {pages:?}"
    );
    check!(pages.inherited <= 9, "inherited: {pages:?}");
    Ok(())
}

fn moved_and_split_areas() -> Result<()> {
    let mut parent = Stage::new(2)?.start()?;
    let area = parent.map(6)?;
    parent.write(area)?;
    let mut child = parent.fork()?;
    let there = child.remap(area)?;
    child.write(there.pages(5, 1))?;
    let report = cow(child.pid)?;
    let vma = record(&report, there)?;
    check_eq!(numbers(vma), (6, 1, 5, 1, 5), "the moved area");
    check_shares(vma, &[(parent.pid, Ancestor, 5)])?;
    child.protect(there.pages(2, 2), libc::PROT_READ)?;
    let report = cow(child.pid)?;
    for (part, want) in [
        (there.pages(0, 2), (2, 0, 2, 0, 2)),
        (there.pages(2, 2), (2, 0, 2, 0, 2)),
        (there.pages(4, 2), (2, 1, 1, 1, 1)),
    ] {
        let vma = record(&report, part)?;
        check_eq!(numbers(vma), want, "a part of it");
        check_shares(vma, &[(parent.pid, Ancestor, want.2)])?;
    }
    // From the parent's side the child's three VMAs are one address space.
    let report = cow(parent.pid)?;
    check_shares(record(&report, area)?, &[(child.pid, Descendant, 5)])
}

fn moved_area_that_keeps_its_mapping() -> Result<()> {
    let mut parent = Stage::new(2)?.start()?;
    let area = parent.map(6)?;
    parent.write(area)?;
    let mut child = parent.fork()?;
    let there = child.remap_keeping(area)?;
    child.write(area.pages(0, 2))?;
    child.write(there.pages(5, 1))?;
    let report = cow(child.pid)?;
    let vma = record(&report, area)?;
    check_eq!(numbers(vma), (2, 2, 0, 2, 0), "where it was");
    check_shares(vma, &[])?;
    let vma = record(&report, there)?;
    check_eq!(numbers(vma), (6, 1, 5, 1, 5), "where it is");
    check_shares(vma, &[(parent.pid, Ancestor, 5)])?;
    let report = cow(parent.pid)?;
    let vma = record(&report, area)?;
    check_eq!(numbers(vma), (6, 1, 5, 6, 0), "the parent's");
    check_shares(vma, &[(child.pid, Descendant, 5)])
}

fn exec_shares_nothing_any_more() -> Result<()> {
    let mut parent = Stage::new(2)?.start()?;
    let area = parent.map(4)?;
    parent.write(area)?;
    let mut child = parent.fork()?;
    child.exec()?;
    let report = cow(parent.pid)?;
    let vma = record(&report, area)?;
    check_eq!(numbers(vma), (4, 4, 0, 4, 0), "the parent's");
    check_shares(vma, &[])?;
    let report = cow(child.pid)?;
    check!(report.vma_at(area.start).is_none(), "a record of the area");
    for vma in &report.vmas {
        check_eq!((vma.pages.shared, vma.shares.len()), (0, 0), "{vma:?}");
    }
    Ok(())
}

fn child_in_another_pid_namespace() -> Result<()> {
    let us = sys::getpid();
    let area = Area::map(4)?;
    area.touch();
    let mut child = Child::spawn_with(libc::CLONE_NEWPID as u64, None, |link| {
        area.pages(3, 1).touch();
        link.send("written")?;
        link.wait().map(drop)
    })?;
    child.link.recv()?;
    // Told are the numbers outside.
    let report = cow(us)?;
    check_shares(record(&report, area)?, &[(child.pid, Descendant, 3)])?;
    let report = cow(child.pid)?;
    let vma = record(&report, area)?;
    check_eq!(numbers(vma), (4, 1, 3, 1, 3), "the child's");
    check_shares(vma, &[(us, Ancestor, 3)])?;
    child.kill()
}

fn huge_pages() -> Result<()> {
    let mut parent = Stage::new(2)?.start()?;
    let area = parent.map_aligned(2 * HUGE / PAGE, 0)?;
    parent.advise(area, libc::MADV_HUGEPAGE)?;
    parent.write(area)?;
    let report = cow(parent.pid)?;
    let vma = record(&report, area)?;
    check_eq!(numbers(vma), (1024, 1024, 0, 1024, 0), "numbers");
    check_eq!(vma.pages.huge, 1024, "huge");
    let mut child = parent.fork()?;
    child.write(area.pages(700, 1))?;
    let report = cow(child.pid)?;
    let vma = record(&report, area)?;
    check_eq!(numbers(vma), (1024, 1, 1023, 1, 1023), "the child's");
    check_eq!(vma.pages.huge, 512, "huge, one of two split");
    check_shares(vma, &[(parent.pid, Ancestor, 1023)])?;
    let report = cow(parent.pid)?;
    let vma = record(&report, area)?;
    check_eq!(numbers(vma), (1024, 1, 1023, 1024, 0), "the parent's");
    check_eq!(vma.pages.huge, 1024, "huge in the parent");
    check_shares(vma, &[(child.pid, Descendant, 1023)])
}

fn public_mappings_are_passed_over() -> Result<()> {
    let us = sys::getpid();
    let before = cow(us)?.summary;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let start = sys::map(0, 2 * PAGE, prot, flags, None, 0)?;
    sys::poke(start, 1);
    let report = cow(us)?;
    check!(report.vma_at(start as u64).is_none(), "a record of it");
    check_eq!(report.summary.public, before.public + 1, "public");
    Ok(())
}

/// What pagemap and the like say of a mapping.
fn counted(pid: Pid, start: u64, end: u64, frames: &Frames) -> Result<PageCounts> {
    let mut counts = PageCounts::default();
    for entry in pagemap::entries(pid, start, end)? {
        if entry.marker() {
            counts.other += 1;
        } else if entry.swapped() {
            counts.swap += 1;
        } else if entry.present() {
            let flags = frames.flags(entry.pfn())?;
            if flags & kpf::ZERO != 0 {
                counts.zero += 1;
            } else if flags & kpf::KSM != 0 {
                counts.ksm += 1;
            } else if flags & kpf::ANON != 0 {
                counts.anon += 1;
                // Of what a pmd maps, the entry tells only whether the first page is.
                let alone = frames.mapcount(entry.pfn())? == 1;
                check!(
                    alone == entry.exclusive() || flags & kpf::COMPOUND != 0,
                    "pagemap and kpagecount disagree: {entry:?}"
                );
                counts.exclusive += u64::from(alone);
            } else {
                counts.file += 1;
            }
        }
    }
    counts.shared = counts.anon - counts.exclusive;
    Ok(counts)
}

/// The same of the report, without what /proc does not tell.
fn comparable(pages: &PageCounts) -> PageCounts {
    PageCounts {
        own: 0,
        unknown: None,
        inherited: 0,
        huge: 0,
        ..pages.clone()
    }
}

/// Mappings that are not made of ordinary pages.
pub(super) fn is_special(name: &[u8]) -> bool {
    [&b"[vvar]"[..], b"[vvar_vclock]", b"[vdso]", b"[vsyscall]"].contains(&name)
}

fn check_against_proc(pid: Pid) -> Result<u64> {
    let frames = Frames::open()?;
    let report = cow(pid)?;
    let smaps = pagemap::smaps(pid)?;
    let mut private = 0;
    for map in maps::of(pid)? {
        if map.perms.ends_with('s') || is_special(&map.name) {
            continue;
        }
        let vma = report.vma_at(map.start);
        let vma = vma.with_context(|| format!("no record of {map:x?}"))?;
        check_eq!(
            (vma.start.0, vma.end.0, vma.perms.as_str()),
            (map.start, map.end, map.perms.as_str()),
            "bounds and perms"
        );
        let want = counted(pid, map.start, map.end, &frames)?;
        check_eq!(comparable(&vma.pages), want, "pages of {map:x?}");
        let numbers = smaps.get(&map.start).context("not in smaps")?;
        let kib = |key: &str| numbers.get(key).copied().unwrap_or(0);
        let pages = &vma.pages;
        check_eq!(
            (
                4 * (pages.anon + pages.ksm),
                4 * (pages.anon + pages.ksm + pages.file),
                4 * pages.huge,
                4 * pages.swap
            ),
            (
                kib("Anonymous"),
                kib("Rss"),
                kib("AnonHugePages"),
                kib("Swap")
            ),
            "Anonymous, Rss, AnonHugePages, Swap of {map:x?}"
        );
        if pages.file + pages.ksm == 0 {
            check_eq!(
                (4 * pages.exclusive, 4 * pages.shared),
                (
                    kib("Private_Clean") + kib("Private_Dirty"),
                    kib("Shared_Clean") + kib("Shared_Dirty")
                ),
                "Private, Shared of {map:x?}"
            );
        }
        private += 1;
    }
    Ok(private)
}

/// The same, asked anew where something moved between report and /proc.
fn agrees(pid: Pid) -> Result<u64> {
    let mut last = None;
    for _ in 0..10 {
        match check_against_proc(pid) {
            Ok(private) => return Ok(private),
            Err(e) => last = Some(e),
        }
    }
    match last {
        Some(e) => Err(e.context(format!("pid {pid}"))),
        None => bail!("never asked"),
    }
}

fn sums_agree_with_pagemap_and_smaps() -> Result<()> {
    let mut parent = Stage::new(3)?.start()?;
    parent.exec()?;
    let area = parent.map_written(1, 700)?[0];
    let aligned = parent.map_aligned(HUGE / PAGE, 0)?;
    parent.write(aligned)?;
    let mut one = parent.fork()?;
    one.write(area.pages(100, 50))?;
    one.write(aligned.pages(3, 1))?;
    let mut two = one.fork()?;
    two.read(area)?;
    two.write(area.pages(120, 60))?;
    let puppets: [&Puppet; 3] = [&parent, &one, &two];
    for puppet in puppets {
        puppet.settle()?;
    }
    for puppet in puppets {
        let private = agrees(puppet.pid)?;
        check!(private > 10, "only {private} private mappings");
    }
    Ok(())
}

fn sums_of_every_process_agree_with_smaps() -> Result<()> {
    let _child = Child::idle()?;
    agrees(1)?;
    let mut seen = 0;
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let has_memory = std::fs::read(format!("/proc/{pid}/maps")).is_ok_and(|m| !m.is_empty());
        if has_memory && pid != sys::getpid() {
            agrees(pid)?;
            seen += 1;
        }
    }
    check!(seen > 2, "only {seen} processes");
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
        Ok(sys::protect(area.start as usize, area.len as usize, rw)?)
    };
    let there = move |round| area.pages(round % 600, 100).touch();
    let churner = |which| Child::churner(which, here, there);
    let mut churners = (1..4).map(churner).collect::<Result<Vec<_>>>()?;
    let asked: Vec<Pid> = churners.iter().map(|child| child.pid).collect();
    let (mut reports, mut moved) = (0u64, 0u64);
    let end = Instant::now() + moving();
    while Instant::now() < end || (reports < 20 && Instant::now() < end + patience(5)) {
        for pid in &asked {
            let (errno, answer) = query(format!("cow {pid}").as_bytes())?;
            check_eq!(errno, 0, "write");
            let report = parse_cow(&answer.whole()?)?;
            reports += 1;
            moved += report.summary.moved;
            for vma in &report.vmas {
                let pages = &vma.pages;
                check_eq!(
                    (
                        pages.exclusive + pages.shared,
                        pages.own + pages.unknown.unwrap_or(0) + pages.inherited
                    ),
                    (pages.anon, pages.anon),
                    "sums of {vma:?}"
                );
                let size = vma.size() / PAGE as u64;
                let all = pages.anon + pages.file + pages.zero + pages.ksm + pages.swap;
                check!(all <= size, "more pages than it has room for: {vma:?}");
                for share in &vma.shares {
                    check!(
                        share.pages > 0 && share.pages <= pages.anon,
                        "{share:?} of {vma:?}"
                    );
                }
            }
            // Nobody unmaps the area, whatever VMAs it is in.
            let inside = report
                .vmas
                .iter()
                .filter(|vma| (area.start..area.end()).contains(&vma.start.0));
            let pages: u64 = inside.map(|vma| vma.pages.anon).sum();
            check!(
                report.summary.moved > 0 || pages > 0,
                "nothing of the area: {report:#?}"
            );
        }
    }
    for churner in &mut churners {
        churner.kill()?;
    }
    crate::harness::say(format_args!("{reports} reports, moved {moved} times"));
    check!(reports >= 20, "only {reports} reports");
    Ok(())
}

fn cli_shows_the_report() -> Result<()> {
    let mut parent = Stage::new(2)?.start()?;
    let area = parent.map(4)?;
    parent.write(area)?;
    let mut child = parent.fork()?;
    child.write(area.pages(0, 1))?;
    child.settle()?;
    let pid = child.pid.to_string();
    let ravel = |args: &[&str]| -> Result<String> {
        let output = std::process::Command::new(module::beside("ravel")?)
            .args(args)
            .output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{args:?}: {errors}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let shown: CowReport = serde_json::from_str(&ravel(&["cow", "--json", &pid])?)?;
    let read = cow(child.pid)?;
    check_eq!(
        record(&shown, area)?,
        record(&read, area)?,
        "the record in JSON"
    );
    let text = ravel(&["cow", "--vmas", &pid])?;
    let line = text
        .lines()
        .skip_while(|line| !line.starts_with(&format!("{:x}-{:x}", area.start, area.end())))
        .nth(1)
        .with_context(|| format!("no line of the area:\n{text}"))?;
    check_eq!(
        line.trim(),
        "16K of 16K: 4K private, 12K shared; 4K written, 12K inherited",
        "the line of the area"
    );
    check!(
        text.lines().any(|line| {
            line.contains("KiB") && line.ends_with(&format!("{}, parent", parent.pid))
        }),
        "not shared with the parent:\n{text}"
    );
    Ok(())
}
