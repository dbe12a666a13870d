// SPDX-License-Identifier: GPL-2.0
//! Pages of files, and of memory that is shared through one.

use std::fs::{self, File};
use std::path::PathBuf;

use anyhow::{Context, Result};
use ravel_records::{PageKind, Relation};

use super::{agreed, at, check_mappers, of};
use crate::feature::has_anon_offsets;
use crate::process::{Area, Child, Puppet, Stage};
use crate::report::{anon, vma};
use crate::sys::{self, PAGE};
use crate::{check, check_eq, tests};

use Relation::{Descendant, Self_};

tests!("page":
    private_file_page_is_the_files_until_it_is_copied,
    shared_memory_is_found_through_its_file,
    file_page_at_two_places_and_in_a_split_area,
    vdso_is_of_no_file,
);

/// A file of some pages at a far offset.
pub(in crate::tests) struct FarFile(pub PathBuf, pub u64);

impl FarFile {
    /// Its path, and its first page.
    pub(in crate::tests) fn new(pages: u64) -> Result<Self> {
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
        check!(!page.writable, "{page:?}");
    }
    let copied = at(&report, area, 2)?;
    check_eq!(copied.kind, PageKind::Anon, "kind of what was written");
    check_eq!(
        copied.index.0,
        record.anon_pgoff.0 + 2,
        "index in the anon_vma"
    );
    check_eq!(
        copied.index.0 != file.1 + 2,
        has_anon_offsets(),
        "an index other than the file's"
    );
    check_eq!(copied.mapping, record.anon_vma, "mapping");
    check!(
        copied.mapping != at(&report, area, 0)?.mapping,
        "one mapping"
    );
    // fork() copies the entries of all pages where there is an anon_vma.
    let want = [(parent.pid, Self_), (child.pid, Descendant)];
    for number in 0..3 {
        check_mappers(&report, area, number, 2, &want)?;
    }
    Ok(())
}

fn shared_memory_is_found_through_its_file() -> Result<()> {
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
        check_eq!((page.mapcount, page.walked), (2, true), "mapcount, walked");
        let want = [(sys::getpid(), Self_), (child.pid, Descendant)];
        check_mappers(&report, area, number, 2, &want)?;
        check_eq!(page.index.0, number, "index");
    }
    child.kill()
}

fn file_page_at_two_places_and_in_a_split_area() -> Result<()> {
    let file = FarFile::new(4)?;
    let mut one = Stage::new(1)?.start()?;
    let mut two = Stage::new(1)?.start()?;
    let area = one.map_file(&file.0, 4, file.1 as usize)?;
    let again = one.map_file(&file.0, 2, file.1 as usize + 2)?;
    let part = two.map_file(&file.0, 1, file.1 as usize + 3)?;
    let read = |puppet: &mut Puppet, area| puppet.read(area);
    read(&mut one, area)?;
    read(&mut one, again)?;
    read(&mut two, part)?;
    let places = |number: u64| -> Result<_> {
        let report = agreed(one.pid, area)?;
        let page = at(&report, area, number)?;
        check!(page.walked && !page.moved, "{page:?}");
        check_eq!(page.found, page.mapcount, "found, of {page:?}");
        let mut places: Vec<_> = page.mappers.iter().map(|m| (m.pid, m.at.0)).collect();
        places.sort();
        Ok((page.visited, places))
    };
    let here = |number| (one.pid as u32, area.pages(number, 1).start);
    let there = |number: u64| (one.pid as u32, again.pages(number - 2, 1).start);
    let other = (two.pid as u32, part.start);
    let sorted = |mut places: Vec<(u32, u64)>| {
        places.sort();
        places
    };
    check_eq!(places(1)?, (1, vec![here(1)]), "the second page");
    check_eq!(
        places(2)?,
        (2, sorted(vec![here(2), there(2)])),
        "the third page"
    );
    check_eq!(
        places(3)?,
        (3, sorted(vec![here(3), there(3), other])),
        "the last page"
    );
    two.unmap(part)?;
    check_eq!(
        places(3)?,
        (2, sorted(vec![here(3), there(3)])),
        "the last page, unmapped by one"
    );
    Ok(())
}

fn vdso_is_of_no_file() -> Result<()> {
    let us = sys::getpid();
    let maps = crate::maps::of(us)?;
    let vdso = maps.iter().find(|map| map.name == b"[vdso]");
    let vdso = vdso.context("no vdso")?;
    let area = Area {
        start: vdso.start,
        len: vdso.end - vdso.start,
    };
    let _ = sys::peek(area.start as usize);
    let report = of(us, area)?;
    let page = at(&report, area, 0)?;
    check_eq!(page.kind, PageKind::Kernel, "kind");
    check!(!page.walked && page.mappers.is_empty(), "{page:?}");
    Ok(())
}
