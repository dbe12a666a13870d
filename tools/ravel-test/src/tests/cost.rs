// SPDX-License-Identifier: GPL-2.0
//! `ravel cost`: its numbers against those that the definitions in COST.md give by hand.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::harness::say;
use crate::module;
use crate::process::{Area, Puppet, Stage};
use crate::sys::{PAGE, Pid};
use crate::tier;
use crate::workload::Workload;
use crate::{check, check_eq, tests};

tests!("cost":
    one_process,
    parent_and_child_before_and_after_writes,
    grandchild,
    area_of_which_a_child_has_a_part,
    seven_and_eight_entries_of_a_page,
    totals_agree_with_proc,
    table_and_errors,
    parent_and_1000_children_all_copied [600 s],
);

fn ravel(args: &[&str]) -> Result<String> {
    let output = Command::new(module::beside("ravel")?)
        .args(args)
        .output()
        .context("run ravel")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{args:?}: {errors}");
    check_eq!(errors, "", "stderr of {args:?}");
    Ok(String::from_utf8(output.stdout)?)
}

fn cost(pid: Pid) -> Result<Value> {
    let document = ravel(&["cost", "--json", &pid.to_string()])?;
    Ok(serde_json::from_str(&document)?)
}

/// The family that a process' area is in.
fn family(cost: &Value, pid: Pid, area: Area) -> Result<&Value> {
    let families = cost["families"].as_array().context("no families")?;
    let start = format!("{:#x}", area.start);
    families
        .iter()
        .find(|family| family["pid"] == pid && family["start"] == start.as_str())
        .with_context(|| format!("no family of {area:x?}: {families:#?}"))
}

/// What the definitions give for a family.
#[derive(Clone, Copy, Debug)]
struct Want {
    processes: u64,
    vmas: u64,
    anon_vmas: u64,
    links: u64,
    depth: u64,
    entries: u64,
    pages: u64,
    ptes_worst: u64,
    pte_chains: u64,
    /// Candidates of all walks together, one for each page.
    visited: u64,
    avcs_worst: u64,
}

fn check_family(cost: &Value, pid: Pid, area: Area, want: Want) -> Result<()> {
    let family = family(cost, pid, area)?;
    for (key, want) in [
        ("processes", want.processes),
        ("vmas", want.vmas),
        ("anon_vmas", want.anon_vmas),
        ("links", want.links),
        ("depth", want.depth),
        ("entries", want.entries),
        ("pages", want.pages),
        ("ptes_worst", want.ptes_worst),
        ("pte_chains", want.pte_chains),
        ("avcs_worst", want.avcs_worst),
    ] {
        check_eq!(family[key].as_u64(), Some(want), "{key} of {family:#}");
    }
    for (key, sum) in [("ptes_mean", want.entries), ("avcs_mean", want.visited)] {
        let mean = family[key].as_f64().context("no mean")?;
        let want = sum as f64 / want.pages as f64;
        let digits = |number: f64| (number * 1e6).round();
        check_eq!(digits(mean), digits(want), "{key} of {family:#}, times 1e6");
    }
    Ok(())
}

fn check_area(puppet: &Puppet, area: Area, want: Want) -> Result<()> {
    check_family(&cost(puppet.pid)?, puppet.pid, area, want)
}

fn one_process() -> Result<()> {
    let mut puppet = Stage::new(1)?.start()?;
    let area = puppet.map(6)?;
    puppet.write(area.pages(0, 3))?;
    let alone = Want {
        processes: 1,
        vmas: 1,
        anon_vmas: 1,
        links: 1,
        depth: 0,
        entries: 3,
        pages: 3,
        ptes_worst: 1,
        pte_chains: 0,
        visited: 3,
        avcs_worst: 1,
    };
    check_area(&puppet, area, alone)?;
    // Two VMAs of one anon_vma: a walk visits the one that covers the page, and visited both when
    // they stood in a list.
    puppet.protect(area.pages(0, 1), libc::PROT_READ)?;
    let split = Want {
        vmas: 2,
        links: 2,
        ..alone
    };
    check_area(&puppet, area, split)
}

fn parent_and_child_before_and_after_writes() -> Result<()> {
    let mut parent = Stage::new(2)?.start()?;
    let area = parent.map(10)?;
    parent.write(area)?;
    let mut child = parent.fork()?;
    let before = Want {
        processes: 2,
        vmas: 2,
        anon_vmas: 2,
        links: 3,
        depth: 1,
        entries: 20,
        pages: 10,
        ptes_worst: 2,
        pte_chains: 10,
        visited: 20,
        avcs_worst: 2,
    };
    check_area(&parent, area, before)?;
    child.write(area.pages(0, 4))?;
    // The parent's four are still in the root, whose two VMAs are visited; the child's are in its own.
    let after = Want {
        pages: 14,
        ptes_worst: 2,
        pte_chains: 6,
        visited: 10 * 2 + 4,
        ..before
    };
    check_area(&parent, area, after)?;
    child.write(area)?;
    let all = Want {
        pages: 20,
        ptes_worst: 1,
        pte_chains: 0,
        visited: 10 * 2 + 10,
        ..before
    };
    check_area(&parent, area, all)
}

fn grandchild() -> Result<()> {
    let mut parent = Stage::new(3)?.start()?;
    let area = parent.map(8)?;
    parent.write(area)?;
    let mut child = parent.fork()?;
    child.write(area.pages(0, 3))?;
    let mut grandchild = child.fork()?;
    grandchild.write(area.pages(0, 1))?;
    // In the root: eight of the parent, of which five are mapped by all three. In the child's: three, of
    // which two are mapped by the grandchild, too. In the grandchild's: one.
    let want = Want {
        processes: 3,
        vmas: 3,
        anon_vmas: 3,
        links: 1 + 2 + 3,
        depth: 2,
        entries: 24,
        pages: 8 + 3 + 1,
        ptes_worst: 3,
        pte_chains: 5 + 2,
        visited: 8 * 3 + 3 * 2 + 1,
        avcs_worst: 3,
    };
    check_area(&parent, area, want)
}

fn area_of_which_a_child_has_a_part() -> Result<()> {
    let mut parent = Stage::new(2)?.start()?;
    let area = parent.map(10)?;
    parent.write(area)?;
    let mut child = parent.fork()?;
    // Its VMA no longer covers the first four: a walk for these visits the parent's alone.
    child.unmap(area.pages(0, 4))?;
    let want = Want {
        processes: 2,
        vmas: 2,
        anon_vmas: 2,
        links: 3,
        depth: 1,
        entries: 16,
        pages: 10,
        ptes_worst: 2,
        pte_chains: 6,
        visited: 4 + 6 * 2,
        avcs_worst: 2,
    };
    check_area(&parent, area, want)
}

fn seven_and_eight_entries_of_a_page() -> Result<()> {
    let mut parent = Stage::new(8)?.start()?;
    let area = parent.map(3)?;
    parent.write(area)?;
    let mut children = Vec::new();
    for _ in 0..6 {
        children.push(parent.fork()?);
    }
    let seven = Want {
        processes: 7,
        vmas: 7,
        anon_vmas: 7,
        links: 1 + 6 * 2,
        depth: 1,
        entries: 3 * 7,
        pages: 3,
        ptes_worst: 7,
        pte_chains: 3,
        visited: 3 * 7,
        avcs_worst: 7,
    };
    check_area(&parent, area, seven)?;
    children.push(parent.fork()?);
    let eight = Want {
        processes: 8,
        vmas: 8,
        anon_vmas: 8,
        links: 1 + 7 * 2,
        entries: 3 * 8,
        ptes_worst: 8,
        pte_chains: 3 * 2,
        visited: 3 * 8,
        avcs_worst: 8,
        ..seven
    };
    check_area(&parent, area, eight)
}

/// VMAs of a process, by /proc. `[vsyscall]` is none.
fn vmas(pid: Pid) -> Result<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let is_vma = |line: &&str| !line.ends_with("[vsyscall]");
    Ok(maps.lines().filter(is_vma).count() as u64)
}

fn design<'c>(cost: &'c Value, name: &str) -> Result<&'c Value> {
    let designs = cost["designs"].as_array().context("no designs")?;
    let found = designs.iter().find(|design| design["name"] == name);
    found.with_context(|| format!("no design {name}"))
}

fn totals_agree_with_proc() -> Result<()> {
    let mut parent = Stage::new(3)?.start()?;
    parent.exec()?;
    let area = parent.map_written(1, 300)?[0];
    let mut one = parent.fork()?;
    one.write(area.pages(10, 50))?;
    let mut two = one.fork()?;
    two.write(area.pages(20, 60))?;
    let frames = crate::pagemap::Frames::open()?;
    let (mut entries, mut want_vmas) = (0, 0);
    let mut pages = std::collections::BTreeMap::new();
    for puppet in [&parent, &one, &two] {
        puppet.settle()?;
        want_vmas += vmas(puppet.pid)?;
        for map in crate::maps::of(puppet.pid)? {
            if map.perms.ends_with('s') || map.name == b"[vsyscall]" {
                continue;
            }
            for entry in crate::pagemap::entries(puppet.pid, map.start, map.end)? {
                let flags = match entry.present() {
                    true => frames.flags(entry.pfn())?,
                    false => continue,
                };
                if flags & crate::pagemap::kpf::ANON != 0 {
                    entries += 1;
                    pages.insert(entry.pfn(), frames.mapcount(entry.pfn())?);
                }
            }
        }
    }
    // Whoever is asked, the family is the same.
    for puppet in [&parent, &two] {
        let cost = cost(puppet.pid)?;
        check_eq!(cost["processes"], 3, "processes");
        check_eq!(cost["vmas"], want_vmas, "VMAs");
        check_eq!(cost["entries"], entries, "entries");
        check_eq!(cost["pages"], pages.len(), "pages");
        check_eq!(
            (&cost["unread"], &cost["moved"]),
            (&Value::from(0), &Value::from(0)),
            "unread, moved"
        );
        let scan = design(&cost, "scan")?;
        check_eq!(scan["mean"].as_f64(), Some(want_vmas as f64), "2.4");
        let ptes = design(&cost, "pte_chains")?;
        check_eq!(
            ptes["worst"].as_u64(),
            pages.values().max().copied(),
            "2.5, worst"
        );
        let chains: u64 = pages
            .values()
            .filter(|mapcount| **mapcount > 1)
            .map(|mapcount| mapcount.div_ceil(7))
            .sum();
        check_eq!(ptes["objects"], chains, "pte_chains");
        check_eq!(ptes["bytes"], chains * 64, "their bytes");
    }
    Ok(())
}

fn table_and_errors() -> Result<()> {
    let mut parent = Stage::new(2)?.start()?;
    let area = parent.map(10)?;
    parent.write(area)?;
    let mut child = parent.fork()?;
    child.write(area.pages(0, 4))?;
    let text = ravel(&["cost", "--all", &parent.pid.to_string()])?;
    let range = format!("{:x}-{:x}", area.start, area.end());
    let line = text.lines().find(|line| line.starts_with(&range));
    let line = line.with_context(|| format!("no line of the area:\n{text}"))?;
    let words: Vec<&str> = line.split_whitespace().skip(1).collect();
    check_eq!(
        words.join(" "),
        format!("{} 2 2 2 3 1 14 1.43 2 1.71 2 anonymous", parent.pid),
        "the line of the area"
    );
    let gone = Command::new(module::beside("ravel")?)
        .args(["cost", "4194304"])
        .output()?;
    check_eq!(gone.status.code(), Some(3), "exit code for nobody's pid");
    let errors = String::from_utf8(gone.stderr)?;
    check!(
        errors.contains("no process has this pid (ESRCH)"),
        "{errors}"
    );
    Ok(())
}

/// Bytes of memory that can still be had.
fn available() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line
        .context("no MemAvailable")?
        .trim()
        .trim_end_matches(" kB");
    Ok(kib.parse::<u64>()? << 10)
}

/// The example that anon_vma_chain was made for: a parent with 1,000 children, and everything copied.
/// 1,000 pages for each take 4 GiB; where there is less memory, there are fewer. A kernel that checks itself
/// gets fewer children, too.
fn parent_and_1000_children_all_copied() -> Result<()> {
    let children = tier::scale(1000, 100) as u64;
    // A process takes about 200 KiB beside its pages here.
    let room = available()?.saturating_sub((children * 200) << 10) * 3 / 4;
    let pages = (room / (children + 1) / PAGE as u64).min(1000);
    check!(pages >= 20, "memory for {pages} pages in each process only");
    let pages_each = pages as usize;
    let parent = Workload::crowd(children as usize, 1, pages_each, pages_each)?;
    let area = *parent.areas.first().context("no area")?;
    let cost = cost(parent.pid())?;
    let want = Want {
        processes: children + 1,
        vmas: children + 1,
        anon_vmas: children + 1,
        links: 1 + 2 * children,
        depth: 1,
        entries: pages * (children + 1),
        pages: pages * (children + 1),
        ptes_worst: 1,
        pte_chains: 0,
        visited: pages * (children + 1) + pages * children,
        avcs_worst: children + 1,
    };
    check_family(&cost, parent.pid(), area, want)?;
    check_eq!(cost["processes"], children + 1, "processes");
    let mut all = vmas(parent.pid())?;
    for child in
        fs::read_to_string(format!("/proc/{0}/task/{0}/children", parent.pid()))?.split_whitespace()
    {
        all += vmas(child.parse()?)?;
    }
    check_eq!(cost["vmas"], all, "VMAs");
    check_eq!(design(&cost, "scan")?["mean"], all as f64, "2.4");
    say(format_args!(
        "1 parent, {children} children, {pages} pages each, all copied:"
    ));
    for line in ravel(&["cost", &parent.pid().to_string()])?.lines() {
        say(line);
    }
    Ok(())
}
