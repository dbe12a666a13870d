// SPDX-License-Identifier: GPL-2.0
//! Report page: what stands at an address, and everyone who maps it, against /proc's own view.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use ravel_records::{MemberState, Page, PageKind, PageReport, Relation};

use crate::module::{self, query, report_text};
use crate::pagemap::{self, Frames, kpf};
use crate::process::{Area, Child, Puppet, Stage};
use crate::report::{anon, page, parse_page, vma};
use crate::sys::{self, PAGE, Pid};
use crate::{check, check_eq, tests};

use Relation::{Ancestor, Descendant, Self_, Unrelated};

pub(super) mod files;
pub(super) mod kinds;
mod moving;
mod shapes;

pub use {
    files::TESTS as FILES, kinds::TESTS as KINDS, moving::TESTS as MOVING, shapes::TESTS as SHAPES,
};

tests!("page":
    written_read_and_untouched_pages,
    partial_writes_of_parent_and_children,
    grandchild_maps_what_was_before_each_fork,
    moved_area_is_found_where_it_went,
    moved_area_that_keeps_its_mapping,
    split_area_has_one_candidate_more,
    without_permission_it_still_stands_there,
    ranges_of_any_ends,
    bad_requests_are_einval,
    no_such_process_is_esrch,
    reading_marks_nothing_and_faults_nothing,
    pages_of_a_program_agree_with_proc,
    cli_shows_pages,
);

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
            () if entry.marker() => PageKind::Marker,
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
    let before = of(parent.pid, area)?;
    let json = ravel(&["page", "--json", &pid, &start, &end])?;
    let shown: PageReport = serde_json::from_str(&json)?;
    // New pages wait with a CPU until they get into an LRU list: the flag comes at any time.
    if shown != before {
        check_eq!(shown, of(parent.pid, area)?, "the report in JSON");
    }
    let text = ravel(&["page", &pid, &of_maps])?;
    for part in [
        format!("{start}      3  anon"),
        "self".into(),
        format!("descendant  {:>7}", child.pid),
        "3 pages and 0 empty entries; 6 mappers of the pages.".into(),
    ] {
        check!(text.contains(&part), "no {part:?} in:\n{text}");
    }
    let one = ravel(&["page", &pid, &format!("0x{start}")])?;
    check!(
        one.contains("1 page and 0 empty entries; 2 mappers of the pages."),
        "{one}"
    );
    Ok(())
}
