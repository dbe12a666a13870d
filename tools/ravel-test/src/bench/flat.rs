// SPDX-License-Identifier: GPL-2.0
//! What one object costs, where a process has few or many.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{least, read_report};
use crate::process::{Area, Child};
use crate::sys::{self, PAGE};

/// A process with that many pages in one area, or with each of them a VMA, and so a link, of its own.
fn object_process(objects: usize, apart: bool) -> Result<Child> {
    let mut child = Child::spawn(move |link| {
        let area = Area::map(objects.max(1))?;
        sys::advise(
            area.start as usize,
            area.len as usize,
            libc::MADV_NOHUGEPAGE,
        )?;
        if objects > 0 {
            area.touch();
        }
        if apart {
            for page in (0..objects as u64).step_by(2) {
                sys::protect(area.pages(page, 1).start as usize, PAGE, libc::PROT_READ)?;
            }
        }
        link.send("ready")?;
        link.wait().map(drop)
    })?;
    child.link.wait()?;
    Ok(child)
}

/// For a VM whose clock counts instructions.
pub fn run() -> Result<()> {
    fs::write("/proc/sys/vm/max_map_count", "300000").context("allow many VMAs")?;
    // What begins with the boot has ended then. Time passes fast where nothing runs.
    thread::sleep(Duration::from_secs(20));
    let mut buffer = vec![0; 1 << 20];
    println!("Guest instructions for one object, and as a ratio to that among 1,000:");
    let numbers = [0, 100, 1_000, 10_000, 100_000];
    for (what, report, apart) in [
        ("AVC, in anon_vma", "anon_vma", true),
        ("the same, binary", "binary anon_vma", true),
        ("AVC, in chains", "chains", true),
        ("the same, binary", "binary chains", true),
        ("page, in cow", "cow", false),
        ("page, in chains", "chains", false),
    ] {
        let mut taken = Vec::new();
        for objects in numbers {
            let mut child = object_process(objects, apart)?;
            // Once to have everything at hand.
            read_report(report, child.pid, &mut buffer)?;
            let time = least(3, || read_report(report, child.pid, &mut buffer).map(drop))?;
            taken.push(time.as_nanos() as f64);
            child.kill()?;
        }
        let each: Vec<f64> = numbers
            .iter()
            .zip(&taken)
            .skip(1)
            .map(|(objects, time)| (time - taken[0]) / *objects as f64)
            .collect();
        let among = each[1];
        let cells = numbers.iter().skip(1).zip(&each);
        let cells = cells
            .map(|(objects, each)| format!("{objects:>7}: {each:>6.0} ({:>4.2})", each / among));
        println!("  {what:<18} {}", cells.collect::<Vec<_>>().join("  "));
    }
    Ok(())
}
