// SPDX-License-Identifier: GPL-2.0
//! What is copied of datagrams to who reads them, in each of the ways in which UDP does that.

use std::net::{SocketAddr, UdpSocket};

use anyhow::Result;
use ravel_records::Point;

use super::packets::{alone, until_ended, walks};
use crate::stream::Made;
use crate::sys;
use crate::{check_eq, tests};

tests!("packets":
    each_reading_of_a_datagram_is_told_once [60 s],
);

/// A datagram with a checksum of its own making, from 127.0.0.1 to itself: to be checked by who receives it.
fn checked(to: SocketAddr, data: &[u8]) -> Vec<u8> {
    let len = 8 + data.len() as u16;
    let mut all = [&[0, 9][..], &to.port().to_be_bytes(), &len.to_be_bytes()].concat();
    all.extend([0, 0]);
    all.extend(data);
    let word = |two: &[u8]| u64::from(two[0]) * 256 + two.get(1).map_or(0, |&low| u64::from(low));
    // Both addresses, the protocol, and the length are summed up, too.
    let mut sum = all.chunks(2).map(word).sum::<u64>() + 2 * (0x7f00 + 1) + 17 + u64::from(len);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = match !(sum as u16) {
        0 => 0xffff,
        sum => sum,
    };
    all[6..8].copy_from_slice(&sum.to_be_bytes());
    all
}

fn each_reading_of_a_datagram_is_told_once() -> Result<()> {
    alone()?;
    let one = UdpSocket::bind("127.0.0.1:0")?;
    let raw = UdpSocket::from(sys::socket(
        libc::AF_INET,
        libc::SOCK_RAW,
        libc::IPPROTO_UDP,
    )?);
    // More than 16 KiB is not made in one piece.
    let readings: Vec<(usize, usize, i32)> = [500, 30_000]
        .into_iter()
        .flat_map(|len| [(len, 40_000), (len, 100)])
        .flat_map(|(len, ask)| [(len, ask, 0), (len, ask, libc::MSG_PEEK)])
        .collect();
    for by_raw in [false, true] {
        let two = UdpSocket::bind("127.0.0.1:0")?;
        let to = two.local_addr()?;
        let stream = Made::new("copies", &format!("sources=packet port={}", to.port()))?;
        let mut copied = Vec::new();
        for &(len, ask, flags) in &readings {
            match by_raw {
                false => one.send_to(&vec![7; len], to)?,
                true => raw.send_to(&checked(to, &vec![7; len]), to)?,
            };
            let read = sys::recv(&two, ask, flags)?.len();
            check_eq!(read, len.min(ask), "bytes");
            let mut its = vec![read as u64];
            if flags == libc::MSG_PEEK {
                // It is still there.
                its.push(sys::recv(&two, 40_000, 0)?.len() as u64);
            }
            copied.push(its);
        }
        let walks = walks(&until_ended(&stream, readings.len())?);
        let told: Vec<Vec<u64>> = walks
            .iter()
            .map(|walk| {
                let packets = walk.iter().map(|(packet, _)| packet);
                let copies = packets.filter(|packet| packet.point == Point::Copy);
                copies.map(|packet| packet.copied).collect()
            })
            .collect();
        check_eq!(
            told,
            copied,
            "what was copied of each, from a raw socket: {by_raw}"
        );
    }
    Ok(())
}
