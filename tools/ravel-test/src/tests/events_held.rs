// SPDX-License-Identifier: GPL-2.0
//! Streams of events: a reader that blocks in a fault on its buffer blocks nobody else.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, anyhow};

use crate::module::{self, DIR};
use crate::process::{Area, Child};
use crate::stream::{Made, client, errno};
use crate::sys;
use crate::tier::patience;
use crate::{check, check_eq, tests};

tests!("events":
    reader_that_blocks_in_its_buffer_blocks_nobody,
    report_that_blocks_in_its_buffer_blocks_nobody,
);

fn open(path: &str) -> Result<File> {
    let mut options = OpenOptions::new();
    Ok(options
        .read(true)
        .write(true)
        .open(format!("{DIR}/{path}"))?)
}

/// Waits for the end of a process that was sent SIGKILL.
fn ends(child: &Child, what: &str) -> Result<()> {
    let pidfd = sys::pidfd_open(child.pid)?;
    sys::kill(child.pid, libc::SIGKILL)?;
    let ended = sys::poll(&pidfd, libc::POLLIN, patience(15).as_millis() as i32)?;
    check!(ended, "{what} does not end");
    Ok(())
}

/// Runs something in a process of its own, which has to come to its end in time.
fn in_time(what: &str, f: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut child = Child::spawn(|link| {
        f()?;
        link.send("done")?;
        link.wait().map(drop)
    })?;
    check_eq!(
        child.link.recv().with_context(|| what.to_owned())?,
        "done",
        "{what}"
    );
    child.kill()
}

/// Has threads read these files into memory that nobody gives them, while `meanwhile` runs. Then
/// checks that each of the files was removed, and each of the reads came to its end.
fn while_blocked(paths: &[&str], meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    let area = Area::map(paths.len())?;
    let (start, len) = (area.start as usize, area.len as usize);
    let page = len / paths.len();
    let files = paths
        .iter()
        .map(|path| open(path))
        .collect::<Result<Vec<_>>>()?;
    let mut faults = Vec::new();
    for at in 0..files.len() {
        faults.push(sys::userfault(
            start + at * page,
            page,
            sys::Fault::Missing,
        )?);
    }
    let most = patience(15).as_millis() as i32;
    thread::scope(|scope| -> Result<()> {
        let reads: Vec<_> = files
            .iter()
            .enumerate()
            .map(|(at, file)| {
                scope.spawn(move || sys::read_to_address(file, start + at * page, page))
            })
            .collect();
        let blocked = faults.iter().zip(paths).try_for_each(|(fault, path)| {
            check!(sys::poll(fault, libc::POLLIN, most)?, "{path}: no fault");
            Ok(())
        });
        let result = blocked.and_then(|()| meanwhile());
        for (at, fault) in faults.iter().enumerate() {
            sys::zero_page(fault, start + at * page, page)?;
        }
        for read in reads {
            // What was made before the removal may be read.
            let read = read.join().map_err(|_| anyhow!("it panicked"))?;
            check!(read.is_ok_and(|len| len > 0), "nothing was read");
        }
        result
    })?;
    for (file, path) in files.iter().zip(paths) {
        let error = sys::read_to_address(file, start, page).err();
        let error = error.with_context(|| format!("{path} can be read after its removal"))?;
        check_eq!(sys::errno(&error), libc::EIO, "errno of reading {path}");
        let found = sys::poll_for(file, libc::POLLIN, 0)?;
        check_eq!(found, libc::POLLHUP, "what poll() finds of {path}");
    }
    Ok(())
}

fn reader_that_blocks_in_its_buffer_blocks_nobody() -> Result<()> {
    let create = format!("create held sources=fork pid={}", sys::getpid());
    let hold = create.clone();
    let mut holder = Child::spawn(move |link| {
        let _held = client().hold_stream(&hold)?;
        link.send("made")?;
        link.wait().map(drop)
    })?;
    holder.link.recv()?;
    let stream = Made::new("stuck", &format!("sources=fork pid={}", sys::getpid()))?;
    sys::wait(sys::brief_child(0)?)?.ok();
    let paths = [
        "events/held/events",
        "events/held/failed",
        "events/stuck/events",
    ];
    while_blocked(&paths, || {
        ends(&holder, "a process that holds a stream")?;
        in_time("streams are listed, made and removed", || {
            for name in ["held", "other"] {
                let create = format!("create {name} sources=fork pid={}", sys::getpid());
                client().control_streams(&create)?;
                let names: Vec<_> = client().streams()?.streams;
                check_eq!(names.len(), 2, "streams");
                client().control_streams(&format!("remove {name}"))?;
            }
            Ok(())
        })?;
        in_time("the stream is removed", || {
            Ok(client().control_streams("remove stuck")?)
        })?;
        let folder = format!("{DIR}/events/stuck");
        check!(!Path::new(&folder).exists(), "the folder is there");
        check_eq!(client().streams()?.streams, [], "streams");
        Ok(())
    })?;
    check_eq!(
        errno(client().control_streams("remove stuck")),
        libc::ENOENT,
        "errno of removing it again"
    );
    drop(stream);
    holder.kill()
}

fn report_that_blocks_in_its_buffer_blocks_nobody() -> Result<()> {
    let (target, other) = (Child::idle()?, Child::idle()?);
    module::attach(target.pid)?;
    let path = format!("{}/anon_vma", target.pid);
    while_blocked(&[&path], || {
        in_time("processes are detached and attached", || {
            module::detach(target.pid)?;
            module::attach(other.pid)?;
            module::attach(target.pid)?;
            module::read_file("attached")?.whole()?;
            module::detach(other.pid)?;
            module::detach(target.pid)
        })
    })
}
