// SPDX-License-Identifier: GPL-2.0
//! Inputs by the ten thousands for every file that can be written, and what each must be answered with.
//!
//! RAVEL_FUZZ_N says how many, RAVEL_FUZZ_SEED which.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Read;

use anyhow::{Context, Result};

use crate::harness::say;
use crate::module::{self, DIR, REPORTS, errno_name, state, write_errno};
use crate::process::{Child, Sleepers, Stage};
use crate::random::Random;
use crate::sys::{self, PAGE, Pid};
use crate::{check, check_eq, tests, tier};

tests!("fuzz":
    every_input_is_answered_as_documented [300 s],
);

/// What FORMAT.md says can come of a write or a read.
pub(super) const FORMAT: &str = include_str!("../../../../src/report/FORMAT.md");

/// More processes than can be attached.
const PROCESSES: usize = 280;
const MAX_ATTACHED: usize = 256;
const LAST_PID: u64 = 4_194_304;
const LONGEST: usize = 63;

/// The files that are written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Attach,
    Detach,
    Query,
    Locks,
    /// Those that take nothing.
    Other(usize),
}

/// What the module should know.
struct Model {
    /// Processes that stay, by each number that names one.
    alive: BTreeMap<u64, Pid>,
    /// No process has a number above it.
    pid_max: u64,
    attached: BTreeSet<Pid>,
    /// Whose folder's files are written to, and whether that folder was ever removed.
    owner: Pid,
    removed: bool,
}

/// Who has a number.
enum Who {
    Process(Pid),
    Nobody,
    /// Others come and go.
    Unknown,
}

impl Model {
    fn who(&self, pid: u64) -> Who {
        match self.alive.get(&pid) {
            Some(0) => Who::Nobody,
            Some(process) => Who::Process(*process),
            None if pid > self.pid_max => Who::Nobody,
            None => Who::Unknown,
        }
    }

    /// What a write may be answered with.
    fn expect(&self, target: Target, input: &[u8], readable: bool) -> Vec<i32> {
        let line = input.strip_suffix(b"\n").unwrap_or(input);
        if matches!(target, Target::Other(i) if i >= PLAIN.len()) && self.removed {
            return vec![libc::EIO];
        }
        if matches!(target, Target::Other(_)) || input.len() > LONGEST + 1 {
            return vec![libc::EINVAL];
        }
        if !readable && !input.is_empty() {
            return vec![libc::EFAULT];
        }
        if line.len() > LONGEST {
            return vec![libc::EINVAL];
        }
        if target == Target::Locks {
            return vec![if line == b"reset" { 0 } else { libc::EINVAL }];
        }
        let number = match target {
            Target::Query => request(line).map(|(_, pid)| pid),
            _ => number(line),
        };
        let Some(pid) = number else {
            return vec![libc::EINVAL];
        };
        match (target, self.who(pid)) {
            (Target::Query, Who::Process(_)) => vec![0],
            (Target::Query, Who::Nobody) => vec![libc::ESRCH],
            (Target::Query, Who::Unknown) => vec![0, libc::ESRCH],
            (Target::Attach, Who::Process(pid)) if self.attached.contains(&pid) => {
                vec![libc::EEXIST]
            }
            (Target::Attach, Who::Process(_)) if self.attached.len() == MAX_ATTACHED => {
                vec![libc::ENOSPC]
            }
            (Target::Attach, Who::Process(_)) => vec![0],
            (Target::Attach, Who::Nobody) => vec![libc::ESRCH],
            (Target::Attach, Who::Unknown) => {
                vec![0, libc::ESRCH, libc::EEXIST, libc::ENOSPC]
            }
            (_, Who::Process(pid)) if self.attached.contains(&pid) => vec![0],
            (_, Who::Process(_) | Who::Nobody) => vec![libc::ENOENT],
            (_, Who::Unknown) => vec![0, libc::ENOENT],
        }
    }

    /// Takes note of a write that went well.
    fn took(&mut self, target: Target, input: &[u8]) -> Result<()> {
        let line = input.strip_suffix(b"\n").unwrap_or(input);
        let who = number(line).map(|pid| self.who(pid));
        match (target, who) {
            (Target::Attach, Some(Who::Process(pid))) => drop(self.attached.insert(pid)),
            (Target::Detach, Some(Who::Process(pid))) => drop(self.attached.remove(&pid)),
            // A process that we did not make.
            (Target::Attach | Target::Detach, _) => {
                self.attached = module::folders()?.into_iter().collect();
            }
            _ => {}
        }
        self.removed = self.removed || !self.attached.contains(&self.owner);
        Ok(())
    }
}

/// Files that are only read, beside those of a folder.
const PLAIN: [&str; 2] = ["version", "attached"];

/// A number as the format has it, written anew here.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.len() <= 9 && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok().filter(|_| digits)?;
    text.parse().ok().filter(|n| (1..=LAST_PID).contains(n))
}

/// An address as the format has it.
fn address(text: &[u8]) -> Option<u64> {
    let digits = std::str::from_utf8(text.strip_prefix(b"0x")?).ok()?;
    let plain = digits.bytes().all(|b| b.is_ascii_hexdigit()) && digits.len() <= 16;
    let address = u64::from_str_radix(digits, 16).ok().filter(|_| plain)?;
    (address < 1 << 57).then_some(address)
}

/// What stands before a request for the binary form, and what its answer begins with.
const BINARY: &[u8] = b"binary ";
const MAGIC: &[u8] = b"\x7fravel\x00\x03";

/// A report's name and a pid, where a line is a request.
fn request(line: &[u8]) -> Option<(&'static str, u64)> {
    let line = line.strip_prefix(BINARY).unwrap_or(line);
    let words: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let (name, pid) = (words.first()?, number(words.get(1)?)?);
    if *name == b"page" {
        let range = match words[2..] {
            [at] => address(at).map(|at| at..at + 1),
            [from, to] => address(from).zip(address(to)).map(|(from, to)| from..to),
            _ => None,
        };
        return range
            .filter(|range| !range.is_empty())
            .map(|_| ("page", pid));
    }
    if *name == b"sharers" {
        let [fd] = words[2..] else {
            return None;
        };
        let good = (1..=9).contains(&fd.len()) && fd.iter().all(u8::is_ascii_digit);
        return good.then_some(("sharers", pid));
    }
    let report = REPORTS.iter().find(|report| report.as_bytes() == *name)?;
    (words.len() == 2).then_some((*report, pid))
}

/// What looks like an address.
fn address_text(random: &mut Random) -> Vec<u8> {
    let address = random.next() >> (6 + random.below(50));
    match random.below(12) {
        0 => format!("{address:x}"),
        1 => format!("0X{address:X}"),
        2 => format!("0x{:x}", u64::MAX - address),
        3 => format!("0x{address:017x}"),
        4 => "0x".into(),
        _ => format!("0x{:x}", address & !0xfff),
    }
    .into_bytes()
}

/// What looks like a number.
fn pid_text(random: &mut Random, pids: &[u64]) -> Vec<u8> {
    let pid = *random.pick(pids);
    match random.below(24) {
        0..=13 => pid.to_string(),
        14 => (LAST_PID - random.next() % 1000).to_string(),
        15 => format!("{pid:09}"),
        16 => format!("{pid:010}"),
        17 => (LAST_PID + random.next() % 1000).to_string(),
        18 => (u64::from(u32::MAX) + 1 + pid).to_string(),
        19 => format!("{}", i128::from(u64::MAX) + 1 + i128::from(pid)),
        20 => format!("-{pid}"),
        21 => format!("{}{pid}", random.pick(&["+", " ", "0x", "\t", "\0", "\n"])),
        22 => format!(
            "{pid}{}",
            random.pick(&[" ", "\r", "\0", ".0", "e0", "/", "\n\n"])
        ),
        _ => random
            .pick(&["", "0", "00", "self", "-", "१२", "1 2"])
            .to_string(),
    }
    .into_bytes()
}

/// What is good for a file, or nearly.
fn grammatical(random: &mut Random, target: Target, pids: &[u64]) -> Vec<u8> {
    let mut text = match target {
        Target::Attach | Target::Detach | Target::Other(_) => pid_text(random, pids),
        Target::Locks => {
            let words: [&[u8]; 6] = [b"reset", b"reset", b"Reset", b"reset ", b"rese", b""];
            random.pick(&words).to_vec()
        }
        Target::Query => {
            let name = match random.below(14) {
                0..=9 => random.pick(REPORTS),
                10 => &"page",
                11 => &"sharers",
                _ => random.pick(&["anon", "", "SOCKETS", "skbs\t", "version", "anon_vma_"]),
            };
            let blank = if random.one_in(20) { "  " } else { " " };
            let form = match random.below(20) {
                0..=3 => BINARY,
                4 => random.pick(&[&b"Binary "[..], b"binary", b"binary  "]),
                _ => b"",
            };
            let pid = pid_text(random, pids);
            let mut text = [form, name.as_bytes(), blank.as_bytes(), &pid].concat();
            if *name == "page" || random.one_in(30) {
                for _ in 0..random.pick(&[1, 1, 2, 2, 0, 3]).to_owned() {
                    text.push(b' ');
                    text.extend(address_text(random));
                }
            }
            if *name == "sharers" || random.one_in(30) {
                let fd =
                    random.pick(&["0", "1", "007", "999", "999999999", "1000000000", "-1", ""]);
                text.extend([b" ", fd.as_bytes()].concat());
            }
            text
        }
    };
    if random.one_in(2) {
        text.push(b'\n');
    }
    text
}

fn mutate(random: &mut Random, text: &mut Vec<u8>) {
    for _ in 0..random.below(3) + 1 {
        let at = random.below(text.len() + 1);
        let byte = random.next() as u8;
        match random.below(6) {
            0 => text.insert(at, byte),
            1 => text.insert(at, *random.pick(b" \n0919\0-")),
            2 if at < text.len() => drop(text.remove(at)),
            3 if at < text.len() => text[at] ^= 1 << random.below(8),
            4 => text.truncate(at),
            _ => text.extend_from_within(at..),
        }
    }
}

fn input(random: &mut Random, target: Target, pids: &[u64]) -> Vec<u8> {
    let text = grammatical(random, target, pids);
    distort(random, text, LONGEST)
}

/// A request as it is, mostly; or with something wrong in it; or something else, of about as many bytes as may be, or more.
pub(super) fn distort(random: &mut Random, mut text: Vec<u8>, longest: usize) -> Vec<u8> {
    match random.below(16) {
        0..=9 => {}
        10..=12 => mutate(random, &mut text),
        13 => {
            let len = random.below(2 * longest);
            text = random.bytes(len);
        }
        14 => {
            // About as long as is allowed.
            let len = longest - 2 + random.below(5);
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

/// Checks what a descriptor of `query` answers after a write that gave `errno`.
fn check_answer(model: &Model, file: &mut File, input: &[u8], errno: i32) -> Result<()> {
    let mut text = vec![0; 400];
    let len = file.read(&mut text).context("read the answer")?;
    text.truncate(len);
    let shown = String::from_utf8_lossy(&text).into_owned();
    let line = input.strip_suffix(b"\n").unwrap_or(input);
    let (name, pid) = match (errno, request(line)) {
        (libc::EINVAL, _) => ("query", 0),
        (_, Some(asked)) => asked,
        _ => anyhow::bail!("errno {errno} of what is no request"),
    };
    if errno != libc::EINVAL && line.starts_with(BINARY) {
        check!(text.starts_with(MAGIC), "read {shown:?}");
        return Ok(());
    }
    if errno == 0 {
        let Who::Process(process) = model.who(pid) else {
            return Ok(());
        };
        let want = if process == 2 {
            format!("error report={name} pid=2 errno=EINVAL message=")
        } else {
            format!("report name={name} format=1 pid={process} comm=")
        };
        // Which descriptors others have is not known here.
        let no_descriptor = format!("error report=sharers pid={process} errno=EBADF message=");
        check!(
            shown.starts_with(&want) || name == "sharers" && shown.starts_with(&no_descriptor),
            "wanted {want:?}, read {shown:?}"
        );
        return Ok(());
    }
    let want = format!(
        "error report={name} pid={pid} errno={} message=",
        errno_name(errno)
    );
    check!(shown.starts_with(&want), "wanted {want:?}, read {shown:?}");
    let error = file
        .read(&mut [0; 9])
        .err()
        .context("a read after the error")?;
    check_eq!(sys::errno(&error), errno, "errno of the read after it");
    Ok(())
}

/// The errnos in the first column of a document's table of errors.
pub(super) fn documented(document: &str) -> BTreeSet<String> {
    let rows = document.lines().filter(|line| line.starts_with("| `E"));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    let names = cells.flat_map(|cell| cell.split(',').map(|name| name.trim().trim_matches('`')));
    names.map(String::from).collect()
}

fn every_input_is_answered_as_documented() -> Result<()> {
    let count = tier::fuzz_inputs();
    let seed = match tier::asked("RAVEL_FUZZ_SEED") {
        Some(seed) => seed,
        None => Random::seed()?,
    };
    say(format_args!("{count} inputs, RAVEL_FUZZ_SEED={seed}"));
    let mut random = Random::new(seed);

    let before = state()?;
    let sleepers = Sleepers::new(PROCESSES)?;
    let mut puppet = Stage::new(1)?.start()?;
    let thread = puppet.add_thread()?;
    let mut zombie = Child::idle()?;
    zombie.make_zombie()?;
    let us = sys::getpid();
    let mut alive: BTreeMap<u64, Pid> = sleepers.pids.iter().map(|p| (*p as u64, *p)).collect();
    alive.extend([
        (1, 1),
        (2, 2),
        (us as u64, us),
        (puppet.pid as u64, puppet.pid),
    ]);
    alive.extend([(thread as u64, puppet.pid), (zombie.pid as u64, 0)]);
    let mut pids: Vec<u64> = alive.keys().copied().collect();
    pids.extend([3, 10, us as u64 - 1, LAST_PID]);
    let pid_max = fs::read_to_string("/proc/sys/kernel/pid_max")?
        .trim()
        .parse()?;
    // By its own number it is hardly ever hit upon.
    let owner = Child::idle()?;
    alive.insert(owner.pid as u64, owner.pid);
    let mut model = Model {
        alive,
        pid_max,
        attached: BTreeSet::from([owner.pid]),
        owner: owner.pid,
        removed: false,
    };
    module::attach(owner.pid)?;

    let open = |name: &str| {
        let path = format!("{DIR}/{name}");
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .context(path)
    };
    let folder = REPORTS
        .iter()
        .map(|report| format!("{}/{report}", owner.pid));
    let others = PLAIN.iter().map(|name| String::from(*name)).chain(folder);
    let mut targets = vec![Target::Attach, Target::Detach, Target::Query, Target::Locks];
    let mut files: BTreeMap<Target, File> = BTreeMap::new();
    for (target, name) in targets.iter().zip(["attach", "detach", "query", "locks"]) {
        files.insert(*target, open(name)?);
    }
    for (i, name) in others.enumerate() {
        files.insert(Target::Other(i), open(&name)?);
        targets.push(Target::Other(i));
    }
    let hole = sys::map_anon(PAGE, libc::PROT_NONE)?;

    let documented = documented(FORMAT);
    let mut answers: BTreeMap<String, u64> = BTreeMap::new();
    let mut full = 0u64;
    for n in 0..count {
        // By turns more of them come and more of them go, so that there are all or none.
        let growing = n / 8000 % 2 == 0;
        let target = match random.below(20) {
            0..=7 if growing != random.one_in(50) => Target::Attach,
            0..=7 => Target::Detach,
            8..=16 => Target::Query,
            17 => Target::Locks,
            _ => *random.pick(&targets),
        };
        let input = input(&mut random, target, &pids);
        let readable = !random.one_in(100);
        let expected = model.expect(target, &input, readable);
        let file = files.get_mut(&target).context("no file")?;
        let errno = if readable {
            write_errno(file, &input)
        } else {
            match sys::write_from_address(file, hole, input.len()) {
                Ok(_) => 0,
                Err(e) => sys::errno(&e),
            }
        };
        let told = || {
            let text = String::from_utf8_lossy(&input[..input.len().min(200)]).into_owned();
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
            errno == 0 || documented.contains(name),
            "{}: {name} is not documented",
            told()
        );
        *answers.entry(name.to_owned()).or_default() += 1;
        if errno == 0 {
            model.took(target, &input)?;
        }
        if target == Target::Query && readable && random.one_in(20) {
            let file = files.get_mut(&target).context("no file")?;
            check_answer(&model, file, &input, errno).with_context(told)?;
        }
        full += u64::from(model.attached.len() == MAX_ATTACHED);
        if n % 5000 == 0 || n + 1 == count {
            let attached: Vec<Pid> = model.attached.iter().copied().collect();
            check_eq!(module::folders()?, attached, "folders, after {}", told());
            check_eq!(
                module::references()?,
                files.len() as i64,
                "references, after {}",
                told()
            );
        }
    }
    drop(files);
    for pid in std::mem::take(&mut model.attached) {
        module::detach(pid)?;
    }
    check_eq!(state()?, before, "attached and folders, at the end");
    check_eq!(module::references()?, 0, "references at the end");
    say(format_args!(
        "answers: {answers:?}; {MAX_ATTACHED} were attached after {full} of them"
    ));
    for errno in [
        "0", "EINVAL", "ESRCH", "EEXIST", "ENOENT", "ENOSPC", "EFAULT",
    ] {
        check!(
            count < 100_000 || answers.contains_key(errno),
            "no input was answered with {errno}"
        );
    }
    Ok(())
}
