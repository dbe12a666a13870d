// SPDX-License-Identifier: GPL-2.0
//! Anonymous memory in the shapes that fork(), mremap(), exec() and namespaces give it.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use ravel_records::{PageKind, Relation};

use super::{agreed, at, check_mappers};
use crate::pagemap;
use crate::process::{Area, Child, Stage};
use crate::report::{anon, vma};
use crate::sys::{self, PAGE, Pid};
use crate::{check, check_eq, tests};

use Relation::{Ancestor, Descendant, Self_};

tests!("page":
    grown_and_moved_area,
    merged_area_is_one_candidate_again,
    reused_anon_vma_leads_to_its_pages,
    shared_address_space_maps_once,
    exec_gives_the_pages_up,
    mapper_in_another_pid_namespace,
    userfault_range_before_and_after,
    userfault_write_protected_pages,
);

fn grown_and_moved_area() -> Result<()> {
    let us = sys::getpid();
    let small = Area::map(3)?;
    small.touch();
    let before = agreed(us, small)?;
    let room = Area::map(8)?;
    let (from, to) = (small.start as usize, room.start as usize);
    sys::remap(from, small.len as usize, to, room.len as usize, 0)?;
    let child = Child::idle()?;
    room.pages(5, 1).touch();
    let after = agreed(us, room)?;
    check_eq!(
        (after.summary.pages, after.summary.empty),
        (4, 4),
        "pages, empty"
    );
    let report = anon(us)?;
    let record = vma(&report, room)?;
    check_eq!(
        record.anon_pgoff.0,
        small.start >> 12,
        "key of the moved area"
    );
    for number in 0..3 {
        let (old, new) = (at(&before, small, number)?, at(&after, room, number)?);
        check_eq!(
            (old.pfn, old.index),
            (new.pfn, new.index),
            "frame and index"
        );
        let want = [(us, Self_), (child.pid, Descendant)];
        check_mappers(&after, room, number, 2, &want)?;
    }
    // Written behind the old end, after the fork.
    let page = at(&after, room, 5)?;
    check_eq!(
        page.index.0,
        (small.start >> 12) + 5,
        "index of the new page"
    );
    check_mappers(&after, room, 5, 2, &[(us, Self_)])
}

fn merged_area_is_one_candidate_again() -> Result<()> {
    let us = sys::getpid();
    let area = Area::map(6)?;
    area.touch();
    let middle = area.pages(2, 2);
    let (start, len) = (middle.start as usize, middle.len as usize);
    sys::protect(start, len, libc::PROT_READ)?;
    let split = agreed(us, area)?;
    sys::protect(start, len, libc::PROT_READ | libc::PROT_WRITE)?;
    let merged = agreed(us, area)?;
    let report = anon(us)?;
    vma(&report, area)?;
    for number in 0..6 {
        for report in [&split, &merged] {
            check_mappers(report, area, number, 1, &[(us, Self_)])?;
        }
        let (one, other) = (at(&split, area, number)?, at(&merged, area, number)?);
        check_eq!((one.pfn, one.mapping), (other.pfn, other.mapping), "page");
    }
    Ok(())
}

fn reused_anon_vma_leads_to_its_pages() -> Result<()> {
    let mut parent = Stage::new(4)?.start()?;
    let area = parent.map(4)?;
    parent.write(area)?;
    let mut child = parent.fork()?;
    child.write(area.pages(1, 1))?;
    let mut low = child.fork_lasting()?;
    child.exit()?;
    let mut last = low.fork()?;
    low.write(area.pages(2, 1))?;
    last.write(area.pages(3, 1))?;
    let report = agreed(last.pid, area)?;
    let records = anon(last.pid)?;
    let own = vma(&records, area)?.anon_vma;
    // Of the child that has exited: its page, and that of who took its anon_vma over.
    let (left, new) = (at(&report, area, 1)?, at(&report, area, 3)?);
    check_eq!((left.mapping, new.mapping), (own, own), "their anon_vma");
    let both = [(low.pid, Ancestor), (last.pid, Self_)];
    check_mappers(&report, area, 1, 2, &both)?;
    check_mappers(&report, area, 3, 2, &[(last.pid, Self_)])?;
    let all = [
        (parent.pid, Relation::Unrelated),
        (low.pid, Ancestor),
        (last.pid, Self_),
    ];
    check_mappers(&report, area, 0, 3, &all)?;
    // Written by the one between, after the fork: the last has what was there before.
    let report = agreed(low.pid, area)?;
    check_mappers(&report, area, 2, 2, &[(low.pid, Self_)])
}

fn shared_address_space_maps_once() -> Result<()> {
    let us = sys::getpid();
    let area = Area::map(2)?;
    area.touch();
    for flags in [0, libc::CLONE_VFORK] {
        let (mut said, tell) = sys::pipe(false)?;
        let (wait_on, mut go) = sys::pipe(false)?;
        let (tell_fd, wait_fd) = (tell.as_raw_fd(), wait_on.as_raw_fd());
        let mut parent = Child::spawn(move |link| {
            area.touch();
            let pid = sys::clone_vm(flags, wait_fd, tell_fd)?;
            let _ = sys::wait(pid)?;
            link.wait().map(drop)
        })?;
        let mut bytes = [0; 4];
        said.read_exact(&mut bytes)?;
        let child = Pid::from_ne_bytes(bytes);
        for asked in [parent.pid, child] {
            let report = agreed(asked, area)?;
            for number in 0..2 {
                check_mappers(&report, area, number, 1, &[(parent.pid, Self_)])?;
            }
        }
        check_mappers(&agreed(us, area)?, area, 0, 2, &[(us, Self_)])?;
        go.write_all(b"x")?;
        parent.kill()?;
    }
    Ok(())
}

fn exec_gives_the_pages_up() -> Result<()> {
    let mut parent = Stage::new(2)?.start()?;
    let area = parent.map(2)?;
    parent.write(area)?;
    let mut child = parent.fork()?;
    let report = agreed(parent.pid, area)?;
    let both = [(parent.pid, Self_), (child.pid, Descendant)];
    check_mappers(&report, area, 0, 2, &both)?;
    check!(!at(&report, area, 0)?.exclusive, "what two map");
    child.exec()?;
    let report = agreed(parent.pid, area)?;
    for number in 0..2 {
        check_mappers(&report, area, number, 1, &[(parent.pid, Self_)])?;
    }
    Ok(())
}

fn mapper_in_another_pid_namespace() -> Result<()> {
    let us = sys::getpid();
    let area = Area::map(2)?;
    area.touch();
    let mut child = Child::spawn_with(libc::CLONE_NEWPID as u64, None, |link| {
        check_eq!(sys::getpid(), 1, "pid within the namespace");
        area.pages(1, 1).touch();
        link.send("written")?;
        link.wait().map(drop)
    })?;
    child.link.recv()?;
    // Told are the numbers outside.
    let report = agreed(us, area)?;
    let both = [(us, Self_), (child.pid, Descendant)];
    check_mappers(&report, area, 0, 2, &both)?;
    check_mappers(&report, area, 1, 2, &[(us, Self_)])?;
    let report = agreed(child.pid, area)?;
    let both = [(us, Ancestor), (child.pid, Self_)];
    check_mappers(&report, area, 0, 2, &both)?;
    check_mappers(&report, area, 1, 1, &[(child.pid, Self_)])?;
    child.kill()
}

fn userfault_range_before_and_after() -> Result<()> {
    let us = sys::getpid();
    let area = Area::map(3)?;
    area.pages(0, 1).touch();
    let fault = sys::userfault(area.start as usize, area.len as usize, sys::Fault::Missing)?;
    // Nobody waits, and reading the report makes nobody wait.
    let report = agreed(us, area)?;
    check_eq!(
        (report.summary.pages, report.summary.empty),
        (1, 2),
        "pages"
    );
    check!(!sys::poll(&fault, libc::POLLIN, 0)?, "a fault came");
    sys::zero_page(&fault, area.pages(1, 1).start as usize, PAGE)?;
    let report = agreed(us, area)?;
    check_eq!(
        (report.summary.pages, report.summary.empty),
        (2, 1),
        "pages"
    );
    check_mappers(&report, area, 0, 1, &[(us, Self_)])?;
    check_eq!(at(&report, area, 1)?.kind, PageKind::Zero, "kind");
    Ok(())
}

fn userfault_write_protected_pages() -> Result<()> {
    let us = sys::getpid();
    let area = Area::map(4)?;
    area.pages(0, 2).touch();
    sys::peek(area.pages(2, 1).start as usize);
    let (start, len) = (area.start as usize, area.len as usize);
    let fault = sys::userfault(start, len, sys::Fault::Write)?;
    sys::write_protect(&fault, start, len, true)?;
    let child = Child::idle()?;
    // The last is not there, and protected all the same, where the kernel can: a mark stands for it.
    let marked = u64::from(sys::protects_unpopulated()?);
    let report = agreed(us, area)?;
    check_eq!(report.summary.pages, 3 + marked, "pages");
    let entries = pagemap::entries(us, area.start, area.end())?;
    for number in 0..3 + marked {
        let page = at(&report, area, number)?;
        check!(entries[number as usize].write_protected(), "not protected");
        let kinds = [
            PageKind::Anon,
            PageKind::Anon,
            PageKind::Zero,
            PageKind::Marker,
        ];
        check_eq!(page.kind, kinds[number as usize], "kind of page {number}");
        check!(!page.writable, "writable: {page:?}");
    }
    // The child has what was there, and no protection.
    for number in 0..2 {
        let both = [(us, Self_), (child.pid, Descendant)];
        check_mappers(&report, area, number, 2, &both)?;
    }
    let counts = crate::report::cow(us)?;
    let record = counts.vma_at(area.start).context("no cow record")?;
    let pages = &record.pages;
    check_eq!(
        (pages.anon, pages.shared, pages.zero, pages.other),
        (2, 2, 1, marked),
        "anon, shared, zero, other"
    );
    let report = agreed(child.pid, area)?;
    check_eq!(
        (report.summary.pages, report.summary.empty),
        (3, 1),
        "pages of the child, empty ones"
    );
    for entry in pagemap::entries(child.pid, area.start, area.end())? {
        check!(!entry.write_protected(), "protected in the child");
    }
    drop(child);
    check!(!sys::poll(&fault, libc::POLLIN, 0)?, "a fault came");
    sys::write_protect(&fault, start, len, false)?;
    area.pages(0, 1).touch();
    let report = agreed(us, area)?;
    check_eq!(
        (report.summary.pages, report.summary.empty),
        (3, 1),
        "pages, and empty ones where the mark was"
    );
    check_mappers(&report, area, 0, 1, &[(us, Self_)])?;
    check!(at(&report, area, 0)?.writable, "written: not writable");
    Ok(())
}
