// SPDX-License-Identifier: GPL-2.0
//! Each allocation that the module makes fails once. Only kernels with fault injection can run this.
//!
//! /proc/self/fail-nth makes the Nth allocation of a thread fail; of those, a filter by stack trace lets
//! only the ones pass that come from a module. No other module is there.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use ravel_records::AnonVmaReport;

use super::peers::pair;
use crate::check::same_text;
use crate::harness::say;
use crate::module::{
    self, Answer, BUFFER, DIR, REPORTS, open_query, read_file, report_text, state, write_errno,
    write_file,
};
use crate::process::{Area, Child, Puppet, Stage};
use crate::sys::{self, Pid};
use crate::{check, check_eq, tests};

tests!("faults" when can_be_made:
    each_allocation_of_a_report_fails_once [300 s],
    memory_runs_out_anywhere_in_a_report [120 s],
    each_allocation_of_attach_and_detach_fails_once [120 s],
    each_allocation_of_the_plain_files_fails_once [120 s],
    each_allocation_of_insertion_fails_once [300 s],
);

const NTH: &str = "/proc/thread-self/fail-nth";
const KINDS: &[&str] = &["failslab", "fail_page_alloc"];

pub(super) fn can_be_made() -> bool {
    Path::new(NTH).exists()
        && KINDS
            .iter()
            .all(|kind| Path::new(&format!("/sys/kernel/debug/{kind}/require-start")).exists())
}

/// Where modules lie, and so ravel's code, be it there already or about to be inserted.
const MODULES: (&str, &str) = ("0xffffffffa0000000", "0xffffffffff000000");

pub(super) fn prepare() -> Result<()> {
    let others = fs::read_to_string("/proc/modules")?;
    check!(
        others.lines().all(|line| line.starts_with("ravel ")),
        "another module is there: {others}"
    );
    for kind in KINDS {
        let set = |name: &str, value: &str| {
            let path = format!("/sys/kernel/debug/{kind}/{name}");
            fs::write(&path, value).context(path)
        };
        // No line in the log for each.
        set("verbose", "0")?;
        set("stacktrace-depth", "32")?;
        set("require-start", MODULES.0)?;
        set("require-end", MODULES.1)?;
        // Those that may wait, too.
        set("ignore-gfp-wait", "N")?;
        if *kind == "fail_page_alloc" {
            set("ignore-gfp-highmem", "N")?;
            set("min-order", "0")?;
        }
    }
    Ok(())
}

/// Runs something with its Nth allocation failing: what it gave, and whether there were so many.
pub(super) fn with_fault<T>(nth: usize, f: impl FnOnce() -> T) -> Result<(T, bool)> {
    fs::write(NTH, nth.to_string()).context("arm")?;
    let result = f();
    let left = fs::read_to_string(NTH)?;
    fs::write(NTH, "0").context("disarm")?;
    Ok((result, left.trim() == "0"))
}

/// What came of all allocations of one thing that failed.
#[derive(Default)]
pub(super) struct Came {
    sites: usize,
    /// errno, or 0 where it went well all the same, to how often.
    of: BTreeMap<i32, usize>,
}

impl Came {
    /// Fails allocation after allocation, until there are no more of them.
    pub(super) fn each(mut f: impl FnMut(usize) -> Result<(i32, bool)>) -> Result<Self> {
        let mut came = Self::default();
        for nth in 1..5000 {
            let (errno, hit) = f(nth).with_context(|| format!("allocation {nth}"))?;
            if !hit {
                check_eq!(errno, 0, "errno without a fault, after {nth} with one");
                return Ok(came);
            }
            came.sites += 1;
            *came.of.entry(errno).or_default() += 1;
        }
        anyhow::bail!("there is no end to the allocations")
    }

    pub(super) fn tell(&self, what: &str) -> Result<()> {
        say(format_args!(
            "{what}: {} allocations failed, one at a time; answers: {:?}",
            self.sites, self.of
        ));
        check!(self.sites > 0, "{what}: no allocation failed");
        Ok(())
    }
}

/// Checks that two texts are the same but for how much of the machine was looked through, which changes by itself.
fn same(text: &[u8], whole: &[u8], what: impl std::fmt::Display) -> Result<()> {
    let still = |text: &[u8]| -> Vec<u8> {
        let text = String::from_utf8_lossy(text);
        let lines = text.lines().map(|line| {
            let words = line.split(' ').filter(|word| {
                !line.starts_with("summary report=sharers ")
                    || !(word.starts_with("tasks=") || word.starts_with("fds="))
            });
            words.collect::<Vec<_>>().join(" ") + "\n"
        });
        lines.collect::<String>().into_bytes()
    };
    same_text(&still(text), &still(whole), what)
}

/// Checks that a text which was cut by an error says so, or that it has nothing but whole lines.
fn check_marked(whole: &[u8], answer: &Answer, report: &str) -> Result<()> {
    let text = std::str::from_utf8(&answer.text)?;
    ensure!(
        text.is_empty() || text.ends_with('\n'),
        "half a line: {answer:?}"
    );
    if answer.errno == 0 {
        return same(&answer.text, whole, "it went well, and is another text");
    }
    check_eq!(answer.errno, libc::ENOMEM, "errno of {answer:?}");
    ensure!(
        !text.contains("\nsummary "),
        "an error behind a summary: {answer:?}"
    );
    if let Some(last) = text.lines().last() {
        // Without memory even for the line, the errno alone tells.
        let marked = last.starts_with(&format!("error report={report} "));
        ensure!(
            !marked || last.contains(" errno=ENOMEM "),
            "another error: {last}"
        );
    }
    Ok(())
}

/// A process that has something for every report, shares no memory with us, and stands still.
struct Target {
    puppet: Puppet,
    /// Written by it.
    area: Area,
    kept: ((TcpStream, TcpStream), (UnixDatagram, UnixDatagram)),
}

impl Target {
    fn new() -> Result<Self> {
        let stream = pair()?;
        let datagrams = UnixDatagram::pair()?;
        for _ in 0..5 {
            datagrams.0.send(b"datagram")?;
        }
        for fd in [stream.0.as_fd(), datagrams.1.as_fd()] {
            sys::keep_over_exec(&fd, true)?;
        }
        let mut puppet = Stage::new(1)?.start()?;
        puppet.exec()?;
        let areas = puppet.map_written(12, 2)?;
        puppet.settle()?;
        Ok(Self {
            puppet,
            area: areas[0],
            kept: (stream, datagrams),
        })
    }

    /// Every report's name, and a request for it.
    fn requests(&self) -> Vec<(&'static str, String)> {
        let pid = self.puppet.pid;
        let page = format!("page {pid} {:#x} {:#x}", self.area.start, self.area.end());
        let others = REPORTS
            .iter()
            .map(|report| (*report, format!("{report} {pid}")));
        let sharers = format!("sharers {pid} {}", self.kept.0.0.as_raw_fd());
        others
            .chain([("page", page), ("sharers", sharers)])
            .collect()
    }
}

/// A report that nothing keeps from being whole.
fn whole_report(request: &str) -> Result<Vec<u8>> {
    let (errno, answer) = module::query(request.as_bytes())?;
    check_eq!(errno, 0, "errno of {request:?}");
    answer.whole()
}

fn each_allocation_of_a_report_fails_once() -> Result<()> {
    prepare()?;
    let target = Target::new()?;
    let pid = target.puppet.pid;
    module::attach(pid)?;
    for (report, request) in target.requests() {
        let whole = whole_report(&request)?;
        let mut file = open_query()?;
        let by_query = Came::each(|nth| {
            let ((written, answer), hit) = with_fault(nth, || {
                let written = write_errno(&mut file, request.as_bytes());
                (
                    written,
                    (written == 0).then(|| Answer::read(&mut file, BUFFER)),
                )
            })?;
            if let Some(answer) = &answer {
                check_marked(&whole, answer, report)?;
            }
            // The next one, on the same descriptor, is right.
            check_eq!(
                write_errno(&mut file, request.as_bytes()),
                0,
                "the next write"
            );
            let next = Answer::read(&mut file, BUFFER).whole()?;
            same(&next, &whole, format_args!("the next report {report}"))?;
            Ok((answer.map_or(written, |answer| answer.errno), hit))
        })?;
        drop(file);
        by_query.tell(&format!("{report} by query"))?;
    }
    let request = format!("binary anon_vma {pid}");
    let whole = whole_report(&request)?;
    let mut file = open_query()?;
    let by_binary = Came::each(|nth| {
        let (answer, hit) = with_fault(nth, || match write_errno(&mut file, request.as_bytes()) {
            0 => Answer::read(&mut file, BUFFER),
            errno => Answer {
                text: Vec::new(),
                errno,
            },
        })?;
        let parsed = AnonVmaReport::parse(&answer.text);
        if answer.errno == 0 {
            check!(answer.text == whole, "{} bytes", answer.text.len());
        } else {
            check!(parsed.is_err(), "whole, and then errno {}", answer.errno);
        }
        check_eq!(
            write_errno(&mut file, request.as_bytes()),
            0,
            "the next write"
        );
        let next = Answer::read(&mut file, BUFFER).whole()?;
        check!(next == whole, "the next has {} bytes", next.len());
        Ok((answer.errno, hit))
    })?;
    drop(file);
    by_binary.tell("anon_vma in binary")?;
    for report in REPORTS {
        let whole = report_text(report, pid)?;
        let path = format!("{DIR}/{pid}/{report}");
        let by_folder = Came::each(|nth| {
            let (answer, hit) = with_fault(nth, || match File::open(&path) {
                Ok(mut file) => Answer::read(&mut file, BUFFER),
                Err(e) => Answer {
                    text: Vec::new(),
                    errno: sys::errno(&e),
                },
            })?;
            check_marked(&whole, &answer, report)?;
            let next = read_file(&format!("{pid}/{report}"))?.whole()?;
            same(&next, &whole, format_args!("the next report {report}"))?;
            Ok((answer.errno, hit))
        })?;
        by_folder.tell(&format!("{report} by the folder"))?;
    }
    module::detach(pid)?;
    check_eq!(module::references()?, 0, "references at the end");
    Ok(())
}

/// From some point on nothing can be allocated any more: the kernel's second attempts fail, too.
fn memory_runs_out_anywhere_in_a_report() -> Result<()> {
    prepare()?;
    let target = Target::new()?;
    let set = |name: &str, value: &str| {
        KINDS.iter().try_for_each(|kind| {
            let path = format!("/sys/kernel/debug/{kind}/{name}");
            fs::write(&path, value).context(path)
        })
    };
    set("task-filter", "Y")?;
    set("times", "-1")?;
    set("interval", "1")?;
    for (report, request) in target.requests() {
        let whole = whole_report(&request)?;
        // Bytes that can still be had: more and more, until it is enough.
        let (mut left, mut tried, mut enough) = (0, 0, 0);
        let mut of: BTreeMap<i32, usize> = BTreeMap::new();
        while enough < 5 {
            set("space", &left.to_string())?;
            set("probability", "100")?;
            fs::write("/proc/self/make-it-fail", "1")?;
            let opened = open_query();
            let answer = opened.map(
                |mut file| match write_errno(&mut file, request.as_bytes()) {
                    0 => Answer::read(&mut file, BUFFER),
                    errno => Answer {
                        text: Vec::new(),
                        errno,
                    },
                },
            );
            fs::write("/proc/self/make-it-fail", "0")?;
            set("probability", "0")?;
            let errno = match &answer {
                Ok(answer) => {
                    let told = || format!("{report} with {left} bytes left");
                    check_marked(&whole, answer, report).with_context(told)?;
                    answer.errno
                }
                Err(e) => e.downcast_ref().map_or(-1, sys::errno),
            };
            check!(
                [0, libc::ENOMEM].contains(&errno),
                "{report} with {left} bytes left: errno {errno}"
            );
            same(
                &whole_report(&request)?,
                &whole,
                format_args!("{report} after one with {left} bytes left"),
            )?;
            *of.entry(errno).or_default() += 1;
            tried += 1;
            enough = if errno == 0 { enough + 1 } else { 0 };
            left += if left < 8192 { 64 } else { 8192 };
            check!(left < 8 << 20, "{report}: no memory is enough");
        }
        say(format_args!(
            "{report}: memory ran out at {tried} places; answers {of:?}; enough with {left} bytes"
        ));
        check!(of.contains_key(&libc::ENOMEM), "{report}: it never ran out");
    }
    set("task-filter", "N")?;
    check_eq!(module::references()?, 0, "references at the end");
    Ok(())
}

fn each_allocation_of_attach_and_detach_fails_once() -> Result<()> {
    prepare()?;
    let child = Child::idle()?;
    let pid = child.pid.to_string();
    let before = state()?;
    let attached = Came::each(|nth| {
        let (errno, hit) = with_fault(nth, || write_file("attach", pid.as_bytes()))?;
        let errno = errno_of(errno)?;
        if errno == 0 {
            module::detach(child.pid)?;
        } else {
            check_eq!(errno, libc::ENOMEM, "errno of attach");
        }
        check_eq!(state()?, before, "attached and folders");
        Ok((errno, hit))
    })?;
    attached.tell("attach")?;
    module::attach(child.pid)?;
    let detached = Came::each(|nth| {
        let (errno, hit) = with_fault(nth, || write_file("detach", pid.as_bytes()))?;
        let errno = errno_of(errno)?;
        if errno == 0 {
            module::attach(child.pid)?;
        } else {
            check_eq!(errno, libc::ENOMEM, "errno of detach");
        }
        check_eq!(module::folders()?, [child.pid], "folders");
        Ok((errno, hit))
    })?;
    detached.tell("detach")?;
    let mut child = child;
    let handed_over = Came::each(|nth| {
        // A folder of a process that has exited, whose number another has.
        child.kill()?;
        child = Child::idle_as(child.pid)?;
        let before = state()?;
        let (errno, hit) = with_fault(nth, || write_file("attach", pid.as_bytes()))?;
        let errno = errno_of(errno)?;
        if errno != 0 {
            check_eq!(errno, libc::ENOMEM, "errno of attach");
            check_eq!(state()?, before, "attached and folders");
        }
        Ok((errno, hit))
    })?;
    handed_over.tell("attach of a number used again")?;
    module::detach(child.pid)?;
    check_eq!(state()?, before, "attached and folders at the end");
    Ok(())
}

/// The errno of a write, or of the open before it.
pub(super) fn errno_of(written: Result<i32>) -> Result<i32> {
    match written {
        Ok(errno) => Ok(errno),
        Err(e) => match e.downcast_ref::<std::io::Error>() {
            Some(e) => Ok(sys::errno(e)),
            None => Err(e),
        },
    }
}

fn each_allocation_of_the_plain_files_fails_once() -> Result<()> {
    prepare()?;
    let us: Pid = sys::getpid();
    module::attach(us)?;
    for name in ["version", "attached", "locks"] {
        let whole = read_file(name)?.whole()?;
        let came = Came::each(|nth| {
            let (answer, hit) = with_fault(nth, || read_file(name))?;
            let errno = match answer {
                Ok(answer) => {
                    check_marked(&whole, &answer, name)?;
                    answer.errno
                }
                Err(e) => errno_of(Err(e))?,
            };
            check!(
                [0, libc::ENOMEM].contains(&errno),
                "errno {errno} of {name}"
            );
            same(
                &read_file(name)?.whole()?,
                &whole,
                format_args!("the next {name}"),
            )?;
            Ok((errno, hit))
        })?;
        came.tell(name)?;
    }
    let mut file = open_query()?;
    let came = Came::each(|nth| {
        let (errno, hit) = with_fault(nth, || write_errno(&mut file, b"rubbish"))?;
        check!(
            [libc::EINVAL, libc::ENOMEM].contains(&errno),
            "errno {errno} of rubbish"
        );
        Ok((if errno == libc::EINVAL { 0 } else { errno }, hit))
    })?;
    came.tell("a request that is none")?;
    module::detach(us)
}

fn each_allocation_of_insertion_fails_once() -> Result<()> {
    prepare()?;
    module::remove()?;
    let file = File::open(module::beside("ravel.ko")?)?;
    let came = Came::each(|nth| {
        let (inserted, hit) = with_fault(nth, || sys::insert_module(&file))?;
        match inserted {
            Ok(()) => {
                let us = sys::getpid();
                check!(!report_text("sockets", us)?.is_empty(), "an empty report");
                module::remove()?;
                Ok((0, hit))
            }
            Err(e) => {
                check_eq!(sys::errno(&e), libc::ENOMEM, "errno of inserting");
                check!(!module::is_loaded(), "it is there all the same");
                check!(!Path::new(DIR).exists(), "{DIR} is left");
                Ok((libc::ENOMEM, hit))
            }
        }
    });
    // For the tests that follow.
    module::insert()?;
    came?.tell("insertion")
}
