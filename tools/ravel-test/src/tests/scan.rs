// SPDX-License-Identifier: GPL-2.0
//! Reports page and cow of whole processes against PAGEMAP_SCAN, which walks page tables by code of its own.

use std::collections::BTreeMap;
use std::fs::File;

use anyhow::{Context, Result, bail};
use ravel_records::{CowReport, PageKind, PageReport};

use super::cow::is_special;
use super::page::{files::FarFile, kinds::Swap};
use super::peers::wait_for;
use crate::maps;
use crate::pagemap;
use crate::process::{Area, HUGE, Puppet, Stage};
use crate::report::{cow, page};
use crate::sys::{self, PAGE, Pid};
use crate::{check, check_eq, tests};

tests!("scan":
    pages_of_every_shape needs HugePages,
    whole_family_of_a_program,
);

/// `PAGE_IS_*`, from `linux/fs.h`.
mod is {
    pub const FILE: u64 = 1 << 2;
    pub const PRESENT: u64 = 1 << 3;
    pub const SWAPPED: u64 = 1 << 4;
    pub const ZERO: u64 = 1 << 5;
    pub const HUGE: u64 = 1 << 6;
    pub const GUARD: u64 = 1 << 8;
    pub const ANY: u64 = FILE | PRESENT | SWAPPED | ZERO | HUGE | GUARD;
}

/// The categories of each page that is in any, by address.
type Pages = BTreeMap<u64, u64>;

fn scanned(pid: Pid, start: u64, end: u64) -> Result<Pages> {
    let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
    let mut pages = Pages::new();
    let mut next = start;
    while next < end {
        let (regions, stopped) = sys::pagemap_scan(&pagemap, next, end, is::ANY, 100)?;
        check!(stopped > next, "PAGEMAP_SCAN stands still at {next:#x}");
        next = stopped;
        for region in regions {
            for address in (region.start..region.end).step_by(PAGE) {
                pages.insert(address, region.categories);
            }
        }
    }
    Ok(pages)
}

/// What the report's records come to in these categories.
fn reported(report: &PageReport) -> Result<Pages> {
    let mut pages = Pages::new();
    for page in &report.pages {
        let kind = match page.kind {
            PageKind::Anon | PageKind::Ksm => is::PRESENT,
            PageKind::File => is::PRESENT | is::FILE,
            PageKind::Zero => is::PRESENT | is::ZERO,
            PageKind::Swap => is::SWAPPED,
            PageKind::Marker => is::SWAPPED | is::GUARD,
            _ => bail!("no such page was made: {page:?}"),
        };
        let huge = if page.huge { is::HUGE } else { 0 };
        pages.insert(page.address.0, kind | huge);
    }
    Ok(pages)
}

/// anon with ksm, huge, file, zero, swap, other.
type Sums = [u64; 6];

fn sums_of(pages: &Pages) -> Sums {
    let count = |all: u64, none: u64| {
        let fits = |of: &&u64| **of & all == all && **of & none == 0;
        pages.values().filter(fits).count() as u64
    };
    [
        count(is::PRESENT, is::FILE | is::ZERO),
        count(is::PRESENT | is::HUGE, is::FILE | is::ZERO),
        count(is::FILE, 0),
        count(is::ZERO, 0),
        count(is::SWAPPED, is::GUARD),
        count(is::GUARD, 0),
    ]
}

fn sums_told(report: &CowReport, start: u64) -> Result<Sums> {
    let vma = report.vma_at(start).context("no cow record")?;
    let pages = &vma.pages;
    Ok([
        pages.anon + pages.ksm,
        pages.huge,
        pages.file,
        pages.zero,
        pages.swap,
        pages.other,
    ])
}

/// Compares both reports on a process' private memory with the scan: how many pages that were.
fn check_process(pid: Pid) -> Result<usize> {
    let report = cow(pid)?;
    let mut all = 0;
    for map in maps::of(pid)? {
        if map.perms.ends_with('s') || is_special(&map.name) {
            continue;
        }
        let want = scanned(pid, map.start, map.end)?;
        let found = reported(&page(pid, map.start, map.end)?)?;
        check_eq!(found, want, "pages of {map:x?}");
        check_eq!(
            sums_told(&report, map.start)?,
            sums_of(&want),
            "sums of {map:x?}"
        );
        all += want.len();
    }
    Ok(all)
}

/// The same, asked anew where something moved meanwhile.
fn agrees(puppet: &Puppet) -> Result<usize> {
    puppet.settle()?;
    let mut last = None;
    for _ in 0..5 {
        match check_process(puppet.pid) {
            Ok(pages) => return Ok(pages),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error.context(format!("pid {}", puppet.pid))),
        None => bail!("never asked"),
    }
}

/// The categories of an area's pages, from the first on; 0 for none.
fn shape(pid: Pid, area: Area) -> Result<Vec<u64>> {
    let pages = scanned(pid, area.start, area.end())?;
    let addresses = (area.start..area.end()).step_by(PAGE);
    Ok(addresses
        .map(|address| pages.get(&address).copied().unwrap_or(0))
        .collect())
}

fn pages_of_every_shape() -> Result<()> {
    const GUARD_INSTALL: i32 = 102;
    let _swap = Swap::on()?;
    let file = FarFile::new(6)?;
    let mut parent = Stage::new(2)?.start()?;
    parent.exec()?;

    let area = parent.map(40)?;
    parent.advise(area, libc::MADV_NOHUGEPAGE)?;
    parent.write(area.pages(0, 16))?;
    parent.read(area.pages(16, 8))?;
    parent.advise(area.pages(22, 4), GUARD_INSTALL)?;
    let out = area.pages(8, 8);
    wait_for("swapping out", || {
        parent.advise(out, libc::MADV_PAGEOUT)?;
        let entries = pagemap::entries(parent.pid, out.start, out.end())?;
        Ok(entries.iter().all(|entry| entry.swapped()))
    })?;
    let far = parent.map_file(&file.0, 6, file.1 as usize)?;
    // No page is read that was not asked for.
    parent.advise(far, libc::MADV_RANDOM)?;
    parent.read(far.pages(0, 4))?;
    parent.write(far.pages(3, 2))?;
    let huge = parent.map_aligned(3 * HUGE / PAGE, 0)?;
    parent.advise(huge, libc::MADV_HUGEPAGE)?;
    parent.write(huge.pages(0, 1024))?;
    parent.read(huge.pages(1024, 512))?;
    // The second is split: no pmd maps it any more.
    parent.advise(huge.pages(600, 2), libc::MADV_DONTNEED)?;

    // That is what was meant, says the scan alone.
    let written = is::PRESENT;
    let want = [
        (written, 8),
        (is::SWAPPED, 8),
        (is::PRESENT | is::ZERO, 6),
        (is::SWAPPED | is::GUARD, 4),
        (0, 14),
    ];
    let want: Vec<u64> = want
        .into_iter()
        .flat_map(|(of, count)| std::iter::repeat_n(of, count))
        .collect();
    check_eq!(shape(parent.pid, area)?, want, "the area");
    let read = is::PRESENT | is::FILE;
    check_eq!(
        shape(parent.pid, far)?,
        [read, read, read, written, written, 0],
        "the file"
    );
    let of_huge = sums_of(&scanned(parent.pid, huge.start, huge.end())?);
    check_eq!(of_huge, [1022, 512, 0, 512, 0, 0], "the huge pages");

    let pages = agrees(&parent)?;
    check!(pages > 1500, "only {pages} pages");
    let mut child = parent.fork()?;
    child.write(area.pages(0, 4))?;
    child.write(far.pages(3, 1))?;
    child.write(huge.pages(5, 1))?;
    child.read(out.pages(2, 2))?;
    agrees(&child)?;
    agrees(&parent)?;
    // Who has read it in has a page where the other has the slot.
    let (in_child, in_parent) = (shape(child.pid, out)?, shape(parent.pid, out)?);
    check_eq!(
        (in_child[2], in_parent[2]),
        (is::PRESENT, is::SWAPPED),
        "a page of both"
    );
    let report = cow(child.pid)?;
    let record = report.vma_at(far.start).context("no cow record")?;
    // One was copied by the child, one by the parent before.
    check_eq!(
        (record.pages.own, record.pages.inherited),
        (1, 1),
        "own, inherited, of the file"
    );
    Ok(())
}

fn whole_family_of_a_program() -> Result<()> {
    let mut parent = Stage::new(3)?.start()?;
    parent.exec()?;
    let area = parent.map_written(1, 700)?[0];
    let mut one = parent.fork()?;
    one.write(area.pages(100, 200))?;
    one.protect(area.pages(150, 20), libc::PROT_READ)?;
    let mut two = one.fork()?;
    two.unmap(area.pages(300, 100))?;
    let there = two.remap_keeping(area.pages(400, 100))?;
    two.write(area.pages(400, 10))?;
    two.write(there.pages(0, 5))?;
    let mut all = 0;
    for puppet in [&parent, &one, &two] {
        let pages = agrees(puppet)?;
        check!(pages > 600, "only {pages} pages of {}", puppet.pid);
        all += pages;
    }
    crate::harness::say(format_args!("{all} pages of three processes compared"));
    Ok(())
}
