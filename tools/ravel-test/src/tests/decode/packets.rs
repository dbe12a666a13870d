// SPDX-License-Identifier: GPL-2.0
//! Generated packets of every protocol that is decoded.

use crate::random::Random;

/// A packet.
#[derive(Clone)]
pub struct Packet {
    /// From Ethernet on.
    pub bytes: Vec<u8>,
    /// What the socket receives that it goes to.
    pub encap: Option<&'static str>,
    /// Whether a VLAN tag is in it.
    pub tagged: bool,
    /// Whether some length in it is wrong.
    pub wrong: bool,
}

/// Ports that tshark decodes as the same tunnels; those of others carry payload.
const VXLAN: u16 = 4789;
const GPE: u16 = 4790;
const GENEVE: u16 = 6081;

/// Generates a packet.
pub fn generate(random: &mut Random) -> Packet {
    let mut packet = Packet {
        bytes: Vec::new(),
        encap: None,
        tagged: false,
        wrong: false,
    };
    let (kind, rest) = network(random, 0, &mut packet);
    let mut bytes = mac(random);
    if random.one_in(4) {
        packet.tagged = true;
        if random.one_in(2) {
            bytes.extend(0x88a8u16.to_be_bytes());
            bytes.extend((random.next() as u16).to_be_bytes());
        }
        bytes.extend(0x8100u16.to_be_bytes());
        bytes.extend((random.next() as u16).to_be_bytes());
    }
    bytes.extend(kind.to_be_bytes());
    bytes.extend(rest);
    packet.bytes = bytes;
    packet
}

/// Two addresses that are nobody's.
fn mac(random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 1];
    bytes.push(random.next() as u8);
    bytes.extend([2, 0, 0, 0, 2]);
    bytes.push(random.next() as u8);
    bytes
}

/// An Ethernet frame inside of a tunnel.
fn frame(random: &mut Random, depth: usize, packet: &mut Packet) -> Vec<u8> {
    let (kind, rest) = network(random, depth, packet);
    [&mac(random)[..], &kind.to_be_bytes(), &rest].concat()
}

/// An EtherType, and a header of that with what follows.
fn network(random: &mut Random, depth: usize, packet: &mut Packet) -> (u16, Vec<u8>) {
    match random.below(16) {
        0 if depth == 0 => (0x0806, arp(random)),
        1..6 => (0x86dd, ipv6(random, depth, packet)),
        _ => (0x0800, ipv4(random, depth, packet)),
    }
}

fn arp(random: &mut Random) -> Vec<u8> {
    let operation = 1 + random.below(2) as u8;
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    [&head[..], &random.bytes(20)].concat()
}

fn ipv4(random: &mut Random, depth: usize, packet: &mut Packet) -> Vec<u8> {
    let (protocol, rest) = transport(random, depth, false, packet);
    let options = match random.one_in(6) {
        true => vec![1; 4 * (1 + random.below(3))],
        false => Vec::new(),
    };
    let mut header = vec![0x45 + options.len() as u8 / 4, 0];
    header.extend((20 + options.len() as u16 + rest.len() as u16).to_be_bytes());
    header.extend(random.bytes(2));
    header.extend([0, 0, 1 + random.below(255) as u8, protocol, 0, 0, 10, 0]);
    header.extend(random.bytes(2));
    header.extend([10, 1]);
    header.extend(random.bytes(2));
    header.extend(options);
    match random.below(40) {
        // A later fragment, of which nothing behind is a header.
        0 => header[6..8].copy_from_slice(&[0x20, 185]),
        1 => {
            header[0] = 0x40 + random.below(5) as u8;
            packet.wrong = true;
        }
        _ => {}
    }
    [header, rest].concat()
}

fn ipv6(random: &mut Random, depth: usize, packet: &mut Packet) -> Vec<u8> {
    let (mut next, mut rest) = transport(random, depth, true, packet);
    for kind in [60, 44, 43, 60, 0] {
        if !random.one_in(8) {
            continue;
        }
        let header = match kind {
            44 => {
                let later = random.one_in(4);
                vec![next, 0, 0, if later { 8 } else { 1 }, 0, 0, 0, 1]
            }
            // The type of a routing header that nobody knows.
            43 => vec![next, 0, 253, 0, 0, 0, 0, 0],
            _ if random.one_in(2) => vec![next, 0, 1, 4, 0, 0, 0, 0],
            _ => [&[next, 1, 1, 12][..], &[0; 12]].concat(),
        };
        rest = [header, rest].concat();
        next = kind;
    }
    let mut header = vec![0x60, 0, 0, 0];
    header.extend((rest.len() as u16).to_be_bytes());
    header.extend([next, 1 + random.below(255) as u8]);
    for end in [1, 2] {
        header.extend([0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, end]);
        header.extend(random.bytes(2));
    }
    [header, rest].concat()
}

/// An IP protocol, and a header of that with what follows.
fn transport(random: &mut Random, depth: usize, six: bool, packet: &mut Packet) -> (u8, Vec<u8>) {
    let tunnels = depth == 0;
    match random.below(20) {
        0..5 => (6, tcp(random, packet)),
        5 | 6 => (17, udp(random, 9, b"nobody's payload of a datagram")),
        7 => match six {
            true => (
                58,
                [&[128, 0, 0, 0, 0, 1, 0, 1][..], b"nobody's payload"].concat(),
            ),
            false => (
                1,
                [&[8, 0, 0, 0, 0, 1, 0, 1][..], b"nobody's payload"].concat(),
            ),
        },
        8 => {
            let mut header = vec![0x23, 0x28, 0x23, 0x29];
            header.extend(random.bytes(8));
            (132, header)
        }
        9 => {
            let spi = [&[0, 0, 1][..], &random.bytes(5)].concat();
            (50, [spi, random.bytes(40)].concat())
        }
        10 => {
            let head = [&[17, 4, 0, 0, 0, 0, 1][..], &random.bytes(17)].concat();
            (51, [head, udp(random, 9, b"nobody's payload")].concat())
        }
        11 if tunnels => (4, ipv4(random, 1, packet)),
        12 if tunnels => (41, ipv6(random, 1, packet)),
        13 | 14 if tunnels => (47, gre(random, packet)),
        15 if tunnels => (47, erspan(random, packet)),
        16 | 17 if tunnels => {
            packet.encap = Some("vxlan");
            if random.one_in(3) {
                let (protocol, rest) = match random.below(3) {
                    0 => (1, ipv4(random, 1, packet)),
                    1 => (2, ipv6(random, 1, packet)),
                    _ => (3, frame(random, 1, packet)),
                };
                let head = [0x0c, 0, 0, protocol, 0, random.next() as u8, 7, 0];
                return (17, udp(random, GPE, &[&head[..], &rest].concat()));
            }
            let head = [8, 0, 0, 0, random.next() as u8, 1, 2, 0];
            let rest = frame(random, 1, packet);
            (17, udp(random, VXLAN, &[&head[..], &rest].concat()))
        }
        18 | 19 if tunnels => {
            packet.encap = Some("geneve");
            let (kind, rest) = match random.below(3) {
                0 => (0x0800u16, ipv4(random, 1, packet)),
                1 => (0x86dd, ipv6(random, 1, packet)),
                _ => (0x6558, frame(random, 1, packet)),
            };
            let options = random.below(3) as u8;
            let mut head = vec![2 * options, 0];
            head.extend(kind.to_be_bytes());
            head.extend([random.next() as u8, 1, 2, 0]);
            for _ in 0..options {
                head.extend([1, 2, 0x80, 1, 0xca, 0xfe, 0xca, 0xfe]);
            }
            (17, udp(random, GENEVE, &[head, rest].concat()))
        }
        _ => (17, udp(random, 9, b"nobody's payload")),
    }
}

fn udp(random: &mut Random, to: u16, rest: &[u8]) -> Vec<u8> {
    let mut header = vec![0xc0, random.next() as u8];
    header.extend(to.to_be_bytes());
    header.extend((8 + rest.len() as u16).to_be_bytes());
    header.extend([0, 0]);
    [&header[..], rest].concat()
}

fn gre(random: &mut Random, packet: &mut Packet) -> Vec<u8> {
    let flags = random.next() as u16 & 0xb000;
    let (kind, rest) = match random.below(3) {
        0 => (0x0800u16, ipv4(random, 1, packet)),
        1 => (0x86dd, ipv6(random, 1, packet)),
        _ => (0x6558, frame(random, 1, packet)),
    };
    let mut header = [flags.to_be_bytes(), kind.to_be_bytes()].concat();
    for bit in [0x8000, 0x2000, 0x1000] {
        if flags & bit != 0 {
            header.extend(random.bytes(if bit == 0x8000 { 2 } else { 4 }));
            if bit == 0x8000 {
                header.extend([0, 0]);
            }
        }
    }
    [header, rest].concat()
}

fn erspan(random: &mut Random, packet: &mut Packet) -> Vec<u8> {
    let rest = frame(random, 1, packet);
    let sequence = random.bytes(4);
    let session = random.below(1024) as u16;
    if random.one_in(2) {
        let head = [&[0x10, 0, 0x88, 0xbe][..], &sequence].concat();
        let own = [&[0x10, 5][..], &session.to_be_bytes(), &[0, 0, 0, 17]].concat();
        return [head, own, rest].concat();
    }
    let head = [&[0x10, 0, 0x22, 0xeb][..], &sequence].concat();
    let own = [
        &[0x20, 5][..],
        &session.to_be_bytes(),
        &[0, 0, 0, 0, 0, 0, 0, 0x18],
    ]
    .concat();
    [head, own, rest].concat()
}

fn tcp(random: &mut Random, packet: &mut Packet) -> Vec<u8> {
    let mut options = Vec::new();
    for _ in 0..random.below(4) {
        let option: Vec<u8> = match random.below(12) {
            0 => vec![2, 4, 5, 0xb4],
            1 => vec![3, 3, random.below(15) as u8],
            2 => vec![4, 2],
            3 => [&[5, 10][..], &random.bytes(8)].concat(),
            4 => [&[8, 10][..], &random.bytes(8)].concat(),
            5 => [&[19, 18][..], &random.bytes(16)].concat(),
            6 => [&[29, 16, 100, 3][..], &random.bytes(12)].concat(),
            7 => [&[30, 12, 0x10, 5][..], &random.bytes(8)].concat(),
            8 => [&[34, 10][..], &random.bytes(8)].concat(),
            9 => vec![254, 4, 0xf9, 0x89],
            10 => vec![70, 4, 1, 2],
            _ => vec![1],
        };
        if options.len() + option.len() <= 36 {
            options.extend(option);
        }
    }
    while options.len() % 4 != 0 {
        options.push(1);
    }
    let mut header = vec![0xc0, random.next() as u8, 0, 9];
    header.extend(random.bytes(8));
    let flags = random.next() as u16 & 0x1ff;
    let words = 5 + options.len() as u16 / 4;
    header.extend(((words << 12) | flags).to_be_bytes());
    header.extend(random.bytes(2));
    header.extend([0, 0, 0, 0]);
    header.extend(options);
    if random.one_in(20) {
        header[12] = ((random.below(5) as u8) << 4) | header[12] & 0xf;
        packet.wrong = true;
    }
    [&header[..], b"nobody's payload"].concat()
}
