// SPDX-License-Identifier: GPL-2.0
//! Pages of many processes, and of processes that do not stand still.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result};
use ravel_records::{PageKind, Relation};

use super::of;
use crate::measure::Holds;
use crate::process::{Area, Child};
use crate::sys::{self, PAGE, Pid};
use crate::tier::{moving, patience, scale};
use crate::{check, check_eq, tests};

use Relation::{Descendant, Self_};

tests!("page":
    while_everything_moves [120 s],
    shared_file_while_everything_moves [120 s],
    private_file_while_everything_moves [120 s],
    two_hundred_children_of_a_thousand_pages [240 s],
    file_of_two_hundred_processes [240 s],
);

/// How many pages move.
const PAGES: usize = 48;

fn while_everything_moves() -> Result<()> {
    agree_while_moving(Area::map(PAGES)?)
}

fn shared_file_while_everything_moves() -> Result<()> {
    agree_while_moving(map_file(libc::MAP_SHARED)?)
}

fn private_file_while_everything_moves() -> Result<()> {
    agree_while_moving(map_file(libc::MAP_PRIVATE)?)
}

/// A file in memory, mapped between two guard pages.
fn map_file(flags: i32) -> Result<Area> {
    let area = Area::map(PAGES)?;
    let file = sys::memfd("ravel-moving")?;
    file.set_len(area.len)?;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let flags = flags | libc::MAP_FIXED;
    sys::map(
        area.start as usize,
        area.len as usize,
        prot,
        flags,
        Some(&file),
        0,
    )?;
    Ok(area)
}

/// Checks reports of an area that processes fork, write, split and drop meanwhile.
fn agree_while_moving(area: Area) -> Result<()> {
    const PAGES: u64 = self::PAGES as u64;
    area.pages(0, PAGES / 2).touch();
    for page in PAGES / 2..PAGES {
        let _ = sys::peek(area.pages(page, 1).start as usize);
    }
    let us = sys::getpid();
    let here = move |round| {
        area.pages(round % PAGES, 1).touch();
        let part = area.pages(round * 7 % PAGES, 1);
        sys::advise(part.start as usize, PAGE, libc::MADV_DONTNEED)?;
        // Split, and merged again.
        for prot in [libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE] {
            sys::protect(part.start as usize, PAGE, prot)?;
        }
        Ok(())
    };
    let there = move |round| {
        for page in (round % 5..PAGES).step_by(5) {
            area.pages(page, 1).touch();
        }
    };
    let churner = |which| Child::churner(which, here, there);
    let mut churners = (1..4).map(churner).collect::<Result<Vec<_>>>()?;
    let asked: Vec<Pid> = churners.iter().map(|child| child.pid).chain([us]).collect();
    Holds::forget()?;
    let (mut reports, mut moved, mut told) = (0u64, 0u64, 0u64);
    let end = Instant::now() + moving();
    while Instant::now() < end || (reports < 50 && Instant::now() < end + patience(20)) {
        for pid in &asked {
            let report = of(*pid, area)?;
            reports += 1;
            for page in &report.pages {
                told += 1;
                moved += u64::from(page.moved);
                if !page.walked {
                    check!(
                        !matches!(page.kind, PageKind::Anon | PageKind::File) || page.moved,
                        "a page not walked, nor moved: {page:?}"
                    );
                    continue;
                }
                check!(
                    page.found == page.mapcount || page.moved,
                    "found {} of {}, and not moved: {page:#?}",
                    page.found,
                    page.mapcount
                );
                check_eq!(page.found, page.mappers.len() as u64, "mappers told");
                let places: BTreeSet<_> = page.mappers.iter().map(|m| (m.mm, m.at)).collect();
                check_eq!(places.len(), page.mappers.len(), "mappers told twice");
                check!(
                    page.visited >= page.found,
                    "fewer visited than found: {page:?}"
                );
                check!(
                    page.moved || page.mappers.iter().any(|m| m.relation == Self_),
                    "not mapped by the one asked for: {page:#?}"
                );
            }
        }
    }
    for churner in &mut churners {
        churner.kill()?;
    }
    crate::harness::say(format_args!(
        "{reports} reports of {told} pages, {moved} of them moved; {}",
        Holds::now()?
    ));
    check!(reports >= 50, "only {reports} reports");
    check!(moved < told / 2, "{moved} of {told} pages moved");
    Ok(())
}

fn two_hundred_children_of_a_thousand_pages() -> Result<()> {
    let children = scale(200, 40);
    let pages = scale(1000, 200) as u64;
    let area = Area::map(pages as usize)?;
    area.touch();
    let us = sys::getpid();
    let mut pids = BTreeSet::from([us]);
    let mut kept = Vec::new();
    for _ in 0..children {
        let child = Child::idle()?;
        pids.insert(child.pid);
        kept.push(child);
    }
    let everyone = pids.len() as u64;
    let start = Instant::now();
    let report = of(us, area)?;
    let seconds = start.elapsed().as_secs_f64();
    crate::harness::say(format_args!(
        "{} mappers in {seconds:.2} s",
        report.summary.mappers
    ));
    check_eq!(report.summary.pages, pages, "pages");
    check_eq!(report.summary.mappers, pages * everyone, "mappers");
    check_eq!(
        (report.summary.moved, report.summary.cut),
        (0, 0),
        "moved, cut"
    );
    for page in &report.pages {
        check_eq!(
            (page.mapcount, page.found, page.visited),
            (everyone, everyone, everyone),
            "mapcount, found, visited of {:x}",
            page.address.0
        );
        let found: BTreeSet<_> = page.mappers.iter().map(|m| m.pid as Pid).collect();
        check!(found == pids, "other pids: {found:?}");
        check!(
            page.mappers.iter().all(|m| m.at == page.address),
            "elsewhere: {page:?}"
        );
    }
    let start = Instant::now();
    let counts = crate::report::cow(us)?;
    let seconds = start.elapsed().as_secs_f64();
    crate::harness::say(format_args!("cow in {seconds:.2} s"));
    let record = counts.vma_at(area.start).context("no cow record")?;
    check_eq!(
        (record.pages.anon, record.pages.shared, record.pages.own),
        (pages, pages, pages),
        "anon, shared, own"
    );
    check_eq!(record.shares.len() as u64, everyone - 1, "shares");
    for share in &record.shares {
        check_eq!(share.pages, pages, "pages of {share:?}");
        check_eq!(share.relation, Descendant, "relation of {share:?}");
        check!(pids.contains(&(share.pid as Pid)), "a stranger: {share:?}");
    }
    Ok(())
}

fn file_of_two_hundred_processes() -> Result<()> {
    let others = scale(200, 40);
    let area = map_file(libc::MAP_SHARED)?;
    area.touch();
    let us = sys::getpid();
    let mut pids = BTreeSet::from([us]);
    let mut kept = Vec::new();
    for _ in 0..others {
        let mut child = Child::spawn(|link| {
            area.touch();
            link.send("touched")?;
            link.wait().map(drop)
        })?;
        child.link.recv()?;
        pids.insert(child.pid);
        kept.push(child);
    }
    let everyone = pids.len() as u64;
    Holds::forget()?;
    let report = of(us, area)?;
    crate::harness::say(format_args!(
        "{} mappers; {}",
        report.summary.mappers,
        Holds::now()?
    ));
    check_eq!(report.summary.pages, PAGES as u64, "pages");
    check_eq!(
        report.summary.mappers,
        PAGES as u64 * everyone,
        "mappers of all pages"
    );
    for page in &report.pages {
        check_eq!(
            (page.mapcount, page.found, page.visited, page.moved),
            (everyone, everyone, everyone, false),
            "mapcount, found, visited, moved of {:x}",
            page.address.0
        );
        let found: BTreeSet<_> = page.mappers.iter().map(|m| m.pid as Pid).collect();
        check!(found == pids, "other pids: {found:?}");
    }
    Ok(())
}
