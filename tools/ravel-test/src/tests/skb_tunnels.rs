// SPDX-License-Identifier: GPL-2.0
//! Report skbs: packets of real tunnels, which are recognized by the socket that receives them and not by a port.

use std::net::UdpSocket;

use anyhow::{Context, Result};
use ravel_records::decode::Decoded;

use super::skb_headers::{PAYLOAD, find, header, joined, received};
use super::wire::{driver, run};
use crate::sys;
use crate::{check, check_eq, tests};

tests!("skb_tunnels":
    each_kind_on_the_wire [120 s],
);

/// A tunnel between two namespaces.
struct Tunnel {
    /// How it is made.
    make: &'static str,
    driver: &'static str,
    /// The headers of a packet on the wire, from Ethernet on.
    layers: &'static str,
    /// Bytes before the inner UDP header.
    before: usize,
    /// The tunnel's own header, and what it says.
    own: (&'static str, &'static str),
    /// The socket that receives it.
    encap: Option<&'static str>,
}

const TUNNELS: [Tunnel; 6] = [
    Tunnel {
        make: "vxlan id 42 dstport 8472 dev DEV local US remote THEM",
        driver: "vxlan",
        layers: "Ethernet IPv4 UDP VXLAN Ethernet IPv4 UDP",
        before: 14 + 20 + 8 + 8 + 14 + 20,
        own: ("VXLAN", "VNI 42"),
        encap: Some("vxlan"),
    },
    Tunnel {
        make: "geneve id 43 dstport 7081 remote THEM",
        driver: "geneve",
        layers: "Ethernet IPv4 UDP GENEVE Ethernet IPv4 UDP",
        before: 14 + 20 + 8 + 8 + 14 + 20,
        own: ("GENEVE", "VNI 43, carries Ethernet"),
        encap: Some("geneve"),
    },
    Tunnel {
        make: "gretap local US remote THEM key 7",
        driver: "ip_gre",
        layers: "Ethernet IPv4 GRE Ethernet IPv4 UDP",
        before: 14 + 20 + 8 + 14 + 20,
        own: ("GRE", "carries Ethernet, key 7"),
        encap: None,
    },
    Tunnel {
        make: "gre local US remote THEM key 8",
        driver: "ip_gre",
        layers: "Ethernet IPv4 GRE IPv4 UDP",
        before: 14 + 20 + 8 + 20,
        own: ("GRE", "carries IPv4, key 8"),
        encap: None,
    },
    Tunnel {
        make: "erspan local US remote THEM seq key 9 erspan_ver 1 erspan 123",
        driver: "ip_gre",
        layers: "Ethernet IPv4 GRE ERSPAN II Ethernet IPv4 UDP",
        before: 14 + 20 + 8 + 8 + 14 + 20,
        own: ("ERSPAN II", "session 9, VLAN 0, index 123"),
        encap: None,
    },
    Tunnel {
        make: "ipip local US remote THEM",
        driver: "ipip",
        layers: "Ethernet IPv4 IPv4 UDP",
        before: 14 + 20 + 20,
        own: ("Ethernet", ""),
        encap: None,
    },
];

fn each_kind_on_the_wire() -> Result<()> {
    for tunnel in &TUNNELS {
        one_kind(tunnel).context(tunnel.make)?;
    }
    Ok(())
}

fn one_kind(tunnel: &Tunnel) -> Result<()> {
    driver(tunnel.driver)?;
    let make = |dev: &str, us: &str, them: &str, address: &str| -> Result<()> {
        let words = tunnel.make.replace("DEV", dev).replace("US", us);
        let words = words.replace("THEM", them);
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
            let wire = sys::capture("va", false)?;
            far.link.send(&two.local_addr()?.to_string())?;
            let inside = &received(&two, 1)?[0];
            let port = two.local_addr()?.port();
            let (skb, message) = find(&wire, tunnel.before - 20, &port.to_be_bytes())?;
            check_eq!(
                header(&skb)?,
                &message.bytes[..tunnel.before + 8],
                "bytes of the headers"
            );
            let decoded = Decoded::of(&skb);
            let names: Vec<_> = decoded.layers.iter().map(|layer| layer.name).collect();
            check_eq!(names.join(" "), tunnel.layers, "headers");
            let encap = skb.encap.as_ref().map(|encap| encap.as_str());
            check_eq!(encap, tunnel.encap, "its receiver");
            check_eq!(skb.dev_type, Some(1), "type of va, Ethernet");
            let last = decoded.layers.last().context("no header")?;
            check_eq!(
                last.offset - skb.headers[0].offset,
                tunnel.before as u64,
                "place of the inner UDP header"
            );
            check_eq!(
                last.fields.get("dport"),
                Some(port.to_string().as_str()),
                "inner port"
            );
            let own = decoded
                .layers
                .iter()
                .find(|layer| layer.name == tunnel.own.0);
            let own = own.context("no header of the tunnel")?;
            check!(
                tunnel.own.1.is_empty() || own.says == tunnel.own.1,
                "the tunnel's header says {:?}",
                own.says
            );
            // Out of the tunnel, nothing is encapsulated any more.
            check_eq!(inside.encap, None, "receiver, at the socket");
            let says = Decoded::of(inside).disagreements;
            check!(
                !says.iter().any(|says| says.contains("inner")),
                "stale offsets are compared: {says:?}"
            );
            far.link.send("end")
        },
    )
}
