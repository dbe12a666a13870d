// SPDX-License-Identifier: GPL-2.0
//! Puppets, from within: they do one step at a time, as they are told.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::{IntoRawFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use super::area::{RW, map_aligned};
use super::{Area, Link, die_with};
use crate::sys::{self, Forked, PAGE, Pid};

/// Runs a puppet that has gone through exec(): its seat, and the descriptors of all pipes.
pub fn serve_after_exec(words: &[&str]) -> Result<()> {
    let numbers: Result<Vec<RawFd>, _> = words.iter().map(|word| word.parse()).collect();
    let numbers = numbers?;
    let (index, ends) = numbers.split_first().context("no seat")?;
    let ends: Vec<_> = ends
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect();
    let (rd, wr) = *ends.get(*index as usize).context("no such seat")?;
    let mut link = Link::new(sys::file_from(rd), sys::file_from(wr));
    link.send("ok")?;
    serve_link(link, *index as usize, ends)
}

pub(super) fn serve(index: usize, ends: Vec<(RawFd, RawFd)>) -> ! {
    let (rd, wr) = ends[index];
    serve_link(
        Link::new(sys::file_from(rd), sys::file_from(wr)),
        index,
        ends,
    )
}

fn serve_link(mut link: Link, index: usize, ends: Vec<(RawFd, RawFd)>) -> ! {
    loop {
        let Ok(order) = link.wait() else {
            sys::exit_now(2)
        };
        let words: Vec<&str> = order.split(' ').collect();
        if words[0] == "leaderexit" {
            // Another thread goes on in our place, and the main thread ends alone.
            std::thread::spawn(move || {
                let _ = link.send(&format!("ok {}", sys::gettid()));
                serve_link(link, index, ends)
            });
            sys::exit_thread()
        }
        let answer = match obey(&words, index, &ends) {
            Ok(answer) => format!("ok {answer}"),
            Err(e) => format!("{e:#}"),
        };
        if link.send(answer.trim_end()).is_err() {
            sys::exit_now(2);
        }
    }
}

fn obey(words: &[&str], index: usize, ends: &[(RawFd, RawFd)]) -> Result<String> {
    let number = |i: usize| -> Result<usize> {
        Ok(words.get(i).context("an argument is missing")?.parse()?)
    };
    let each_page = |f: fn(usize)| -> Result<()> {
        (number(1)?..number(1)? + number(2)?)
            .step_by(PAGE)
            .for_each(f);
        Ok(())
    };
    match words[0] {
        "pid" => return Ok(sys::getpid().to_string()),
        "map" => return Ok(Area::map(number(1)?)?.start.to_string()),
        "mapmany" => {
            let mut starts = Vec::new();
            for _ in 0..number(1)? {
                let area = Area::map(number(2)?)?;
                area.touch();
                starts.push(area.start.to_string());
            }
            return Ok(starts.join(" "));
        }
        "mapfile" => return map_file(number(1)? as RawFd, number(2)?, number(3)?),
        "write" => each_page(|addr| sys::poke(addr, 1))?,
        "read" => each_page(|addr| {
            let _ = sys::peek(addr);
        })?,
        "unmap" => sys::unmap(number(1)?, number(2)?)?,
        // Every other page read-only: one VMA for each page.
        "stripes" => {
            for addr in (number(1)?..number(1)? + number(2)?).step_by(2 * PAGE) {
                sys::protect(addr, PAGE, libc::PROT_READ)?;
            }
        }
        // Every other page goes, from the second on.
        "unmapodd" => {
            for addr in (number(1)? + PAGE..number(1)? + number(2)?).step_by(2 * PAGE) {
                sys::unmap(addr, PAGE)?;
            }
        }
        "advise" => sys::advise(number(1)?, number(2)?, number(3)? as i32)?,
        "mapaligned" => return Ok(map_aligned(number(1)? * PAGE, number(2)? as i32)?.to_string()),
        "protect" => sys::protect(number(1)?, number(2)?, number(3)? as i32)?,
        "remap" => {
            let (from, len, to, flags) = (number(1)?, number(2)?, number(3)?, number(4)?);
            sys::remap(from, len, to, len, flags as i32)?;
        }
        "fork" | "forklasting" => {
            let parent = sys::getpid();
            match sys::fork()? {
                Forked::Parent(pid) => return Ok(pid.to_string()),
                Forked::Child => {
                    if words[0] == "fork" {
                        die_with(parent);
                    }
                    serve(number(1)?, ends.to_vec())
                }
            }
        }
        "exit" => sys::exit_now(0),
        "reap" => drop(sys::wait(number(1)? as Pid)?),
        "exec" => {
            let error = Command::new("/proc/self/exe")
                .arg("--puppet")
                .arg(index.to_string())
                .args(
                    ends.iter()
                        .flat_map(|(rd, wr)| [rd.to_string(), wr.to_string()]),
                )
                .exec();
            return Err(anyhow!(error).context("exec"));
        }
        "comm" => sys::set_comm(&unhex(words.get(1).copied().unwrap_or(""))?)?,
        "open" => {
            let path = OsString::from_vec(unhex(words.get(1).copied().unwrap_or(""))?);
            let file = File::options().read(true).write(true).open(path)?;
            return Ok(file.into_raw_fd().to_string());
        }
        "thread" => {
            let (to_us, tell) = std::sync::mpsc::channel();
            let name = words.get(1).map(|name| unhex(name)).transpose()?;
            std::thread::spawn(move || {
                let named = name.map_or(Ok(()), |name| sys::set_comm(&name));
                let _ = to_us.send(named.map(|()| sys::gettid()));
                loop {
                    std::thread::park();
                }
            });
            return Ok(tell.recv()??.to_string());
        }
        "sharevm" => {
            let (wait_on, tell) = (number(2)? as RawFd, number(3)? as RawFd);
            return Ok(sys::clone_vm(number(1)? as i32, wait_on, tell)?.to_string());
        }
        other => bail!("no such order: {other}"),
    }
    Ok(String::new())
}

/// Bytes as words of an order.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let pair = |i: usize| -> Result<u8> { Ok(u8::from_str_radix(&text[i..i + 2], 16)?) };
    (0..text.len()).step_by(2).map(pair).collect()
}

fn map_file(fd: RawFd, pages: usize, page: usize) -> Result<String> {
    let file = std::mem::ManuallyDrop::new(sys::file_from(fd));
    let area = Area::map(pages)?;
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
    sys::map(
        area.start as usize,
        area.len as usize,
        RW,
        flags,
        Some(&file),
        page * PAGE,
    )?;
    Ok(area.start.to_string())
}
