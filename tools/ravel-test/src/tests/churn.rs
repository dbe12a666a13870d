// SPDX-License-Identifier: GPL-2.0
//! Reports of processes that fork, exit, map and unmap while they are read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use ravel_records::{AnonVmaReport, MemberState, Relation, WaitersReport};

use crate::module::{REPORTS, query};
use crate::process::{Area, Child};
use crate::report::{
    chain, parse_anon, parse_chains, parse_cow, parse_lineage, parse_skbs, parse_sockets,
};
use crate::sys::{self, Forked, PAGE, Pid};
use crate::tier::{moving, patience};
use crate::{check, check_eq, tests};

tests!("churn":
    all_reports_while_everything_moves [120 s],
);

/// Whole reports of each kind, at least.
const LEAST: usize = 20;

/// Children that live for a moment, at least.
const TRANSIENT: usize = 5;

/// Records that are told in one hold.
const CHUNK: u64 = 2048;

const CHURNERS: usize = 3;
const STEADY: usize = 5;

/// One byte for each pid, in memory that all processes share: whether it was ever ours.
#[derive(Clone, Copy)]
struct Roll(usize);

impl Roll {
    fn new() -> Result<Self> {
        let max: usize = fs::read_to_string("/proc/sys/kernel/pid_max")?
            .trim()
            .parse()?;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        Ok(Self(sys::map(
            0,
            max.next_multiple_of(PAGE),
            prot,
            flags,
            None,
            0,
        )?))
    }

    fn enter(self, pid: Pid) {
        sys::poke(self.0 + pid as usize, 1);
    }

    fn has(self, pid: Pid) -> bool {
        sys::peek(self.0 + pid as usize) == 1
    }
}

/// Forks children that write and exit, and maps and unmaps, until it is killed.
fn churn(area: Area, roll: Roll, which: usize) -> Result<()> {
    let us = sys::getpid();
    let mut rounds = 0usize;
    loop {
        rounds += 1;
        match sys::fork()? {
            Forked::Parent(pid) => {
                roll.enter(pid);
                let scratch = Area::map(1 + rounds % 5)?;
                scratch.touch();
                sys::protect(scratch.start as usize, PAGE, libc::PROT_READ)?;
                sys::unmap(
                    scratch.start as usize - PAGE,
                    scratch.len as usize + 2 * PAGE,
                )?;
                let _ = sys::wait(pid)?;
            }
            Forked::Child => {
                roll.enter(sys::getpid());
                crate::process::die_with(us);
                area.touch();
                if rounds % 3 == which {
                    sys::protect(area.start as usize, PAGE, libc::PROT_READ)?;
                }
                if rounds % 4 == 0 {
                    if let Forked::Child = sys::fork()? {
                        roll.enter(sys::getpid());
                        area.touch();
                    }
                }
                let (mut one, two) = UnixStream::pair()?;
                one.write_all(b"lost")?;
                drop(two);
                sys::exit_now(0)
            }
        }
    }
}

/// What a reader saw.
#[derive(Default)]
struct Seen {
    whole: BTreeMap<&'static str, usize>,
    gone: usize,
    pids: BTreeSet<Pid>,
    states: BTreeSet<MemberState>,
}

impl Seen {
    /// Whether everything was met that is checked for.
    fn is_enough(&self) -> bool {
        let whole = |report| self.whole.get(report).is_some_and(|count| *count >= LEAST);
        REPORTS.iter().all(whole) && self.pids.len() >= STEADY + CHURNERS + 1 + TRANSIENT
    }
}

fn all_reports_while_everything_moves() -> Result<()> {
    let roll = Roll::new()?;
    let area = Area::map(3)?;
    area.touch();
    roll.enter(sys::getpid());
    let mut steady = Vec::new();
    for _ in 0..STEADY {
        steady.push(Child::idle()?);
    }
    let mut churners = Vec::new();
    for which in 0..CHURNERS {
        churners.push(Child::spawn(move |_| churn(area, roll, which))?);
    }
    for child in steady.iter().chain(&churners) {
        roll.enter(child.pid);
    }
    let mut lasting: Vec<Pid> = steady.iter().chain(&churners).map(|c| c.pid).collect();
    let us = sys::getpid();
    let asked: Vec<Pid> = [us].into_iter().chain(lasting.iter().copied()).collect();
    lasting.push(us);

    let seen = Mutex::new(Seen::default());
    let end = Instant::now() + moving();
    let reader = |offset: usize| {
        let (asked, lasting, seen) = (&asked, &lasting, &seen);
        move || -> Result<()> {
            let mut round = offset;
            while Instant::now() < end
                || (!lock(seen)?.is_enough() && Instant::now() < end + patience(20))
            {
                round += 1;
                let pid = match round % 7 {
                    // Whoever was seen last; mostly gone by now.
                    0 => lock(seen)?.pids.last().copied().unwrap_or(us),
                    n => asked[(round / 7 + n) % asked.len()],
                };
                // Of every process every report, whatever their numbers have in common.
                let report = REPORTS[(round + round / 7) % REPORTS.len()];
                read_one(report, pid, area, lasting, seen)?;
            }
            Ok(())
        }
    };
    thread::scope(|scope| {
        let readers = [scope.spawn(reader(0)), scope.spawn(reader(5))];
        readers
            .into_iter()
            .try_for_each(|r| r.join().map_err(|_| anyhow!("a reader panicked"))?)
    })?;
    for churner in &mut churners {
        churner.kill()?;
    }
    let seen = seen
        .into_inner()
        .map_err(|_| anyhow!("a reader panicked"))?;
    for report in REPORTS {
        let count = seen.whole.get(report).copied().unwrap_or(0);
        check!(count >= LEAST, "only {count} whole reports {report}");
    }
    let transient = seen.pids.len() - lasting.len();
    check!(
        transient >= TRANSIENT,
        "only {transient} children were met: nothing moved"
    );
    let strangers: Vec<_> = seen.pids.iter().filter(|pid| !roll.has(**pid)).collect();
    check!(strangers.is_empty(), "pids that never were: {strangers:?}");
    check!(
        seen.states.contains(&MemberState::Live),
        "states: {:?}",
        seen.states
    );
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> Result<std::sync::MutexGuard<'_, T>> {
    mutex.lock().map_err(|_| anyhow!("another thread panicked"))
}

fn read_one(
    report: &'static str,
    pid: Pid,
    area: Area,
    lasting: &[Pid],
    seen: &Mutex<Seen>,
) -> Result<()> {
    let (errno, answer) = query(format!("{report} {pid}").as_bytes())?;
    if errno != 0 || answer.errno != 0 {
        // Clear words, and only of a process that can have gone.
        let text = std::str::from_utf8(&answer.text)?;
        let last = text.lines().last().context("an error without a line")?;
        let want = format!("error report={report} pid={pid} errno=ESRCH message=");
        check!(
            last.starts_with(&want),
            "errno {errno}, {}: {last}",
            answer.errno
        );
        check!(
            !lasting.contains(&pid),
            "{report} {pid} failed, and the process lives: {last}"
        );
        lock(seen)?.gone += 1;
        return Ok(());
    }
    match report {
        "anon_vma" => {
            let parsed = parse_anon(&answer.text)?;
            check_anon(&parsed, pid, area, lasting, seen)
                .with_context(|| String::from_utf8_lossy(&answer.text).into_owned())?;
        }
        "sockets" => drop(parse_sockets(&answer.text)?),
        "skbs" => drop(parse_skbs(&answer.text)?),
        "waiters" => drop(WaitersReport::parse(&answer.text)?),
        "cow" => drop(parse_cow(&answer.text)?),
        "lineage" => drop(parse_lineage(&answer.text)?),
        "chains" => drop(parse_chains(&answer.text)?),
        other => return Err(anyhow!("no check of report {other}")),
    }
    *lock(seen)?.whole.entry(report).or_default() += 1;
    Ok(())
}

fn check_anon(
    report: &AnonVmaReport,
    pid: Pid,
    area: Area,
    lasting: &[Pid],
    seen: &Mutex<Seen>,
) -> Result<()> {
    check_eq!(report.header.pid as Pid, pid, "pid in the header");
    let mut pids = BTreeSet::new();
    let sum = &report.summary;
    let records = sum.chained + sum.avcs + sum.anon_vmas + sum.members;
    for group in report.anon_vmas.values() {
        let mut places = BTreeSet::new();
        // One that is told in two chunks may have changed between them.
        if records < CHUNK {
            check_eq!(
                group.member.len() as u64,
                group.members,
                "members of {}",
                group.id
            );
        }
        for member in &group.member {
            let new = places.insert((member.mm, member.start));
            check!(new, "twice in anon_vma {}: {member:?}", group.id);
            check!(member.start < member.end, "no bounds: {member:?}");
            let live = member.state == MemberState::Live;
            check_eq!(live, member.pid != 0, "a pid, in {member:?}");
            check!(
                live || member.relation == Relation::Unknown || member.relation == Relation::Self_,
                "relation of {member:?}"
            );
            if live {
                pids.insert(member.pid as Pid);
            }
            lock(seen)?.states.insert(member.state.clone());
        }
    }
    // A process that lasts has the area, and its root has all that last.
    if lasting.contains(&pid) {
        let chain = chain(report, area)?;
        let inside: BTreeSet<Pid> = chain[0]
            .member
            .iter()
            .filter(|m| m.state == MemberState::Live)
            .filter(|m| (m.start.0, m.end.0) == (area.start, area.end()))
            .map(|m| m.pid as Pid)
            .collect();
        let missing: Vec<_> = lasting.iter().filter(|pid| !inside.contains(pid)).collect();
        check!(
            missing.is_empty(),
            "missing among the root's members: {missing:?}"
        );
    }
    lock(seen)?.pids.append(&mut pids);
    Ok(())
}
