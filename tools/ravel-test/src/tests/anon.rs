// SPDX-License-Identifier: GPL-2.0
//! Report anon_vma: one process, and what its own calls do to its VMAs.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ravel_records::{AnonVmaReport, Relation};

use crate::feature::anon_offset;
use crate::process::{Area, Puppet, Stage};
use crate::report::{anon, bounds, chain, check_members, check_members_at, numbers, vma};
use crate::sys::{self, PAGE, Pid};
use crate::{check, check_eq, maps, tests};

tests!("anon":
    untouched_area_has_no_record,
    area_only_read_has_no_record,
    written_area_is_a_root_with_one_member,
    header_and_summary_agree_with_proc,
    split_by_mprotect_shares_one_anon_vma,
    split_by_munmap_shares_one_anon_vma,
    merged_again_is_one_member,
    moved_area_keeps_its_key,
    moved_area_never_written_has_no_record,
    private_file_mapping_has_two_offsets,
    moved_file_mapping_keeps_both_offsets,
    shared_mapping_has_no_record,
    file_names_of_any_bytes,
    deleted_file_is_named_as_in_maps,
    records_agree_with_smaps,
    records_of_every_process_agree_with_smaps,
    adjacent_areas_written_apart_share_one_anon_vma,
);

fn puppet() -> Result<Puppet> {
    Stage::new(1)?.start()
}

fn untouched_area_has_no_record() -> Result<()> {
    let mut puppet = puppet()?;
    let area = puppet.map(3)?;
    let report = anon(puppet.pid)?;
    check_eq!(
        report.vma_at(area.start),
        None,
        "record of an untouched area"
    );
    puppet.write(area.pages(1, 1))?;
    let report = anon(puppet.pid)?;
    vma(&report, area)?;
    Ok(())
}

fn area_only_read_has_no_record() -> Result<()> {
    let mut puppet = puppet()?;
    let area = puppet.map(3)?;
    puppet.read(area)?;
    let report = anon(puppet.pid)?;
    check_eq!(
        report.vma_at(area.start),
        None,
        "record of an area that holds the zero page"
    );
    Ok(())
}

fn written_area_is_a_root_with_one_member() -> Result<()> {
    let mut puppet = puppet()?;
    let area = puppet.map(3)?;
    puppet.write(area)?;
    let report = anon(puppet.pid)?;
    let record = vma(&report, area)?;
    check_eq!(record.perms, "rw-p", "perms");
    check_eq!(record.anon_pgoff.0, area.start >> 12, "anon_pgoff");
    check_eq!(record.pgoff.0, area.start >> 12, "pgoff");
    check_eq!(record.name, "", "name");
    check_eq!(record.chain, 1, "chain");
    let chain = chain(&report, area)?;
    check!(
        record.avcs[0].here,
        "here=0 although it is the only VMA: {record:?}"
    );
    let group = chain[0];
    check_eq!(
        numbers(group),
        (0, 1, 1, 1, 1),
        "depth, children, active, refcount, members"
    );
    check_eq!(
        (group.root, group.parent),
        (group.id, group.id),
        "root and parent"
    );
    check_members(group, area, &[(puppet.pid, Relation::Self_)])
}

fn header_and_summary_agree_with_proc() -> Result<()> {
    let puppet = puppet()?;
    let report = anon(puppet.pid)?;
    check_eq!(report.header.pid as Pid, puppet.pid, "pid");
    let comm = fs::read(format!("/proc/{}/comm", puppet.pid))?;
    check_eq!(report.header.comm.as_bytes(), comm.trim_ascii_end(), "comm");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    check_eq!(report.header.kernel.to_string(), release.trim(), "kernel");
    check_eq!(
        report.summary.vmas,
        count_vmas(puppet.pid)?,
        "vmas in the summary"
    );
    check_eq!(report.summary.cut, 0, "cut");
    Ok(())
}

/// VMAs of a process; `[vsyscall]` is in maps, and no VMA.
fn count_vmas(pid: Pid) -> Result<u64> {
    Ok(maps::of(pid)?
        .iter()
        .filter(|m| m.name != b"[vsyscall]")
        .count() as u64)
}

/// Checks that these pieces of an area share one root of their own, whose members they are.
fn check_pieces(report: &AnonVmaReport, pid: Pid, area: Area, pieces: &[Area]) -> Result<()> {
    let first = vma(report, pieces[0])?.anon_vma;
    let mut here = 0;
    for piece in pieces {
        let record = vma(report, *piece)?;
        check_eq!(record.anon_vma, first, "anon_vma of {piece:x?}");
        check_eq!(record.chain, 1, "chain of {piece:x?}");
        check_eq!(
            record.anon_pgoff.0,
            piece.start >> 12,
            "anon_pgoff of {piece:x?}"
        );
        here += record.avcs.iter().filter(|avc| avc.here).count();
    }
    check_eq!(here, 1, "avc records with here=1");
    let group = chain(report, pieces[0])?[0];
    let count = pieces.len() as u64;
    check_eq!(
        numbers(group),
        (0, 1, count, 1, count),
        "numbers of the pieces' anon_vma"
    );
    let mut found: Vec<_> = group.member.iter().map(bounds).collect();
    found.sort_unstable();
    let want: Vec<_> = pieces.iter().map(|p| (p.start, p.end())).collect();
    check_eq!(found, want, "bounds of the members");
    for member in &group.member {
        check_eq!(member.pid as Pid, pid, "pid of {member:?}");
        check_eq!(member.relation, Relation::Self_, "relation of {member:?}");
        check_eq!(member.mm, group.member[0].mm, "mm of {member:?}");
        check_eq!(
            member.anon_pgoff.0,
            member.start.0 >> 12,
            "key of {member:?}"
        );
    }
    let inside = |start: u64| (area.start..area.end()).contains(&start);
    let records = report.vmas.iter().filter(|v| inside(v.start.0)).count();
    check_eq!(records, pieces.len(), "records within the area");
    Ok(())
}

fn split_by_mprotect_shares_one_anon_vma() -> Result<()> {
    let mut puppet = puppet()?;
    let area = puppet.map(5)?;
    puppet.write(area)?;
    puppet.protect(area.pages(1, 1), libc::PROT_READ)?;
    puppet.protect(area.pages(3, 1), libc::PROT_NONE)?;
    let report = anon(puppet.pid)?;
    let pieces: Vec<Area> = (0..5).map(|i| area.pages(i, 1)).collect();
    check_pieces(&report, puppet.pid, area, &pieces)?;
    for (piece, perms) in pieces.iter().zip(["rw-p", "r--p", "rw-p", "---p", "rw-p"]) {
        check_eq!(vma(&report, *piece)?.perms, perms, "perms of {piece:x?}");
    }
    Ok(())
}

fn split_by_munmap_shares_one_anon_vma() -> Result<()> {
    let mut puppet = puppet()?;
    let area = puppet.map(6)?;
    puppet.write(area)?;
    puppet.unmap(area.pages(2, 1))?;
    let report = anon(puppet.pid)?;
    check_pieces(
        &report,
        puppet.pid,
        area,
        &[area.pages(0, 2), area.pages(3, 3)],
    )?;
    puppet.unmap(area.pages(0, 2))?;
    let report = anon(puppet.pid)?;
    check_pieces(&report, puppet.pid, area, &[area.pages(3, 3)])?;
    puppet.unmap(area.pages(3, 3))?;
    let report = anon(puppet.pid)?;
    check!(
        report
            .vmas
            .iter()
            .all(|v| v.end.0 <= area.start || v.start.0 >= area.end()),
        "something is left of an area that is unmapped"
    );
    Ok(())
}

fn merged_again_is_one_member() -> Result<()> {
    let mut puppet = puppet()?;
    let area = puppet.map(3)?;
    puppet.write(area)?;
    let before = anon(puppet.pid)?;
    puppet.protect(area.pages(1, 1), libc::PROT_READ)?;
    puppet.protect(area.pages(1, 1), libc::PROT_READ | libc::PROT_WRITE)?;
    let after = anon(puppet.pid)?;
    check_pieces(&after, puppet.pid, area, &[area])?;
    check_eq!(
        vma(&after, area)?,
        vma(&before, area)?,
        "the VMA split and merged again"
    );
    Ok(())
}

fn moved_area_keeps_its_key() -> Result<()> {
    let mut puppet = puppet()?;
    let area = puppet.map(4)?;
    puppet.write(area)?;
    let before = vma(&anon(puppet.pid)?, area)?.anon_vma;
    let moved = puppet.remap(area)?;
    check!(moved != area, "mremap did not move it");
    let report = anon(puppet.pid)?;
    let record = vma(&report, moved)?;
    check_eq!(
        record.anon_pgoff.0,
        area.start >> 12,
        "anon_pgoff after the move"
    );
    check_eq!(record.pgoff.0, area.start >> 12, "pgoff after the move");
    check_eq!(record.anon_vma, before, "anon_vma after the move");
    let group = chain(&report, moved)?[0];
    check_eq!(numbers(group), (0, 1, 1, 1, 1), "numbers after the move");
    check_eq!(
        bounds(&group.member[0]),
        (moved.start, moved.end()),
        "bounds of the member"
    );
    check_eq!(
        group.member[0].anon_pgoff.0,
        area.start >> 12,
        "key of the member"
    );
    check_eq!(report.vma_at(area.start), None, "record at the old place");
    Ok(())
}

fn moved_area_never_written_has_no_record() -> Result<()> {
    let mut puppet = puppet()?;
    let area = puppet.map(2)?;
    let moved = puppet.remap(area)?;
    check_eq!(
        anon(puppet.pid)?.vma_at(moved.start),
        None,
        "record before a write"
    );
    puppet.write(moved)?;
    let report = anon(puppet.pid)?;
    check_eq!(
        vma(&report, moved)?.anon_pgoff.0,
        moved.start >> 12,
        "anon_pgoff: the new place"
    );
    Ok(())
}

/// A folder of a test's own, removed at its end.
pub struct Folder(PathBuf);

impl Folder {
    /// Makes it.
    pub fn new() -> Result<Self> {
        let path = PathBuf::from(format!("/tmp/ravel-test-{}", sys::getpid()));
        fs::create_dir_all(&path)?;
        Ok(Self(path.canonicalize()?))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes a file of some pages in it, with that name.
    pub fn file(&self, name: &[u8], pages: usize) -> Result<PathBuf> {
        let path = self.0.join(OsStr::from_bytes(name));
        fs::write(&path, vec![7; pages * PAGE])?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn private_file_mapping_has_two_offsets() -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.file(b"mapped", 8)?;
    let mut puppet = puppet()?;
    let area = puppet.map_file(&path, 4, 3)?;
    puppet.read(area)?;
    let report = anon(puppet.pid)?;
    check_eq!(
        report.vma_at(area.start),
        None,
        "record of a file mapping that was only read"
    );
    puppet.write(area.pages(1, 1))?;
    let report = anon(puppet.pid)?;
    let record = vma(&report, area)?;
    check_eq!(record.pgoff.0, 3, "pgoff");
    check_eq!(
        record.anon_pgoff.0,
        anon_offset(area.start, 3),
        "anon_pgoff"
    );
    check_eq!(record.name.as_bytes(), path.as_os_str().as_bytes(), "name");
    check_eq!(record.perms, "rw-p", "perms");
    let group = chain(&report, area)?[0];
    check_eq!(numbers(group), (0, 1, 1, 1, 1), "numbers");
    check_members_at(
        group,
        area,
        anon_offset(area.start, 3),
        &[(puppet.pid, Relation::Self_)],
    )?;
    // The second half, split off: both offsets go on by two pages.
    puppet.protect(area.pages(2, 2), libc::PROT_READ)?;
    let report = anon(puppet.pid)?;
    let record = vma(&report, area.pages(2, 2))?;
    check_eq!(record.pgoff.0, 5, "pgoff of the second half");
    check_eq!(
        record.anon_pgoff.0,
        anon_offset(area.start, 3) + 2,
        "anon_pgoff of the second half"
    );
    Ok(())
}

fn moved_file_mapping_keeps_both_offsets() -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.file(b"mapped", 8)?;
    let mut puppet = puppet()?;
    let area = puppet.map_file(&path, 2, 5)?;
    puppet.write(area)?;
    let moved = puppet.remap(area)?;
    let report = anon(puppet.pid)?;
    let record = vma(&report, moved)?;
    check_eq!(record.pgoff.0, 5, "pgoff");
    check_eq!(
        record.anon_pgoff.0,
        anon_offset(area.start, 5),
        "anon_pgoff"
    );
    Ok(())
}

fn shared_mapping_has_no_record() -> Result<()> {
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let addr = sys::map(
        0,
        2 * PAGE,
        libc::PROT_READ | libc::PROT_WRITE,
        flags,
        None,
        0,
    )?;
    sys::poke(addr, 1);
    check_eq!(
        anon(sys::getpid())?.vma_at(addr as u64),
        None,
        "record of a shared mapping"
    );
    Ok(())
}

fn file_names_of_any_bytes() -> Result<()> {
    let names: &[&[u8]] = &[
        b"two words  and more",
        b"quote \" and \\ and '",
        b"new\nline\ttab\r",
        b"not utf-8: \xff\xfe\x80",
        "käse ☃".as_bytes(),
        b"\\x41 is not A",
        b"a=b c=\"d\"",
        b"\x01\x7f",
        &[b'l'; 255],
    ];
    let folder = Folder::new()?;
    let mut puppet = puppet()?;
    for name in names {
        let shown = String::from_utf8_lossy(name);
        let path = folder.file(name, 1)?;
        let area = puppet.map_file(&path, 1, 0)?;
        puppet.write(area)?;
        let report = anon(puppet.pid)?;
        let record = vma(&report, area)?;
        check_eq!(
            record.name.as_bytes(),
            path.as_os_str().as_bytes(),
            "name of {shown:?}"
        );
        let maps = maps::of(puppet.pid)?;
        let map = maps
            .iter()
            .find(|m| m.start == area.start)
            .context("not in maps")?;
        check_eq!(
            record.name.as_bytes(),
            map.name,
            "name of {shown:?} in maps"
        );
    }
    Ok(())
}

fn deleted_file_is_named_as_in_maps() -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.file(b"gone", 1)?;
    let mut puppet = puppet()?;
    let area = puppet.map_file(&path, 1, 0)?;
    puppet.write(area)?;
    fs::remove_file(&path)?;
    let report = anon(puppet.pid)?;
    let want = format!("{} (deleted)", path.display());
    check_eq!(vma(&report, area)?.name, want.as_str(), "name");
    Ok(())
}

/// Compares a report with smaps, taken before and after it: mappings that are in both stood still.
/// Gives the records compared.
fn compare_with_smaps(pid: Pid) -> Result<usize> {
    let before = maps::of(pid)?;
    let report = anon(pid)?;
    let after = maps::of(pid)?;
    let moves = before.len() != after.len();
    for record in &report.vmas {
        let Some(map) = after.iter().find(|m| m.start == record.start.0) else {
            check!(moves, "pid {pid}: not in maps: {record:?}");
            continue;
        };
        if !before
            .iter()
            .any(|m| m.start == map.start && m.end == map.end)
        {
            continue;
        }
        check_eq!(record.end.0, map.end, "pid {pid}: end of {record:?}");
        check_eq!(record.perms, map.perms, "pid {pid}: perms of {record:?}");
        check_eq!(
            record.name.as_bytes(),
            map.name,
            "pid {pid}: name of {record:?}"
        );
        if map.is_file {
            check_eq!(
                record.pgoff.0 << 12,
                map.offset,
                "pid {pid}: pgoff of {record:?}"
            );
        } else {
            check_eq!(
                record.pgoff.0,
                record.anon_pgoff.0,
                "pid {pid}: offsets of {record:?}"
            );
        }
    }
    let reported: HashSet<u64> = report.vmas.iter().map(|v| v.start.0).collect();
    for map in before
        .iter()
        .filter(|m| m.anonymous > 0 && m.perms.ends_with('p'))
    {
        check!(
            reported.contains(&map.start),
            "pid {pid}: anonymous, but no record: {map:?}"
        );
    }
    let starts: Vec<u64> = report.vmas.iter().map(|v| v.start.0).collect();
    check!(
        starts.is_sorted_by(|a, b| a < b),
        "pid {pid}: not in address order: {starts:x?}"
    );
    Ok(report.vmas.len())
}

fn records_agree_with_smaps() -> Result<()> {
    let folder = Folder::new()?;
    let path = folder.file(b"a file", 4)?;
    let mut puppet = puppet()?;
    for pages in 1..6 {
        let area = puppet.map(pages)?;
        puppet.write(area.pages(0, 1))?;
    }
    let area = puppet.map_file(&path, 3, 1)?;
    puppet.write(area.pages(2, 1))?;
    let stack_and_heap = compare_with_smaps(puppet.pid)?;
    check!(stack_and_heap >= 8, "only {stack_and_heap} records");
    let report = anon(puppet.pid)?;
    let named = |name: &str| report.vmas.iter().filter(|v| v.name == *name).count();
    check_eq!(
        (named("[stack]"), named("[heap]")),
        (1, 1),
        "records named [stack] and [heap]"
    );
    let exe = fs::read_link("/proc/self/exe")?;
    check!(
        report
            .vmas
            .iter()
            .any(|v| v.name.as_bytes() == exe.as_os_str().as_bytes()),
        "no record of the program's own data"
    );
    Ok(())
}

fn records_of_every_process_agree_with_smaps() -> Result<()> {
    let mut compared = 0;
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<Pid>().ok())
        else {
            continue;
        };
        // Kernel threads have no mappings, and are another test's.
        if maps::of(pid).is_ok_and(|maps| !maps.is_empty()) {
            compare_with_smaps(pid)?;
            compared += 1;
        }
    }
    check!(
        compared >= 3,
        "only {compared} processes: init, the runner and this test are there"
    );
    Ok(())
}

fn adjacent_areas_written_apart_share_one_anon_vma() -> Result<()> {
    // find_mergeable_anon_vma(): a neighbour that differs in its permissions only shares its own.
    let mut puppet = puppet()?;
    let area = puppet.map(2)?;
    puppet.protect(
        area.pages(1, 1),
        libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
    )?;
    puppet.write(area.pages(0, 1))?;
    check_eq!(
        anon(puppet.pid)?.vma_at(area.pages(1, 1).start),
        None,
        "record of the second"
    );
    puppet.write(area.pages(1, 1))?;
    let report = anon(puppet.pid)?;
    check_pieces(
        &report,
        puppet.pid,
        area,
        &[area.pages(0, 1), area.pages(1, 1)],
    )
}
