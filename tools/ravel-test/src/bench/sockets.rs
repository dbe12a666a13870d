// SPDX-License-Identifier: GPL-2.0
//! Sockets beside ss and lsof, and what a connection feels of being looked at.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use ravel_records::SkState;

use super::{Usage, least, read_report};
use crate::module::beside;
use crate::process::Child;
use crate::stream::client;
use crate::sys::{self, Pid};

/// A process that has that many TCP sockets, both ends of each connection; every tenth has bytes to be read.
pub fn holder(sockets: usize) -> Result<Child> {
    /// Connections of one listener: each needs a port of its own.
    const PORTS: usize = 4000;
    let mut child = Child::spawn(move |link| {
        sys::allow_descriptors(sockets as u64 + 100)?;
        let mut ends = Vec::with_capacity(sockets);
        while ends.len() < sockets {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let address = listener.local_addr()?;
            for at in 0..(sockets - ends.len()).div_ceil(2).min(PORTS) {
                let mut one = TcpStream::connect(address)?;
                ends.push(listener.accept()?.0);
                if at % 10 == 0 {
                    one.write_all(b"to be read")?;
                }
                ends.push(one);
            }
        }
        link.send("ready")?;
        link.wait().map(drop)
    })?;
    child.link.wait()?;
    Ok(child)
}

/// What all agree on: process and descriptor, then inode, state and bytes that wait.
type Rows = BTreeMap<(Pid, i32), (u64, String, u64, u64)>;

/// What ss is asked for: TCP's numbers, timers, inodes, all states, processes, memory, on one line each.
const SS: [&str; 2] = ["-tieapmOHn", "state"];

fn ss() -> Command {
    let mut command = Command::new("ss");
    command.args([SS[0], SS[1], "connected"]);
    command
}

fn lsof() -> Command {
    let mut command = Command::new("lsof");
    command.args(["-nP", "-w", "-iTCP", "-Fpd"]);
    command
}

fn output(command: &mut Command) -> Result<String> {
    let out = command.stderr(Stdio::inherit()).output()?;
    ensure!(out.status.success(), "{command:?}: {}", out.status);
    Ok(String::from_utf8(out.stdout)?)
}

fn rows_of_ss() -> Result<Rows> {
    let mut rows = Rows::new();
    for line in output(&mut ss())?.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let inode = words.iter().find_map(|word| word.strip_prefix("ino:"));
        let Some(users) = words.iter().find(|word| word.starts_with("users:")) else {
            continue;
        };
        let row = (
            inode.with_context(|| line.to_owned())?.parse()?,
            words[0].to_owned(),
            words[1].parse().with_context(|| line.to_owned())?,
            words[2].parse().with_context(|| line.to_owned())?,
        );
        for user in users.split("pid=").skip(1) {
            let (pid, rest) = user.split_once(",fd=").with_context(|| line.to_owned())?;
            let fd = rest.split(')').next().unwrap_or_default();
            rows.insert((pid.parse()?, fd.parse()?), row.clone());
        }
    }
    Ok(rows)
}

/// Process and inode, for each descriptor: of one above 9999, lsof does not tell the number.
fn rows_of_lsof() -> Result<Vec<(Pid, u64)>> {
    let (mut rows, mut pid) = (Vec::new(), 0);
    for line in output(&mut lsof())?.lines() {
        match line.split_at(1) {
            ("p", number) => pid = number.parse()?,
            ("d", number) => rows.push((pid, number.parse().with_context(|| line.to_owned())?)),
            _ => {}
        }
    }
    rows.sort_unstable();
    Ok(rows)
}

fn rows_of_ravel(pids: &[Pid]) -> Result<Rows> {
    let mut rows = Rows::new();
    for &pid in pids {
        for socket in client().sockets(pid as u32)?.sockets {
            let detail = socket.detail.context("a busy socket")?;
            let state = match detail.sk_state {
                SkState::Established => "ESTAB",
                _ => bail!("a connection that is not open: {detail:?}"),
            };
            let row = (
                socket.inode,
                state.to_owned(),
                detail.rx_bytes,
                detail.tx_bytes,
            );
            rows.insert((pid, socket.fd as i32), row);
        }
    }
    Ok(rows)
}

/// The least wall time, and CPU time, of a program.
fn program(tries: usize, mut command: impl FnMut() -> Command) -> Result<(Duration, Duration)> {
    let mut cpu = Duration::MAX;
    let wall = least(tries, || {
        cpu = cpu.min(Usage::of(&mut command())?.cpu);
        Ok(())
    })?;
    Ok((wall, cpu))
}

/// All TCP sockets of the machine, with their owners, by each.
pub fn owners(processes: usize, each: usize) -> Result<()> {
    println!(
        "\nAll TCP sockets and whose they are: times, wall and CPU, as a ratio to those of ss {} state connected",
        SS[0]
    );
    let children: Vec<Child> = (0..processes)
        .map(|_| holder(each))
        .collect::<Result<_>>()?;
    let pids: Vec<Pid> = children.iter().map(|child| child.pid).collect();
    // They say the same before it counts how fast.
    let ours = rows_of_ravel(&pids)?;
    let theirs = rows_of_ss()?;
    ensure!(ours.len() == processes * each, "{} sockets", ours.len());
    if let Some((at, row)) = ours.iter().find(|(at, row)| theirs.get(*at) != Some(*row)) {
        bail!("{at:?}: ravel has {row:?}, ss {:?}", theirs.get(at));
    }
    ensure!(theirs.len() == ours.len(), "ss has {} rows", theirs.len());
    let listed = rows_of_lsof()?;
    let mut inodes: Vec<(Pid, u64)> = ours.iter().map(|((pid, _), row)| (*pid, row.0)).collect();
    inodes.sort_unstable();
    ensure!(
        listed == inodes,
        "lsof has {} rows, ravel {}",
        listed.len(),
        inodes.len()
    );
    let tries = if processes > 1 { 2 } else { 3 };
    let (wall, cpu) = program(tries, ss)?;
    let lsof = program(tries, lsof)?;
    let stuck = beside("ravel")?;
    let stuck = program(tries, || {
        let mut command = Command::new(&stuck);
        command.args(["stuck", "--json"]);
        command
    })?;
    let mut buffer = vec![0; 1 << 16];
    let mut read = |report: &str| {
        least(tries + 1, || {
            pids.iter()
                .try_for_each(|pid| read_report(report, *pid, &mut buffer).map(drop))
        })
    };
    let (text, binary) = (read("sockets")?, read("binary sockets")?);
    let parsed = least(tries, || rows_of_ravel(&pids).map(drop))?;
    let ratio = |time: Duration| time.as_secs_f64() / wall.as_secs_f64();
    let both = |times: (Duration, Duration)| {
        let cpu = times.1.as_secs_f64() / cpu.as_secs_f64();
        format!("{:.3}, {cpu:.3}", ratio(times.0))
    };
    let aim = if ratio(binary) <= 0.1 { "" } else { ", missed" };
    println!(
        "  {} sockets of {processes}: report, binary {:.3} (aim 0.1{aim}), text {:.3}, parsed {:.3}; \
         ravel stuck {}; lsof {}; ss is 1, that is {:.1} s",
        processes * each,
        ratio(binary),
        ratio(text),
        ratio(parsed),
        both(stuck),
        both(lsof),
        wall.as_secs_f64(),
    );
    for mut child in children {
        child.kill()?;
    }
    Ok(())
}

/// For a VM whose clock counts instructions: what a socket costs each.
pub fn instructions() -> Result<()> {
    println!("Guest instructions for one TCP socket, in thousands:");
    let numbers = [0, 1000, 5000];
    let mut taken: Vec<Vec<f64>> = Vec::new();
    for sockets in numbers {
        let mut child = holder(sockets)?;
        let mut buffer = vec![0; 1 << 16];
        let mut times = Vec::new();
        for report in ["sockets", "binary sockets", "skbs", "waiters"] {
            read_report(report, child.pid, &mut buffer)?;
            let time = least(2, || read_report(report, child.pid, &mut buffer).map(drop))?;
            times.push(time.as_nanos() as f64);
        }
        taken.push(times);
        child.kill()?;
    }
    let names = ["sockets", "binary sockets", "skbs", "waiters"];
    for (at, name) in names.iter().enumerate() {
        let each = |many: usize| (taken[many][at] - taken[0][at]) / numbers[many] as f64 / 1000.0;
        println!(
            "  {name:<16} {:>8.1} of 1,000, {:>8.1} of 5,000",
            each(1),
            each(2)
        );
    }
    Ok(())
}

/// Milliseconds of one turn of a connection.
const TURN: u64 = 1500;
/// Turns under each reader.
const TURNS: usize = 6;

/// What a busy connection feels of being read without pause.
pub fn busy() -> Result<()> {
    println!(
        "A busy connection while its process' sockets are read without pause, as a ratio to nobody reading; \
         and to another process' being read"
    );
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let _echo = Child::spawn(|_| {
        sys::run_on(0)?;
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            // One byte wants an answer, more is only taken in.
            // It ends with the target, at times by a reset.
            match stream.read(&mut buffer).unwrap_or(0) {
                0 => return Ok(()),
                1 => stream.write_all(&buffer[..1])?,
                _ => {}
            }
        }
    })?;
    let mut target = Child::spawn(move |link| {
        sys::run_on(0)?;
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        link.send("ready")?;
        loop {
            let order = link.wait()?;
            let end = Instant::now() + Duration::from_millis(TURN);
            let (mut times, block) = (Vec::new(), [0; 1 << 15]);
            while Instant::now() < end {
                let start = Instant::now();
                match order.as_str() {
                    "answers" => {
                        stream.write_all(b"x")?;
                        stream.read_exact(&mut [0; 1])?;
                    }
                    _ => stream.write_all(&block)?,
                }
                times.push(start.elapsed().as_nanos().to_string());
            }
            // What is still on its way must not be taken for a question.
            thread::sleep(Duration::from_millis(100));
            link.send(&times.join(" "))?;
        }
    })?;
    target.link.wait()?;
    let twin = holder(2)?;
    let readers = [None, Some(twin.pid), Some(target.pid)];
    for order in ["answers", "bulk"] {
        let mut times: Vec<Vec<u64>> = vec![Vec::new(); readers.len()];
        let mut reads = 0;
        for _ in 0..TURNS {
            for (place, reader) in readers.iter().enumerate() {
                let running = reader.map(Reading::start);
                target.link.send(order)?;
                let line = target.link.wait()?;
                if let Some(running) = running {
                    reads += running.stop()?;
                }
                for time in line.split(' ') {
                    times[place].push(time.parse()?);
                }
            }
        }
        let p99 = |place: usize| {
            let mut times = times[place].clone();
            times.sort_unstable();
            times[(times.len() * 99 / 100).min(times.len() - 1)] as f64
        };
        let rate = |place: usize| times[place].len() as f64;
        println!(
            "  {order:<8} throughput {:.3}, {:.3}; p99 {:.3}, {:.3} ({} calls, {reads} reads)",
            rate(2) / rate(0),
            rate(2) / rate(1),
            p99(2) / p99(0),
            p99(2) / p99(1),
            times.iter().map(Vec::len).sum::<usize>(),
        );
    }
    target.kill()
}

/// Reads of a process' sockets on the other CPU, one after another, until stopped.
struct Reading {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<u64>>,
}

impl Reading {
    fn start(pid: Pid) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = thread::spawn(move || {
            sys::run_on(1)?;
            let (mut buffer, mut reads) = (vec![0; 1 << 16], 0);
            while !seen.load(Ordering::Relaxed) {
                read_report("sockets", pid, &mut buffer)?;
                reads += 1;
            }
            Ok(reads)
        });
        Self { stop, thread }
    }

    fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("the reader panicked"))?
    }
}
