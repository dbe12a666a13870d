// SPDX-License-Identifier: GPL-2.0
//! What textbooks say of close() and shutdown(), each tried: src/report/CLAIMS.md has the table.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use ravel_records::{Effect, Fin, Operation, Shutdown, SkState, Verdict, Why};

use super::peers::{full_pair, pair, wait_bytes, wait_for};
use crate::process::Child;
use crate::report::{own_socket, socket, sockets};
use crate::sys;
use crate::{check, check_eq, tests};

tests!("claims":
    shutdown_ends_the_connection_and_not_the_descriptor,
    close_drops_a_reference_and_the_last_one_ends_it,
    shutdown_acts_on_all_who_share_and_close_does_not,
    close_does_not_lose_what_is_queued,
    shutdown_wr_sends_what_is_queued_and_then_fin,
    what_arrives_after_shut_rd_is_not_discarded,
    close_with_unread_bytes_resets,
    answer_before_a_reset_can_still_be_read,
    linger_of_0_resets_on_close_and_not_on_shutdown,
    write_after_a_reset_gives_epipe,
    who_sends_fin_first_ends_in_time_wait,
    late_echo_comes_after_shut_wr_and_not_after_close,
);

/// What is foreseen for an operation.
fn verdict(fd: &impl AsRawFd, operation: Operation) -> Result<Verdict> {
    let (socket, _) = own_socket(fd)?;
    let verdicts = socket.verdicts().context("no verdicts")?;
    let of = verdicts.into_iter().find(|of| of.operation == operation);
    of.context("no verdict")
}

/// The errno of a recv() that must not wait; the bytes it gave.
fn recv(fd: &impl AsRawFd) -> Result<usize, i32> {
    sys::recv(fd, 1000, libc::MSG_DONTWAIT)
        .map(|data| data.len())
        .map_err(|error| sys::errno(&error))
}

fn send(fd: &impl AsRawFd) -> Result<usize, i32> {
    sys::send(fd, b"late", libc::MSG_DONTWAIT).map_err(|error| sys::errno(&error))
}

fn comes(fd: &impl AsRawFd) -> Result<()> {
    check!(sys::poll(fd, libc::POLLIN, 5000)?, "nothing comes");
    Ok(())
}

/// The states of sockets that are bound to a port and connected to another, by /proc/net/tcp.
fn states(local: u16, remote: u16) -> Result<Vec<String>> {
    let ends = (format!(":{local:04X}"), format!(":{remote:04X}"));
    let table = fs::read_to_string("/proc/net/tcp")?;
    let words = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    Ok(words
        .filter(|words| words[1].ends_with(&ends.0) && words[2].ends_with(&ends.1))
        .map(|words| words[3].to_owned())
        .collect())
}

const TIME_WAIT: &str = "06";

fn shutdown_ends_the_connection_and_not_the_descriptor() -> Result<()> {
    let (one, two) = pair()?;
    let before = own_socket(&one)?.0;
    sys::shutdown(&one, libc::SHUT_RDWR)?;
    comes(&two)?;
    check_eq!(recv(&two), Ok(0), "what the peer reads");
    let (after, detail) = own_socket(&one)?;
    check_eq!((after.id, after.inode), (before.id, before.inode), "socket");
    check_eq!(after.file_refs, 1, "references");
    check_eq!(detail.shutdown, Shutdown::RdWr, "shutdown");
    let link = fs::read_link(format!("/proc/self/fd/{}", one.as_raw_fd()))?;
    check_eq!(
        link.to_string_lossy(),
        format!("socket:[{}]", after.inode),
        "descriptor"
    );
    Ok(())
}

fn close_drops_a_reference_and_the_last_one_ends_it() -> Result<()> {
    let (one, two) = pair()?;
    let copy = one.try_clone()?;
    let foreseen = verdict(&one, Operation::Close)?;
    check_eq!(
        foreseen.effect,
        Effect::Drops { of: 2 },
        "what close() would do"
    );
    drop(one);
    check!(!sys::poll(&two, libc::POLLIN, 100)?, "the peer hears of it");
    let (socket, detail) = own_socket(&copy)?;
    check_eq!(socket.file_refs, 1, "references");
    check_eq!(detail.sk_state, SkState::Established, "state");
    let foreseen = verdict(&copy, Operation::Close)?;
    check!(
        matches!(foreseen.effect, Effect::Fin { .. }),
        "{foreseen:?}"
    );
    drop(copy);
    comes(&two)?;
    check_eq!(recv(&two), Ok(0), "what the peer reads");
    Ok(())
}

fn shutdown_acts_on_all_who_share_and_close_does_not() -> Result<()> {
    for shuts in [false, true] {
        let (one, two) = pair()?;
        let mut child = Child::spawn(|link| {
            link.wait()?;
            let answer = send(&one).map_or_else(|errno| errno, |_| 0);
            link.send(&answer.to_string())
        })?;
        let fd = one.as_raw_fd();
        if shuts {
            sys::shutdown(&one, libc::SHUT_WR)?;
        }
        drop(one);
        let report = sockets(child.pid)?;
        let shared = socket(&report, &fd)?;
        let shutdown = shared.detail.as_ref().map(|detail| &detail.shutdown);
        let want = if shuts { Shutdown::Wr } else { Shutdown::None };
        check_eq!(shutdown, Some(&want), "shutdown, in the child's report");
        child.link.send("send")?;
        let errno = if shuts { libc::EPIPE } else { 0 };
        check_eq!(
            child.link.recv()?,
            errno.to_string(),
            "errno of the child's send()"
        );
        comes(&two)?;
        check_eq!(
            recv(&two),
            Ok(if shuts { 0 } else { 4 }),
            "what the peer reads"
        );
        child.join()?;
    }
    Ok(())
}

/// Reads all until the end of file: how many bytes.
fn drain(mut from: TcpStream) -> Result<u64> {
    let (mut total, mut data) = (0, vec![0; 64 << 10]);
    loop {
        match from.read(&mut data)? {
            0 => return Ok(total),
            bytes => total += bytes as u64,
        }
    }
}

fn close_does_not_lose_what_is_queued() -> Result<()> {
    let (one, two, written) = full_pair()?;
    let tcp = own_socket(&one)?.1.tcp.context("no TCP in it")?;
    check!(tcp.unsent > 0, "all was sent");
    drop(one);
    check_eq!(
        drain(two)?,
        written,
        "bytes that the peer reads, then end of file"
    );
    Ok(())
}

fn shutdown_wr_sends_what_is_queued_and_then_fin() -> Result<()> {
    let (one, two, written) = full_pair()?;
    sys::shutdown(&one, libc::SHUT_WR)?;
    let tcp = own_socket(&one)?.1.tcp.context("no TCP in it")?;
    check!(tcp.unsent > 0, "all was sent");
    check_eq!(tcp.fin, Fin::Queued, "FIN");
    check_eq!(
        drain(two)?,
        written,
        "bytes that the peer reads, then end of file"
    );
    Ok(())
}

fn what_arrives_after_shut_rd_is_not_discarded() -> Result<()> {
    let (one, two) = pair()?;
    sys::shutdown(&one, libc::SHUT_RD)?;
    check_eq!(recv(&one), Ok(0), "a read with nothing there");
    check_eq!(send(&two), Ok(4), "the peer's write");
    wait_bytes(&one, 4)?;
    check_eq!(own_socket(&one)?.1.shutdown, Shutdown::Rd, "shutdown");
    check_eq!(recv(&one), Ok(4), "a read then");
    check_eq!(recv(&one), Ok(0), "a read behind that");
    Ok(())
}

fn close_with_unread_bytes_resets() -> Result<()> {
    let (one, two) = pair()?;
    send(&two).ok();
    wait_bytes(&one, 4)?;
    let foreseen = verdict(&one, Operation::Close)?;
    check!(
        matches!(foreseen.effect, Effect::Reset { why: Why::Unread }),
        "{foreseen:?}"
    );
    drop(one);
    comes(&two)?;
    check_eq!(own_socket(&two)?.1.err, libc::ECONNRESET, "pending error");
    check_eq!(recv(&two), Err(libc::ECONNRESET), "what the peer reads");
    Ok(())
}

fn answer_before_a_reset_can_still_be_read() -> Result<()> {
    for writes_first in [false, true] {
        let (server, client) = pair()?;
        check_eq!(send(&client), Ok(4), "the request");
        wait_bytes(&server, 4)?;
        check_eq!(send(&server), Ok(4), "the answer");
        wait_bytes(&client, 4)?;
        let foreseen = verdict(&server, Operation::Close)?;
        let peer = foreseen.peer.context("no peer is foreseen")?;
        drop(server);
        wait_for("the reset", || Ok(own_socket(&client)?.1.err != 0))?;
        let (wrote, read) = match writes_first {
            true => {
                let wrote = [send(&client), send(&client)];
                (wrote, [recv(&client), recv(&client), recv(&client)])
            }
            false => {
                let read = [recv(&client), recv(&client), recv(&client)];
                ([send(&client), send(&client)], read)
            }
        };
        let errno = |result: Result<usize, i32>| result.err().unwrap_or(0);
        let (want, seen) = match writes_first {
            true => (peer.write_first.writes, [Ok(4), Ok(0), Ok(0)]),
            false => (peer.writes, [Ok(4), Err(libc::ECONNRESET), Ok(0)]),
        };
        check_eq!(wrote.map(errno), want, "writes, {writes_first} first");
        check_eq!(read, seen, "reads");
    }
    Ok(())
}

fn linger_of_0_resets_on_close_and_not_on_shutdown() -> Result<()> {
    let (one, two) = pair()?;
    let ports = (sys::port_of(&one)?, sys::port_of(&two)?);
    sys::set_linger(&one, true, 0)?;
    sys::shutdown(&one, libc::SHUT_WR)?;
    comes(&two)?;
    check_eq!(recv(&two), Ok(0), "what the peer reads after shutdown()");
    wait_for("the FIN's acknowledgement", || {
        Ok(own_socket(&one)?.1.sk_state == SkState::FinWait2)
    })?;
    let foreseen = verdict(&one, Operation::Close)?;
    check!(
        matches!(foreseen.effect, Effect::Reset { why: Why::Linger }),
        "{foreseen:?}"
    );
    drop(one);
    wait_for("the reset", || {
        Ok(own_socket(&two)?.1.sk_state == SkState::Close)
    })?;
    check_eq!(states(ports.0, ports.1)?, [""; 0], "what is left of it");
    Ok(())
}

fn write_after_a_reset_gives_epipe() -> Result<()> {
    let (one, two) = pair()?;
    drop(two);
    comes(&one)?;
    check_eq!(recv(&one), Ok(0), "a read after the FIN");
    check_eq!(send(&one), Ok(4), "the first write, which RST answers");
    wait_for("the reset", || {
        Ok(own_socket(&one)?.1.sk_state == SkState::Close)
    })?;
    check_eq!(own_socket(&one)?.1.err, libc::EPIPE, "pending error");
    check_eq!(send(&one), Err(libc::EPIPE), "the second write");
    let mut child = Child::spawn(|link| {
        sys::default_signal(libc::SIGPIPE)?;
        link.wait()?;
        // By write(): a TcpStream sends with MSG_NOSIGNAL.
        Ok(sys::file_from(one.as_raw_fd()).write_all(b"late")?)
    })?;
    child.link.send("write")?;
    check_eq!(
        child.end_by(0)?,
        Err(libc::SIGPIPE),
        "how a writer ends that does not ignore SIGPIPE"
    );
    Ok(())
}

fn who_sends_fin_first_ends_in_time_wait() -> Result<()> {
    let (one, two) = pair()?;
    let ports = (sys::port_of(&one)?, sys::port_of(&two)?);
    sys::shutdown(&one, libc::SHUT_WR)?;
    wait_for("the FIN", || {
        Ok(own_socket(&two)?.1.sk_state == SkState::CloseWait)
    })?;
    drop(two);
    wait_for("the end", || {
        Ok(own_socket(&one)?.1.sk_state == SkState::Close)
    })?;
    check_eq!(states(ports.0, ports.1)?, [TIME_WAIT], "who was first");
    check_eq!(states(ports.1, ports.0)?, [""; 0], "who was second");
    Ok(())
}

fn late_echo_comes_after_shut_wr_and_not_after_close() -> Result<()> {
    let (mut client, mut server) = pair()?;
    client.write_all(b"echo")?;
    sys::shutdown(&client, libc::SHUT_WR)?;
    let mut heard = Vec::new();
    server.read_to_end(&mut heard)?;
    check_eq!(heard, b"echo", "what the server reads up to the FIN");
    wait_for("the acknowledgement of the FIN", || {
        Ok(own_socket(&client)?.1.sk_state == SkState::FinWait2)
    })?;
    check_eq!(own_socket(&client)?.1.shutdown, Shutdown::Wr, "client");
    server.write_all(&heard)?;
    wait_bytes(&client, 4)?;
    check_eq!(recv(&client), Ok(4), "the late echo");

    let (mut client, mut server) = pair()?;
    client.write_all(b"echo")?;
    drop(client);
    heard.clear();
    server.read_to_end(&mut heard)?;
    check_eq!(heard, b"echo", "what the server reads up to the FIN");
    let (_, detail) = own_socket(&server)?;
    check_eq!(detail.sk_state, SkState::CloseWait, "state of the server");
    check_eq!(send(&server), Ok(4), "the late echo, which RST answers");
    wait_for("the reset", || {
        Ok(own_socket(&server)?.1.sk_state == SkState::Close)
    })?;
    check_eq!(send(&server), Err(libc::EPIPE), "one more");
    Ok(())
}
