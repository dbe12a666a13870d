// SPDX-License-Identifier: GPL-2.0
//! Everything moves as fast as it can, and every report of every process is read meanwhile: whole, or marked
//! as cut.
//!
//! For a minute; RAVEL_CHURN_SECONDS asks for more, or less.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use ravel_records::walks::Walks;
use ravel_records::{
    AnonVmaReport, ChainsReport, CowReport, Error, LineageReport, PageReport, SharersReport,
    SkbsReport, SocketsReport, WaitersReport,
};

use crate::harness::say;
use crate::maps;
use crate::module::{self, Answer, BUFFER, DIR, REPORTS, errno_name, open_query, write_errno};
use crate::process::{Area, Child, die_with};
use crate::random::Random;
use crate::stream::{check_numbers, client, errno_of};
use crate::sys::{self, Forked, PAGE, Pid};
use crate::{check, check_eq, tests, tier};

tests!("storm":
    every_report_is_whole_or_marked_as_cut [240 s],
    module_comes_and_goes_in_a_storm [120 s],
);

/// Bytes of addresses that a report of pages is asked for.
const PAGES_ASKED: u64 = 1 << 20;

/// Memory: fork, exec, exit, mmap, munmap, mprotect, mremap, faults, until it is killed.
fn move_memory(which: u64) -> Result<()> {
    let us = sys::getpid();
    let mut random = Random::new(which);
    let shared = Area::map(8)?;
    shared.touch();
    loop {
        let area = Area::map(2 + random.below(30))?;
        area.touch();
        let pages = (area.len / PAGE as u64) as usize;
        let page = area.pages(random.below(pages) as u64, 1).start as usize;
        sys::protect(page, PAGE, libc::PROT_READ)?;
        if random.one_in(3) {
            sys::unmap(area.start as usize, PAGE)?;
        }
        let to = Area::map(pages)?;
        if random.one_in(2) {
            let last = area.pages(pages as u64 - 1, 1).start as usize;
            sys::remap(last, PAGE, to.start as usize, PAGE, 0)?;
        }
        match sys::fork()? {
            Forked::Child => {
                die_with(us);
                shared.touch();
                if random.one_in(4) {
                    if let Forked::Child = sys::fork()? {
                        shared.touch();
                        sys::exit_now(0)
                    }
                }
                if random.one_in(8) {
                    let _ = Command::new("/bin/true").stdout(Stdio::null()).status();
                }
                sys::exit_now(0)
            }
            Forked::Parent(pid) => drop(sys::wait(pid)?),
        }
        for gone in [area, to] {
            sys::unmap(gone.start as usize - PAGE, gone.len as usize + 2 * PAGE)?;
        }
    }
}

/// Sockets: open, connect, send, shut down, close, until it is killed.
fn move_sockets(which: u64) -> Result<()> {
    let mut random = Random::new(which);
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    loop {
        let shut = *random.pick(&[Shutdown::Read, Shutdown::Write, Shutdown::Both]);
        match random.below(4) {
            0 => {
                let mut one = TcpStream::connect(address)?;
                let (mut two, _) = listener.accept()?;
                // Not to be out of ports soon: a reset leaves nothing behind.
                sys::set_linger(&one, true, 0)?;
                one.write_all(&random.bytes(100))?;
                let _ = two.write_all(&[0; 5000]);
                let _ = one.shutdown(shut);
                let _ = two.read(&mut [0; 50]);
            }
            1 => {
                let one = UdpSocket::bind("127.0.0.1:0")?;
                one.connect(one.local_addr()?)?;
                for _ in 0..random.below(40) {
                    one.send(&[1; 100])?;
                }
            }
            2 => {
                let (mut one, two) = UnixStream::pair()?;
                one.write_all(&[2; 3000])?;
                let _ = two.shutdown(shut);
            }
            _ => {
                let (one, two) = UnixDatagram::pair()?;
                for _ in 0..5 {
                    one.send(&[3; 10])?;
                }
                drop(one);
                let _ = two.recv(&mut [0; 10]);
            }
        }
    }
}

/// All that moves.
struct Storm {
    _own: Vec<Child>,
    stress: std::process::Child,
}

impl Storm {
    fn begin(seconds: u64) -> Result<Self> {
        let mut own = Vec::new();
        for which in 0..2 {
            own.push(Child::spawn(move |_| move_memory(which))?);
            own.push(Child::spawn(move |_| move_sockets(which))?);
        }
        let seconds = seconds + 60;
        let stress = Command::new("stress-ng")
            .args([
                "--fork", "1", "--exec", "1", "--sock", "1", "--vma", "1", "--mremap", "1",
            ])
            .args(["--mremap-bytes", "1m", "--temp-path", "/tmp", "--timeout"])
            .arg(format!("{seconds}s"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("stress-ng")?;
        Ok(Self { _own: own, stress })
    }

    fn end(mut self) -> Result<()> {
        check!(self.stress.try_wait()?.is_none(), "stress-ng ended early");
        sys::kill(self.stress.id() as Pid, libc::SIGINT)?;
        let start = Instant::now();
        while self.stress.try_wait()?.is_none() {
            if start.elapsed() > tier::patience(10) {
                // The harness kills what is left.
                self.stress.kill()?;
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// What the readers saw.
#[derive(Default)]
pub(super) struct Seen {
    whole: BTreeMap<&'static str, u64>,
    /// Marked as cut, by errno.
    marked: BTreeMap<&'static str, u64>,
    /// Neither whole nor marked.
    broken: Vec<String>,
    processes: BTreeSet<Pid>,
    sockets: BTreeSet<u64>,
    busy: u64,
    moved: u64,
    cut: u64,
    records: u64,
    bytes: u64,
}

impl Seen {
    /// How many reports there were.
    pub(super) fn count(&self) -> u64 {
        self.whole() + self.marked.values().sum::<u64>() + self.broken.len() as u64
    }

    /// How many of them were whole.
    pub(super) fn whole(&self) -> u64 {
        self.whole.values().sum()
    }

    /// What is wrong with those that were neither whole nor marked.
    pub(super) fn broken(&self) -> &[String] {
        &self.broken
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> Result<MutexGuard<'_, T>> {
    mutex.lock().map_err(|_| anyhow!("another thread panicked"))
}

/// All processes, of the kernel too.
fn processes() -> Result<Vec<Pid>> {
    let names = fs::read_dir("/proc")?
        .flatten()
        .map(|entry| entry.file_name());
    Ok(names
        .filter_map(|name| name.to_str()?.parse().ok())
        .collect())
}

/// What a whole report told.
#[derive(Default)]
struct Told {
    processes: Vec<Pid>,
    /// By inode.
    sockets: Vec<u64>,
    busy: u64,
    moved: u64,
    cut: u64,
}

fn parse(report: &str, text: &[u8]) -> Result<Told, Error> {
    Ok(match report {
        "anon_vma" => {
            let report = AnonVmaReport::parse(text)?;
            let members = report.anon_vmas.values().flat_map(|group| &group.member);
            let pids = members.map(|member| member.pid as Pid);
            Told {
                processes: pids.filter(|pid| *pid > 0).collect(),
                moved: report.summary.moved,
                cut: report.summary.cut,
                ..Told::default()
            }
        }
        "lineage" => {
            let report = LineageReport::parse(text)?;
            Told {
                processes: report.processes.iter().map(|kin| kin.pid as Pid).collect(),
                moved: report.summary.moved,
                cut: report.summary.cut,
                ..Told::default()
            }
        }
        "cow" => {
            let CowReport { summary, .. } = CowReport::parse(text)?;
            Told {
                moved: summary.moved,
                cut: summary.cut,
                ..Told::default()
            }
        }
        "page" => {
            let PageReport { summary, .. } = PageReport::parse(text)?;
            Told {
                moved: summary.moved,
                cut: summary.cut,
                ..Told::default()
            }
        }
        "chains" => {
            let ChainsReport { summary, .. } = ChainsReport::parse(text)?;
            Told {
                moved: summary.moved,
                cut: summary.cut,
                ..Told::default()
            }
        }
        "sockets" => {
            let report = SocketsReport::parse(text)?;
            Told {
                sockets: report.sockets.iter().map(|socket| socket.inode).collect(),
                busy: report.summary.busy,
                cut: report.summary.cut,
                ..Told::default()
            }
        }
        "waiters" => {
            let report = WaitersReport::parse(text)?;
            Told {
                sockets: report.sockets.iter().map(|of| of.socket.inode).collect(),
                busy: report.summary.busy,
                cut: report.summary.cut,
                ..Told::default()
            }
        }
        "skbs" => {
            let report = SkbsReport::parse(text)?;
            Told {
                sockets: report.sockets.iter().map(|of| of.socket.inode).collect(),
                busy: report.summary.busy,
                cut: report.summary.cut,
                ..Told::default()
            }
        }
        "sharers" => {
            let report = SharersReport::parse(text)?;
            let sharers = report.sharers.iter().map(|sharer| sharer.pid as Pid);
            Told {
                processes: sharers.filter(|pid| *pid > 0).collect(),
                moved: report.summary.moved.into(),
                cut: report.summary.cut,
                ..Told::default()
            }
        }
        _ => unreachable!("no report is called {report:?}"),
    })
}

/// A request for every report of a process: of some of its pages, and of one of its descriptors, too.
pub(super) fn requests(pid: Pid, random: &mut Random) -> Vec<(&'static str, String)> {
    let mut requests: Vec<_> = REPORTS
        .iter()
        .map(|report| (*report, format!("{report} {pid}")))
        .collect();
    let mut vmas = maps::of(pid).unwrap_or_default();
    // "[vsyscall]" is the kernel's.
    vmas.retain(|vma| vma.end < 1 << 57);
    if !vmas.is_empty() {
        let vma = random.pick(&vmas);
        let end = vma.end.min(vma.start + PAGES_ASKED);
        requests.push(("page", format!("page {pid} {:#x} {end:#x}", vma.start)));
    }
    let fds = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten();
    let fds: Vec<_> = fds.flatten().map(|entry| entry.file_name()).collect();
    if !fds.is_empty() {
        let fd = random.pick(&fds).to_string_lossy();
        requests.push(("sharers", format!("sharers {pid} {fd}")));
    }
    requests
}

/// Takes note of what one read gave. A process may have gone; then the last line says so.
pub(super) fn judge(
    report: &'static str,
    pid: Pid,
    answer: &Answer,
    seen: &Mutex<Seen>,
) -> Result<()> {
    let parsed = parse(report, &answer.text);
    let text = String::from_utf8_lossy(&answer.text);
    let mut seen = lock(seen)?;
    seen.bytes += answer.text.len() as u64;
    seen.records += text.lines().count() as u64;
    match (answer.errno, parsed) {
        (0, Ok(told)) => {
            *seen.whole.entry(report).or_default() += 1;
            seen.processes.insert(pid);
            seen.processes.extend(told.processes);
            seen.sockets.extend(told.sockets);
            seen.busy += told.busy;
            seen.moved += told.moved;
            seen.cut += told.cut;
        }
        // Exited, of the kernel, or closed.
        (errno @ (libc::ESRCH | libc::EINVAL | libc::EBADF), Err(Error::Report(_)))
            if errno != libc::EBADF || report == "sharers" =>
        {
            let last = text.lines().last().unwrap_or("");
            let name = errno_name(errno);
            let want = format!("error report={report} pid={pid} errno={name} message=");
            if last.starts_with(&want) {
                *seen.marked.entry(name).or_default() += 1;
            } else {
                seen.broken
                    .push(format!("{report} {pid}: errno {name} behind {last:?}"));
            }
        }
        // The folder was removed under the reader.
        (libc::EIO, _) => *seen.marked.entry("EIO").or_default() += 1,
        (errno, parsed) => {
            let error = parsed.err().map(|e| e.to_string());
            let last = text.lines().last().unwrap_or("").to_owned();
            seen.broken.push(format!(
                "{report} {pid}: errno {errno}, {error:?}, behind {last:?}"
            ));
        }
    }
    Ok(())
}

/// Reads every report of every process, round after round, by `query` or by folders.
fn read_all(which: u64, end: Instant, seen: &Mutex<Seen>) -> Result<()> {
    let mut random = Random::new(which);
    let mut kept = open_query()?;
    // Threads of the kernel have nothing to tell: once is enough.
    let mut dull = BTreeSet::new();
    let mut due = Vec::new();
    while Instant::now() < end {
        // A list is soon out of date: what is left of it after a while is not asked for.
        if due.is_empty() || random.one_in(20) {
            due = processes()?;
            due.retain(|pid| !dull.contains(pid));
        }
        let pid = due.swap_remove(random.below(due.len()));
        if which % 2 == 1 {
            for report in REPORTS {
                if read_folder(report, pid, seen)? == libc::EINVAL {
                    dull.insert(pid);
                    break;
                }
            }
            continue;
        }
        for (report, request) in requests(pid, &mut random) {
            let answer = ask(&mut kept, &request)?;
            if answer.errno == libc::EINVAL {
                dull.insert(pid);
            }
            judge(report, pid, &answer, seen)?;
        }
    }
    Ok(())
}

/// The answer to a request by `query`, whose error is an answer, too.
pub(super) fn ask(query: &mut File, request: &str) -> Result<Answer> {
    let written = write_errno(query, request.as_bytes());
    let answer = Answer::read(query, BUFFER);
    check!(
        written == 0 || written == answer.errno,
        "errno {written} of {request:?}, and {answer:?}"
    );
    Ok(answer)
}

/// The errno of reading, 0 where there was nothing to read.
fn read_folder(report: &'static str, pid: Pid, seen: &Mutex<Seen>) -> Result<i32> {
    let mut read = 0;
    match module::write_file("attach", pid.to_string().as_bytes())? {
        0 | libc::EEXIST => {}
        // Gone meanwhile.
        libc::ESRCH => return Ok(0),
        errno => return Err(anyhow!("errno {errno} of attaching {pid}")),
    }
    if let Ok(mut file) = File::open(format!("{DIR}/{pid}/{report}")) {
        let answer = Answer::read(&mut file, BUFFER);
        judge(report, pid, &answer, seen)?;
        read = answer.errno;
    }
    let errno = module::write_file("detach", pid.to_string().as_bytes())?;
    check!(
        [0, libc::ENOENT].contains(&errno),
        "errno {errno} of detaching {pid}"
    );
    Ok(read)
}

/// Follows all packets, by one stream after the other: how many crossings were told, and how many lost.
fn watch_all(end: Instant) -> Result<(u64, u64)> {
    let (mut told, mut lost) = (0, 0);
    while Instant::now() < end {
        let held = client().hold_stream("create storm sources=packet bytes=4194304")?;
        let mut reader = client().events("storm")?;
        let (mut walks, mut next) = (Walks::new(), 1);
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until.min(end) {
            let Some(batch) = reader.batch()? else {
                sys::poll_for(&reader.as_fd(), libc::POLLIN, 50)?;
                continue;
            };
            next = check_numbers(&batch.events, next)?;
            for event in &batch.events {
                match walks.take(event) {
                    Some(_) => told += 1,
                    None => lost += event.count(),
                }
            }
            match reader.acknowledge(None) {
                Err(error) if errno_of(&error) != libc::ESTALE => return Err(error.into()),
                _ => {}
            }
        }
        // In the middle of it all.
        drop(held);
    }
    Ok((told, lost))
}

fn every_report_is_whole_or_marked_as_cut() -> Result<()> {
    let seconds = tier::churn_seconds();
    let storm = Storm::begin(seconds)?;
    let seen = Mutex::new(Seen::default());
    let end = Instant::now() + Duration::from_secs(seconds);
    let (told, lost) = thread::scope(|scope| {
        let seen = &seen;
        let watcher = scope.spawn(move || watch_all(end));
        let readers: Vec<_> = (0..4)
            .map(|which| scope.spawn(move || read_all(which, end, seen)))
            .collect();
        let watched = watcher
            .join()
            .map_err(|_| anyhow!("the watcher panicked"))?;
        readers
            .into_iter()
            .try_for_each(|reader| reader.join().map_err(|_| anyhow!("a reader panicked"))?)?;
        watched
    })?;
    storm.end()?;
    say(format_args!(
        "{told} crossings of packets told, {lost} lost and counted"
    ));
    check!(told > seconds, "hardly a crossing of a packet was told");
    let seen = seen
        .into_inner()
        .map_err(|_| anyhow!("a reader panicked"))?;
    say(format_args!(
        "{seconds} s: {} reports read, {} whole {:?}, marked as cut {:?}, neither {}",
        seen.count(),
        seen.whole(),
        seen.whole,
        seen.marked,
        seen.broken.len()
    ));
    say(format_args!(
        "{} records, {} MiB; {} processes and {} sockets seen; busy {}, moved {}, cut {}",
        seen.records,
        seen.bytes >> 20,
        seen.processes.len(),
        seen.sockets.len(),
        seen.busy,
        seen.moved,
        seen.cut
    ));
    check!(
        seen.broken.is_empty(),
        "{} reports are neither whole nor marked:\n{}",
        seen.broken.len(),
        seen.broken
            .iter()
            .take(20)
            .cloned()
            .collect::<Vec<_>>()
            .join("\n")
    );
    for report in REPORTS.iter().chain(&["page", "sharers"]) {
        let count = seen.whole.get(report).copied().unwrap_or(0);
        check!(count >= seconds / 8, "only {count} whole reports {report}");
    }
    check!(seen.processes.len() > 30, "hardly a process was seen");
    module::detach_all()?;
    check_eq!(module::references()?, 0, "references at the end");
    Ok(())
}

fn module_comes_and_goes_in_a_storm() -> Result<()> {
    let seconds = tier::churn_seconds() / 6;
    let storm = Storm::begin(seconds)?;
    let stop = AtomicBool::new(false);
    let (whole, absent) = (AtomicU64::new(0), AtomicU64::new(0));
    let seen = Mutex::new(Seen::default());
    let reader = || -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            for pid in processes()? {
                let report = REPORTS[(pid as usize) % REPORTS.len()];
                let path = format!("{DIR}/query");
                let Ok(mut file) = OpenOptions::new().read(true).write(true).open(path) else {
                    absent.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(1));
                    continue;
                };
                let written = write_errno(&mut file, format!("{report} {pid}").as_bytes());
                if written != libc::EIO {
                    judge(report, pid, &Answer::read(&mut file, BUFFER), &seen)?;
                    whole.fetch_add(1, Ordering::Relaxed);
                }
                drop(file);
                // Room for the removal.
                thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    };
    let (removed, in_use) = thread::scope(|scope| -> Result<(u64, u64)> {
        let readers = [scope.spawn(reader), scope.spawn(reader)];
        let end = Instant::now() + Duration::from_secs(seconds);
        let remove = || -> Result<(u64, u64)> {
            let (mut removed, mut in_use) = (0, 0);
            while Instant::now() < end {
                match module::remove() {
                    Ok(()) => {
                        removed += 1;
                        module::insert()?;
                        thread::sleep(Duration::from_millis(50));
                    }
                    Err(e) => {
                        check_eq!(sys::errno(&e), libc::EWOULDBLOCK, "errno of removing");
                        in_use += 1;
                        thread::yield_now();
                    }
                }
            }
            Ok((removed, in_use))
        };
        let result = remove();
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().map_err(|_| anyhow!("a reader panicked"))??;
        }
        result
    })?;
    storm.end()?;
    let seen = seen
        .into_inner()
        .map_err(|_| anyhow!("a reader panicked"))?;
    say(format_args!(
        "{seconds} s: removed {removed} times, in use {in_use} times; {} answers read, {} times there was no file",
        whole.into_inner(),
        absent.into_inner()
    ));
    check!(
        seen.broken.is_empty(),
        "reports neither whole nor marked:\n{}",
        seen.broken.join("\n")
    );
    check!(removed > 0, "it was never removed");
    Ok(())
}
