// SPDX-License-Identifier: GPL-2.0
//! `ravel stuck`: connections that do not end, whose doing it is, and whether what is said to free them does.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ravel_records::SkState;
use serde_json::Value;

use super::peers::{fill, full_pair, pair, wait_bytes, wait_for};
use crate::process::Child;
use crate::report::own_socket;
use crate::sys::{self, Pid};
use crate::{check, check_eq, tests, tier};

pub(super) mod elsewhere;
mod full;
mod identity;
mod one;
mod watch;
pub use elsewhere::TESTS as ELSEWHERE;
use elsewhere::{Wire, elsewhere};
pub use full::TESTS as FULL;
pub use identity::TESTS as IDENTITY;
pub use one::TESTS as ONE;
pub use watch::TESTS as WATCH;

tests!("stuck":
    close_wait_is_freed_by_its_last_holder,
    shutdown_by_one_frees_for_all,
    half_closed_by_this_side_is_told_with_the_other,
    over_and_still_open,
    gone_before_accept,
    closed_and_not_acknowledged,
    unread_and_no_room,
    shared_by_processes_and_messages,
    unheld_is_in_a_message,
    same_addresses_in_many_namespaces,
    what_moves_is_left_out_over_a_time,
    open_connections_are_not_told,
    text_has_the_blame_and_the_remedy,
);

/// How long the kernel may take for what it does at once.
const PATIENCE: Duration = Duration::from_secs(10);

fn run(words: &[&str]) -> Result<String> {
    let out = Command::new(crate::module::beside("ravel")?)
        .arg("stuck")
        .args(words)
        .output()?;
    let errors = String::from_utf8_lossy(&out.stderr);
    check!(out.status.success(), "ravel stuck {words:?}: {errors}");
    Ok(String::from_utf8(out.stdout)?)
}

/// What `ravel sockets` shows of this process.
fn sockets_text() -> Result<String> {
    let out = Command::new(crate::module::beside("ravel")?)
        .args(["sockets", "--all", "--wide", &sys::getpid().to_string()])
        .output()?;
    let errors = String::from_utf8_lossy(&out.stderr);
    check!(out.status.success(), "ravel sockets: {errors}");
    Ok(String::from_utf8(out.stdout)?)
}

/// All that is stuck.
fn stuck_over(words: &[&str]) -> Result<Vec<Value>> {
    let answer: Value = serde_json::from_str(&run(&[&["--json"], words].concat())?)?;
    let list = answer["stuck"].as_array().context("nothing in it")?;
    Ok(list.clone())
}

/// What is told of connections with a port at either end, in our network namespace or another.
fn with_port(port: u16) -> Result<Vec<Value>> {
    let mut told = stuck_over(&[])?;
    let end = format!(":{port}");
    let has = |of: &Value, key: &str| of[key].as_str().is_some_and(|text| text.ends_with(&end));
    told.retain(|of| has(of, "local") || has(of, "remote"));
    Ok(told)
}

/// The only one with a port.
fn only(port: u16) -> Result<Value> {
    let told = with_port(port)?;
    check_eq!(told.len(), 1, "connections of port {port}: {told:#?}");
    Ok(told[0].clone())
}

/// What is told of one of our own sockets.
fn of_ours(fd: &impl AsRawFd) -> Result<Option<Value>> {
    let inode = own_socket(fd)?.0.inode;
    Ok(stuck_over(&[])?.into_iter().find(|of| of["inode"] == inode))
}

/// (pid, descriptor) of each holder.
fn holders(list: &Value) -> Vec<(Pid, i32)> {
    let number = |value: &Value| value.as_i64().unwrap_or(-1) as i32;
    let list = list.as_array().into_iter().flatten();
    list.map(|holder| (number(&holder["pid"]), number(&holder["fd"])))
        .collect()
}

/// Waits for a state of one of our sockets.
fn wait_state(fd: &impl AsRawFd, state: SkState) -> Result<()> {
    wait_for(&format!("{state}"), || {
        Ok(own_socket(fd)?.1.sk_state == state)
    })
}

/// Waits until one end has FIN, and the other one knows.
fn wait_half_closed(one: &impl AsRawFd, other: &impl AsRawFd) -> Result<()> {
    wait_state(other, SkState::CloseWait)?;
    wait_state(one, SkState::FinWait2)
}

fn close_wait_is_freed_by_its_last_holder() -> Result<()> {
    let us = sys::getpid();
    let (client, server) = pair()?;
    let port = client.local_addr()?.port();
    let fd = server.as_raw_fd();
    client.set_read_timeout(Some(PATIENCE))?;
    // Those that have the server's end besides us: one of them twice.
    let child = Child::spawn(|link| {
        let copy = server.try_clone()?;
        link.send(&copy.as_raw_fd().to_string())?;
        link.wait()?;
        Ok(())
    });
    let mut child = child?;
    let copy: i32 = child.link.recv()?.parse()?;
    // The child has the client's end, too: it must not hold that open.
    let told = stuck_over(&[])?;
    check!(
        told.iter().all(|of| of["why"] != "close_wait"),
        "before any FIN: {told:#?}"
    );
    client.shutdown(Shutdown::Write)?;
    wait_half_closed(&client, &server)?;
    let told = only(port)?;
    check_eq!(told["why"], "close_wait", "why");
    let mut want = vec![(us, fd), (child.pid, fd), (child.pid, copy)];
    want.sort_unstable();
    check_eq!(holders(&told["holders"]), want, "holders");
    check_eq!(holders(&told["blame"]), want, "blame");
    check_eq!(told["unnamed"], 0, "references not named");
    check_eq!(told["other_end"]["state"], "fin_wait2", "other end");
    let theirs = vec![(us, client.as_raw_fd()), (child.pid, client.as_raw_fd())];
    let mut other = holders(&told["other_end"]["holders"]);
    other.sort_unstable();
    let mut theirs_sorted = theirs.clone();
    theirs_sorted.sort_unstable();
    check_eq!(other, theirs_sorted, "holders of the other end");
    // One of them closes, and nothing happens; the last one does, and it is over.
    drop(server);
    let told = only(port)?;
    check_eq!(told["why"], "close_wait", "after one of two has closed");
    let mut want = vec![(child.pid, fd), (child.pid, copy)];
    want.sort_unstable();
    check_eq!(holders(&told["blame"]), want, "blame then");
    child.kill()?;
    // What is left then is ours: the connection is over, and the client's descriptor still open.
    wait_for("the end", || {
        let told = with_port(port)?;
        Ok(told.len() == 1 && told[0]["why"] == "over")
    })?;
    check_eq!(
        holders(&only(port)?["blame"]),
        [(us, client.as_raw_fd())],
        "blame at the end"
    );
    let mut rest = [0; 1];
    check_eq!(
        (&client).read(&mut rest)?,
        0,
        "the end that the client reads"
    );
    Ok(())
}

fn shutdown_by_one_frees_for_all() -> Result<()> {
    let (client, server) = pair()?;
    let port = client.local_addr()?.port();
    let mut child = Child::idle()?;
    client.shutdown(Shutdown::Write)?;
    wait_half_closed(&client, &server)?;
    let told = only(port)?;
    let said = told["text"]["remedy"].as_str().unwrap_or_default();
    check!(said.contains("shutdown(WR) by any of them"), "{said}");
    server.shutdown(Shutdown::Write)?;
    wait_for("an end of CLOSE_WAIT", || {
        Ok(with_port(port)?.iter().all(|of| of["why"] != "close_wait"))
    })?;
    child.kill()
}

fn half_closed_by_this_side_is_told_with_the_other() -> Result<()> {
    let (mut client, server) = pair()?;
    let port = client.local_addr()?.port();
    client.write_all(b"hello")?;
    client.shutdown(Shutdown::Write)?;
    wait_half_closed(&client, &server)?;
    let told = only(port)?;
    check_eq!(
        (&told["why"], &told["unread"]),
        (&Value::from("close_wait"), &Value::from(5)),
        "what is told once"
    );
    check_eq!(told["inode"], own_socket(&server)?.0.inode, "which end");
    let said = told["text"]["remedy"].as_str().unwrap_or_default();
    check!(said.contains("5 bytes are unread"), "{said}");
    // Nobody has the client's end: the kernel takes it away after a time, the server's stays.
    drop(client);
    wait_for("an orphan", || Ok(only(port)?["other_end"]["inode"] == 0))?;
    let end = only(port)?["other_end"].clone();
    check_eq!(end["state"], "fin_wait2", "state of the orphan");
    let ms = end["ends_ms"].as_u64().context("no end")?;
    check!((50_000..=60_000).contains(&ms), "it ends in {ms} ms");
    Ok(())
}

fn over_and_still_open() -> Result<()> {
    let us = sys::getpid();
    let (one, two) = pair()?;
    sys::set_linger(&two, true, 0)?;
    drop(two);
    wait_state(&one, SkState::Close)?;
    let (pair_one, pair_two) = sys::socketpair(libc::SOCK_STREAM)?;
    drop(pair_two);
    let (open_one, open_two) = sys::socketpair(libc::SOCK_SEQPACKET)?;
    sys::shutdown(&open_one, libc::SHUT_RDWR)?;
    for fd in [one.as_raw_fd(), pair_one.as_raw_fd()] {
        let told = of_ours(&fd)?.context("not told")?;
        check_eq!(told["why"], "over", "why");
        check_eq!(holders(&told["blame"]), [(us, fd)], "blame");
    }
    let both = [of_ours(&open_one)?, of_ours(&open_two)?];
    let both: Vec<&Value> = both.iter().flatten().collect();
    check_eq!(both.len(), 1, "one of two ends: {both:?}");
    check_eq!(both[0]["why"], "over", "why");
    // Half of one: the end that reads no more is told, and that nobody knows who did it.
    let (half_one, half_two) = sys::socketpair(libc::SOCK_STREAM)?;
    sys::shutdown(&half_one, libc::SHUT_WR)?;
    check!(of_ours(&half_one)?.is_none(), "the end that shut down");
    let told = of_ours(&half_two)?.context("not told")?;
    check_eq!(told["why"], "half_closed", "why");
    let other = holders(&told["other_end"]["holders"]);
    check_eq!(other, [(us, half_one.as_raw_fd())], "other end");
    Ok(())
}

fn gone_before_accept() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let mut clients: Vec<TcpStream> = (0..3)
        .map(|_| Ok(TcpStream::connect(address)?))
        .collect::<Result<_>>()?;
    check!(of_ours(&listener)?.is_none(), "before anybody has gone");
    clients[1].shutdown(Shutdown::Write)?;
    drop(clients.pop());
    wait_for("both", || {
        Ok(of_ours(&listener)?
            .is_some_and(|of| of["waiting"] == serde_json::json!({"connections": 3, "closed": 2})))
    })?;
    // The clients' own ends are told with it, not once more.
    let told = only(address.port())?;
    check_eq!(told["why"], "not_accepted", "why");
    let us = vec![(sys::getpid(), listener.as_raw_fd())];
    check_eq!(holders(&told["blame"]), us, "blame");
    let accepted: Vec<_> = (0..3).map(|_| listener.accept()).collect();
    let told = with_port(address.port())?;
    check!(
        told.iter().all(|of| of["why"] == "close_wait") && told.len() == 2,
        "once they are accepted: {told:#?}"
    );
    drop(accepted);

    let name = format!("\0ravel-test stuck {}", sys::getpid());
    let unix = sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    let address = sys::Address::unix(name.as_bytes());
    sys::bind(&unix, &address)?;
    sys::listen(&unix, 4)?;
    let client = sys::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    sys::connect(&client, &address)?;
    check!(of_ours(&unix)?.is_none(), "before it has gone");
    drop(client);
    let told = of_ours(&unix)?.context("not told")?;
    check_eq!(
        (&told["why"], &told["waiting"]),
        (
            &Value::from("not_accepted"),
            &serde_json::json!({"connections": 1, "closed": 1})
        ),
        "a unix listener"
    );
    Ok(())
}

fn closed_and_not_acknowledged() -> Result<()> {
    let us = sys::getpid();
    let (one, mut two, written) = full_pair()?;
    let port = one.local_addr()?.port();
    one.shutdown(Shutdown::Write)?;
    let told = of_ours(&one)?.context("not told")?;
    check_eq!(
        (&told["why"], &told["sk_state"]),
        (&Value::from("unacknowledged"), &Value::from("fin_wait1")),
        "shut down behind a closed window"
    );
    let theirs = vec![(us, two.as_raw_fd())];
    check_eq!(holders(&told["blame"]), theirs, "who would have to read");
    drop(one);
    let orphan = || -> Result<Option<Value>> {
        let all = with_port(port)?;
        Ok(all.into_iter().find(|of| of["why"] == "unacknowledged"))
    };
    let mut told = None;
    wait_for("an orphan", || {
        told = orphan()?.filter(|of| of["inode"] == 0);
        Ok(told.is_some())
    })?;
    let told = told.context("none")?;
    check_eq!(holders(&told["blame"]), theirs, "who would have to read");
    let left = told["unacknowledged"].as_u64().context("no number")?;
    let there = own_socket(&two)?.1.rx_bytes;
    check_eq!(left + there, written, "bytes on both sides");
    // What is said to free it does.
    let mut all = Vec::new();
    two.set_read_timeout(Some(PATIENCE))?;
    two.read_to_end(&mut all)?;
    check_eq!(all.len() as u64, written, "bytes read");
    wait_for("its end", || Ok(orphan()?.is_none()))
}

fn unread_and_no_room() -> Result<()> {
    let us = sys::getpid();
    let (one, two, _) = full_pair()?;
    let port = one.local_addr()?.port();
    // A probe of the full window may carry some more in.
    let mut told = None;
    wait_for("what stands still", || {
        let unread = || -> Result<_> { Ok(own_socket(&two)?.1.rx_bytes) };
        let (before, seen) = (unread()?, only(port)?);
        told = (before == unread()?).then_some((before, seen));
        Ok(told.is_some())
    })?;
    let (unread, told) = told.context("it moves")?;
    check_eq!(told["why"], "unread", "why");
    let reader = vec![(us, two.as_raw_fd())];
    check_eq!(holders(&told["blame"]), reader, "who would have to read");
    check_eq!(told["unread"], unread, "unread bytes");
    let writer = holders(&told["other_end"]["holders"]);
    check_eq!(writer, [(us, one.as_raw_fd())], "who waits for room");
    // Toward another network namespace, the end there is shown, which would have to read.
    elsewhere(|| {
        let mut wire = Wire::lay()?;
        let (mut stream, fd) = wire.connect()?;
        let local = stream.local_addr()?.to_string();
        fill(&mut stream)?;
        let mut told = None;
        wait_for("a closed window", || {
            let waits = own_socket(&stream)?.1.tcp.is_some_and(|tcp| tcp.unsent > 0);
            let all = stuck_over(&[])?;
            told = all.into_iter().find(|of| of["remote"] == *local);
            Ok(waits && told.is_some())
        })?;
        let told = told.context("none")?;
        check_eq!(told["why"], "unread", "why");
        check_eq!(holders(&told["blame"]), [(wire.there.pid, fd)], "blame");
        Ok(())
    })?;
    let (from, to) = sys::socketpair(libc::SOCK_STREAM)?;
    check!(of_ours(&to)?.is_none(), "an empty pair");
    sys::send(&from, b"abc", 0)?;
    let told = of_ours(&to)?.context("not told")?;
    check_eq!(
        (&told["why"], &told["unread"]),
        (&Value::from("unread"), &Value::from(3)),
        "a pair with bytes"
    );
    Ok(())
}

fn shared_by_processes_and_messages() -> Result<()> {
    let us = sys::getpid();
    let (one, two) = pair()?;
    check!(of_ours(&one)?.is_none(), "one process has it");
    let twice = one.try_clone()?;
    check!(of_ours(&one)?.is_none(), "one process has it twice");
    drop(twice);
    let mut child = Child::idle()?;
    let told = of_ours(&one)?.context("not told")?;
    check_eq!(told["why"], "shared", "why");
    let fd = one.as_raw_fd();
    check_eq!(
        holders(&told["blame"]),
        [(us, fd), (child.pid, fd)],
        "blame"
    );
    child.kill()?;
    check!(of_ours(&one)?.is_none(), "one process has it again");
    // On its way to somebody.
    let (to, from): (OwnedFd, OwnedFd) = sys::socketpair(libc::SOCK_STREAM)?;
    sys::send_descriptor(&to, &two)?;
    let told = of_ours(&two)?.context("not told")?;
    check_eq!(told["why"], "shared", "why");
    check_eq!(
        holders(&told["others"]),
        [(us, from.as_raw_fd())],
        "message"
    );
    let said = told["text"]["remedy"].as_str().unwrap_or_default();
    check!(said.contains("in unread messages of unix socket"), "{said}");
    Ok(())
}

fn unheld_is_in_a_message() -> Result<()> {
    let (one, two) = pair()?;
    let port = one.local_addr()?.port();
    let inode = own_socket(&two)?.0.inode;
    let (to, from): (OwnedFd, OwnedFd) = sys::socketpair(libc::SOCK_STREAM)?;
    sys::send_descriptor(&to, &two)?;
    drop(two);
    let find = || -> Result<Option<Value>> {
        let all = with_port(port)?;
        Ok(all.into_iter().find(|of| of["why"] == "unheld"))
    };
    let told = find()?.context("not told while it is open")?;
    check_eq!(
        (&told["inode"], &told["sk_state"]),
        (&Value::from(inode), &Value::from("established")),
        "which"
    );
    one.shutdown(Shutdown::Write)?;
    wait_for("CLOSE_WAIT", || {
        Ok(find()?.is_some_and(|of| of["sk_state"] == "close_wait"))
    })?;
    drop((to, from));
    wait_for("its end", || Ok(find()?.is_none()))
}

fn same_addresses_in_many_namespaces() -> Result<()> {
    const NAMESPACES: usize = 5;
    let mut children = Vec::new();
    for _ in 0..NAMESPACES {
        let mut child = Child::spawn(|link| {
            sys::unshare(libc::CLONE_NEWNET)?;
            sys::loopback_up()?;
            let listener = TcpListener::bind("127.0.0.1:7000")?;
            let client = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
            sys::bind(&client, &sys::Address::loopback(7001))?;
            sys::connect(&client, &sys::Address::loopback(7000))?;
            let (server, _) = listener.accept()?;
            drop(client);
            wait_state(&server, SkState::CloseWait)?;
            let (socket, _) = own_socket(&server)?;
            link.send(&format!(
                "{} {} {}",
                server.as_raw_fd(),
                socket.inode,
                socket.netns
            ))?;
            link.wait().map(drop)
        })?;
        let words = child.link.recv()?;
        let numbers: Vec<u64> = words
            .split(' ')
            .map(|word| Ok(word.parse()?))
            .collect::<Result<_>>()?;
        children.push((child, numbers));
    }
    let told: Vec<Value> = with_port(7001)?;
    check_eq!(told.len(), NAMESPACES, "connections: {told:#?}");
    for (child, numbers) in &children {
        let of: Vec<&Value> = told.iter().filter(|of| of["netns"] == numbers[2]).collect();
        check_eq!(of.len(), 1, "in namespace {}", numbers[2]);
        check_eq!(of[0]["why"], "close_wait", "why");
        check_eq!(of[0]["inode"], numbers[1], "inode");
        check_eq!(
            holders(&of[0]["blame"]),
            [(child.pid, numbers[0] as i32)],
            "blame"
        );
        check_eq!(of[0]["other_end"]["inode"], 0, "an orphan at the other end");
        check!(of[0]["other_end"]["ends_ms"].is_u64(), "{:?}", of[0]);
    }
    Ok(())
}

fn what_moves_is_left_out_over_a_time() -> Result<()> {
    let (still, _peer) = {
        let (mut one, two) = pair()?;
        one.write_all(b"12345")?;
        wait_bytes(&two, 5)?;
        (two, one)
    };
    let (mut one, two) = pair()?;
    let inode = own_socket(&two)?.0.inode;
    let looked = AtomicBool::new(false);
    let looked = &looked;
    std::thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(move || -> Result<()> {
            // More waits with every moment, until all have been looked at, or it was in vain.
            let end = Instant::now() + tier::patience(20);
            while !looked.load(Ordering::Relaxed) && Instant::now() < end {
                one.write_all(b"x")?;
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok(())
        });
        wait_for("the first byte", || Ok(own_socket(&two)?.1.rx_bytes > 0))?;
        let at_once = stuck_over(&[])?;
        let told = stuck_over(&["--over", "2"])?;
        looked.store(true, Ordering::Relaxed);
        let has = |list: &[Value], inode: u64| list.iter().any(|of| of["inode"] == inode);
        check!(has(&at_once, inode), "it is not told at once");
        check!(!has(&told, inode), "what moves is told");
        check!(
            has(&told, own_socket(&still)?.0.inode),
            "what stands still is not told"
        );
        writer.join().map_err(|_| anyhow::anyhow!("it panicked"))?
    })
}

fn open_connections_are_not_told() -> Result<()> {
    let tcp = pair()?;
    let unix = sys::socketpair(libc::SOCK_STREAM)?;
    let dgram = sys::socketpair(libc::SOCK_DGRAM)?;
    sys::send(&dgram.0, b"x", 0)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let _waits = TcpStream::connect(listener.local_addr()?)?;
    let fresh = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    for fd in [
        tcp.0.as_raw_fd(),
        tcp.1.as_raw_fd(),
        unix.0.as_raw_fd(),
        unix.1.as_raw_fd(),
        dgram.0.as_raw_fd(),
        dgram.1.as_raw_fd(),
        listener.as_raw_fd(),
        fresh.as_raw_fd(),
    ] {
        let told = of_ours(&fd)?;
        check!(told.is_none(), "descriptor {fd}: {told:#?}");
    }
    Ok(())
}

fn text_has_the_blame_and_the_remedy() -> Result<()> {
    let (client, server) = pair()?;
    let port = client.local_addr()?.port();
    drop(client);
    wait_state(&server, SkState::CloseWait)?;
    let table = run(&["--port", &port.to_string()])?;
    let (first, rest) = table.split_once('\n').context("one line")?;
    check!(first.starts_with("1 critical among "), "{table}");
    check!(
        rest.contains("close-wait")
            && rest.contains("close (sends FIN)")
            && rest.contains("ravel stuck --why"),
        "{table}"
    );
    let text = run(&["--why", "--all"])?;
    let us = format!("{} fd {}", sys::getpid(), server.as_raw_fd());
    let lines: Vec<&str> = text.lines().collect();
    let at = lines
        .iter()
        .position(|line| line.contains(&format!("127.0.0.1:{port}  tcp CLOSE_WAIT")))
        .with_context(|| text.clone())?;
    check!(
        lines[at].contains("FIN_WAIT2, which no process has open, removed in "),
        "{text}"
    );
    check!(
        lines[at + 1].contains("responsible") && lines[at + 1].contains(&us),
        "{text}"
    );
    check!(
        lines[at + 2].contains("remedy") && lines[at + 2].contains("sends FIN"),
        "{text}"
    );
    check!(text.contains("close wait: "), "{text}");
    Ok(())
}
