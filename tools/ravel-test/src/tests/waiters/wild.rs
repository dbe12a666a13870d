// SPDX-License-Identifier: GPL-2.0
//! Programs and runtimes that people use, each in a state that the test has put it in: what the runtime itself, or
//! /proc, tells of who waits is what the report must say.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child as Program, Command, Stdio};

use anyhow::{Context, Result};
use ravel_records::{SocketWaiters, WaitsBy};
use tokio::io::AsyncReadExt;

use super::super::peers::wait_for;
use super::{IN, OUT, call_by_proc, sets, waiters};
use crate::process::Child;
use crate::sys::Pid;
use crate::{check, check_eq, tests};

tests!("waiters":
    runtime_of_python [300 s],
    runtime_of_rust,
    redis_and_who_waits_for_it [120 s],
    nginx_with_two_workers [120 s],
    netcat_in_c,
);

/// A program that runs until it is dropped.
struct Running(Program);

impl Running {
    fn start(command: &mut Command) -> Result<Self> {
        let command = command.stdin(Stdio::piped()).stderr(Stdio::inherit());
        let program = command.spawn().with_context(|| format!("{command:?}"))?;
        Ok(Self(program))
    }

    fn pid(&self) -> Pid {
        self.0.id() as Pid
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that nobody has.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Connects once somebody listens.
fn connect(port: u16) -> Result<TcpStream> {
    let mut stream = None;
    wait_for("the server", || {
        stream = TcpStream::connect(("127.0.0.1", port)).ok();
        Ok(stream.is_some())
    })?;
    stream.context("no connection")
}

/// A process' descriptors that are epoll sets, as /proc says.
fn epoll_sets(pid: Pid) -> Result<Vec<i64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let link = fs::read_link(entry.path());
        if link.is_ok_and(|link| link == Path::new("anon_inode:[eventpoll]")) {
            found.push(entry.file_name().to_string_lossy().parse()?);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Waits until a process sleeps in a system call that waits at an epoll set.
fn at_rest(pid: Pid) -> Result<()> {
    let calls = [
        libc::SYS_epoll_wait,
        libc::SYS_epoll_pwait,
        libc::SYS_epoll_pwait2,
    ];
    wait_for("epoll_wait()", || {
        Ok(call_by_proc(pid)?.is_some_and(|number| calls.contains(&number)))
    })
}

fn socket(pid: Pid, fd: u32) -> Result<SocketWaiters> {
    let report = waiters(pid)?;
    let found = report.socket(fd).cloned();
    found.with_context(|| format!("{pid} has no socket {fd}"))
}

/// The number behind a key.
fn number(of: &serde_json::Value, key: &str) -> i64 {
    of[key].as_i64().unwrap_or(-1)
}

fn events(of: &serde_json::Value) -> u64 {
    let text = of["events"].as_str().unwrap_or_default();
    u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap_or(0)
}

/// Checks that the epoll sets with these descriptors, and no others, have a socket; that they ask for these events; and that
/// the process waits at one of them.
fn check_watched(pid: Pid, fd: u32, at: &[i64], mask: u64, want: u64) -> Result<()> {
    let found = socket(pid, fd)?;
    check!(found.socket.nonblock, "it would block: {found:?}");
    check_eq!(found.waiters.len(), 1, "waiters of {fd}: {found:?}");
    check_eq!(found.waiters[0].by, WaitsBy::Epoll, "how");
    // Redis sees to itself ten times a second, and does not wait meanwhile.
    let mut told = Vec::new();
    wait_for("somebody to wait", || {
        told = sets(pid, found.socket.inode)?;
        let threads = |set: &serde_json::Value| set["threads"].as_array().map_or(0, Vec::len);
        Ok(told.iter().any(|set| threads(set) > 0))
    })?;
    let fds: Vec<i64> = told.iter().map(|set| number(set, "fd")).collect();
    check_eq!(fds, at, "sets of {fd}: {told:?}");
    let mut threads = Vec::new();
    for set in &told {
        check_eq!(number(set, "pid"), i64::from(pid), "whose set");
        check_eq!(number(set, "target"), i64::from(fd), "target");
        check_eq!(events(set) & mask, want, "events of {fd}: {set}");
        threads.extend(set["threads"].as_array().into_iter().flatten().cloned());
    }
    check_eq!(threads, [pid], "threads that wait there");
    Ok(())
}

/// Serves two connections to itself: one that waits to read, and one that has written more than its reader takes.
const ASYNCIO: &str = "
import asyncio

async def main():
    loop, served, kept = asyncio.get_running_loop(), {}, []
    async def serve(reader, writer):
        kept.append(writer)
        served[writer.get_extra_info('peername')] = writer.get_extra_info('socket').fileno()
    server = await asyncio.start_server(serve, '127.0.0.1', 0)
    listener = server.sockets[0]
    ends = []
    for _ in range(2):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        kept.append(writer)
        name = writer.get_extra_info('sockname')
        while name not in served:
            await asyncio.sleep(0.01)
        ends += [writer.get_extra_info('socket').fileno(), served[name]]
    # Nobody reads the second one: its buffers fill, and flow control stops asking for more.
    writer.write(bytes(20_000_000))
    await asyncio.sleep(2)
    print(loop._selector.fileno(), listener.fileno(), *ends, flush=True)
    await asyncio.sleep(1000)

asyncio.run(main())
";

fn runtime_of_python() -> Result<()> {
    let mut python = Running::start(
        Command::new("python3")
            .args(["-c", ASYNCIO])
            .stdout(Stdio::piped()),
    )?;
    let out = python.0.stdout.take().context("no output")?;
    let mut line = String::new();
    BufReader::new(out).read_line(&mut line)?;
    let numbers: Vec<u32> = line
        .split_whitespace()
        .map(|word| Ok(word.parse()?))
        .collect::<Result<_>>()?;
    let [set, listener, reads, read, writes, full] = numbers[..] else {
        anyhow::bail!("it says {line:?}");
    };
    let pid = python.pid();
    at_rest(pid)?;
    let at = [i64::from(set)];
    check_eq!(epoll_sets(pid)?, at, "sets by /proc");
    for fd in [listener, reads, read] {
        check_watched(pid, fd, &at, IN | OUT, IN)?;
    }
    check_watched(pid, writes, &at, IN | OUT, IN | OUT)?;
    // Flow control: asyncio does not ask for what it would not take.
    let paused = socket(pid, full)?;
    check!(paused.waiters.is_empty(), "{paused:?}");
    check!(sets(pid, paused.socket.inode)?.is_empty(), "a set has it");
    Ok(())
}

fn runtime_of_rust() -> Result<()> {
    let mut child = Child::spawn(|link| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            let address = listener.local_addr()?;
            let one = tokio::net::TcpStream::connect(address).await?;
            let (mut two, _) = listener.accept().await?;
            let fds = [listener.as_raw_fd(), one.as_raw_fd(), two.as_raw_fd()];
            link.send(&format!("{} {} {}", fds[0], fds[1], fds[2]))?;
            two.read_u8().await?;
            Ok(())
        })
    })?;
    let line = child.link.recv()?;
    let fds: Vec<u32> = line
        .split(' ')
        .map(|word| Ok(word.parse()?))
        .collect::<Result<_>>()?;
    at_rest(child.pid)?;
    let at = epoll_sets(child.pid)?;
    // It asks for everything at once, of a listener, too, and is told of changes.
    let edge = libc::EPOLLET as u32 as u64;
    for fd in fds {
        check_watched(child.pid, fd, &at, IN | OUT | edge, IN | OUT | edge)?;
    }
    child.kill()
}

fn redis_and_who_waits_for_it() -> Result<()> {
    let port = free_port()?;
    let mut command = Command::new("redis-server");
    command.args([
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        "/tmp",
        "--loglevel",
        "warning",
    ]);
    let redis = Running::start(
        command
            .args(["--port", &port.to_string()])
            .stdout(Stdio::null()),
    )?;
    let mut asks = connect(port)?;
    let mut command = Command::new("redis-cli");
    command.args(["-p", &port.to_string(), "BLPOP", "queue", "0"]);
    let blocked = Running::start(command.stdout(Stdio::null()))?;
    // What Redis itself says of its connections.
    let mut list = String::new();
    wait_for("the blocked client", || {
        asks.write_all(b"CLIENT LIST\r\n")?;
        let mut answer = BufReader::new(&asks);
        let mut head = String::new();
        answer.read_line(&mut head)?;
        let bytes: usize = head.trim().trim_start_matches('$').parse()?;
        let mut text = vec![0; bytes + 2];
        answer.read_exact(&mut text)?;
        list = String::from_utf8(text)?;
        Ok(list.contains("cmd=blpop"))
    })?;
    let pid = redis.pid();
    at_rest(pid)?;
    let at = epoll_sets(pid)?;
    let mut seen = 0;
    for line in list.lines().filter(|line| !line.is_empty()) {
        let word = |key: &str| line.split(' ').find_map(|word| word.strip_prefix(key));
        let fd: u32 = word("fd=").context("no fd")?.parse()?;
        check_watched(pid, fd, &at, IN | OUT, IN)?;
        let remote = socket(pid, fd)?.socket.detail.context("busy")?.remote;
        check_eq!(Some(remote.to_string().as_str()), word("addr="), "address");
        seen += 1;
    }
    check_eq!(seen, 2, "connections: {list}");
    let report = waiters(pid)?;
    let listeners = report.sockets.iter().filter(|of| {
        let detail = of.socket.detail.as_ref();
        detail.is_some_and(|detail| detail.sk_state == ravel_records::SkState::Listen)
    });
    let listeners: Vec<u32> = listeners.map(|of| of.socket.fd).collect();
    check_eq!(listeners.len(), 1, "listeners");
    check_watched(pid, listeners[0], &at, IN | OUT, IN)?;
    // And who is blocked at the other end.
    let report = waiters(blocked.pid())?;
    let waits: Vec<_> = report.sockets.iter().flat_map(|of| &of.waiters).collect();
    check_eq!(waits.len(), 1, "waiters of redis-cli: {waits:?}");
    check_eq!(waits[0].pid, Some(blocked.pid() as u32), "who waits");
    check_eq!(
        waits[0].syscall,
        call_by_proc(blocked.pid())?,
        "system call"
    );
    Ok(())
}

fn nginx_with_two_workers() -> Result<()> {
    let port = free_port()?;
    let folder = std::env::temp_dir().join(format!("ravel-test-nginx-{port}"));
    fs::create_dir_all(&folder)?;
    let path = folder.join("nginx.conf");
    let shown = folder.display();
    fs::write(
        &path,
        format!(
            "daemon off; user root; worker_processes 2; pid {shown}/pid; error_log stderr;\n\
             events {{ use epoll; accept_mutex off; }}\n\
             http {{ access_log off; server {{ listen 127.0.0.1:{port}; location / {{ return 200 ok; }} }} }}\n"
        ),
    )?;
    let mut command = Command::new("nginx");
    let nginx = Running::start(command.args(["-e", "stderr"]).arg("-c").arg(&path))?;
    let master = nginx.pid();
    // One request, and the connection is kept.
    let mut kept = connect(port)?;
    kept.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut answer = [0; 1000];
    let bytes = kept.read(&mut answer)?;
    check!(answer[..bytes].starts_with(b"HTTP/1.1 200 OK"), "answer");
    let children = format!("/proc/{master}/task/{master}/children");
    let mut workers: Vec<Pid> = Vec::new();
    wait_for("two workers", || {
        workers = fs::read_to_string(&children)?
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        Ok(workers.len() == 2)
    })?;
    for worker in &workers {
        at_rest(*worker)?;
    }
    workers.sort_unstable();

    // The listener is one socket, which both have added, so that one of them is woken.
    let report = waiters(master)?;
    let local = format!("127.0.0.1:{port}");
    let listener = report.sockets.iter().find(|of| {
        let detail = of.socket.detail.as_ref();
        detail.is_some_and(|detail| detail.local == local.as_str())
    });
    let listener = listener.context("the master has no listener")?;
    check_eq!(listener.waiters.len(), 2, "waiters: {listener:?}");
    for waiter in &listener.waiters {
        check_eq!(
            (&waiter.by, waiter.exclusive),
            (&WaitsBy::Epoll, true),
            "how"
        );
    }
    let told = sets(master, listener.socket.inode)?;
    let mut whose: Vec<Pid> = told.iter().map(|set| number(set, "pid") as Pid).collect();
    whose.sort_unstable();
    check_eq!(whose, workers, "whose sets have the listener");
    for set in &told {
        check_eq!(
            set["threads"],
            serde_json::json!([set["pid"]]),
            "threads of {set}"
        );
        let exclusive = libc::EPOLLEXCLUSIVE as u32 as u64;
        check_eq!(
            events(set) & (IN | exclusive),
            IN | exclusive,
            "events of {set}"
        );
    }

    // The connection is one worker's.
    let remote = kept.local_addr()?.to_string();
    let mut having = 0;
    for worker in &workers {
        let report = waiters(*worker)?;
        let of = report.sockets.iter().find(|of| {
            let detail = of.socket.detail.as_ref();
            detail.is_some_and(|detail| detail.remote == remote.as_str())
        });
        if let Some(of) = of {
            having += 1;
            let edge = libc::EPOLLET as u32 as u64;
            let at = epoll_sets(*worker)?;
            check_watched(*worker, of.socket.fd, &at, IN | edge, IN | edge)?;
        }
    }
    check_eq!(having, 1, "workers that have the connection");
    drop(nginx);
    for worker in workers {
        // They die with their channel to the master, or by hand.
        let _ = crate::sys::kill(worker, libc::SIGKILL);
    }
    Ok(fs::remove_dir_all(&folder)?)
}

fn netcat_in_c() -> Result<()> {
    let port = free_port()?;
    let mut command = Command::new("nc");
    command.args(["-l", "127.0.0.1", &port.to_string()]);
    let nc = Running::start(command.stdout(Stdio::null()))?;
    let pid = nc.pid();
    // It sleeps in one call for a connection, and in another for what comes through it.
    let alone = |calls: &[libc::c_long]| -> Result<SocketWaiters> {
        let mut found = Vec::new();
        wait_for("a sleep", || {
            let call = call_by_proc(pid)?;
            let report = waiters(pid)?;
            found = report.sockets;
            found.retain(|of| !of.waiters.is_empty());
            let same = call.is_some() && found.iter().any(|of| of.waiters[0].syscall == call);
            Ok(same && call.is_some_and(|call| calls.contains(&call)))
        })?;
        check_eq!(found.len(), 1, "sockets that are waited for: {found:?}");
        Ok(found.remove(0))
    };
    let listener = alone(&[
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_poll,
        libc::SYS_ppoll,
    ])?;
    check_eq!(listener.waiters[0].pid, Some(pid as u32), "who waits");
    let stream = connect(port)?;
    let mut found = None;
    wait_for("its poll()", || {
        let of = alone(&[libc::SYS_poll, libc::SYS_ppoll])?;
        let detail = of.socket.detail.as_ref().context("busy")?;
        let there = detail.remote == stream.local_addr()?.to_string().as_str();
        found = Some(of);
        Ok(there)
    })?;
    let found = found.context("nothing")?;
    // It asks twice in one poll(): for what comes, and, while it has nothing to send, for nothing.
    let asked: Vec<u64> = found
        .waiters
        .iter()
        .map(|waiter| waiter.events.map_or(0, |events| events.0 & (IN | OUT)))
        .collect();
    check_eq!(asked, [IN, 0], "events: {found:?}");
    for waiter in &found.waiters {
        check_eq!(
            (&waiter.by, waiter.pid),
            (&WaitsBy::Poll, Some(pid as u32)),
            "how"
        );
    }
    Ok(())
}
