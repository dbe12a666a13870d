// SPDX-License-Identifier: GPL-2.0
//! Where a stream of packets begins.

use std::net::UdpSocket;

use anyhow::Result;
use ravel_records::Event;

use super::packets::{LOOP, alone, points, walks};
use super::peers::wait_for;
use crate::process::Child;
use crate::stream::Made;
use crate::tier::scale;
use crate::{check, check_eq, tests};

tests!("packets":
    stream_begins_at_all_points_at_once [120 s],
);

fn stream_begins_at_all_points_at_once() -> Result<()> {
    let mut flood = Child::spawn(|link| {
        alone()?;
        let (one, two) = (
            UdpSocket::bind("127.0.0.1:0")?,
            UdpSocket::bind("127.0.0.1:0")?,
        );
        let to = two.local_addr()?;
        link.send(&to.port().to_string())?;
        loop {
            one.send_to(b"flood", to)?;
            two.recv(&mut [0; 9])?;
        }
    })?;
    let port = flood.link.wait()?;
    for round in 0..scale(10, 3) {
        let stream = Made::new("begin", &format!("sources=packet port={port}"))?;
        // Each packet is seen at six points or more.
        wait_for("enough packets", || Ok(stream.state()?.ready >= 400))?;
        let events: Vec<Event> = stream.batches(2)?;
        drop(stream);
        let walks = walks(&events);
        check!(
            walks.len() > 10,
            "hardly any packet is told apart: {}",
            walks.len()
        );
        // The first may have been on its way, and the last may still be.
        for walk in &walks[1..walks.len() - 1] {
            check_eq!(points(walk)[..6], LOOP, "points in round {round}");
        }
    }
    flood.kill()
}
