// SPDX-License-Identifier: GPL-2.0
//! Processes that note down each event that they cause.

use std::fs;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::super::netevents::inode;
use super::super::netfilters::Cgroup;
use crate::process::{Child, Link};
use crate::random::Random;
use crate::sys::{self, Forked};

/// How many of them.
pub const MAKERS: usize = 2;

/// Something that a maker did.
pub struct Deed {
    /// Before it did.
    pub time: u64,
    /// What.
    pub what: String,
}

impl Deed {
    fn new(line: &str) -> Result<Self> {
        let (time, what) = line.split_once(' ').context("no time")?;
        let (time, what) = (time.parse()?, what.to_owned());
        Ok(Self { time, what })
    }
}

/// What all of them hang on. They cause events that a stream of their cgroup tells, from when they are told to begin
/// until they say that they are done.
pub struct Makers {
    child: Child,
    folder: PathBuf,
}

impl Makers {
    /// Makes them. Together they cause that many events, or a few more.
    pub fn new(cgroup: &Cgroup, folder: &Path, events: usize, random: &mut Random) -> Result<Self> {
        let (its, folder) = (cgroup.0.clone(), folder.to_owned());
        let seeds = [(); MAKERS].map(|()| random.next());
        let notes = folder.clone();
        let mut child = Child::spawn(move |link| {
            std::mem::ManuallyDrop::new(Cgroup(its)).join()?;
            let mut makers = Vec::new();
            for (at, seed) in seeds.into_iter().enumerate() {
                let notes = lists(&notes, at);
                makers.push(Child::spawn(move |link| {
                    let maker = Maker::new(at as u8, seed)?;
                    maker.make(link, events.div_ceil(MAKERS), &notes)
                })?);
            }
            // Ready, go, done, end.
            for _ in 0..2 {
                for maker in &mut makers {
                    maker.link.wait()?;
                }
                link.send("all")?;
                link.wait()?;
                for maker in &mut makers {
                    maker.link.send("go on")?;
                }
            }
            makers.iter_mut().try_for_each(Child::join)
        })?;
        child.link.recv()?;
        Ok(Self { child, folder })
    }

    /// Has them begin.
    pub fn begin(&mut self) -> Result<()> {
        self.child.link.send("go on")
    }

    /// Whether they are done.
    pub fn are_done(&self) -> Result<bool> {
        self.child.link.is_told()
    }

    /// What each of them has done, and what came of it elsewhere, each in its order.
    pub fn deeds(&mut self) -> Result<Vec<Vec<Deed>>> {
        self.child.link.wait()?;
        let all = (0..MAKERS).flat_map(|at| lists(&self.folder, at));
        let deeds = all.map(|path| {
            let text = fs::read_to_string(path)?;
            text.lines().map(Deed::new).collect()
        });
        deeds.collect()
    }

    /// Has them end, which nobody is to be told of.
    pub fn end(mut self) -> Result<()> {
        self.child.link.send("go on")?;
        self.child.join()
    }
}

/// Where a maker notes both.
fn lists(folder: &Path, maker: usize) -> [PathBuf; 2] {
    ["deeds", "arrivals"].map(|name| folder.join(format!("{name}-{maker}")))
}

struct Maker {
    which: u8,
    listener: TcpListener,
    inode: u64,
    random: Random,
    connections: u16,
    /// When the last round began.
    begun: u64,
    deeds: Vec<String>,
    /// A reset is noted as sent once it has left, which is before or after it arrives.
    arrivals: Vec<String>,
}

impl Maker {
    fn new(which: u8, seed: u64) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        Ok(Self {
            which,
            inode: inode(&listener)?,
            listener,
            random: Random::new(seed),
            connections: 0,
            begun: 0,
            deeds: Vec::new(),
            arrivals: Vec::new(),
        })
    }

    fn make(mut self, link: &mut Link, events: usize, notes: &[PathBuf; 2]) -> Result<()> {
        link.send("ready")?;
        link.wait()?;
        while self.deeds.len() + self.arrivals.len() < events {
            self.begun = sys::boot_ns()?;
            match self.random.below(3) {
                0 => self.fork()?,
                1 => self.shut()?,
                _ => self.reset()?,
            }
            if self.random.one_in(4) {
                thread::sleep(Duration::from_micros(self.random.below(20_000) as u64));
            }
        }
        for (path, list) in notes.iter().zip([&self.deeds, &self.arrivals]) {
            fs::write(path, list.join("\n"))?;
        }
        link.send("done")?;
        link.wait().map(drop)
    }

    fn did(&mut self, deed: String) {
        self.deeds.push(format!("{} {deed}", self.begun));
    }

    /// A child, which closes what it has of ours.
    fn fork(&mut self) -> Result<()> {
        match sys::fork()? {
            Forked::Child => sys::exit_now(0),
            Forked::Parent(pid) => {
                ensure!(sys::wait(pid)? == Ok(0), "a child that fails");
                let (us, inode) = (sys::getpid(), self.inode);
                self.did(format!("fork {us} {pid}"));
                self.did(format!("close {pid} {inode} 1"));
                Ok(())
            }
        }
    }

    fn close(&mut self, socket: impl Into<OwnedFd>, refs: u32) -> Result<()> {
        let socket = socket.into();
        let deed = format!("close {} {} {refs}", sys::getpid(), inode(&socket)?);
        drop(socket);
        self.did(deed);
        Ok(())
    }

    fn shut(&mut self) -> Result<()> {
        let (one, two) = sys::socketpair(libc::SOCK_STREAM)?;
        let all = [
            (libc::SHUT_RD, "rd"),
            (libc::SHUT_WR, "wr"),
            (libc::SHUT_RDWR, "rd,wr"),
        ];
        let (how, word) = *self.random.pick(&all);
        let deed = format!("shutdown {} {} {word}", sys::getpid(), inode(&one)?);
        sys::shutdown(&one, how)?;
        self.did(deed);
        let second = one.try_clone()?;
        self.close(one, 1)?;
        self.close(second, 0)?;
        self.close(two, 0)
    }

    /// A connection of an address that nobody else has, which one end resets by closing it.
    fn reset(&mut self) -> Result<()> {
        let ip = [
            127,
            20 + self.which,
            (self.connections >> 8) as u8,
            self.connections as u8,
        ];
        self.connections = self
            .connections
            .checked_add(1)
            .context("no more addresses")?;
        let [a, b, c, d] = ip;
        let port = self.listener.local_addr()?.port();
        let client = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
        sys::bind(&client, &sys::Address::inet(ip, 0))?;
        sys::connect(&client, &sys::Address::loopback(port))?;
        let (server, peer) = self.listener.accept()?;
        let names = [
            format!("{a}.{b}.{c}.{d}:{}", sys::port_of(&client)?),
            format!("127.0.0.1:{port}"),
        ];
        ensure!(
            peer.to_string() == names[0],
            "a connection of somebody else"
        );
        let mut ends = [(client, &names[0]), (server.into(), &names[1])];
        if self.random.one_in(2) {
            ends.reverse();
        }
        let [(one, its), (two, other)] = ends;
        sys::set_linger(&one, true, 0)?;
        self.close(one, 0)?;
        self.did(format!("reset sent {its} {other}"));
        let begun = self.begun;
        self.arrivals
            .push(format!("{begun} reset received {other} {its}"));
        let end = sys::recv(&two, 1, 0);
        let errno = end.err().map(|error| sys::errno(&error));
        ensure!(
            errno == Some(libc::ECONNRESET),
            "the other end's errno: {errno:?}"
        );
        ensure!(two.as_raw_fd() >= 0, "it is closed");
        self.close(two, 0)
    }
}
