// SPDX-License-Identifier: GPL-2.0
//! Network devices of a namespace of one's own, and the wires behind them in the test's hands.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

use crate::process::{Child, Link};
use crate::sys;

/// This host, and the one at the other end of the wire.
pub const US: [u8; 4] = [10, 77, 0, 1];
/// Likewise.
pub const THEM: [u8; 4] = [10, 77, 0, 2];
/// Likewise, of IPv6.
pub const US6: [u8; 16] = [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// Likewise.
pub const THEM6: [u8; 16] = [0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

/// Runs a program, which must succeed.
pub fn run(words: &str) -> Result<()> {
    let mut parts = words.split_whitespace();
    let program = parts.next().context("no program")?;
    let output = Command::new(program).args(parts).output()?;
    ensure!(
        output.status.success(),
        "{words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Loads a driver, where it is not part of the kernel.
pub fn driver(name: &str) -> Result<()> {
    run(&format!("modprobe {name}"))
}

/// Does something in a child with a network namespace of its own.
pub fn in_a_namespace(f: impl FnOnce() -> Result<()>) -> Result<()> {
    let mut child = Child::spawn(|link: &mut Link| {
        sys::unshare(libc::CLONE_NEWNET)?;
        sys::loopback_up()?;
        f()?;
        link.send("done")
    })?;
    let said = child.link.recv().context("the child failed")?;
    ensure!(said == "done", "the child says {said}");
    child.join()
}

/// The other end of a tun device's wire.
pub struct Wire(File);

impl Wire {
    /// Makes a tun device with addresses, in a network namespace of one's own.
    pub fn new() -> Result<Self> {
        driver("tun")?;
        let file = sys::tun("wire0", libc::IFF_TUN | libc::IFF_NO_PI)?;
        run("ip addr add 10.77.0.1/24 dev wire0")?;
        run("ip -6 addr add fd77::1/64 dev wire0 nodad")?;
        run("ip link set wire0 up")?;
        Ok(Self(file))
    }

    /// A packet comes in.
    pub fn send(&self, packet: &[u8]) -> Result<()> {
        Ok((&self.0).write_all(packet)?)
    }

    /// The TCP packet that next goes out to a port: its sequence number.
    pub fn tcp_to(&self, port: u16) -> Result<u32> {
        for _ in 0..100 {
            if !sys::poll(&self.0, libc::POLLIN, 10_000)? {
                bail!("nothing goes out");
            }
            let mut bytes = vec![0; 2000];
            let n = (&self.0).read(&mut bytes)?;
            let Ok(packet) = SlicedPacket::from_ip(&bytes[..n]) else {
                continue;
            };
            if let Some(TransportSlice::Tcp(tcp)) = packet.transport {
                if tcp.destination_port() == port {
                    return Ok(tcp.sequence_number());
                }
            }
        }
        bail!("no TCP packet goes to port {port}")
    }

    /// A connection from the other end, and our end of it.
    pub fn connect(&self) -> Result<(Peer<'_>, TcpStream)> {
        let listener = TcpListener::bind("10.77.0.1:0")?;
        let mut peer = Peer {
            wire: self,
            port: 4000,
            to: listener.local_addr()?.port(),
            theirs: 0,
        };
        let mut syn = Vec::new();
        PacketBuilder::ipv4(THEM, US, 64)
            .tcp(peer.port, peer.to, Peer::FIRST - 1, 60_000)
            .syn()
            .write_to_vec(&mut syn, &[])?;
        self.send(&syn)?;
        peer.theirs = self.tcp_to(peer.port)?.wrapping_add(1);
        self.send(&peer.segment(0, &[])?)?;
        let (stream, _) = listener.accept()?;
        Ok((peer, stream))
    }
}

/// A TCP that the test plays.
pub struct Peer<'w> {
    wire: &'w Wire,
    port: u16,
    to: u16,
    /// The sequence number of the other side's first byte.
    pub theirs: u32,
}

impl Peer<'_> {
    /// The sequence number of its first byte.
    pub const FIRST: u32 = 0x1000_0000;

    /// A packet with data that stand at a place in the stream.
    pub fn segment(&self, at: u32, data: &[u8]) -> Result<Vec<u8>> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4(THEM, US, 64)
            .tcp(self.port, self.to, Self::FIRST + at, 60_000)
            .psh()
            .ack(self.theirs)
            .write_to_vec(&mut packet, data)?;
        Ok(packet)
    }

    /// Sends it, and tells it.
    pub fn send(&self, at: u32, data: &[u8]) -> Result<Vec<u8>> {
        let packet = self.segment(at, data)?;
        self.wire.send(&packet)?;
        Ok(packet)
    }
}
