// SPDX-License-Identifier: GPL-2.0
//! Each allocation that is made for streams of events fails once.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use ravel_records::Batch;

use super::events_leases::{filled, next};
use super::faults::{Came, can_be_made, errno_of, prepare, with_fault};
use super::packets_probes::probed;
use crate::module::{self, DIR, read_file, write_errno, write_file};
use crate::process::Child;
use crate::stream::{Forker, Made, client};
use crate::sys;
use crate::{check, check_eq, tests};

tests!("faults" when can_be_made:
    each_allocation_of_making_a_stream_fails_once [300 s],
    each_allocation_of_removing_a_stream_fails_once [300 s],
    each_allocation_of_a_lease_fails_once [300 s],
    each_allocation_of_what_failed_fails_once [300 s],
    each_allocation_of_the_lists_fails_once [120 s],
);

/// The list of streams, that nothing changes by itself where nothing happens.
fn streams_text() -> Result<String> {
    Ok(String::from_utf8(read_file("streams")?.whole()?)?)
}

fn is_there(name: &str) -> bool {
    Path::new(&format!("{DIR}/events/{name}")).exists()
}

/// What came of something of several steps: the first errno, 0 where all went well.
fn errno_of_steps(steps: std::io::Result<()>) -> i32 {
    steps.err().map_or(0, |error| sys::errno(&error))
}

fn step(errno: i32) -> std::io::Result<()> {
    match errno {
        0 => Ok(()),
        errno => Err(std::io::Error::from_raw_os_error(errno)),
    }
}

fn open(name: &str) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("{DIR}/{name}"))
}

/// A buffer that has its memory: nothing is allocated when the module writes to it.
fn buffer() -> Vec<u8> {
    vec![1; 64 << 10]
}

/// Reads to the end, into that buffer piece by piece.
fn read_all(file: &mut File, part: &mut [u8], text: &mut Vec<u8>) -> std::io::Result<()> {
    loop {
        match file.read(part)? {
            0 => return Ok(()),
            len => text.extend_from_slice(&part[..len]),
        }
    }
}

fn each_allocation_of_making_a_stream_fails_once() -> Result<()> {
    prepare()?;
    let mut forker = Forker::new(None)?;
    let other = Made::new("other", &format!("sources=fork pid={}", forker.pid()))?;
    let before = streams_text()?;
    for (what, terms) in [
        ("all", "sources=fork,exec,exit bytes=16384".to_owned()),
        (
            "pid",
            format!("sources=exit bytes=65536 pid={}", forker.pid()),
        ),
        ("tree", format!("sources=fork,exit tree={}", forker.pid())),
        ("packet", "sources=packet bytes=16384 port=9".to_owned()),
    ] {
        let request = format!("create broken {terms}");
        let came = Came::each(|nth| {
            let (errno, hit) = with_fault(nth, || write_file("streams", request.as_bytes()))?;
            let errno = errno_of(errno)?;
            if errno == 0 {
                check!(is_there("broken"), "it has no folder");
                check_eq!(
                    write_file("streams", b"remove broken")?,
                    0,
                    "errno of removing it"
                );
            } else {
                check_eq!(errno, libc::ENOMEM, "errno");
            }
            check!(!is_there("broken"), "its folder is left");
            check_eq!(streams_text()?, before, "streams");
            Ok((errno, hit))
        })?;
        came.tell(&format!("create of {what}"))?;
        // After all of these failures, one that works.
        let stream = Made::new("broken", &format!("sources=fork tree={}", forker.pid()))?;
        let pids = forker.fork(3)?;
        check_eq!(
            crate::stream::children(&stream.drain()?),
            pids,
            "children that the next stream tells"
        );
        check_eq!(other.drain()?.len(), 3, "events of the other stream");
        drop(stream);
        // Its counts begin anew.
        drop(client().control_streams("remove other"));
        client().control_streams(&format!("create other sources=fork pid={}", forker.pid()))?;
    }
    check_eq!(module::references()?, 0, "references at the end");
    Ok(())
}

fn each_allocation_of_removing_a_stream_fails_once() -> Result<()> {
    prepare()?;
    let mut forker = Forker::new(None)?;
    let other = Made::new("other", &format!("sources=fork tree={}", forker.pid()))?;
    let without = streams_text()?;
    let forks = format!("sources=fork,exec,exit tree={}", forker.pid());
    for (what, terms) in [
        ("tree", forks.as_str()),
        ("packet", "sources=packet port=9"),
    ] {
        let create = format!("create goes {terms}");
        let came = Came::each(|nth| {
            check_eq!(write_file("streams", create.as_bytes())?, 0, "create");
            let with = streams_text()?;
            let (errno, hit) = with_fault(nth, || write_file("streams", b"remove goes"))?;
            let errno = errno_of(errno)?;
            if errno != 0 {
                check_eq!(errno, libc::ENOMEM, "errno");
                check_eq!(streams_text()?, with, "streams after an error");
                check_eq!(write_file("streams", b"remove goes")?, 0, "the next try");
            }
            check_eq!(streams_text()?, without, "streams");
            check!(!is_there("goes"), "its folder is left");
            check!(probed()?.is_empty(), "its probes are left");
            Ok((errno, hit))
        })?;
        came.tell(&format!("remove of {what}"))?;
    }
    // The other stream's probes are as they were.
    let pids = forker.fork(3)?;
    check_eq!(
        crate::stream::children(&other.drain()?),
        pids,
        "children that the other stream tells"
    );
    Ok(())
}

fn each_allocation_of_a_lease_fails_once() -> Result<()> {
    prepare()?;
    let (stream, _, mut forker) = filled("lease", 4, "attempts=1000")?;
    let orders = [("text", "ack"), ("text", "release"), ("binary", "ack")];
    for (form, end) in orders {
        let terms = format!("lease events=3 ms=80000000 form={form}");
        let came = Came::each(|nth| {
            forker.fork(1)?;
            let before = streams_text()?;
            let (mut part, mut read) = (buffer(), Vec::new());
            let (errno, hit) = with_fault(nth, || {
                let mut steps = || -> std::io::Result<()> {
                    let mut file = open("events/lease/events")?;
                    step(write_errno(&mut file, terms.as_bytes()))?;
                    read_all(&mut file, &mut part, &mut read)?;
                    step(write_errno(&mut file, end.as_bytes()))
                };
                errno_of_steps(steps())
            })?;
            if errno == 0 {
                let batch = Batch::parse(&read)?;
                check!(
                    !batch.events.is_empty() && read.starts_with(b"batch ") == (form == "text"),
                    "not such a batch: {batch:?}"
                );
            } else {
                check_eq!(errno, libc::ENOMEM, "errno");
                check!(read.is_empty(), "an error after a batch was read");
                check_eq!(streams_text()?, before, "streams after an error");
            }
            // The next reader gets all, the oldest first.
            let mut reader = stream.reader()?;
            let batch = next(&mut reader)?;
            let first = batch.events.first().context("an empty batch")?.seq();
            let ready = stream.state()?;
            check_eq!(ready.ready, 0, "records that it did not get");
            check_eq!(
                ready.reserved + ready.acked,
                ready.events,
                "records that it got"
            );
            check_eq!(first, ready.acked + 1, "the first of them");
            if end == "ack" {
                reader.acknowledge(None)?;
                forker.fork(3)?;
            } else {
                reader.give_back(0)?;
            }
            Ok((errno, hit))
        })?;
        came.tell(&format!("open, lease in {form}, read and {end}"))?;
    }
    check_eq!(module::references()?, 0, "references at the end");
    Ok(())
}

fn each_allocation_of_what_failed_fails_once() -> Result<()> {
    prepare()?;
    // More than one chunk of text.
    let (stream, _, mut forker) = filled("mended", 600, "attempts=1")?;
    let fail = || -> Result<()> {
        let mut reader = stream.reader()?;
        reader.terms("events=4096 bytes=1048576")?;
        next(&mut reader)?;
        Ok(())
    };
    fail()?;
    let whole = read_file("events/mended/failed")?.whole()?;
    let state = streams_text()?;
    let came = Came::each(|nth| {
        let (mut part, mut text) = (buffer(), Vec::new());
        let (errno, hit) = with_fault(nth, || {
            let mut steps = || -> std::io::Result<()> {
                let mut file = open("events/mended/failed")?;
                let result = read_all(&mut file, &mut part, &mut text);
                if result.is_err() {
                    // Goes on where the error was.
                    read_all(&mut file, &mut part, &mut text)?;
                }
                result
            };
            errno_of_steps(steps())
        })?;
        check!([0, libc::ENOMEM].contains(&errno), "errno {errno}");
        check!(
            errno != 0 || text == whole,
            "it went well, and is another text"
        );
        // What was opened gives all, the failed read given again.
        check!(
            text.is_empty() || text == whole,
            "records twice, or not at all: {} bytes, wanted {}",
            text.len(),
            whole.len()
        );
        check!(
            read_file("events/mended/failed")?.whole()? == whole,
            "the next text is another"
        );
        check_eq!(streams_text()?, state, "streams");
        Ok((errno, hit))
    })?;
    came.tell("what failed")?;
    for order in ["replay", "replay 7", "clear 8", "clear"] {
        let came = Came::each(|nth| {
            let (errno, hit) =
                with_fault(nth, || write_file("events/mended/failed", order.as_bytes()))?;
            let errno = errno_of(errno)?;
            let now = stream.state()?;
            if errno == 0 {
                check!(now.failed < now.events, "{order} did nothing: {now:?}");
                if order.starts_with("replay") {
                    fail()?;
                } else {
                    // All anew: a stream with the same in it.
                    client().control_streams("remove mended")?;
                    let terms = format!("sources=fork tree={} attempts=1", forker.pid());
                    client().control_streams(&format!("create mended {terms}"))?;
                    forker.fork(20)?;
                    fail()?;
                }
            } else {
                check_eq!(errno, libc::ENOMEM, "errno");
                check_eq!(now.failed, now.events, "records that failed");
            }
            Ok((errno, hit))
        })?;
        came.tell(order)?;
    }
    Ok(())
}

fn each_allocation_of_the_lists_fails_once() -> Result<()> {
    prepare()?;
    let child = Child::idle()?;
    let _stream = Made::new("listed", &format!("sources=fork pid={}", child.pid))?;
    for name in ["streams", "sources"] {
        let whole = read_file(name)?.whole()?;
        let came = Came::each(|nth| {
            let (answer, hit) = with_fault(nth, || read_file(name))?;
            let errno = match answer {
                Ok(answer) => {
                    check!(
                        answer.errno != 0 || answer.text == whole,
                        "it went well, and is another text: {answer:?}"
                    );
                    answer.errno
                }
                Err(error) => errno_of(Err(error))?,
            };
            check!([0, libc::ENOMEM].contains(&errno), "errno {errno}");
            check!(read_file(name)?.whole()? == whole, "the next {name}");
            Ok((errno, hit))
        })?;
        came.tell(name)?;
    }
    Ok(())
}
