// SPDX-License-Identifier: GPL-2.0
//! Plays a script: its system calls by us, its packets over a tun device of a network namespace of our own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::Version;
use super::packet::{ACK, Address, Ends, Packet, SYN, TcpOption, decode, encode};
use super::script::{Action, Call, Condition, Outcome, Script, Step, When};
use crate::{sys, tier};

/// How much earlier than a script says a packet may come: as packetdrill has it on slow machines.
const EARLY: Duration = Duration::from_millis(14);

/// Before that, nothing is sent again that was not lost (TCP_RTO_MIN, less a tick).
const AGAIN: Duration = Duration::from_millis(190);

/// Where the other end's connections are to be made to, and by it from.
const PORT: u16 = 8080;
const EPHEMERAL: u16 = 40_000;

/// The other end's first sequence number.
const FIRST: u32 = 0x2000_0000;

/// How much later than a script says something may come on a machine that has other work.
fn late() -> Duration {
    tier::patience(1) / 2
}

/// The connection at hand.
#[derive(Clone)]
struct Connection {
    /// As our packets have them.
    ends: Ends,
    /// Our first sequence number, once it was seen.
    first: Option<u32>,
    /// Our time stamps, less those of the script.
    stamps: Option<u32>,
}

/// A call that blocks.
struct Blocked {
    call: Call,
    thread: JoinHandle<(io::Result<i64>, Instant)>,
    since: Instant,
}

/// Who plays.
pub struct Player {
    version: Version,
    folder: PathBuf,
    wire: File,
    arrivals: Receiver<(Instant, Vec<u8>)>,
    start: Instant,
    /// When the step before was.
    last: Instant,
    /// Open files by their numbers in the script.
    files: BTreeMap<i64, Arc<File>>,
    /// The one that `tcp_info` is asked of.
    subject: Option<i64>,
    connection: Option<Connection>,
    connections: u16,
    /// The port that was bound last.
    bound: u16,
    blocked: Option<Blocked>,
    /// The packet that came last, and when.
    came: Option<(Instant, Packet)>,
}

/// Runs a program, which must succeed.
pub fn run(words: &str) -> Result<()> {
    let mut parts = words.split(' ');
    let output = Command::new(parts.next().context("no program")?)
        .args(parts)
        .output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{words}: {errors}");
    Ok(())
}

impl Player {
    /// Makes the device, with the addresses that the kernel's runner of these scripts gives it.
    pub fn new(version: Version, folder: &Path) -> Result<Self> {
        sys::unshare(libc::CLONE_NEWNET)?;
        sys::loopback_up()?;
        let wire = sys::tun("tun0", libc::IFF_TUN | libc::IFF_NO_PI)?;
        match version {
            Version::Ipv6 => {
                run("ip link set tun0 mtu 1520")?;
                run("ip -6 addr add fd3d:0a0b:17d6::1/64 dev tun0 nodad")?;
                run("ip link set tun0 up")?;
                run("ip -6 route add fd3d:fa7b:d17d::/64 dev tun0")?;
            }
            Version::Ipv4 | Version::Mapped => {
                run("ip addr add 192.168.0.1/16 dev tun0")?;
                run("ip link set tun0 up")?;
                run("ip route add 192.0.2.0/24 dev tun0")?;
            }
        }
        let (tell, arrivals) = channel();
        let mut from = wire.try_clone()?;
        // It ends with the process.
        thread::spawn(move || {
            let mut packet = vec![0; 1 << 16];
            while let Ok(len) = from.read(&mut packet) {
                if tell.send((Instant::now(), packet[..len].to_vec())).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            version,
            folder: folder.to_owned(),
            wire,
            arrivals,
            start: Instant::now(),
            last: Instant::now(),
            files: BTreeMap::new(),
            subject: None,
            connection: None,
            connections: 0,
            bound: 0,
            blocked: None,
            came: None,
        })
    }

    /// From the first step to the last.
    pub fn play(mut self, script: &Script) -> Result<()> {
        ensure!(!script.0.is_empty(), "no step");
        for step in &script.0 {
            self.step(step)
                .with_context(|| format!("line {}", step.line))?;
        }
        self.join()
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        let due = match step.when {
            When::At(time) => self.start + time,
            When::After(time) | When::Within(time, _) => self.last + time,
            When::Any => self.last,
        };
        if let Action::Expect(packet) = &step.action {
            return self.expect(packet, step.when, due);
        }
        thread::sleep(due.saturating_duration_since(Instant::now()));
        self.last = Instant::now();
        match &step.action {
            Action::Call(call) => {
                self.join()?;
                self.call(call)
            }
            Action::Inject(packet) => self.inject(packet),
            Action::Shell(text) => {
                let status = Command::new("bash")
                    .args(["-c", text])
                    .current_dir(&self.folder)
                    .env("PACKETDRILL_PID", sys::getpid().to_string())
                    .status()?;
                ensure!(status.success(), "{text}: {status}");
                // The script's clock begins behind it.
                self.start = Instant::now();
                self.last = self.start;
                Ok(())
            }
            Action::Check(condition) => self.check(*condition),
            Action::Expect(_) => Ok(()),
        }
    }

    fn check(&self, condition: Condition) -> Result<()> {
        let file = self.subject.and_then(|fd| self.files.get(&fd));
        let info = sys::tcp_info(&**file.context("no connection to ask")?)?;
        let (state, options) = (info[0], info[5]);
        let holds = match condition {
            Condition::State(wanted) => state == wanted,
            Condition::Options(bits, set) => (options & bits != 0) == set,
        };
        ensure!(holds, "{condition:?}: state {state}, options {options:#x}");
        Ok(())
    }

    fn file(&self, fd: &str) -> Result<Arc<File>> {
        let file = self.files.get(&fd.parse()?);
        Ok(file.with_context(|| format!("no descriptor {fd}"))?.clone())
    }

    /// An address of ours that stands as `...`, or that of the other end.
    fn address(&self, ours: bool, port: u16) -> sys::Address {
        match (self.version, ours) {
            (Version::Ipv4, true) => sys::Address::inet([0; 4], port),
            (Version::Ipv4, false) => sys::Address::inet(THEM, port),
            (_, true) => sys::Address::inet6([0; 16], port),
            (Version::Ipv6, false) => sys::Address::inet6(THEM6, port),
            (Version::Mapped, false) => {
                let [a, b, c, d] = THEM;
                let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d];
                sys::Address::inet6(mapped, port)
            }
        }
    }

    fn call(&mut self, call: &Call) -> Result<()> {
        let args: Vec<&str> = call.args.iter().map(String::as_str).collect();
        if call.blocks.is_some() {
            let ("connect", [fd, "...", "..."]) = (&*call.name, &args[..]) else {
                bail!("a call that is not known to block: {call:?}");
            };
            let (file, to) = (self.file(fd)?, self.address(false, PORT));
            self.subject = Some(fd.parse()?);
            let thread = thread::spawn(move || {
                let result = sys::connect(&*file, &to).map(|()| 0);
                drop(file);
                (result, Instant::now())
            });
            self.blocked = Some(Blocked {
                call: call.clone(),
                thread,
                since: self.last,
            });
            return Ok(());
        }
        let result = self.result(&call.name, &args, call.outcome)?;
        judge(call, result)
    }

    /// Waits for the call that blocks, if there is one.
    fn join(&mut self) -> Result<()> {
        let Some(blocked) = self.blocked.take() else {
            return Ok(());
        };
        let blocks = blocked.call.blocks.unwrap_or_default();
        let limit = blocked.since + blocks + late();
        while !blocked.thread.is_finished() {
            ensure!(
                Instant::now() < limit,
                "it still blocks: {:?}",
                blocked.call
            );
            thread::sleep(Duration::from_millis(1));
        }
        let joined = blocked.thread.join();
        let (result, end) = joined.ok().context("the thread panicked")?;
        let time = end - blocked.since;
        ensure!(
            time + EARLY >= blocks,
            "it blocked for {time:?} only: {:?}",
            blocked.call
        );
        judge(&blocked.call, result)
    }

    /// Does a call. What is not known is an error of another kind than the call's.
    fn result(&mut self, name: &str, args: &[&str], outcome: Outcome) -> Result<io::Result<i64>> {
        let done = |result: io::Result<()>| result.map(|()| 0);
        Ok(match (name, args) {
            ("socket", ["...", kind, "IPPROTO_TCP"]) => {
                let kind = match *kind {
                    "SOCK_STREAM" => libc::SOCK_STREAM,
                    "SOCK_STREAM|SOCK_NONBLOCK" => libc::SOCK_STREAM | libc::SOCK_NONBLOCK,
                    _ => bail!("an unknown type: {kind}"),
                };
                let family = match self.version {
                    Version::Ipv4 => libc::AF_INET,
                    Version::Ipv6 | Version::Mapped => libc::AF_INET6,
                };
                let file = sys::socket(family, kind, libc::IPPROTO_TCP).map(File::from);
                self.made(file, outcome)?
            }
            ("accept", [fd, "...", "..."]) => {
                let file = sys::accept(&*self.file(fd)?).map(File::from);
                if let (Ok(_), Outcome::Value(fd)) = (&file, outcome) {
                    self.subject = Some(fd);
                }
                self.made(file, outcome)?
            }
            ("setsockopt", [fd, level, option, value, "4"]) => {
                let (level, option) = match (*level, *option) {
                    ("SOL_SOCKET", "SO_REUSEADDR") => (libc::SOL_SOCKET, libc::SO_REUSEADDR),
                    ("SOL_SOCKET", "SO_RCVBUF") => (libc::SOL_SOCKET, libc::SO_RCVBUF),
                    ("SOL_TCP", "TCP_FASTOPEN") => (libc::SOL_TCP, libc::TCP_FASTOPEN),
                    _ => bail!("an unknown option: {level} {option}"),
                };
                let value = value.strip_prefix('[').and_then(|v| v.strip_suffix(']'));
                let value: i32 = value.context("no [VALUE]")?.parse()?;
                done(sys::set_option(&*self.file(fd)?, level, option, value))
            }
            ("bind", [fd, "...", "..."]) => {
                // Whoever holds the file of a listener that we have closed keeps its port.
                self.bound = self.bound.max(PORT) + 1;
                done(sys::bind(&*self.file(fd)?, &self.address(true, self.bound)))
            }
            ("listen", [fd, backlog]) => done(sys::listen(&*self.file(fd)?, backlog.parse()?)),
            ("connect", [fd, to, "..."]) => {
                let to = match *to {
                    "..." => self.address(false, PORT),
                    "AF_UNSPEC" => sys::Address::unspecified(),
                    _ => bail!("an unknown address: {to}"),
                };
                self.subject = Some(fd.parse()?);
                done(sys::connect(&*self.file(fd)?, &to))
            }
            ("read", [fd, "...", len]) => {
                let mut bytes = vec![0; len.parse()?];
                (&*self.file(fd)?).read(&mut bytes).map(|len| len as i64)
            }
            ("write", [fd, "...", len]) => {
                let bytes = vec![0; len.parse()?];
                (&*self.file(fd)?).write(&bytes).map(|len| len as i64)
            }
            ("shutdown", [fd, "SHUT_WR"]) => done(sys::shutdown(&*self.file(fd)?, libc::SHUT_WR)),
            ("fcntl", [fd, "F_SETFL", "O_RDWR|O_NONBLOCK"]) => {
                let flags = libc::O_RDWR | libc::O_NONBLOCK;
                done(sys::set_file_flags(&*self.file(fd)?, flags))
            }
            ("close", [fd]) => {
                let file = self.files.remove(&fd.parse()?);
                let file = Arc::into_inner(file.context("no such descriptor")?);
                drop(file.context("a descriptor in use")?);
                Ok(0)
            }
            _ => bail!("an unknown call: {name}({})", args.join(", ")),
        })
    }

    /// A descriptor, which gets the number that the script has for it.
    fn made(&mut self, file: io::Result<File>, outcome: Outcome) -> Result<io::Result<i64>> {
        Ok(match (file, outcome) {
            (Ok(file), Outcome::Value(fd)) => {
                let before = self.files.insert(fd, Arc::new(file));
                ensure!(before.is_none(), "descriptor {fd} is open already");
                Ok(fd)
            }
            (Ok(_), Outcome::Error(_)) => Ok(-1),
            (Err(error), _) => Err(error),
        })
    }

    /// A packet of the other end.
    fn inject(&mut self, packet: &Packet) -> Result<()> {
        if packet.flags & (SYN | ACK) == SYN {
            ensure!(self.bound != 0, "nothing listens");
            let (from, to) = self.addresses();
            self.connections += 1;
            self.connection = Some(Connection {
                ends: Ends {
                    from,
                    to,
                    from_port: self.bound,
                    to_port: EPHEMERAL + self.connections,
                },
                first: None,
                stamps: None,
            });
        }
        let connection = self.connection.as_ref().context("no connection")?;
        let mut packet = packet.clone();
        packet.seq = packet.seq.wrapping_add(FIRST);
        if let Some(ack) = &mut packet.ack {
            *ack = ack.wrapping_add(connection.first.context("nothing to acknowledge")?);
        }
        for option in packet.options.iter_mut().flatten() {
            if let TcpOption::Timestamps { echo, .. } = option {
                *echo = echo.wrapping_add(connection.stamps.unwrap_or(0));
            }
        }
        let Ends {
            from,
            to,
            from_port,
            to_port,
        } = connection.ends;
        let theirs = Ends {
            from: to,
            to: from,
            from_port: to_port,
            to_port: from_port,
        };
        Ok((&self.wire).write_all(&encode(&packet, &theirs)?)?)
    }

    fn addresses(&self) -> (Address, Address) {
        match self.version {
            Version::Ipv6 => (Address::V6(US6), Address::V6(THEM6)),
            Version::Ipv4 | Version::Mapped => (Address::V4(US), Address::V4(THEM)),
        }
    }

    /// The next packet of TCP that is not one of an earlier connection's.
    fn next(&mut self, until: Instant) -> Result<Option<(Instant, Packet)>> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok((time, bytes)) = self.arrivals.recv_timeout(left) else {
                return Ok(None);
            };
            let Some((ends, packet)) = decode(&bytes)? else {
                continue;
            };
            let first = packet.flags & (SYN | ACK) == SYN;
            if first
                && self
                    .connection
                    .as_ref()
                    .is_none_or(|of| of.first != Some(packet.seq))
            {
                let (from, to) = self.addresses();
                let well = (ends.from, ends.to, ends.to_port) == (from, to, PORT);
                ensure!(well, "a SYN from and to {ends:?}");
                self.connection = Some(Connection {
                    ends,
                    first: None,
                    stamps: None,
                });
            }
            let Some(connection) = &mut self.connection else {
                bail!("a packet of no connection: {packet}");
            };
            if ends == connection.ends {
                if packet.flags & SYN != 0 {
                    connection.first.get_or_insert(packet.seq);
                }
                return Ok(Some((time, packet)));
            }
        }
    }

    /// A packet of ours.
    fn expect(&mut self, wanted: &Packet, when: When, due: Instant) -> Result<()> {
        let until = match when {
            When::Within(_, more) => due + more + late(),
            // It may be a timer's.
            When::Any => due + 8 * late(),
            _ => due + late(),
        };
        loop {
            let next = self.next(until)?;
            let (time, packet) = next.with_context(|| format!("nothing came for {wanted}"))?;
            let seen = self.translate(&packet, wanted)?;
            if !is_as_wanted(&seen, wanted) {
                // The script came late to acknowledge it.
                if let Some((before, last)) = &self.came {
                    if same_bytes(last, &packet) && time - *before >= AGAIN {
                        continue;
                    }
                }
                bail!("wanted {wanted}, and {seen} came");
            }
            ensure!(
                when == When::Any || time + EARLY >= due,
                "{seen} came {:?} early",
                due - time
            );
            self.came = Some((time, packet));
            self.last = self.last.max(time);
            return Ok(());
        }
    }

    /// A packet of ours in the script's numbers.
    fn translate(&mut self, packet: &Packet, wanted: &Packet) -> Result<Packet> {
        let connection = self.connection.as_mut().context("no connection")?;
        let mut seen = packet.clone();
        let first = connection.first;
        // A reset that answers what belongs to no connection has the number that was acknowledged.
        seen.seq = seen.seq.wrapping_sub(first.context("no SYN before")?);
        if let Some(ack) = &mut seen.ack {
            *ack = ack.wrapping_sub(FIRST);
        }
        let stamps_of = |packet: &Packet| {
            let mut options = packet.options.iter().flatten();
            options.find_map(|option| match option {
                TcpOption::Timestamps { value, .. } => Some(*value),
                _ => None,
            })
        };
        if let (Some(live), Some(script)) = (stamps_of(packet), stamps_of(wanted)) {
            connection.stamps.get_or_insert(live.wrapping_sub(script));
        }
        for option in seen.options.iter_mut().flatten() {
            if let TcpOption::Timestamps { value, .. } = option {
                *value = value.wrapping_sub(connection.stamps.unwrap_or(0));
            }
        }
        Ok(seen)
    }
}

const US: [u8; 4] = [192, 168, 0, 1];
const THEM: [u8; 4] = [192, 0, 2, 1];
const US6: [u8; 16] = [
    0xfd, 0x3d, 0x0a, 0x0b, 0x17, 0xd6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
];
const THEM6: [u8; 16] = [
    0xfd, 0x3d, 0xfa, 0x7b, 0xd1, 0x7d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
];

/// Compares how a call ended with how it had to.
fn judge(call: &Call, result: io::Result<i64>) -> Result<()> {
    let outcome = match result {
        Ok(value) => Outcome::Value(value),
        Err(error) => Outcome::Error(sys::errno(&error)),
    };
    ensure!(
        outcome == call.outcome,
        "{}({}) ended with {outcome:?}, not {:?}",
        call.name,
        call.args.join(", "),
        call.outcome
    );
    Ok(())
}

/// Whether a packet was sent again.
fn same_bytes(one: &Packet, other: &Packet) -> bool {
    (one.flags, one.seq, one.len) == (other.flags, other.seq, other.len)
}

/// Whether a packet is the one that a script wants.
fn is_as_wanted(seen: &Packet, wanted: &Packet) -> bool {
    let same = (seen.flags, seen.seq, seen.len, seen.ack)
        == (wanted.flags, wanted.seq, wanted.len, wanted.ack);
    let window = wanted.window.is_none() || seen.window == wanted.window;
    let options = match (&seen.options, &wanted.options) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(seen), Some(wanted)) => {
            seen.len() == wanted.len() && seen.iter().zip(wanted).all(is_option)
        }
    };
    same && window && options
}

/// Time stamps, in milliseconds, may be as far off as packets may.
fn is_option((seen, wanted): (&TcpOption, &TcpOption)) -> bool {
    match (seen, wanted) {
        (
            TcpOption::Timestamps { value, echo },
            TcpOption::Timestamps {
                value: wanted,
                echo: wanted_echo,
            },
        ) => {
            let earliest = wanted.saturating_sub(EARLY.as_millis() as u32);
            let latest = wanted + late().as_millis() as u32;
            (earliest..=latest).contains(value) && echo == wanted_echo
        }
        _ => seen == wanted,
    }
}
