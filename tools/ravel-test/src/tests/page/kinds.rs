// SPDX-License-Identifier: GPL-2.0
//! What can stand at an address beside a page of four KiB: huge pages, merged ones, swap, marks.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ravel_records::{PageKind, Relation};

use super::{agreed, at, check_mappers, of, puppet};
use crate::pagemap;
use crate::process::{Area, HUGE, Puppet, Stage};
use crate::report::page;
use crate::sys::PAGE;
use crate::tests::peers::wait_for;
use crate::{check, check_eq, tests};

use Relation::{Descendant, Self_};

tests!("page":
    merged_by_ksm,
    huge_page_whole_and_split needs HugePages,
    huge_zero_page needs HugePages,
    swapped_out_and_in,
    guard_region_is_a_marker,
    hugetlbfs_is_counted_only,
);

const GUARD_INSTALL: i32 = 102;
const GUARD_REMOVE: i32 = 103;

/// ksmd at work, until this is dropped.
struct Ksm;

impl Ksm {
    const DIR: &str = "/sys/kernel/mm/ksm";

    fn start() -> Result<Self> {
        ensure!(Path::new(Self::DIR).exists(), "this kernel has no KSM");
        let set = |name: &str, value: &str| fs::write(format!("{}/{name}", Self::DIR), value);
        set("sleep_millisecs", "0")?;
        set("pages_to_scan", "10000")?;
        set("run", "1")?;
        Ok(Self)
    }
}

impl Drop for Ksm {
    fn drop(&mut self) {
        for (name, value) in [("run", "2"), ("run", "0"), ("sleep_millisecs", "20")] {
            let _ = fs::write(format!("{}/{name}", Self::DIR), value);
        }
    }
}

fn merged_by_ksm() -> Result<()> {
    let mut one = Stage::new(1)?.start()?;
    let mut two = Stage::new(1)?.start()?;
    let mut areas = Vec::new();
    for puppet in [&mut one, &mut two] {
        let area = puppet.map(4)?;
        puppet.write(area)?;
        puppet.advise(area, libc::MADV_MERGEABLE)?;
        areas.push(area);
    }
    let ksm = Ksm::start()?;
    wait_for("KSM's merging", || {
        let merged = |pid, area| -> Result<bool> {
            let report = of(pid, area)?;
            Ok((0..4).all(|n| {
                let page = report.page_at(area.pages(n, 1).start);
                page.is_some_and(|page| page.kind == PageKind::Ksm)
            }))
        };
        Ok(merged(one.pid, areas[0])? && merged(two.pid, areas[1])?)
    })?;
    let (of_one, of_two) = (agreed(one.pid, areas[0])?, agreed(two.pid, areas[1])?);
    let mut frames = BTreeSet::new();
    for (report, area) in [(&of_one, areas[0]), (&of_two, areas[1])] {
        for number in 0..4 {
            let page = at(report, area, number)?;
            check_eq!(page.mapcount, 8, "mapcount of {page:?}");
            check!(!page.walked && !page.moved && !page.writable, "{page:?}");
            frames.insert(page.pfn);
        }
    }
    check_eq!(frames.len(), 1, "page frames of eight equal pages");
    let counts = crate::report::cow(one.pid)?;
    let record = counts.vma_at(areas[0].start).context("no cow record")?;
    check_eq!((record.pages.ksm, record.pages.anon), (4, 0), "ksm, anon");
    one.write(areas[0].pages(1, 1))?;
    drop(ksm);
    let report = agreed(one.pid, areas[0])?;
    check_eq!(
        at(&report, areas[0], 1)?.kind,
        PageKind::Anon,
        "kind, unmerged"
    );
    Ok(())
}

/// An area of one huge page, filled.
fn huge_area(puppet: &mut Puppet) -> Result<Area> {
    let area = puppet.map_aligned(HUGE / PAGE, 0)?;
    puppet.advise(area, libc::MADV_HUGEPAGE)?;
    puppet.write(area)?;
    let smaps = pagemap::smaps(puppet.pid)?;
    let huge = smaps.get(&area.start).and_then(|m| m.get("AnonHugePages"));
    check_eq!(huge.copied(), Some(2048), "AnonHugePages, in KiB");
    Ok(area)
}

fn huge_page_whole_and_split() -> Result<()> {
    let mut parent = Stage::new(2)?.start()?;
    let area = huge_area(&mut parent)?;
    let p = parent.pid;
    let report = agreed(p, area)?;
    check_eq!(report.summary.pages, 512, "pages");
    for number in 0..512 {
        check_mappers(&report, area, number, 1, &[(p, Self_)])?;
        let page = at(&report, area, number)?;
        check!(page.huge && page.exclusive, "{page:?}");
        check_eq!((page.order, page.place), (9, number), "order, place");
        check_eq!(page.folio_mapcount, 1, "folio_mapcount");
    }

    let mut child = parent.fork()?;
    let c = child.pid;
    let report = agreed(p, area)?;
    for number in 0..512 {
        let want = [(p, Self_), (c, Descendant)];
        check_mappers(&report, area, number, 2, &want)?;
        check!(at(&report, area, number)?.huge, "split by the fork");
    }

    // The child's pmd is split to copy one page; the parent's is not.
    child.write(area.pages(5, 1))?;
    let report = agreed(p, area)?;
    for number in 0..512 {
        let page = at(&report, area, number)?;
        check!(page.huge, "the parent's was split: {page:?}");
        let both = [(p, Self_), (c, Descendant)];
        let want = &both[..if number == 5 { 1 } else { 2 }];
        check_mappers(&report, area, number, 2, want)?;
        check_eq!(page.folio_mapcount, 512, "folio_mapcount");
    }
    let report = agreed(c, area)?;
    check_mappers(&report, area, 5, 1, &[(c, Self_)])?;
    let page = at(&report, area, 6)?;
    check_eq!(
        (page.huge, page.order, page.place),
        (false, 9, 6),
        "huge, order, place of the child's page 6"
    );
    check_eq!(at(&report, area, 5)?.order, 0, "order of the copy");

    // Then the parent's, by protecting some, and a part of it goes.
    parent.protect(area.pages(100, 10), libc::PROT_READ)?;
    parent.call(&format!(
        "advise {} {} {}",
        area.pages(200, 8).start,
        8 * PAGE,
        libc::MADV_DONTNEED
    ))?;
    let report = agreed(p, area)?;
    check_eq!(
        (report.summary.pages, report.summary.empty),
        (504, 8),
        "pages"
    );
    check_mappers(&report, area, 105, 2, &[(p, Self_), (c, Descendant)])?;
    check!(!at(&report, area, 105)?.huge, "still huge");
    let report = agreed(c, area)?;
    // Two VMAs of the parent cover other pages: this one has a candidate there as before.
    check_mappers(&report, area, 203, 2, &[(c, Self_)])
}

fn huge_zero_page() -> Result<()> {
    let mut puppet = puppet()?;
    let area = puppet.map_aligned(HUGE / PAGE, 0)?;
    puppet.advise(area, libc::MADV_HUGEPAGE)?;
    puppet.read(area.pages(7, 1))?;
    let report = agreed(puppet.pid, area)?;
    check_eq!(report.summary.pages, 512, "pages");
    for page in &report.pages {
        check_eq!(page.kind, PageKind::Zero, "kind of {page:?}");
        check!(page.huge && !page.walked, "{page:?}");
    }
    Ok(())
}

/// A file to swap to, until this is dropped.
pub(in crate::tests) struct Swap;

/// Where it lies; not in memory, where it could not be swapped to.
const SWAP: &str = "/var/tmp/ravel-swap";

fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(args)
        .output()
        .context(program.to_owned())?;
    ensure!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

impl Swap {
    /// Switches it on.
    pub(in crate::tests) fn on() -> Result<Self> {
        let swap = Self;
        // A test that was killed has left it on.
        if Path::new(SWAP).exists() {
            let _ = run("swapoff", &[SWAP]);
        }
        fs::write(SWAP, vec![0; 64 << 20]).context(SWAP)?;
        fs::set_permissions(SWAP, Permissions::from_mode(0o600))?;
        run("mkswap", &[SWAP])?;
        run("swapon", &[SWAP])?;
        Ok(swap)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let _ = run("swapoff", &[SWAP]);
        let _ = fs::remove_file(SWAP);
    }
}

fn swapped_out_and_in() -> Result<()> {
    let _swap = Swap::on()?;
    let mut parent = Stage::new(2)?.start()?;
    let area = parent.map(16)?;
    parent.write(area)?;
    let out = area.pages(4, 8);
    wait_for("swapping out", || {
        parent.advise(out, libc::MADV_PAGEOUT)?;
        let entries = pagemap::entries(parent.pid, out.start, out.end())?;
        Ok(entries.iter().all(|entry| entry.swapped()))
    })?;
    let report = agreed(parent.pid, area)?;
    for number in 0..16 {
        let page = at(&report, area, number)?;
        let swapped = (4..12).contains(&number);
        check_eq!(page.kind == PageKind::Swap, swapped, "swapped, of {page:?}");
        check_eq!(page.walked, !swapped, "walked, of {page:?}");
        check_eq!(page.pfn == 0, swapped, "no page frame, of {page:?}");
    }
    let counts = crate::report::cow(parent.pid)?;
    let record = counts.vma_at(area.start).context("no cow record")?;
    check_eq!((record.pages.swap, record.pages.anon), (8, 8), "swap, anon");
    // Both have the slot; who reads it has the page.
    let mut child = parent.fork()?;
    child.read(out.pages(0, 1))?;
    let report = agreed(child.pid, area)?;
    let page = at(&report, area, 4)?;
    check_eq!(page.kind, PageKind::Anon, "kind, read in again");
    check_eq!((page.mapcount, page.found), (1, 1), "mapcount, found");
    let report = agreed(parent.pid, area)?;
    check_eq!(
        at(&report, area, 4)?.kind,
        PageKind::Swap,
        "kind in the parent, which did not read"
    );
    Ok(())
}

fn guard_region_is_a_marker() -> Result<()> {
    let mut puppet = puppet()?;
    let area = puppet.map(4)?;
    puppet.write(area)?;
    puppet.advise(area.pages(1, 2), GUARD_INSTALL)?;
    let report = agreed(puppet.pid, area)?;
    let entries = pagemap::entries(puppet.pid, area.start, area.end())?;
    for number in 0..4 {
        let page = at(&report, area, number)?;
        let guard = entries[number as usize].guard();
        check_eq!(guard, number == 1 || number == 2, "a guard, by pagemap");
        check_eq!(page.kind == PageKind::Marker, guard, "a guard, of {page:?}");
        check_eq!(page.walked, !guard, "walked, of {page:?}");
    }
    let counts = crate::report::cow(puppet.pid)?;
    let record = counts.vma_at(area.start).context("no cow record")?;
    check_eq!(
        (record.pages.other, record.pages.anon),
        (2, 2),
        "other, anon"
    );
    puppet.advise(area.pages(1, 2), GUARD_REMOVE)?;
    check_eq!(agreed(puppet.pid, area)?.summary.empty, 2, "empty");
    Ok(())
}

/// Huge pages kept for hugetlbfs, until this is dropped.
struct Kept;

impl Kept {
    const FILE: &str = "/proc/sys/vm/nr_hugepages";

    fn new(pages: &str) -> Result<Self> {
        fs::write(Self::FILE, pages)?;
        let kept = Self;
        check_eq!(
            fs::read_to_string(Self::FILE)?.trim(),
            pages,
            "nr_hugepages"
        );
        Ok(kept)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = fs::write(Self::FILE, "0");
    }
}

fn hugetlbfs_is_counted_only() -> Result<()> {
    let _kept = Kept::new("2")?;
    let mut puppet = puppet()?;
    let area = puppet.map_aligned(HUGE / PAGE, libc::MAP_HUGETLB)?;
    puppet.write(area)?;
    let report = of(puppet.pid, area)?;
    check_eq!(
        (report.summary.pages, report.summary.hugetlb),
        (0, 512),
        "pages, hugetlb"
    );
    let wider = page(puppet.pid, area.start - 2 * PAGE as u64, area.end() + 1)?;
    check_eq!(wider.summary.hugetlb, 512, "hugetlb, of a wider range");
    let counts = crate::report::cow(puppet.pid)?;
    check_eq!(counts.summary.hugetlb, 1, "hugetlb mappings of cow");
    check!(counts.vma_at(area.start).is_none(), "a cow record of it");
    puppet.exit()
}
