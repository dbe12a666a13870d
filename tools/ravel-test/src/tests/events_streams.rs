// SPDX-License-Identifier: GPL-2.0
//! Streams of events: made and removed, rightly and wrongly.

use std::os::fd::AsFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use ravel_records::Event;

use super::events::ALL;
use super::peers::wait_for;
use crate::module::{self, DIR, read_file, write_file};
use crate::process::Child;
use crate::stream::{Forker, Made, check_numbers, children, client, errno};
use crate::sys::{self, Forked};
use crate::tier::scale;
use crate::{check, check_eq, tests};

tests!("events":
    bad_requests_change_nothing,
    streams_are_bounded_in_number,
    made_and_removed_under_forks [120 s],
    removed_in_the_middle,
    what_goes_with_a_descriptor_goes,
    nothing_is_left_out_before_its_end [120 s],
    module_goes_with_streams_and_not_with_readers,
);

/// What must not change by what fails.
fn streams_text() -> Result<String> {
    Ok(String::from_utf8(read_file("streams")?.whole()?)?)
}

fn bad_requests_change_nothing() -> Result<()> {
    let nobody = {
        let mut child = Child::idle()?;
        child.kill()?;
        child.pid
    };
    let forker = Forker::new(None)?;
    let stream = Made::new("there", &format!("sources=fork pid={}", forker.pid()))?;
    let before = streams_text()?;
    let long = "x".repeat(32);
    for (request, errno) in [
        ("", libc::EINVAL),
        ("create", libc::EINVAL),
        ("create a", libc::EINVAL),
        ("create a sources=", libc::EINVAL),
        ("create a sources=fork,", libc::EINVAL),
        ("create a sources=fork,fork", libc::EINVAL),
        ("create a sources=Fork", libc::EINVAL),
        ("create a sources=fork sources=exit", libc::EINVAL),
        ("create a sources=fork bytes=16383", libc::EINVAL),
        ("create a sources=fork bytes=67108865", libc::EINVAL),
        ("create a sources=fork bytes=-1", libc::EINVAL),
        (
            "create a sources=fork bytes=99999999999999999999",
            libc::EINVAL,
        ),
        ("create a sources=fork attempts=0", libc::EINVAL),
        ("create a sources=fork attempts=1001", libc::EINVAL),
        ("create a sources=fork pid=0", libc::EINVAL),
        ("create a sources=fork pid=4194305", libc::EINVAL),
        ("create a sources=fork pid=1 tree=1", libc::EINVAL),
        ("create a sources=fork colour=red", libc::EINVAL),
        ("create a sources=fork  bytes=65536", libc::EINVAL),
        ("create a sources=fork ", libc::EINVAL),
        ("create a b sources=fork", libc::EINVAL),
        ("create a/b sources=fork", libc::EINVAL),
        ("create .. sources=fork", libc::EINVAL),
        ("create  sources=fork", libc::EINVAL),
        (&format!("create {long} sources=fork"), libc::EINVAL),
        (
            &format!("create a sources=fork{}", " ".repeat(250)),
            libc::EINVAL,
        ),
        ("create there sources=exit", libc::EEXIST),
        (&format!("create a sources=fork pid={nobody}"), libc::ESRCH),
        (&format!("create a sources=fork tree={nobody}"), libc::ESRCH),
        ("remove", libc::EINVAL),
        ("remove there now", libc::EINVAL),
        ("remove nowhere", libc::ENOENT),
        ("remove ..", libc::EINVAL),
        ("destroy there", libc::EINVAL),
        ("create a sources=fork\0", libc::EINVAL),
        ("create a sources=fork\n\n", libc::EINVAL),
    ] {
        check_eq!(
            write_file("streams", request.as_bytes())?,
            errno,
            "errno of {request:?}"
        );
        check_eq!(streams_text()?, before, "streams after {request:?}");
    }
    check_eq!(
        write_file("sources", b"fork")?,
        libc::EINVAL,
        "errno of writing to `sources`"
    );
    let mut reader = stream.reader()?;
    for request in [
        "x",
        "lease=1",
        "events=0",
        "events=4097",
        "bytes=1023",
        "bytes=1048577",
        "ms=0",
        "ms=86400001",
        "events=1 events=2",
        "ms=",
        "ms=1s",
    ] {
        check_eq!(
            errno(reader.terms(request)),
            libc::EINVAL,
            "errno of lease {request:?}"
        );
    }
    for request in [
        "",
        "ack x",
        "ack 1 2",
        "ack -1",
        "ack 0",
        "release x",
        "release 86400001",
    ] {
        let written = write_file("events/there/events", request.as_bytes())?;
        check_eq!(written, libc::EINVAL, "errno of {request:?}");
    }
    for request in ["ack", "ack 1", "release", "release 5"] {
        let written = write_file("events/there/events", request.as_bytes())?;
        check_eq!(
            written,
            libc::ENODATA,
            "errno of {request:?} without a batch"
        );
    }
    for (request, errno) in [
        ("", libc::EINVAL),
        ("replay all", libc::EINVAL),
        ("clear 0", libc::EINVAL),
        ("clear 1 2", libc::EINVAL),
        ("replay 7", libc::ENOENT),
        ("clear 7", libc::ENOENT),
        ("replay", 0),
        ("clear", 0),
    ] {
        let written = write_file("events/there/failed", request.as_bytes())?;
        check_eq!(written, errno, "errno of {request:?}");
    }
    check!(reader.batch()?.is_none(), "a batch out of nothing");
    check_eq!(streams_text()?, before, "streams at the end");
    Ok(())
}

fn streams_are_bounded_in_number() -> Result<()> {
    const NAMES: [&str; 17] = [
        "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "s12", "s13",
        "s14", "s15", "s16",
    ];
    let mut made = Vec::new();
    for name in &NAMES[..16] {
        made.push(Made::new(name, "sources=fork,exit bytes=16384")?);
    }
    let more = client().control_streams("create s16 sources=fork");
    check_eq!(errno(more), libc::ENOSPC, "errno of the 17th");
    let list = client().streams()?;
    check_eq!(
        (list.summary.streams, list.summary.limit),
        (16, 16),
        "streams and limit"
    );
    let names: Vec<_> = list
        .streams
        .iter()
        .map(|stream| stream.name.as_str())
        .collect();
    check_eq!(names, NAMES[..16], "names");
    // All of them see the same.
    let mut forker = Forker::new(None)?;
    let pids = forker.fork(3)?;
    for stream in &made {
        let mut told = children(&stream.drain()?);
        told.retain(|pid| pids.contains(pid));
        check_eq!(told, pids, "children in {}", stream.0);
    }
    made.remove(3);
    made.push(Made::new(NAMES[16], "sources=exit")?);
    Ok(())
}

fn made_and_removed_under_forks() -> Result<()> {
    let mut forkers = [Forker::new(Some(0))?, Forker::new(Some(1))?];
    let total = scale(600, 150);
    for forker in &mut forkers {
        forker.begin(total)?;
    }
    let pid = sys::getpid();
    for round in 0..scale(60, 20) {
        let filter = [String::new(), format!(" tree={pid}"), format!(" pid={pid}")];
        let terms = format!("{ALL} bytes=65536{}", filter[round % 3]);
        let stream = Made::new("brief", &terms)?;
        let events = stream.drain()?;
        check_numbers(&events, 1)?;
        drop(stream);
        check!(
            !Path::new(&format!("{DIR}/events/brief")).exists(),
            "round {round}: it is there"
        );
    }
    for forker in &mut forkers {
        check_eq!(forker.end()?.len(), total, "forks");
    }
    check_eq!(client().streams()?.streams, [], "streams at the end");
    Ok(())
}

fn removed_in_the_middle() -> Result<()> {
    let mut forker = Forker::new(None)?;
    let stream = Made::new(
        "middle",
        &format!("sources=fork,exit tree={}", forker.pid()),
    )?;
    forker.fork(20)?;
    let mut reader = stream.reader()?;
    let batch = reader.batch()?.context("no batch")?;
    check_eq!(batch.events.len(), 40, "events");
    let idle = stream.reader()?;
    thread::scope(|scope| -> Result<()> {
        let waiting = scope.spawn(|| sys::poll_for(&idle.as_fd(), libc::POLLIN, 20_000));
        thread::sleep(Duration::from_millis(50));
        client().control_streams("remove middle")?;
        let told = waiting.join().map_err(|_| anyhow!("it panicked"))??;
        check!(told & libc::POLLHUP != 0, "poll() tells {told:#x}");
        Ok(())
    })?;
    check_eq!(
        errno(reader.acknowledge(None)),
        libc::EIO,
        "errno of an acknowledgement"
    );
    check_eq!(errno(reader.batch()), libc::EIO, "errno of reading");
    check!(
        !Path::new(&format!("{DIR}/events/middle")).exists(),
        "the folder is there"
    );
    // The name is free, and another stream knows nothing of the one before.
    let again = Made::new("middle", &format!("sources=fork tree={}", forker.pid()))?;
    let pids = forker.fork(2)?;
    let events = again.drain()?;
    check_eq!(check_numbers(&events, 1)?, 3, "the number behind the last");
    check_eq!(children(&events), pids, "children");
    Ok(())
}

fn what_goes_with_a_descriptor_goes() -> Result<()> {
    let mut forker = Forker::new(None)?;
    let stays = Made::new("stays", &format!("sources=fork pid={}", forker.pid()))?;
    check!(!stays.state()?.until_close, "it goes with a descriptor");
    let create = format!("create goes sources=fork pid={}", forker.pid());
    let held = client().hold_stream(&create)?;
    // Whoever else opens and closes the list.
    let listed = client().streams()?.streams;
    check_eq!(
        listed
            .iter()
            .map(|stream| (stream.name.as_str(), stream.until_close))
            .collect::<Vec<_>>(),
        [("stays", false), ("goes", true)],
        "streams"
    );
    let mut reader = client().events("goes")?;
    let pids = forker.fork(2)?;
    let batch = reader.batch()?.context("no batch")?;
    check_eq!(children(&batch.events), pids, "children");
    drop(held);
    check_eq!(errno(reader.batch()), libc::EIO, "errno of reading");
    check!(
        !Path::new(&format!("{DIR}/events/goes")).exists(),
        "its folder is there"
    );
    // One that was removed meanwhile, and whose name has another by now.
    let held = client().hold_stream(&create)?;
    client().control_streams("remove goes")?;
    let other = Made::new("goes", &format!("sources=fork pid={}", forker.pid()))?;
    drop(held);
    let pids = forker.fork(1)?;
    check_eq!(children(&other.drain()?), pids, "children of the other");
    // Whoever has it is killed.
    let mut child = Child::spawn(move |link| {
        let _held = client().hold_stream("create killed sources=fork")?;
        link.send("made")?;
        link.wait().map(drop)
    })?;
    child.link.wait()?;
    check!(
        Path::new(&format!("{DIR}/events/killed")).exists(),
        "it is not there"
    );
    child.kill()?;
    check!(
        !Path::new(&format!("{DIR}/events/killed")).exists(),
        "it is there after its owner's end"
    );
    Ok(())
}

fn module_goes_with_streams_and_not_with_readers() -> Result<()> {
    let mut forker = Forker::new(None)?;
    let stream = Made::new("stays", &format!("{ALL} bytes=65536"))?;
    forker.fork(20)?;
    let mut reader = stream.reader()?;
    reader.batch()?.context("no batch")?;
    let error = module::remove().err().context("removed under a reader")?;
    check_eq!(sys::errno(&error), libc::EWOULDBLOCK, "errno");
    check_eq!(module::references()?, 1, "references");
    drop(reader);
    forker.begin(300)?;
    module::remove().context("remove the module with a stream in it")?;
    check!(!Path::new(DIR).exists(), "{DIR} is there");
    check_eq!(forker.end()?.len(), 300, "forks");
    module::insert()?;
    check_eq!(client().streams()?.streams, [], "streams of the new module");
    match sys::fork()? {
        Forked::Child => sys::exit_now(0),
        Forked::Parent(pid) => sys::wait(pid)?.ok(),
    };
    Ok(())
}

/// While a stream is removed, one source ends after the other. Who reads all the while is handed no events between
/// which one of another source is missing.
fn nothing_is_left_out_before_its_end() -> Result<()> {
    for _ in 0..scale(20, 5) {
        let mut maker = Child::spawn(|link| {
            let (one, _other) = sys::socketpair(libc::SOCK_STREAM)?;
            link.wait()?;
            loop {
                let pid = sys::brief_child(0)?;
                sys::wait(pid)?.ok();
                sys::shutdown(&one, libc::SHUT_RDWR)?;
            }
        })?;
        let terms = format!("sources=fork,shutdown pid={} bytes=4194304", maker.pid);
        let stream = Made::new("ends", &terms)?;
        let mut reader = stream.reader()?;
        maker.link.send("go")?;
        let events = thread::scope(|scope| -> Result<Vec<Event>> {
            let remover = scope.spawn(|| -> Result<i32> {
                // However slow the machine.
                wait_for("a few events", || Ok(stream.state()?.events > 4))?;
                thread::sleep(Duration::from_millis(50));
                Ok(errno(client().control_streams("remove ends")))
            });
            let mut events = Vec::new();
            loop {
                match reader.batch() {
                    Ok(Some(batch)) => {
                        events.extend(batch.events);
                        if errno(reader.acknowledge(None)) != 0 {
                            break;
                        }
                    }
                    Ok(None) => {
                        sys::poll(&reader.as_fd(), libc::POLLIN, 50)?;
                    }
                    Err(error) => {
                        check_eq!(errno(Err::<(), _>(error)), libc::EIO, "errno at its end");
                        break;
                    }
                }
            }
            let removed = remover.join().map_err(|_| anyhow!("panicked"))??;
            check_eq!(removed, 0, "errno of removing it");
            Ok(events)
        })?;
        maker.kill()?;
        check!(events.len() > 1, "{} events", events.len());
        for (at, event) in events.iter().enumerate() {
            let is_next = match event {
                Event::Fork(_) => at % 2 == 0,
                Event::Shutdown(_) => at % 2 == 1,
                _ => false,
            };
            check!(is_next, "number {at} of {}: {event:?}", events.len());
        }
    }
    Ok(())
}
