// SPDX-License-Identifier: GPL-2.0
//! /proc/PID/maps and smaps: what the kernel itself says of a process' memory.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::sys::Pid;

/// One mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// `rwxp`.
    pub perms: String,
    /// Bytes into the file.
    pub offset: u64,
    /// Whether it maps a file.
    pub is_file: bool,
    /// The file's path or what stands there instead, without escapes.
    pub name: Vec<u8>,
    /// Anonymous bytes, from smaps.
    pub anonymous: u64,
}

/// The mappings of a process, from its smaps.
pub fn of(pid: Pid) -> Result<Vec<Mapping>> {
    parse(&fs::read(format!("/proc/{pid}/smaps"))?)
}

fn parse(text: &[u8]) -> Result<Vec<Mapping>> {
    let mut maps: Vec<Mapping> = Vec::new();
    for line in text.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        if line[0].is_ascii_uppercase() {
            if let Some(rest) = line.strip_prefix(b"Anonymous:") {
                let kib = std::str::from_utf8(rest)?.trim().trim_end_matches(" kB");
                let last = maps.last_mut().context("Anonymous: before any mapping")?;
                last.anonymous = kib.parse::<u64>()? << 10;
            }
            continue;
        }
        maps.push(parse_head(line).with_context(|| String::from_utf8_lossy(line).into_owned())?);
    }
    Ok(maps)
}

fn parse_head(line: &[u8]) -> Result<Mapping> {
    let mut words = line.splitn(6, |b| *b == b' ');
    let mut word =
        || -> Result<&str> { Ok(std::str::from_utf8(words.next().context("too few words")?)?) };
    let (range, perms, offset, _device, inode) = (word()?, word()?, word()?, word()?, word()?);
    let Some((start, end)) = range.split_once('-') else {
        bail!("no range")
    };
    let name = words.next().unwrap_or(b"").trim_ascii_start();
    Ok(Mapping {
        start: u64::from_str_radix(start, 16)?,
        end: u64::from_str_radix(end, 16)?,
        perms: perms.to_owned(),
        offset: u64::from_str_radix(offset, 16)?,
        is_file: inode != "0",
        name: unescape(name),
        anonymous: 0,
    })
}

/// maps writes a newline as `\012`, and nothing else in another way.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = name;
    while let [first, tail @ ..] = rest {
        if let Some(tail) = rest.strip_prefix(b"\\012") {
            out.push(b'\n');
            rest = tail;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_maps_can_be_read() {
        let maps = of(crate::sys::getpid()).unwrap();
        assert!(maps.iter().any(|m| m.name == b"[stack]" && m.anonymous > 0));
        assert!(maps.iter().any(|m| m.is_file && m.perms == "r-xp"));
    }

    #[test]
    fn a_newline_in_a_name() {
        let text = b"1000-3000 rw-p 00002000 fe:01 7   /tmp/a b\\012c\nAnonymous:   8 kB\n";
        let want = Mapping {
            start: 0x1000,
            end: 0x3000,
            perms: "rw-p".into(),
            offset: 0x2000,
            is_file: true,
            name: b"/tmp/a b\nc".to_vec(),
            anonymous: 8192,
        };
        assert_eq!(parse(text).unwrap(), [want]);
    }
}
