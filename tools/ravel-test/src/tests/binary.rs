// SPDX-License-Identifier: GPL-2.0
//! The binary form says what the text says.

use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use ravel_records::{
    AnonVmaReport, ChainsReport, CowReport, Error, LineageReport, PageReport, SharersReport,
    SkbsReport, SocketsReport, WaitersReport,
};
use serde_json::{Value, to_value};

use crate::layout;
use crate::module::{self, REPORTS, query};
use crate::process::{Child, Puppet, Stage};
use crate::sys;
use crate::{check, check_eq, tests};

tests!("binary":
    memory_is_told_alike,
    sockets_are_told_alike,
    long_reports_are_whole_at_any_buffer_size,
    errors_are_records_too,
    requests_that_are_none,
);

/// What the binary form begins with.
pub(super) const MAGIC: &[u8] = b"\x7fravel\x00\x03";

/// The bytes of an answer that went well.
fn ask(request: &str) -> Result<Vec<u8>> {
    let (errno, answer) = query(request.as_bytes())?;
    check_eq!(errno, 0, "write of {request}");
    answer.whole().with_context(|| request.to_owned())
}

/// A report as text, and in binary as often as asked: of memory that stood still meanwhile. The
/// kernel takes a reference to an anon_vma for a moment where it moves a page.
fn still(request: &str, mut binary: impl FnMut(&str) -> Result<Vec<u8>>) -> Result<[Vec<u8>; 2]> {
    for _ in 0..50 {
        let text = ask(request)?;
        let other = binary(&format!("binary {request}"))?;
        if ask(request)? == text {
            return Ok([text, other]);
        }
    }
    anyhow::bail!("it never stands still: {request}")
}

/// Checks that the binary form has the records of the text, one by one and field by field, except
/// for values that change from one report to the next.
fn check_records(text: &[u8], binary: &[u8]) -> Result<()> {
    let records = layout::records(binary)?;
    let text = std::str::from_utf8(text)?;
    check_eq!(records.len(), text.lines().count(), "records");
    let moves = |word: &&str| {
        let key = word.split('=').next().unwrap_or_default();
        key.ends_with("_ms") || key.ends_with("_ns") || key.ends_with("timer")
    };
    for (record, line) in records.iter().zip(text.lines()) {
        let words = |text: &str| -> Vec<String> {
            let words = text.split(' ').filter(|word| !moves(word));
            words.map(str::to_owned).collect()
        };
        check_eq!(words(&record.text), words(line), "a record");
    }
    Ok(())
}

/// Both forms of a report, parsed, as JSON.
macro_rules! both {
    ($read:expr, $report:ty, $request:expr) => {{
        let request = $request;
        let [text, binary] = $read(&request)?;
        check!(text.starts_with(b"report "), "text of {request}");
        check!(binary.starts_with(MAGIC), "binary form of {request}");
        check_records(&text, &binary).context(request)?;
        [
            to_value(<$report>::parse(&text)?)?,
            to_value(<$report>::parse(&binary)?)?,
        ]
    }};
}

fn memory_is_told_alike() -> Result<()> {
    let mut puppet: Puppet = Stage::new(2)?.start()?;
    // Shares no memory with us, which grows as we read.
    puppet.exec()?;
    puppet.set_comm(b"a \"b\\\xff\n")?;
    let area = puppet.map(20)?;
    puppet.write(area)?;
    puppet.protect(area.pages(0, 3), libc::PROT_READ)?;
    let _young = puppet.fork()?;
    let pid = puppet.pid;
    let quiet = |request: &str| still(request, ask);
    for (what, [text, binary]) in [
        (
            "anon_vma",
            both!(quiet, AnonVmaReport, format!("anon_vma {pid}")),
        ),
        ("cow", both!(quiet, CowReport, format!("cow {pid}"))),
        (
            "chains",
            both!(quiet, ChainsReport, format!("chains {pid}")),
        ),
        (
            "page",
            both!(
                quiet,
                PageReport,
                format!("page {pid} {:#x} {:#x}", area.start, area.end())
            ),
        ),
        (
            "lineage",
            both!(quiet, LineageReport, format!("lineage {pid}")),
        ),
    ] {
        check_eq!(binary, text, "the binary form of {what}");
    }
    Ok(())
}

fn sockets_are_told_alike() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut stream = TcpStream::connect(listener.local_addr()?)?;
    stream.write_all(b"unread")?;
    let udp = UdpSocket::bind("[::1]:0")?;
    udp.send_to(b"to itself", udp.local_addr()?)?;
    let unix = UnixStream::pair()?;
    (&unix.0).write_all(b"unread")?;
    let once =
        |request: &str| -> Result<_> { Ok([ask(request)?, ask(&format!("binary {request}"))?]) };
    let (pid, fd) = (sys::getpid(), stream.as_raw_fd());
    for (what, [mut text, mut binary]) in [
        (
            "sharers",
            both!(once, SharersReport, format!("sharers {pid} {fd}")),
        ),
        ("skbs", both!(once, SkbsReport, format!("skbs {pid}"))),
        (
            "sockets",
            both!(once, SocketsReport, format!("sockets {pid}")),
        ),
        (
            "waiters",
            both!(once, WaitersReport, format!("waiters {pid}")),
        ),
    ] {
        // Timers run on between the two, and packets grow older.
        strip(&mut text);
        strip(&mut binary);
        check_eq!(binary, text, "the binary form of {what}");
    }
    Ok(())
}

/// Takes out what is milliseconds.
fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let moves =
                |key: &str| key.ends_with("_ms") || key.ends_with("_ns") || key.ends_with("timer");
            fields.retain(|key, _| !moves(key));
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

fn long_reports_are_whole_at_any_buffer_size() -> Result<()> {
    let mut puppet: Puppet = Stage::new(1)?.start()?;
    // Shares no memory with us, which grows as we read.
    puppet.exec()?;
    puppet.map_written(3000, 1)?;
    let asked = format!("anon_vma {}", puppet.pid);
    for size in [1000, 4096, 64 << 10, 1 << 20] {
        let [text, bytes] = still(&asked, |request| {
            let mut file = module::open_query()?;
            file.write_all(request.as_bytes())?;
            module::Answer::read(&mut file, size).whole()
        })?;
        let text = AnonVmaReport::parse(&text)?;
        check!(text.vmas.len() >= 3000, "{} VMAs", text.vmas.len());
        check!(
            AnonVmaReport::parse(&bytes)? == text,
            "the binary form by {size} bytes says something else"
        );
    }
    let [text, whole] = still(&asked, ask)?;
    // Any piece of it is a cut report, not another one.
    for len in (0..whole.len())
        .step_by(whole.len() / 20)
        .chain(whole.len() - 10..whole.len())
    {
        let parsed = AnonVmaReport::parse(&whole[..len]);
        check!(
            matches!(parsed, Err(Error::Cut { .. } | Error::Parse { .. })),
            "the first {len} bytes are {parsed:?}"
        );
    }
    check!(
        whole.len() * 4 < text.len() * 3,
        "{} bytes, as text {}",
        whole.len(),
        text.len()
    );
    Ok(())
}

fn errors_are_records_too() -> Result<()> {
    let mut dead = Child::idle()?;
    dead.make_zombie()?;
    for report in REPORTS {
        let (errno, answer) = query(format!("binary {report} {}", dead.pid).as_bytes())?;
        check_eq!(errno, libc::ESRCH, "errno");
        check!(answer.text.starts_with(MAGIC), "{answer:?}");
        let parsed = AnonVmaReport::parse(&answer.text);
        let Err(Error::Report(error)) = parsed else {
            anyhow::bail!("{report}: {parsed:?}");
        };
        check_eq!(
            (error.errno.as_str(), error.pid),
            ("ESRCH", dead.pid as u32),
            "the record"
        );
        check_eq!(error.report.to_string(), *report, "its report");
    }
    // An error amid a report is its last record.
    let error = crate::stream::client()
        .sharers(sys::getpid() as u32, 999)
        .err();
    let errno = error.as_ref().and_then(Error::errno);
    check_eq!(errno, Some("EBADF"), "of {error:?}");
    Ok(())
}

fn requests_that_are_none() -> Result<()> {
    let pid = sys::getpid();
    for request in [
        format!("binary binary cow {pid}"),
        format!("binary  cow {pid}"),
        format!("binary {pid}"),
        format!("Binary cow {pid}"),
        format!("cow {pid} binary"),
        format!("cow binary {pid}"),
        "binary".into(),
        "binary ".into(),
    ] {
        let (errno, answer) = query(request.as_bytes())?;
        check_eq!(errno, libc::EINVAL, "{request}");
        check!(
            answer.text.starts_with(b"error report=query "),
            "{request}: {answer:?}"
        );
    }
    Ok(())
}
