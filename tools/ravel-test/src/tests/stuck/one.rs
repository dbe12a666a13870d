// SPDX-License-Identifier: GPL-2.0
//! Each connection is shown once, by the end that has to act, and what is said to end it does,
//! without loss.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use ravel_records::SkState;
use serde_json::{Value, json};

use super::{holders, of_ours, only, run, stuck_over, wait_half_closed, with_port};
use crate::process::Child;
use crate::report::own_socket;
use crate::sys::{self, Address};
use crate::tests::peers::{fill, pair, wait_bytes, wait_for};
use crate::{check, check_eq, module, tests};

tests!("stuck":
    mptcp_connection_is_one,
    proxy_that_ignores_a_half_close,
    upload_that_is_not_read,
    registered_with_a_ring,
    kinds_that_are_not_judged_are_counted,
    another_ravel_changes_nothing,
);

fn mptcp() -> Result<OwnedFd> {
    Ok(sys::socket(libc::AF_INET, libc::SOCK_STREAM, 262)?)
}

fn mptcp_connection_is_one() -> Result<()> {
    let us = sys::getpid();
    let listener = mptcp()?;
    sys::bind(&listener, &Address::loopback(0))?;
    sys::listen(&listener, 5)?;
    let port = sys::port_of(&listener)?;
    let connect = |client: OwnedFd| -> Result<(OwnedFd, OwnedFd)> {
        sys::connect(&client, &Address::loopback(port))?;
        Ok((client, sys::accept(&listener)?))
    };
    let (open, open_server) = connect(mptcp()?)?;
    check_eq!(
        own_socket(&open_server)?.0.protocol.as_str(),
        "mptcp",
        "protocol"
    );
    check_eq!(with_port(port)?, Vec::<Value>::new(), "an open connection");
    let (client, leaked) = connect(mptcp()?)?;
    sys::send(&client, &[1; 50], 0)?;
    drop(client);
    let (plain, leaked_plain) = connect(sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?)?;
    check_eq!(
        own_socket(&leaked_plain)?.0.protocol.as_str(),
        "tcp",
        "protocol"
    );
    sys::send(&plain, &[1; 50], 0)?;
    drop(plain);
    let mut told = Vec::new();
    wait_for("both", || {
        told = with_port(port)?;
        Ok(told.len() == 2 && told.iter().all(|of| of["why"] == "close_wait"))
    })?;
    for (fd, protocol) in [(&leaked, "mptcp"), (&leaked_plain, "tcp")] {
        let inode = own_socket(fd)?.0.inode;
        let of = told.iter().find(|of| of["inode"] == inode);
        let of = of.with_context(|| format!("{protocol} in {told:#?}"))?;
        check_eq!(of["protocol"], protocol, "protocol");
        check_eq!(of["unread"], 50, "unread bytes");
        check_eq!(holders(&of["blame"]), [(us, fd.as_raw_fd())], "blame");
    }
    // The remedy.
    check_eq!(
        sys::recv(&leaked, 100, 0)?.len(),
        50,
        "bytes that were unread"
    );
    drop((leaked, leaked_plain));
    wait_for("their end", || {
        let told = with_port(port)?;
        Ok(told
            .iter()
            .all(|of| of["why"] != "close_wait" && of["why"] != "unheld"))
    })?;
    // Half of the open one: the end that has to act, and not the other one, too.
    sys::shutdown(&open, libc::SHUT_WR)?;
    wait_for("CLOSE_WAIT", || {
        let here = own_socket(&open)?.1.sk_state == SkState::FinWait2;
        Ok(here && own_socket(&open_server)?.1.sk_state == SkState::CloseWait)
    })?;
    let inode = own_socket(&open_server)?.0.inode;
    let told: Vec<Value> = with_port(port)?
        .into_iter()
        .filter(|of| of["protocol"] == "mptcp")
        .collect();
    check_eq!(told.len(), 1, "{told:#?}");
    check_eq!(told[0]["inode"], inode, "which end");
    let other = holders(&told[0]["other_end"]["holders"]);
    check_eq!(other, [(us, open.as_raw_fd())], "other end");
    Ok(())
}

/// A proxy that passes bytes on, and an end of input only on request.
fn proxy_that_ignores_a_half_close() -> Result<()> {
    let front = TcpListener::bind("127.0.0.1:0")?;
    let back = TcpListener::bind("127.0.0.1:0")?;
    let (front_at, back_at) = (front.local_addr()?, back.local_addr()?);
    let mut proxy = Child::spawn(move |link| {
        let (mut here, _) = front.accept()?;
        let mut there = TcpStream::connect(back_at)?;
        let mut buffer = [0; 100];
        let n = here.read(&mut buffer)?;
        there.write_all(&buffer[..n])?;
        check_eq!(here.read(&mut buffer)?, 0, "end of input");
        link.send(&format!("{} {}", here.as_raw_fd(), there.as_raw_fd()))?;
        link.wait()?;
        there.shutdown(Shutdown::Write)?;
        let mut answer = Vec::new();
        there.read_to_end(&mut answer)?;
        here.write_all(&answer)?;
        Ok(())
    })?;
    let mut client = TcpStream::connect(front_at)?;
    client.write_all(b"question")?;
    let (mut server, _) = back.accept()?;
    client.shutdown(Shutdown::Write)?;
    let fds = proxy.link.recv()?;
    let fds: Vec<i32> = fds.split(' ').filter_map(|fd| fd.parse().ok()).collect();
    let mut told = Value::Null;
    wait_for("CLOSE_WAIT", || {
        let all = with_port(client.local_addr()?.port())?;
        told = all.first().cloned().unwrap_or_default();
        Ok(all.len() == 1 && told["why"] == "close_wait" && told["unread"] == 0)
    })?;
    check_eq!(holders(&told["blame"]), [(proxy.pid, fds[0])], "blame");
    check_eq!(
        holders(&told["relays"]),
        [(proxy.pid, fds[1])],
        "where it passes on"
    );
    let said = told["text"]["remedy"].as_str().unwrap_or_default();
    let which = format!(" {} fd {} ({back_at})", proxy.pid, fds[1]);
    check!(
        said.contains("shutdown(WR) of ") && said.contains(&which),
        "{said}"
    );
    // That works: the server sees the end, and the client its whole answer.
    proxy.link.send("shutdown")?;
    let mut question = Vec::new();
    server.read_to_end(&mut question)?;
    server.write_all(&[7; 5000])?;
    drop(server);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer)?;
    check_eq!((question.len(), answer.len()), (8, 5000), "bytes");
    proxy.join()
}

/// A server that has answered and does not read: the client's upload waits, and its answer is
/// unread.
fn upload_that_is_not_read() -> Result<()> {
    let (client, mut server) = pair()?;
    let port = client.local_addr()?.port();
    sys::set_option(&server, libc::SOL_SOCKET, libc::SO_RCVBUF, 20_000)?;
    sys::set_option(&client, libc::SOL_SOCKET, libc::SO_SNDBUF, 40_000)?;
    server.write_all(b"413")?;
    wait_bytes(&client, 3)?;
    let mut writer = client.try_clone()?;
    fill(&mut writer)?;
    let mut told = Value::Null;
    wait_for("a probe of the window", || {
        let all = with_port(port)?;
        told = all.first().cloned().unwrap_or_default();
        let detail = own_socket(&client)?.1;
        let probes = detail
            .tcp
            .is_some_and(|tcp| tcp.timer == ravel_records::TcpTimer::Probe && tcp.unsent > 0);
        Ok(probes && all.len() == 1)
    })?;
    let us = sys::getpid();
    check_eq!(told["why"], "unread", "why");
    check_eq!(
        holders(&told["blame"]),
        [(us, server.as_raw_fd())],
        "who has to read"
    );
    check_eq!(told["other_end"]["unread"], 3, "bytes of the answer");
    Ok(())
}

fn registered_with_a_ring() -> Result<()> {
    let us = sys::getpid();
    let (one, two) = pair()?;
    let port = one.local_addr()?.port();
    let ring = sys::ring()?;
    sys::ring_register(&ring, &[two.as_raw_fd()])?;
    let inode = own_socket(&two)?.0.inode;
    drop(two);
    check_eq!(with_port(port)?, Vec::<Value>::new(), "an open connection");
    one.shutdown(Shutdown::Write)?;
    let mut told = Value::Null;
    wait_for("CLOSE_WAIT", || {
        let all = with_port(port)?;
        told = all.first().cloned().unwrap_or_default();
        Ok(all.len() == 1 && told["why"] == "close_wait")
    })?;
    check_eq!(told["inode"], inode, "which");
    check_eq!(
        holders(&told["others"]),
        [(us, ring.as_raw_fd())],
        "the ring"
    );
    check_eq!(told["others"][0]["holds"], "ring", "how");
    let said = told["text"]["responsible"].as_str().unwrap_or_default();
    check!(said.contains("registered with the io_uring"), "{said}");
    // The remedy.
    drop(ring);
    wait_for("its end", || {
        Ok(with_port(port)?.iter().all(|of| of["why"] != "close_wait"))
    })
}

fn kinds_that_are_not_judged_are_counted() -> Result<()> {
    let count = || -> Result<u64> {
        let answer: Value = serde_json::from_str(&run(&["--json"])?)?;
        Ok(answer["not_judged"]["vsock"].as_u64().unwrap_or(0))
    };
    let before = count()?;
    let _vsock = sys::socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)?;
    check_eq!(count()?, before + 1, "vsock sockets");
    let text = run(&[])?;
    check!(
        text.contains("Not judged") && text.contains("vsock"),
        "{text}"
    );
    Ok(())
}

fn another_ravel_changes_nothing() -> Result<()> {
    let (client, server) = pair()?;
    client.shutdown(Shutdown::Write)?;
    wait_half_closed(&client, &server)?;
    let port = client.local_addr()?.port();
    let us = sys::getpid();
    // They ask without end, and hold references meanwhile.
    let ravel = module::beside("ravel")?;
    let again = format!("while :; do {} sockets {us}; done", ravel.display());
    let mut others = Vec::new();
    for _ in 0..2 {
        let mut other = Command::new("sh");
        other.args(["-c", &again]).stdout(Stdio::null());
        others.push(other.spawn()?);
    }
    for _ in 0..10 {
        let told = only(port)?;
        check_eq!(told["references"], 1, "references");
        check_eq!(told["unnamed"], json!(0), "references of unknown holders");
        let fd = server.as_raw_fd();
        let kept = &told["blame"];
        check!(
            holders(kept).contains(&(us, fd)),
            "{kept} has not {us} fd {fd}"
        );
    }
    for other in &mut others {
        other.kill()?;
        other.wait()?;
    }
    check!(
        of_ours(&server)?.is_some() && !stuck_over(&[])?.is_empty(),
        "it ended"
    );
    Ok(())
}
