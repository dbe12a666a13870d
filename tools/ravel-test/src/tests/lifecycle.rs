// SPDX-License-Identifier: GPL-2.0
//! The module comes and goes, and keeps nothing of what it looked at.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ravel_records::Relation;

use crate::module::{
    self, Answer, BUFFER, DIR, REPORTS, attach, detach, open_query, query, report_text, write_errno,
};
use crate::process::{Area, Child, Stage};
use crate::report::{anon, chain, check_members, numbers, parse_anon, socket, sockets};
use crate::sys;
use crate::{check, check_eq, tests};

tests!("lifecycle":
    removed_module_leaves_no_files,
    inserted_twice_is_eexist,
    inserted_and_removed_100_times [180 s],
    open_file_keeps_the_module,
    half_read_report_keeps_the_module,
    module_goes_with_processes_attached,
    module_goes_with_exited_processes_attached,
    detached_while_its_file_is_open,
    removed_under_readers [120 s],
    ids_change_when_it_is_inserted_anew,
    reports_keep_no_memory_of_the_process,
    abandoned_report_keeps_no_memory_of_the_process,
    reports_keep_no_file_open,
    reports_leak_no_kernel_memory [120 s],
    exit_in_the_middle_of_a_report,
    fatal_signal_ends_a_reader,
);

/// Removes the module, which nothing may hold.
fn remove() -> Result<()> {
    module::remove().context("remove the module")
}

fn removed_module_leaves_no_files() -> Result<()> {
    remove()?;
    check!(
        !Path::new(DIR).exists(),
        "{DIR} is there without the module"
    );
    check!(!module::is_loaded(), "/sys/module/ravel is there");
    module::insert()?;
    anon(sys::getpid()).map(drop)
}

fn inserted_twice_is_eexist() -> Result<()> {
    let file = File::open(module::beside("ravel.ko")?)?;
    let error = sys::insert_module(&file)
        .err()
        .context("it went in twice")?;
    check_eq!(sys::errno(&error), libc::EEXIST, "errno");
    anon(sys::getpid()).map(drop)
}

fn inserted_and_removed_100_times() -> Result<()> {
    let child = Child::idle()?;
    for round in 0..100 {
        remove().with_context(|| format!("round {round}"))?;
        module::insert().with_context(|| format!("round {round}"))?;
        if round % 10 == 0 {
            attach(child.pid)?;
            let report = report_text("anon_vma", child.pid)?;
            check!(!report.is_empty(), "round {round}: nothing in the report");
        }
    }
    if module::folders()?.contains(&child.pid) {
        detach(child.pid)?;
    }
    Ok(())
}

/// Checks that the module cannot be removed now.
fn check_in_use(what: &str) -> Result<()> {
    let error = module::remove()
        .err()
        .with_context(|| format!("removed under {what}"))?;
    check_eq!(
        sys::errno(&error),
        libc::EWOULDBLOCK,
        "errno of removing under {what}"
    );
    // It goes on as if nothing had been asked.
    anon(sys::getpid()).map(drop)
}

fn open_file_keeps_the_module() -> Result<()> {
    let child = Child::idle()?;
    attach(child.pid)?;
    let reports = REPORTS
        .iter()
        .map(|report| format!("{}/{report}", child.pid));
    let files = ["version", "attached", "attach", "detach", "query"].map(String::from);
    for name in reports.chain(files) {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .open(format!("{DIR}/{name}"))?;
        check_in_use(&name)?;
        check_eq!(module::references()?, 1, "references with {name} open");
        drop(file);
        check_eq!(module::references()?, 0, "references with {name} closed");
    }
    let file = File::open(format!("{DIR}/{}/anon_vma", child.pid))?;
    check_in_use("a report")?;
    drop(file);
    remove()?;
    module::insert()
}

fn half_read_report_keeps_the_module() -> Result<()> {
    let mut puppet = Stage::new(1)?.start()?;
    puppet.map_written(300, 1)?;
    for report in REPORTS {
        let mut file = open_query()?;
        let request = format!("{report} {}", puppet.pid);
        check_eq!(write_errno(&mut file, request.as_bytes()), 0, "write");
        file.read_exact(&mut [0; 100])?;
        check_in_use(report)?;
        let rest = Answer::read(&mut file, BUFFER).whole()?;
        check!(rest.ends_with(b"\n"), "the rest of {report} is cut");
        drop(file);
        remove()?;
        module::insert()?;
    }
    Ok(())
}

fn module_goes_with_processes_attached() -> Result<()> {
    let children = [Child::idle()?, Child::idle()?, Child::idle()?];
    for child in &children {
        attach(child.pid)?;
    }
    remove()?;
    check!(!Path::new(DIR).exists(), "folders are left");
    module::insert()?;
    check_eq!(
        module::folders()?,
        Vec::<sys::Pid>::new(),
        "folders of the new module"
    );
    attach(children[0].pid)?;
    detach(children[0].pid)
}

fn module_goes_with_exited_processes_attached() -> Result<()> {
    let mut children = [Child::idle()?, Child::idle()?];
    for child in &children {
        attach(child.pid)?;
    }
    children[0].make_zombie()?;
    children[1].kill()?;
    remove()?;
    module::insert()
}

fn detached_while_its_file_is_open() -> Result<()> {
    let mut puppet = Stage::new(1)?.start()?;
    puppet.map_written(300, 1)?;
    for read_before in [0, 100] {
        attach(puppet.pid)?;
        let mut file = File::open(format!("{DIR}/{}/anon_vma", puppet.pid))?;
        file.read_exact(&mut vec![0; read_before])?;
        detach(puppet.pid)?;
        let answer = Answer::read(&mut file, BUFFER);
        check!(answer.errno != 0, "a removed file can be read: {answer:?}");
        let error = module::remove()
            .err()
            .context("removed under a file that was detached")?;
        check_eq!(sys::errno(&error), libc::EWOULDBLOCK, "errno");
        drop(file);
        check_eq!(module::references()?, 0, "references at the end");
    }
    remove()?;
    module::insert()
}

fn removed_under_readers() -> Result<()> {
    let mut puppet = Stage::new(1)?.start()?;
    puppet.exec()?;
    puppet.map_written(10, 1)?;
    let pid = puppet.pid;
    let stop = AtomicBool::new(false);
    let (whole, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let by_query = || -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            // The files may be there, or half there, or not.
            let Ok((0, answer)) = query(format!("anon_vma {pid}").as_bytes()) else {
                failed.fetch_add(1, Ordering::Relaxed);
                thread::yield_now();
                continue;
            };
            if answer.errno == 0 {
                parse_anon(&answer.text)?;
                whole.fetch_add(1, Ordering::Relaxed);
            } else {
                check_eq!(answer.errno, libc::EIO, "errno of a read: {answer:?}");
                failed.fetch_add(1, Ordering::Relaxed);
            }
            // Room for the remover.
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    };
    let by_folder = || -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            if attach(pid).is_err() {
                failed.fetch_add(1, Ordering::Relaxed);
            }
            if let Ok(answer) = module::read_file(&format!("{pid}/sockets")) {
                check!(
                    [0, libc::EIO].contains(&answer.errno),
                    "errno of a read: {answer:?}"
                );
            }
            thread::sleep(Duration::from_millis(3));
        }
        Ok(())
    };
    let removed = thread::scope(|scope| -> Result<usize> {
        let readers = [scope.spawn(by_query), scope.spawn(by_query)];
        let other = scope.spawn(by_folder);
        let start = Instant::now();
        let mut removed = 0;
        let mut remover = || -> Result<()> {
            while start.elapsed() < Duration::from_secs(3) || removed < 10 {
                match module::remove() {
                    Ok(()) => {
                        removed += 1;
                        module::insert()?;
                        thread::sleep(Duration::from_millis(5));
                    }
                    Err(e) => check_eq!(sys::errno(&e), libc::EWOULDBLOCK, "errno of removing"),
                }
            }
            Ok(())
        };
        let result = remover();
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().map_err(|_| anyhow!("a reader panicked"))??;
        }
        other
            .join()
            .map_err(|_| anyhow!("the other reader panicked"))??;
        result?;
        Ok(removed)
    })?;
    let whole = whole.into_inner();
    check!(
        whole >= 20 && removed >= 10,
        "{whole} reports read, {removed} times removed"
    );
    module::detach_all()
}

fn ids_change_when_it_is_inserted_anew() -> Result<()> {
    let area = Area::map(1)?;
    area.touch();
    let before = chain(&anon(sys::getpid())?, area)?[0].id;
    check_eq!(
        chain(&anon(sys::getpid())?, area)?[0].id,
        before,
        "id, asked twice"
    );
    remove()?;
    module::insert()?;
    let after = chain(&anon(sys::getpid())?, area)?[0].id;
    check!(
        before != after,
        "the id is {after} again: the key is not random"
    );
    Ok(())
}

/// Checks that nobody but us is in an area's tree.
fn check_alone(area: Area) -> Result<()> {
    let report = anon(sys::getpid())?;
    let root = chain(&report, area)?[0];
    check_members(root, area, &[(sys::getpid(), Relation::Self_)])?;
    check_eq!(numbers(root), (0, 1, 1, 1, 1), "numbers of the root");
    Ok(())
}

fn reports_keep_no_memory_of_the_process() -> Result<()> {
    let area = Area::map(1)?;
    area.touch();
    let mut child = Child::idle()?;
    attach(child.pid)?;
    for _ in 0..50 {
        for report in REPORTS {
            report_text(report, child.pid)?;
            module::read_file(&format!("{}/{report}", child.pid))?.whole()?;
        }
    }
    child.kill()?;
    // A reference kept on its mm would keep its VMAs in the tree.
    check_alone(area)?;
    detach(child.pid)
}

fn abandoned_report_keeps_no_memory_of_the_process() -> Result<()> {
    let area = Area::map(1)?;
    area.touch();
    let mut child = Child::spawn(|link| {
        for _ in 0..200 {
            Area::map(1)?.touch();
        }
        link.send("mapped")?;
        link.recv().map(drop)
    })?;
    check_eq!(child.link.recv()?, "mapped", "what the child says");
    for _ in 0..50 {
        for report in REPORTS {
            let mut file = open_query()?;
            check_eq!(
                write_errno(&mut file, format!("{report} {}", child.pid).as_bytes()),
                0,
                "write"
            );
            file.read_exact(&mut [0; 50])?;
        }
    }
    child.kill()?;
    check_alone(area)
}

fn reports_keep_no_file_open() -> Result<()> {
    let (ours, mut theirs) = UnixStream::pair()?;
    let fd = ours.as_raw_fd();
    for _ in 0..100 {
        let report = sockets(sys::getpid())?;
        check_eq!(socket(&report, &fd)?.file_refs, 1, "file_refs");
        report_text("skbs", sys::getpid())?;
    }
    drop(ours);
    theirs.set_nonblocking(true)?;
    let read = theirs
        .read(&mut [0; 10])
        .context("the other end is kept open")?;
    check_eq!(read, 0, "bytes at the end of the stream");
    Ok(())
}

/// KiB of kernel memory that is not for files.
fn kernel_kib() -> Result<i64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let field = |name: &str| -> Result<i64> {
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .context("no such field")?;
        Ok(line
            .split_whitespace()
            .nth(1)
            .context("no number")?
            .parse()?)
    };
    Ok(field("SUnreclaim:")? + field("VmallocUsed:")?)
}

fn reports_leak_no_kernel_memory() -> Result<()> {
    const ROUNDS: usize = 300;
    let mut puppet = Stage::new(1)?.start()?;
    puppet.exec()?;
    puppet.map_written(20, 1)?;
    let child = Child::idle()?;
    let round = || -> Result<()> {
        for report in REPORTS {
            report_text(report, puppet.pid)?;
            let mut file = open_query()?;
            check_eq!(
                write_errno(&mut file, format!("{report} {}", puppet.pid).as_bytes()),
                0,
                "write"
            );
            file.read_exact(&mut [0; 50])?;
        }
        query(b"rubbish")?;
        query(b"anon_vma 2")?;
        attach(child.pid)?;
        module::read_file("attached")?.whole()?;
        detach(child.pid)
    };
    (0..30).try_for_each(|_| round())?;
    let before = kernel_kib()?;
    (0..ROUNDS).try_for_each(|_| round())?;
    let grown = kernel_kib()? - before;
    // One page kept by each round would be 1200 KiB.
    check!(
        grown < 1000,
        "{ROUNDS} rounds of all reports left {grown} KiB more in use"
    );
    Ok(())
}

fn exit_in_the_middle_of_a_report() -> Result<()> {
    let mut errors = 0;
    for read_before in [1, 100, 1000, 20_000] {
        let mut child = Child::spawn(|link| {
            for _ in 0..400 {
                Area::map(1)?.touch();
            }
            link.send("mapped")?;
            link.recv().map(drop)
        })?;
        child.link.recv()?;
        let mut file = open_query()?;
        check_eq!(
            write_errno(&mut file, format!("anon_vma {}", child.pid).as_bytes()),
            0,
            "write"
        );
        let mut text = vec![0; read_before];
        file.read_exact(&mut text)?;
        child.kill()?;
        let rest = Answer::read(&mut file, 1000);
        text.extend_from_slice(&rest.text);
        let text = String::from_utf8(text)?;
        let last = text.lines().last().context("no text")?;
        if rest.errno == 0 {
            parse_anon(text.as_bytes())?;
        } else {
            errors += 1;
            check_eq!(rest.errno, libc::ESRCH, "errno");
            let want = format!(
                "error report=anon_vma pid={} errno=ESRCH message=",
                child.pid
            );
            check!(last.starts_with(&want), "last line: {last}");
        }
    }
    check!(
        errors > 0,
        "reports of 400 VMAs went on although the process had exited"
    );
    Ok(())
}

fn fatal_signal_ends_a_reader() -> Result<()> {
    let mut puppet = Stage::new(1)?.start()?;
    puppet.map_written(100, 1)?;
    let pid = puppet.pid;
    for _ in 0..10 {
        let mut reader = Child::spawn(move |link| {
            let mut file = open_query()?;
            link.send("reading")?;
            loop {
                check_eq!(
                    write_errno(&mut file, format!("anon_vma {pid}").as_bytes()),
                    0,
                    "write"
                );
                Answer::read(&mut file, 300).whole()?;
            }
        })?;
        check_eq!(reader.link.recv()?, "reading", "what the reader says");
        let start = Instant::now();
        reader.kill()?;
        check!(
            start.elapsed() < Duration::from_secs(2),
            "the reader took {:?}",
            start.elapsed()
        );
    }
    check_eq!(
        module::references()?,
        0,
        "references after the readers' death"
    );
    Ok(())
}
