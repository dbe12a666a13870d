// SPDX-License-Identifier: GPL-2.0
//! Packets of IPv6 with extension headers: what they carry, their ports, and the filters that let
//! them pass.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use anyhow::Result;
use ravel_records::{Event, Packet, Point};

use super::netevents::inode;
use super::packets::{alone, points, until_ended, walks};
use crate::stream::Made;
use crate::sys;
use crate::{check_eq, tests};

tests!("packets":
    extension_headers_are_passed_over,
    datagrams_with_options_are_their_socket_s,
    drops_of_datagrams_with_options_have_ports,
);

const HOP: u8 = 0;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ESP: u8 = 50;
const AUTH: u8 = 51;
const DEST: u8 = 60;

/// The port that all packets with ports go to.
const PORT: u16 = 7130;

/// A header, with its first byte left to `packet()`.
fn header(kind: u8) -> Vec<u8> {
    match kind {
        // PadN.
        HOP | DEST => vec![0, 0, 1, 4, 0, 0, 0, 0],
        // One segment, which is left.
        ROUTING => [&[0, 2, 2, 1, 0, 0, 0, 0][..], &[0; 16]].concat(),
        FRAGMENT => vec![0, 0, 0, 0, 0, 0, 0, 1],
        AUTH => [&[0, 4][..], &[0; 22]].concat(),
        TCP => {
            let [a, b] = PORT.to_be_bytes();
            [
                &[
                    0x1f, 0x90, a, b, 0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0, 0x50, 2,
                ][..],
                &[0; 6],
            ]
            .concat()
        }
        _ => {
            let [a, b] = PORT.to_be_bytes();
            vec![0x1f, 0x90, a, b, 0, 8, 0, 0]
        }
    }
}

/// The headers one after the other, behind IPv6's, from 2001:db8::ID to 2001:db8::ffff; each with
/// its kind.
fn packet(id: u8, headers: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let len: usize = headers.iter().map(|(_, bytes)| bytes.len()).sum();
    let mut packet = vec![0x60, 0, 0, 0, (len >> 8) as u8, len as u8, headers[0].0, 64];
    for last in [[0, id], [0xff, 0xff]] {
        packet.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend(last);
    }
    for (at, (kind, bytes)) in headers.iter().enumerate() {
        let mut bytes = bytes.clone();
        if let (true, Some((next, _))) = (!matches!(*kind, TCP | UDP | ESP), headers.get(at + 1)) {
            bytes[0] = *next;
        }
        packet.extend(bytes);
    }
    packet
}

/// What is expected of a packet: what it carries, whether it has ports, and is a fragment, and its
/// sequence number.
type Expected = (&'static str, bool, bool, u32);

/// Extension headers, each with its type.
type Headers = Vec<(u8, Vec<u8>)>;

fn cases() -> Vec<(Headers, Expected)> {
    let plain =
        |kinds: &[u8]| -> Headers { kinds.iter().map(|&kind| (kind, header(kind))).collect() };
    let fragment = |offset: u16, more: u16| {
        let [a, b] = ((offset << 3) | more).to_be_bytes();
        (FRAGMENT, vec![0, 0, a, b, 0, 0, 0, 1])
    };
    let udp = (UDP, header(UDP));
    let long = (DEST, [&[0, 2, 1, 20][..], &[0; 20]].concat());
    vec![
        (plain(&[UDP]), ("udp", true, false, 0)),
        (plain(&[HOP, UDP]), ("udp", true, false, 0)),
        (
            plain(&[HOP, DEST, ROUTING, FRAGMENT, AUTH, DEST, UDP]),
            ("udp", true, false, 0),
        ),
        (vec![long, udp.clone()], ("udp", true, false, 0)),
        (plain(&[AUTH, TCP]), ("tcp", true, false, 0x1234_5678)),
        (vec![fragment(0, 1), udp.clone()], ("udp", true, true, 0)),
        (vec![fragment(3, 1), udp.clone()], ("udp", false, true, 0)),
        (
            vec![(HOP, header(HOP)), fragment(185, 0), udp.clone()],
            ("udp", false, true, 0),
        ),
        (plain(&[DEST, ESP]), ("50", false, false, 0)),
        (
            [vec![DEST; 12], vec![UDP]]
                .concat()
                .into_iter()
                .map(|kind| (kind, header(kind)))
                .collect(),
            ("udp", true, false, 0),
        ),
        (
            [vec![DEST; 13], vec![UDP]]
                .concat()
                .into_iter()
                .map(|kind| (kind, header(kind)))
                .collect(),
            ("60", false, false, 0),
        ),
        // It says to be longer than the packet.
        (
            vec![(HOP, vec![0, 200, 1, 4, 0, 0, 0, 0]), udp],
            ("udp", false, false, 0),
        ),
    ]
}

/// The packets at the point where IP receives them, by the last part of the address that they come
/// from.
fn at_ip(stream: &Made) -> Result<BTreeMap<u8, Packet>> {
    let mut found = BTreeMap::new();
    for event in stream.drain()? {
        let Event::Packet(packet) = event else {
            continue;
        };
        let from = packet.from.to_string();
        let from = from.trim_start_matches('[').trim_end_matches("]:8080");
        let Some(id) = from.strip_prefix("2001:db8::") else {
            continue;
        };
        if packet.point == Point::Ip {
            let id = u8::from_str_radix(id, 16)?;
            let twice = found.insert(id, packet);
            check_eq!(twice, None, "{id} is reported twice");
        }
    }
    Ok(found)
}

fn extension_headers_are_passed_over() -> Result<()> {
    alone()?;
    let sender = sys::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0)?;
    let all = Made::new("all", "sources=packet address=2001:db8::ffff bytes=8388608")?;
    let port = Made::new("port", &format!("sources=packet port={PORT}"))?;
    let other = Made::new("other", "sources=packet port=7131")?;
    let udp = Made::new("udp", "sources=packet protocol=17")?;
    let cases = cases();
    for (at, (headers, _)) in cases.iter().enumerate() {
        let frame = packet(at as u8 + 1, headers);
        sys::send_to(&sender, &frame, &sys::Address::packet(0x86dd, 1))?;
    }
    let told = at_ip(&all)?;
    for (at, (_, expected)) in cases.iter().enumerate() {
        let id = at as u8 + 1;
        let packet = told
            .get(&id)
            .ok_or_else(|| anyhow::anyhow!("packet {id} is not there: {:?}", told.keys()))?;
        let found = (
            packet.carries.to_string(),
            packet.to.to_string(),
            packet.fragment,
            packet.sequence,
        );
        let to = match expected.1 {
            true => format!("[2001:db8::ffff]:{PORT}"),
            false => "2001:db8::ffff".to_owned(),
        };
        let expected = (expected.0.to_owned(), to, expected.2, expected.3);
        check_eq!(found, expected, "packet {id}");
    }
    let ids = |is: &dyn Fn(&Expected) -> bool| -> Vec<u8> {
        let cases = cases.iter().zip(1..);
        cases
            .filter(|((_, expected), _)| is(expected))
            .map(|(_, id)| id)
            .collect()
    };
    let keys = |stream: &Made| -> Result<Vec<u8>> { Ok(at_ip(stream)?.into_keys().collect()) };
    check_eq!(keys(&port)?, ids(&|expected| expected.1), "by port");
    check_eq!(
        keys(&udp)?,
        ids(&|expected| expected.0 == "udp"),
        "by protocol"
    );
    check_eq!(keys(&other)?, Vec::<u8>::new(), "of another port");
    Ok(())
}

/// A socket whose datagrams have a hop-by-hop and a destination options header.
fn with_options() -> Result<UdpSocket> {
    let socket = UdpSocket::bind("[::1]:0")?;
    for name in [libc::IPV6_HOPOPTS, libc::IPV6_DSTOPTS] {
        let options: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
        sys::set_option(&socket, libc::IPPROTO_IPV6, name, options)?;
    }
    Ok(socket)
}

fn datagrams_with_options_are_their_socket_s() -> Result<()> {
    alone()?;
    let (wanted, other) = (UdpSocket::bind("[::1]:0")?, UdpSocket::bind("[::1]:0")?);
    let (plain, sender) = (UdpSocket::bind("[::1]:0")?, with_options()?);
    let terms = format!(
        "sources=packet socket={}:{}",
        sys::getpid(),
        wanted.as_raw_fd()
    );
    let stream = Made::new("wanted", &terms)?;
    for _ in 0..10 {
        for from in [&plain, &sender] {
            for to in [&wanted, &other] {
                from.send_to(b"datagram", to.local_addr()?)?;
                to.recv(&mut [0; 9])?;
            }
        }
    }
    let events = until_ended(&stream, 20)?;
    let walks = walks(&events);
    check_eq!(walks.len(), 20, "datagrams");
    for walk in &walks {
        check_eq!(points(walk), points(&walks[0]), "points");
        for (packet, _) in walk {
            let to = packet.to.to_string();
            check_eq!(to, wanted.local_addr()?.to_string(), "to");
            check_eq!(packet.carries.as_str(), "udp", "carries");
        }
    }
    Ok(())
}

fn drops_of_datagrams_with_options_have_ports() -> Result<()> {
    let netns = alone()?;
    let (plain, sender) = (UdpSocket::bind("[::1]:0")?, with_options()?);
    let full = UdpSocket::bind("[::1]:0")?;
    sys::set_option(&full, libc::SOL_SOCKET, libc::SO_RCVBUF, 4096)?;
    let free = UdpSocket::bind("[::1]:0")?.local_addr()?;
    let terms = format!("sources=drop,packet bytes=8388608 port={}", free.port());
    let nobody = Made::new("nobody", &terms)?;
    let at = full.local_addr()?;
    let terms = format!(
        "sources=drop,packet bytes=8388608 protocol=17 port={}",
        at.port()
    );
    let overflow = Made::new("overflow", &terms)?;
    for from in [&plain, &sender] {
        for _ in 0..10 {
            from.send_to(b"nobody", free)?;
        }
    }
    let mut drops = [0; 2];
    for event in nobody.drain()? {
        let (to, ends) = match event {
            Event::Drop(drop) => (drop.to, 0),
            Event::Packet(packet) if packet.point == Point::Drop => (packet.to, 1),
            _ => continue,
        };
        check_eq!(to.to_string(), free.to_string(), "to");
        drops[ends] += 1;
    }
    check_eq!(drops, [20, 20], "drops, and packets that are dropped");
    // A socket that is there is named with its inode and its namespace.
    for _ in 0..50 {
        sender.send_to(&[7; 400], at)?;
    }
    let mut named = [0; 2];
    for event in overflow.drain()? {
        let (socket, which) = match event {
            Event::Drop(drop) => ((drop.inode, drop.netns), 0),
            Event::Packet(packet) if packet.point == Point::Drop => {
                ((packet.inode, packet.netns), 1)
            }
            _ => continue,
        };
        check_eq!(socket, (inode(&full)?, netns), "socket");
        named[which] += 1;
    }
    check_eq!(named[0], named[1], "drops, and packets that are dropped");
    crate::check!(named[0] > 25, "hardly any overflow: {named:?}");
    Ok(())
}
