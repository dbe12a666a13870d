// SPDX-License-Identifier: GPL-2.0
//! What EVENTS.md says of requests to streams, written anew: what each may be answered with, and what it does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;

use anyhow::{Result, ensure};
use ravel_records::{Batch, Event};

use crate::module::BUFFER;
use crate::sys;

pub(super) const LONGEST: usize = 255;
pub(super) const LAST_PID: u64 = 4_194_304;
pub(super) const MAX_STREAMS: usize = 16;
/// The stream that has events.
pub(super) const FULL: &str = "full";
/// A lease of that many milliseconds holds for as long as the test looks.
pub(super) const LONG: u64 = 600_000;

/// The files that are written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Streams,
    /// A descriptor of the full stream's `events`.
    Reader(usize),
    Failed,
    /// It takes nothing.
    Sources,
    /// A file of a stream that was removed.
    Gone(usize),
}

/// What only the network's sources can be asked for with, as far as it is tried here.
pub(super) const FILTERS: [&str; 3] = ["address", "port", "protocol"];

/// What a line asks for.
#[derive(Debug)]
pub(super) enum Order {
    Create {
        name: String,
        pid: Option<u64>,
        /// It goes with the descriptor that it is written to.
        until_close: bool,
    },
    Remove(String),
    Lease {
        ms: u64,
        binary: bool,
    },
    Ack(Option<u64>),
    Release,
    Replay(Option<u64>),
    Clear(Option<u64>),
}

/// What EVENTS.md says of numbers, written anew here.
pub(super) fn number(text: &str, least: u64, most: u64) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| digits)?;
    (least..=most).contains(&number).then_some(number)
}

/// `KEY=VALUE` words, each key once and one of these.
fn pairs<'t>(words: &[&'t str], keys: &[&str]) -> Option<BTreeMap<&'t str, &'t str>> {
    let mut pairs = BTreeMap::new();
    for word in words {
        let (key, value) = word.split_once('=')?;
        if !keys.contains(&key) || pairs.insert(key, value).is_some() {
            return None;
        }
    }
    Some(pairs)
}

/// What the number behind a key is, where there is the key; nothing at all where it is no such number.
fn optional(text: Option<&&str>, least: u64, most: u64) -> Option<Option<u64>> {
    match text {
        None => Some(None),
        Some(text) => number(text, least, most).map(Some),
    }
}

fn name(text: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let good = (1..=31).contains(&text.len()) && text.bytes().all(plain);
    good.then(|| text.to_owned())
}

impl Order {
    pub(super) fn parse(target: Target, line: &[u8], sources: &[String]) -> Option<Self> {
        let words: Vec<&str> = std::str::from_utf8(line).ok()?.split(' ').collect();
        let (order, arguments) = (words[0], &words[1..]);
        let seq = || optional(arguments.first(), 1, u64::MAX).filter(|_| arguments.len() < 2);
        match (target, order) {
            (Target::Streams, "create") => {
                let (first, rest) = arguments.split_first()?;
                let name = name(first)?;
                let keys = ["sources", "bytes", "attempts", "pid", "tree", "until"];
                let pairs = pairs(rest, &[&keys[..], &FILTERS].concat())?;
                let wanted: Vec<&str> = pairs.get("sources")?.split(',').collect();
                let known = wanted.iter().all(|w| sources.iter().any(|s| s == w));
                let once = wanted.iter().collect::<BTreeSet<_>>().len() == wanted.len();
                let who = [pairs.get("pid"), pairs.get("tree")];
                optional(pairs.get("bytes"), 16384, 67_108_864)?;
                optional(pairs.get("attempts"), 1, 1000)?;
                if !known || !once || who.iter().flatten().count() > 1 {
                    return None;
                }
                // Processes have no ports, and the network's doings no process.
                let any = |names: &[&str]| wanted.iter().any(|source| names.contains(source));
                let of_sockets = FILTERS.iter().any(|key| pairs.contains_key(key));
                if who.iter().any(Option::is_some) && any(&["tcp_state", "reset", "drop", "packet"])
                    || of_sockets && any(&["fork", "exec", "exit"])
                {
                    return None;
                }
                optional(pairs.get("port"), 1, 65535)?;
                optional(pairs.get("protocol"), 1, 255)?;
                let until = pairs.get("until");
                if until.is_some_and(|until| *until != "close") {
                    return None;
                }
                if let Some(address) = pairs.get("address") {
                    address.parse::<IpAddr>().ok()?;
                }
                let pid = optional(who.into_iter().flatten().next(), 1, LAST_PID)?;
                Some(Self::Create {
                    name,
                    pid,
                    until_close: until.is_some(),
                })
            }
            (Target::Streams, "remove") if arguments.len() == 1 => {
                Some(Self::Remove(name(arguments[0])?))
            }
            (Target::Reader(_), "lease") => {
                let pairs = pairs(arguments, &["events", "bytes", "ms", "form"])?;
                optional(pairs.get("events"), 1, 4096)?;
                optional(pairs.get("bytes"), 1024, 1_048_576)?;
                let ms = optional(pairs.get("ms"), 1, 86_400_000)?.unwrap_or(30_000);
                let binary = match pairs.get("form") {
                    None | Some(&"text") => false,
                    Some(&"binary") => true,
                    Some(_) => return None,
                };
                Some(Self::Lease { ms, binary })
            }
            (Target::Reader(_), "ack") => Some(Self::Ack(seq()?)),
            (Target::Reader(_), "release") if arguments.len() < 2 => {
                optional(arguments.first(), 0, 86_400_000)?;
                Some(Self::Release)
            }
            (Target::Failed, "replay") => Some(Self::Replay(seq()?)),
            (Target::Failed, "clear") => Some(Self::Clear(seq()?)),
            _ => None,
        }
    }
}

/// A descriptor of `events`, and the batch that it should have.
pub(super) struct Reader {
    pub(super) file: File,
    /// For how long a batch is leased.
    pub(super) ms: u64,
    /// In which form.
    pub(super) binary: bool,
    /// The numbers of its batch that are not done with.
    pub(super) batch: BTreeSet<u64>,
    /// Whether the batch at hand is leased for longer than all this takes.
    pub(super) holds: bool,
}

impl Reader {
    /// What an acknowledgement or a release is answered with; `errno` where it is still at hand.
    pub(super) fn expect(&self, errno: i32) -> Vec<i32> {
        match (self.batch.is_empty(), self.holds) {
            (true, _) => vec![libc::ENODATA],
            (false, true) => vec![errno],
            (false, false) => vec![errno, libc::ESTALE],
        }
    }

    /// Reserves a batch, if there is none at hand.
    pub(super) fn read(&mut self) -> Result<()> {
        if !self.batch.is_empty() {
            return Ok(());
        }
        let mut text = Vec::new();
        let mut part = vec![0; BUFFER];
        // Not beyond the summary: where the deadline has passed, that it ends is not told.
        while Batch::parse(&text).is_err() {
            match self.file.read(&mut part) {
                Ok(0) => break,
                Ok(len) => text.extend_from_slice(&part[..len]),
                Err(error) => {
                    let errno = sys::errno(&error);
                    let passed = self.ms < LONG && errno == libc::ESTALE;
                    ensure!(errno == libc::EAGAIN || passed, "a read: {error}");
                    return Ok(());
                }
            }
        }
        let batch = Batch::parse(&text)?;
        let binary = !text.starts_with(b"batch ");
        ensure!(binary == self.binary, "the other form: {batch:?}");
        self.batch = batch.events.iter().map(Event::seq).collect();
        self.holds = self.ms >= LONG;
        Ok(())
    }
}

/// The numbers of the records of a text.
pub(super) fn numbers(text: &str) -> Result<BTreeSet<u64>> {
    let mut all = BTreeSet::new();
    for line in text.lines() {
        let seq = line.split(' ').find_map(|word| word.strip_prefix("seq="));
        if let Some(seq) = seq {
            ensure!(all.insert(seq.parse()?), "number {seq} twice: {text}");
        }
    }
    Ok(all)
}

/// What the module should know.
pub(super) struct Model {
    pub(super) sources: Vec<String>,
    /// The streams, and whether each goes with the descriptor that made it.
    pub(super) streams: BTreeMap<String, bool>,
    /// Processes that stay.
    pub(super) alive: BTreeSet<u64>,
    pub(super) zombie: u64,
    pub(super) pid_max: u64,
    pub(super) readers: Vec<Reader>,
    /// What failed, read just before.
    pub(super) failed: BTreeSet<u64>,
    pub(super) acked: BTreeSet<u64>,
}

impl Model {
    /// What a write may be answered with, and what it asks for.
    pub(super) fn expect(
        &self,
        target: Target,
        input: &[u8],
        readable: bool,
    ) -> (Vec<i32>, Option<Order>) {
        let line = input.strip_suffix(b"\n").unwrap_or(input);
        let errno = match target {
            Target::Gone(_) => libc::EIO,
            Target::Sources => libc::EINVAL,
            _ if input.len() > LONGEST + 1 => libc::EINVAL,
            _ if !readable && !input.is_empty() => libc::EFAULT,
            _ if line.len() > LONGEST => libc::EINVAL,
            _ => 0,
        };
        if errno != 0 {
            return (vec![errno], None);
        }
        let Some(order) = Order::parse(target, line, &self.sources) else {
            return (vec![libc::EINVAL], None);
        };
        let expected = match (&order, target) {
            (Order::Create { name, .. }, _) if self.streams.contains_key(name) => {
                vec![libc::EEXIST]
            }
            (Order::Create { .. }, _) if self.streams.len() == MAX_STREAMS => vec![libc::ENOSPC],
            (Order::Create { pid, .. }, _) => match *pid {
                None => vec![0],
                Some(pid) if self.alive.contains(&pid) => vec![0],
                Some(pid) if pid == self.zombie || pid > self.pid_max => vec![libc::ESRCH],
                Some(_) => vec![0, libc::ESRCH],
            },
            (Order::Remove(name), _) if self.streams.contains_key(name) => vec![0],
            (Order::Remove(_), _) => vec![libc::ENOENT],
            (Order::Lease { .. }, _) => vec![0],
            (Order::Ack(Some(seq)), Target::Reader(at)) => {
                let reader = &self.readers[at];
                let there = reader.batch.contains(seq);
                reader.expect(if there { 0 } else { libc::ENOENT })
            }
            (Order::Ack(None) | Order::Release, Target::Reader(at)) => self.readers[at].expect(0),
            (Order::Replay(None) | Order::Clear(None), _) => vec![0],
            (Order::Replay(Some(seq)) | Order::Clear(Some(seq)), _) => {
                // A lease that runs out just now makes more of them fail.
                let more = self
                    .readers
                    .iter()
                    .any(|r| !r.holds && r.batch.contains(seq));
                match (self.failed.contains(seq), more) {
                    (true, _) => vec![0],
                    (false, true) => vec![0, libc::ENOENT],
                    (false, false) => vec![libc::ENOENT],
                }
            }
            _ => vec![libc::EINVAL],
        };
        (expected, Some(order))
    }

    /// Takes note of what was answered.
    pub(super) fn took(&mut self, target: Target, order: Order, errno: i32) -> Result<()> {
        if let (Target::Reader(at), libc::ESTALE) = (target, errno) {
            self.readers[at].batch.clear();
        }
        if errno != 0 {
            return Ok(());
        }
        match (order, target) {
            (
                Order::Create {
                    name, until_close, ..
                },
                _,
            ) => drop(self.streams.insert(name, until_close)),
            (Order::Remove(name), _) => drop(self.streams.remove(&name)),
            (Order::Lease { ms, binary }, Target::Reader(at)) => {
                (self.readers[at].ms, self.readers[at].binary) = (ms, binary);
            }
            (Order::Ack(upto), Target::Reader(at)) => {
                let batch = &mut self.readers[at].batch;
                let rest = upto.map_or(BTreeSet::new(), |upto| batch.split_off(&(upto + 1)));
                for seq in std::mem::replace(batch, rest) {
                    ensure!(self.acked.insert(seq), "{seq} was acknowledged twice");
                }
            }
            (Order::Release, Target::Reader(at)) => self.readers[at].batch.clear(),
            _ => {}
        }
        Ok(())
    }
}
