// SPDX-License-Identifier: GPL-2.0
//! Sockets that no descriptor of a process' own table leads to.

use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;

use anyhow::{Context, Result};
use serde_json::Value;

use super::super::peers::wait_for;
use super::{holders, run, who};
use crate::process::Child;
use crate::report::own_socket;
use crate::sys::{self, Pid};
use crate::{check, check_eq, tests};

tests!("who":
    call_on_a_closed_descriptor,
    message_is_all_that_has_it,
    message_within_a_message,
    ring_is_all_that_has_it,
    table_of_a_thread,
    connection_that_is_not_accepted,
    epoll_set_that_watches,
    mptcp_listener_and_its_subflow,
);

/// (pid, thread) of each.
fn threads(list: &Value) -> Vec<(Pid, Pid)> {
    let number = |value: &Value| value.as_i64().unwrap_or(-1) as Pid;
    let list = list.as_array().into_iter().flatten();
    list.map(|of| (number(&of["pid"]), number(&of["tid"])))
        .collect()
}

/// The only socket of a port.
fn only(port: u16) -> Result<Value> {
    let mut told = who(&port.to_string())?;
    check_eq!(told.len(), 1, "sockets of port {port}: {told:?}");
    told.pop().context("none")
}

fn check_no_descriptor(told: &Value) -> Result<()> {
    check_eq!(holders(&told["holders"]), [], "descriptors of {told}");
    Ok(())
}

fn call_on_a_closed_descriptor() -> Result<()> {
    // Its own process, whose threads are known.
    let mut child = Child::spawn(|link| {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let fd = listener.as_raw_fd();
        let (tell, said) = std::sync::mpsc::channel();
        let sleeper = thread::spawn(move || {
            let _ = tell.send(sys::gettid());
            // The descriptor is taken away from under the call.
            let accepted = sys::accept(&fd);
            accepted.map(drop)
        });
        let tid = said.recv()?;
        let asleep = || -> Result<bool> {
            let line = fs::read_to_string(format!("/proc/self/task/{tid}/syscall"))?;
            Ok(line.starts_with(&format!("{} ", libc::SYS_accept4)))
        };
        wait_for("accept()", asleep)?;
        drop(listener);
        link.send(&format!("{port} {tid} {fd}"))?;
        link.wait()?;
        check!(asleep()?, "the thread was woken");
        drop(TcpStream::connect(("127.0.0.1", port))?);
        match sleeper.join() {
            Ok(accepted) => Ok(accepted?),
            Err(_) => anyhow::bail!("the thread panicked"),
        }
    })?;
    let said = child.link.recv()?;
    let numbers: Vec<i32> = said.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let [port, tid, fd] = numbers[..] else {
        anyhow::bail!("{said}");
    };
    let told = only(port as u16)?;
    check_no_descriptor(&told)?;
    check_eq!(told["sk_state"], "listen", "state");
    check_eq!(
        threads(&told["calls"]),
        [(child.pid, tid)],
        "calls of {told}"
    );
    check_eq!(told["calls"][0]["call"], "accept4", "call");
    check_eq!(told["calls"][0]["fd"], fd, "descriptor");
    let (well, text, _) = run(&[&port.to_string()])?;
    check!(
        well && text.contains(&format!("thread {tid} in accept4() on closed fd {fd}")),
        "{text}"
    );
    child.link.send("on")?;
    child.join()
}

fn message_is_all_that_has_it() -> Result<()> {
    let us = sys::getpid();
    let (to, from) = sys::socketpair(libc::SOCK_STREAM)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let inode = own_socket(&listener)?.0.inode;
    sys::send_descriptor(&to, &listener)?;
    drop(listener);
    for word in [port.to_string(), format!("inode:{inode}")] {
        let told = who(&word)?;
        check_eq!(told.len(), 1, "sockets of {word}");
        check_no_descriptor(&told[0])?;
        check_eq!(told[0]["inode"], inode, "inode");
        let queues = holders(&told[0]["queues"]);
        check!(
            queues.contains(&(us, from.as_raw_fd())),
            "queues of {}",
            told[0]
        );
    }
    let (_, text, _) = run(&[&port.to_string()])?;
    let said = format!("{us} fd {}", from.as_raw_fd());
    check!(
        text.contains("in unread messages of unix socket") && text.contains(&said),
        "{text}"
    );
    drop((to, from));
    check!(
        run(&[&port.to_string()])?.2.contains("is free"),
        "the port is not free"
    );
    Ok(())
}

fn message_within_a_message() -> Result<()> {
    let us = sys::getpid();
    let (outer_to, outer_from) = sys::socketpair(libc::SOCK_STREAM)?;
    let (inner_to, inner_from) = sys::socketpair(libc::SOCK_STREAM)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    sys::send_descriptor(&inner_to, &listener)?;
    sys::send_descriptor(&outer_to, &inner_from)?;
    drop((listener, inner_from));
    let told = only(port)?;
    check_no_descriptor(&told)?;
    let queues = holders(&told["queues"]);
    check!(
        queues.contains(&(us, outer_from.as_raw_fd())),
        "queues of {told}"
    );
    drop((inner_to, outer_to, outer_from));
    Ok(())
}

fn ring_is_all_that_has_it() -> Result<()> {
    let us = sys::getpid();
    let ring = sys::ring()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    sys::ring_register(&ring, &[listener.as_raw_fd(), -1, listener.as_raw_fd()])?;
    drop(listener);
    let told = only(port)?;
    check_no_descriptor(&told)?;
    let rings = told["rings"].as_array().context("no list")?;
    check_eq!(rings.len(), 1, "rings of {told}");
    let ring_of = Value::Array(vec![rings[0]["ring"].clone()]);
    check_eq!(holders(&ring_of), [(us, ring.as_raw_fd())], "ring");
    check_eq!(rings[0]["slots"], 2, "slots");
    Ok(())
}

fn table_of_a_thread() -> Result<()> {
    let mut child = Child::spawn(|link| {
        let (tell, said) = std::sync::mpsc::channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let owner = thread::spawn(move || -> Result<()> {
            sys::unshare(libc::CLONE_FILES)?;
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let port = listener.local_addr()?.port();
            let client = TcpStream::connect(("127.0.0.1", port))?;
            let (server, _) = listener.accept()?;
            drop(client);
            let (tid, fds) = (sys::gettid(), (listener.as_raw_fd(), server.as_raw_fd()));
            tell.send(format!("{port} {tid} {} {}", fds.0, fds.1))?;
            let _ = wait.recv();
            Ok(())
        });
        link.send(&said.recv()?)?;
        link.wait()?;
        drop(go);
        owner
            .join()
            .map_err(|_| anyhow::anyhow!("the thread panicked"))?
    })?;
    let said = child.link.recv()?;
    let numbers: Vec<i32> = said.split(' ').map(str::parse).collect::<Result<_, _>>()?;
    let [port, tid, listener, server] = numbers[..] else {
        anyhow::bail!("{said}");
    };
    let path = format!("/proc/{}/task/{tid}/fd/{listener}", child.pid);
    check!(
        fs::read_link(path)?
            .to_string_lossy()
            .starts_with("socket:["),
        "the thread's table"
    );
    let told = who(&port.to_string())?;
    check_eq!(told.len(), 2, "sockets: {told:?}");
    for (socket, fd) in told.iter().zip([listener, server]) {
        check_eq!(
            holders(&socket["holders"]),
            [(child.pid, fd)],
            "descriptors"
        );
        check_eq!(threads(&socket["holders"]), [(child.pid, tid)], "thread");
    }
    check_eq!(told[1]["sk_state"], "close_wait", "state of the connection");
    child.link.send("on")?;
    child.join()
}

fn connection_that_is_not_accepted() -> Result<()> {
    let us = sys::getpid();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let at = listener.local_addr()?;
    let client = TcpStream::connect(at)?;
    for word in [at.port().to_string(), at.to_string()] {
        let told = who(&word)?;
        check_eq!(told.len(), 2, "sockets of {word}: {told:?}");
        let waits = &told[1];
        check_eq!(waits["what"], "not_accepted", "what it is");
        check_eq!(waits["inode"], 0, "inode");
        check_eq!(
            holders(&waits["listener"]["holders"]),
            [(us, listener.as_raw_fd())],
            "listener"
        );
        check_eq!(
            holders(&waits["peer_holders"]),
            [(us, client.as_raw_fd())],
            "client"
        );
    }
    Ok(())
}

fn epoll_set_that_watches() -> Result<()> {
    let us = sys::getpid();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let set = sys::epoll_of(&listener)?;
    let told = only(listener.local_addr()?.port())?;
    check_eq!(
        holders(&told["watches"]),
        [(us, set.as_raw_fd())],
        "epoll sets"
    );
    check_eq!(
        holders(&told["holders"]),
        [(us, listener.as_raw_fd())],
        "descriptors"
    );
    check_eq!(told["unnamed"], 0, "a set holds nothing");
    Ok(())
}

fn mptcp_listener_and_its_subflow() -> Result<()> {
    const IPPROTO_MPTCP: i32 = 262;
    let listener: OwnedFd = sys::socket(libc::AF_INET, libc::SOCK_STREAM, IPPROTO_MPTCP)?;
    sys::bind(&listener, &sys::Address::loopback(0))?;
    sys::listen(&listener, 4)?;
    let port = sys::port_of(&listener)?;
    let told = who(&format!("127.0.0.1:{port}"))?;
    let what: BTreeSet<(String, String)> = told
        .iter()
        .map(|socket| {
            let word = |key: &str| socket[key].as_str().unwrap_or_default().to_owned();
            (word("protocol"), word("what"))
        })
        .collect();
    let pair = |one: &str, two: &str| (one.to_owned(), two.to_owned());
    check_eq!(
        what,
        BTreeSet::from([pair("mptcp", "socket"), pair("tcp", "subflow")]),
        "sockets"
    );
    let mptcp = told.iter().find(|socket| socket["protocol"] == "mptcp");
    let mptcp = mptcp.context("no MPTCP socket")?;
    check_eq!(mptcp["order"], 1, "it is the one that receives");
    check_eq!(
        holders(&mptcp["holders"]),
        [(sys::getpid(), listener.as_raw_fd())],
        "who"
    );
    Ok(())
}
