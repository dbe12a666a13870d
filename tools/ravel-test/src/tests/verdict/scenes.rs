// SPDX-License-Identifier: GPL-2.0
//! Situations in which a socket can be, each made by the system calls that lead to it.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::super::peers::wait_for;
use crate::check;
use crate::report::own_socket;
use crate::sys::{self, Address};

/// A socket to do something to, and its surroundings.
pub struct Scene {
    /// It.
    pub fd: OwnedFd,
    /// The other end; of a listener, those who wait.
    pub peers: Vec<OwnedFd>,
    /// Only kept open.
    pub kept: Vec<OwnedFd>,
    /// The listener that accepts the other end afterwards.
    pub accepts: Option<OwnedFd>,
}

impl Scene {
    pub fn new(fd: OwnedFd, peers: Vec<OwnedFd>) -> Self {
        Self {
            fd,
            peers,
            kept: Vec::new(),
            accepts: None,
        }
    }
}

/// Where a test's connections are: a namespace of its own, with nobody else's packets.
pub struct Place {
    /// Hears every packet.
    pub capture: OwnedFd,
    /// IPv6.
    pub v6: bool,
}

impl Place {
    pub fn new() -> Result<Self> {
        sys::unshare(libc::CLONE_NEWNET)?;
        sys::loopback_up()?;
        Ok(Self {
            capture: sys::capture_loopback()?,
            v6: false,
        })
    }

    pub fn stream(&self) -> Result<OwnedFd> {
        let family = if self.v6 {
            libc::AF_INET6
        } else {
            libc::AF_INET
        };
        Ok(sys::socket(family, libc::SOCK_STREAM, 0)?)
    }

    pub fn listener(&self, backlog: i32) -> Result<(OwnedFd, Address)> {
        let fd = self.stream()?;
        if self.v6 {
            sys::listen(&fd, backlog)?;
            let port = sys::port_of(&fd)?;
            return Ok((fd, Address::loopback6(port)));
        }
        sys::bind(&fd, &Address::loopback(0))?;
        sys::listen(&fd, backlog)?;
        let port = sys::port_of(&fd)?;
        Ok((fd, Address::loopback(port)))
    }

    /// Two ends; the second one's buffer is small if the first is to be filled.
    pub fn pair(&self, small: bool) -> Result<(OwnedFd, OwnedFd)> {
        let (listener, address) = self.listener(5)?;
        if small {
            sys::set_option(&listener, libc::SOL_SOCKET, libc::SO_RCVBUF, 20_000)?;
        }
        let one = self.stream()?;
        sys::connect(&one, &address)?;
        Ok((one, sys::accept(&listener)?))
    }
}

pub type Make = fn(&Place) -> Result<Scene>;

pub fn sends(from: &OwnedFd, to: &OwnedFd, bytes: usize) -> Result<()> {
    let before = sys::inq(to)?;
    sys::send(from, &vec![0x61; bytes], 0)?;
    wait_for("the bytes", || Ok(sys::inq(to)? == before + bytes as i32))
}

/// Writes until the peer's window is closed.
pub fn fill(fd: &OwnedFd) -> Result<()> {
    sys::set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, 40_000)?;
    let data = vec![0x62; 8 << 10];
    let mut quiet = 0;
    while quiet < 3 {
        match sys::send(fd, &data, libc::MSG_DONTWAIT) {
            Ok(_) => quiet = 0,
            Err(e) if sys::errno(&e) == libc::EAGAIN => {
                quiet += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// A TCP socket's state, by TCP_INFO.
pub fn state_of(fd: &impl AsRawFd) -> Result<u8> {
    Ok(sys::tcp_info(fd)?[0])
}

pub fn shut(fd: &OwnedFd, how: i32, then: u8) -> Result<()> {
    sys::shutdown(fd, how)?;
    wait_for("the state", || Ok(state_of(fd)? == then))
}

pub fn comes_to(fd: &OwnedFd, state: u8) -> Result<()> {
    wait_for("the state", || Ok(state_of(fd)? == state))
}

/// include/net/tcp_states.h.
pub const STATES: [&str; 12] = [
    "",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
];
pub const FIN_WAIT1: u8 = 4;
pub const FIN_WAIT2: u8 = 5;
pub const CLOSE: u8 = 7;
pub const CLOSE_WAIT: u8 = 8;
pub const LAST_ACK: u8 = 9;
pub const CLOSING: u8 = 11;

/// Every state that a TCP socket with a descriptor can be in, with and without bytes each way.
pub const TCP: &[(&str, Make)] = &[
    ("established", |place| {
        let (one, two) = place.pair(false)?;
        Ok(Scene::new(one, vec![two]))
    }),
    ("accepted end", |place| {
        let (one, two) = place.pair(false)?;
        Ok(Scene::new(two, vec![one]))
    }),
    ("5 bytes unread here", |place| {
        let (one, two) = place.pair(false)?;
        sends(&two, &one, 5)?;
        Ok(Scene::new(one, vec![two]))
    }),
    ("read in part", |place| {
        let (one, two) = place.pair(false)?;
        sends(&two, &one, 500)?;
        sys::recv(&one, 499, 0)?;
        Ok(Scene::new(one, vec![two]))
    }),
    ("read to its end", |place| {
        let (one, two) = place.pair(false)?;
        sends(&two, &one, 500)?;
        sys::recv(&one, 500, 0)?;
        Ok(Scene::new(one, vec![two]))
    }),
    ("7 bytes unread there", |place| {
        let (one, two) = place.pair(false)?;
        sends(&one, &two, 7)?;
        Ok(Scene::new(one, vec![two]))
    }),
    ("unread both ways", |place| {
        let (one, two) = place.pair(false)?;
        sends(&one, &two, 7)?;
        sends(&two, &one, 5)?;
        Ok(Scene::new(one, vec![two]))
    }),
    ("window closed", |place| {
        let (one, two) = place.pair(true)?;
        fill(&one)?;
        Ok(Scene::new(one, vec![two]))
    }),
    ("window closed, unread here", |place| {
        let (one, two) = place.pair(true)?;
        sends(&two, &one, 5)?;
        fill(&one)?;
        Ok(Scene::new(one, vec![two]))
    }),
    ("RD shut", |place| {
        let (one, two) = place.pair(false)?;
        sys::shutdown(&one, libc::SHUT_RD)?;
        Ok(Scene::new(one, vec![two]))
    }),
    ("RD shut, then bytes", |place| {
        let (one, two) = place.pair(false)?;
        sys::shutdown(&one, libc::SHUT_RD)?;
        sends(&two, &one, 5)?;
        Ok(Scene::new(one, vec![two]))
    }),
    ("FIN_WAIT2", |place| {
        let (one, two) = place.pair(false)?;
        shut(&one, libc::SHUT_WR, FIN_WAIT2)?;
        Ok(Scene::new(one, vec![two]))
    }),
    ("FIN_WAIT2, unread here", |place| {
        let (one, two) = place.pair(false)?;
        shut(&one, libc::SHUT_WR, FIN_WAIT2)?;
        sends(&two, &one, 5)?;
        Ok(Scene::new(one, vec![two]))
    }),
    ("FIN_WAIT2, unread there", |place| {
        let (one, two) = place.pair(false)?;
        sends(&one, &two, 7)?;
        shut(&one, libc::SHUT_WR, FIN_WAIT2)?;
        Ok(Scene::new(one, vec![two]))
    }),
    ("FIN_WAIT2, RD shut", |place| {
        let (one, two) = place.pair(false)?;
        shut(&one, libc::SHUT_RDWR, FIN_WAIT2)?;
        Ok(Scene::new(one, vec![two]))
    }),
    ("CLOSE_WAIT", |place| {
        let (one, two) = place.pair(false)?;
        sys::shutdown(&two, libc::SHUT_WR)?;
        comes_to(&one, CLOSE_WAIT)?;
        Ok(Scene::new(one, vec![two]))
    }),
    ("CLOSE_WAIT, unread here", |place| {
        let (one, two) = place.pair(false)?;
        sends(&two, &one, 5)?;
        sys::shutdown(&two, libc::SHUT_WR)?;
        comes_to(&one, CLOSE_WAIT)?;
        Ok(Scene::new(one, vec![two]))
    }),
    ("CLOSE_WAIT, end of file read", |place| {
        let (one, two) = place.pair(false)?;
        sends(&two, &one, 5)?;
        sys::shutdown(&two, libc::SHUT_WR)?;
        comes_to(&one, CLOSE_WAIT)?;
        sys::recv(&one, 10, 0)?;
        check!(sys::recv(&one, 10, 0)?.is_empty(), "no end of file");
        Ok(Scene::new(one, vec![two]))
    }),
    ("CLOSE_WAIT, unread there", |place| {
        let (one, two) = place.pair(false)?;
        sends(&one, &two, 7)?;
        sys::shutdown(&two, libc::SHUT_WR)?;
        comes_to(&one, CLOSE_WAIT)?;
        Ok(Scene::new(one, vec![two]))
    }),
    ("CLOSE_WAIT, window closed", |place| {
        let (one, two) = place.pair(true)?;
        fill(&one)?;
        sys::shutdown(&two, libc::SHUT_WR)?;
        comes_to(&one, CLOSE_WAIT)?;
        Ok(Scene::new(one, vec![two]))
    }),
    ("FIN_WAIT1: FIN queued", |place| {
        let (one, two) = place.pair(true)?;
        fill(&one)?;
        shut(&one, libc::SHUT_WR, FIN_WAIT1)?;
        Ok(Scene::new(one, vec![two]))
    }),
    ("FIN_WAIT1, unread here", |place| {
        let (one, two) = place.pair(true)?;
        sends(&two, &one, 5)?;
        fill(&one)?;
        shut(&one, libc::SHUT_WR, FIN_WAIT1)?;
        Ok(Scene::new(one, vec![two]))
    }),
    ("CLOSING", |place| {
        let (one, two) = place.pair(true)?;
        fill(&one)?;
        shut(&one, libc::SHUT_WR, FIN_WAIT1)?;
        sys::shutdown(&two, libc::SHUT_WR)?;
        comes_to(&one, CLOSING)?;
        Ok(Scene::new(one, vec![two]))
    }),
    ("LAST_ACK", |place| {
        let (one, two) = place.pair(true)?;
        fill(&one)?;
        sys::shutdown(&two, libc::SHUT_WR)?;
        comes_to(&one, CLOSE_WAIT)?;
        shut(&one, libc::SHUT_WR, LAST_ACK)?;
        Ok(Scene::new(one, vec![two]))
    }),
    ("ended by both", |place| {
        let (one, two) = place.pair(false)?;
        shut(&one, libc::SHUT_WR, FIN_WAIT2)?;
        shut(&two, libc::SHUT_WR, CLOSE)?;
        comes_to(&one, CLOSE)?;
        Ok(Scene::new(one, vec![]))
    }),
    ("reset by the peer", |place| {
        let (one, two) = place.pair(false)?;
        sends(&two, &one, 5)?;
        sys::set_linger(&two, true, 0)?;
        drop(two);
        comes_to(&one, CLOSE)?;
        Ok(Scene::new(one, vec![]))
    }),
    ("never connected", |place| {
        Ok(Scene::new(place.stream()?, vec![]))
    }),
    ("SYN_SENT", |place| {
        let (listener, address) = place.listener(0)?;
        let first = place.stream()?;
        sys::connect(&first, &address)?;
        wait_for("the first", || Ok(own_socket(&listener)?.1.rx_packets == 1))?;
        let family = if place.v6 {
            libc::AF_INET6
        } else {
            libc::AF_INET
        };
        let fd = sys::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
        let _ = sys::connect(&fd, &address);
        let mut scene = Scene::new(fd, vec![]);
        scene.kept = vec![listener, first];
        Ok(scene)
    }),
    ("listens", |place| {
        Ok(Scene::new(place.listener(5)?.0, vec![]))
    }),
    ("listens, three wait", |place| {
        let (listener, address) = place.listener(5)?;
        let mut waiting = Vec::new();
        for bytes in [0, 9, 0] {
            let fd = place.stream()?;
            sys::connect(&fd, &address)?;
            if bytes > 0 {
                sys::send(&fd, &vec![0x63; bytes], 0)?;
            }
            waiting.push(fd);
        }
        wait_for("those who wait", || {
            Ok(own_socket(&listener)?.1.rx_packets == 3)
        })?;
        Ok(Scene::new(listener, waiting))
    }),
];

/// Bytes that wait for more, though there is room: TCP_CORK lets them go by itself in a moment, so only
/// what sends them at once can be looked at.
pub fn corked(place: &Place) -> Result<Scene> {
    let (one, two) = place.pair(false)?;
    sys::set_option(&one, libc::IPPROTO_TCP, libc::TCP_CORK, 1)?;
    sys::send(&one, b"0123456789", 0)?;
    Ok(Scene::new(one, vec![two]))
}

/// A unix listener, and its address.
pub fn unix_listener(kind: i32) -> Result<(OwnedFd, Address)> {
    let listener = sys::socket(libc::AF_UNIX, kind, 0)?;
    let now = Instant::now();
    let name = format!("\0ravel-test {} {now:?}", sys::getpid());
    let address = Address::unix(&name.as_bytes()[..name.len().min(100)]);
    sys::bind(&listener, &address)?;
    sys::listen(&listener, 5)?;
    Ok((listener, address))
}

pub type UnixScene = (&'static str, Box<dyn Fn() -> Result<Scene>>);

pub fn unix_scenes(kind: i32) -> Vec<UnixScene> {
    let pair = move || sys::socketpair(kind);
    let mut scenes: Vec<UnixScene> = Vec::new();
    let mut add = |name, make: Box<dyn Fn() -> Result<Scene>>| scenes.push((name, make));
    add(
        "connected",
        Box::new(move || {
            let (one, two) = pair()?;
            Ok(Scene::new(one, vec![two]))
        }),
    );
    add(
        "unread here",
        Box::new(move || {
            let (one, two) = pair()?;
            sys::send(&two, b"12345", 0)?;
            Ok(Scene::new(one, vec![two]))
        }),
    );
    add(
        "unread there",
        Box::new(move || {
            let (one, two) = pair()?;
            sys::send(&one, b"1234567", 0)?;
            sys::send(&one, b"89", 0)?;
            Ok(Scene::new(one, vec![two]))
        }),
    );
    add(
        "unread both ways",
        Box::new(move || {
            let (one, two) = pair()?;
            sys::send(&one, b"1234567", 0)?;
            sys::send(&two, b"12345", 0)?;
            Ok(Scene::new(one, vec![two]))
        }),
    );
    for (name, how) in [("RD shut", 0), ("WR shut", 1), ("RDWR shut", 2)] {
        add(
            name,
            Box::new(move || {
                let (one, two) = pair()?;
                sys::send(&one, b"123", 0)?;
                sys::shutdown(&one, how)?;
                Ok(Scene::new(one, vec![two]))
            }),
        );
    }
    add(
        "WR shut there",
        Box::new(move || {
            let (one, two) = pair()?;
            sys::shutdown(&two, libc::SHUT_WR)?;
            Ok(Scene::new(one, vec![two]))
        }),
    );
    add(
        "WR shut there, unread here",
        Box::new(move || {
            let (one, two) = pair()?;
            sys::send(&two, b"12345", 0)?;
            sys::shutdown(&two, libc::SHUT_WR)?;
            Ok(Scene::new(one, vec![two]))
        }),
    );
    add(
        "the peer is gone",
        Box::new(move || Ok(Scene::new(pair()?.0, vec![]))),
    );
    add(
        "never connected",
        Box::new(move || Ok(Scene::new(sys::socket(libc::AF_UNIX, kind, 0)?, vec![]))),
    );
    if kind == libc::SOCK_DGRAM {
        return scenes;
    }
    for waiting in [0, 2] {
        add(
            "listens",
            Box::new(move || {
                let (listener, address) = unix_listener(kind)?;
                let mut clients = Vec::new();
                for _ in 0..waiting {
                    let client = sys::socket(libc::AF_UNIX, kind, 0)?;
                    sys::connect(&client, &address)?;
                    sys::send(&client, b"hello", 0)?;
                    clients.push(client);
                }
                Ok(Scene::new(listener, clients))
            }),
        );
    }
    scenes
}

pub fn udp_pair() -> Result<(OwnedFd, OwnedFd)> {
    let fds = [(); 2].map(|()| -> Result<OwnedFd> {
        let fd = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
        sys::bind(&fd, &Address::loopback(0))?;
        Ok(fd)
    });
    let [one, two] = fds;
    let (one, two) = (one?, two?);
    sys::connect(&one, &Address::loopback(sys::port_of(&two)?))?;
    sys::connect(&two, &Address::loopback(sys::port_of(&one)?))?;
    Ok((one, two))
}
