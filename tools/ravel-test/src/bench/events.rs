// SPDX-License-Identifier: GPL-2.0
//! What an event takes of whoever makes it, beside ftrace's own record of the same tracepoint or function.

use std::cell::OnceCell;
use std::fs;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::least;
use crate::process::Child;
use crate::stream::Made;
use crate::sys;

/// Events of the kernel's tracers, in an instance of tracefs that is ours.
pub(super) struct Ftrace(pub(super) PathBuf);

impl Ftrace {
    /// Records events, `SYSTEM/NAME`, in that many bytes for each CPU, where a filter in the tracer's own words lets them
    /// through.
    pub(super) fn new(events: &[&str], filter: Option<&str>, bytes: usize) -> Result<Self> {
        let dir = PathBuf::from("/sys/kernel/tracing/instances/ravel-bench");
        fs::create_dir(&dir).context("make an instance of tracefs")?;
        let new = Self(dir);
        fs::write(new.0.join("buffer_size_kb"), (bytes / 1024).to_string())?;
        for event in events {
            let event = new.0.join("events").join(event);
            if let Some(filter) = filter {
                fs::write(event.join("filter"), filter).context("set a filter")?;
            }
            fs::write(event.join("enable"), "1")?;
        }
        Ok(new)
    }

    /// How many it has.
    fn count(&self) -> Result<usize> {
        let text = fs::read_to_string(self.0.join("trace"))?;
        Ok(text.lines().filter(|line| !line.starts_with('#')).count())
    }

    /// How many were overwritten before they were read.
    pub(super) fn lost(&self) -> Result<u64> {
        let mut all = 0;
        for cpu in fs::read_dir(self.0.join("per_cpu"))? {
            let text = fs::read_to_string(cpu?.path().join("stats"))?;
            for key in ["overrun: ", "dropped events: "] {
                let line = text.lines().find_map(|line| line.strip_prefix(key));
                all += line.context("no such count")?.parse::<u64>()?;
            }
        }
        Ok(all)
    }
}

/// The tracer's event of a function, which has no tracepoint.
const FUNCTION: &str = "ravel_bench/unix_shutdown";

/// Has the tracers know of it, until dropped.
struct FunctionEvent;

impl FunctionEvent {
    const FILE: &str = "/sys/kernel/tracing/kprobe_events";

    fn new() -> Result<Self> {
        fs::write(Self::FILE, format!("p:{FUNCTION} unix_shutdown")).context("probe a function")?;
        Ok(Self)
    }
}

impl Drop for FunctionEvent {
    fn drop(&mut self) {
        let _ = fs::write(Self::FILE, format!("-:{FUNCTION}"));
    }
}

impl Drop for Ftrace {
    fn drop(&mut self) {
        // A rmdir of tracefs, which takes all that is in it.
        let _ = fs::remove_dir(&self.0);
    }
}

/// Each so short that some meet no interrupt.
pub(super) const TRIES: usize = 30;

/// Memory of a stream.
const BYTES: usize = 16 << 20;

/// What makes events, and how each of the two is told to record them.
pub(super) struct Subject {
    pub(super) what: &'static str,
    pub(super) sources: &'static str,
    pub(super) tracepoints: &'static [&'static str],
    /// For bpftrace: it prints what ftrace does.
    pub(super) program: &'static str,
    /// A filter that lets nothing through, for either.
    nothing: (&'static str, &'static str),
    /// How many events a round makes; none where each of the two has points of its own.
    events: Option<usize>,
    pub(super) rounds: usize,
    pub(super) round: fn() -> Result<()>,
}

pub(super) const TCP_STATE: Subject = Subject {
    what: "TCP state",
    sources: "tcp_state",
    tracepoints: &["sock/inet_sock_set_state"],
    program: "tracepoint:sock:inet_sock_set_state { printf(\"> %s-%d %d %llu: %d %d %d %d %s %s %d %d\\n\", comm, pid, cpu, \
              nsecs, args.family, args.protocol, args.sport, args.dport, ntop(args.saddr), ntop(args.daddr), \
              args.oldstate, args.newstate) }",
    nothing: (" port=1", "sport == 1"),
    events: Some(2),
    rounds: 200,
    round: listen_and_close,
};

const SHUTDOWN: Subject = Subject {
    what: "shutdown",
    sources: "shutdown",
    tracepoints: &[FUNCTION],
    program: "",
    // Process 1 shuts nothing meanwhile.
    nothing: (" pid=1", "common_pid == 1"),
    events: Some(1),
    rounds: 200,
    round: shut,
};

pub(super) const EXEC: Subject = Subject {
    what: "exec",
    sources: "exec",
    tracepoints: &["sched/sched_process_exec"],
    program: "tracepoint:sched:sched_process_exec { printf(\"> %s-%d %d %llu: %s %d %d\\n\", comm, pid, cpu, nsecs, \
              str(args.filename), args.pid, args.old_pid) }",
    nothing: (" pid=1", "common_pid == 1"),
    events: Some(1),
    rounds: 1,
    round: exec,
};

/// The points of `packet`, so far as they are tracepoints that there are on the loopback device.
pub(super) const PACKET_TRACEPOINTS: &[&str] = &[
    "net/netif_receive_skb",
    "net/net_dev_queue",
    "net/net_dev_start_xmit",
    "skb/consume_skb",
    "skb/kfree_skb",
    "skb/skb_copy_datagram_iovec",
];

const PACKET: Subject = Subject {
    what: "packet",
    sources: "packet",
    tracepoints: PACKET_TRACEPOINTS,
    program: "",
    nothing: (" port=1", "common_pid == 1"),
    events: None,
    rounds: 100,
    round: send_to_self,
};

const PACKET_IPV6: Subject = Subject {
    what: "packet, IPv6",
    round: send_to_self_by_ipv6,
    ..PACKET
};

/// From CLOSE to LISTEN, and back.
fn listen_and_close() -> Result<()> {
    let socket = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    Ok(sys::listen(&socket, 1)?)
}

/// Shut already, it stays so.
fn shut() -> Result<()> {
    thread_local!(static PAIR: OnceCell<(OwnedFd, OwnedFd)> = const { OnceCell::new() });
    PAIR.with(|pair| {
        if pair.get().is_none() {
            let _ = pair.set(sys::socketpair(libc::SOCK_STREAM)?);
        }
        let (one, _) = pair.get().context("no pair")?;
        Ok(sys::shutdown(one, libc::SHUT_RDWR)?)
    })
}

/// A datagram over the loopback device, and its reception.
fn send_to_self() -> Result<()> {
    send_to_self_at("127.0.0.1:0")
}

fn send_to_self_by_ipv6() -> Result<()> {
    send_to_self_at("[::1]:0")
}

/// Always the same address in one process.
fn send_to_self_at(address: &str) -> Result<()> {
    thread_local!(static SOCKET: OnceCell<UdpSocket> = const { OnceCell::new() });
    SOCKET.with(|socket| {
        if socket.get().is_none() {
            let new = UdpSocket::bind(address)?;
            new.connect(new.local_addr()?)?;
            let _ = socket.set(new);
        }
        let socket = socket.get().context("no socket")?;
        socket.send(b"datagram")?;
        socket.recv(&mut [0; 16])?;
        Ok(())
    })
}

/// The smallest program that there is.
fn exec() -> Result<()> {
    let status = Command::new("/bin/true").status()?;
    ensure!(status.success(), "true: {status}");
    Ok(())
}

/// A process that does nothing but make a subject's events.
pub(super) struct Maker<'s> {
    subject: &'s Subject,
    child: Child,
}

impl<'s> Maker<'s> {
    pub(super) fn new(subject: &'s Subject) -> Result<Self> {
        let (rounds, round) = (subject.rounds, subject.round);
        let child = Child::spawn(move |link| {
            while link.wait().is_ok() {
                let time = least(TRIES, || (0..rounds).try_for_each(|_| round()))?;
                link.send(&time.as_nanos().to_string())?;
            }
            Ok(())
        })?;
        Ok(Self { subject, child })
    }

    /// Nanoseconds, each an instruction, of all rounds.
    pub(super) fn take(&mut self) -> Result<f64> {
        self.child.link.send("go")?;
        Ok(self.child.link.wait()?.parse()?)
    }

    /// Has it end.
    pub(super) fn end(mut self) -> Result<()> {
        self.child.kill()
    }

    fn with_stream(&mut self, filter: &str) -> Result<(f64, usize)> {
        let terms = format!("sources={} bytes={BYTES}{filter}", self.subject.sources);
        let stream = Made::new("bench", &terms)?;
        let time = self.take()?;
        let told = stream.drain()?.len();
        let state = stream.state()?;
        ensure!(
            state.lost == 0 && state.missed == 0,
            "the stream was too small: {state:?}"
        );
        Ok((time, told))
    }

    fn with_ftrace(&mut self, filter: Option<&str>) -> Result<(f64, usize)> {
        // As much memory as the stream's rings have.
        let ftrace = Ftrace::new(self.subject.tracepoints, filter, BYTES / 2)?;
        let time = self.take()?;
        Ok((time, ftrace.count()?))
    }
}

impl Subject {
    /// How many events a round makes.
    pub(super) fn events(&self) -> Result<usize> {
        self.events.context("nobody knows how many it makes")
    }

    fn run(&self) -> Result<()> {
        // What begins with the boot has ended then. Time passes fast where nothing runs.
        thread::sleep(Duration::from_secs(20));
        let mut maker = Maker::new(self)?;
        let nobody = maker.take()?;
        let (ravel, told) = maker.with_stream("")?;
        let (ftrace, traced) = maker.with_ftrace(None)?;
        let (ravel_not, not_told) = maker.with_stream(self.nothing.0)?;
        let (ftrace_not, not_traced) = maker.with_ftrace(Some(self.nothing.1))?;
        let after = maker.take()?;
        maker.end()?;
        let rounds = TRIES * self.rounds;
        let of = |told: usize| self.events.map_or(told, |events| events * rounds);
        let (made, traced_made) = (of(told), of(traced));
        ensure!(told == made, "{told} events in the stream, {made} made");
        ensure!(
            traced == traced_made,
            "{traced} events in ftrace, {made} made"
        );
        ensure!(
            (not_told, not_traced) == (0, 0),
            "filters let through {not_told} and {not_traced} events"
        );
        // Of each event, or of each that would have been.
        let each = |time: f64, made: usize| (time - nobody) / (made as f64 / TRIES as f64);
        let (cost, traced_cost) = (|time| each(time, made), |time| each(time, traced_made));
        println!(
            "  {:<12} recorded: ravel {:.0}, ftrace {:.0} (ratio {:.2}); rejected by a filter: ravel {:.0}, \
             ftrace {:.0}; once the stream is gone: {:.0}",
            self.what,
            cost(ravel),
            traced_cost(ftrace),
            cost(ravel) / traced_cost(ftrace),
            cost(ravel_not),
            traced_cost(ftrace_not),
            cost(after),
        );
        if self.events.is_none() {
            println!(
                "               a round ({:.0} instructions) has {:.2} events of ravel's, {:.2} of ftrace's",
                nobody / self.rounds as f64,
                told as f64 / rounds as f64,
                traced as f64 / rounds as f64,
            );
        }
        Ok(())
    }
}

/// For a VM whose clock counts instructions.
pub fn run() -> Result<()> {
    println!(
        "Guest instructions that an event adds (aim: within 1.2 of ftrace's; of a packet 600, 60 where a filter rejects \
         it, 0 once the stream is gone):"
    );
    let _function = FunctionEvent::new()?;
    [TCP_STATE, SHUTDOWN, PACKET, PACKET_IPV6]
        .iter()
        .try_for_each(Subject::run)
}
