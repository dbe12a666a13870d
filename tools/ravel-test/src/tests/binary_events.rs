// SPDX-License-Identifier: GPL-2.0
//! The binary form of a batch says what its text says.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ravel_records::{Batch, Error};

use super::binary::MAGIC;
use super::events_leases::{check_batch, filled, states};
use crate::layout;
use crate::module::{Answer, DIR, write_errno};
use crate::process::{Puppet, Stage};
use crate::stream::{Forker, Made, children};
use crate::{check, check_eq, sys, tests};

tests!("binary":
    every_kind_of_event_is_told_alike,
    losses_are_told_alike,
    batch_stands_by_itself_at_any_buffer_size,
    bytes_of_a_lease_are_those_of_its_form,
    late_reader_begins_anew_in_its_form,
    forms_that_are_none,
);

fn open(stream: &Made) -> Result<File> {
    let path = format!("{DIR}/events/{}/events", stream.0);
    Ok(OpenOptions::new().read(true).write(true).open(path)?)
}

/// Reads a batch on these terms, in pieces of so many bytes.
fn read(file: &mut File, terms: &str, size: usize) -> Result<Vec<u8>> {
    check_eq!(write_errno(file, terms.as_bytes()), 0, "{terms}");
    Answer::read(file, size).whole()
}

/// Reads a batch in both forms, one after the other, and compares them: its text.
fn both(stream: &Made) -> Result<String> {
    let mut file = open(stream)?;
    let terms = "lease events=4096 bytes=1048576 ms=600000";
    let bytes = read(&mut file, terms, 1 << 20)?;
    let text = String::from_utf8(bytes.clone())?;
    check!(text.starts_with("batch "), "{text}");
    let one = Batch::parse(&bytes)?;
    check_eq!(write_errno(&mut file, b"release"), 0, "release");
    // More may have come by now.
    let count = one.events.len();
    let terms = format!("lease events={count} bytes=1048576 ms=600000 form=binary");
    let bytes = read(&mut file, &terms, 1 << 20)?;
    check_eq!(write_errno(&mut file, b"release"), 0, "release");
    let records = layout::records(&bytes)?.into_iter();
    let lines: Vec<String> = records.map(|record| record.text).collect();
    let wanted: Vec<&str> = text.lines().collect();
    check_eq!(lines.len(), wanted.len(), "records");
    for (line, wanted) in lines.iter().zip(wanted) {
        if !line.starts_with("batch ") {
            let wanted = wanted.replace(" attempt=1 ", " attempt=2 ");
            check_eq!(*line, wanted, "a record");
        }
    }
    let mut two = Batch::parse(&bytes)?;
    check!(
        two.header.deadline > one.header.deadline,
        "deadlines {} and {}",
        one.header.deadline,
        two.header.deadline
    );
    two.header.deadline = one.header.deadline;
    let attempts = |batch: &Batch| -> Result<String> {
        Ok(serde_json::to_string(batch)?.replace("\"attempt\":1,", "\"attempt\":2,"))
    };
    check_eq!(attempts(&two)?, attempts(&one)?, "as JSON");
    Ok(text)
}

/// One of each kind.
fn make_one_of_each() -> Result<()> {
    let status = Command::new("/bin/true").status()?;
    ensure!(status.success(), "{status}");
    for ip in ["127.0.0.1", "[::1]"] {
        let listener = TcpListener::bind(format!("{ip}:0"))?;
        let mut one = TcpStream::connect(listener.local_addr()?)?;
        let (mut two, _) = listener.accept()?;
        one.write_all(b"never read")?;
        two.write_all(b"read")?;
        one.read_exact(&mut [0; 4])?;
        one.shutdown(Shutdown::Write)?;
        // Unread data makes it a reset.
        drop(two);
        let udp = UdpSocket::bind(format!("{ip}:0"))?;
        udp.send_to(b"to itself", udp.local_addr()?)?;
        udp.recv(&mut [0; 16])?;
        // Nobody listens there.
        udp.send_to(b"to nobody", format!("{ip}:9"))?;
    }
    let (one, _two) = UnixStream::pair()?;
    one.shutdown(Shutdown::Both)?;
    Ok(())
}

fn every_kind_of_event_is_told_alike() -> Result<()> {
    let mut puppet: Puppet = Stage::new(2)?.start()?;
    puppet.set_comm(b"a \"b\\\xff\n")?;
    let kinds = [
        "fork",
        "exec",
        "exit",
        "tcp_state",
        "reset",
        "drop",
        "shutdown",
        "close",
        "release",
        "packet",
    ];
    let stream = Made::new("each", &format!("sources={} attempts=9", kinds.join(",")))?;
    let young = puppet.fork()?;
    make_one_of_each()?;
    // What is put off has happened by then.
    thread::sleep(Duration::from_millis(200));
    let text = both(&stream)?;
    for kind in kinds {
        let line = format!("\n{kind} ");
        check!(text.contains(&line), "no {kind} in {text}");
    }
    for word in [
        "comm=\"a \\\"b\\\\\\xff\\x0a\"",
        " family=inet6 ",
        " family=unix ",
        " protocol=0x86dd ",
        " point=drop ",
        ":unset ",
    ] {
        check!(text.contains(word), "no {word} in {text}");
    }
    drop(young);
    Ok(())
}

fn losses_are_told_alike() -> Result<()> {
    // On one CPU, whose ring has less room than the store, so that the loss is in the first batch.
    let mut forker = Forker::new(Some(0))?;
    let terms = format!("sources=fork bytes=16384 attempts=9 tree={}", forker.pid());
    let stream = Made::new("losses", &terms)?;
    forker.fork(200)?;
    let text = both(&stream)?;
    check!(text.contains("\nloss "), "no loss in {text}");
    check!(!text.contains(" lost=0 "), "nothing is lost by {text}");
    Ok(())
}

fn batch_stands_by_itself_at_any_buffer_size() -> Result<()> {
    let (stream, pids, _forker) = filled("pieces", 30, "attempts=99")?;
    let mut file = open(&stream)?;
    let bytes = read(&mut file, "lease events=10 form=binary", 4096)?;
    check_batch(&Batch::parse(&bytes)?, &pids[..10], 1)?;
    check_eq!(write_errno(&mut file, b"ack"), 0, "ack");
    // What is left, again and again, on one descriptor.
    for (attempt, size) in [1, 7, 100, 4096, 1 << 20].into_iter().enumerate() {
        let bytes = read(&mut file, "lease form=binary", size)?;
        let batch = Batch::parse(&bytes)?;
        check_batch(&batch, &pids[10..], attempt as u32 + 1)?;
        // It stays at its end as long as the lease holds.
        check_eq!(file.read(&mut [0; 10])?, 0, "a read at the end");
        check_eq!(states(&stream)?, [0, 20, 0, 0, 10], "states");
        let kinds: Vec<_> = layout::records(&bytes)?
            .into_iter()
            .map(|record| record.kind)
            .collect();
        let forks = kinds.iter().filter(|kind| **kind == "fork").count();
        check_eq!((kinds.len(), forks), (22, 20), "records");
        for len in (0..bytes.len()).step_by(bytes.len() / 20) {
            let parsed = Batch::parse(&bytes[..len]);
            check!(
                matches!(parsed, Err(Error::Cut { .. } | Error::Parse { .. })),
                "the first {len} bytes are {parsed:?}"
            );
        }
        check_eq!(write_errno(&mut file, b"release"), 0, "release");
    }
    // Terms that name no form have text.
    let text = read(&mut file, "lease events=4096", 100)?;
    check!(text.starts_with(b"batch "), "not text");
    check_eq!(
        children(&Batch::parse(&text)?.events),
        pids[10..],
        "children"
    );
    check_eq!(write_errno(&mut file, b"release"), 0, "release");
    let text = read(&mut file, "lease form=text", 100)?;
    check!(text.starts_with(b"batch "), "not text");
    Ok(())
}

fn bytes_of_a_lease_are_those_of_its_form() -> Result<()> {
    let (stream, pids, _forker) = filled("limits", 60, "attempts=9")?;
    let mut file = open(&stream)?;
    let text = read(&mut file, "lease events=4096 bytes=2048", 4096)?;
    let lines = std::str::from_utf8(&text)?.lines();
    let lines: Vec<usize> = lines.map(|line| line.len() + 1).collect();
    check_eq!(write_errno(&mut file, b"release"), 0, "release");
    let bytes = read(&mut file, "lease events=4096 bytes=2048 form=binary", 4096)?;
    let told = Batch::parse(&bytes)?.events.len();
    let records = layout::records(&bytes)?;
    let sizes: Vec<usize> = records.iter().map(|record| record.len).collect();
    for sizes in [lines, sizes] {
        // Without the first and the last, which are not counted.
        let forks = &sizes[1..sizes.len() - 1];
        let sum: usize = forks.iter().sum();
        let most = forks.iter().max().copied().unwrap_or(0);
        check!(
            forks.len() < pids.len() && sum <= 2048 && sum + most + 10 > 2048,
            "{sum} bytes of {} records",
            forks.len()
        );
    }
    // What had no room is the next batch's.
    check_eq!(write_errno(&mut file, b"ack"), 0, "ack");
    let bytes = read(&mut file, "lease events=4096 form=binary", 4096)?;
    check_eq!(
        children(&Batch::parse(&bytes)?.events),
        pids[told..],
        "children of the rest"
    );
    Ok(())
}

fn late_reader_begins_anew_in_its_form() -> Result<()> {
    let (stream, pids, _forker) = filled("latebin", 20, "attempts=9")?;
    let mut file = open(&stream)?;
    let terms = b"lease ms=100 form=binary";
    check_eq!(write_errno(&mut file, terms), 0, "lease");
    file.read_exact(&mut [0; 200])?;
    thread::sleep(Duration::from_millis(150));
    let late = file.read(&mut [0; 200]).err();
    let late = late.context("the rest can be read")?;
    check_eq!(sys::errno(&late), libc::ESTALE, "errno");
    // Whole, with what the one before had told already.
    let mut bytes = vec![0; 1 << 16];
    let len = file.read(&mut bytes)?;
    check_batch(&Batch::parse(&bytes[..len])?, &pids, 2)?;
    thread::sleep(Duration::from_millis(150));
    check_eq!(
        write_errno(&mut file, b"ack"),
        libc::ESTALE,
        "errno of a late acknowledgement"
    );
    let text = read(&mut file, "lease ms=600000", 4096)?;
    check!(text.starts_with(b"batch "), "not text");
    check_batch(&Batch::parse(&text)?, &pids, 3)?;
    Ok(())
}

fn forms_that_are_none() -> Result<()> {
    let (stream, pids, _forker) = filled("none", 3, "attempts=9")?;
    let mut file = open(&stream)?;
    check_eq!(write_errno(&mut file, b"lease form=binary"), 0, "lease");
    for terms in [
        "form=",
        "form=Binary",
        "form=json",
        "form=text,binary",
        "form=binary form=binary",
        "form=text form=binary",
        "form",
        "binary",
        "Form=binary",
        "events=1 form=binary ",
    ] {
        let request = format!("lease {terms}");
        let errno = write_errno(&mut file, request.as_bytes());
        check_eq!(errno, libc::EINVAL, "errno of {request:?}");
    }
    for request in ["binary lease", "ack form=binary", "release 0 form=binary"] {
        let errno = write_errno(&mut file, request.as_bytes());
        check_eq!(errno, libc::EINVAL, "errno of {request:?}");
    }
    // What was refused changed nothing.
    let bytes = Answer::read(&mut file, 4096).whole()?;
    check!(bytes.starts_with(MAGIC), "not in binary");
    check_batch(&Batch::parse(&bytes)?, &pids, 1)
}
