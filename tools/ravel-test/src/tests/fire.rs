// SPDX-License-Identifier: GPL-2.0
//! The module is removed again and again while it is in use. RAVEL_REMOVALS says how often.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::harness::say;
use crate::module::{self, Answer, BUFFER, DIR, REPORTS, open_query, write_errno};
use crate::process::{Area, Child, die_with};
use crate::random::Random;
use crate::sys::{self, Forked, PAGE, Pid};
use crate::{check, check_eq, tests, tier};

tests!("fire":
    removed_while_all_is_in_use [900 s],
);

/// What can be asked for while the module comes and goes.
#[derive(Default)]
struct Counts {
    /// Files that were opened, and closed again.
    opened: AtomicU64,
    whole: AtomicU64,
    /// Left in the middle.
    left: AtomicU64,
    attached: AtomicU64,
    /// There was no such file just then.
    absent: AtomicU64,
}

fn count(of: &AtomicU64) {
    of.fetch_add(1, Ordering::Relaxed);
}

/// Opens a file that may be there or not.
fn open(name: &str, counts: &Counts) -> Result<Option<File>> {
    let path = format!("{DIR}/{name}");
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => {
            count(&counts.opened);
            Ok(Some(file))
        }
        Err(e) => {
            // Not there, about to go, or detached.
            let known = [libc::ENOENT, libc::ENXIO, libc::ENODEV, libc::EIO];
            check!(known.contains(&sys::errno(&e)), "opening {name}: {e}");
            count(&counts.absent);
            Ok(None)
        }
    }
}

/// A moment, of up to so many microseconds.
fn pause(random: &mut Random, most: u64) {
    thread::sleep(Duration::from_micros(random.next() % most));
}

/// Asks by `query`, and reads all, or leaves in the middle.
fn ask(random: &mut Random, pids: &[Pid], counts: &Counts) -> Result<()> {
    let report = *random.pick(REPORTS);
    let pid = *random.pick(pids);
    let Some(mut file) = open("query", counts)? else {
        return Ok(());
    };
    match write_errno(&mut file, format!("{report} {pid}").as_bytes()) {
        0 => {}
        // The file was there, and was removed before it was written to.
        libc::EIO => return Ok(()),
        errno => return Err(anyhow!("errno {errno} of a request")),
    }
    if random.one_in(2) {
        return match file.read(&mut [0; 77]) {
            Ok(n) => {
                check!(n > 0, "a report of {pid} has no beginning");
                count(&counts.left);
                pause(random, 1000);
                Ok(())
            }
            Err(e) => Err(e).context("read the beginning"),
        };
    }
    let answer = Answer::read(&mut file, BUFFER);
    check_eq!(
        answer.errno,
        0,
        "errno of reading {report} {pid}: {answer:?}"
    );
    let end = answer.text[..answer.text.len() - 1]
        .rsplit(|b| *b == b'\n')
        .next();
    check!(
        end.is_some_and(|line| line.starts_with(b"summary ")),
        "no summary: {answer:?}"
    );
    count(&counts.whole);
    Ok(())
}

/// Attaches, opens what is in the folder, and leaves it there, or detaches with the file open.
fn use_folder(random: &mut Random, pids: &[Pid], counts: &Counts) -> Result<()> {
    let pid = *random.pick(pids);
    if let Some(mut file) = open("attach", counts)? {
        match write_errno(&mut file, pid.to_string().as_bytes()) {
            0 => count(&counts.attached),
            libc::EEXIST | libc::EIO => {}
            errno => return Err(anyhow!("errno {errno} of attaching {pid}")),
        }
    }
    let Some(mut file) = open(&format!("{pid}/{}", random.pick(REPORTS)), counts)? else {
        return Ok(());
    };
    if random.one_in(2) {
        if let Some(mut detach) = open("detach", counts)? {
            match write_errno(&mut detach, pid.to_string().as_bytes()) {
                0 | libc::ENOENT | libc::EIO => {}
                errno => return Err(anyhow!("errno {errno} of detaching {pid}")),
            }
        }
    }
    let errno = file
        .read(&mut [0; 1000])
        .err()
        .map_or(0, |e| sys::errno(&e));
    check!(
        [0, libc::EIO].contains(&errno),
        "errno {errno} of a folder's file"
    );
    pause(random, 1000);
    Ok(())
}

/// Load: forks, maps and unmaps until it is killed.
fn load() -> Result<()> {
    let us = sys::getpid();
    loop {
        let area = Area::map(8)?;
        area.touch();
        match sys::fork()? {
            Forked::Child => {
                die_with(us);
                area.touch();
                sys::exit_now(0)
            }
            Forked::Parent(pid) => drop(sys::wait(pid)?),
        }
        sys::unmap(area.start as usize - PAGE, area.len as usize + 2 * PAGE)?;
    }
}

fn removed_while_all_is_in_use() -> Result<()> {
    let rounds = tier::removals() as usize;
    let mut idle = Vec::new();
    for _ in 0..4 {
        idle.push(Child::idle()?);
    }
    let mut busy = Child::spawn(|_| load())?;
    let mut pids: Vec<Pid> = idle.iter().map(|child| child.pid).collect();
    pids.push(busy.pid);
    let stop = AtomicBool::new(false);
    let counts = Counts::default();
    let user = |which: u64| {
        let (stop, counts, pids) = (&stop, &counts, &pids);
        move || -> Result<()> {
            let mut random = Random::new(which);
            while !stop.load(Ordering::Relaxed) {
                if which % 2 == 0 {
                    ask(&mut random, pids, counts)?;
                } else {
                    use_folder(&mut random, pids, counts)?;
                }
                // A moment in which the module may be idle.
                pause(&mut random, 10_000);
            }
            Ok(())
        }
    };
    let start = Instant::now();
    let (removed, in_use) = thread::scope(|scope| -> Result<(usize, usize)> {
        let users: Vec<_> = (0..3).map(|which| scope.spawn(user(which))).collect();
        let remove = || -> Result<(usize, usize)> {
            let (mut removed, mut in_use) = (0, 0);
            while removed < rounds && !users.iter().any(|user| user.is_finished()) {
                match module::remove() {
                    Ok(()) => {
                        removed += 1;
                        module::insert().with_context(|| format!("after {removed} removals"))?;
                        // Time for the users to come back.
                        thread::sleep(Duration::from_millis(2));
                    }
                    Err(e) => {
                        check_eq!(sys::errno(&e), libc::EWOULDBLOCK, "errno of removing");
                        in_use += 1;
                        thread::sleep(Duration::from_micros(100));
                    }
                }
            }
            Ok((removed, in_use))
        };
        let result = remove();
        stop.store(true, Ordering::Relaxed);
        for user in users {
            user.join().map_err(|_| anyhow!("a user panicked"))??;
        }
        result
    })?;
    busy.kill()?;
    let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
    say(format_args!(
        "removed {removed} times in {:.0?}, refused {in_use} times; meanwhile {} files opened and closed, {} reports \
         read whole, {} left in the middle, {} processes attached; {} times there was no file",
        start.elapsed(),
        of(&counts.opened),
        of(&counts.whole),
        of(&counts.left),
        of(&counts.attached),
        of(&counts.absent),
    ));
    check!(in_use >= rounds / 20, "only {in_use} times it was in use");
    check!(
        of(&counts.whole) >= rounds as u64 / 20 && of(&counts.left) >= rounds as u64 / 20,
        "hardly a report was read"
    );
    check!(
        of(&counts.attached) >= rounds as u64 / 20,
        "hardly a process was attached"
    );
    // It still works.
    let mut file = open_query()?;
    check_eq!(
        write_errno(&mut file, format!("skbs {}", pids[0]).as_bytes()),
        0,
        "write"
    );
    Answer::read(&mut file, BUFFER).whole()?;
    drop(file);
    module::detach_all()?;
    check_eq!(module::references()?, 0, "references at the end");
    Ok(())
}
