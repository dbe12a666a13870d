// SPDX-License-Identifier: GPL-2.0
//! Packets followed by `ravel watch`, and the same ones by others: ftrace, bpftrace, pwru.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::events::{Ftrace, PACKET_TRACEPOINTS};
use super::spent;
use super::takers::tracer;
use crate::module;
use crate::process;
use crate::stream::client;
use crate::sys::{self, Pid};

/// Who follows packets, each to a file, with a line or more for each point of each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Nobody,
    /// `ravel watch`, at all of its points.
    Ravel,
    /// The same, of a port that nobody has.
    RavelRejecting,
    /// `trace_pipe`, of the tracepoints among these.
    Ftrace,
    /// A program that prints what ftrace does.
    Bpftrace,
    /// At the functions among ravel's points.
    Pwru,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Ravel => "ravel watch",
            Self::RavelRejecting => "ravel, filtered",
            Self::Ftrace => "ftrace",
            Self::Bpftrace => "bpftrace",
            Self::Pwru => "pwru",
        }
    }

    /// What a line has that tells of a packet's reception.
    fn sign(self) -> &'static str {
        match self {
            Self::Nobody | Self::RavelRejecting => "nothing has this",
            Self::Ravel => " receive ",
            Self::Ftrace => ": netif_receive_skb:",
            Self::Bpftrace => "> netif_receive_skb",
            Self::Pwru => " ip_rcv",
        }
    }
}

/// Memory for what is not yet read, where a program can be told.
const BYTES: usize = 64 << 20;

/// One of them at work.
struct Watcher {
    who: Who,
    out: PathBuf,
    begun: Instant,
    child: Option<Child>,
    ftrace: Option<Ftrace>,
    /// What bpftrace said that it lost.
    lost: Cell<u64>,
}

impl Watcher {
    /// Has one follow what goes to a port.
    fn start(who: Who, port: u16) -> Result<Self> {
        let out = PathBuf::from("/tmp/packets");
        let _ = fs::remove_file(&out);
        let file = File::options().create(true).append(true).open(&out)?;
        let begun = Instant::now();
        let mut ftrace = None;
        let each_cpu = BYTES / crate::stream::possible_cpus()?;
        let command = match who {
            Who::Nobody => None,
            Who::Ravel | Who::RavelRejecting => {
                let mut command = Command::new(module::beside("ravel")?);
                let port = if who == Who::Ravel { port } else { 1 };
                command.args(["watch", "--bytes"]);
                command.args([BYTES.to_string(), "--port".into(), port.to_string()]);
                Some(command)
            }
            Who::Ftrace => {
                let made = Ftrace::new(PACKET_TRACEPOINTS, None, each_cpu)?;
                let mut command = Command::new("cat");
                command.arg(made.0.join("trace_pipe"));
                ftrace = Some(made);
                Some(command)
            }
            Who::Bpftrace => {
                let probes = PACKET_TRACEPOINTS.iter().map(|event| {
                    let (system, name) = event.split_once('/').unwrap_or_default();
                    format!(
                        "tracepoint:{system}:{name} {{ printf(\"> {name} %p\\n\", args.skbaddr); }}"
                    )
                });
                let mut command = tracer("usr/bin/bpftrace");
                let pages = (each_cpu / sys::PAGE).to_string();
                command.env("BPFTRACE_PERF_RB_PAGES", pages).args([
                    "-B",
                    "line",
                    "-e",
                    &probes.collect::<Vec<_>>().join(" "),
                ]);
                Some(command)
            }
            Who::Pwru => {
                let mut command = tracer("usr/bin/pwru");
                command.args([
                    "--filter-func",
                    "^(ip_output|dev_hard_start_xmit|ip_rcv|udp_rcv|tcp_v4_rcv|skb_consume_udp|skb_release_head_state)$",
                    "--output-meta",
                    "--output-tuple",
                    &format!("port {port}"),
                ]);
                Some(command)
            }
        };
        let child = command.map(|mut command| {
            let child = command
                .stdin(Stdio::null())
                .stderr(file.try_clone()?)
                .stdout(file)
                .spawn();
            child.with_context(|| format!("start {command:?}"))
        });
        Ok(Self {
            who,
            out,
            begun,
            child: child.transpose()?,
            ftrace,
            lost: Cell::new(0),
        })
    }

    /// How many packets it has seen received since it was last asked.
    fn seen(&self) -> Result<usize> {
        // There may be much of it, and this is quick.
        let grep = |how: &str, what: &str| -> Result<String> {
            let output = Command::new("grep")
                .args([how, "-a", "-e", what])
                .arg(&self.out)
                .output()?;
            Ok(String::from_utf8(output.stdout)?)
        };
        let count = grep("-cF", self.who.sign())?.trim().parse()?;
        if self.who == Who::Bpftrace {
            for line in grep("-h", "^Lost [0-9]")?.lines() {
                let lost = line.split(' ').nth(1).and_then(|word| word.parse().ok());
                self.lost.set(self.lost.get() + lost.unwrap_or(0));
            }
        }
        File::options().write(true).open(&self.out)?.set_len(0)?;
        Ok(count)
    }

    /// The same, once it has no more to come.
    fn settle(&self) -> Result<usize> {
        let len = || fs::metadata(&self.out).map(|data| data.len());
        let mut last = len()?;
        loop {
            thread::sleep(Duration::from_millis(1500));
            let now = len()?;
            if now == last {
                return self.seen();
            }
            last = now;
        }
    }

    /// How long it takes from its start to the first packet, of which there is one every two milliseconds.
    fn first(&mut self, maker: &mut Maker) -> Result<Option<Duration>> {
        if matches!(self.who, Who::Nobody | Who::RavelRejecting) {
            // Until its probes are there.
            thread::sleep(Duration::from_secs(2));
            return Ok(None);
        }
        while self.begun.elapsed() < Duration::from_secs(300) {
            maker.run("udp 1")?;
            if fs::metadata(&self.out)?.len() > 0 && self.seen()? > 0 {
                return Ok(Some(self.begun.elapsed()));
            }
            if let Some(child) = &mut self.child {
                ensure!(child.try_wait()?.is_none(), "{} ended", self.who.name());
            }
            thread::sleep(Duration::from_millis(2));
        }
        bail!("{} sees nothing", self.who.name())
    }

    /// What it says that it lost; none: it does not say.
    fn lost(&self) -> Result<Option<u64>> {
        Ok(match self.who {
            Who::Ravel | Who::RavelRejecting => {
                let streams = client().streams()?.streams;
                Some(streams.iter().map(|stream| stream.lost).sum())
            }
            Who::Ftrace => self.ftrace.as_ref().map(Ftrace::lost).transpose()?,
            Who::Bpftrace => Some(self.lost.get()),
            Who::Nobody | Who::Pwru => None,
        })
    }

    /// Nanoseconds of CPU that it has taken.
    fn cpu(&self) -> Result<f64> {
        let child = self.child.as_ref();
        child.map_or(Ok(0.0), |child| spent(child.id() as Pid))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else {
            return;
        };
        let _ = sys::kill(child.id() as i32, libc::SIGINT);
        for _ in 0..1000 {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Datagrams of a flood.
const DATAGRAMS: usize = 20_000;
/// Bytes of a connection's stream.
const STREAM: usize = 64 << 20;

/// A process that makes the traffic: datagrams over the loopback device, each of which it reads, all on one CPU; and a
/// stream of TCP's, from one thread to another.
struct Maker {
    child: process::Child,
    port: u16,
}

/// What it took.
#[derive(Clone, Copy)]
struct Took {
    time: f64,
    cpu: f64,
}

impl Took {
    fn least(self, other: Self) -> Self {
        Self {
            time: self.time.min(other.time),
            cpu: self.cpu.min(other.cpu),
        }
    }
}

impl Maker {
    fn new() -> Result<Self> {
        let mut child = process::Child::spawn(|link| {
            let to = UdpSocket::bind("127.0.0.1:0")?;
            let from = UdpSocket::bind("127.0.0.1:0")?;
            from.connect(to.local_addr()?)?;
            // The same port, so that who follows it sees both.
            let listener = TcpListener::bind(to.local_addr()?)?;
            link.send(&to.local_addr()?.port().to_string())?;
            while let Ok(order) = link.wait() {
                let (what, count) = order.split_once(' ').context("no count")?;
                let count: usize = count.parse()?;
                let (begin, cpu) = (Instant::now(), spent(sys::getpid())?);
                match what {
                    "udp" => {
                        sys::run_on(0)?;
                        for _ in 0..count {
                            from.send(b"datagram")?;
                            to.recv(&mut [0; 16])?;
                        }
                    }
                    _ => stream(&listener, count)?,
                }
                let cpu = spent(sys::getpid())? - cpu;
                link.send(&format!("{} {cpu}", begin.elapsed().as_nanos()))?;
            }
            Ok(())
        })?;
        let port = child.link.wait()?.parse()?;
        Ok(Self { child, port })
    }

    fn run(&mut self, order: &str) -> Result<Took> {
        self.child.link.send(order)?;
        let line = self.child.link.wait()?;
        let (time, cpu) = line.split_once(' ').context("no time")?;
        Ok(Took {
            time: time.parse()?,
            cpu: cpu.parse()?,
        })
    }
}

fn stream(listener: &TcpListener, bytes: usize) -> Result<()> {
    let mut one = TcpStream::connect(listener.local_addr()?)?;
    let (mut two, _) = listener.accept()?;
    thread::scope(|scope| {
        let writer = scope.spawn(move || -> Result<()> {
            let piece = vec![7; 64 << 10];
            for _ in 0..bytes / piece.len() {
                one.write_all(&piece)?;
            }
            Ok(())
        });
        let mut buffer = vec![0; 256 << 10];
        while two.read(&mut buffer)? > 0 {}
        writer.join().map_err(|_| anyhow!("it panicked"))?
    })
}

/// What came of one of them.
struct Outcome {
    who: Who,
    first: Option<Duration>,
    seen: usize,
    lost: Option<u64>,
    udp: Took,
    /// Nanoseconds of its own CPU for a flood.
    cpu: f64,
    tcp: Took,
    /// Of a CPU, while there is nothing to see.
    idle: f64,
}

/// Rounds, of which the best counts: what else goes on makes none of them faster.
const ROUNDS: usize = 3;

fn measure(who: Who, maker: &mut Maker) -> Result<Outcome> {
    let mut watcher = Watcher::start(who, maker.port)?;
    let first = watcher.first(maker)?;
    watcher.settle()?;
    let mut all: Option<Outcome> = None;
    for _ in 0..ROUNDS {
        let cpu = watcher.cpu()?;
        let udp = maker.run(&format!("udp {DATAGRAMS}"))?;
        let seen = watcher.settle()?;
        let cpu = watcher.cpu()? - cpu;
        let lost = watcher.lost()?;
        let tcp = maker.run(&format!("tcp {STREAM}"))?;
        watcher.settle()?;
        all = Some(match all {
            // Of what it sees, the first flood counts.
            Some(best) => Outcome {
                udp: best.udp.least(udp),
                cpu: best.cpu.min(cpu),
                tcp: best.tcp.least(tcp),
                ..best
            },
            None => Outcome {
                who,
                first,
                seen,
                lost,
                udp,
                cpu,
                tcp,
                idle: 0.0,
            },
        });
    }
    let (begin, cpu) = (Instant::now(), watcher.cpu()?);
    thread::sleep(Duration::from_secs(3));
    let idle = (watcher.cpu()? - cpu) / begin.elapsed().as_nanos() as f64;
    let all = all.context("no round")?;
    Ok(Outcome { idle, ..all })
}

/// All beside each other.
pub(super) fn run() -> Result<()> {
    println!(
        "Packets followed: {DATAGRAMS} datagrams over the loopback device, each sent and read; {} MiB of TCP's.\n\
         As ratios to nobody's: CPU that a datagram takes of who sends and reads it, and of who follows it; datagrams a \
         second; TCP's bytes a second.\n\
         (Aims: first event within 0.5 s, no datagram unseen, an idle watcher sleeps)",
        STREAM >> 20
    );
    let mut maker = Maker::new()?;
    // What is done for the first time takes longer.
    maker.run(&format!("udp {DATAGRAMS}"))?;
    maker.run(&format!("tcp {STREAM}"))?;
    let mut nobody = measure(Who::Nobody, &mut maker)?;
    let mut all = Vec::new();
    for who in [
        Who::Ravel,
        Who::RavelRejecting,
        Who::Ftrace,
        Who::Bpftrace,
        Who::Pwru,
    ] {
        all.push(measure(who, &mut maker)?);
    }
    // Once more behind all: a machine is not as fast at all times.
    let again = measure(Who::Nobody, &mut maker)?;
    nobody.udp = nobody.udp.least(again.udp);
    nobody.tcp = nobody.tcp.least(again.tcp);
    for its in all {
        let of = |cpu: f64| cpu / nobody.udp.cpu;
        let first = match its.first {
            Some(time) => format!("first event {:>5.2} s", time.as_secs_f64()),
            None => " ".repeat(19),
        };
        let seen = match its.who {
            Who::RavelRejecting => " ".repeat(37),
            _ => {
                let lost = its
                    .lost
                    .map_or("says nothing".into(), |lost| format!("says {lost} lost"));
                format!("seen {:>5} ({lost:<15})", its.seen)
            }
        };
        println!(
            "  {:<16} {first}, {seen}, CPU {:.2} + {:.2}, datagrams {:.2}, stream {:.2}, idle {:.0} % of a CPU",
            its.who.name(),
            of(its.udp.cpu),
            of(its.cpu),
            nobody.udp.time / its.udp.time,
            nobody.tcp.time / its.tcp.time,
            its.idle * 100.0,
        );
    }
    maker.child.kill()
}
