// SPDX-License-Identifier: GPL-2.0
//! Processes to look at: puppets, that fork, map and write as they are told, one step at a time.
//!
//! Orders and answers are lines in pipes. All pipes of a stage are made before its first puppet, so
//! that a puppet of any generation can be spoken to by the test.

use std::cell::RefCell;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::check_eq;
use crate::sys::{self, Forked, PAGE, Pid};
use crate::tier;

/// Milliseconds that a puppet may take for one answer.
fn patience() -> i32 {
    tier::patience(30).as_millis() as i32
}

const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;

/// One end of a conversation.
pub struct Link {
    from: BufReader<File>,
    to: File,
}

impl Link {
    /// An end that reads from one pipe and writes to another.
    pub fn new(from: File, to: File) -> Self {
        Self {
            from: BufReader::new(from),
            to,
        }
    }

    /// Two ends that are joined.
    pub fn pair() -> Result<(Self, Self)> {
        let (here_from, there_to) = sys::pipe(true)?;
        let (there_from, here_to) = sys::pipe(true)?;
        Ok((
            Self::new(here_from, here_to),
            Self::new(there_from, there_to),
        ))
    }

    /// Says one line.
    pub fn send(&mut self, line: &str) -> Result<()> {
        self.to
            .write_all(format!("{line}\n").as_bytes())
            .context("write to a pipe")
    }

    /// Waits for one line.
    pub fn recv(&mut self) -> Result<String> {
        if self.from.buffer().is_empty() {
            ensure!(
                sys::poll(self.from.get_ref(), libc::POLLIN, patience())?,
                "no answer in time"
            );
        }
        self.wait()
    }

    /// Waits for one line, for ever.
    pub fn wait(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(
            self.from.read_line(&mut line)? > 0,
            "the other end of the pipe is closed"
        );
        Ok(line.trim_end().to_owned())
    }
}

/// Makes the calling process die with its parent, which is `parent`.
pub fn die_with(parent: Pid) {
    if sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64).is_err() || sys::getppid() != parent
    {
        sys::exit_now(3);
    }
}

/// Waits until a process' main thread, or a thread, is in that state.
pub fn wait_state(pid: Pid, state: char) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < tier::patience(10) {
        let stat = fs::read(format!("/proc/{pid}/stat"))?;
        let stat = String::from_utf8_lossy(&stat);
        if stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with(state))
        {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    bail!("pid {pid} does not come to state {state}")
}

/// A forked child that runs a closure, and that we speak to by a link.
pub struct Child {
    /// Its pid, in our pid namespace.
    pub pid: Pid,
    /// Our end.
    pub link: Link,
    reaped: bool,
}

impl Child {
    /// Forks.
    pub fn spawn(f: impl FnOnce(&mut Link) -> Result<()>) -> Result<Self> {
        Self::spawn_with(0, None, f)
    }

    /// Forks with clone3() flags and a chosen pid.
    pub fn spawn_with(
        flags: u64,
        set_tid: Option<Pid>,
        f: impl FnOnce(&mut Link) -> Result<()>,
    ) -> Result<Self> {
        let (link, mut theirs) = Link::pair()?;
        let parent = sys::getpid();
        let forked = if flags == 0 && set_tid.is_none() {
            sys::fork()
        } else {
            sys::fork_with(flags, set_tid)
        };
        match forked.context("fork")? {
            Forked::Parent(pid) => Ok(Self {
                pid,
                link,
                reaped: false,
            }),
            Forked::Child => {
                drop(link);
                let inner = flags & libc::CLONE_NEWPID as u64 != 0;
                die_with(if inner { 0 } else { parent });
                match f(&mut theirs) {
                    Ok(()) => sys::exit_now(0),
                    Err(e) => {
                        eprintln!("child {}: {e:#}", sys::getpid());
                        sys::exit_now(1)
                    }
                }
            }
        }
    }

    /// A child that does nothing until it is killed.
    pub fn idle() -> Result<Self> {
        Self::spawn(|link| {
            link.wait()?;
            Ok(())
        })
    }

    /// The same, with a pid that was another's.
    pub fn idle_as(pid: Pid) -> Result<Self> {
        let child = Self::spawn_with(0, Some(pid), |link| link.recv().map(drop))?;
        check_eq!(child.pid, pid, "pid of the new process");
        Ok(child)
    }

    /// Waits for its end, which must be exit(0).
    pub fn join(&mut self) -> Result<()> {
        self.reaped = true;
        match sys::wait(self.pid)? {
            Ok(0) => Ok(()),
            end => bail!("child {} ended with {end:?}", self.pid),
        }
    }

    /// Kills and reaps it.
    pub fn kill(&mut self) -> Result<()> {
        sys::kill(self.pid, libc::SIGKILL)?;
        self.reaped = true;
        Ok(sys::wait(self.pid).map(drop)?)
    }

    /// Sends it a signal that ends it, and reaps it: how it ended.
    pub fn end_by(&mut self, signal: i32) -> Result<sys::Exit> {
        sys::kill(self.pid, signal)?;
        self.reaped = true;
        Ok(sys::wait(self.pid)?)
    }

    /// Kills it and leaves it a zombie.
    pub fn make_zombie(&mut self) -> Result<()> {
        sys::kill(self.pid, libc::SIGKILL)?;
        Ok(sys::wait_zombie(self.pid)?)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = self.kill();
        }
    }
}

/// Many processes that only exist. They share our memory, so making them costs little.
pub struct Sleepers {
    /// Their pids, in the order of their making.
    pub pids: Vec<Pid>,
    _wait_on: (File, File),
}

impl Sleepers {
    /// Makes them.
    pub fn new(count: usize) -> Result<Self> {
        let wait_on = sys::pipe(false)?;
        let (_said, tell) = sys::pipe(false)?;
        let mut pids = Vec::new();
        for _ in 0..count {
            pids.push(sys::clone_vm(0, wait_on.0.as_raw_fd(), tell.as_raw_fd())?);
        }
        Ok(Self {
            pids,
            _wait_on: wait_on,
        })
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        for pid in &self.pids {
            if sys::kill(*pid, libc::SIGKILL).is_ok() {
                let _ = sys::wait(*pid);
            }
        }
    }
}

/// Writable private anonymous memory between two guard pages, so that it is one VMA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// First byte.
    pub start: u64,
    /// Length.
    pub len: u64,
}

impl Area {
    /// Maps `pages` in the calling process.
    pub fn map(pages: usize) -> Result<Self> {
        let base = sys::map_anon((pages + 2) * PAGE, libc::PROT_NONE)?;
        sys::protect(base + PAGE, pages * PAGE, RW)?;
        Ok(Self {
            start: (base + PAGE) as u64,
            len: (pages * PAGE) as u64,
        })
    }

    /// Writes to every page, in the calling process.
    pub fn touch(&self) {
        (self.start..self.end())
            .step_by(PAGE)
            .for_each(|addr| sys::poke(addr as usize, 1));
    }

    /// One past the last byte.
    pub fn end(&self) -> u64 {
        self.start + self.len
    }

    /// Some of its pages.
    pub fn pages(&self, first: u64, count: u64) -> Self {
        Self {
            start: self.start + first * PAGE as u64,
            len: count * PAGE as u64,
        }
    }
}

struct Seat {
    ours: Option<Link>,
    rd: RawFd,
    wr: RawFd,
    _open: Option<Link>,
}

/// The pipes of a test's puppets.
#[derive(Clone)]
pub struct Stage(Rc<RefCell<(usize, Vec<Seat>)>>);

impl Stage {
    /// Pipes for `count` puppets.
    pub fn new(count: usize) -> Result<Self> {
        let mut seats = Vec::new();
        for _ in 0..count {
            let (ours, theirs) = Link::pair()?;
            let (rd, wr) = (theirs.from.get_ref().as_raw_fd(), theirs.to.as_raw_fd());
            seats.push(Seat {
                ours: Some(ours),
                rd,
                wr,
                _open: Some(theirs),
            });
        }
        Ok(Self(Rc::new(RefCell::new((0, seats)))))
    }

    /// The first puppet: a child of the test.
    pub fn start(&self) -> Result<Puppet> {
        let ends = self.ends();
        let (index, link) = self.take()?;
        let parent = sys::getpid();
        match sys::fork()? {
            Forked::Parent(pid) => Puppet::new(self.clone(), pid, link),
            Forked::Child => {
                die_with(parent);
                serve(index, ends)
            }
        }
    }

    fn take(&self) -> Result<(usize, Link)> {
        let (next, seats) = &mut *self.0.borrow_mut();
        let index = *next;
        *next += 1;
        let seat = seats.get_mut(index).context("the stage is full")?;
        Ok((index, seat.ours.take().context("a seat is taken")?))
    }

    fn ends(&self) -> Vec<(RawFd, RawFd)> {
        self.0
            .borrow()
            .1
            .iter()
            .map(|seat| (seat.rd, seat.wr))
            .collect()
    }
}

/// A process that does as it is told.
pub struct Puppet {
    stage: Stage,
    /// Its pid.
    pub pid: Pid,
    link: Link,
    pidfd: OwnedFd,
}

impl Puppet {
    fn new(stage: Stage, pid: Pid, link: Link) -> Result<Self> {
        let pidfd = sys::pidfd_open(pid).context("pidfd_open of a puppet")?;
        let mut puppet = Self {
            stage,
            pid,
            link,
            pidfd,
        };
        ensure!(
            puppet.call("pid")? == pid.to_string(),
            "puppet {pid} has another pid"
        );
        Ok(puppet)
    }

    /// Gives one order and waits for its answer.
    pub fn call(&mut self, order: &str) -> Result<String> {
        self.link.send(order)?;
        self.answer()
            .with_context(|| format!("puppet {}: {order}", self.pid))
    }

    /// Gives one order.
    pub fn order(&mut self, order: &str) -> Result<()> {
        self.link.send(order)
    }

    /// Waits for the answer to an order.
    pub fn answer(&mut self) -> Result<String> {
        let answer = self.link.recv()?;
        match answer.split_once(' ') {
            Some(("ok", rest)) => Ok(rest.to_owned()),
            _ if answer == "ok" => Ok(String::new()),
            _ => bail!("{answer}"),
        }
    }

    /// Maps an area.
    pub fn map(&mut self, pages: usize) -> Result<Area> {
        let start = self.call(&format!("map {pages}"))?.parse()?;
        Ok(Area {
            start,
            len: (pages * PAGE) as u64,
        })
    }

    /// Maps and writes many areas.
    pub fn map_written(&mut self, count: usize, pages: usize) -> Result<Vec<Area>> {
        let answer = self.call(&format!("mapmany {count} {pages}"))?;
        let area = |start: &str| -> Result<Area> {
            Ok(Area {
                start: start.parse()?,
                len: (pages * PAGE) as u64,
            })
        };
        answer.split(' ').map(area).collect()
    }

    /// Writes to every page of an area.
    pub fn write(&mut self, area: Area) -> Result<()> {
        self.call(&format!("write {} {}", area.start, area.len))
            .map(drop)
    }

    /// Reads every page of an area.
    pub fn read(&mut self, area: Area) -> Result<()> {
        self.call(&format!("read {} {}", area.start, area.len))
            .map(drop)
    }

    /// munmap().
    pub fn unmap(&mut self, area: Area) -> Result<()> {
        self.call(&format!("unmap {} {}", area.start, area.len))
            .map(drop)
    }

    /// mprotect().
    pub fn protect(&mut self, area: Area, prot: i32) -> Result<()> {
        self.call(&format!("protect {} {} {prot}", area.start, area.len))
            .map(drop)
    }

    /// madvise().
    pub fn advise(&mut self, area: Area, advice: i32) -> Result<()> {
        self.call(&format!("advise {} {} {advice}", area.start, area.len))
            .map(drop)
    }

    /// Maps an area that huge pages fit into, with more mmap() flags than usual.
    pub fn map_aligned(&mut self, pages: usize, flags: i32) -> Result<Area> {
        let start = self.call(&format!("mapaligned {pages} {flags}"))?.parse()?;
        Ok(Area {
            start,
            len: (pages * PAGE) as u64,
        })
    }

    /// mremap() into a new place between guards: the area there.
    pub fn remap(&mut self, area: Area) -> Result<Area> {
        let room = self.map(area.len as usize / PAGE)?;
        self.call(&format!("remap {} {} {}", area.start, area.len, room.start))?;
        Ok(room)
    }

    /// The same, and the old area stays there, empty.
    pub fn remap_keeping(&mut self, area: Area) -> Result<Area> {
        let room = self.map(area.len as usize / PAGE)?;
        self.call(&format!(
            "remapkeeping {} {} {}",
            area.start, area.len, room.start
        ))?;
        Ok(room)
    }

    /// Maps a file privately and writably, at a page offset of it.
    pub fn map_file(&mut self, path: &Path, pages: usize, page: usize) -> Result<Area> {
        let fd = self.call(&format!("open {}", hex(path.as_os_str().as_bytes())))?;
        let start = self
            .call(&format!("mapfile {fd} {pages} {page}"))?
            .parse()?;
        Ok(Area {
            start,
            len: (pages * PAGE) as u64,
        })
    }

    /// Makes a child puppet, that dies with this one.
    pub fn fork(&mut self) -> Result<Self> {
        self.fork_how("fork")
    }

    /// Makes a child puppet that outlives this one.
    pub fn fork_lasting(&mut self) -> Result<Self> {
        self.fork_how("forklasting")
    }

    fn fork_how(&mut self, how: &str) -> Result<Self> {
        let (index, link) = self.stage.take()?;
        let pid = self.call(&format!("{how} {index}"))?.parse()?;
        Self::new(self.stage.clone(), pid, link)
    }

    /// Makes it exit; comes back when its memory is gone. It stays a zombie until its parent reaps.
    pub fn exit(mut self) -> Result<()> {
        self.order("exit")?;
        self.wait_exit()
    }

    /// Waits until it has exited.
    pub fn wait_exit(&self) -> Result<()> {
        ensure!(
            sys::poll(&self.pidfd, libc::POLLIN, patience())?,
            "puppet {} lives on",
            self.pid
        );
        Ok(())
    }

    /// Makes it go through exec(); comes back when its new program listens. It shares no memory
    /// with anyone then.
    pub fn exec(&mut self) -> Result<()> {
        self.call("exec").map(drop)
    }

    /// Waits until it sleeps, waiting for orders, so that nothing of it changes any more.
    pub fn settle(&self) -> Result<()> {
        wait_state(self.pid, 'S')
    }

    /// Sets its name.
    pub fn set_comm(&mut self, name: &[u8]) -> Result<()> {
        self.call(&format!("comm {}", hex(name))).map(drop)
    }

    /// Adds a thread: its id.
    pub fn add_thread(&mut self) -> Result<Pid> {
        Ok(self.call("thread")?.parse()?)
    }
}

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

fn serve(index: usize, ends: Vec<(RawFd, RawFd)>) -> ! {
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
        "remap" => sys::remap(number(1)?, number(2)?, number(3)?)?,
        "remapkeeping" => sys::remap_keeping(number(1)?, number(2)?, number(3)?)?,
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

/// Where a huge page can begin.
pub const HUGE: usize = 512 * PAGE;

/// Maps an area at the beginning of a huge page, and none behind it.
fn map_aligned(len: usize, flags: i32) -> Result<usize> {
    let base = sys::map_anon(len + 3 * HUGE, libc::PROT_NONE)?;
    let start = (base + 1).next_multiple_of(HUGE);
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    Ok(sys::map(start, len, RW, flags, None, 0)?)
}
