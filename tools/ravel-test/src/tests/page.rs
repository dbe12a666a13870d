// SPDX-License-Identifier: GPL-2.0
//! Report page: what stands at an address, and everyone who maps it, against /proc's own view.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use ravel_records::{MemberState, Page, PageKind, PageReport, Relation};

use super::peers::wait_for;
use crate::module::{self, query, report_text};
use crate::pagemap::{self, Frames, kpf};
use crate::process::{Area, Child, HUGE, Puppet, Stage, die_with};
use crate::report::{anon, page, parse_page, vma};
use crate::sys::{self, Forked, PAGE, Pid};
use crate::tier::{patience, scale};
use crate::{check, check_eq, tests};

use Relation::{Ancestor, Descendant, Self_, Unrelated};

tests!("page":
    written_read_and_untouched_pages,
    partial_writes_of_parent_and_children,
    grandchild_maps_what_was_before_each_fork,
    moved_area_is_found_where_it_went,
    moved_area_that_keeps_its_mapping,
    split_area_has_one_candidate_more,
    private_file_page_is_the_files_until_it_is_copied,
    shared_memory_is_not_walked,
    merged_by_ksm,
    huge_page_whole_and_split,
    huge_zero_page,
    swapped_out_and_in,
    without_permission_it_still_stands_there,
    guard_region_is_a_marker,
    hugetlbfs_is_counted_only,
    ranges_of_any_ends,
    bad_requests_are_einval,
    no_such_process_is_esrch,
    reading_marks_nothing_and_faults_nothing,
    pages_of_a_program_agree_with_proc,
    while_everything_moves [120 s],
    two_hundred_children_of_a_thousand_pages [240 s],
    cli_shows_pages,
);

const GUARD_INSTALL: i32 = 102;
const GUARD_REMOVE: i32 = 103;

fn of(pid: Pid, area: Area) -> Result<PageReport> {
    page(pid, area.start, area.end())
}

fn at(report: &PageReport, area: Area, number: u64) -> Result<&Page> {
    let address = area.pages(number, 1).start;
    let page = report.page_at(address);
    page.with_context(|| format!("no record of page {number}, {address:#x}: {report:#?}"))
}

/// Who maps a page, where, and what that process is: sorted. All must be live, and none of it moved.
fn mappers(page: &Page) -> Result<Vec<(Pid, u64, Relation)>> {
    check!(page.walked && !page.moved, "not walked, or moved: {page:?}");
    check_eq!(page.found, page.mapcount, "found, of {page:?}");
    check_eq!(page.found, page.mappers.len() as u64, "mappers of {page:?}");
    let mut found = Vec::new();
    for mapper in &page.mappers {
        check_eq!(mapper.state, MemberState::Live, "state of {mapper:?}");
        found.push((mapper.pid as Pid, mapper.at.0, mapper.relation.clone()));
    }
    found.sort();
    Ok(found)
}

/// Checks who maps a page of an area: these, all at the same address, among so many candidates.
fn check_mappers(
    report: &PageReport,
    area: Area,
    number: u64,
    visited: u64,
    want: &[(Pid, Relation)],
) -> Result<()> {
    let page = at(report, area, number)?;
    let mut want: Vec<_> = want
        .iter()
        .map(|(pid, relation)| (*pid, page.address.0, relation.clone()))
        .collect();
    want.sort();
    check_eq!(mappers(page)?, want, "mappers of page {number}");
    check_eq!(page.visited, visited, "visited, of page {number}: {page:?}");
    Ok(())
}

/// What /proc says differently from the report; none where all is the same.
fn difference(
    report: &PageReport,
    pid: Pid,
    area: Area,
    frames: &Frames,
) -> Result<Option<String>> {
    let entries = pagemap::entries(pid, area.start, area.end())?;
    let mut empty = 0;
    for (number, entry) in entries.iter().enumerate() {
        let address = area.start + (number * PAGE) as u64;
        let Some(page) = report.page_at(address) else {
            empty += 1;
            if !entry.empty() {
                return Ok(Some(format!("no record of {address:#x}: {entry:?}")));
            }
            continue;
        };
        let (mut mapcount, mut flags) = (0, 0);
        if entry.present() {
            mapcount = frames.mapcount(entry.pfn())?;
            flags = frames.flags(entry.pfn())?;
        }
        let kind = match () {
            () if entry.guard() => PageKind::Marker,
            () if entry.swapped() => PageKind::Swap,
            () if flags & kpf::ZERO != 0 => PageKind::Zero,
            () if flags & kpf::KSM != 0 => PageKind::Ksm,
            () if flags & kpf::ANON != 0 => PageKind::Anon,
            () => PageKind::File,
        };
        let has = |name: &str| page.flags().any(|flag| flag == name);
        let zero = kind == PageKind::Zero;
        let ours = (
            page.kind.clone(),
            page.pfn,
            page.swap_type.zip(page.swap_offset),
            zero || page.mapcount == mapcount,
            // Of what a pmd maps, pagemap tells only whether the first page is.
            zero || page.huge || !entry.present() || (page.mapcount == 1) == entry.exclusive(),
            zero || (page.order > 0) == (flags & kpf::COMPOUND != 0),
            zero || has("uptodate") == (flags & kpf::UPTODATE != 0),
            zero || has("dirty") == (flags & kpf::DIRTY != 0),
            zero || has("swapbacked") == (flags & kpf::SWAPBACKED != 0),
        );
        let pfn = if entry.present() { entry.pfn() } else { 0 };
        let swap = (kind == PageKind::Swap).then(|| entry.swap());
        let theirs = (kind, pfn, swap, true, true, true, true, true, true);
        if ours != theirs {
            return Ok(Some(format!(
                "{ours:?}, wanted {theirs:?}: {page:?}, {entry:?}, mapcount {mapcount}, {flags:#x}"
            )));
        }
    }
    check_eq!(
        report.summary.empty + report.summary.unmapped,
        empty,
        "empty, in the summary"
    );
    Ok(None)
}

/// Checks a report of an area against pagemap, kpagecount and kpageflags, asking anew where something
/// moved between the two.
fn agreed(pid: Pid, area: Area) -> Result<PageReport> {
    let frames = Frames::open()?;
    let mut last = String::new();
    for _ in 0..20 {
        let report = of(pid, area)?;
        match difference(&report, pid, area, &frames)? {
            None => return Ok(report),
            Some(what) => last = what,
        }
    }
    bail!("/proc says something else: {last}")
}

fn puppet() -> Result<Puppet> {
    Stage::new(1)?.start()
}

fn written_read_and_untouched_pages() -> Result<()> {
    let mut puppet = puppet()?;
    let area = puppet.map(4)?;
    puppet.write(area.pages(0, 2))?;
    puppet.read(area.pages(3, 1))?;
    let report = agreed(puppet.pid, area)?;
    check_eq!(report.header.pid as Pid, puppet.pid, "pid");
    let counts = &report.summary;
    check_eq!(
        (counts.pages, counts.empty, counts.unmapped, counts.mappers),
        (3, 1, 0, 2),
        "pages, empty, unmapped, mappers"
    );
    let chained = anon(puppet.pid)?;
    let record = vma(&chained, area)?;
    for number in 0..2 {
        check_mappers(&report, area, number, 1, &[(puppet.pid, Self_)])?;
        let page = at(&report, area, number)?;
        check_eq!(page.kind, PageKind::Anon, "kind");
        check_eq!(page.index.0, page.address.0 >> 12, "index");
        check_eq!(page.mapping, record.anon_vma, "mapping");
        check_eq!((page.order, page.place, page.huge), (0, 0, false), "folio");
        check!(
            page.exclusive && page.writable && page.dirty && page.accessed,
            "bits of {page:?}"
        );
        let mapper = &page.mappers[0];
        check!(
            mapper.writable && mapper.dirty && mapper.accessed,
            "bits of {mapper:?}"
        );
    }
    let zero = at(&report, area, 3)?;
    check_eq!(zero.kind, PageKind::Zero, "kind of what was only read");
    check!(!zero.walked && !zero.writable, "{zero:?}");
    Ok(())
}

fn partial_writes_of_parent_and_children() -> Result<()> {
    let mut parent = Stage::new(3)?.start()?;
    let area = parent.map(4)?;
    parent.write(area)?;
    let (mut one, mut two) = (parent.fork()?, parent.fork()?);
    one.write(area.pages(0, 1))?;
    two.write(area.pages(1, 1))?;
    parent.write(area.pages(3, 1))?;
    let (p, a, b) = (parent.pid, one.pid, two.pid);

    let report = agreed(p, area)?;
    check_mappers(&report, area, 0, 3, &[(p, Self_), (b, Descendant)])?;
    check_mappers(&report, area, 1, 3, &[(p, Self_), (a, Descendant)])?;
    let all = [(p, Self_), (a, Descendant), (b, Descendant)];
    check_mappers(&report, area, 2, 3, &all)?;
    // The parent's new page is in its own anon_vma, the root of all.
    check_mappers(&report, area, 3, 3, &[(p, Self_)])?;
    check!(at(&report, area, 3)?.exclusive, "the parent's copy");
    check!(!at(&report, area, 2)?.exclusive, "what three map");

    let report = agreed(a, area)?;
    check_mappers(&report, area, 0, 1, &[(a, Self_)])?;
    check_mappers(&report, area, 1, 3, &[(p, Ancestor), (a, Self_)])?;
    let all = [(p, Ancestor), (a, Self_), (b, Unrelated)];
    check_mappers(&report, area, 2, 3, &all)?;
    check_mappers(&report, area, 3, 3, &[(a, Self_), (b, Unrelated)])?;
    check!(at(&report, area, 0)?.writable, "the child's copy");
    check!(!at(&report, area, 2)?.writable, "what three map");

    one.exit()?;
    let report = agreed(b, area)?;
    check_mappers(&report, area, 2, 2, &[(p, Ancestor), (b, Self_)])?;
    check_mappers(&report, area, 3, 2, &[(b, Self_)])
}

fn grandchild_maps_what_was_before_each_fork() -> Result<()> {
    let mut parent = Stage::new(3)?.start()?;
    let area = parent.map(3)?;
    parent.write(area)?;
    let mut child = parent.fork()?;
    child.write(area.pages(1, 1))?;
    let mut grandchild = child.fork()?;
    grandchild.write(area.pages(2, 1))?;
    let (p, c, g) = (parent.pid, child.pid, grandchild.pid);
    let report = agreed(g, area)?;
    let all = [(p, Ancestor), (c, Ancestor), (g, Self_)];
    check_mappers(&report, area, 0, 3, &all)?;
    check_mappers(&report, area, 1, 2, &[(c, Ancestor), (g, Self_)])?;
    check_mappers(&report, area, 2, 1, &[(g, Self_)])?;
    let report = agreed(p, area)?;
    check_mappers(&report, area, 1, 3, &[(p, Self_)])?;
    check_mappers(&report, area, 2, 3, &[(p, Self_), (c, Descendant)])
}

fn moved_area_is_found_where_it_went() -> Result<()> {
    let mut parent = Stage::new(2)?.start()?;
    let area = parent.map(3)?;
    parent.write(area)?;
    let mut child = parent.fork()?;
    let there = child.remap(area)?;
    let (p, c) = (parent.pid, child.pid);
    let report = agreed(p, area)?;
    for number in 0..3 {
        let here = area.pages(number, 1).start;
        let moved = there.pages(number, 1).start;
        let page = at(&report, area, number)?;
        let mut want = vec![(p, here, Self_), (c, moved, Descendant)];
        want.sort();
        check_eq!(mappers(page)?, want, "mappers of page {number}");
        check_eq!(page.visited, 2, "visited");
    }
    let report = agreed(c, there)?;
    let page = at(&report, there, 1)?;
    check_eq!(page.index.0, area.pages(1, 1).start >> 12, "index");
    let mut want = vec![
        (p, area.pages(1, 1).start, Ancestor),
        (c, there.pages(1, 1).start, Self_),
    ];
    want.sort();
    check_eq!(mappers(page)?, want, "mappers, from the child");
    let gone = of(c, area)?;
    check_eq!(gone.summary.unmapped, 3, "unmapped where it was");
    Ok(())
}

fn moved_area_that_keeps_its_mapping() -> Result<()> {
    let mut parent = Stage::new(2)?.start()?;
    let area = parent.map(3)?;
    parent.write(area)?;
    let child = parent.fork()?;
    let there = parent.remap_keeping(area)?;
    // Both VMAs have the anon_vma, and the same key: both are candidates, and the old one is empty.
    let report = agreed(parent.pid, there)?;
    for number in 0..3 {
        let page = at(&report, there, number)?;
        let mut want = vec![
            (parent.pid, there.pages(number, 1).start, Self_),
            (child.pid, area.pages(number, 1).start, Descendant),
        ];
        want.sort();
        check_eq!(mappers(page)?, want, "mappers of page {number}");
    }
    let old = agreed(parent.pid, area)?;
    check_eq!(old.summary.empty, 3, "empty where it was");
    parent.write(area.pages(0, 1))?;
    let old = agreed(parent.pid, area)?;
    let want = [(parent.pid, area.start, Self_)];
    check_eq!(
        mappers(at(&old, area, 0)?)?,
        want,
        "mappers of the new page"
    );
    Ok(())
}

fn split_area_has_one_candidate_more() -> Result<()> {
    let mut parent = Stage::new(2)?.start()?;
    let area = parent.map(3)?;
    parent.write(area)?;
    let mut child = parent.fork()?;
    child.protect(area.pages(1, 1), libc::PROT_READ)?;
    // Three VMAs of the child, of which each page is in one.
    let report = agreed(parent.pid, area)?;
    for number in 0..3 {
        let want = [(parent.pid, Self_), (child.pid, Descendant)];
        check_mappers(&report, area, number, 2, &want)?;
    }
    child.unmap(area.pages(1, 1))?;
    let report = agreed(parent.pid, area)?;
    check_mappers(&report, area, 1, 1, &[(parent.pid, Self_)])?;
    check_eq!(
        agreed(child.pid, area)?.summary.unmapped,
        1,
        "unmapped pages of the child"
    );
    Ok(())
}

/// A file of some pages at a far offset.
struct FarFile(PathBuf, u64);

impl FarFile {
    fn new(pages: u64) -> Result<Self> {
        let path = PathBuf::from(format!("/tmp/ravel-page-{}", sys::getpid()));
        let page = 1 << 28;
        File::create(&path)?.set_len((page + pages) * PAGE as u64)?;
        Ok(Self(path, page))
    }
}

impl Drop for FarFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn private_file_page_is_the_files_until_it_is_copied() -> Result<()> {
    let file = FarFile::new(4)?;
    let mut parent = Stage::new(2)?.start()?;
    let area = parent.map_file(&file.0, 4, file.1 as usize)?;
    parent.read(area.pages(0, 2))?;
    parent.write(area.pages(2, 1))?;
    let child = parent.fork()?;
    let report = agreed(parent.pid, area)?;
    let records = anon(parent.pid)?;
    let record = vma(&records, area)?;
    check_eq!(record.pgoff.0, file.1, "pgoff");
    for number in 0..2 {
        let page = at(&report, area, number)?;
        check_eq!(page.kind, PageKind::File, "kind of what was read");
        check_eq!(page.index.0, file.1 + number, "index in the file");
        check!(!page.walked && page.mappers.is_empty(), "{page:?}");
        check!(!page.writable, "{page:?}");
    }
    let copied = at(&report, area, 2)?;
    check_eq!(copied.kind, PageKind::Anon, "kind of what was written");
    check_eq!(
        copied.index.0,
        record.anon_pgoff.0 + 2,
        "index in the anon_vma"
    );
    check!(copied.index.0 != file.1 + 2, "the file's index: {copied:?}");
    check_eq!(copied.mapping, record.anon_vma, "mapping");
    check!(
        copied.mapping != at(&report, area, 0)?.mapping,
        "one mapping"
    );
    let want = [(parent.pid, Self_), (child.pid, Descendant)];
    check_mappers(&report, area, 2, 2, &want)
}

fn shared_memory_is_not_walked() -> Result<()> {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    let start = sys::map(0, 2 * PAGE, prot, flags, None, 0)? as u64;
    let area = Area {
        start,
        len: 2 * PAGE as u64,
    };
    area.touch();
    let child = Child::spawn(|link| {
        area.touch();
        link.send("touched")?;
        link.recv().map(drop)
    });
    let mut child = child?;
    child.link.recv()?;
    let report = agreed(sys::getpid(), area)?;
    for number in 0..2 {
        let page = at(&report, area, number)?;
        check_eq!(page.kind, PageKind::File, "kind");
        check_eq!((page.mapcount, page.walked), (2, false), "mapcount, walked");
        check_eq!(page.index.0, number, "index");
    }
    child.kill()
}

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
    let counts = super::super::report::cow(one.pid)?;
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

/// A swap device in memory, until this is dropped.
struct Swap;

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
    fn on() -> Result<Self> {
        run("modprobe", &["zram"])?;
        let swap = Self;
        fs::write("/sys/block/zram0/disksize", "64M").context("size of zram0")?;
        run("mkswap", &["/dev/zram0"])?;
        run("swapon", &["/dev/zram0"])?;
        Ok(swap)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let _ = run("swapoff", &["/dev/zram0"]);
        let _ = fs::write("/sys/block/zram0/reset", "1");
        let _ = run("modprobe", &["-r", "zram"]);
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

fn without_permission_it_still_stands_there() -> Result<()> {
    let mut puppet = puppet()?;
    let area = puppet.map(2)?;
    puppet.write(area)?;
    puppet.protect(area, libc::PROT_NONE)?;
    let report = agreed(puppet.pid, area)?;
    for number in 0..2 {
        check_mappers(&report, area, number, 1, &[(puppet.pid, Self_)])?;
        let page = at(&report, area, number)?;
        check!(!page.writable && page.dirty, "bits of {page:?}");
    }
    Ok(())
}

fn guard_region_is_a_marker() -> Result<()> {
    let mut puppet = puppet()?;
    let area = puppet.map(4)?;
    puppet.write(area)?;
    puppet.advise(area.pages(1, 2), GUARD_INSTALL)?;
    let report = agreed(puppet.pid, area)?;
    for number in 0..4 {
        let page = at(&report, area, number)?;
        let guard = number == 1 || number == 2;
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

fn ranges_of_any_ends() -> Result<()> {
    let mut puppet = puppet()?;
    // Guards of an area are mapped: what lies behind them may not be.
    let area = puppet.map(6)?;
    puppet.write(area.pages(1, 4))?;
    puppet.unmap(area.pages(3, 1))?;
    let size = PAGE as u64;
    let counts = |start, end| -> Result<_> {
        let report = page(puppet.pid, start, end)?;
        let counts = &report.summary;
        let found: Vec<u64> = report
            .pages
            .iter()
            .map(|page| (page.address.0 - area.start) / size)
            .collect();
        Ok((found, counts.empty, counts.unmapped))
    };
    let (start, end) = (area.start, area.end());
    check_eq!(counts(start, end)?, (vec![1, 2, 4], 2, 1), "all");
    check_eq!(counts(start + 1, end - 1)?, (vec![1, 2, 4], 2, 1), "inside");
    check_eq!(
        counts(start + size - 1, start + size + 1)?,
        (vec![1], 1, 0),
        "a byte of two pages each"
    );
    check_eq!(
        counts(start + 2 * size, start + 2 * size + 1)?,
        (vec![2], 0, 0),
        "one byte"
    );
    check_eq!(
        counts(start + 3 * size, start + 4 * size)?,
        (vec![], 0, 1),
        "unmapped alone"
    );
    check_eq!(counts(start - size, start)?, (vec![], 1, 0), "the guard");
    check_eq!(counts(0, size)?, (vec![], 0, 1), "the first page");
    // Where no end is named, it is one page.
    let request = format!("page {} {:#x}", puppet.pid, start + 2 * size + 77);
    let (errno, answer) = query(request.as_bytes())?;
    check_eq!(errno, 0, "write");
    let one = parse_page(&answer.whole()?)?;
    check_eq!(
        one.pages
            .iter()
            .map(|page| page.address.0)
            .collect::<Vec<_>>(),
        [start + 2 * size],
        "the page of an address"
    );
    // The whole address space, most of it empty, and what no process can have.
    let whole = page(puppet.pid, 0, (1 << 57) - 1)?;
    let summary = &whole.summary;
    check_eq!(
        summary.pages + summary.empty + summary.unmapped + summary.hugetlb,
        1 << 45,
        "pages of the whole address space"
    );
    let written = whole
        .page_at(start + 4 * size)
        .context("not in the whole")?;
    check_eq!(written.kind, PageKind::Anon, "kind, in the whole");
    Ok(())
}

fn bad_requests_are_einval() -> Result<()> {
    let pid = sys::getpid();
    for words in [
        "",
        " ",
        " 1000",
        " 0x",
        " 0x1000 ",
        " 0x1000 0x1000",
        " 0x2000 0x1000",
        " 0x1000 0x2000 0x3000",
        " 0x1000  0x2000",
        " 0x1000 2000",
        " 0xg",
        " 0x-1",
        " -0x1",
        " 0X1000",
        " 0x200000000000000",
        " 0x1000 0x200000000000000",
        " 0x00000000000001000",
        " 0xffffffffffffffff",
        "\t0x1000",
    ] {
        let request = format!("page {pid}{words}");
        let (errno, answer) = query(request.as_bytes())?;
        check_eq!(errno, libc::EINVAL, "errno of the write of {request:?}");
        answer
            .check_error("query", 0, libc::EINVAL)
            .with_context(|| request.clone())?;
    }
    for request in ["page", "page 0 0x1000", "page x 0x1000"] {
        check_eq!(query(request.as_bytes())?.0, libc::EINVAL, "{request:?}");
    }
    // No other report takes addresses, and page has no file.
    for report in module::REPORTS {
        let request = format!("{report} {pid} 0x1000");
        check_eq!(query(request.as_bytes())?.0, libc::EINVAL, "{request:?}");
    }
    let (errno, answer) = query(b"page 2 0x1000")?;
    check!(errno == 0 || errno == libc::EINVAL, "errno {errno}");
    answer.check_error("page", 2, libc::EINVAL)
}

fn no_such_process_is_esrch() -> Result<()> {
    let mut child = Child::idle()?;
    child.make_zombie()?;
    let request = format!("page {} 0x1000", child.pid);
    let (errno, answer) = query(request.as_bytes())?;
    check_eq!(errno, libc::ESRCH, "errno of a zombie");
    answer.check_error("page", child.pid.into(), libc::ESRCH)?;
    child.kill()?;
    let (errno, answer) = query(request.as_bytes())?;
    check_eq!(errno, libc::ESRCH, "errno of nobody");
    answer.check_error("page", child.pid.into(), libc::ESRCH)
}

fn reading_marks_nothing_and_faults_nothing() -> Result<()> {
    let mut parent = Stage::new(2)?.start()?;
    let area = parent.map(64)?;
    parent.write(area.pages(0, 40))?;
    parent.read(area.pages(50, 4))?;
    let child = parent.fork()?;
    parent.write(area.pages(0, 8))?;
    parent.settle()?;
    child.settle()?;
    let pids = [parent.pid, child.pid];
    for pid in pids {
        fs::write(format!("/proc/{pid}/clear_refs"), "1")?;
    }
    let state = || -> Result<Vec<_>> {
        let of = |pid| {
            Ok((
                pagemap::faults_and_rss(pid)?,
                pagemap::entries(pid, area.start, area.end())?,
            ))
        };
        pids.into_iter().map(of).collect()
    };
    let before = state()?;
    for pid in pids {
        for _ in 0..3 {
            let report = agreed(pid, area)?;
            check!(
                // clear_refs passes over the zero page.
                report
                    .pages
                    .iter()
                    .filter(|page| page.kind == PageKind::Anon)
                    .all(|page| !page.accessed),
                "accessed, after clear_refs"
            );
            check!(
                report
                    .pages
                    .iter()
                    .flat_map(|page| &page.mappers)
                    .all(|m| !m.accessed),
                "accessed by a mapper, after clear_refs"
            );
            report_text("cow", pid)?;
            page(pid, 0, 1 << 47)?;
        }
    }
    check_eq!(state()?, before, "faults, RSS and pagemap");
    for pid in pids {
        let smaps = pagemap::smaps(pid)?;
        let referenced = smaps.get(&area.start).and_then(|map| map.get("Referenced"));
        check_eq!(referenced.copied(), Some(0), "Referenced, in KiB");
    }
    Ok(())
}

fn pages_of_a_program_agree_with_proc() -> Result<()> {
    let mut parent = Stage::new(2)?.start()?;
    parent.exec()?;
    let area = parent.map_written(1, 5)?[0];
    let mut child = parent.fork()?;
    child.write(area.pages(2, 1))?;
    parent.settle()?;
    child.settle()?;
    let mut pages = 0;
    for pid in [parent.pid, child.pid] {
        for map in crate::maps::of(pid)? {
            if [&b"[vvar]"[..], b"[vvar_vclock]", b"[vdso]", b"[vsyscall]"].contains(&&map.name[..])
            {
                continue;
            }
            let area = Area {
                start: map.start,
                len: map.end - map.start,
            };
            let report = agreed(pid, area).with_context(|| format!("{map:x?}"))?;
            for page in report.pages.iter().filter(|page| page.walked) {
                mappers(page)?;
            }
            pages += report.summary.pages;
        }
    }
    check!(pages > 100, "only {pages} pages");
    Ok(())
}

fn while_everything_moves() -> Result<()> {
    const PAGES: u64 = 48;
    let area = Area::map(PAGES as usize)?;
    area.touch();
    let us = sys::getpid();
    let mut churners = Vec::new();
    for which in 0..3u64 {
        churners.push(Child::spawn(move |_| {
            let parent = sys::getpid();
            let mut round = which;
            loop {
                round += 1;
                match sys::fork()? {
                    Forked::Parent(pid) => {
                        area.pages(round % PAGES, 1).touch();
                        let part = area.pages(round * 7 % PAGES, 1);
                        sys::advise(part.start as usize, PAGE, libc::MADV_DONTNEED)?;
                        // Split, and merged again.
                        for prot in [libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE] {
                            sys::protect(part.start as usize, PAGE, prot)?;
                        }
                        let _ = sys::wait(pid)?;
                    }
                    Forked::Child => {
                        die_with(parent);
                        for page in (round % 5..PAGES).step_by(5) {
                            area.pages(page, 1).touch();
                        }
                        sys::exit_now(0)
                    }
                }
            }
        })?);
    }
    let asked: Vec<Pid> = churners.iter().map(|child| child.pid).chain([us]).collect();
    let (mut reports, mut moved, mut told) = (0u64, 0u64, 0u64);
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end || (reports < 50 && Instant::now() < end + patience(20)) {
        for pid in &asked {
            let report = of(*pid, area)?;
            reports += 1;
            for page in &report.pages {
                told += 1;
                moved += u64::from(page.moved);
                if !page.walked {
                    check!(
                        page.kind != PageKind::Anon || page.moved,
                        "an anonymous page not walked, nor moved: {page:?}"
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
        "{reports} reports of {told} pages, {moved} of them moved"
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

fn cli_shows_pages() -> Result<()> {
    let mut parent = Stage::new(2)?.start()?;
    let area = parent.map(3)?;
    parent.write(area)?;
    let child = parent.fork()?;
    let ravel = |args: &[&str]| -> Result<String> {
        let output = Command::new(module::beside("ravel")?).args(args).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{args:?}: {errors}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let pid = parent.pid.to_string();
    let (start, end) = (format!("{:x}", area.start), format!("{:#x}", area.end()));
    let of_maps = format!("{start}-{:x}", area.end());
    let json = ravel(&["page", "--json", &pid, &start, &end])?;
    let shown: PageReport = serde_json::from_str(&json)?;
    check_eq!(shown, of(parent.pid, area)?, "the report in JSON");
    let text = ravel(&["page", &pid, &of_maps])?;
    for part in [
        format!("{start}      3  anon"),
        "self".into(),
        format!("descendant  {:>7}", child.pid),
        "3 pages, 0 empty; 6 mappers".into(),
    ] {
        check!(text.contains(&part), "no {part:?} in:\n{text}");
    }
    let one = ravel(&["page", &pid, &format!("0x{start}")])?;
    check!(one.contains("1 page, 0 empty; 2 mappers"), "{one}");
    Ok(())
}
