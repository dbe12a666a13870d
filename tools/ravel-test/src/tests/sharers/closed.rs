// SPDX-License-Identifier: GPL-2.0
//! Files that are closed while a reader walks the machine: their release does not wait for the
//! reader.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};
use ravel_records::SharersReport;

use super::super::peers::pair;
use crate::module::query;
use crate::process::Child;
use crate::sys::{self, Pid};
use crate::{check, check_eq};

/// Descriptors of each process of the crowd.
const DESCRIPTORS: usize = 8000;

/// How often a test is repeated until a file was closed in the midst of a walk. Each round closes
/// it later in the walk than the one before.
const ROUNDS: u32 = 20;

/// Processes with so many descriptors that a walk over all of them takes a while.
fn crowd(processes: usize) -> Result<Vec<Child>> {
    sys::allow_descriptors(DESCRIPTORS as u64 + 2000)?;
    let null = File::open("/dev/null")?;
    let copies: Vec<_> = (0..DESCRIPTORS)
        .map(|_| null.try_clone())
        .collect::<Result<_, _>>()?;
    let crowd = (0..processes).map(|_| Child::idle()).collect();
    drop(copies);
    crowd
}

/// A child that has the file, which is ours no more, and closes it when a line is sent to it.
fn holder(file: OwnedFd) -> Result<Child> {
    let fd = file.as_raw_fd();
    let child = Child::spawn(move |link| {
        link.send(&fd.to_string())?;
        link.recv()?;
        drop(file);
        link.send("closed")?;
        link.recv().map(drop)
    })?;
    Ok(child)
}

/// Closes the file that a reader asks for after its walk began, until that was in the midst of it.
/// `released` waits for what its release brings about.
fn close_what_is_asked_for<T>(
    make: impl Fn() -> Result<(OwnedFd, T)>,
    released: impl Fn(&T) -> Result<()>,
) -> Result<()> {
    let _crowd = crowd(60)?;
    for round in 0..ROUNDS {
        let (file, peer) = make()?;
        let mut child = holder(file)?;
        let fd = child.link.recv()?;
        let reading = OnceLock::new();
        let (report, all) = thread::scope(|scope| -> Result<_> {
            let reader = scope.spawn(|| -> Result<_> {
                let begin = Instant::now();
                let all = walk(child.pid, &fd)?;
                let _ = reading.set((Instant::now(), begin.elapsed()));
                Ok((walk(child.pid, &fd)?, all))
            });
            while !reader.is_finished() {
                if let Some((since, walk)) = reading.get() {
                    if since.elapsed() >= *walk * round / ROUNDS {
                        break;
                    }
                }
                thread::yield_now();
            }
            child.link.send("close")?;
            released(&peer)?;
            reader.join().map_err(|_| anyhow!("the reader panicked"))?
        })?;
        check_eq!(child.link.recv()?, "closed", "the holder");
        let (Some(report), Some(all)) = (report, all) else {
            continue;
        };
        let (before, after) = (report.summary.refs_before, report.summary.refs);
        check!(before == 1 && after <= 1, "references: {report:?}");
        // Sure to have come to an end when the file was closed, and not with the machine.
        if after == 0 && report.summary.fds + (DESCRIPTORS as u64) < all.summary.fds {
            check!(report.summary.moved, "not moved: {report:?}");
            return Ok(());
        }
    }
    bail!("no walk ended when the file was closed");
}

/// The report, or none if the file was closed before.
fn walk(pid: Pid, fd: &str) -> Result<Option<SharersReport>> {
    let (errno, answer) = query(format!("sharers {pid} {fd}").as_bytes())?;
    if answer.errno == libc::EBADF {
        return Ok(None);
    }
    check_eq!(errno, 0, "the write, that gives {answer:?}");
    let text = answer.whole()?;
    let report = SharersReport::parse(&text);
    report
        .with_context(|| String::from_utf8_lossy(&text).into_owned())
        .map(Some)
}

pub(super) fn connection_asked_for_ends_at_once() -> Result<()> {
    close_what_is_asked_for(
        || pair().map(|(one, two)| (one.into(), two)),
        |peer| {
            check!(sys::recv(peer, 1, 0)?.is_empty(), "no end of file");
            Ok(())
        },
    )
}

pub(super) fn lock_of_a_file_asked_for_ends_at_once() -> Result<()> {
    let path = std::env::temp_dir().join(format!("ravel-test-{}", sys::getpid()));
    File::create(&path)?;
    let result = close_what_is_asked_for(
        || {
            let file = File::open(&path)?;
            sys::lock_file(&file)?;
            Ok((file.into(), File::open(&path)?))
        },
        |other| Ok(sys::lock_file(other)?),
    );
    std::fs::remove_file(&path)?;
    result
}

/// A pair of unix sockets, of which the second has received many messages, one of them with a
/// descriptor: looking through them takes a while.
fn full_pair() -> Result<(OwnedFd, OwnedFd)> {
    let (one, two) = sys::socketpair(libc::SOCK_STREAM)?;
    sys::set_option(&one, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 8_i32 << 20)?;
    sys::send_descriptor(&one, &File::open("/dev/null")?)?;
    for _ in 0..2000 {
        sys::send(&one, b"x", 0)?;
    }
    Ok((one, two))
}

pub(super) fn connections_passed_over_end_at_once() -> Result<()> {
    let _crowd = crowd(60)?;
    let (wanted, _peer) = pair()?;
    let request = format!("sharers {} {}", sys::getpid(), wanted.as_raw_fd());
    for _ in 0..2 {
        let (ones, mut twos): (Vec<_>, Vec<_>) = (0..60)
            .map(|_| full_pair())
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .unzip();
        let done = AtomicBool::new(false);
        let begun = AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            let reader = scope.spawn(|| {
                begun.store(true, SeqCst);
                let answer = query(request.as_bytes());
                done.store(true, SeqCst);
                answer
            });
            while !begun.load(SeqCst) {
                thread::yield_now();
            }
            // From the last to the first, while the walk goes from the first to the last: they
            // meet.
            while let Some(two) = twos.pop() {
                drop(two);
            }
            for one in &ones {
                loop {
                    let was_done = done.load(SeqCst);
                    if sys::poll_for(one, libc::POLLHUP, 0)? & libc::POLLHUP != 0 {
                        break;
                    }
                    check!(!was_done, "a connection ends when the reader is done");
                    thread::yield_now();
                }
            }
            let (errno, answer) = reader
                .join()
                .map_err(|_| anyhow!("the reader panicked"))??;
            check_eq!(
                (errno, answer.errno),
                (0, 0),
                "errno of the write, the read"
            );
            Ok(())
        })?;
    }
    Ok(())
}
