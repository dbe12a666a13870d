// SPDX-License-Identifier: GPL-2.0
//! Children of the test.

use std::fs::File;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail};

use super::{Link, die_with};
use crate::check_eq;
use crate::sys::{self, Forked, Pid};

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

    /// A child that forks without end, from a round on: what it does in each, while the one forked does something
    /// else.
    pub fn churner(
        first: u64,
        here: impl Fn(u64) -> Result<()>,
        there: impl Fn(u64),
    ) -> Result<Self> {
        Self::spawn(move |_| {
            let us = sys::getpid();
            for round in first.. {
                match sys::fork()? {
                    Forked::Parent(pid) => {
                        here(round)?;
                        let _ = sys::wait(pid)?;
                    }
                    Forked::Child => {
                        die_with(us);
                        there(round);
                        sys::exit_now(0)
                    }
                }
            }
            bail!("no round is left")
        })
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
