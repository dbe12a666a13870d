//! Tests of decoding, with the bytes of real packets.

use super::*;
use crate::{Offset, QueueName, SkbsReport};

const SAMPLE: &str = include_str!("../../tests/samples/skbs-headers.txt");

fn decoded(fd: u32, queue: &QueueName, pos: usize) -> Decoded {
    let report = SkbsReport::parse(SAMPLE.as_bytes()).unwrap();
    let queue = report.socket(fd).unwrap().queue(queue).unwrap();
    Decoded::of(&queue.skbs[pos])
}

fn places(decoded: &Decoded) -> Vec<(&'static str, u64, u64)> {
    let place = |layer: &Layer| (layer.name, layer.offset, layer.len);
    decoded.layers.iter().map(place).collect()
}

#[test]
fn a_packet_in_a_tunnel() {
    let decoded = decoded(3, &QueueName::Receive, 0);
    let want = [
        ("Ethernet", 64, 14),
        ("IPv4", 78, 20),
        ("UDP", 98, 8),
        ("VXLAN", 106, 8),
        ("Ethernet", 114, 14),
        ("IPv4", 128, 20),
        ("UDP", 148, 8),
    ];
    assert_eq!(places(&decoded), want);
    assert_eq!(decoded.layers[3].says, "VNI 42");
    assert_eq!(decoded.layers[6].says, "6000 → 9, 28 bytes");
    let says =
        "transport is 78: the IPv4 header begins there: no layer has set the transport header";
    assert_eq!(decoded.disagreements, [says]);
}

#[test]
fn what_does_not_agree_is_said() {
    let decoded = decoded(3, &QueueName::Receive, 1);
    let want = [("Ethernet", 64, 14), ("IPv4", 78, 20), ("TCP", 98, 32)];
    assert_eq!(places(&decoded), want);
    let says = "4000 → 7000, SYN, seq 268435455, ack 0, window 60000, MSS 1400, window scale 7, SACK permitted";
    assert_eq!(decoded.layers[2].says, says);
    assert_eq!(
        decoded.disagreements,
        [
            "the Ethernet header has EtherType 0x86dd, `protocol` is 0x0800",
            "transport is 100: the TCP header is at 98 to 130, and none begins there",
            "inner_network is 65000, outside of the buffer, which ends at 192",
            "the IPv4 header says 1052 bytes, the sk_buff has 152 from there on",
        ]
    );
}

#[test]
fn extension_headers() {
    let decoded = decoded(4, &QueueName::Error, 0);
    let want = [
        ("IPv6", 80, 40),
        ("hop-by-hop options", 120, 8),
        ("destination options", 128, 16),
        ("UDP", 144, 8),
    ];
    assert_eq!(places(&decoded), want);
    assert!(decoded.disagreements.is_empty(), "{decoded:?}");
}

#[test]
fn transport_behind_the_last_header() {
    let report = SkbsReport::parse(SAMPLE.as_bytes()).unwrap();
    let queue = report.socket(4).unwrap().queue(&QueueName::Error).unwrap();
    let mut skb = queue.skbs[0].clone();
    skb.transport.raw = 170;
    let says = "transport is 170: the UDP header is at 144 to 152, and none begins there";
    assert_eq!(Decoded::of(&skb).disagreements, [says]);
}

#[test]
fn no_bytes_are_taken_for_more_than_they_are() {
    let report = SkbsReport::parse(SAMPLE.as_bytes()).unwrap();
    for skb in report
        .sockets
        .iter()
        .flat_map(|of| &of.queues)
        .flat_map(|q| &q.skbs)
    {
        for len in 0..skb.headers[0].bytes.0.len() {
            let mut cut = skb.clone();
            cut.headers[0].bytes.0.truncate(len);
            let decoded = Decoded::of(&cut);
            let end = cut.headers[0].offset + len as u64;
            let inside = |layer: &Layer| layer.offset + layer.len <= end;
            assert!(
                decoded.layers.iter().all(inside),
                "{len} bytes: {decoded:?}"
            );
        }
        for at in 0..skb.headers[0].bytes.0.len() {
            for byte in [0, 0xff, 0x4f, 0x60] {
                let mut other = skb.clone();
                other.headers[0].bytes.0[at] = byte;
                Decoded::of(&other);
            }
        }
    }
}

/// An sk_buff with an Ethernet header at 64, of these bytes.
fn received(bytes: &[u8]) -> Skb {
    let report = SkbsReport::parse(SAMPLE.as_bytes()).unwrap();
    let queue = report.socket(3).unwrap().queue(&QueueName::Receive);
    let mut skb = queue.unwrap().skbs[0].clone();
    skb.protocol = EtherType(headers::word(bytes, 12).unwrap());
    skb.encap = None;
    skb.len = bytes.len() as u64;
    skb.tail = skb.data + skb.len;
    skb.end = 2048;
    skb.transport.set = false;
    skb.headers[0].bytes.0 = bytes.to_vec();
    skb
}

fn set(raw: u16) -> Offset {
    Offset { raw, set: true }
}

fn names(decoded: &Decoded) -> String {
    let names: Vec<_> = decoded.layers.iter().map(|layer| layer.name).collect();
    names.join(", ")
}

fn says<'d>(decoded: &'d Decoded, name: &str) -> &'d str {
    let mut layers = decoded.layers.iter();
    &layers.find(|layer| layer.name == name).unwrap().says
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// Ethernet, then this EtherType and these bytes.
fn ethernet(kind: u16, rest: &[u8]) -> Vec<u8> {
    let mut bytes = hex("020000002902 020000002901");
    bytes.extend(kind.to_be_bytes());
    bytes.extend(rest);
    bytes
}

/// From 192.168.29.1 to 192.168.29.2.
fn ipv4(protocol: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = hex("4500 0000 1234 0000 4000 0000 c0a81d01 c0a81d02");
    bytes[9] = protocol;
    bytes[2..4].copy_from_slice(&(20 + rest.len() as u16).to_be_bytes());
    bytes.extend(rest);
    bytes
}

fn ipv6(next: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes =
        hex("60000000 0000 0040 fd290000000000000000000000000001 fd290000000000000000000000000002");
    bytes[6] = next;
    bytes[4..6].copy_from_slice(&(rest.len() as u16).to_be_bytes());
    bytes.extend(rest);
    bytes
}

fn udp(to: u16, rest: &[u8]) -> Vec<u8> {
    let mut bytes = hex("9c40 0000 0000 0000");
    bytes[2..4].copy_from_slice(&to.to_be_bytes());
    bytes[4..6].copy_from_slice(&(8 + rest.len() as u16).to_be_bytes());
    bytes.extend(rest);
    bytes
}

fn vxlan(flags: u8, protocol: u8, rest: &[u8]) -> Vec<u8> {
    [&[flags, 0, 0, protocol, 0, 0, 42, 0], rest].concat()
}

#[test]
fn vxlan_on_any_port() {
    let inner = ethernet(IPV4, &ipv4(17, &udp(7129, b"")));
    for port in [8472, 4789, 12345] {
        let bytes = ethernet(IPV4, &ipv4(17, &udp(port, &vxlan(8, 0, &inner))));
        let mut skb = received(&bytes);
        // Nothing says what the datagram contains.
        assert_eq!(names(&Decoded::of(&skb)), "Ethernet, IPv4, UDP", "{port}");
        skb.encap = Some(Encap::Vxlan);
        let decoded = Decoded::of(&skb);
        assert_eq!(
            names(&decoded),
            "Ethernet, IPv4, UDP, VXLAN, Ethernet, IPv4, UDP"
        );
        assert_eq!(says(&decoded, "VXLAN"), "VNI 42");
        assert_eq!(decoded.layers[6].says, "40000 → 7129, 8 bytes");
        assert_eq!(decoded.layers[6].offset, 64 + 14 + 20 + 8 + 8 + 14 + 20);
        assert_eq!(decoded.disagreements, [""; 0]);
    }
}

#[test]
fn inner_headers_of_an_unknown_tunnel() {
    let outer = ethernet(IPV4, &ipv4(17, &udp(8472, b"")));
    let inner = ethernet(IPV4, &ipv4(17, &udp(7129, b"")));
    let mut skb = received(&outer);
    let begin = 64 + outer.len() as u16 + 8;
    let mut second = skb.headers[0].clone();
    second.offset = begin.into();
    second.bytes.0 = inner;
    skb.headers.push(second);
    skb.flags = "encapsulation".parse().unwrap();
    skb.inner_protocol = Some(EtherType(BRIDGED));
    skb.inner_mac = set(begin);
    skb.inner_network = set(begin + 14);
    skb.inner_transport = set(begin + 34);
    let decoded = Decoded::of(&skb);
    // The inner IPv4 header is not decoded as Ethernet, and what is between is not guessed.
    assert_eq!(
        names(&decoded),
        "Ethernet, IPv4, UDP, unknown, Ethernet, IPv4, UDP"
    );
    assert_eq!(says(&decoded, UNKNOWN), "8 bytes before the inner headers");
    assert_eq!(decoded.layers[6].says, "40000 → 7129, 8 bytes");
    assert_eq!(decoded.disagreements, [""; 0]);
    // IP without Ethernet, as in FOU.
    skb.inner_protocol = None;
    skb.inner_ipproto = Some(4);
    skb.encap = Some(Encap::Fou);
    skb.headers[1].bytes.0 = ipv4(17, &udp(7129, b""));
    skb.inner_network = set(begin);
    skb.inner_transport = set(begin + 20);
    let decoded = Decoded::of(&skb);
    assert_eq!(names(&decoded), "Ethernet, IPv4, UDP, unknown, IPv4, UDP");
    assert_eq!(
        says(&decoded, "UDP"),
        "40000 → 8472, 8 bytes, to a socket of fou"
    );
}

#[test]
fn stale_inner_offsets_are_ignored() {
    let mut skb = received(&ethernet(IPV4, &ipv4(17, &udp(9, b""))));
    for offset in [
        &mut skb.inner_mac,
        &mut skb.inner_network,
        &mut skb.inner_transport,
    ] {
        *offset = set(70);
    }
    assert_eq!(Decoded::of(&skb).disagreements, [""; 0]);
    assert!(
        skb.valid_offsets()
            .all(|(name, _)| !name.starts_with("inner"))
    );
    skb.flags = "encapsulation".parse().unwrap();
    let disagreements = Decoded::of(&skb).disagreements;
    assert_eq!(disagreements.len(), 3, "{disagreements:?}");
    assert!(skb.valid_offsets().any(|(name, _)| name == "inner_mac"));
}

#[test]
fn tunnels_of_every_kind() {
    let datagram = udp(7129, b"");
    let four = ipv4(17, &datagram);
    let six = ipv6(17, &datagram);
    let frame = ethernet(IPV6, &six);
    let with = |head: &str, rest: &[u8]| [&hex(head)[..], rest].concat();
    let mut tagged = hex("0200 86dd 00002a00 0102 8001 cafecafe");
    tagged.extend(&six);
    for (encap, kind, packet, wanted, name, text) in [
        (
            Some(Encap::Vxlan),
            IPV4,
            ipv4(17, &udp(4790, &vxlan(0x0c, 1, &four))),
            "IPv4, UDP, VXLAN-GPE, IPv4, UDP",
            "VXLAN-GPE",
            "VNI 42, carries IPv4",
        ),
        (
            Some(Encap::Vxlan),
            IPV4,
            ipv4(17, &udp(4790, &vxlan(0x0c, 4, &four))),
            "IPv4, UDP, VXLAN-GPE",
            "VXLAN-GPE",
            "VNI 42, carries NSH",
        ),
        (
            Some(Encap::Geneve),
            IPV6,
            ipv6(17, &udp(6081, &tagged)),
            "IPv6, UDP, GENEVE, IPv6, UDP",
            "GENEVE",
            "VNI 42, carries IPv6, 8 bytes of options",
        ),
        (
            Some(Encap::WireGuard),
            IPV4,
            ipv4(17, &udp(51820, &four)),
            "IPv4, UDP",
            "UDP",
            "40000 → 51820, 36 bytes, to a socket of wireguard",
        ),
        (
            None,
            IPV4,
            ipv4(47, &with("b000 0800 12340000 00000007 00000009", &four)),
            "IPv4, GRE, IPv4, UDP",
            "GRE",
            "carries IPv4, checksum 0x1234, key 7, sequence 9",
        ),
        (
            None,
            IPV4,
            ipv4(47, &with("0000 6558", &frame)),
            "IPv4, GRE, Ethernet, IPv6, UDP",
            "GRE",
            "carries Ethernet",
        ),
        (
            None,
            IPV4,
            ipv4(47, &with("1000 88be 00000001 1005 6003 00000011", &frame)),
            "IPv4, GRE, ERSPAN II, Ethernet, IPv6, UDP",
            "ERSPAN II",
            "session 3, VLAN 5, index 17",
        ),
        (
            None,
            IPV4,
            ipv4(
                47,
                &with("1000 22eb 00000001 2005 0003 00000000 0000 0018", &frame),
            ),
            "IPv4, GRE, ERSPAN III, Ethernet, IPv6, UDP",
            "ERSPAN III",
            "session 3, VLAN 5, hardware 1, egress",
        ),
        (
            None,
            IPV4,
            ipv4(47, &with("3081 880b 00040007 00000001 00000002", b"ppp!")),
            "IPv4, GRE",
            "GRE",
            "carries PPP, call 7, sequence 1, ack 2",
        ),
        (
            None,
            IPV4,
            ipv4(4, &four),
            "IPv4, IPv4, UDP",
            "UDP",
            "40000 → 7129, 8 bytes",
        ),
        (
            None,
            IPV4,
            ipv4(41, &six),
            "IPv4, IPv6, UDP",
            "UDP",
            "40000 → 7129, 8 bytes",
        ),
        (
            None,
            IPV6,
            ipv6(
                60,
                &with(
                    "3300 0104 00000000 1104 0000 00000abc 00000001 00112233 44556677 8899aabb",
                    &datagram,
                ),
            ),
            "IPv6, destination options, AH, UDP",
            "AH",
            "SPI 0x00000abc, then UDP",
        ),
        (
            None,
            IPV4,
            ipv4(50, &with("00000abc 00000007", &four)),
            "IPv4, ESP",
            "ESP",
            "SPI 0x00000abc, sequence 7, then encrypted",
        ),
    ] {
        let mut skb = received(&ethernet(kind, &packet));
        skb.encap = encap;
        let decoded = Decoded::of(&skb);
        assert_eq!(names(&decoded), format!("Ethernet, {wanted}"));
        assert_eq!(says(&decoded, name), text);
    }
}

#[test]
fn bytes_of_other_link_layers_are_not_decoded() {
    let mut skb = received(&ethernet(IPV4, &ipv4(17, &udp(9, b""))));
    // ARPHRD_SIT: they are of the tunnel.
    skb.dev_type = Some(776);
    let decoded = Decoded::of(&skb);
    assert_eq!(names(&decoded), "unknown, IPv4, UDP");
    let want = "14 bytes before the network header of a device of type 776";
    assert_eq!(says(&decoded, UNKNOWN), want);
}

#[test]
fn vlan_tags_have_priority_and_dei() {
    let datagram = ipv4(17, &udp(9, b""));
    let tags = [&hex("b064 8100 602a 0800")[..], &datagram].concat();
    let decoded = Decoded::of(&received(&ethernet(0x88a8, &tags)));
    assert_eq!(names(&decoded), "Ethernet, 802.1ad, 802.1Q, IPv4, UDP");
    assert_eq!(
        says(&decoded, "802.1ad"),
        "VLAN 100, priority 5, DEI, type 802.1Q"
    );
    assert_eq!(says(&decoded, "802.1Q"), "VLAN 42, priority 3, type IPv4");
    assert_eq!(vlan_tag(0x0fff), "VLAN 4095, priority 0");
}

#[test]
fn later_fragments_have_no_ports() {
    let mut packet = ipv4(17, &udp(7129, b"payload"));
    packet[6..8].copy_from_slice(&[0x20, 185]);
    let decoded = Decoded::of(&received(&ethernet(IPV4, &packet)));
    assert_eq!(names(&decoded), "Ethernet, IPv4");
    let says = says(&decoded, "IPv4");
    assert!(says.ends_with("fragment at 1480, without ports"), "{says}");
    let fragment = [&hex("1100 05c8 00000001")[..], b"payload"].concat();
    let decoded = Decoded::of(&received(&ethernet(IPV6, &ipv6(44, &fragment))));
    assert_eq!(names(&decoded), "Ethernet, IPv6, fragment");
    assert_eq!(decoded.layers[2].says, "at 1480, then UDP, without ports");
}

/// What is said of a TCP header with these options.
fn with_options(options: &str) -> String {
    let mut tcp = hex("1f90 9c40 00000001 00000002 0110 ffff 0000 0000");
    let options = hex(options);
    tcp[12] |= (((20 + options.len()) / 4) << 4) as u8;
    tcp.extend(&options);
    let decoded = Decoded::of(&received(&ethernet(IPV4, &ipv4(6, &tcp))));
    let says = says(&decoded, "TCP");
    assert_eq!(decoded.layers[2].len, 20 + options.len() as u64);
    let plain = "8080 → 40000, ACK AE, seq 1, ack 2, window 65535";
    says.strip_prefix(plain).unwrap().to_owned()
}

#[test]
fn tcp_options_of_every_kind() {
    for (bytes, wanted) in [
        ("", ""),
        (
            "020405b4 0402 080a 0000000a 0000000b 01 030307",
            ", MSS 1460, SACK permitted, timestamps 10 11, window scale 7",
        ),
        (
            "0101 0512 00000005 00000009 0000000f 00000014",
            ", SACK 5-9 15-20",
        ),
        (
            "1312 00112233445566778899aabbccddeeff 0101",
            ", MD5 signature",
        ),
        (
            "1d10 6403 00112233445566778899aabb",
            ", AO key 100, next key 3, MAC of 12 bytes",
        ),
        ("2202 0101", ", TFO cookie request"),
        (
            "220a 0011223344556677 0101",
            ", TFO cookie 0011223344556677",
        ),
        ("fe04 f989", ", TFO cookie request, experimental"),
        ("fe08 f989 aabbccdd", ", TFO cookie aabbccdd, experimental"),
        ("fe06 e2d4c3d9 0101", ", SMC"),
        ("fe04 1234", ", option 254, experiment 0x1234"),
        (
            "ac0b 000001 000002 000003 01",
            ", AccECN ECT(0) 1 CE 2 ECT(1) 3",
        ),
        ("ae08 000001 000002", ", AccECN ECT(1) 1 CE 2"),
        ("1e04 0181 0101 0101", ", MPTCP MP_CAPABLE version 1"),
        (
            "1e0c 1105 0000000a 0000000b",
            ", MPTCP MP_JOIN address 5, backup",
        ),
        (
            "1e14 2005 0000000a 0000000b 00000001 0010 0000",
            ", MPTCP DSS ack 10, seq 11, subflow seq 1, 16 bytes",
        ),
        ("1e0c 2003 0000000100000002", ", MPTCP DSS ack 4294967298"),
        (
            "1e0a 3104 c0a81d01 1f90 0101",
            ", MPTCP ADD_ADDR address 4, 192.168.29.1:8080, echo",
        ),
        ("1e04 4007", ", MPTCP REMOVE_ADDR address 7"),
        ("1e04 5102", ", MPTCP MP_PRIO backup, address 2"),
        ("1e0c 6000 0000000000000009", ", MPTCP MP_FAIL data seq 9"),
        ("1e0c 7000 0000000000000009", ", MPTCP MP_FASTCLOSE"),
        ("1e04 8003", ", MPTCP MP_TCPRST reason 3"),
        ("1e04 a000", ", MPTCP subtype 10"),
        // Unknown options are skipped.
        ("4604 1234 020405b4", ", option 70, 4 bytes, MSS 1460"),
        // Known ones of another length are unknown.
        ("0203 01 020405b4 00", ", option 2, 3 bytes, MSS 1460"),
        // Nothing follows the end.
        ("020405b4 00 020405", ", MSS 1460"),
        (
            "020405b4 0401 0101",
            ", MSS 1460, option 4 with invalid length 1",
        ),
        (
            "020405b4 080a 0000",
            ", MSS 1460, option 8 with invalid length 10",
        ),
    ] {
        assert_eq!(with_options(bytes), wanted, "{bytes}");
    }
}
