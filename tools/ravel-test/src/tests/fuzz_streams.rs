// SPDX-License-Identifier: GPL-2.0
//! The same for the files of streams of events, one of which has events that are handed out and back meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use ravel_records::{Batch, Event};

use super::fuzz::{FORMAT, documented, mutate};
use crate::harness::say;
use crate::module::{self, BUFFER, DIR, errno_name, read_file, write_errno};
use crate::process::Child;
use crate::random::Random;
use crate::stream::{Forker, Made, client};
use crate::sys::{self, PAGE};
use crate::{check, check_eq, tests, tier};

tests!("fuzz":
    every_order_to_a_stream_is_answered_as_documented [300 s],
);

const EVENTS: &str = include_str!("../../../../src/events/EVENTS.md");

const LONGEST: usize = 255;
const LAST_PID: u64 = 4_194_304;
const MAX_STREAMS: usize = 16;
/// The stream that has events.
const FULL: &str = "full";
/// A lease of that many milliseconds holds for as long as the test looks.
const LONG: u64 = 600_000;

/// The files that are written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
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
const FILTERS: [&str; 3] = ["address", "port", "protocol"];

/// What a line asks for.
#[derive(Debug)]
enum Order {
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
fn number(text: &str, least: u64, most: u64) -> Option<u64> {
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
    fn parse(target: Target, line: &[u8], sources: &[String]) -> Option<Self> {
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
struct Reader {
    file: File,
    /// For how long a batch is leased.
    ms: u64,
    /// In which form.
    binary: bool,
    /// The numbers of its batch that are not done with.
    batch: BTreeSet<u64>,
    /// Whether the batch at hand is leased for longer than all this takes.
    holds: bool,
}

impl Reader {
    /// What an acknowledgement or a release is answered with; `errno` where it is still at hand.
    fn expect(&self, errno: i32) -> Vec<i32> {
        match (self.batch.is_empty(), self.holds) {
            (true, _) => vec![libc::ENODATA],
            (false, true) => vec![errno],
            (false, false) => vec![errno, libc::ESTALE],
        }
    }

    /// Reserves a batch, if there is none at hand.
    fn read(&mut self) -> Result<()> {
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
fn numbers(text: &str) -> Result<BTreeSet<u64>> {
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
struct Model {
    sources: Vec<String>,
    /// The streams, and whether each goes with the descriptor that made it.
    streams: BTreeMap<String, bool>,
    /// Processes that stay.
    alive: BTreeSet<u64>,
    zombie: u64,
    pid_max: u64,
    readers: Vec<Reader>,
    /// What failed, read just before.
    failed: BTreeSet<u64>,
    acked: BTreeSet<u64>,
}

impl Model {
    /// What a write may be answered with, and what it asks for.
    fn expect(&self, target: Target, input: &[u8], readable: bool) -> (Vec<i32>, Option<Order>) {
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
    fn took(&mut self, target: Target, order: Order, errno: i32) -> Result<()> {
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

/// The words of the list of streams that a failed write must not change. Time moves what was handed out, and other
/// processes fork.
fn settled() -> Result<Vec<String>> {
    let text = String::from_utf8(read_file("streams")?.whole()?)?;
    let mut all = Vec::new();
    for line in text.lines() {
        let full = line.contains(&format!("name={FULL} "));
        let moves = ["waiting", "ready", "reserved", "delayed", "failed"];
        let counts = ["events", "lost", "acked", "cleared"];
        let mut held = 0;
        for word in line.split(' ') {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            if full && moves.contains(&key) {
                held += value.parse::<u64>()?;
            }
            let settings = !moves.contains(&key) && !["leases", "attempts"].contains(&key);
            if settings && (full || !counts.contains(&key)) {
                all.push(word.to_owned());
            }
        }
        if full {
            all.push(format!("held={held}"));
        }
    }
    Ok(all)
}

/// What is good for a file, or nearly.
fn grammatical(random: &mut Random, target: Target, model: &Model, pids: &[u64]) -> Vec<u8> {
    let mut text = match target {
        Target::Streams => {
            let name = match random.below(30) {
                0 => FULL.to_owned(),
                1 => "x".repeat(30 + random.below(3)),
                2 => (*random.pick(&["", "a.b", "../x", "é", "a=b", "."])).to_owned(),
                n => format!("s{}", n % 20),
            };
            if name != FULL && random.one_in(6) {
                format!("remove {name}{}", random.pick(&["", "", "", " ", " x"]))
            } else {
                create(random, &name, model, pids)
            }
        }
        Target::Reader(at) => match random.below(8) {
            0..=1 => {
                let mut text = String::from("lease");
                for _ in 0..random.below(4) {
                    if random.one_in(4) {
                        let forms = ["text", "binary", "binary", "binary", "", "Text", "json"];
                        text += &format!(" form={}", random.pick(&forms));
                        continue;
                    }
                    let key = random.pick(&["events", "bytes", "ms", "ms", "event"]);
                    let value = random.pick(&[
                        "1",
                        "7",
                        "600000",
                        "86400000",
                        "86400001",
                        "4096",
                        "4097",
                        "1024",
                        "1023",
                        "1048576",
                        "1048577",
                        "0",
                        "",
                        "-1",
                        "07",
                        "18446744073709551616",
                    ]);
                    text += &format!(" {key}={value}");
                }
                text
            }
            2..=5 => format!("ack{}", seq_text(random, &model.readers[at].batch)),
            _ => {
                let delays = ["", "", " 0", " 5", " 50", " 86400001", " -1", " x", "  5"];
                format!("release{}", random.pick(&delays))
            }
        },
        Target::Failed => {
            let order = random.pick(&["replay", "clear", "clear", "Clear"]);
            format!("{order}{}", seq_text(random, &model.failed))
        }
        Target::Sources | Target::Gone(_) => {
            (*random.pick(&["ack", "release", "clear", "lease ms=5", "x"])).to_owned()
        }
    }
    .into_bytes();
    if random.one_in(2) {
        text.push(b'\n');
    }
    text
}

fn create(random: &mut Random, name: &str, model: &Model, pids: &[u64]) -> String {
    let mut words = vec![format!("create {name}")];
    for _ in 0..1 + random.below(3) {
        words.push(match random.below(10) {
            0..=5 => {
                let list: Vec<&str> = (0..1 + random.below(3))
                    .map(|_| match random.below(20) {
                        0 => *random.pick(&["forks", "", "EXEC"]),
                        _ => random.pick(&model.sources).as_str(),
                    })
                    .collect();
                format!("sources={}", list.join(","))
            }
            6 => {
                let sizes = [
                    "16384", "20001", "65536", "16383", "67108865", "0", "", "0x4000",
                ];
                format!("bytes={}", random.pick(&sizes))
            }
            7 => format!(
                "attempts={}",
                random.pick(&["1", "1000", "1001", "0", "+3", "3"])
            ),
            8 if random.one_in(2) => (*random.pick(&[
                "port=80",
                "port=0",
                "port=65536",
                "address=127.0.0.1",
                "address=::1",
                "address=1.2.3",
                "address=",
                "protocol=17",
                "protocol=256",
                "protocol=udp",
                "until=close",
                "until=",
                "until=open",
            ]))
            .to_owned(),
            8 => format!("{}={}", random.pick(&["pid", "tree"]), random.pick(pids)),
            _ => {
                (*random.pick(&["pid=", "tree=0", "tree=4194305", "=", "x", "pid", ""])).to_owned()
            }
        });
    }
    words.join(" ")
}

/// Nothing, or a number that is among these, or is not.
fn seq_text(random: &mut Random, of: &BTreeSet<u64>) -> String {
    let of: Vec<u64> = of.iter().copied().collect();
    match random.below(8) {
        0 => String::new(),
        1 => format!(" {}", random.below(2000)),
        2 => format!(
            " {}",
            random.pick(&[
                "0",
                "18446744073709551615",
                "18446744073709551616",
                "-1",
                ""
            ])
        ),
        _ if of.is_empty() => " 1".to_owned(),
        _ => format!(" {}", random.pick(&of)),
    }
}

fn input(random: &mut Random, target: Target, model: &Model, pids: &[u64]) -> Vec<u8> {
    let mut text = grammatical(random, target, model, pids);
    match random.below(16) {
        0..=10 => {}
        11..=12 => mutate(random, &mut text),
        13 => {
            let len = random.below(2 * LONGEST);
            text = random.bytes(len);
        }
        14 => {
            // About as long as is allowed.
            let len = LONGEST - 2 + random.below(5);
            let fill = *random.pick(b" \n0\0x");
            text.resize(len.max(text.len()), fill);
        }
        _ if random.one_in(4) => {
            let len = random.below(70_000);
            text.resize(len, random.next() as u8);
        }
        _ => {}
    }
    text
}

fn open(name: &str) -> Result<File> {
    let path = format!("{DIR}/{name}");
    let mut options = OpenOptions::new();
    options.read(true).write(true).open(&path).context(path)
}

/// Whether a request could take more memory than a small machine has, or take the full stream away.
fn is_unwanted(order: Option<&Order>, input: &[u8]) -> bool {
    let large = |text: &str| number(text, 1 << 20, u64::MAX).is_some();
    match order {
        Some(Order::Create { .. }) => String::from_utf8_lossy(input)
            .split([' ', '\n'])
            .any(|word| word.strip_prefix("bytes=").is_some_and(large)),
        Some(Order::Remove(name)) => name == FULL,
        _ => false,
    }
}

/// The streams as the module lists them, and whether each goes with a descriptor.
fn listed() -> Result<BTreeMap<String, bool>> {
    let streams = client().streams()?.streams.into_iter();
    Ok(streams
        .map(|stream| (stream.name, stream.until_close))
        .collect())
}

fn every_order_to_a_stream_is_answered_as_documented() -> Result<()> {
    let count = tier::fuzz_inputs() / 20;
    let seed = match tier::asked("RAVEL_FUZZ_SEED") {
        Some(seed) => seed,
        None => Random::seed()?,
    };
    say(format_args!("{count} inputs, RAVEL_FUZZ_SEED={seed}"));
    let mut random = Random::new(seed);
    let mut forker = Forker::new(None)?;
    let mut zombie = Child::idle()?;
    zombie.make_zombie()?;
    let idle = Child::idle()?;

    let gone = Made::new("gone", "sources=fork")?;
    let mut gone_files = [open("events/gone/events")?, open("events/gone/failed")?];
    client().control_streams("remove gone")?;
    drop(gone);
    let terms = format!("sources=fork pid={} attempts=3", forker.pid());
    let full = Made::new(FULL, &terms)?;
    forker.fork(100)?;

    let readers = (0..2).map(|_| -> Result<Reader> {
        let file = open(&format!("events/{FULL}/events"))?;
        Ok(Reader {
            file,
            ms: 30_000,
            binary: false,
            batch: BTreeSet::new(),
            holds: false,
        })
    });
    let sources = String::from_utf8(read_file("sources")?.whole()?)?;
    let names = sources
        .lines()
        .filter_map(|line| line.strip_prefix("source name="));
    let mut model = Model {
        sources: names
            .filter_map(|rest| Some(rest.split_once(' ')?.0.to_owned()))
            .collect(),
        streams: BTreeMap::from([(FULL.to_owned(), false)]),
        alive: [1, 2, sys::getpid(), idle.pid].map(|pid| pid as u64).into(),
        zombie: zombie.pid as u64,
        pid_max: fs::read_to_string("/proc/sys/kernel/pid_max")?
            .trim()
            .parse()?,
        readers: readers.collect::<Result<_>>()?,
        failed: BTreeSet::new(),
        acked: BTreeSet::new(),
    };
    check!(!model.sources.is_empty(), "no sources in {sources}");
    let mut pids: Vec<u64> = model.alive.iter().copied().collect();
    pids.extend([model.zombie, LAST_PID, LAST_PID - 1]);
    let [mut streams, mut failed, mut plain] = [
        open("streams")?,
        open(&format!("events/{FULL}/failed"))?,
        open("sources")?,
    ];
    let files = 3 + model.readers.len() + gone_files.len();
    let hole = sys::map_anon(PAGE, libc::PROT_NONE)?;
    let known: BTreeSet<String> = documented(FORMAT)
        .into_iter()
        .chain(documented(EVENTS))
        .collect();

    let mut answers: BTreeMap<String, u64> = BTreeMap::new();
    for n in 0..count {
        if n % 100 == 0 && full.state()?.ready < 50 {
            forker.fork(100)?;
        }
        let target = match random.below(16) {
            0..=5 => Target::Streams,
            6..=11 => Target::Reader(random.below(2)),
            12..=13 => Target::Failed,
            14 => Target::Sources,
            _ => Target::Gone(random.below(2)),
        };
        let at = random.below(2);
        if random.one_in(8) {
            model.readers[at].read()?;
        }
        if target == Target::Failed {
            let text = read_file(&format!("events/{FULL}/failed"))?.whole()?;
            model.failed = numbers(&String::from_utf8(text)?)?;
        }
        let input = input(&mut random, target, &model, &pids);
        let (readable, looks) = (!random.one_in(100), random.one_in(10));
        let (expected, order) = model.expect(target, &input, readable);
        if is_unwanted(order.as_ref(), &input) {
            continue;
        }
        let before = if looks { settled()? } else { Vec::new() };
        let file = match target {
            Target::Streams => &mut streams,
            Target::Reader(at) => &mut model.readers[at].file,
            Target::Failed => &mut failed,
            Target::Sources => &mut plain,
            Target::Gone(at) => &mut gone_files[at],
        };
        let errno = if readable {
            write_errno(file, &input)
        } else {
            match sys::write_from_address(file, hole, input.len()) {
                Ok(_) => 0,
                Err(error) => sys::errno(&error),
            }
        };
        let told = || {
            let text = String::from_utf8_lossy(&input[..input.len().min(300)]).into_owned();
            format!(
                "input {n} of RAVEL_FUZZ_SEED={seed}: {text:?}, {} bytes to {target:?}",
                input.len()
            )
        };
        check!(
            expected.contains(&errno),
            "{}: errno {errno}, wanted one of {expected:?}",
            told()
        );
        let name = if errno == 0 { "0" } else { errno_name(errno) };
        check!(
            errno == 0 || known.contains(name),
            "{}: {name} is not documented",
            told()
        );
        *answers.entry(name.to_owned()).or_default() += 1;
        if errno != 0 && looks {
            check_eq!(settled()?, before, "the streams, after {}", told());
        }
        if let Some(order) = order {
            model.took(target, order, errno).with_context(told)?;
        }
        if n % 1000 == 0 || n + 1 == count {
            check_eq!(listed()?, model.streams, "streams, after {}", told());
            check_eq!(
                module::references()?,
                files as i64,
                "references, after {}",
                told()
            );
        }
    }
    model.readers.clear();
    let state = full.state()?;
    check_eq!(state.lost, 0, "events lost");
    check_eq!(state.reserved, 0, "records reserved when no reader is left");
    check_eq!(
        state.acked,
        model.acked.len() as u64,
        "records acknowledged"
    );
    check_eq!(
        state.ready + state.delayed + state.failed + state.acked + state.cleared + state.waiting,
        state.events,
        "records in all, of {state:?}"
    );
    let left: BTreeSet<u64> = full.drain()?.iter().map(|event| event.seq()).collect();
    check!(
        left.is_disjoint(&model.acked),
        "what was acknowledged is handed out again"
    );
    drop((streams, failed, plain, gone_files, full));
    // With the descriptor that made them go those that were to.
    model
        .streams
        .retain(|name, until_close| name != FULL && !*until_close);
    check_eq!(listed()?, model.streams, "streams behind the descriptor");
    for name in model.streams.keys() {
        client().control_streams(&format!("remove {name}"))?;
    }
    check!(client().streams()?.streams.is_empty(), "streams are left");
    check_eq!(module::references()?, 0, "references at the end");
    say(format_args!("answers: {answers:?}"));
    for errno in [
        "0", "EINVAL", "ESRCH", "EEXIST", "ENOENT", "ENOSPC", "EFAULT", "ENODATA", "EIO",
    ] {
        check!(
            count < 10_000 || answers.contains_key(errno),
            "no input was answered with {errno}"
        );
    }
    Ok(())
}
