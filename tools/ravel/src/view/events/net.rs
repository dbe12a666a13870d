//! Events of the network as lines.

use std::fmt::Write;

use ravel_records::{
    Close, Dropped, Event, Family, Packet, Point, Protocol, Release, Reset, Shut, SkState, Text,
    Way,
};

use super::OrDash;
use crate::screen::{BAD, DIM, NAME, NOTE, count, plain};

/// What happened, without its number and time; nothing for what is not of the network.
pub fn line(event: &Event) -> String {
    match event {
        Event::TcpState(event) => format!(
            "state {} {} → {}",
            ends(&event.local, &event.remote),
            event.old,
            event.new
        ),
        Event::Reset(event) => reset(event),
        Event::Drop(event) => dropped(event),
        Event::Shutdown(event) => shut(event),
        Event::Close(event) => close(event),
        Event::Release(event) => release(event),
        Event::Packet(event) => packet(event),
        _ => String::new(),
    }
}

fn ends(local: &Text, remote: &Text) -> String {
    match (plain(local), plain(remote)) {
        (local, remote) if remote.is_empty() => local,
        (local, remote) => format!("{local} → {remote}"),
    }
}

fn reset(event: &Reset) -> String {
    let ends = ends(&event.local, &event.remote);
    let socket = match event.sk_state {
        SkState::None => "by no socket".to_owned(),
        ref state => format!("in {state}"),
    };
    let way = &event.way;
    let why = match way {
        Way::Sent => format!(": {}", event.reason),
        _ => String::new(),
    };
    format!("reset {ends} {NOTE}{way}{NOTE:#} {socket}{why}")
}

fn dropped(event: &Dropped) -> String {
    let what = match event.transport {
        Protocol::Other(_) => format!("type {}", event.protocol),
        ref transport => format!("{transport} {}", ends(&event.from, &event.to)),
    };
    let mut text = format!(
        "drop  {what}, {}: {BAD}{}{BAD:#}",
        count(event.len, "byte", "bytes"),
        event.reason
    );
    let location = plain(&event.location);
    if !location.is_empty() {
        // Writing to a String does not fail.
        let _ = write!(text, " {DIM}in {location}{DIM:#}");
    }
    text
}

/// What it is, and where it goes.
pub fn flow(packet: &Packet) -> String {
    let ends = ends(&packet.from, &packet.to);
    match packet.carries.as_str() {
        "none" => format!("type {}", packet.protocol),
        // It has no name.
        number if number.parse::<u8>().is_ok() => format!("protocol {number} {ends}"),
        carries => format!("{carries} {ends}"),
    }
}

fn packet(event: &Packet) -> String {
    let mut text = format!(
        "packet {NAME}{:<9}{NAME:#} {} {}, {}, data {} mac {} network {} transport {}",
        event.point,
        event.skb,
        flow(event),
        count(event.len, "byte", "bytes"),
        event.data,
        OrDash(event.mac.get()),
        OrDash(event.network.get()),
        OrDash(event.transport.get())
    );
    if event.point == Point::Drop {
        let _ = write!(text, ": {BAD}{}{BAD:#}", event.reason);
    }
    text
}

/// Which socket it is.
fn socket(family: &Family, inode: u64, local: &Text, remote: &Text) -> String {
    match ends(local, remote) {
        ends if ends.is_empty() => format!("{family} socket {inode}"),
        ends => format!("socket {inode}, {ends}"),
    }
}

/// What is queued.
fn queued(rx_bytes: u64, rx_packets: u64, tx_bytes: u64, unsent: u64) -> String {
    let mut text = String::new();
    let _ = match (rx_bytes, rx_packets) {
        (0, 0) => Ok(()),
        (0, packets) => write!(text, ", {packets} not taken"),
        (bytes, _) => write!(text, ", {} unread", count(bytes, "byte", "bytes")),
    };
    if tx_bytes > 0 {
        let _ = write!(
            text,
            ", {} unacknowledged",
            count(tx_bytes, "byte", "bytes")
        );
    }
    if unsent > 0 {
        let _ = write!(text, ", {unsent} of them unsent");
    }
    text
}

fn shut(event: &Shut) -> String {
    format!(
        "shut  {} {NAME}{}{NAME:#} shuts {} of {}, in {}{}",
        event.pid,
        plain(&event.comm),
        event.how,
        socket(&event.family, event.inode, &event.local, &event.remote),
        event.sk_state,
        queued(
            event.rx_bytes,
            event.rx_packets,
            event.tx_bytes,
            event.unsent
        )
    )
}

fn close(event: &Close) -> String {
    let how = match event.exiting {
        true => "exits and closes",
        false => "closes",
    };
    let left = match event.refs {
        0 => "the last reference".to_owned(),
        refs => format!("{} left", count(refs, "reference", "references")),
    };
    format!(
        "close {} {NAME}{}{NAME:#} {how} {}, in {}, {left}{}",
        event.pid,
        plain(&event.comm),
        socket(&event.family, event.inode, &event.local, &event.remote),
        event.sk_state,
        queued(
            event.rx_bytes,
            event.rx_packets,
            event.tx_bytes,
            event.unsent
        )
    )
}

fn release(event: &Release) -> String {
    format!(
        "gone  {} {NAME}{}{NAME:#} released {}, in {}{}",
        event.pid,
        plain(&event.comm),
        socket(&event.family, event.inode, &event.local, &event.remote),
        event.sk_state,
        queued(
            event.rx_bytes,
            event.rx_packets,
            event.tx_bytes,
            event.unsent
        )
    )
}
