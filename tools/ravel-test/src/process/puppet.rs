// SPDX-License-Identifier: GPL-2.0
//! Puppets, as who pulls the strings sees them.
//!
//! All pipes of a stage are made before its first puppet, so that a puppet of any generation can be spoken to
//! by the test.

use std::cell::RefCell;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};

use super::obey::{hex, serve};
use super::{Area, Link, die_with, patience, wait_state};
use crate::sys::{self, Forked, PAGE, Pid};

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
            let (rd, wr) = theirs.fds();
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
        self.remap_with(area, 0)
    }

    /// The same, and the old area stays there, empty.
    pub fn remap_keeping(&mut self, area: Area) -> Result<Area> {
        self.remap_with(area, libc::MREMAP_DONTUNMAP)
    }

    fn remap_with(&mut self, area: Area, flags: i32) -> Result<Area> {
        let Area { start, len } = area;
        let room = self.map(len as usize / PAGE)?;
        self.call(&format!("remap {start} {len} {} {flags}", room.start))?;
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
