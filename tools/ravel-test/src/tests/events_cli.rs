// SPDX-License-Identifier: GPL-2.0
//! `ravel events`, on the live module.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use ravel_records::{Event, Failed, Streams};

use crate::module;
use crate::stream::{Forker, Made, check_numbers, children, client};
use crate::sys;
use crate::{check, check_eq, tests};

tests!("cli_events":
    stream_is_made_listed_and_removed,
    printed_events_are_acknowledged,
    events_are_printed_as_they_come,
    killed_reader_leaves_what_it_did_not_print,
    failed_is_shown_replayed_and_cleared,
    what_cannot_be_is_a_sentence_and_exit_1,
);

fn command(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(module::beside("ravel")?);
    command.arg("events").args(args).stdin(Stdio::null());
    Ok(command)
}

fn ravel(args: &[&str]) -> Result<Output> {
    command(args)?.output().context("run ravel")
}

/// Its stdout, where it went well and said nothing else.
fn out_of(args: &[&str]) -> Result<String> {
    let output = ravel(args)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{args:?}: {errors}");
    check_eq!(errors, "", "stderr of {args:?}");
    Ok(String::from_utf8(output.stdout)?)
}

fn parse(lines: &str) -> Result<Vec<Event>> {
    lines
        .lines()
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}

fn stream_is_made_listed_and_removed() -> Result<()> {
    let forker = Forker::new(None)?;
    let pid = forker.pid().to_string();
    let made = out_of(&[
        "create",
        "mine",
        "--sources",
        "fork,exit",
        "--tree",
        &pid,
        "--bytes",
        "65536",
        "--attempts",
        "7",
    ])?;
    check_eq!(made, "", "stdout of create");
    let kept = Made("mine");
    let listed: Streams = serde_json::from_str(&out_of(&["list", "--json"])?)?;
    check_eq!(listed.streams, [kept.state()?], "the list");
    let stream = &listed.streams[0];
    check_eq!(
        (
            stream.sources.as_str(),
            stream.pid as i32,
            stream.bytes,
            stream.max_attempts
        ),
        ("fork,exit", forker.pid(), 65536, 7),
        "what was asked for"
    );
    let table = out_of(&["list"])?;
    for part in [
        "mine",
        "fork,exit",
        &format!("{pid} and below"),
        "1 stream of 16",
    ] {
        check!(table.contains(part), "no {part:?} in {table}");
    }
    check_eq!(out_of(&["remove", "mine"])?, "", "stdout of remove");
    check_eq!(client().streams()?.streams, [], "streams at the end");
    Ok(())
}

fn printed_events_are_acknowledged() -> Result<()> {
    let mut forker = Forker::new(None)?;
    let stream = Made::new("printed", &format!("sources=fork tree={}", forker.pid()))?;
    let pids = forker.fork(300)?;
    let first = parse(&out_of(&["read", "printed", "--json", "--count", "120"])?)?;
    check_eq!(children(&first), pids[..120], "children");
    check_eq!(stream.state()?.acked, 120, "acknowledged");
    let rest = parse(&out_of(&["read", "printed", "--json", "--no-wait"])?)?;
    check_eq!(children(&rest), pids[120..], "the other children");
    check_eq!(
        check_numbers(&[first, rest].concat(), 1)?,
        301,
        "the number behind the last"
    );
    check_eq!(
        out_of(&["read", "printed", "--no-wait"])?,
        "",
        "what is left"
    );
    let more = forker.fork(2)?;
    let shown = out_of(&["read", "printed", "--no-wait"])?;
    check_eq!(shown.lines().count(), 2, "lines");
    for child in more {
        check!(
            shown.contains(&format!(" made {child}\n")),
            "no {child} in {shown}"
        );
    }
    Ok(())
}

fn events_are_printed_as_they_come() -> Result<()> {
    let mut forker = Forker::new(None)?;
    let _stream = Made::new("live", &format!("sources=fork tree={}", forker.pid()))?;
    let mut child = command(&["read", "live", "--json"])?
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no stdout")?);
    for round in 0..5 {
        let pids = forker.fork(1)?;
        let mut line = String::new();
        lines.read_line(&mut line)?;
        check_eq!(children(&parse(&line)?), pids, "child of round {round}");
    }
    // The stream goes, and the reader says so.
    client().control_streams("remove live")?;
    let mut line = String::new();
    check_eq!(lines.read_line(&mut line)?, 0, "bytes at the end");
    check_eq!(child.wait()?.code(), Some(1), "exit code");
    Ok(())
}

fn killed_reader_leaves_what_it_did_not_print() -> Result<()> {
    let mut forker = Forker::new(None)?;
    let stream = Made::new("pipe", &format!("sources=fork tree={}", forker.pid()))?;
    // More than fits into a pipe that nobody reads.
    let pids = forker.fork(600)?;
    let mut child = command(&["read", "pipe", "--json"])?
        .stdout(Stdio::piped())
        .spawn()?;
    while stream.state()?.acked < 256 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let mut before = 0;
    while stream.state()?.reserved == 0 || before != stream.state()?.acked {
        before = stream.state()?.acked;
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    child.kill()?;
    child.wait()?;
    let acked = stream.state()?.acked as usize;
    check!(
        acked < pids.len(),
        "all were printed: the test shows nothing"
    );
    let rest = parse(&out_of(&["read", "pipe", "--json", "--no-wait"])?)?;
    check_eq!(children(&rest), pids[acked..], "what was not acknowledged");
    check!(
        rest.iter().any(|event| event.attempt() == 2),
        "nothing came again"
    );
    Ok(())
}

fn failed_is_shown_replayed_and_cleared() -> Result<()> {
    let mut forker = Forker::new(None)?;
    let stream = Made::new(
        "sad",
        &format!("sources=fork attempts=1 tree={}", forker.pid()),
    )?;
    let pids = forker.fork(3)?;
    drop(stream.reader()?.batch()?.context("nothing is ready")?);
    let failed: Failed = serde_json::from_str(&out_of(&["failed", "sad", "--json"])?)?;
    check_eq!(children(&failed.events), pids, "what failed");
    check_eq!(out_of(&["failed", "sad"])?.lines().count(), 3, "lines");
    check_eq!(
        out_of(&["failed", "sad", "--seq", "2"])?.lines().count(),
        1,
        "lines of one"
    );
    out_of(&["failed", "sad", "--clear", "--seq", "2"])?;
    out_of(&["failed", "sad", "--replay"])?;
    check_eq!(out_of(&["failed", "sad"])?, "", "what failed, after that");
    let again = parse(&out_of(&["read", "sad", "--json", "--no-wait"])?)?;
    check_eq!(children(&again), [pids[0], pids[2]], "what came again");
    Ok(())
}

fn what_cannot_be_is_a_sentence_and_exit_1() -> Result<()> {
    let _stream = Made::new("taken", "sources=exit bytes=16384")?;
    let dead = {
        let mut child = crate::process::Child::idle()?;
        child.kill()?;
        child.pid.to_string()
    };
    for (args, part) in [
        (&["create", "taken", "--sources", "fork"][..], "already"),
        (
            &["create", "a", "--sources", "fork", "--pid", &dead],
            "no process",
        ),
        (&["create", "a/b", "--sources", "fork"], "letters, digits"),
        (&["remove", "none"], "there is no stream \"none\""),
        (&["read", "none"], "there is no stream \"none\""),
        (&["failed", "none"], "there is no stream \"none\""),
        (
            &["failed", "taken", "--clear", "--seq", "9"],
            "no such record",
        ),
    ] {
        let output = ravel(args)?;
        check_eq!(output.status.code(), Some(1), "exit code of {args:?}");
        let errors = String::from_utf8_lossy(&output.stderr);
        check!(errors.contains(part), "no {part:?} in {errors}");
        check!(errors.contains("try: "), "no remedy in {errors}");
    }
    check_eq!(
        ravel(&["create", "a"])?.status.code(),
        Some(2),
        "exit code without sources"
    );
    check_eq!(
        client().streams()?.streams.len(),
        1,
        "streams at the end of {}",
        sys::getpid()
    );
    Ok(())
}
