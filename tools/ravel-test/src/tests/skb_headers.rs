// SPDX-License-Identifier: GPL-2.0
//! Report skbs: the bytes of headers and what the kernel says beside them, compared with what was sent and with
//! what a packet socket hears.

use std::fs::File;
use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, IpHeaders, IpNumber, Ipv4Extensions,
    Ipv4Header, Ipv6Extensions, Ipv6Header, Ipv6RawExtHeader, PacketBuilder, VlanId,
};
use ravel_records::decode::Decoded;
use ravel_records::{Checksum, Clock, PacketType, QueueName, Skb};

use super::peers::wait_for;
use super::skbs::check_sane;
use super::wire::{THEM, THEM6, US, US6, Wire, driver, in_a_namespace, run};
use crate::process::Child;
use crate::report::{own_queues, queue};
use crate::sys::{self, Message};
use crate::{check, check_eq, tests};

tests!("skb_headers":
    ipv4_options_and_ipv6_extensions,
    frames_of_every_kind,
    vlan_tag_beside_the_bytes,
    scattered_fragments,
    what_sockets_set,
    segmentation_and_aggregation [120 s],
    tunnels_between_namespaces [120 s],
);

/// What no header has: payload.
pub(super) const PAYLOAD: &[u8] = b"nobody's business but theirs";

/// The sk_buffs that wait in a receive queue, once there are so many.
pub(super) fn received(fd: &impl AsRawFd, packets: u64) -> Result<Vec<Skb>> {
    let read = || -> Result<Vec<Skb>> {
        let of = own_queues(fd)?;
        Ok(queue(&of, &QueueName::Receive)?.skbs.clone())
    };
    wait_for(&format!("packet {packets}"), || {
        Ok(read()?.len() as u64 >= packets)
    })?;
    let skbs = read()?;
    skbs.iter().try_for_each(check_sane)?;
    for skb in &skbs {
        for header in &skb.headers {
            let told = header
                .bytes
                .0
                .windows(8)
                .any(|bytes| bytes == &PAYLOAD[..8]);
            check!(!told, "payload among the headers of {skb:?}");
        }
    }
    Ok(skbs)
}

/// The only header record of an sk_buff.
pub(super) fn header(skb: &Skb) -> Result<&[u8]> {
    check_eq!(skb.headers.len(), 1, "header records of {skb:?}");
    Ok(&skb.headers[0].bytes.0)
}

fn ipv4_options_and_ipv6_extensions() -> Result<()> {
    in_a_namespace(|| {
        let wire = Wire::new()?;
        let four = UdpSocket::bind("10.77.0.1:0")?;
        let mut ip = Ipv4Header::new(0, 64, IpNumber::UDP, THEM, US)?;
        // Router alert, and a timestamp's room.
        ip.options = [0x94, 4, 0, 0, 1, 1, 1, 0].into();
        let mut packet = Vec::new();
        PacketBuilder::ip(IpHeaders::Ipv4(ip, Ipv4Extensions::default()))
            .udp(5000, four.local_addr()?.port())
            .write_to_vec(&mut packet, PAYLOAD)?;
        wire.send(&packet)?;
        let skb = &received(&four, 1)?[0];
        check_eq!(
            header(skb)?,
            &packet[..28 + 8],
            "IPv4 with options, and UDP"
        );
        let network = u64::from(skb.network.get().context("no network header")?);
        check_eq!(skb.headers[0].offset, network, "where the headers begin");
        check_eq!(skb.transport.get(), Some(network as u16 + 28), "transport");
        check_eq!(skb.data, network + 36, "data");
        check_eq!(Decoded::of(skb).disagreements, [""; 0], "disagreements");
        check_eq!(
            skb.mac.get(),
            skb.network.get(),
            "mac of a device without any"
        );

        let six = UdpSocket::bind("[fd77::1]:0")?;
        let option = Ipv6RawExtHeader::new_raw(IpNumber::UDP, &[1, 4, 0, 0, 0, 0])?;
        let longer = Ipv6RawExtHeader::new_raw(
            IpNumber::UDP,
            &[0x1e, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        )?;
        let extensions = Ipv6Extensions {
            hop_by_hop_options: Some(option),
            destination_options: Some(longer),
            ..Default::default()
        };
        let ip = Ipv6Header {
            hop_limit: 64,
            source: THEM6,
            destination: US6,
            ..Default::default()
        };
        let mut packet = Vec::new();
        PacketBuilder::ip(IpHeaders::Ipv6(ip, extensions))
            .udp(5000, six.local_addr()?.port())
            .write_to_vec(&mut packet, PAYLOAD)?;
        wire.send(&packet)?;
        let skb = &received(&six, 1)?[0];
        check_eq!(
            header(skb)?,
            &packet[..40 + 8 + 16 + 8],
            "IPv6 with extension headers, and UDP"
        );
        let network = skb.network.get().context("no network header")?;
        check_eq!(skb.transport.get(), Some(network + 64), "transport");
        check_eq!(skb.protocol.0, 0x86dd, "protocol");
        Ok(())
    })
}

/// A tap device that is up, and a packet socket that hears what comes by it.
pub(super) fn tap() -> Result<(File, OwnedFd)> {
    driver("tun")?;
    let tap = sys::tun("tap0", libc::IFF_TAP | libc::IFF_NO_PI)?;
    run("ip link set tap0 address 02:00:00:00:00:01 up")?;
    let capture = sys::capture("tap0", false)?;
    Ok((tap, capture))
}

const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const THEIR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn ethernet(kind: u16, rest: &[u8]) -> Vec<u8> {
    [&OUR_MAC[..], &THEIR_MAC[..], &kind.to_be_bytes()[..], rest].concat()
}

/// An IPv4 packet of a protocol that nothing above knows.
fn ip_of(protocol: u8, rest: &[u8]) -> Result<Vec<u8>> {
    let ip = Ipv4Header::new(rest.len() as u16, 64, IpNumber(protocol), THEM, US)?;
    let mut packet = Vec::new();
    ip.write(&mut packet)?;
    packet.extend_from_slice(rest);
    Ok(packet)
}

fn udp(port: u16, payload: &[u8]) -> Result<Vec<u8>> {
    let mut packet = Vec::new();
    PacketBuilder::ipv4(THEM, US, 64)
        .udp(6000, port)
        .write_to_vec(&mut packet, payload)?;
    Ok(packet)
}

/// A frame: its name, how many of its bytes are headers, which, and it.
type Frame = (&'static str, usize, &'static str, Vec<u8>);

/// Frames of every kind.
fn frames() -> Result<Vec<Frame>> {
    let inner = udp(9, PAYLOAD)?;
    let vxlan = [&[8, 0, 0, 0, 0, 0, 42, 0][..], &ethernet(0x0800, &inner)].concat();
    // Without the flag it is something else that uses the port.
    let no_vxlan = [&[0, 0, 0, 0, 0, 0, 42, 0][..], &ethernet(0x0800, &inner)].concat();
    let gre = [&[0x20, 0, 8, 0, 0, 0, 0, 7][..], &inner].concat();
    let bridged = [&[0, 0, 0x65, 0x58][..], &ethernet(0x0800, &inner)].concat();
    let mut arp = Vec::new();
    PacketBuilder::ethernet2(THEIR_MAC, OUR_MAC)
        .arp(ArpPacket::new(
            ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            ArpOperation::REPLY,
            &THEIR_MAC,
            &THEM,
            &OUR_MAC,
            &US,
        )?)
        .write(&mut arp)?;
    let mut tcp = Vec::new();
    PacketBuilder::ethernet2(THEIR_MAC, OUR_MAC)
        .ipv4(THEM, US, 64)
        .tcp(1, 2, 3, 4)
        .syn()
        .options(&[
            etherparse::TcpOptionElement::MaximumSegmentSize(1400),
            etherparse::TcpOptionElement::Timestamp(1, 2),
        ])?
        .write_to_vec(&mut tcp, PAYLOAD)?;
    let mut icmp = Vec::new();
    PacketBuilder::ethernet2(THEIR_MAC, OUR_MAC)
        .ipv4(THEM, US, 64)
        .icmpv4_echo_reply(7, 8)
        .write_to_vec(&mut icmp, PAYLOAD)?;
    let mut later = ip_of(17, PAYLOAD)?;
    // Not the first fragment: nothing behind it is a header.
    later[6..8].copy_from_slice(&[0, 10]);
    Ok(vec![
        ("ARP", 14 + 28, "Ethernet ARP", [&arp[..], PAYLOAD].concat()),
        (
            "UDP",
            14 + 28,
            "Ethernet IPv4 UDP",
            ethernet(0x0800, &udp(9, PAYLOAD)?),
        ),
        ("TCP with options", 14 + 20 + 36, "Ethernet IPv4 TCP", tcp),
        ("ICMP", 14 + 28, "Ethernet IPv4 ICMP", icmp),
        (
            "VXLAN",
            14 + 28 + 8 + 14 + 28,
            "Ethernet IPv4 UDP VXLAN Ethernet IPv4 UDP",
            ethernet(0x0800, &udp(4789, &vxlan)?),
        ),
        (
            "not VXLAN",
            14 + 28,
            "Ethernet IPv4 UDP",
            ethernet(0x0800, &udp(4789, &no_vxlan)?),
        ),
        (
            "GRE with a key",
            14 + 20 + 8 + 28,
            "Ethernet IPv4 GRE IPv4 UDP",
            ethernet(0x0800, &ip_of(47, &gre)?),
        ),
        (
            "Ethernet in GRE",
            14 + 20 + 4 + 14 + 28,
            "Ethernet IPv4 GRE Ethernet IPv4 UDP",
            ethernet(0x0800, &ip_of(47, &bridged)?),
        ),
        (
            "IPIP",
            14 + 20 + 28,
            "Ethernet IPv4 IPv4 UDP",
            ethernet(0x0800, &ip_of(4, &inner)?),
        ),
        (
            "a later fragment",
            14 + 20,
            "Ethernet IPv4",
            ethernet(0x0800, &later),
        ),
        (
            "an unknown protocol",
            14 + 20,
            "Ethernet IPv4",
            ethernet(0x0800, &ip_of(253, PAYLOAD)?),
        ),
        (
            "an unknown EtherType",
            14,
            "Ethernet",
            ethernet(0x88b5, PAYLOAD),
        ),
        (
            "IPv6 that is none",
            14,
            "Ethernet",
            ethernet(0x86dd, PAYLOAD),
        ),
        (
            "half a header",
            14 + 20,
            "Ethernet IPv4",
            ethernet(0x0800, &ip_of(6, &PAYLOAD[..12])?),
        ),
    ])
}

fn frames_of_every_kind() -> Result<()> {
    in_a_namespace(|| {
        driver("vxlan")?;
        run("ip link add vx0 up type vxlan id 42 dstport 4789")?;
        let (tap, capture) = tap()?;
        let frames = frames()?;
        for (_, _, _, frame) in &frames {
            (&tap).write_all(frame)?;
        }
        let skbs = received(&capture, frames.len() as u64)?;
        let tap0 = u64::from(sys::device_index("tap0")?);
        for ((name, len, layers, frame), skb) in frames.iter().zip(&skbs) {
            let decoded = Decoded::of(skb);
            let read: Vec<_> = decoded.layers.iter().map(|layer| layer.name).collect();
            check_eq!(read.join(" "), *layers, "headers of {name}, decoded");
            let end = decoded
                .layers
                .last()
                .map(|layer| layer.end() - skb.headers[0].offset);
            check_eq!(end, Some(*len as u64), "where those of {name} end");
            check_eq!(header(skb)?, &frame[..*len], "headers of {name}");
            check_eq!(
                Some(skb.headers[0].offset as u16),
                skb.mac.get(),
                "place of {name}"
            );
            let heard = sys::recv_message(&capture, 0)?;
            check_eq!(
                heard.bytes,
                *frame,
                "what the packet socket hears of {name}"
            );
            check_eq!(skb.len, frame.len() as u64, "len of {name}");
            check_eq!(skb.mac_len, 14, "mac_len of {name}");
            let (kind, index, protocol) = address(&heard);
            check_eq!(pkt_type(&skb.pkt_type), kind, "sll_pkttype of {name}");
            check_eq!(
                (skb.iif, u64::from(index)),
                (tap0, tap0),
                "sll_ifindex of {name}"
            );
            check!(
                skb.dev.as_ref().is_some_and(|dev| dev == "tap0"),
                "device of {name}: {skb:?}"
            );
            check_eq!(skb.protocol.0, protocol, "sll_protocol of {name}");
        }
        Ok(())
    })
}

/// sll_pkttype, sll_ifindex and sll_protocol of a struct sockaddr_ll.
fn address(heard: &Message) -> (u8, u32, u16) {
    let name = &heard.name;
    (
        name[10],
        u32::from_ne_bytes([name[4], name[5], name[6], name[7]]),
        u16::from_be_bytes([name[2], name[3]]),
    )
}

fn pkt_type(kind: &PacketType) -> u8 {
    match kind {
        PacketType::Host => 0,
        PacketType::Broadcast => 1,
        PacketType::Multicast => 2,
        PacketType::OtherHost => 3,
        PacketType::Outgoing => 4,
        _ => 255,
    }
}

fn vlan_tag_beside_the_bytes() -> Result<()> {
    in_a_namespace(|| {
        let (tap, capture) = tap()?;
        sys::set_option(&capture, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(THEIR_MAC, OUR_MAC)
            .single_vlan(VlanId::try_new(1234)?)
            .ipv4(THEM, US, 64)
            .udp(1, 9)
            .write_to_vec(&mut frame, PAYLOAD)?;
        (&tap).write_all(&frame)?;
        let skb = &received(&capture, 1)?[0];
        let bare = [&frame[..12], &frame[16..]].concat();
        check_eq!(header(skb)?, &bare[..14 + 28], "headers without the tag");
        let tag = |tag: Option<ravel_records::EtherType>| tag.map(|tag| tag.0);
        check_eq!(
            (tag(skb.vlan_proto), tag(skb.vlan_tci)),
            (Some(0x8100), Some(1234)),
            "the tag"
        );
        let heard = sys::recv_message(&capture, 0)?;
        check_eq!(heard.bytes, bare, "what the packet socket hears");
        // struct tpacket_auxdata.
        let aux = heard
            .control(libc::SOL_PACKET, libc::PACKET_AUXDATA)
            .context("no auxdata")?;
        check_eq!(u16::from_ne_bytes([aux[16], aux[17]]), 1234, "tp_vlan_tci");
        check_eq!(
            u16::from_ne_bytes([aux[18], aux[19]]),
            0x8100,
            "tp_vlan_tpid"
        );
        Ok(())
    })
}

/// A packet in as many pieces as it is written in (IFF_NAPI_FRAGS).
fn scattered_fragments() -> Result<()> {
    const IFF_NAPI: i32 = 0x10;
    const IFF_NAPI_FRAGS: i32 = 0x20;
    in_a_namespace(|| {
        driver("tun")?;
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | IFF_NAPI | IFF_NAPI_FRAGS;
        let tap = sys::tun("tap0", flags)?;
        run("ip link set tap0 address 02:00:00:00:00:01 up")?;
        let capture = sys::capture("tap0", false)?;
        let payload: Vec<u8> = PAYLOAD.iter().cycle().take(3000).copied().collect();
        let frame = ethernet(0x0800, &udp(9, &payload)?);
        // Ethernet's header, the IP header in two, and the rest in three.
        let mut rest = &frame[..];
        let mut pieces = Vec::new();
        for len in [14, 9, 11, 100, 1000, frame.len() - 1134] {
            let (piece, after) = rest.split_at(len);
            pieces.push(piece);
            rest = after;
        }
        check_eq!(
            sys::write_pieces(&tap, &pieces)?,
            frame.len(),
            "bytes written"
        );
        let skb = &received(&capture, 1)?[0];
        check!(skb.frags >= 2, "not scattered: {skb:?}");
        check_eq!(skb.len, frame.len() as u64, "len");
        check_eq!(header(skb)?, &frame[..42], "headers, wherever they are");
        let paged: u64 = skb.pages.iter().map(|page| page.size).sum();
        check_eq!(
            skb.linear() + paged,
            frame.len() as u64,
            "linear part and pages"
        );
        check_eq!(
            sys::recv_message(&capture, 0)?.bytes,
            frame,
            "what the packet socket hears"
        );
        Ok(())
    })
}

fn what_sockets_set() -> Result<()> {
    in_a_namespace(|| {
        let (one, two) = (
            UdpSocket::bind("127.0.0.1:0")?,
            UdpSocket::bind("127.0.0.1:0")?,
        );
        sys::set_option(&two, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        // The kernel begins to stamp packets when it finds the time (net_enable_timestamp()).
        wait_for("time stamps", || {
            one.send_to(b"early", two.local_addr()?)?;
            let stamped = received(&two, 1)?[0].clock.is_some();
            two.recv(&mut [0; 9])?;
            Ok(stamped)
        })?;
        let capture = sys::capture("lo", true)?;
        sys::set_option(&one, libc::SOL_SOCKET, libc::SO_MARK, 0x0abc_1234)?;
        sys::set_option(&one, libc::SOL_SOCKET, libc::SO_PRIORITY, 5)?;
        one.send_to(PAYLOAD, two.local_addr()?)?;
        let skb = &received(&two, 1)?[0];
        check_eq!(
            (skb.mark.0, skb.priority),
            (0x0abc_1234, 5),
            "mark, priority"
        );
        check_eq!(skb.pkt_type, PacketType::Host, "pkt_type");
        check_eq!(skb.clock, Some(Clock::Realtime), "clock");
        let (tstamp, age) = (
            skb.tstamp.context("no tstamp")?,
            skb.age_ns.context("no age")?,
        );
        let later = received(&two, 1)?[0].age_ns.context("no age")?;
        check!(age > 0 && later > age, "{age} ns old, then {later}");
        let heard = sys::recv_message(&two, 0)?;
        let stamp = heard
            .control(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS)
            .context("no time stamp")?;
        let word = |at: usize| stamp[at..at + 8].try_into().map(u64::from_ne_bytes);
        check_eq!(
            tstamp,
            word(0)? * 1_000_000_000 + word(8)?,
            "tstamp, by recvmsg()"
        );
        // The same packet, as somebody else hears it: whoever sends it left the sum to the device.
        let other = &received(&capture, 1)?[0];
        check_eq!(other.ip_summed, Checksum::Partial, "ip_summed");
        check_eq!(header(other)?, header(skb)?, "headers, in both");
        check_vnet(other, &sys::recv_message(&capture, 0)?)?;
        Ok(())
    })
}

/// Compares with struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
fn check_vnet(skb: &Skb, heard: &Message) -> Result<()> {
    let (vnet, frame) = heard.bytes.split_at(10);
    let word = |at: usize| u64::from(u16::from_ne_bytes([vnet[at], vnet[at + 1]]));
    let told = header(skb)?;
    check_eq!(
        told,
        &frame[..told.len()],
        "headers, as the packet socket hears them"
    );
    check_eq!(skb.len as usize, frame.len(), "len");
    check_eq!(skb.gso_size.unwrap_or(0), word(4), "gso_size");
    // What is but one packet keeps the type that it would have.
    let kinds = skb.gso_type.as_ref().filter(|_| word(4) > 0);
    let kind = match kinds.map(|kinds| (kinds.has("tcpv4"), kinds.has("udp_l4"))) {
        Some((true, _)) => 1,
        Some((_, true)) => 5,
        _ => 0,
    };
    check_eq!(kind, vnet[1], "gso_type of {kinds:?}");
    let partial = vnet[0] & 1 != 0;
    check_eq!(skb.ip_summed == Checksum::Partial, partial, "NEEDS_CSUM");
    if partial {
        // That one counts from the frame's first byte, and this one from the buffer's.
        let start = skb.csum_start.context("no csum_start")? - skb.data;
        check_eq!(
            (start, skb.csum_offset),
            (word(6), Some(word(8))),
            "csum_start, csum_offset"
        );
        check_eq!(skb.csum_start, Some(skb.transport.raw.into()), "csum_start");
    }
    Ok(())
}

const SET_TSO: u32 = 0x1f;
const SET_GSO: u32 = 0x24;
const SET_GRO: u32 = 0x2c;

/// Two namespaces with a veth device each, which are one wire: what is done there, then here.
pub(super) fn joined(
    there: impl FnOnce(&mut crate::process::Link) -> Result<()>,
    here: impl FnOnce(&mut Child) -> Result<()>,
) -> Result<()> {
    let mut outer = Child::spawn(|link| {
        sys::unshare(libc::CLONE_NEWNET)?;
        sys::loopback_up()?;
        driver("veth")?;
        let mut far = Child::spawn(|link| {
            sys::unshare(libc::CLONE_NEWNET)?;
            sys::loopback_up()?;
            link.send("ready")?;
            link.recv()?;
            run("ip addr add 10.78.0.2/24 dev vb")?;
            run("ip link set vb up")?;
            there(link)
        })?;
        check_eq!(far.link.recv()?, "ready", "what the far one says");
        run(&format!(
            "ip link add va type veth peer name vb netns {}",
            far.pid
        ))?;
        run("ip addr add 10.78.0.1/24 dev va")?;
        run("ip link set va up")?;
        far.link.send("go")?;
        here(&mut far)?;
        far.join()?;
        link.send("done")
    })?;
    check_eq!(outer.link.recv()?, "done", "what the child says");
    outer.join()
}

fn segmentation_and_aggregation() -> Result<()> {
    // What the sender's device does with large ones, whether the receiver's puts small ones together, and
    // whether large ones are then heard.
    for (segmented, aggregated, large) in [
        (false, false, true),
        (true, false, false),
        (true, true, true),
    ] {
        joined(
            |link| {
                if segmented {
                    sys::offload("vb", SET_TSO, false)?;
                    sys::offload("vb", SET_GSO, false)?;
                }
                let port: u16 = link.recv()?.parse()?;
                let mut stream = TcpStream::connect(("10.78.0.1", port))?;
                for _ in 0..20 {
                    stream.write_all(&PAYLOAD.repeat(1000))?;
                }
                link.send("sent")?;
                link.recv().map(drop)
            },
            |far| {
                sys::offload("va", SET_GRO, aggregated)?;
                let capture = sys::capture("va", true)?;
                let listener = TcpListener::bind("10.78.0.1:0")?;
                far.link.send(&listener.local_addr()?.port().to_string())?;
                let (mut stream, _) = listener.accept()?;
                let read =
                    std::thread::spawn(move || std::io::copy(&mut stream, &mut std::io::sink()));
                check_eq!(far.link.recv()?, "sent", "what the far one says");
                let skbs = received(&capture, 5)?;
                let mut most = 0;
                for skb in &skbs {
                    let heard = sys::recv_message(&capture, 0)?;
                    check_vnet(skb, &heard)?;
                    most = most.max(skb.len);
                    if let Some(size) = skb.gso_size.filter(|size| *size > 0) {
                        check_eq!(size, 1448, "gso_size");
                        check!(skb.len > 1514, "large by name only: {skb:?}");
                        check!(skb.frags > 0 || skb.frag_list, "all linear: {skb:?}");
                    }
                }
                check_eq!(
                    most > 1514,
                    large,
                    "longest of {} packets: {most}",
                    skbs.len()
                );
                far.link.send("end")?;
                let read = read
                    .join()
                    .map_err(|_| anyhow::anyhow!("the reader panicked"))?;
                check_eq!(read?, 20 * 1000 * PAYLOAD.len() as u64, "bytes read");
                Ok(())
            },
        )
        .with_context(|| format!("segmented: {segmented}, aggregated: {aggregated}"))?;
    }
    Ok(())
}

fn tunnels_between_namespaces() -> Result<()> {
    // How a tunnel is made, its driver, bytes before the inner packet on the wire, and bytes of its own link layer.
    for (words, module, outer, link) in [
        (
            "vxlan id 42 dstport 4789 dev DEV local US remote THEM",
            "vxlan",
            14 + 28 + 8,
            14,
        ),
        ("gre local US remote THEM key 7", "ip_gre", 14 + 20 + 8, 0),
        ("ipip local US remote THEM", "ipip", 14 + 20, 0),
    ] {
        driver(module)?;
        let make = |dev: &str, us: &str, them: &str, address: &str| -> Result<()> {
            let words = words
                .replace("DEV", dev)
                .replace("US", us)
                .replace("THEM", them);
            run(&format!("ip link add t0 type {words}"))?;
            run(&format!("ip addr add {address}/24 dev t0"))?;
            run("ip link set t0 up")
        };
        joined(
            |link| {
                make("vb", "10.78.0.2", "10.78.0.1", "10.79.0.2")?;
                let to = link.recv()?;
                let one = UdpSocket::bind("10.79.0.2:0")?;
                one.send_to(PAYLOAD, to)?;
                link.recv().map(drop)
            },
            |far| {
                make("va", "10.78.0.1", "10.78.0.2", "10.79.0.1")?;
                let two = UdpSocket::bind("10.79.0.1:0")?;
                let (wire, tunnel) = (sys::capture("va", false)?, sys::capture("t0", false)?);
                far.link.send(&two.local_addr()?.to_string())?;
                let inside = &received(&two, 1)?[0];
                let port = two.local_addr()?.port().to_be_bytes();
                // On the wire, all of them.
                let (skb, message) = &find(&wire, outer + link, &port)?;
                let all = &message.bytes[..outer + link + 28];
                check_eq!(header(skb)?, all, "headers, on the wire");
                // Where the tunnel came out, what it carries; in front may be what it was carried in.
                let (skb, carried) = &find(&tunnel, link, &port)?;
                check_eq!(
                    message.bytes[outer..],
                    carried.bytes[..],
                    "what the tunnel carries"
                );
                for (skb, place) in [(skb, "out of the tunnel"), (inside, "at the socket")] {
                    let told = header(skb)?;
                    check!(
                        all.ends_with(told),
                        "{told:x?} {place}, {all:x?} on the wire"
                    );
                    check!(
                        told.ends_with(&all[outer..]),
                        "{told:x?} {place}, of {all:x?}"
                    );
                }
                check!(
                    inside.dev.as_ref().is_some_and(|dev| dev == "t0"),
                    "device: {inside:?}"
                );
                far.link.send("end")
            },
        )
        .context(words)?;
    }
    Ok(())
}

/// The packet that goes to a UDP port, as its sk_buff and as recvmsg() has it, among what else is on the wire.
pub(super) fn find(capture: &OwnedFd, ip: usize, port: &[u8; 2]) -> Result<(Skb, Message)> {
    for skb in received(capture, 1)? {
        let heard = sys::recv_message(capture, 0)?;
        if heard.bytes.get(ip + 22..ip + 24) == Some(port) {
            return Ok((skb, heard));
        }
    }
    anyhow::bail!("not among what was heard")
}
