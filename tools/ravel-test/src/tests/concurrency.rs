// SPDX-License-Identifier: GPL-2.0
//! Several users at once.

use std::fs::File;
use std::io::Read;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, anyhow};
use ravel_records::Attached;

use crate::check::same_text;
use crate::module::{
    self, Answer, BUFFER, DIR, attach, detach, open_query, read_file, report_text, write_errno,
    write_file,
};
use crate::process::{Child, Puppet, Sleepers, Stage};
use crate::sys::{self, Pid};
use crate::{check, check_eq, tests};

tests!("concurrency":
    two_readers_of_two_processes_never_mix,
    one_descriptor_used_by_many_threads,
    of_many_attaching_one_process_one_wins,
    of_many_detaching_one_process_one_wins,
    attach_and_detach_by_many_threads_add_up,
    limit_holds_for_many_threads,
    folder_read_while_it_comes_and_goes,
);

/// Runs closures in threads of their own, and gives the first error.
fn all_of<F: FnOnce() -> Result<()> + Send>(threads: impl IntoIterator<Item = F>) -> Result<()> {
    thread::scope(|scope| {
        let handles: Vec<_> = threads.into_iter().map(|f| scope.spawn(f)).collect();
        let results: Vec<_> = handles
            .into_iter()
            .map(|h| {
                h.join()
                    .unwrap_or_else(|_| Err(anyhow!("a thread panicked")))
            })
            .collect();
        results.into_iter().collect()
    })
}

/// A process that shares no memory with us and stands still.
fn still(areas: usize) -> Result<Puppet> {
    let mut puppet = Stage::new(1)?.start()?;
    puppet.exec()?;
    puppet.map_written(areas, 2)?;
    puppet.settle()?;
    Ok(puppet)
}

fn two_readers_of_two_processes_never_mix() -> Result<()> {
    const ROUNDS: usize = 1000;
    let puppets = [still(3)?, still(20)?];
    let pids = [puppets[0].pid, puppets[1].pid];
    let texts = [
        report_text("anon_vma", pids[0])?,
        report_text("anon_vma", pids[1])?,
    ];
    check!(texts[0] != texts[1], "both have the same report");
    let reader = |i: usize| {
        let (pid, want) = (pids[i], &texts[i]);
        move || -> Result<()> {
            let request = format!("anon_vma {pid}\n");
            let mut kept = open_query()?;
            for round in 0..ROUNDS {
                let mut fresh;
                let file = if round % 2 == 0 {
                    &mut kept
                } else {
                    fresh = open_query()?;
                    &mut fresh
                };
                check_eq!(write_errno(file, request.as_bytes()), 0, "write");
                let text = Answer::read(file, BUFFER).whole()?;
                same_text(
                    &text,
                    want,
                    format_args!("round {round}: the report of {pid}"),
                )?;
            }
            Ok(())
        }
    };
    all_of([reader(0), reader(1)])
}

fn one_descriptor_used_by_many_threads() -> Result<()> {
    let puppet = still(3)?;
    let file = open_query()?;
    let worker = |i: usize| {
        let mut file = file.try_clone();
        let pid = puppet.pid;
        move || -> Result<()> {
            let file = file.as_mut().map_err(|e| anyhow!("dup: {e}"))?;
            for round in 0..150 {
                match (round + i) % 4 {
                    0 => check_eq!(
                        write_errno(file, format!("anon_vma {pid}").as_bytes()),
                        0,
                        "write"
                    ),
                    1 => check_eq!(
                        write_errno(file, b"rubbish"),
                        libc::EINVAL,
                        "write of rubbish"
                    ),
                    _ => {
                        // Whose answer this is depends on who wrote last; that it is one does not.
                        let mut part = [0; 700];
                        let errno = file.read(&mut part).err().map_or(0, |e| sys::errno(&e));
                        let known = [0, libc::EINVAL, libc::ENODATA].contains(&errno);
                        check!(known, "errno {errno} of a read");
                    }
                }
            }
            Ok(())
        }
    };
    all_of((0..4).map(worker))?;
    let mut file = file;
    check_eq!(
        write_errno(&mut file, format!("anon_vma {}", puppet.pid).as_bytes()),
        0,
        "write"
    );
    let text = Answer::read(&mut file, BUFFER).whole()?;
    check!(
        text == report_text("anon_vma", puppet.pid)?,
        "the descriptor is confused for good"
    );
    Ok(())
}

/// Has threads write the same to a file at the same time: how many succeeded, and how many failed
/// with `lost`; nothing else may happen.
fn race(name: &str, data: &str, threads: usize, lost: i32) -> Result<(usize, usize)> {
    let barrier = Barrier::new(threads);
    let (won, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let racer = |_| {
        || -> Result<()> {
            barrier.wait();
            match write_file(name, data.as_bytes())? {
                0 => won.fetch_add(1, Ordering::Relaxed),
                errno if errno == lost => failed.fetch_add(1, Ordering::Relaxed),
                errno => return Err(anyhow!("errno {errno} of {name} {data}")),
            };
            Ok(())
        }
    };
    all_of((0..threads).map(racer))?;
    Ok((won.into_inner(), failed.into_inner()))
}

fn of_many_attaching_one_process_one_wins() -> Result<()> {
    let child = Child::idle()?;
    let pid = child.pid.to_string();
    for round in 0..30 {
        check_eq!(
            race("attach", &pid, 6, libc::EEXIST)?,
            (1, 5),
            "round {round}: won, lost"
        );
        check_eq!(module::folders()?, [child.pid], "folders");
        detach(child.pid)?;
    }
    Ok(())
}

fn of_many_detaching_one_process_one_wins() -> Result<()> {
    let child = Child::idle()?;
    let pid = child.pid.to_string();
    for round in 0..30 {
        attach(child.pid)?;
        check_eq!(
            race("detach", &pid, 6, libc::ENOENT)?,
            (1, 5),
            "round {round}: won, lost"
        );
        check!(
            module::folders()?.is_empty(),
            "round {round}: a folder is left"
        );
    }
    Ok(())
}

fn attach_and_detach_by_many_threads_add_up() -> Result<()> {
    const CHILDREN: usize = 5;
    let mut children = Vec::new();
    for _ in 0..CHILDREN {
        children.push(Child::idle()?);
    }
    let pids: Vec<Pid> = children.iter().map(|c| c.pid).collect();
    let balance: Vec<AtomicI64> = pids.iter().map(|_| AtomicI64::new(0)).collect();
    let done = AtomicUsize::new(0);
    let worker = |seed: usize| {
        let (pids, balance, done) = (&pids, &balance, &done);
        move || -> Result<()> {
            let mut random = seed * 7919 + 1;
            for _ in 0..150 {
                random = random
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                let i = (random >> 33) % CHILDREN;
                let (name, other, add) = match (random >> 40) & 1 {
                    0 => ("attach", libc::EEXIST, 1),
                    _ => ("detach", libc::ENOENT, -1),
                };
                match write_file(name, pids[i].to_string().as_bytes())? {
                    0 => drop(balance[i].fetch_add(add, Ordering::Relaxed)),
                    errno => check_eq!(errno, other, "errno of {name} {}", pids[i]),
                }
                let list = Attached::parse(&read_file("attached")?.whole()?)?;
                let mut listed: Vec<u32> = list.attached.iter().map(|a| a.pid).collect();
                listed.sort_unstable();
                let twice = listed.windows(2).any(|w| w[0] == w[1]);
                check!(!twice, "a process is attached twice: {listed:?}");
            }
            done.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    };
    all_of((0..4).map(worker))?;
    check_eq!(done.into_inner(), 4, "threads that came to their end");
    let mut want = Vec::new();
    for (pid, balance) in pids.iter().zip(&balance) {
        let balance = balance.load(Ordering::Relaxed);
        check!(
            balance == 0 || balance == 1,
            "{pid}: attached less detached is {balance}"
        );
        if balance == 1 {
            want.push(*pid);
        }
    }
    want.sort_unstable();
    check_eq!(module::folders()?, want, "folders");
    let list = Attached::parse(&read_file("attached")?.whole()?)?;
    check_eq!(list.attached.len(), want.len(), "attached");
    module::detach_all()
}

fn limit_holds_for_many_threads() -> Result<()> {
    const CHILDREN: usize = 260;
    let children = Sleepers::new(CHILDREN)?;
    let pids = &children.pids;
    let (attached, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let worker = |i: usize| {
        let (attached, refused) = (&attached, &refused);
        move || -> Result<()> {
            for pid in pids.iter().skip(i).step_by(4) {
                match write_file("attach", pid.to_string().as_bytes())? {
                    0 => attached.fetch_add(1, Ordering::Relaxed),
                    libc::ENOSPC => refused.fetch_add(1, Ordering::Relaxed),
                    errno => return Err(anyhow!("errno {errno} of attach {pid}")),
                };
            }
            Ok(())
        }
    };
    all_of((0..4).map(worker))?;
    check_eq!(attached.into_inner(), 256, "attached");
    check_eq!(refused.into_inner(), CHILDREN - 256, "refused");
    check_eq!(module::folders()?.len(), 256, "folders");
    module::detach_all()
}

fn folder_read_while_it_comes_and_goes() -> Result<()> {
    let puppet = still(3)?;
    let pid = puppet.pid;
    let want = report_text("anon_vma", pid)?;
    let path = format!("{DIR}/{pid}/anon_vma");
    let stop = AtomicBool::new(false);
    let whole = AtomicUsize::new(0);
    let reader = || -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            let Ok(mut file) = File::open(&path) else {
                continue;
            };
            let answer = Answer::read(&mut file, 200);
            match answer.errno {
                0 => {
                    same_text(&answer.text, &want, "anon_vma")?;
                    whole.fetch_add(1, Ordering::Relaxed);
                }
                // debugfs: the file was removed.
                libc::EIO => check!(
                    want.starts_with(&answer.text),
                    "not its beginning: {answer:?}"
                ),
                errno => return Err(anyhow!("errno {errno} of a read: {answer:?}")),
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let readers = [scope.spawn(reader), scope.spawn(reader)];
        let toggled = (0..200).try_for_each(|round| {
            attach(pid).context("attach")?;
            while round % 20 == 0 && whole.load(Ordering::Relaxed) <= round / 20 {
                thread::yield_now();
                if readers.iter().all(|r| r.is_finished()) {
                    break;
                }
            }
            detach(pid).context("detach")
        });
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().map_err(|_| anyhow!("a reader panicked"))??;
        }
        toggled
    })?;
    check!(whole.into_inner() >= 10, "hardly a whole report was read");
    check!(module::folders()?.is_empty(), "a folder is left");
    Ok(())
}
