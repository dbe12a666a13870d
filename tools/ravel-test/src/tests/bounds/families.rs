// SPDX-License-Identifier: GPL-2.0
//! Reports of processes whose relatives make reverse maps large: many pieces, many generations, many mappers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ravel_records::{CowReport, PageReport, Relation};

use super::split;
use crate::harness::say;
use crate::measure::Holds;
use crate::module::{query, report_text};
use crate::process::{Area, Child};
use crate::sys::{self, PAGE, Pid};
use crate::{check, check_eq, tests, tier};

tests!("bounds":
    child_of_30000_pieces_beside_the_whole_of_its_parent [180 s],
    window_of_128_generations [180 s],
    page_of_a_file_that_is_mapped_3000_times [180 s],
);

/// Reads a report, and returns it with the time that took and the longest holds of locks meanwhile.
fn timed(report: &str, pid: Pid) -> Result<(Vec<u8>, Duration, Holds)> {
    Holds::forget()?;
    let start = Instant::now();
    let text = report_text(report, pid)?;
    let time = start.elapsed();
    Ok((text, time, Holds::now()?))
}

/// The tree of an anon_vma has one VMA that covers all offsets, and many that cover one each. A walk that does not
/// prune by the last end of a subtree visits all of them for each page.
fn child_of_30000_pieces_beside_the_whole_of_its_parent() -> Result<()> {
    let pieces = tier::scale(30_000, 3000);
    let area = Area::map(pieces)?;
    sys::advise(
        area.start as usize,
        area.len as usize,
        libc::MADV_NOHUGEPAGE,
    )?;
    area.touch();
    let mut child = Child::spawn(move |link| {
        split(area)?;
        link.send("split")?;
        link.wait().map(drop)
    })?;
    check_eq!(child.link.wait()?, "split", "what the child says");
    let check = |text: &[u8]| -> Result<()> {
        let report = CowReport::parse(text)?;
        let ours = report
            .vmas
            .iter()
            .filter(|vma| (area.start..area.end()).contains(&vma.start.0));
        let mut found = 0;
        for vma in ours {
            let shares: Vec<_> = vma
                .shares
                .iter()
                .map(|share| (share.pid as Pid, share.relation.clone(), share.pages))
                .collect();
            let want = (sys::getpid(), Relation::Ancestor, 1);
            check_eq!(shares, [want], "shares of {:x}", vma.start.0);
            found += 1;
        }
        check_eq!(found, pieces, "VMAs of the area");
        Ok(())
    };
    // The best of three: an emulated CPU stands still now and then.
    let best = || -> Result<Duration> {
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let (text, time, _) = timed("cow", child.pid)?;
            check(&text)?;
            best = best.min(time);
        }
        Ok(best)
    };
    let whole = best()?;
    // The same pages, and the same number of members; none covers more than its page.
    split(area)?;
    let pieces = best()?;
    say(format_args!(
        "beside one VMA that covers all: {whole:.2?}; beside as many pieces: {pieces:.2?}"
    ));
    check!(
        whole < pieces * 3,
        "{whole:.2?} beside one VMA that covers all, {pieces:.2?} beside as many pieces"
    );
    Ok(())
}

/// The generations of [`window_of_128_generations`].
const GENERATIONS: usize = 128;

/// A child that writes every 128th page and forks the next generation, and so on. The link tells the last one's pid.
fn interleaved(generation: usize, area: Area) -> Result<Child> {
    Child::spawn(move |link| {
        for page in (generation..512).step_by(GENERATIONS) {
            sys::poke(area.start as usize + page * PAGE, 2);
        }
        if generation + 1 == GENERATIONS {
            link.send(&sys::getpid().to_string())?;
        } else {
            let mut next = interleaved(generation + 1, area)?;
            let last = next.link.wait()?;
            link.send(&format!("{last} {}", next.pid))?;
            next.link.wait()?;
        }
        link.wait().map(drop)
    })
}

/// Neighbouring pages belong to the anon_vmas of different generations, and those of each span the whole window.
fn window_of_128_generations() -> Result<()> {
    let area = Area::map(512)?;
    sys::advise(
        area.start as usize,
        area.len as usize,
        libc::MADV_NOHUGEPAGE,
    )?;
    area.touch();
    let mut first = interleaved(1, area)?;
    let line = first.link.wait()?;
    let last = line.split(' ').next().context("no pid")?;
    let last: Pid = last.parse()?;
    let (text, time, holds) = timed("cow", last)?;
    let report = CowReport::parse(&text)?;
    let vma = report.vma_at(area.start).context("no record of the area")?;
    let pages = &vma.pages;
    check_eq!(
        (pages.anon, pages.exclusive, pages.shared, pages.own),
        (512, 4, 508, 4),
        "anon, exclusive, shared, own"
    );
    // A generation shares what was written before it was forked, and not written again by one after it.
    let mut shared: Vec<_> = vma.shares.iter().map(|share| share.pages).collect();
    shared.sort_unstable();
    let want: Vec<_> = (1..GENERATIONS as u64).map(|count| 4 * count).collect();
    check_eq!(shared, want, "pages shared with each generation");
    check_eq!((vma.moved, report.summary.cut), (0, 0), "moved, cut");
    say(format_args!(
        "512 pages of {GENERATIONS} generations: {time:.2?}; longest holds: {holds}"
    ));
    check!(
        holds.longest() * 2 < time,
        "most of {time:.2?} is one hold: {holds}"
    );
    Ok(())
}

/// How long one page's mappers are looked for does not depend on how many pages were asked for.
fn page_of_a_file_that_is_mapped_3000_times() -> Result<()> {
    const PAGES: usize = 64;
    let mappings = tier::scale(3000, 500);
    let file = sys::memfd("ravel-mapped")?;
    file.set_len((PAGES * PAGE) as u64)?;
    let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
    let len = PAGES * PAGE;
    let start = sys::map(0, len, libc::PROT_READ, flags, Some(&file), 0)?;
    let theirs = &file;
    let mut child = Child::spawn(move |link| {
        for _ in 1..mappings {
            sys::map(0, len, libc::PROT_READ, flags, Some(theirs), 0)?;
        }
        sys::unmap(start, len)?;
        link.send("mapped")?;
        link.wait().map(drop)
    })?;
    check_eq!(child.link.wait()?, "mapped", "what the child says");
    let ask = |pages: usize| -> Result<(Duration, Holds)> {
        Holds::forget()?;
        let request = format!(
            "page {} {start:#x} {:#x}",
            sys::getpid(),
            start + pages * PAGE
        );
        let begun = Instant::now();
        let (errno, answer) = query(request.as_bytes())?;
        check_eq!(errno, 0, "errno of {request:?}");
        let text = answer.whole()?;
        let (time, holds) = (begun.elapsed(), Holds::now()?);
        let report = PageReport::parse(&text)?;
        check_eq!(report.pages.len(), pages, "pages");
        for page in &report.pages {
            let mappers = page.mappers.len();
            check_eq!(
                (page.visited, page.found, page.mapcount, mappers, page.moved),
                (
                    mappings as u64,
                    mappings as u64,
                    mappings as u64,
                    mappings,
                    false
                ),
                "of {:x}",
                page.address.0
            );
        }
        check_eq!(report.summary.cut, 0, "cut");
        Ok((time, holds))
    };
    ask(1)?;
    let (time, one) = ask(1)?;
    say(format_args!("one page: {time:.2?}; longest holds: {one}"));
    let (time, all) = ask(PAGES)?;
    say(format_args!(
        "{PAGES} pages: {time:.2?}; longest holds: {all}"
    ));
    // One of 64 holds, with room for those in which an emulated CPU stands still.
    check!(
        all.longest() * 16 < time,
        "longest holds for one page: {one}; for {PAGES}, in {time:.2?}: {all}"
    );
    Ok(())
}
