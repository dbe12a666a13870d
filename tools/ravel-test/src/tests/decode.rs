// SPDX-License-Identifier: GPL-2.0
//! Decoded headers, compared with those of tshark, field by field, and with the bytes that the module reports.

mod packets;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use ravel_records::decode::{Decoded, Layer};
use ravel_records::{Skb, SkbsReport};

use super::skb_headers::{header, received, tap};
use super::wire::{driver, in_a_namespace, run};
use crate::harness::say;
use crate::random::Random;
use crate::sys;
use crate::{check_eq, tests};
use packets::{Packet, generate};

tests!("decode":
    headers_are_those_of_tshark [600 s],
    module_reports_the_headers_that_are_decoded [180 s],
);

/// Generated packets.
const PACKETS: usize = 3000;

/// Of these, those that are truncated at every byte.
const TRUNCATED: usize = 40;

/// A field by tshark's name, and by those of the header and its field here.
const FIELDS: [(&str, &[&str], &str); 44] = [
    ("eth.dst", &["Ethernet"], "dst"),
    ("eth.src", &["Ethernet"], "src"),
    ("eth.type", &["Ethernet"], "type"),
    ("vlan.priority", &["802.1Q"], "priority"),
    ("vlan.dei", &["802.1Q"], "dei"),
    ("vlan.id", &["802.1Q"], "id"),
    ("vlan.etype", &["802.1Q"], "type"),
    ("ieee8021ad.priority", &["802.1ad"], "priority"),
    ("ieee8021ad.dei", &["802.1ad"], "dei"),
    ("ieee8021ad.id", &["802.1ad"], "id"),
    ("arp.opcode", &["ARP"], "operation"),
    ("ip.src", &["IPv4"], "src"),
    ("ip.dst", &["IPv4"], "dst"),
    ("ip.proto", &["IPv4"], "protocol"),
    ("ip.len", &["IPv4"], "len"),
    ("ip.ttl", &["IPv4"], "ttl"),
    ("ipv6.src", &["IPv6"], "src"),
    ("ipv6.dst", &["IPv6"], "dst"),
    ("ipv6.nxt", &["IPv6"], "next"),
    ("ipv6.plen", &["IPv6"], "len"),
    ("ipv6.hlim", &["IPv6"], "hop_limit"),
    ("udp.srcport", &["UDP"], "sport"),
    ("udp.dstport", &["UDP"], "dport"),
    ("udp.length", &["UDP"], "len"),
    ("tcp.srcport", &["TCP"], "sport"),
    ("tcp.dstport", &["TCP"], "dport"),
    ("tcp.seq_raw", &["TCP"], "seq"),
    ("tcp.ack_raw", &["TCP"], "ack"),
    ("tcp.flags", &["TCP"], "flags"),
    ("tcp.window_size_value", &["TCP"], "window"),
    ("tcp.option_kind", &["TCP"], "option_kinds"),
    ("sctp.srcport", &["SCTP"], "sport"),
    ("icmp.type", &["ICMP"], "type"),
    ("icmp.code", &["ICMP"], "code"),
    ("icmpv6.type", &["ICMPv6"], "type"),
    ("esp.spi", &["ESP"], "spi"),
    ("esp.sequence", &["ESP"], "sequence"),
    ("ah.spi", &["AH"], "spi"),
    ("gre.proto", &["GRE"], "protocol"),
    ("gre.key", &["GRE"], "key"),
    ("vxlan.vni", &["VXLAN", "VXLAN-GPE"], "vni"),
    ("geneve.vni", &["GENEVE"], "vni"),
    ("geneve.proto_type", &["GENEVE"], "protocol"),
    ("erspan.spanid", &["ERSPAN II", "ERSPAN III"], "session"),
];

/// An sk_buff of these bytes, as the module reports one.
fn skb(bytes: &[u8], encap: Option<&str>) -> Result<Skb> {
    let hex = crate::process::hex(bytes);
    let kind = match bytes.get(12..14) {
        Some(kind) => u16::from_be_bytes([kind[0], kind[1]]),
        None => 0,
    };
    let encap = encap.map_or_else(String::new, |encap| format!(" encap={encap}"));
    let text = format!(
        "report name=skbs format=1 pid=1 comm=\"x\" kernel=\"x\"\n\
         socket fd=3 id=b1b2c3d4e5f60713 inode=1 netns=1 family=packet type=raw protocol=768 \
         file_refs=1 nonblock=0 socket_state=unconnected sk_state=CLOSE shutdown=none flags=none \
         local=\"\" remote=\"\" linger=off err=0 soft_err=0 rx_bytes=0 rx_packets=1 unread=0 \
         tx_bytes=0 tx_packets=0 wmem=0 inq=0 outq=0 busy=0 backlog=0 peer=0000000000000000\n\
         queue fd=3 name=receive packets=1 shown=1\n\
         skb fd=3 queue=receive pos=0 id=00aa11bb22cc33e1 len={len} data_len=0 truesize=768 \
         data=64 tail={tail} end=4096 mac=64:set network=78:set transport=65535:unset \
         inner_mac=0:unset inner_network=0:unset inner_transport=0:unset mac_len=14 hdr_len=0 \
         protocol={kind:#06x} cloned=0 fclone=none users=1 dataref=1 flags=none frags=0 \
         frag_list=0 pkt_type=host ip_summed=none csum_level=0 priority=0 mark=0x0 hash=0x0 iif=0\
         {encap}\n\
         header fd=3 queue=receive pos=0 offset=64 bytes={hex}\n\
         summary report=skbs fds=1 sockets=1 queues=1 skbs=1 busy=0 cut=0\n",
        len = bytes.len(),
        tail = 64 + bytes.len(),
    );
    let report = SkbsReport::parse(text.as_bytes())?;
    Ok(report.sockets[0].queues[0].skbs[0].clone())
}

/// The values of a field, in the order of the headers.
fn values(decoded: &Decoded, names: &[&str], field: &str) -> Vec<String> {
    let layers = decoded.layers.iter();
    let of: Vec<&Layer> = layers.filter(|layer| names.contains(&layer.name)).collect();
    let all = of.iter().filter_map(|layer| layer.fields.get(field));
    match field {
        "option_kinds" => all.flat_map(str::split_whitespace).map(normal).collect(),
        _ => all.map(normal).collect(),
    }
}

/// A number in decimal digits; anything else as it is.
fn normal(value: &str) -> String {
    let number = match value.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => value.parse().ok(),
    };
    match (number, value) {
        (Some(number), _) => number.to_string(),
        (None, "True") => "1".to_owned(),
        (None, "False") => "0".to_owned(),
        (None, other) => other.to_owned(),
    }
}

/// Writes packets as a capture file: their bytes, and how long they were.
fn write_capture(path: &Path, packets: &[(&[u8], usize)]) -> Result<()> {
    let mut file = Vec::new();
    file.extend(0xa1b2_c3d4u32.to_ne_bytes());
    file.extend(2u16.to_ne_bytes());
    file.extend(4u16.to_ne_bytes());
    // Time zone, accuracy, longest packet, Ethernet.
    for word in [0u32, 0, 65535, 1] {
        file.extend(word.to_ne_bytes());
    }
    for (at, (bytes, len)) in packets.iter().enumerate() {
        for word in [at as u32, 0, bytes.len() as u32, *len as u32] {
            file.extend(word.to_ne_bytes());
        }
        file.extend(*bytes);
    }
    fs::File::create(path)?.write_all(&file)?;
    Ok(())
}

/// The fields of each packet, by tshark: one list of values for each of [`FIELDS`].
fn tshark(path: &Path) -> Result<Vec<Vec<Vec<String>>>> {
    let preferences = [
        "ip.defragment:FALSE",
        "ipv6.defragment:FALSE",
        "tcp.desegment_tcp_streams:FALSE",
        "tcp.analyze_sequence_numbers:FALSE",
        "udp.process_info:FALSE",
    ];
    let output = Command::new("tshark")
        .arg("-n")
        .args(preferences.iter().flat_map(|preference| ["-o", preference]))
        .arg("-r")
        .arg(path)
        .args(["-T", "fields", "-E", "separator=/t", "-E", "occurrence=a"])
        .args(["-E", "aggregator=;"])
        .args(FIELDS.iter().flat_map(|(field, ..)| ["-e", field]))
        .output()
        .context("run tshark")?;
    ensure!(
        output.status.success(),
        "tshark: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let list = |cell: &str| -> Vec<String> {
        let parts = cell.split(';').filter(|part| !part.is_empty());
        parts.map(normal).collect()
    };
    let text = String::from_utf8(output.stdout)?;
    Ok(text
        .lines()
        .map(|line| line.split('\t').map(list).collect())
        .collect())
}

/// Compares the values of each field. Of a packet that is cut or wrong, tshark shows what is there of the last
/// header, too, which is not decoded here.
fn compare(decoded: &Decoded, theirs: &[Vec<String>], is_exact: bool) -> Result<()> {
    for (at, (name, layers, field)) in FIELDS.iter().enumerate() {
        let ours = values(decoded, layers, field);
        let mut their: Vec<String> = theirs.get(at).cloned().unwrap_or_default();
        if *field == "option_kinds" {
            // Padding, and the end.
            their.retain(|kind| kind != "0" && kind != "1");
        }
        let same = match is_exact {
            true => ours == their,
            false => their.starts_with(&ours),
        };
        if !same {
            bail!("{name}: {ours:?}, tshark has {their:?}");
        }
    }
    Ok(())
}

fn headers_are_those_of_tshark() -> Result<()> {
    let seed = Random::seed()?;
    say(format!("seed {seed:#x}"));
    let mut random = Random::new(seed);
    let packets: Vec<Packet> = (0..PACKETS).map(|_| generate(&mut random)).collect();
    // Each with the number of its bytes that are there.
    let mut cases: Vec<(&Packet, usize)> = packets.iter().map(|p| (p, p.bytes.len())).collect();
    for packet in packets
        .iter()
        .filter(|packet| !packet.wrong)
        .take(TRUNCATED)
    {
        cases.extend((14..packet.bytes.len()).map(|len| (packet, len)));
    }
    let path = std::env::temp_dir().join("ravel-decode.pcap");
    let bytes: Vec<(&[u8], usize)> = cases
        .iter()
        .map(|(packet, len)| (&packet.bytes[..*len], packet.bytes.len()))
        .collect();
    write_capture(&path, &bytes)?;
    let theirs = tshark(&path)?;
    fs::remove_file(&path)?;
    check_eq!(theirs.len(), cases.len(), "packets that tshark has read");
    let mut layers = std::collections::BTreeMap::new();
    for (at, ((packet, len), theirs)) in cases.iter().zip(&theirs).enumerate() {
        let cut = &packet.bytes[..*len];
        let decoded = Decoded::of(&skb(cut, packet.encap)?);
        let is_exact = *len == packet.bytes.len() && !packet.wrong;
        compare(&decoded, theirs, is_exact).with_context(|| {
            let names: Vec<_> = decoded.layers.iter().map(|layer| layer.name).collect();
            format!("packet {at}, {len} bytes, {names:?}: {cut:02x?}")
        })?;
        // A header that is cut is not shown; those before it are.
        let whole = Decoded::of(&skb(&packet.bytes, packet.encap)?);
        let end = 64 + *len as u64;
        let want: Vec<_> = whole.layers.iter().filter(|l| l.end() <= end).collect();
        check_eq!(
            decoded.layers.iter().collect::<Vec<_>>(),
            want,
            "headers of packet {at}, cut at {len}"
        );
        for layer in &decoded.layers {
            *layers.entry(layer.name).or_insert(0) += 1;
        }
    }
    for (_, names, _) in FIELDS {
        ensure!(
            names.iter().all(|name| layers.contains_key(name)),
            "no packet has {names:?}: {layers:?}"
        );
    }
    say(format!("{} packets: {layers:?}", cases.len()));
    Ok(())
}

/// How far the module looks for headers.
const MOST: usize = 256;

fn module_reports_the_headers_that_are_decoded() -> Result<()> {
    let seed = Random::seed()?;
    say(format!("seed {seed:#x}"));
    in_a_namespace(|| {
        driver("vxlan")?;
        driver("geneve")?;
        run("ip link add vx0 up type vxlan external dstport 4789")?;
        run("ip link add gpe0 up type vxlan external gpe dstport 4790")?;
        run("ip link add gen0 up type geneve external dstport 6081")?;
        let (tap, capture) = tap()?;
        let mut random = Random::new(seed);
        let mut left = 600usize;
        while left > 0 {
            // A tag in the data is removed, and kept beside it.
            let packets: Vec<Packet> = (0..64)
                .map(|_| generate(&mut random))
                .filter(|packet| !packet.tagged)
                .collect();
            for packet in &packets {
                (&tap).write_all(&packet.bytes)?;
            }
            let skbs = received(&capture, packets.len() as u64)?;
            for (packet, of) in packets.iter().zip(&skbs) {
                let heard = sys::recv_message(&capture, 0)?;
                check_eq!(heard.bytes, packet.bytes, "what the packet socket hears");
                let looked_at = &packet.bytes[..packet.bytes.len().min(MOST)];
                let want = Decoded::of(&skb(looked_at, packet.encap)?);
                let end = want.layers.last().map_or(64, Layer::end);
                let len = (end - 64) as usize;
                let told = header(of)?;
                check_eq!(
                    told,
                    &packet.bytes[..len],
                    "headers of {:02x?}, decoded: {want:?}",
                    packet.bytes
                );
                let names = |decoded: &Decoded| -> Vec<&str> {
                    decoded.layers.iter().map(|layer| layer.name).collect()
                };
                check_eq!(names(&Decoded::of(of)), names(&want), "headers of {of:?}");
            }
            left = left.saturating_sub(packets.len());
        }
        Ok(())
    })
}
