// SPDX-License-Identifier: GPL-2.0
//! Packets on their way through the stack: where they come by and with which offsets, compared with what their
//! headers demand, with captures, and with the kernel's own counts.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use ravel_records::walks::{Crossing, Origin, Walks};
use ravel_records::{Event, Id, Packet, Point};

use super::netevents::{Ftrace, inode};
use super::packets_parts::{Veth, ip};
use super::peers::{pair, wait_for};
use crate::report::own_socket;
use crate::stream::{Made, check_numbers, lost};
use crate::sys;
use crate::tier::scale;
use crate::{check, check_eq, tests};

tests!("packets":
    datagrams_over_loopback_are_told_at_each_point [60 s],
    connection_over_loopback_is_told_as_a_capture_sees_it [60 s],
    datagram_from_one_namespace_to_another [60 s],
    drops_are_told_as_ftrace_counts_them [60 s],
    socket_has_its_packets_and_no_others [60 s],
    address_port_and_protocol_have_their_packets_and_no_others [60 s],
    sk_buffs_that_are_used_again_are_told_apart [120 s],
    flood_is_delivered_or_counted [120 s],
);

/// Goes to a network namespace and a CPU where there is nobody else: what another CPU has made, the kernel may free much
/// later.
pub(super) fn alone() -> Result<u64> {
    sys::run_on(0)?;
    super::netevents::alone()
}

/// One packet, from crossing to crossing.
pub(super) type Walk = Vec<(Packet, Crossing)>;

/// The packets of a whole stream, in the order in which they begin.
pub(super) fn walks(events: &[Event]) -> Vec<Walk> {
    let mut walks = Walks::new();
    let mut all: BTreeMap<u64, Walk> = BTreeMap::new();
    for event in events {
        if let (Event::Packet(packet), Some(crossing)) = (event, walks.take(event)) {
            all.entry(crossing.packet)
                .or_default()
                .push((packet.clone(), crossing));
        }
    }
    all.into_values().collect()
}

/// Where a packet came by.
pub(super) fn points(walk: &Walk) -> Vec<&str> {
    walk.iter()
        .map(|(packet, _)| packet.point.as_str())
        .collect()
}

/// Its crossing of a point, of which there has to be one.
pub(super) fn at<'w>(walk: &'w Walk, point: &Point) -> Result<&'w Packet> {
    let mut found = walk.iter().filter(|(packet, _)| packet.point == *point);
    let packet = &found
        .next()
        .with_context(|| format!("not at {point}: {walk:?}"))?
        .0;
    check!(found.next().is_none(), "twice at {point}: {walk:?}");
    Ok(packet)
}

/// The stream's events until all packets in it have ended, at least so many.
pub(super) fn until_ended(stream: &Made, least: usize) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    wait_for("the packets' end", || {
        events.extend(stream.drain()?);
        let walks = walks(&events);
        let all = walks
            .iter()
            .all(|walk| walk.last().is_some_and(|(_, last)| last.ended));
        Ok(walks.len() >= least && all)
    })?;
    check_eq!(
        check_numbers(&events, 1)?,
        events.len() as u64 + 1,
        "the number behind the last"
    );
    check_eq!(stream.state()?.missed, 0, "missed");
    Ok(events)
}

/// Checks the offsets of a packet that has an Ethernet header, IP's and another, and a number of bytes behind them.
pub(super) fn check_offsets(walk: &Walk, ip: u64, transport: u64, bytes: u64) -> Result<()> {
    let network = at(walk, &Point::Output)?.data;
    let head = walk[0].0.head;
    for (packet, _) in walk {
        let header = |offset: ravel_records::Offset| offset.get().map(u64::from);
        // Where its data begins, and what is still to come.
        let (data, len) = match packet.point {
            Point::Output | Point::Receive | Point::Ip => (network, ip + transport + bytes),
            Point::Queue | Point::Transmit => (network - 14, 14 + ip + transport + bytes),
            Point::Transport => (network + ip, transport + bytes),
            Point::Copy => (network + ip + transport, bytes),
            _ => continue,
        };
        check_eq!(
            (packet.data, packet.len),
            (data, len),
            "data and length: {packet:?}"
        );
        check_eq!(packet.head, head, "head");
        check_eq!(
            header(packet.network),
            Some(network),
            "network header: {packet:?}"
        );
        check_eq!(
            header(packet.transport),
            Some(network + ip),
            "transport header: {packet:?}"
        );
        if packet.point != Point::Output {
            check_eq!(
                header(packet.mac),
                Some(network - 14),
                "mac header: {packet:?}"
            );
        }
        check_eq!(packet.inner_network.get(), None, "inner header");
        check_eq!(
            packet.tail - packet.data,
            packet.len - packet.data_len,
            "linear part: {packet:?}"
        );
        check!(packet.end >= packet.tail, "tail behind the end: {packet:?}");
    }
    Ok(())
}

/// How a datagram ends that is read.
fn is_read(points: &[&str]) -> bool {
    matches!(
        points,
        ["copy", "free"] | ["copy", "free", "consume", "free"] | ["copy", "consume", "free"]
    )
}

pub(super) const LOOP: [&str; 6] = ["output", "queue", "transmit", "receive", "ip", "transport"];

fn datagrams_over_loopback_are_told_at_each_point() -> Result<()> {
    let netns = alone()?;
    for (address, ip, protocol) in [("127.0.0.1:0", 20, 0x0800), ("[::1]:0", 40, 0x86dd)] {
        let (one, two) = (UdpSocket::bind(address)?, UdpSocket::bind(address)?);
        let (from, to) = (one.local_addr()?, two.local_addr()?);
        let stream = Made::new("udp", &format!("sources=packet port={}", to.port()))?;
        let lengths = [0usize, 1, 13, 500, 1400, 30_000];
        for len in lengths {
            one.send_to(&vec![7; len], to)?;
            check_eq!(two.recv(&mut [0; 40_000])?, len, "bytes");
        }
        let walks = walks(&until_ended(&stream, lengths.len())?);
        check_eq!(walks.len(), lengths.len(), "packets");
        let sender = own_socket(&one)?.0;
        for (walk, len) in walks.iter().zip(lengths) {
            let points = points(walk);
            check_eq!(points[..6], LOOP, "points");
            check!(is_read(&points[6..]), "end: {points:?}");
            check_offsets(walk, ip, 8, len as u64)?;
            for (packet, crossing) in walk {
                check_eq!(packet.skb, walk[0].0.skb, "sk_buff");
                check_eq!(
                    (packet.from.to_string(), packet.to.to_string()),
                    (from.to_string(), to.to_string()),
                    "ends"
                );
                check_eq!(
                    (packet.protocol.0, packet.carries.as_str()),
                    (protocol, "udp"),
                    "protocol"
                );
                check_eq!(crossing.origin, Origin::Own, "origin");
                check!(crossing.certain, "uncertain: {packet:?}");
                check_eq!(
                    (packet.reason.as_str(), packet.shared),
                    ("none", false),
                    "reason, shared"
                );
            }
            for packet in walk[..3].iter().map(|(packet, _)| packet) {
                check_eq!(
                    (packet.id, packet.inode),
                    (sender.id, inode(&one)?),
                    "the socket that sends it"
                );
            }
            for packet in walk[..6].iter().map(|(packet, _)| packet) {
                check_eq!(
                    (packet.device, packet.netns),
                    (1, netns),
                    "device and namespace"
                );
            }
            check_eq!(at(walk, &Point::Copy)?.copied, len as u64, "copied");
        }
    }
    Ok(())
}

/// What a packet socket has heard: of each packet, as many bytes as stand in its IP header.
fn captured(capture: &impl AsRawFd, port: u16) -> Result<Vec<(u64, u32)>> {
    let mut all = Vec::new();
    loop {
        let packet = match sys::recv(capture, 2048, libc::MSG_TRUNC) {
            Ok(packet) => packet,
            Err(error) if sys::errno(&error) == libc::EAGAIN => return Ok(all),
            Err(error) => return Err(error.into()),
        };
        let number = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        if number(20) == port || number(22) == port {
            let sequence = (u32::from(number(24)) << 16) | u32::from(number(26));
            all.push((number(2).into(), sequence));
        }
    }
}

fn connection_over_loopback_is_told_as_a_capture_sees_it() -> Result<()> {
    alone()?;
    let capture = sys::capture_loopback()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let stream = Made::new("tcp", &format!("sources=packet bytes=4194304 port={port}"))?;
    let mut one = TcpStream::connect(listener.local_addr()?)?;
    let (mut two, _) = listener.accept()?;
    for len in [1, 100, 1000] {
        one.write_all(&vec![7; len])?;
        two.read_exact(&mut vec![0; len])?;
        two.write_all(&[8; 50])?;
        one.read_exact(&mut [0; 50])?;
    }
    drop(one);
    check_eq!(two.read(&mut [0])?, 0, "bytes behind the end");
    drop(two);
    // The last acknowledgement takes a moment.
    let mut heard = Vec::new();
    let mut since = std::time::Instant::now();
    wait_for("the last packet", || {
        let more = captured(&capture, port)?;
        if !more.is_empty() {
            since = std::time::Instant::now();
        }
        heard.extend(more);
        Ok(since.elapsed().as_millis() > 300)
    })?;
    let all = walks(&until_ended(&stream, 2 * heard.len())?);
    let (sent, clones): (Vec<&Walk>, Vec<&Walk>) = all
        .iter()
        .partition(|walk| points(walk).contains(&"receive"));
    check_eq!(sent.len(), heard.len(), "packets, as they were captured");
    for (walk, (len, sequence)) in sent.iter().zip(&heard) {
        check_eq!(points(walk)[..6], LOOP, "points");
        let packet = at(walk, &Point::Ip)?;
        check_eq!(
            (packet.len, packet.sequence),
            (*len, *sequence),
            "length and number, as captured"
        );
        let output = at(walk, &Point::Output)?;
        let transport = at(walk, &Point::Transport)?;
        check_eq!(transport.data - output.data, 20, "IP header");
        check_eq!(
            u64::from(transport.transport.raw),
            transport.data,
            "transport header"
        );
        check_eq!(walk[0].1.origin, Origin::Own, "origin");
    }
    // What was captured is a clone of each: read once, and of a packet that this stream has.
    let numbers: BTreeSet<u64> = sent.iter().map(|walk| walk[0].1.packet).collect();
    let mut linked = BTreeSet::new();
    for walk in &clones {
        let Origin::Clone(of) = walk[0].1.origin else {
            anyhow::bail!("not a clone: {walk:?}");
        };
        check!(
            numbers.contains(&of),
            "clone of what is no packet: {walk:?}"
        );
        check_eq!(
            points(walk).first(),
            Some(&"copy"),
            "the first of a capture"
        );
        check!(linked.insert(of), "captured twice: {of}");
    }
    check_eq!(linked, numbers, "packets that were captured");
    // What each end read of the other, by where it was copied.
    let copied: u64 = sent
        .iter()
        .flat_map(|walk| walk.iter())
        .map(|(packet, _)| packet.copied)
        .sum();
    check_eq!(copied, 1101 + 150, "bytes read");
    Ok(())
}

fn datagram_from_one_namespace_to_another() -> Result<()> {
    let netns = alone()?;
    for gro in [false, true] {
        let mut veth = Veth::new(gro, |link| {
            let socket = UdpSocket::bind("10.9.0.2:4000")?;
            link.send("ready")?;
            for _ in 0..2 {
                check_eq!(socket.recv(&mut [0; 2000])?, 321, "bytes");
                link.send("read")?;
            }
            Ok(())
        })?;
        veth.child.link.wait()?;
        let one = UdpSocket::bind("10.9.0.1:0")?;
        // Whoever has the other address is asked for first, and meanwhile the datagram waits.
        one.send_to(&[7; 321], "10.9.0.2:4000")?;
        veth.child.link.wait()?;
        let stream = Made::new("veth", "sources=packet address=10.9.0.2 port=4000")?;
        one.send_to(&[7; 321], "10.9.0.2:4000")?;
        veth.child.link.wait()?;
        let walks = walks(&until_ended(&stream, 1)?);
        check_eq!(walks.len(), 1, "packets");
        let points = points(&walks[0]);
        let way: &[&str] = match gro {
            false => &LOOP,
            true => &[
                "output",
                "queue",
                "transmit",
                "gro",
                "receive",
                "ip",
                "transport",
            ],
        };
        check_eq!(points[..way.len()], *way, "points");
        check!(is_read(&points[way.len()..]), "end: {points:?}");
        check_offsets(&walks[0], 20, 8, 321)?;
        for (packet, _) in &walks[0] {
            let wanted = match packet.point {
                Point::Output | Point::Queue | Point::Transmit => (veth.devices[0], netns),
                Point::Gro | Point::Receive | Point::Ip | Point::Transport => {
                    (veth.devices[1], veth.netns)
                }
                _ => continue,
            };
            check_eq!(
                (packet.device, packet.netns),
                wanted,
                "device and namespace: {packet:?}"
            );
        }
        veth.child.join()?;
        // It may have gone by now, with the namespace of its other end.
        let _ = ip("link del here");
    }
    Ok(())
}

fn drops_are_told_as_ftrace_counts_them() -> Result<()> {
    alone()?;
    let total = scale(300, 60);
    let full = UdpSocket::bind("127.0.0.1:0")?;
    sys::set_option(&full, libc::SOL_SOCKET, libc::SO_RCVBUF, 4096)?;
    let sender = UdpSocket::bind("127.0.0.1:0")?;
    let free = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
    let target = full.local_addr()?;
    let ftrace = Ftrace::new()?;
    let terms = format!(
        "sources=packet bytes=16777216 port={}",
        sender.local_addr()?.port()
    );
    let stream = Made::new("drops", &terms)?;
    for _ in 0..total {
        sender.send_to(b"nobody", free)?;
        sender.send_to(&[7; 400], target)?;
    }
    let traced = ftrace.counts()?;
    let events = stream.drain()?;
    drop(ftrace);
    check_eq!(
        check_numbers(&events, 1)?,
        events.len() as u64 + 1,
        "the number behind the last"
    );
    let walks = walks(&events);
    let socket = own_socket(&full)?.0;
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    for (to, reason, id) in [
        (free, "NO_SOCKET", Id::NONE),
        (target, "SOCKET_RCVBUFF", socket.id),
    ] {
        let to = to.to_string();
        let dropped: Vec<&Walk> = walks
            .iter()
            .filter(|walk| walk[0].0.to.to_string() == to && points(walk).contains(&"drop"))
            .collect();
        check!(dropped.len() > total / 2, "hardly any {reason}");
        for walk in dropped {
            check_eq!(
                points(walk),
                [&LOOP[..], &["drop", "free"]].concat(),
                "points"
            );
            let packet = at(walk, &Point::Drop)?;
            check_eq!(
                (packet.reason.as_str(), packet.id),
                (reason, id),
                "reason and socket"
            );
            *counts
                .entry((packet.location.to_string(), packet.reason.to_string()))
                .or_default() += 1;
        }
    }
    for (key, count) in counts {
        check_eq!(
            Some(&count),
            traced.get(&key),
            "ftrace on {key:?}: {traced:?}"
        );
    }
    let nobody = walks
        .iter()
        .filter(|walk| walk[0].0.to.to_string() == free.to_string())
        .count();
    check_eq!(nobody, total, "datagrams for nobody");
    Ok(())
}

/// The ends of all that a stream tells of, each as its packets have them.
fn ends(events: &[Event]) -> BTreeSet<(String, String)> {
    let packets = events.iter().filter_map(|event| match event {
        Event::Packet(packet) => Some((packet.from.to_string(), packet.to.to_string())),
        _ => None,
    });
    packets.collect()
}

fn both(one: SocketAddr, two: SocketAddr) -> BTreeSet<(String, String)> {
    let (one, two) = (one.to_string(), two.to_string());
    BTreeSet::from([(one.clone(), two.clone()), (two, one)])
}

fn socket_has_its_packets_and_no_others() -> Result<()> {
    alone()?;
    let pid = sys::getpid();
    let (mut one, mut two) = pair()?;
    let (mut other, mut end) = pair()?;
    let (udp, from) = (
        UdpSocket::bind("127.0.0.1:0")?,
        UdpSocket::bind("127.0.0.1:0")?,
    );
    let away = UdpSocket::bind("127.0.0.1:0")?;
    let tcp_stream = Made::new(
        "tcp",
        &format!("sources=packet socket={pid}:{}", one.as_raw_fd()),
    )?;
    let udp_stream = Made::new(
        "udp",
        &format!("sources=packet socket={pid}:{}", udp.as_raw_fd()),
    )?;
    for _ in 0..20 {
        one.write_all(b"to two")?;
        two.read_exact(&mut [0; 6])?;
        two.write_all(b"back")?;
        one.read_exact(&mut [0; 4])?;
        other.write_all(b"others")?;
        end.read_exact(&mut [0; 6])?;
        from.send_to(b"in", udp.local_addr()?)?;
        udp.recv(&mut [0; 9])?;
        udp.send_to(b"out", from.local_addr()?)?;
        from.recv(&mut [0; 9])?;
        from.send_to(b"elsewhere", away.local_addr()?)?;
        away.recv(&mut [0; 9])?;
    }
    let told = until_ended(&udp_stream, 40)?;
    check_eq!(
        ends(&told),
        both(udp.local_addr()?, from.local_addr()?),
        "ends of the datagrams"
    );
    check_eq!(walks(&told).len(), 40, "datagrams");
    for walk in walks(&told) {
        check_eq!(points(&walk)[..6], LOOP, "points of a datagram");
    }
    let told = until_ended(&tcp_stream, 40)?;
    check_eq!(
        ends(&told),
        both(one.local_addr()?, two.local_addr()?),
        "ends of the segments"
    );
    let data = walks(&told)
        .iter()
        .filter(|walk| at(walk, &Point::Copy).is_ok())
        .count();
    check_eq!(data, 40, "segments that were read");
    Ok(())
}

fn address_port_and_protocol_have_their_packets_and_no_others() -> Result<()> {
    alone()?;
    let one = UdpSocket::bind("127.0.0.1:0")?;
    let (near, far) = (
        UdpSocket::bind("127.0.0.1:0")?,
        UdpSocket::bind("127.0.0.9:0")?,
    );
    let by_address = Made::new("address", "sources=packet address=127.0.0.9")?;
    let six = Made::new("six", "sources=packet address=::1")?;
    // The same port of another protocol.
    let port = near.local_addr()?.port();
    let listener = TcpListener::bind(near.local_addr()?)?;
    let by_udp = Made::new("udp", &format!("sources=packet protocol=17 port={port}"))?;
    let by_tcp = Made::new("tcp", &format!("sources=packet protocol=6 port={port}"))?;
    check_eq!(by_udp.state()?.protocol, 17, "protocol");
    let connected = TcpStream::connect(listener.local_addr()?)?;
    for _ in 0..20 {
        one.send_to(b"near", near.local_addr()?)?;
        one.send_to(b"far", far.local_addr()?)?;
        near.recv(&mut [0; 9])?;
        far.recv(&mut [0; 9])?;
    }
    let told = ends(&by_tcp.drain()?);
    check_eq!(
        told,
        both(connected.local_addr()?, listener.local_addr()?),
        "ends of the connection"
    );
    for (stream, to) in [(&by_address, &far), (&by_udp, &near)] {
        let told = until_ended(stream, 20)?;
        let wanted = (one.local_addr()?.to_string(), to.local_addr()?.to_string());
        check_eq!(ends(&told), BTreeSet::from([wanted]), "ends");
        check_eq!(walks(&told).len(), 20, "packets");
    }
    check_eq!(six.drain()?, [], "packets of ::1");
    Ok(())
}

fn sk_buffs_that_are_used_again_are_told_apart() -> Result<()> {
    alone()?;
    let total = scale(2000, 300);
    let (one, two) = (
        UdpSocket::bind("127.0.0.1:0")?,
        UdpSocket::bind("127.0.0.1:0")?,
    );
    let terms = format!(
        "sources=packet bytes=33554432 port={}",
        two.local_addr()?.port()
    );
    let stream = Made::new("again", &terms)?;
    for at in 0..total {
        one.send_to(&vec![7; 1 + at % 1000], two.local_addr()?)?;
        two.recv(&mut [0; 2000])?;
    }
    let walks = walks(&until_ended(&stream, total)?);
    check_eq!(walks.len(), total, "packets");
    for (at, walk) in walks.iter().enumerate() {
        let points = points(walk);
        check_eq!(points[..6], LOOP, "points of {at}");
        check!(is_read(&points[6..]), "end of {at}: {points:?}");
        check_offsets(walk, 20, 8, 1 + at as u64 % 1000)?;
    }
    let ids: BTreeSet<u64> = walks.iter().map(|walk| walk[0].0.skb.0).collect();
    check!(
        ids.len() < total / 2,
        "hardly any was used again: {} of {total}",
        ids.len()
    );
    Ok(())
}

fn flood_is_delivered_or_counted() -> Result<()> {
    alone()?;
    let total = scale(5000, 500);
    let (one, two) = (
        UdpSocket::bind("127.0.0.1:0")?,
        UdpSocket::bind("127.0.0.1:0")?,
    );
    let port = two.local_addr()?.port();
    let stream = Made::new("flood", &format!("sources=packet bytes=65536 port={port}"))?;
    for _ in 0..total {
        one.send_to(b"flood", two.local_addr()?)?;
        two.recv(&mut [0; 9])?;
    }
    let mut events = stream.drain()?;
    let before = lost(&events);
    check!(before > 0, "nothing was lost");
    // After a loss, what begins is certain again.
    one.send_to(b"after", two.local_addr()?)?;
    two.recv(&mut [0; 9])?;
    wait_for("the last", || {
        events.extend(stream.drain()?);
        Ok(walks(&events)
            .last()
            .is_some_and(|walk| walk.last().is_some_and(|(_, last)| last.ended)))
    })?;
    let state = stream.state()?;
    let told = events
        .iter()
        .filter(|event| matches!(event, Event::Packet(_)))
        .count() as u64;
    check_eq!(
        check_numbers(&events, 1)?,
        state.events + 1,
        "the number behind the last"
    );
    check_eq!(told + lost(&events), state.events, "told and lost");
    check_eq!(state.missed, 0, "missed");
    // Six points, and an end.
    check!(
        state.events >= 7 * (total as u64 + 1),
        "only {} happened",
        state.events
    );
    let all = walks(&events);
    let last = all.last().context("no packet")?;
    check_eq!(points(last)[..6], LOOP, "points of the last");
    check!(
        last.iter().all(|(_, crossing)| crossing.certain),
        "uncertain: {last:?}"
    );
    Ok(())
}
