// SPDX-License-Identifier: GPL-2.0
//! Packets that are taken apart or copied on their way between two network namespaces: each is linked to what it is of.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ravel_records::walks::Origin;
use ravel_records::{Packet, Point};

use super::packets::{Walk, alone, at, points, until_ended, walks};
use crate::process::Child;
use crate::stream::Made;
use crate::sys;
use crate::{check, check_eq, tests};

tests!("packets":
    large_segment_is_told_as_what_it_is_cut_into [60 s],
    fragments_are_told_as_of_what_they_are [60 s],
    multicast_that_comes_back_is_a_clone [60 s],
);

pub(super) fn ip(args: &str) -> Result<()> {
    let output = Command::new("ip")
        .args(args.split(' '))
        .output()
        .context("run ip")?;
    ensure!(
        output.status.success(),
        "ip {args}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// The number of a device of our namespace; /sys has those of another.
fn index_of(device: &str) -> Result<u32> {
    let output = Command::new("ip")
        .args(["-o", "link", "show", "dev", device])
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split(':').next().unwrap_or_default().trim().parse()?)
}

/// A device of ours, 10.9.0.1, and at its other end a child in a network namespace of its own, 10.9.0.2: what
/// comes from here is handed to GRO there, or is not.
pub(super) struct Veth {
    pub(super) child: Child,
    /// Inode of the child's namespace.
    pub(super) netns: u64,
    /// Our end's number, and the child's.
    pub(super) devices: [u32; 2],
}

impl Veth {
    /// `f` runs there once the link is up.
    pub(super) fn new(
        gro: bool,
        f: impl FnOnce(&mut crate::process::Link) -> Result<()>,
    ) -> Result<Self> {
        // Where it is built in, there is no such module.
        let _ = Command::new("modprobe").arg("veth").output();
        let mut child = Child::spawn(move |link| {
            let netns = alone()?;
            link.send(&netns.to_string())?;
            link.wait()?;
            ip("address add 10.9.0.2/24 dev there")?;
            // ETHTOOL_SGRO
            sys::offload("there", 0x2c, gro)?;
            ip("link set there up")?;
            link.send(&index_of("there")?.to_string())?;
            f(link)
        })?;
        let netns = child.link.wait()?.parse()?;
        ip(&format!(
            "link add here type veth peer name there netns {}",
            child.pid
        ))?;
        ip("address add 10.9.0.1/24 dev here")?;
        ip("link set here up")?;
        child.link.send("go")?;
        let there = child.link.wait()?.parse()?;
        // ETHTOOL_STSO: with it, the device passes by the other end's GRO.
        sys::offload("here", 0x1f, !gro)?;
        Ok(Self {
            child,
            netns,
            devices: [index_of("here")?, there],
        })
    }
}

fn large_segment_is_told_as_what_it_is_cut_into() -> Result<()> {
    alone()?;
    let total = 20_000;
    let mut veth = Veth::new(false, move |link| {
        let listener = TcpListener::bind("10.9.0.2:4000")?;
        link.send("ready")?;
        let (mut socket, _) = listener.accept()?;
        let mut data = vec![0; total];
        socket.read_exact(&mut data)?;
        link.send("read")?;
        link.wait().map(drop)
    })?;
    veth.child.link.wait()?;
    // ETHTOOL_STSO: the device takes no large segments, so the kernel cuts them.
    sys::offload("here", 0x1f, false)?;
    let mut one = TcpStream::connect("10.9.0.2:4000")?;
    let stream = Made::new(
        "cut",
        "sources=packet bytes=8388608 address=10.9.0.2 port=4000",
    )?;
    one.write_all(&vec![7; total])?;
    veth.child.link.wait()?;
    let walks = walks(&until_ended(&stream, 4)?);
    let large: BTreeMap<u64, &Packet> = walks
        .iter()
        .filter(|walk| walk[0].0.point == Point::Output && walk[0].0.gso_size > 0)
        .map(|walk| (walk[0].1.packet, &walk[0].0))
        .collect();
    check!(!large.is_empty(), "nothing was cut: {walks:?}");
    let mut cut: BTreeMap<u64, u64> = BTreeMap::new();
    for walk in &walks {
        let (first, crossing) = &walk[0];
        match crossing.origin {
            Origin::Segment(of) => {
                let origin = large.get(&of).with_context(|| format!("no {of}"))?;
                check_eq!(first.point, Point::Transmit, "where a segment begins");
                // Headers of Ethernet, IP, and TCP with timestamps.
                let data = first.len - (14 + 20 + 32);
                check!(
                    data <= origin.gso_size.into(),
                    "larger than it may be: {first:?}"
                );
                *cut.entry(of).or_default() += data;
            }
            Origin::Own => {}
            other => anyhow::bail!("{other:?} of {walk:?}"),
        }
    }
    // All of each, and no byte too many.
    for (number, packet) in &large {
        check_eq!(
            cut.get(number),
            Some(&(packet.len - (20 + 32))),
            "bytes of the segments of {number}"
        );
    }
    veth.child.link.send("done")?;
    veth.child.join()
}

fn fragments_are_told_as_of_what_they_are() -> Result<()> {
    alone()?;
    let total = 4000;
    let mut veth = Veth::new(false, move |link| {
        let socket = UdpSocket::bind("10.9.0.2:4000")?;
        link.send("ready")?;
        for len in [1, total] {
            check_eq!(socket.recv(&mut [0; 5000])?, len, "bytes");
            link.send("read")?;
        }
        Ok(())
    })?;
    veth.child.link.wait()?;
    let one = UdpSocket::bind("10.9.0.1:0")?;
    one.send_to(&[7], "10.9.0.2:4000")?;
    veth.child.link.wait()?;
    // No port: only the first of them has any.
    let stream = Made::new("parts", "sources=packet address=10.9.0.2 protocol=17")?;
    one.send_to(&vec![7; total], "10.9.0.2:4000")?;
    veth.child.link.wait()?;
    let walks = walks(&until_ended(&stream, 3)?);
    let whole = walks
        .iter()
        .find(|walk| points(walk).first() == Some(&"output"))
        .context("nothing was sent")?;
    let sent = at(whole, &Point::Output)?;
    check_eq!((sent.len, sent.fragment), (4028, false), "what was sent");
    let mut lengths = Vec::new();
    for walk in walks
        .iter()
        .filter(|walk| points(walk).contains(&"transmit"))
    {
        let (packet, number) = (at(walk, &Point::Transmit)?, whole[0].1.packet);
        check!(packet.fragment, "not a fragment: {packet:?}");
        lengths.push(packet.len - 14 - 20);
        if walk[0].1.packet != number {
            let first = &walk[0];
            check_eq!(first.0.point, Point::Queue, "where a fragment begins");
            check_eq!(first.1.origin, Origin::Segment(number), "origin");
        }
    }
    // 1500 bytes at most, of which IP has 20: 1480, 1480, and the rest of UDP's header and the data.
    lengths.sort_unstable();
    check_eq!(lengths, [1048, 1480, 1480], "bytes of each");
    // Put together again, it is one packet: the kernel makes it of a clone of one of them.
    let arrived: Vec<&Walk> = walks
        .iter()
        .filter(|walk| points(walk).contains(&"transport"))
        .collect();
    check_eq!(arrived.len(), 1, "packets that arrive");
    check_eq!(at(arrived[0], &Point::Transport)?.len, 4008, "bytes there");
    let origin = arrived[0][0].1.origin;
    let clone = walks.iter().any(|walk| {
        points(walk).contains(&"transmit") && origin == Origin::Clone(walk[0].1.packet)
    });
    check!(clone, "not a clone of a fragment: {origin:?}");
    veth.child.join()
}

fn multicast_that_comes_back_is_a_clone() -> Result<()> {
    alone()?;
    let veth = Veth::new(false, |link| link.wait().map(drop))?;
    let (near, group) = (Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(239, 1, 2, 3));
    let two = UdpSocket::bind("0.0.0.0:0")?;
    two.join_multicast_v4(&group, &near)?;
    let one = UdpSocket::bind((near, 0))?;
    sys::set_option(&one, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, near.octets())?;
    let to = (group, two.local_addr()?.port());
    let stream = Made::new("all", "sources=packet address=239.1.2.3 protocol=17")?;
    one.send_to(b"to all", to)?;
    check_eq!(two.recv(&mut [0; 9])?, 6, "bytes");
    let walks = walks(&until_ended(&stream, 2)?);
    check_eq!(walks.len(), 2, "packets: {walks:?}");
    check_eq!(
        points(&walks[0])[..4],
        ["output", "queue", "transmit", "receive"],
        "points of the first"
    );
    check_eq!(walks[0][0].1.origin, Origin::Own, "origin of the first");
    let clone = &walks[1];
    check_eq!(
        points(clone)[..3],
        ["receive", "ip", "transport"],
        "points of the other"
    );
    check_eq!(clone[0].1.origin, Origin::Clone(1), "origin of the other");
    check_eq!(clone[0].0.device, veth.devices[0], "its device");
    check_eq!(
        at(&walks[0], &Point::Receive)?.device,
        veth.devices[1],
        "the device at the other end"
    );
    Ok(())
}
