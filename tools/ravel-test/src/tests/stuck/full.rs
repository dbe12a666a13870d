// SPDX-License-Identifier: GPL-2.0
//! Queues that are full, and those who wait for room in them.

use std::fs;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{holders, of_ours, run, sockets_text};
use crate::process::Child;
use crate::report::own_socket;
use crate::sys::{self, Address, Pid};
use crate::tests::peers::wait_for;
use crate::{check, check_eq, tests};

tests!("stuck":
    full_datagram_queue_and_all_who_wait,
    full_unix_backlog_and_who_connects,
    full_tcp_backlog_and_who_connects,
    udp_queue_that_loses_packets,
    full_send_buffer_of_a_datagram_socket,
);

/// A child that does something for ever, once it sleeps in that system call.
fn sleeper(number: libc::c_long, call: impl FnOnce()) -> Result<Child> {
    let child = Child::spawn(|_| {
        call();
        bail!("it came back")
    })?;
    wait_for("the child's sleep", || Ok(call_of(child.pid)? == number))?;
    Ok(child)
}

/// The number of the system call that a process sleeps in; -1 if it runs.
fn call_of(pid: Pid) -> Result<libc::c_long> {
    let text = fs::read_to_string(format!("/proc/{pid}/syscall"))?;
    let number = text.split(' ').next().context("empty")?.trim().parse();
    Ok(number.unwrap_or(-1))
}

fn name(of: &str) -> Vec<u8> {
    format!("\0ravel-test full {of} {}", sys::getpid()).into_bytes()
}

fn unix(kind: i32) -> Result<OwnedFd> {
    Ok(sys::socket(libc::AF_UNIX, kind, 0)?)
}

/// (pid, system call) of those who wait, by pid.
fn blocked(of: &Value) -> Vec<(Pid, String)> {
    let list = of["blocked"].as_array().into_iter().flatten();
    let mut list: Vec<(Pid, String)> = list
        .map(|one| {
            let pid = one["pid"].as_i64().unwrap_or(-1) as Pid;
            (pid, one["call"].as_str().unwrap_or("").to_owned())
        })
        .collect();
    list.sort();
    list
}

/// Those who have a descriptor: this process, and its children, which fork() has given theirs.
fn with_children(fd: &impl AsRawFd, children: &[&Child]) -> Vec<(Pid, i32)> {
    let pids = children.iter().map(|child| child.pid);
    let mut all: Vec<Pid> = pids.chain([sys::getpid()]).collect();
    all.sort_unstable();
    all.into_iter().map(|pid| (pid, fd.as_raw_fd())).collect()
}

fn full_datagram_queue_and_all_who_wait() -> Result<()> {
    let daemon = unix(libc::SOCK_DGRAM)?;
    let address = Address::unix(&name("log"));
    sys::bind(&daemon, &address)?;
    check!(of_ours(&daemon)?.is_none(), "an empty queue");
    let mut children = vec![sleeper(libc::SYS_sendto, || {
        let from = unix(libc::SOCK_DGRAM).expect("a socket");
        while sys::send_to(&from, b"line", &address).is_ok() {}
    })?];
    children.push(sleeper(libc::SYS_sendto, || {
        let from = unix(libc::SOCK_DGRAM).expect("a socket");
        sys::connect(&from, &address).expect("connect()");
        while sys::send(&from, b"line", 0).is_ok() {}
    })?);
    children.push(sleeper(libc::SYS_poll, || {
        let from = unix(libc::SOCK_DGRAM).expect("a socket");
        sys::connect(&from, &address).expect("connect()");
        let _ = sys::poll(&from, libc::POLLOUT, -1);
    })?);
    let limit: u64 = fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen")?
        .trim()
        .parse()?;
    let told = of_ours(&daemon)?.context("not told")?;
    check_eq!(
        (&told["why"], &told["severity"]),
        (&json!("queue_full"), &json!("warning")),
        "why"
    );
    check_eq!(told["full"]["packets"], limit + 1, "packets");
    let all: Vec<&Child> = children.iter().collect();
    check_eq!(
        holders(&told["blame"]),
        with_children(&daemon, &all),
        "blame"
    );
    let mut want: Vec<(Pid, String)> = ["sendto", "sendto", "poll"]
        .iter()
        .zip(&children)
        .map(|(call, child)| (child.pid, (*call).to_owned()))
        .collect();
    want.sort();
    check_eq!(blocked(&told), want, "who waits");
    let text = run(&["--why", &own_socket(&daemon)?.0.inode.to_string()])?;
    for child in &children {
        check!(text.contains(&format!(" {} in ", child.pid)), "{text}");
    }
    // The remedy works: reads let all of them go on.
    drop(children.drain(..2));
    while sys::recv(&daemon, 100, libc::MSG_DONTWAIT).is_ok() {}
    wait_for("an empty queue", || Ok(of_ours(&daemon)?.is_none()))?;
    Ok(())
}

fn full_unix_backlog_and_who_connects() -> Result<()> {
    for kind in [libc::SOCK_STREAM, libc::SOCK_SEQPACKET] {
        let listener = unix(kind)?;
        let address = Address::unix(&name(&format!("backlog {kind}")));
        sys::bind(&listener, &address)?;
        sys::listen(&listener, 1)?;
        let mut kept = Vec::new();
        for room in [true, false] {
            let client = unix(kind)?;
            sys::connect(&client, &address)?;
            kept.push(client);
            check_eq!(of_ours(&listener)?.is_none(), room, "whether there is room");
        }
        let child = sleeper(libc::SYS_connect, || {
            let client = unix(kind).expect("a socket");
            let _ = sys::connect(&client, &address);
        })?;
        let told = of_ours(&listener)?.context("not told")?;
        check_eq!(told["why"], "backlog_full", "why");
        check_eq!(
            (&told["full"]["packets"], &told["full"]["backlog"]),
            (&json!(2), &json!(1)),
            "the accept queue"
        );
        check_eq!(
            told["waiting"],
            json!({"connections": 2, "closed": 0}),
            "queue"
        );
        check_eq!(
            holders(&told["blame"]),
            with_children(&listener, &[&child]),
            "blame"
        );
        check_eq!(
            blocked(&told),
            [(child.pid, "connect".to_owned())],
            "who waits"
        );
        let accepted = sys::accept(&listener)?;
        // It sleeps no more, and exits.
        wait_for("the third", || {
            let call = call_of(child.pid);
            Ok(call.map_or(true, |number| number != libc::SYS_connect))
        })?;
        drop((accepted, child));
    }
    Ok(())
}

fn full_tcp_backlog_and_who_connects() -> Result<()> {
    let listener = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    sys::bind(&listener, &Address::loopback(0))?;
    sys::listen(&listener, 0)?;
    let address = Address::loopback(sys::port_of(&listener)?);
    let first = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    sys::connect(&first, &address)?;
    wait_for("the queue", || Ok(own_socket(&listener)?.1.rx_packets == 1))?;
    let child = sleeper(libc::SYS_connect, || {
        let second = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0).expect("a socket");
        let _ = sys::connect(&second, &address);
    })?;
    wait_for("an overflow", || {
        let (_, detail) = own_socket(&listener)?;
        Ok(detail.memory.is_some_and(|memory| memory.drops > 0))
    })?;
    let told = of_ours(&listener)?.context("not told")?;
    check_eq!(told["why"], "backlog_full", "why");
    check_eq!(
        (&told["full"]["packets"], &told["full"]["backlog"]),
        (&json!(1), &json!(0)),
        "the accept queue"
    );
    check!(told["full"]["drops"].as_u64() >= Some(1), "{told:#?}");
    check_eq!(
        holders(&told["blame"]),
        with_children(&listener, &[&child]),
        "blame"
    );
    check_eq!(
        blocked(&told),
        [(child.pid, "connect".to_owned())],
        "who waits"
    );
    // The remedy.
    drop(sys::accept(&listener)?);
    wait_for("room", || {
        Ok(of_ours(&listener)?.is_none_or(|of| of["why"] != "backlog_full"))
    })
}

fn udp_queue_that_loses_packets() -> Result<()> {
    let us = sys::getpid();
    let to = UdpSocket::bind("127.0.0.1:0")?;
    let well = UdpSocket::bind("127.0.0.1:0")?;
    sys::set_option(&to, libc::SOL_SOCKET, libc::SO_RCVBUF, 8192)?;
    let from = UdpSocket::bind("127.0.0.1:0")?;
    for _ in 0..100 {
        from.send_to(&[7; 1000], to.local_addr()?)?;
    }
    from.send_to(b"ok", well.local_addr()?)?;
    // The kernel's own count, by /proc.
    let inode = own_socket(&to)?.0.inode.to_string();
    let lines = fs::read_to_string("/proc/net/udp")?;
    let line = lines
        .lines()
        .find(|line| line.split_whitespace().nth(9) == Some(&inode));
    let drops: u64 = line
        .and_then(|line| line.split_whitespace().nth(12))
        .context("no such socket")?
        .parse()?;
    check!(drops > 0, "nothing was lost");
    let told = of_ours(&to)?.context("not told")?;
    check_eq!(told["why"], "queue_full", "why");
    check_eq!(
        (
            &told["full"]["packets"],
            &told["full"]["drops"],
            &told["full"]["rcvbuf"]
        ),
        (&json!(100 - drops), &json!(drops), &json!(16384)),
        "packets, drops, buffer"
    );
    let rmem = sys::meminfo(&to)?[0];
    check_eq!(told["full"]["rmem"], rmem, "memory, by SO_MEMINFO");
    check_eq!(holders(&told["blame"]), [(us, to.as_raw_fd())], "blame");
    check!(of_ours(&well)?.is_none(), "one with room");
    let text = sockets_text()?;
    let said = format!("receive buffer full: {rmem} of 16384 bytes; {drops} packets dropped");
    check!(text.contains(&said), "{said} in {text}");
    // The remedy: what was lost stays counted, and the queue has room.
    let mut buffer = [0; 2000];
    to.set_nonblocking(true)?;
    while to.recv(&mut buffer).is_ok() {}
    check!(of_ours(&to)?.is_none(), "it has room");
    let text = sockets_text()?;
    check!(text.contains(&format!("{drops} packets dropped")), "{text}");
    Ok(())
}

fn full_send_buffer_of_a_datagram_socket() -> Result<()> {
    let us = sys::getpid();
    let (from, to) = sys::socketpair(libc::SOCK_DGRAM)?;
    sys::set_option(&from, libc::SOL_SOCKET, libc::SO_SNDBUF, 8192)?;
    let fd = from.as_raw_fd();
    let child = sleeper(libc::SYS_sendto, || {
        while sys::send(&fd, &[1; 4000], 0).is_ok() {}
    })?;
    drop(from);
    let (socket, _) = own_socket(&to)?;
    let all = super::stuck_over(&[])?;
    let told = all
        .iter()
        .find(|of| blocked(of) == [(child.pid, "sendto".to_owned())])
        .with_context(|| format!("nobody waits in {all:#?}"))?;
    // Either the packets or their memory are the limit: the reader has to act in both cases.
    check!(
        told["inode"] == socket.inode || told["why"] == "no_room",
        "{told:#?}"
    );
    check_eq!(holders(&told["blame"])[0].0, us, "blame");
    Ok(())
}
