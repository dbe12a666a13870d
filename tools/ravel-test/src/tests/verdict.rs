// SPDX-License-Identifier: GPL-2.0
//! What close() and shutdown() would do: foreseen from a `socket` record, then really done, with the
//! packets captured and the peer's reads and writes observed.

use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ravel_records::{Effect, Operation, PeerSees, Reads, SkState, Verdict, WriteFirst};

use self::scenes::{
    Make, Place, STATES, Scene, TCP, corked, sends, state_of, udp_pair, unix_listener, unix_scenes,
};
use super::peers::wait_for;
use crate::harness::say;
use crate::report::own_socket;
use crate::sys::{self, Address};
use crate::{check, check_eq, tests};

mod early;
mod scenes;
use early::{
    closed_listener_gives_up_handshakes, shutdown_before_the_handshake_ends,
    sockets_that_tell_nobody,
};

tests!("verdict":
    tcp_close [300 s],
    tcp_close_of_one_of_two [300 s],
    tcp_close_with_linger_0 [300 s],
    tcp_close_with_linger_1 [300 s],
    tcp_shutdown [300 s],
    tcp_linger2_below_0 [120 s],
    tcp_over_ipv6 [300 s],
    unix_stream [300 s],
    unix_seqpacket [300 s],
    unix_datagram [300 s],
    udp [120 s],
    tcp_writers_meet_the_error_first [300 s],
    tcp_writers_over_ipv6 [300 s],
    tcp_writers_with_linger_0 [300 s],
    unix_writers_meet_the_error_first [300 s],
    unix_clients_that_wait_for_accept,
    shutdown_before_the_handshake_ends,
    closed_listener_gives_up_handshakes,
    sockets_that_tell_nobody,
    kinds_without_rules_have_no_verdict,
);

/// TCP segments heard: flags, bytes of data, port that sent it.
fn heard(place: &Place) -> Vec<(u8, usize, u16)> {
    let mut all = Vec::new();
    while let Ok(packet) = sys::recv(&place.capture, 70_000, libc::MSG_DONTWAIT) {
        let (header, total, protocol) = match packet[0] >> 4 {
            4 => {
                let total = u16::from_be_bytes([packet[2], packet[3]]) as usize;
                let header = usize::from(packet[0] & 15) * 4;
                // 0: longer than 16 bits can say (BIG TCP).
                (
                    header,
                    if total == 0 { packet.len() } else { total },
                    packet[9],
                )
            }
            _ => {
                let payload = u16::from_be_bytes([packet[4], packet[5]]) as usize;
                (40, 40 + payload, packet[6])
            }
        };
        if protocol != libc::IPPROTO_TCP as u8 {
            continue;
        }
        let tcp = &packet[header..];
        let data = total - header - usize::from(tcp[12] >> 4) * 4;
        all.push((tcp[13], data, u16::from_be_bytes([tcp[0], tcp[1]])));
    }
    all
}

const FIN: u8 = 1;
const RST: u8 = 4;

/// The state of a connection that may have no descriptor any more, by /proc/net/tcp: CLOSE where it is gone.
fn state_in_proc(place: &Place, local: u16, remote: Option<u16>) -> Result<String> {
    let name = if place.v6 { "tcp6" } else { "tcp" };
    for line in fs::read_to_string(format!("/proc/self/net/{name}"))?
        .lines()
        .skip(1)
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        let port = |word: &str| -> Result<u16> {
            let (_, port) = word.rsplit_once(':').context("no port")?;
            Ok(u16::from_str_radix(port, 16)?)
        };
        if port(words[1])? == local && remote.is_none_or(|r| port(words[2]).is_ok_and(|p| p == r)) {
            return Ok(STATES[usize::from(u8::from_str_radix(words[3], 16)?)].to_owned());
        }
    }
    Ok("CLOSE".to_owned())
}

fn port_in(address: &ravel_records::Text) -> Option<u16> {
    address.to_string().rsplit_once(':')?.1.parse().ok()
}

/// Does it: the errno, and how long it took.
fn perform(fd: OwnedFd, operation: Operation) -> (Option<OwnedFd>, i32, Duration) {
    let since = Instant::now();
    let how = match operation {
        Operation::Close => {
            drop(fd);
            return (None, 0, since.elapsed());
        }
        Operation::ShutRd => libc::SHUT_RD,
        Operation::ShutWr => libc::SHUT_WR,
        Operation::ShutRdWr => libc::SHUT_RDWR,
    };
    let errno = sys::shutdown(&fd, how).map_or_else(|e| sys::errno(&e), |()| 0);
    (Some(fd), errno, since.elapsed())
}

/// Which the peer does first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Read,
    Write,
}

/// Writes a byte: the errno.
fn write(peer: &OwnedFd) -> i32 {
    let result = sys::send(peer, b"w", libc::MSG_DONTWAIT);
    std::thread::sleep(Duration::from_millis(3));
    result.map_or_else(|e| sys::errno(&e), |_| 0)
}

/// Reads all there is, then writes twice; or the other way round. What was not looked at is as
/// expected.
fn observe(peer: &OwnedFd, expected: &PeerSees, first: First) -> Result<PeerSees> {
    match first {
        First::Read => {
            let (bytes, reads) = read_all(peer, expected.bytes, &expected.reads)?;
            Ok(PeerSees {
                bytes: expected.bytes.map(|_| bytes),
                reads,
                writes: [write(peer), write(peer)],
                ..*expected
            })
        }
        First::Write => {
            let want = expected.write_first;
            let writes = [write(peer), write(peer)];
            let (bytes, reads) = read_all(peer, want.bytes, &want.reads)?;
            Ok(PeerSees {
                write_first: WriteFirst {
                    bytes: want.bytes.map(|_| bytes),
                    writes,
                    reads,
                },
                ..*expected
            })
        }
    }
}

/// Reads all there is: how many bytes, and what comes behind them.
fn read_all(peer: &OwnedFd, want: Option<u64>, expected: &Reads) -> Result<(u64, Reads)> {
    let (mut bytes, mut reads) = (0, None);
    let mut first = None;
    loop {
        match sys::recv(peer, 70_000, libc::MSG_DONTWAIT) {
            Ok(data) if data.is_empty() => break,
            Ok(data) => {
                bytes += data.len() as u64;
                first.get_or_insert(true);
            }
            Err(e) if sys::errno(&e) == libc::EAGAIN => {
                let done = *expected == Reads::Open && want.is_none_or(|b| b <= bytes);
                let patience = if done { 60 } else { 3000 };
                if !sys::poll(peer, libc::POLLIN, patience)? {
                    reads.get_or_insert(Reads::Open);
                    break;
                }
            }
            Err(e) => {
                let errno = sys::errno(&e);
                check!(reads.is_none(), "reads fail again, with errno {errno}");
                reads = Some(match first {
                    None => Reads::FailsFirst(errno),
                    Some(_) => Reads::Fails(errno),
                });
            }
        }
    }
    let mut reads = reads.unwrap_or(Reads::Eof);
    // Without anything queued, the two are one.
    if let (Reads::FailsFirst(errno), 0) = (reads, bytes) {
        if matches!(expected, Reads::Fails(_)) {
            reads = Reads::Fails(errno);
        }
    }
    Ok((bytes, reads))
}

/// Checks what was sent, and where the connection is now.
fn check_tcp(
    place: &Place,
    verdict: &Verdict,
    ports: (u16, Option<u16>),
    left: Option<&OwnedFd>,
    before: Option<String>,
) -> Result<()> {
    let want = match verdict.effect {
        Effect::Fin { waits: true, .. } => (0, 0),
        Effect::Fin { then_reset, .. } => (1, u64::from(then_reset)),
        Effect::Reset { .. } => (0, 1),
        Effect::ResetsWaiting { connections, .. } => (0, connections),
        _ => (0, 0),
    };
    let mut ours = Vec::new();
    let count = |ours: &[(u8, usize, u16)], flag| {
        ours.iter().filter(|packet| packet.0 & flag != 0).count() as u64
    };
    // What is sent is heard at once, but for what an acknowledgement brings about, which may be delayed.
    let _ = wait_for("the packets", || {
        ours.extend(
            heard(place)
                .into_iter()
                .filter(|packet| packet.2 == ports.0),
        );
        Ok(count(&ours, FIN) >= want.0 && count(&ours, RST) >= want.1)
    });
    // A FIN that is acknowledged late is sent again, and so is a reset that late packets ask for.
    let at_most = |sent: u64, want: u64| if want > 0 { sent.min(want) } else { sent };
    check_eq!(
        (
            at_most(count(&ours, FIN), want.0),
            at_most(count(&ours, RST), want.1)
        ),
        want,
        "FINs and RSTs sent, of {ours:x?}"
    );
    if let Effect::Fin {
        behind,
        waits: false,
        ..
    } = verdict.effect
    {
        let last = ours
            .iter()
            .position(|packet| packet.0 & FIN != 0)
            .unwrap_or(0);
        let data: usize = ours[..=last].iter().map(|packet| packet.1).sum();
        check_eq!(data as u64, behind, "bytes sent before FIN, of {ours:x?}");
    }
    let waits = matches!(verdict.effect, Effect::Fin { waits: true, .. });
    // A socket that is closed already is not the connection any more, of which TIME_WAIT may be left.
    let want = match (waits, before) {
        (_, Some(before)) => before,
        (true, None) => verdict.state.to_string(),
        (false, None) => verdict.settled.to_string(),
    };
    let state = || match left {
        Some(fd) => Ok(STATES[usize::from(state_of(fd)?)].to_owned()),
        None => state_in_proc(place, ports.0, ports.1),
    };
    let _ = wait_for("the state", || Ok(state()? == want));
    check_eq!(state()?, want, "state afterwards");
    Ok(())
}

/// How a situation is played.
#[derive(Clone, Copy, Debug)]
struct How {
    operation: Operation,
    /// Another descriptor of the same file stays open.
    shared: bool,
    first: First,
}

/// Foresees, does, observes, compares.
fn play(place: &Place, mut scene: Scene, how: How) -> Result<Verdict> {
    let How {
        operation,
        shared,
        first,
    } = how;
    let copy = if shared {
        Some(scene.fd.try_clone()?)
    } else {
        None
    };
    let (socket, detail) = own_socket(&scene.fd)?;
    let verdict = socket.verdict(operation).context("nothing is foreseen")?;
    let tcp = detail.tcp.is_some();
    let ports = (port_in(&detail.local).unwrap_or(0), port_in(&detail.remote));
    let before = match detail.sk_state == SkState::Close && operation == Operation::Close && !shared
    {
        true => Some(state_in_proc(place, ports.0, ports.1)?),
        false => None,
    };
    heard(place);
    let (left, errno, took) = perform(scene.fd, operation);
    check_eq!(errno, verdict.errno, "errno of the call");
    let seconds = verdict.blocks.unwrap_or(0);
    let waits = match verdict.effect {
        Effect::Fin { waits, .. } => waits,
        _ => true,
    };
    if seconds > 0 && waits {
        check!(
            took >= Duration::from_millis(seconds * 1000 - 50),
            "it took {took:?} only"
        );
    } else {
        check!(took < Duration::from_millis(900), "it took {took:?}");
    }
    let left = left.or(copy);
    if tcp {
        check_tcp(place, &verdict, ports, left.as_ref(), before)?;
    }
    check_eq!(
        verdict.peer.is_some() || scene.peers.is_empty(),
        true,
        "nothing foreseen for the peer"
    );
    // Who accepts only now finds what was done before.
    if let Some(listener) = &scene.accepts {
        scene.peers.push(sys::accept(listener)?);
    }
    for peer in &scene.peers {
        let expected = verdict.peer.context("no peer is foreseen")?;
        let seen = observe(peer, &expected, first)?;
        check_eq!(seen, expected, "what the peer sees");
    }
    Ok(verdict)
}

/// All scenes with some operations: how many were played.
fn matrix(
    place: &Place,
    scenes: &[(&str, Make)],
    operations: &[Operation],
    linger: Option<i32>,
    shared: bool,
) -> Result<usize> {
    matrix_of(place, scenes, operations, linger, shared, First::Read)
}

/// The same, by which the peer does first.
fn matrix_of(
    place: &Place,
    scenes: &[(&str, Make)],
    operations: &[Operation],
    linger: Option<i32>,
    shared: bool,
    first: First,
) -> Result<usize> {
    let mut wrong = Vec::new();
    let mut played = 0;
    for (name, make) in scenes {
        for operation in operations {
            let scene = make(place).with_context(|| format!("set up: {name}"))?;
            if let Some(seconds) = linger {
                sys::set_linger(&scene.fd, true, seconds)?;
            }
            let record = own_socket(&scene.fd)?;
            played += 1;
            let how = How {
                operation: *operation,
                shared,
                first,
            };
            if let Err(e) = play(place, scene, how) {
                let foreseen = record.0.verdict(*operation);
                wrong.push(format!(
                    "{operation:?} of {name}: {e:#}\n  {foreseen:?}\n  {record:?}"
                ));
            }
        }
    }
    say(format!("{played} situations"));
    match wrong.is_empty() {
        true => Ok(played),
        false => bail!(
            "{} of {played} were wrong\n{}",
            wrong.len(),
            wrong.join("\n")
        ),
    }
}

const CLOSE_ONLY: &[Operation] = &[Operation::Close];
const SHUTDOWNS: &[Operation] = &[Operation::ShutRd, Operation::ShutWr, Operation::ShutRdWr];

fn tcp_close() -> Result<()> {
    let place = Place::new()?;
    matrix(&place, TCP, CLOSE_ONLY, None, false)?;
    matrix(&place, &[("corked", corked)], CLOSE_ONLY, None, false).map(drop)
}

fn tcp_close_of_one_of_two() -> Result<()> {
    matrix(&Place::new()?, TCP, CLOSE_ONLY, None, true).map(drop)
}

fn tcp_close_with_linger_0() -> Result<()> {
    matrix(&Place::new()?, TCP, CLOSE_ONLY, Some(0), false).map(drop)
}

fn tcp_close_with_linger_1() -> Result<()> {
    matrix(&Place::new()?, TCP, CLOSE_ONLY, Some(1), false).map(drop)
}

fn tcp_shutdown() -> Result<()> {
    let place = Place::new()?;
    matrix(&place, TCP, SHUTDOWNS, None, false)?;
    let sending = &[Operation::ShutWr, Operation::ShutRdWr];
    matrix(&place, &[("corked", corked)], sending, None, false)?;
    // SO_LINGER does not change it, nor do others that have the socket.
    matrix(&place, &TCP[..8], SHUTDOWNS, Some(0), true).map(drop)
}

fn tcp_linger2_below_0() -> Result<()> {
    let place = Place::new()?;
    let scenes: &[(&str, Make)] = &[
        ("established", |place| linger2(TCP[0].1(place)?)),
        ("7 bytes unread there", |place| linger2(TCP[5].1(place)?)),
        ("FIN_WAIT2", |place| linger2(TCP[11].1(place)?)),
        ("CLOSE_WAIT", |place| linger2(TCP[15].1(place)?)),
    ];
    matrix(&place, scenes, &Operation::ALL, None, false).map(drop)
}

fn linger2(scene: Scene) -> Result<Scene> {
    sys::set_option(&scene.fd, libc::IPPROTO_TCP, libc::TCP_LINGER2, -1)?;
    Ok(scene)
}

fn tcp_over_ipv6() -> Result<()> {
    let mut place = Place::new()?;
    place.v6 = true;
    matrix(&place, TCP, &Operation::ALL, None, false).map(drop)
}

fn unix(kind: i32, first: First) -> Result<()> {
    let place = Place::new()?;
    let mut wrong = Vec::new();
    let mut played = 0;
    for (name, make) in unix_scenes(kind) {
        for (operation, shared) in Operation::ALL
            .map(|operation| (operation, false))
            .into_iter()
            .chain([(Operation::Close, true)])
        {
            let mut scene = make()?;
            let listens = own_socket(&scene.fd)?.1.sk_state == SkState::Listen;
            // Those who wait see nothing of what only a close() would do to them.
            if listens && (shared || operation != Operation::Close) {
                scene.kept = std::mem::take(&mut scene.peers);
            }
            played += 1;
            let how = How {
                operation,
                shared,
                first,
            };
            if let Err(e) = play(&place, scene, how) {
                wrong.push(format!("{operation:?} of {name}, shared {shared}: {e:#}"));
            }
        }
    }
    say(format!("{played} situations"));
    match wrong.is_empty() {
        true => Ok(()),
        false => bail!(
            "{} of {played} were wrong\n{}",
            wrong.len(),
            wrong.join("\n")
        ),
    }
}

fn unix_stream() -> Result<()> {
    unix(libc::SOCK_STREAM, First::Read)
}

fn unix_seqpacket() -> Result<()> {
    unix(libc::SOCK_SEQPACKET, First::Read)
}

fn unix_datagram() -> Result<()> {
    unix(libc::SOCK_DGRAM, First::Read)
}

fn udp() -> Result<()> {
    let scenes: &[(&str, Make)] = &[
        ("connected", |_| {
            let (one, two) = udp_pair()?;
            Ok(Scene::new(one, vec![two]))
        }),
        ("unread here", |_| {
            let (one, two) = udp_pair()?;
            sends(&two, &one, 5)?;
            Ok(Scene::new(one, vec![two]))
        }),
        ("unread there", |_| {
            let (one, two) = udp_pair()?;
            sends(&one, &two, 7)?;
            Ok(Scene::new(one, vec![two]))
        }),
        ("RD shut", |_| {
            let (one, two) = udp_pair()?;
            sys::shutdown(&one, libc::SHUT_RD)?;
            Ok(Scene::new(one, vec![two]))
        }),
        ("not connected", |_| {
            let fd = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
            sys::bind(&fd, &Address::loopback(0))?;
            Ok(Scene::new(fd, vec![]))
        }),
        ("fresh", |_| {
            Ok(Scene::new(
                sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?,
                vec![],
            ))
        }),
    ];
    let place = Place::new()?;
    matrix(&place, scenes, &Operation::ALL, None, false)?;
    matrix(&place, scenes, CLOSE_ONLY, Some(0), false)?;
    matrix(&place, scenes, CLOSE_ONLY, None, true).map(drop)
}

fn tcp_writers_meet_the_error_first() -> Result<()> {
    let place = Place::new()?;
    matrix_of(&place, TCP, &Operation::ALL, None, false, First::Write)?;
    matrix_of(&place, TCP, CLOSE_ONLY, None, true, First::Write).map(drop)
}

fn tcp_writers_over_ipv6() -> Result<()> {
    let mut place = Place::new()?;
    place.v6 = true;
    matrix_of(&place, TCP, &Operation::ALL, None, false, First::Write).map(drop)
}

fn tcp_writers_with_linger_0() -> Result<()> {
    let place = Place::new()?;
    matrix_of(&place, TCP, CLOSE_ONLY, Some(0), false, First::Write).map(drop)
}

fn unix_writers_meet_the_error_first() -> Result<()> {
    unix(libc::SOCK_STREAM, First::Write)?;
    unix(libc::SOCK_SEQPACKET, First::Write)?;
    unix(libc::SOCK_DGRAM, First::Write)
}

fn unix_clients_that_wait_for_accept() -> Result<()> {
    let place = Place::new()?;
    for kind in [libc::SOCK_STREAM, libc::SOCK_SEQPACKET] {
        for operation in Operation::ALL {
            for first in [First::Read, First::Write] {
                let (listener, address) = unix_listener(kind)?;
                let client = sys::socket(libc::AF_UNIX, kind, 0)?;
                sys::connect(&client, &address)?;
                sys::send(&client, b"before", 0)?;
                let mut scene = Scene::new(client, vec![]);
                scene.accepts = Some(listener);
                let how = How {
                    operation,
                    shared: false,
                    first,
                };
                let verdict = play(&place, scene, how);
                let verdict = verdict.with_context(|| format!("{how:?} of kind {kind}"))?;
                check_eq!(verdict.effect, Effect::TellsPeer, "effect of {how:?}");
            }
        }
    }
    Ok(())
}

fn kinds_without_rules_have_no_verdict() -> Result<()> {
    for (family, kind, protocol) in [
        (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
        (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP),
        (libc::AF_VSOCK, libc::SOCK_STREAM, 0),
    ] {
        let fd = sys::socket(family, kind, protocol)?;
        check!(
            own_socket(&fd)?.0.verdicts().is_none(),
            "a verdict on family {family}"
        );
    }
    Ok(())
}
