// SPDX-License-Identifier: GPL-2.0
//! Reports of more than one chunk (2048 records): nothing is left out at a seam, or told twice.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use ravel_records::{AnonVma, AnonVmaReport, Id, Relation};

use crate::check::same_text;
use crate::module::{Answer, open_query, query, read_file, report_text, write_errno, write_file};
use crate::process::{Area, Child, Puppet, Stage};
use crate::report::{anon, parse_anon, vma};
use crate::sys::{self, PAGE, Pid};
use crate::{check, check_eq, tests};

tests!("chunks":
    thousands_of_vmas_with_one_anon_vma,
    thousands_of_anon_vmas,
    thousands_of_members_in_many_processes,
    seams_do_not_depend_on_the_readers_buffer,
    seam_within_members_of_one_key,
    what_stands_still_is_told_while_neighbours_go,
    anon_vma_is_emitted_though_its_first_member_goes,
    locks_tells_the_longest_holds,
    locks_is_reset_by_that_word_only,
);

/// A puppet that shares nothing, with an area of so many pages, each a VMA, all with one anon_vma.
fn striped(puppets: usize, pages: usize) -> Result<(Puppet, Area)> {
    let mut puppet = Stage::new(puppets)?.start()?;
    puppet.exec()?;
    let area = puppet.map_written(1, pages)?[0];
    puppet.call(&format!("stripes {} {}", area.start, area.len))?;
    puppet.settle()?;
    Ok((puppet, area))
}

/// Start of each page of an area.
fn pages(area: Area) -> Vec<u64> {
    (area.start..area.end()).step_by(PAGE).collect()
}

/// Checks what holds for every whole report of a process that stands still.
fn check_whole(report: &AnonVmaReport) -> Result<()> {
    check_eq!(report.summary.moved, 0, "moved");
    check_eq!(report.summary.cut, 0, "cut");
    check_eq!(
        report.summary.anon_vmas as usize,
        report.anon_vmas.len(),
        "anon_vmas told once"
    );
    check!(
        report.vmas.is_sorted_by(|a, b| a.end.0 <= b.start.0),
        "VMAs overlap or are unordered"
    );
    let mut told = BTreeSet::new();
    for record in &report.vmas {
        check_eq!(
            record.avcs.len() as u64,
            record.chain,
            "avc records of {:x}",
            record.start.0
        );
        for avc in record.avcs.iter().filter(|avc| avc.here) {
            check!(
                told.insert(avc.anon_vma),
                "here=1 twice for {}",
                avc.anon_vma
            );
        }
    }
    let groups: BTreeSet<Id> = report.anon_vmas.keys().copied().collect();
    check_eq!(told, groups, "anon_vmas told, and those marked here=1");
    for group in report.anon_vmas.values() {
        check_eq!(
            group.member.len() as u64,
            group.members,
            "members of {}",
            group.id
        );
        check_differ(group)?;
    }
    Ok(())
}

/// No member is told twice.
fn check_differ(group: &AnonVma) -> Result<()> {
    let places: BTreeSet<_> = group.member.iter().map(|m| (m.mm, m.start)).collect();
    check_eq!(
        places.len(),
        group.member.len(),
        "different members of {}",
        group.id
    );
    Ok(())
}

fn thousands_of_vmas_with_one_anon_vma() -> Result<()> {
    let (puppet, area) = striped(1, 5000)?;
    let report = anon(puppet.pid)?;
    check_whole(&report)?;
    let id = vma(&report, area.pages(0, 1))?.anon_vma;
    let inside: Vec<u64> = report
        .vmas
        .iter()
        .filter(|v| v.anon_vma == id)
        .map(|v| v.start.0)
        .collect();
    check!(inside == pages(area), "starts of the VMAs");
    let group = &report.anon_vmas[&id];
    check_eq!(
        (group.active_vmas, group.members),
        (5000, 5000),
        "active_vmas, members"
    );
    let mut starts: Vec<u64> = group.member.iter().map(|m| m.start.0).collect();
    starts.sort_unstable();
    check!(starts == pages(area), "starts of the members");
    Ok(())
}

fn thousands_of_anon_vmas() -> Result<()> {
    let mut puppet = Stage::new(1)?.start()?;
    puppet.exec()?;
    let areas = puppet.map_written(1500, 1)?;
    puppet.settle()?;
    let report = anon(puppet.pid)?;
    check_whole(&report)?;
    let mut groups = BTreeSet::new();
    for area in &areas {
        groups.insert(vma(&report, *area)?.anon_vma);
    }
    check_eq!(
        groups.len(),
        areas.len(),
        "anon_vmas of areas that are apart"
    );
    Ok(())
}

fn thousands_of_members_in_many_processes() -> Result<()> {
    const CHILDREN: usize = 40;
    const PAGES: u64 = 80;
    let area = Area::map(PAGES as usize)?;
    area.touch();
    for page in (0..PAGES).step_by(2) {
        sys::protect(area.pages(page, 1).start as usize, PAGE, libc::PROT_READ)?;
    }
    let mut children = Vec::new();
    for _ in 0..CHILDREN {
        children.push(Child::idle()?);
    }
    let us = sys::getpid();
    let mut want: BTreeSet<(Pid, u64, Relation)> = BTreeSet::new();
    for start in pages(area) {
        want.insert((us, start, Relation::Self_));
        want.extend(
            children
                .iter()
                .map(|c| (c.pid, start, Relation::Descendant)),
        );
    }
    let report = anon(us)?;
    check_eq!(report.summary.moved, 0, "moved");
    let root = &report.anon_vmas[&vma(&report, area.pages(0, 1))?.anon_vma];
    check_eq!(root.member.len(), want.len(), "members of the root");
    let found: BTreeSet<_> = root
        .member
        .iter()
        .map(|m| (m.pid as Pid, m.start.0, m.relation.clone()))
        .collect();
    check!(
        found == want,
        "pids, starts and relations of {} members differ",
        found.len()
    );
    // A child, in whose chains the root stands behind its own.
    let report = anon(children[0].pid)?;
    check_eq!(report.summary.moved, 0, "moved, for a child");
    let first = vma(&report, area.pages(0, 1))?;
    check_eq!(first.chain, 2, "chain of a child's VMA");
    let chain = report.chain(first);
    check_eq!(chain[0].id, root.id, "root, for a child");
    check_eq!(
        chain[0].member.len(),
        want.len(),
        "members of the root, for a child"
    );
    // anon_vma_fork() gives each VMA of a child one of its own, whatever the parent's share.
    check_eq!(chain[1].member.len(), 1, "members of its own");
    let children = 1 + CHILDREN as u64 * PAGES;
    check_eq!(root.children, children, "children of the root");
    check_eq!(root.active_vmas, PAGES, "active_vmas of the root");
    check_eq!(root.refcount as u64, children, "refcount of the root");
    Ok(())
}

fn seams_do_not_depend_on_the_readers_buffer() -> Result<()> {
    let (puppet, _) = striped(1, 3000)?;
    let whole = report_text("anon_vma", puppet.pid)?;
    for size in [100, 4096, 1 << 20] {
        let mut file = open_query()?;
        check_eq!(
            write_errno(&mut file, format!("anon_vma {}", puppet.pid).as_bytes()),
            0,
            "write"
        );
        let text = Answer::read(&mut file, size).whole()?;
        same_text(&text, &whole, format_args!("read by {size} bytes"))?;
    }
    Ok(())
}

fn seam_within_members_of_one_key() -> Result<()> {
    // All our VMAs are shared with 60 children, so that a chunk ends within members of one key. With
    // each round one more VMA comes, and the seams move.
    for _ in 0..20 {
        Area::map(1)?.touch();
    }
    let mut children = Vec::new();
    for _ in 0..60 {
        children.push(Child::idle()?);
    }
    let us = sys::getpid();
    let pids: BTreeSet<Pid> = children.iter().map(|c| c.pid).chain([us]).collect();
    for round in 0..15 {
        let report = anon(us)?;
        check!(
            report.summary.members > 2048,
            "members: {}",
            report.summary.members
        );
        check_shared(&report, &pids).with_context(|| format!("round {round}"))?;
        Area::map(1)?.touch();
    }
    Ok(())
}

/// Every root that more than two processes have, has all of them, once for each place.
fn check_shared(report: &AnonVmaReport, pids: &BTreeSet<Pid>) -> Result<()> {
    for group in report.anon_vmas.values().filter(|group| group.depth == 0) {
        check_differ(group)?;
        let found: BTreeSet<Pid> = group.member.iter().map(|m| m.pid as Pid).collect();
        if found.len() > 2 {
            let missing: Vec<_> = pids.difference(&found).collect();
            check!(missing.is_empty(), "missing in {}: {missing:?}", group.id);
        }
    }
    Ok(())
}

fn what_stands_still_is_told_while_neighbours_go() -> Result<()> {
    // Every other page goes between two reads of one report; the pages that stay are told, once.
    let (mut puppet, area) = striped(1, 4000)?;
    let mut file = open_query()?;
    check_eq!(
        write_errno(&mut file, format!("anon_vma {}", puppet.pid).as_bytes()),
        0,
        "write"
    );
    let mut text = Vec::new();
    let mut part = vec![0; 2000];
    for (first, last) in [(1000, 1500), (1500, 2000), (2000, 3999), (0, 1000)] {
        text.extend(read_some(&mut file, &mut part)?);
        puppet.call(&format!(
            "unmapodd {} {}",
            area.pages(first, 1).start,
            (last - first) * PAGE as u64
        ))?;
    }
    text.extend(Answer::read(&mut file, 1000).whole()?);
    let report = parse_anon(&text)?;
    let staying: BTreeSet<u64> = pages(area).into_iter().step_by(2).collect();
    let told: Vec<u64> = report.vmas.iter().map(|v| v.start.0).collect();
    let set: BTreeSet<u64> = told.iter().copied().collect();
    check_eq!(set.len(), told.len(), "VMAs told once");
    let missing: Vec<_> = staying.difference(&set).collect();
    check!(
        missing.is_empty(),
        "{} VMAs that stayed are missing: {:x?}",
        missing.len(),
        &missing[..missing.len().min(5)]
    );
    let id = report.vma_at(area.start).map(|v| v.anon_vma);
    let group = id.and_then(|id| report.anon_vmas.get(&id));
    let members: Vec<u64> = group
        .into_iter()
        .flat_map(|g| &g.member)
        .map(|m| m.start.0)
        .collect();
    let set: BTreeSet<u64> = members.iter().copied().collect();
    check_eq!(set.len(), members.len(), "members told once");
    let missing = staying.difference(&set).count();
    check_eq!(missing, 0, "members that stayed and are missing");
    Ok(())
}

/// The first member in an anon_vma's tree is the last in the address space, and goes before the report gets there.
fn anon_vma_is_emitted_though_its_first_member_goes() -> Result<()> {
    const PAGES: u64 = 4000;
    let mut puppet = Stage::new(1)?.start()?;
    puppet.exec()?;
    let area = puppet.map_written(1, PAGES as usize)?[0];
    let first = area.pages(0, 1);
    let rest = puppet.remap(area.pages(1, PAGES - 1))?;
    check!(
        rest.end() < first.start,
        "{rest:x?} is not below {first:x?}"
    );
    puppet.call(&format!("stripes {} {}", rest.start, rest.len))?;
    puppet.settle()?;
    let mut file = open_query()?;
    let request = format!("anon_vma {}", puppet.pid);
    check_eq!(write_errno(&mut file, request.as_bytes()), 0, "write");
    let mut text = read_some(&mut file, &mut [0; 2000])?;
    puppet.unmap(first)?;
    text.extend(Answer::read(&mut file, 1000).whole()?);
    let report = parse_anon(&text)?;
    let told: Vec<u64> = report.vmas.iter().map(|vma| vma.start.0).collect();
    check!(!told.contains(&first.start), "what went is in the report");
    let id = vma(&report, rest.pages(0, 1))?.anon_vma;
    let here = report.vmas.iter().flat_map(|vma| &vma.avcs);
    let here = here.filter(|avc| avc.here && avc.anon_vma == id).count();
    check_eq!(here, 1, "times that the anon_vma was emitted");
    let group = report.anon_vmas.get(&id).context("no anon_vma")?;
    let starts: BTreeSet<u64> = group.member.iter().map(|member| member.start.0).collect();
    let missing = pages(rest)
        .iter()
        .filter(|page| !starts.contains(page))
        .count();
    check_eq!(missing, 0, "members that stayed and are missing");
    Ok(())
}

fn read_some(file: &mut std::fs::File, part: &mut [u8]) -> Result<Vec<u8>> {
    let read = std::io::Read::read(file, part)?;
    Ok(part[..read].to_vec())
}

/// Name and nanoseconds of each record of `locks`.
fn locks() -> Result<Vec<(String, u64)>> {
    let text = String::from_utf8(read_file("locks")?.whole()?)?;
    let mut locks = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let ["lock", name, longest] = words[..] {
            let name = name.trim_start_matches("name=").to_owned();
            locks.push((name, longest.trim_start_matches("longest_ns=").parse()?));
        }
    }
    check!(
        text.ends_with(&format!(
            "summary report=locks locks={} cut=0\n",
            locks.len()
        )),
        "{text}"
    );
    Ok(locks)
}

fn locks_tells_the_longest_holds() -> Result<()> {
    check_eq!(write_file("locks", b"reset\n")?, 0, "reset");
    let names = [
        "mmap_lock",
        "anon_vma",
        "i_mmap",
        "socket",
        "queue",
        "unix",
        "wait",
        "task_lock",
        "uring_lock",
    ];
    let mut found: Vec<(String, u64)> = locks()?;
    found.sort();
    let mut want: Vec<_> = names.iter().map(|name| (name.to_string(), 0)).collect();
    want.sort();
    check_eq!(found, want, "locks after a reset");
    let (one, _two) = std::os::unix::net::UnixStream::pair()?;
    let udp = std::net::UdpSocket::bind("127.0.0.1:0")?;
    for report in crate::module::REPORTS {
        report_text(report, sys::getpid())?;
    }
    // A page of this program's own code, which its file leads to.
    let code = locks as fn() -> Result<Vec<(String, u64)>> as usize;
    query(format!("page {} {code:#x}", sys::getpid()).as_bytes())?;
    // A ring, which is looked at by `sharers` alone.
    let ring = sys::ring()?;
    sys::ring_register(&ring, &[udp.as_raw_fd()])?;
    query(format!("sharers {} {}", sys::getpid(), udp.as_raw_fd()).as_bytes())?;
    for (name, longest) in locks()? {
        check!(longest > 0, "{name} was never held, says `locks`");
        check!(longest < 60_000_000_000, "{name} was held for {longest} ns");
    }
    drop((one, udp));
    check_eq!(write_file("locks", b"reset")?, 0, "reset without a newline");
    check!(
        locks()?.iter().all(|lock| lock.1 == 0),
        "not forgotten: {:?}",
        locks()?
    );
    Ok(())
}

fn locks_is_reset_by_that_word_only() -> Result<()> {
    report_text("anon_vma", sys::getpid())?;
    let before = locks()?;
    for data in [
        "",
        "\n",
        "rese",
        "resets",
        "reset reset",
        " reset",
        "RESET",
        "0",
        "1",
        "reset\n\n",
    ] {
        check_eq!(
            write_file("locks", data.as_bytes())?,
            libc::EINVAL,
            "writing {data:?}"
        );
    }
    check_eq!(
        write_file("locks", &vec![b'r'; 1 << 20])?,
        libc::EINVAL,
        "writing 1 MB"
    );
    check_eq!(locks()?, before, "locks after words that are none");
    Ok(())
}
