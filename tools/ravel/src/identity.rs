//! Who a process is: its command line, user, systemd unit or container, start time and number in
//! its own namespace.
//!
//! Everything is read from /proc, one file after the other. A process that exits meanwhile has no
//! identity; one whose files cannot be read has those parts that could be read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::Path;

use ravel_records::Text;
use serde::Serialize;

use crate::clock::{Clock, utc};
use crate::proc::Proc;
use crate::screen::{Screen, plain};

mod cgroup;
pub use cgroup::Place;

/// Nanoseconds of a tick in which /proc counts times (`USER_HZ`).
const TICK_NS: u64 = 10_000_000;

/// A process, as far as /proc identifies it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Its number in the initial pid namespace.
    pub pid: u32,
    /// The name of its main thread.
    pub comm: Text,
    /// Its arguments; empty for a kernel thread and a zombie, null if they cannot be read.
    pub command_line: Option<Vec<Text>>,
    /// Its effective user id, as the initial user namespace numbers it.
    pub uid: Option<u32>,
    /// The name that /etc/passwd of this machine gives that user; null for a process in a
    /// container, whose users are others.
    pub user: Option<String>,
    /// The systemd unit and the container.
    #[serde(flatten)]
    pub place: Place,
    /// When it was started, in nanoseconds since boot.
    pub started_ns: Option<u64>,
    /// The same as a time of day, in UTC.
    pub started: Option<String>,
    /// Its numbers in the pid namespaces below the initial one, the innermost one last.
    pub ns_pids: Vec<u32>,
}

impl Process {
    /// Reads one. None if it has exited.
    pub fn read(proc: &Proc, users: &Users, clock: Clock, pid: u32) -> Option<Self> {
        let comm = proc.comm(pid).ok()?;
        let place = proc.read(pid, "cgroup").map(|text| Place::parse(&text));
        let place = place.unwrap_or_default();
        let status = proc.read(pid, "status").unwrap_or_default();
        let status = String::from_utf8_lossy(&status);
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.split_whitespace().filter_map(|word| word.parse().ok()))
        };
        let uid = field("Uid:").and_then(|mut uids: _| Iterator::nth(&mut uids, 1));
        let ns_pids = field("NSpid:").map_or_else(Vec::new, |pids| pids.skip(1).collect());
        let started_ns = started_ns(proc, pid);
        let user = uid.filter(|_| place.container.is_none());
        Some(Self {
            pid,
            comm,
            command_line: proc.read(pid, "cmdline").ok().map(|text| words(&text)),
            uid,
            user: user.and_then(|uid| users.name(uid)),
            place,
            started_ns,
            started: started_ns.map(|ns| utc(clock.real_ns(ns))),
            ns_pids,
        })
    }

    /// The unit or the container in a few words; none if it is in neither.
    pub fn place(&self) -> Option<String> {
        let unit = || self.place.unit.as_deref().map(ravel_records::visible);
        match &self.place.container {
            Some(container) => Some(container.to_string()),
            None => unit(),
        }
    }

    /// The user by name, or by number.
    pub fn user(&self) -> Option<String> {
        let number = || self.uid.map(|uid| format!("uid {uid}"));
        let name = self.user.as_deref().map(ravel_records::visible);
        name.or_else(number)
    }

    /// Everything but the name and the number, without what is not known.
    pub fn particulars(&self) -> Vec<String> {
        let mut said = Vec::new();
        said.extend(self.user().map(|user| match self.user.is_some() {
            true => format!("user {user}"),
            false => user,
        }));
        if let Some(unit) = &self.place.unit {
            if !self.place.is_container_unit() {
                said.push(format!("unit {}", ravel_records::visible(unit)));
            }
        }
        if let Some(container) = &self.place.container {
            said.push(format!("container {container}"));
            if let Some(pod) = &container.pod {
                said.push(format!("pod {}", ravel_records::visible(pod)));
            }
        }
        if let Some(pid) = self.ns_pids.last() {
            said.push(format!("pid {pid} in its namespace"));
        }
        if let Some(started) = &self.started {
            // Without the fraction of the second.
            let whole = started.split('.').next().unwrap_or(started);
            said.push(format!("since {}Z", whole.replace('T', " ")));
        }
        said
    }

    /// The command line as a shell would split it, without anything that a terminal acts on; the
    /// name in brackets if there is none.
    pub fn command(&self) -> String {
        let words = self.command_line.as_deref().unwrap_or_default();
        if words.is_empty() {
            return format!("[{}]", plain(&self.comm));
        }
        let quoted = |word: &Text| {
            let word = plain(word);
            match word.is_empty() || word.contains([' ', '\'', '"']) {
                true => format!("'{}'", word.replace('\'', "'\\''")),
                false => word,
            }
        };
        let words: Vec<String> = words.iter().map(quoted).collect();
        words.join(" ")
    }

    /// A line that identifies it, cut to the screen: the command line last, which is the longest.
    pub fn line(&self, indent: usize, screen: &Screen) -> String {
        let mut text = " ".repeat(indent);
        let _ = write!(text, "{} {}: ", plain(&self.comm), self.pid);
        text.push_str(&self.particulars().join(", "));
        if !text.ends_with(": ") {
            text.push_str(": ");
        }
        text.push_str(&self.command());
        cut_end(&text, screen.width)
    }
}

/// A text cut at its end to so many columns.
pub fn cut_end(text: &str, width: Option<usize>) -> String {
    use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};
    let Some(width) = width.filter(|width| text.width() > *width) else {
        return text.to_owned();
    };
    let mut left = width.saturating_sub(1);
    let mut cut = String::new();
    for letter in text.chars() {
        let wide = letter.width().unwrap_or(0);
        if wide > left {
            break;
        }
        left -= wide;
        cut.push(letter);
    }
    cut + "…"
}

/// The arguments of a command line: each ends with a NUL.
fn words(text: &[u8]) -> Vec<Text> {
    let text = text.strip_suffix(b"\0").unwrap_or(text);
    if text.is_empty() {
        return Vec::new();
    }
    text.split(|byte| *byte == 0).map(Text::from).collect()
}

/// Field 22 of /proc/PID/stat (`start_boottime`).
fn started_ns(proc: &Proc, pid: u32) -> Option<u64> {
    let stat = proc.read(pid, "stat").ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The name is in parentheses, and may contain some.
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: u64 = rest.split_whitespace().nth(19)?.parse().ok()?;
    ticks.checked_mul(TICK_NS)
}

/// The names of users, by /etc/passwd.
#[derive(Clone, Debug, Default)]
pub struct Users(BTreeMap<u32, String>);

impl Users {
    /// Reads the file of this machine. Other databases are not asked: they may be on a network that
    /// does not answer.
    pub fn here() -> Self {
        Self::read(Path::new("/etc/passwd"))
    }

    fn read(path: &Path) -> Self {
        let text = fs::read(path).unwrap_or_default();
        let mut names = BTreeMap::new();
        for line in String::from_utf8_lossy(&text).lines() {
            let mut fields = line.split(':');
            let (name, uid) = (fields.next(), fields.nth(1));
            if let (Some(name), Some(Ok(uid))) = (name, uid.map(str::parse)) {
                // The first name of a user is the one that is shown.
                names.entry(uid).or_insert_with(|| name.to_owned());
            }
        }
        Self(names)
    }

    /// A user's name.
    pub fn name(&self, uid: u32) -> Option<String> {
        self.0.get(&uid).cloned()
    }
}

/// Identities of processes, by their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Processes(BTreeMap<u32, Process>);

impl Processes {
    /// Reads those of some processes.
    pub fn read(proc: &Proc, pids: impl IntoIterator<Item = u32>) -> Self {
        let pids: BTreeSet<u32> = pids.into_iter().filter(|pid| *pid != 0).collect();
        if pids.is_empty() {
            return Self::default();
        }
        let (users, clock) = (Users::here(), Clock::now());
        let read = |pid: u32| Some((pid, Process::read(proc, &users, clock, pid)?));
        Self(pids.into_iter().filter_map(read).collect())
    }

    /// One of them.
    pub fn get(&self, pid: u32) -> Option<&Process> {
        self.0.get(&pid)
    }
}

impl Serialize for Processes {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.values())
    }
}

/// Which processes are meant, by what identifies them.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ProcessFilter {
    /// The same of processes of this systemd unit
    #[arg(long, value_name = "UNIT")]
    pub unit: Option<String>,
    /// The same of processes in this container: its name, or the first digits of its id, or of its
    /// pod's
    #[arg(long, value_name = "CONTAINER")]
    pub container: Option<String>,
    /// The same of processes of this user, by name or number
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,
}

impl ProcessFilter {
    /// Whether all processes are meant.
    pub fn is_empty(&self) -> bool {
        self.unit.is_none() && self.container.is_none() && self.user.is_none()
    }

    /// Whether a process is one of these.
    pub fn has(&self, process: &Process) -> bool {
        let unit = |wanted: &String| {
            let unit = process.place.unit.as_deref();
            unit.is_some_and(|unit| unit == wanted || unit.strip_suffix(".service") == Some(wanted))
        };
        let container = |wanted: &String| {
            let container = process.place.container.as_ref();
            container.is_some_and(|container| container.matches(wanted))
        };
        let user = |wanted: &String| {
            process.user.as_ref() == Some(wanted)
                || process.uid.is_some_and(|uid| uid.to_string() == *wanted)
        };
        self.unit.as_ref().is_none_or(unit)
            && self.container.as_ref().is_none_or(container)
            && self.user.as_ref().is_none_or(user)
    }

    /// Whether one of some processes is one of these.
    pub fn has_any(&self, known: &Processes, pids: impl IntoIterator<Item = u32>) -> bool {
        let mut pids = pids.into_iter();
        self.is_empty() || pids.any(|pid| known.get(pid).is_some_and(|process| self.has(process)))
    }
}

#[cfg(test)]
mod tests;
