// SPDX-License-Identifier: GPL-2.0
//! `ravel events --spool` and `--read`: what happened is in files, whenever who wrote them was killed.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ravel_records::Event;

use crate::harness::say;
use crate::module;
use crate::random::Random;
use crate::stream::{Forker, Made, check_numbers, children, lost};
use crate::sys;
use crate::tier::{patience, scale};
use crate::{check, check_eq, tests};

tests!("spool":
    what_is_written_is_read_once,
    acknowledged_only_when_on_the_disk,
    killed_at_any_moment_loses_and_doubles_nothing [300 s],
    flood_is_in_files_or_counted [120 s],
    signal_ends_it_between_batches,
    full_disk_acknowledges_nothing,
    every_new_folder_is_on_the_disk,
    what_failed_is_taken_in_again,
    what_cannot_be_is_a_sentence_and_exit_1,
);

/// A folder on the disk, where fsync() does something, that goes at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Result<Self> {
        let path = Path::new("/var/tmp").join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn command(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(module::beside("ravel")?);
    command.arg("events").args(args).stdin(Stdio::null());
    Ok(command)
}

fn run(args: &[&str]) -> Result<Output> {
    command(args)?.output().context("run ravel")
}

/// Spools what there is, to the end.
fn spool(stream: &str, folder: &Folder) -> Result<()> {
    let output = run(&["--stream", stream, "--spool", folder.path(), "--no-wait"])?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "spooling: {errors}");
    check_eq!(errors, "", "what spooling says");
    Ok(())
}

fn start(stream: &str, folder: &Folder) -> Result<Child> {
    let args = ["--stream", stream, "--spool", folder.path()];
    command(&args)?
        .stderr(Stdio::piped())
        .spawn()
        .context("start ravel")
}

/// What a spool has, and the sentence about it.
fn read(folder: &Folder) -> Result<(Vec<Event>, String)> {
    let output = run(&["--read", folder.path(), "--json"])?;
    let errors = String::from_utf8(output.stderr)?;
    ensure!(output.status.success(), "reading: {errors}");
    let lines = String::from_utf8(output.stdout)?;
    let events: Result<Vec<Event>, _> = lines.lines().map(serde_json::from_str).collect();
    Ok((events?, errors))
}

/// The same in the order of numbers, that go from 1 on without a gap.
fn read_all(folder: &Folder, upto: u64) -> Result<(Vec<Event>, String)> {
    let (mut events, said) = read(folder)?;
    events.sort_by_key(Event::seq);
    check_eq!(
        check_numbers(&events, 1)?,
        upto + 1,
        "the number behind the last"
    );
    Ok((events, said))
}

/// A folder is on the disk only once the one above it has been synced.
fn every_new_folder_is_on_the_disk() -> Result<()> {
    let folder = Folder::new("deep")?;
    let mut forker = Forker::new(None)?;
    let _stream = Made::new("deep", &format!("sources=fork tree={}", forker.pid()))?;
    forker.fork(3)?;
    let (deep, trace) = (folder.0.join("a/b/c"), folder.0.join("trace"));
    let output = Command::new("strace")
        .args(["-f", "-y", "-e", "trace=fsync,fdatasync,write", "-o"])
        .arg(&trace)
        .arg(module::beside("ravel")?)
        .args(["events", "--stream", "deep", "--no-wait", "--spool"])
        .arg(&deep)
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    let trace = fs::read_to_string(trace)?;
    let first = trace.find("00000001.jsonl").context("nothing is written")?;
    for path in ["/a/b", "/a", ""] {
        let path = format!("fsync({}{path}>)", folder.path());
        let synced = trace.lines().position(|line| {
            let line = line.split_once('<').map(|(call, rest)| {
                let name = call.split('(').next().unwrap_or_default();
                let name = name.split_whitespace().last().unwrap_or_default();
                format!("{name}({rest}")
            });
            line.is_some_and(|line| line.starts_with(&path))
        });
        let before = trace[..first].lines().count();
        check!(
            synced.is_some_and(|at| at < before),
            "{path} is not there before the first write: {trace}"
        );
    }
    Ok(())
}

fn what_is_written_is_read_once() -> Result<()> {
    let folder = Folder::new("once")?;
    let mut forker = Forker::new(None)?;
    let stream = Made::new("once", &format!("sources=fork tree={}", forker.pid()))?;
    let mut pids = forker.fork(50)?;
    spool("once", &folder)?;
    pids.extend(forker.fork(20)?);
    spool("once", &folder)?;
    check_eq!(stream.state()?.acked, 70, "acknowledged");
    let (events, said) = read_all(&folder, 70)?;
    check_eq!(children(&events), pids, "children");
    check!(
        said.contains("70 records in 2 segments"),
        "it says {said:?}"
    );
    let output = run(&["--read", folder.path(), "--json"])?;
    let first: serde_json::Value = serde_json::from_slice(
        output
            .stdout
            .split(|byte| *byte == b'\n')
            .next()
            .unwrap_or(b""),
    )?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let name = fs::read_to_string("/proc/sys/kernel/hostname")?;
    check_eq!(
        [&first["host"], &first["boot"], &first["stream"]],
        [name.trim(), boot.trim(), "once"],
        "where it is from"
    );
    let text = String::from_utf8(run(&["--read", folder.path()])?.stdout)?;
    check_eq!(text.lines().count(), 71, "lines for people");
    Ok(())
}

/// By strace: what acknowledges comes after an fsync() that comes after the write of the batch.
fn acknowledged_only_when_on_the_disk() -> Result<()> {
    let folder = Folder::new("synced")?;
    let mut forker = Forker::new(None)?;
    let _stream = Made::new("synced", &format!("sources=fork tree={}", forker.pid()))?;
    forker.fork(300)?;
    let trace = folder.0.with_extension("strace");
    let status = Command::new("strace")
        .args(["-s", "16", "-e", "trace=write,fdatasync,fsync", "-o"])
        .arg(&trace)
        .arg(module::beside("ravel")?)
        .args([
            "events",
            "--stream",
            "synced",
            "--spool",
            folder.path(),
            "--no-wait",
        ])
        .status()?;
    ensure!(status.success(), "strace ended with {status}");
    let text = fs::read_to_string(&trace)?;
    fs::remove_file(&trace)?;
    let calls: Vec<&str> = text
        .lines()
        .filter(|line| line.ends_with(" = 0") || !line.contains("sync("))
        .map(|line| {
            let word = |part| line.contains(part);
            match () {
                () if word("\"ack\"") => "ack",
                () if word("\"{") => "write",
                () if word("sync(") => "sync",
                () => "",
            }
        })
        .filter(|call| !call.is_empty())
        .collect();
    // Before the first, every new folder is in the one above, and the file's name in its folder.
    let begun = calls.iter().take_while(|call| **call == "sync").count();
    check!(begun > 0, "nothing is synced first: {text}");
    let wanted = ["write", "sync", "sync", "ack", "write", "sync", "ack"];
    check_eq!(calls[begun..], wanted, "system calls in {text}");
    Ok(())
}

fn killed_at_any_moment_loses_and_doubles_nothing() -> Result<()> {
    let folder = Folder::new("killed")?;
    let mut forker = Forker::new(None)?;
    let terms = format!("sources=fork bytes=8388608 tree={}", forker.pid());
    let stream = Made::new("killed", &terms)?;
    let seed = Random::seed()?;
    let mut random = Random::new(seed);
    let mut pids = Vec::new();
    let kills = scale(25, 10);
    for _ in 0..kills {
        forker.begin(random.below(40))?;
        let mut writer = start("killed", &folder)?;
        thread::sleep(Duration::from_micros(random.below(200_000) as u64));
        writer.kill()?;
        writer.wait()?;
        pids.extend(forker.end()?);
    }
    spool("killed", &folder)?;
    let state = stream.state()?;
    check_eq!(state.events, pids.len() as u64, "events that happened");
    check_eq!(state.acked, state.events, "acknowledged (seed {seed})");
    let (events, said) = read_all(&folder, state.events)?;
    check_eq!(children(&events), pids, "children (seed {seed})");
    check_eq!(lost(&events), 0, "lost");
    say(format!(
        "{kills} kills, {} events, {} deliveries: {}",
        state.events,
        state.attempts,
        said.trim()
    ));
    Ok(())
}

fn flood_is_in_files_or_counted() -> Result<()> {
    let folder = Folder::new("flood")?;
    let mut forker = Forker::new(None)?;
    let terms = format!("sources=fork,exit bytes=16384 tree={}", forker.pid());
    let stream = Made::new("flood", &terms)?;
    let mut random = Random::new(Random::seed()?);
    let mut forked = 0;
    for _ in 0..scale(6, 3) {
        forker.begin(80)?;
        let mut writer = start("flood", &folder)?;
        thread::sleep(Duration::from_micros(random.below(200_000) as u64));
        writer.kill()?;
        writer.wait()?;
        forked += forker.end()?.len();
    }
    spool("flood", &folder)?;
    let happened = stream.state()?.events;
    check_eq!(happened, 2 * forked as u64, "events that happened");
    let (events, said) = read_all(&folder, happened)?;
    let lost = lost(&events);
    let told = events
        .iter()
        .filter(|event| !matches!(event, Event::Loss(_)));
    check_eq!(told.count() as u64 + lost, happened, "delivered and lost");
    check!(lost > 0, "nothing was lost: the test shows nothing");
    check!(
        said.contains(&format!("{lost} events lost")),
        "it says {said:?}"
    );
    say(format!("{happened} events: {}", said.trim()));
    Ok(())
}

fn signal_ends_it_between_batches() -> Result<()> {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let folder = Folder::new("ended")?;
        let mut forker = Forker::new(None)?;
        let stream = Made::new("ended", &format!("sources=fork tree={}", forker.pid()))?;
        let mut writer = start("ended", &folder)?;
        forker.fork(10)?;
        while stream.state()?.acked < 10 {
            thread::sleep(Duration::from_millis(5));
        }
        forker.begin(100)?;
        thread::sleep(Duration::from_millis(20));
        sys::kill(writer.id() as i32, signal)?;
        check_eq!(writer.wait()?.code(), Some(0), "exit code");
        let state = stream.state()?;
        check_eq!(state.reserved, 0, "reserved");
        let (events, said) = read(&folder)?;
        check_eq!(events.len() as u64, state.acked, "records on the disk");
        check!(!said.contains("delivered again"), "it says {said:?}");
        forker.end()?;
    }
    Ok(())
}

fn full_disk_acknowledges_nothing() -> Result<()> {
    let folder = Folder::new("full")?;
    sys::mount("tmpfs", &folder.0, "tmpfs", 0)?;
    let mut forker = Forker::new(None)?;
    let stream = Made::new("full", &format!("sources=fork tree={}", forker.pid()))?;
    let resize = |size: &str| -> Result<()> {
        let status = Command::new("mount")
            .args(["-o", &format!("remount,size={size}"), folder.path()])
            .status()?;
        ensure!(status.success(), "remount: {status}");
        Ok(())
    };
    resize("16384")?;
    let pids = forker.fork(200)?;
    let output = run(&[
        "--stream",
        "full",
        "--spool",
        folder.path(),
        "--count",
        "40",
    ])?;
    ensure!(output.status.success(), "there was no room for the first");
    let output = run(&["--stream", "full", "--spool", folder.path(), "--no-wait"])?;
    check_eq!(
        output.status.code(),
        Some(1),
        "exit code where the disk is full"
    );
    let errors = String::from_utf8_lossy(&output.stderr);
    check!(
        errors.contains("No space left") && errors.contains("try: df"),
        "it says {errors}"
    );
    let acked = stream.state()?.acked;
    check_eq!(acked, 40, "acknowledged");
    let (before, said) = read(&folder)?;
    check_eq!(before.len() as u64, acked, "records on the disk");
    check!(said.contains("that a crash cut off"), "it says {said:?}");
    resize("10485760")?;
    spool("full", &folder)?;
    check_eq!(children(&read_all(&folder, 200)?.0), pids, "children");
    let status = Command::new("umount").arg(folder.path()).status()?;
    ensure!(status.success(), "umount: {status}");
    Ok(())
}

fn what_failed_is_taken_in_again() -> Result<()> {
    let folder = Folder::new("mended")?;
    let mut forker = Forker::new(None)?;
    let terms = format!("sources=fork attempts=1 tree={}", forker.pid());
    let stream = Made::new("mended", &terms)?;
    let pids = forker.fork(5)?;
    drop(stream.reader()?.batch()?.context("nothing is ready")?);
    check_eq!(stream.state()?.failed, 5, "failed");
    spool("mended", &folder)?;
    check_eq!(children(&read_all(&folder, 5)?.0), pids, "children");
    // And what fails while it waits for more.
    let mut writer = start("mended", &folder)?;
    let mut other = stream.reader()?;
    let end = sys::boot_ns()? + patience(60).as_nanos() as u64;
    let (mut all, mut taken) = (pids, 0);
    while taken == 0 {
        check!(
            sys::boot_ns()? < end,
            "the other reader never gets anything"
        );
        all.extend(forker.fork(1)?);
        taken += other.batch()?.map_or(0, |batch| batch.events.len());
    }
    other.give_back(0)?;
    while stream.state()?.acked < all.len() as u64 {
        check!(sys::boot_ns()? < end, "what failed stays failed");
        thread::sleep(Duration::from_millis(50));
    }
    sys::kill(writer.id() as i32, libc::SIGTERM)?;
    check_eq!(writer.wait()?.code(), Some(0), "exit code");
    check_eq!(
        children(&read_all(&folder, all.len() as u64)?.0),
        all,
        "all children"
    );
    Ok(())
}

fn what_cannot_be_is_a_sentence_and_exit_1() -> Result<()> {
    let folder = Folder::new("busy")?;
    let _stream = Made::new("busy", "sources=exit bytes=16384")?;
    let mut writer = start("busy", &folder)?;
    thread::sleep(patience(1));
    let path = folder.path();
    for (args, part) in [
        (
            &["--stream", "busy", "--spool", path][..],
            "another ravel writes",
        ),
        (
            &["--stream", "none", "--spool", path],
            "there is no stream \"none\"",
        ),
        (
            &["--stream", "busy", "--spool", "/proc/none"],
            "cannot use the spool",
        ),
        (&["--read", "/var/tmp/none"], "cannot use the spool"),
    ] {
        let output = run(args)?;
        check_eq!(output.status.code(), Some(1), "exit code of {args:?}");
        let errors = String::from_utf8_lossy(&output.stderr);
        check!(errors.contains(part), "no {part:?} in {errors}");
        check!(errors.contains("try: "), "no remedy in {errors}");
    }
    for (args, code) in [
        (&["--json"][..], 1),
        (&["--read", path, "--spool", path], 2),
        (&["--stream", "busy", "list"], 2),
    ] {
        check_eq!(
            run(args)?.status.code(),
            Some(code),
            "exit code of {args:?}"
        );
    }
    writer.kill()?;
    writer.wait()?;
    let mut said = String::new();
    writer
        .stderr
        .take()
        .context("no stderr")?
        .read_to_string(&mut said)?;
    check_eq!(said, "", "what the first one says");
    // Damage is no crash, and is told so.
    let line = "{\"spool\":1,\"host\":\"a\",\"boot\":\"b\",\"stream\":\"c\"}\n{\"records\":0,\"crc32\":\"00000000\"}\n";
    fs::write(folder.0.join("00000007.jsonl"), line)?;
    let output = run(&["--read", path])?;
    check_eq!(output.status.code(), Some(1), "exit code of damage");
    let errors = String::from_utf8_lossy(&output.stderr);
    check!(
        errors.contains("damaged") && errors.contains("try: "),
        "it says {errors}"
    );
    Ok(())
}
