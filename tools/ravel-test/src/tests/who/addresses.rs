// SPDX-License-Identifier: GPL-2.0
//! Which sockets an address reaches: compared with what connect() reaches.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::super::peers::wait_for;
use super::{code, holders, run, who};
use crate::sys::{self, Address};
use crate::{check, check_eq, tests};

tests!("who":
    addresses_reach_whom_connect_reaches,
    groups_share_what_is_sent,
    device_decides_what_is_reached,
    spellings_of_an_address_are_one,
    everything_bound_is_listed_with_all,
    free_port_is_free_and_others_are_not,
);

/// A listener, or a bound UDP socket, of these addresses and options.
struct Bound<'a> {
    at: &'a str,
    v6only: Option<bool>,
}

fn address(of: SocketAddr) -> Address {
    match of.ip() {
        IpAddr::V4(ip) => Address::inet(ip.octets(), of.port()),
        IpAddr::V6(ip) => Address::inet6(ip.octets(), of.port()),
    }
}

fn socket(of: SocketAddr, kind: i32, v6only: Option<bool>) -> Result<OwnedFd> {
    let family = if of.is_ipv6() {
        libc::AF_INET6
    } else {
        libc::AF_INET
    };
    let fd = sys::socket(family, kind, 0)?;
    sys::set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if let Some(only) = v6only {
        sys::set_option(&fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, i32::from(only))?;
    }
    Ok(fd)
}

fn listener(of: SocketAddr, v6only: Option<bool>) -> Result<OwnedFd> {
    let fd = socket(of, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, v6only)?;
    sys::bind(&fd, &address(of)).with_context(|| format!("bind to {of}"))?;
    sys::listen(&fd, 8)?;
    Ok(fd)
}

/// A port that nobody has.
fn free_port() -> Result<u16> {
    let fd = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    sys::bind(&fd, &Address::inet([0; 4], 0))?;
    Ok(sys::port_of(&fd)?)
}

/// Our descriptors that are reported with a place, by that place.
fn in_order(told: &[Value], order: u64) -> BTreeSet<i32> {
    let us = sys::getpid();
    let chosen = told.iter().filter(|socket| socket["order"] == order);
    let held = chosen.flat_map(|socket| holders(&socket["holders"]));
    held.filter(|(pid, _)| *pid == us)
        .map(|(_, fd)| fd)
        .collect()
}

/// Which of the listeners a connection to an address comes to; none if it is refused.
fn reached(listeners: &[OwnedFd], to: SocketAddr) -> Result<Option<i32>> {
    let Ok(_stream) = TcpStream::connect_timeout(&to, Duration::from_secs(10)) else {
        return Ok(None);
    };
    let mut found = None;
    wait_for("the connection", || {
        for listener in listeners {
            if sys::accept(listener).is_ok() {
                found = Some(listener.as_raw_fd());
            }
        }
        Ok(found.is_some())
    })?;
    Ok(found)
}

fn addresses_reach_whom_connect_reaches() -> Result<()> {
    let any = |at, v6only| Bound { at, v6only };
    let scenes: &[&[Bound<'_>]] = &[
        &[any("0.0.0.0", None), any("::1", Some(true))],
        &[any("::", Some(false))],
        &[any("::", Some(true))],
        &[any("::", Some(true)), any("0.0.0.0", None)],
        &[any("127.0.0.1", None), any("::", Some(true))],
        &[any("127.0.0.2", None)],
        &[any("::ffff:127.0.0.1", Some(false)), any("::1", Some(true))],
        &[
            any("::1", Some(true)),
            any("127.0.0.1", None),
            any("127.0.0.2", None),
        ],
    ];
    for (at, scene) in scenes.iter().enumerate() {
        let port = free_port()?;
        let listeners = scene
            .iter()
            .map(|of| listener(SocketAddr::new(of.at.parse()?, port), of.v6only))
            .collect::<Result<Vec<_>>>()?;
        for ip in ["127.0.0.1", "127.0.0.2", "::1"] {
            let to = SocketAddr::new(ip.parse()?, port);
            let reached = reached(&listeners, to)?;
            let words = to.to_string();
            match reached {
                Some(fd) => {
                    let told = who(&words)?;
                    check_eq!(
                        in_order(&told, 1),
                        BTreeSet::from([fd]),
                        "scene {at}: {words}"
                    );
                }
                None => {
                    // What was bound to another address left connections behind, which have that
                    // address.
                    let (_, out, err) = run(&["--json", &words])?;
                    let told: Option<Value> = serde_json::from_str(&out).ok();
                    let told = told
                        .as_ref()
                        .and_then(|told| told["sockets"].as_array().cloned());
                    let chosen = in_order(&told.unwrap_or_default(), 1);
                    check!(chosen.is_empty(), "scene {at}: {words} reaches {chosen:?}");
                    check!(out.contains("sockets") || err.contains("is free"), "{err}");
                }
            }
        }
    }
    Ok(())
}

fn groups_share_what_is_sent() -> Result<()> {
    let port = free_port()?;
    let to: SocketAddr = ([127, 0, 0, 1], port).into();
    let mut group = Vec::new();
    for _ in 0..3 {
        let fd = socket(to, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, None)?;
        sys::set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        sys::bind(&fd, &address(to))?;
        sys::listen(&fd, 64)?;
        group.push(fd);
    }
    let told = who(&to.to_string())?;
    let want: BTreeSet<i32> = group.iter().map(AsRawFd::as_raw_fd).collect();
    check_eq!(in_order(&told, 1), want, "the group of {to}");
    // All of it gets connections.
    let mut got = BTreeSet::new();
    wait_for("connections at all", || {
        got.extend(reached(&group, to)?);
        Ok(got.len() == group.len())
    })
}

fn device_decides_what_is_reached() -> Result<()> {
    let to = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let bound = |port, on_device: bool| -> Result<OwnedFd> {
        let any: SocketAddr = ([0, 0, 0, 0], port).into();
        let fd = socket(any, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, None)?;
        sys::set_option(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        if on_device {
            sys::set_option(&fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, *b"lo\0\0")?;
        }
        sys::bind(&fd, &address(any))?;
        sys::listen(&fd, 8)?;
        Ok(fd)
    };
    for first_on_device in [true, false] {
        let port = free_port()?;
        let fds = [
            bound(port, first_on_device)?,
            bound(port, !first_on_device)?,
        ];
        let to = to(port);
        let told = who(&to.to_string())?;
        let first = reached(&fds, to)?.context("nobody is reached")?;
        check_eq!(in_order(&told, 1), BTreeSet::from([first]), "first");
        check_eq!(in_order(&told, 2).len(), 1, "second");
        let on_device = fds[usize::from(!first_on_device)].as_raw_fd();
        let is_it = |of: &&Value| {
            holders(&of["holders"])
                .iter()
                .any(|(_, fd)| *fd == on_device)
        };
        let told = told.iter().find(is_it).context("it is not told")?;
        check_eq!(told["device"], "lo", "device");
        let (_, text, _) = run(&[&to.to_string()])?;
        check!(text.contains(&format!("0.0.0.0%lo:{port}")), "{text}");
    }
    Ok(())
}

fn spellings_of_an_address_are_one() -> Result<()> {
    let port = free_port()?;
    let fd = listener(format!("[::1]:{port}").parse()?, Some(true))?;
    let fd = BTreeSet::from([fd.as_raw_fd()]);
    for word in ["[::1]", "[0:0:0:0:0:0:0:1]", "::1", "[::0001]"] {
        let told = who(&format!("{word}:{port}"))?;
        check_eq!(in_order(&told, 1), fd, "{word}");
    }
    let other = listener(([127, 0, 0, 1], port).into(), None)?;
    let other = BTreeSet::from([other.as_raw_fd()]);
    for word in ["127.0.0.1", "[::ffff:127.0.0.1]"] {
        check_eq!(
            in_order(&who(&format!("{word}:{port}"))?, 1),
            other,
            "{word}"
        );
    }
    // A name is what the resolver says it is.
    let resolved: BTreeSet<IpAddr> =
        std::net::ToSocketAddrs::to_socket_addrs(&("localhost", port))?
            .map(|address| address.ip())
            .collect();
    let told = in_order(&who(&format!("localhost:{port}"))?, 1);
    ensure!(!resolved.is_empty(), "no address of localhost");
    check_eq!(
        told.contains(other.first().context("none")?),
        resolved.contains(&"127.0.0.1".parse()?),
        "127.0.0.1"
    );
    check_eq!(
        told.contains(fd.first().context("none")?),
        resolved.contains(&"::1".parse()?),
        "::1"
    );
    for word in ["no-such-host.invalid:80", "[::1%nodevice]:80"] {
        let (well, _, err) = run(&[word])?;
        check!(!well && !err.contains("free"), "{word}: {err}");
    }
    Ok(())
}

fn everything_bound_is_listed_with_all() -> Result<()> {
    let port = free_port()?;
    let only = listener(format!("[::]:{port}").parse()?, Some(true))?;
    let four = listener(([127, 0, 0, 1], port).into(), None)?;
    let word = format!("127.0.0.1:{port}");
    let told = who(&word)?;
    check_eq!(
        holders(&told[0]["holders"]),
        [(sys::getpid(), four.as_raw_fd())],
        "whom it reaches"
    );
    check_eq!(told.len(), 1, "sockets: {told:?}");
    let (_, out, _) = run(&["--json", "--all", &word])?;
    let all: Value = serde_json::from_str(&out)?;
    let held: BTreeSet<_> = all["sockets"]
        .as_array()
        .context("no sockets")?
        .iter()
        .flat_map(|socket| holders(&socket["holders"]))
        .map(|(_, fd)| fd)
        .collect();
    check_eq!(
        held,
        BTreeSet::from([only.as_raw_fd(), four.as_raw_fd()]),
        "all"
    );
    let told = who(&port.to_string())?;
    let is_only = |socket: &&Value| socket["local"] == format!("[::]:{port}");
    let told = told.iter().find(is_only).context("no IPv6 socket")?;
    check_eq!(told["v6only"], true, "IPV6_V6ONLY");
    Ok(())
}

fn free_port_is_free_and_others_are_not() -> Result<()> {
    let port = free_port()?;
    let (well, out, err) = run(&[&port.to_string()])?;
    check!(!well && out.is_empty() && err.contains("is free"), "{err}");
    check_eq!(
        code(&[&port.to_string()])?,
        Some(3),
        "exit code of a free port"
    );
    // Bound, and not listening.
    let at: SocketAddr = ([127, 0, 0, 1], port).into();
    let bound = socket(at, libc::SOCK_STREAM, None)?;
    sys::bind(&bound, &address(at))?;
    for word in [port.to_string(), at.to_string()] {
        let told = who(&word)?;
        check_eq!(told.len(), 1, "sockets of {word}");
        check_eq!(told[0]["sk_state"], "bound_inactive", "state");
        check_eq!(told[0]["order"], Value::Null, "it receives nothing");
        check_eq!(
            holders(&told[0]["holders"]),
            [(sys::getpid(), bound.as_raw_fd())],
            "who"
        );
    }
    drop(bound);
    // Of another protocol.
    let datagrams = socket(at, libc::SOCK_DGRAM, None)?;
    sys::bind(&datagrams, &address(at))?;
    check_eq!(who(&format!("{port}/udp"))?.len(), 1, "UDP sockets");
    check_eq!(
        code(&[&format!("{port}/tcp")])?,
        Some(3),
        "exit code of a free TCP port"
    );
    drop(datagrams);
    // In TIME_WAIT.
    let listener = std::net::TcpListener::bind(at)?;
    let client = TcpStream::connect(at)?;
    let (server, _) = listener.accept()?;
    drop((server, listener));
    drop(client);
    let state = || -> Result<Option<Value>> {
        let (_, out, _) = run(&["--json", &port.to_string()])?;
        let told: Option<Value> = serde_json::from_str(&out).ok();
        Ok(told.and_then(|told| told["sockets"].as_array()?.first().cloned()))
    };
    wait_for("TIME_WAIT", || {
        Ok(state()?.is_some_and(|socket| socket["sk_state"] == "time_wait"))
    })?;
    let told = state()?.context("nothing")?;
    check_eq!(told["what"], "remnant", "what it is");
    check_eq!(told["inode"], 0, "inode");
    check_eq!(
        code(&[&port.to_string()])?,
        Some(0),
        "exit code of a port in TIME_WAIT"
    );
    // An address of no machine here.
    let (_, _, err) = run(&[&format!("192.0.2.77:{port}")])?;
    check!(
        err.contains("no local address") && !err.contains("free"),
        "{err}"
    );
    Ok(())
}
