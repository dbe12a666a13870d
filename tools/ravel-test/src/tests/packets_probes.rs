// SPDX-License-Identifier: GPL-2.0
//! The probes of functions, which streams share: there while somebody watches, and gone with whoever does last.

use std::collections::BTreeSet;
use std::fs;
use std::net::UdpSocket;

use anyhow::{Context, Result};

use super::events::PACKET_FUNCTIONS;
use super::packets::{LOOP, alone, points, until_ended, walks};
use super::peers::wait_for;
use crate::module;
use crate::process::Child;
use crate::stream::{Made, client};
use crate::tier::scale;
use crate::{check, check_eq, tests};

tests!("packets":
    what_nobody_watches_has_no_probe [60 s],
    streams_share_functions_and_leave_them_one_by_one [60 s],
    module_goes_under_a_flood [120 s],
);

/// What ftrace calls anybody for, as it says itself, a line for each function.
fn enabled() -> Result<Vec<String>> {
    let text = fs::read_to_string("/sys/kernel/tracing/enabled_functions")?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn first_words<'l>(lines: impl Iterator<Item = &'l String>) -> BTreeSet<String> {
    let words = lines.filter_map(|line| line.split_whitespace().next());
    words.map(str::to_owned).collect()
}

/// Which of the functions that `packet` hangs on have a probe.
pub(super) fn probed() -> Result<BTreeSet<String>> {
    let mut names = first_words(enabled()?.iter());
    names.retain(|name| PACKET_FUNCTIONS.contains(&name.as_str()));
    Ok(names)
}

/// What ftrace calls the module for.
pub(super) fn called() -> Result<BTreeSet<String>> {
    let lines = enabled()?;
    Ok(first_words(
        lines.iter().filter(|line| line.contains("[ravel]")),
    ))
}

/// What it is called for while nobody watches.
pub(super) const NOBODY: &str = "ravel_nobody_watches";

fn all() -> BTreeSet<String> {
    PACKET_FUNCTIONS.map(str::to_owned).into()
}

fn what_nobody_watches_has_no_probe() -> Result<()> {
    alone()?;
    check_eq!(probed()?, BTreeSet::new(), "probes before");
    let other = Made::new("other", "sources=drop,fork,close")?;
    check_eq!(probed()?, BTreeSet::new(), "probes of other sources");
    let stream = Made::new("watch", "sources=packet port=9")?;
    check_eq!(probed()?, all(), "probes");
    drop(stream);
    check_eq!(probed()?, BTreeSet::new(), "probes after");
    let close = BTreeSet::from(["locks_remove_posix".to_owned()]);
    check_eq!(called()?, close, "what is left is the other's");
    drop(other);
    let nobody = BTreeSet::from([NOBODY.to_owned()]);
    check_eq!(called()?, nobody, "what is left at the end");
    Ok(())
}

fn streams_share_functions_and_leave_them_one_by_one() -> Result<()> {
    alone()?;
    let (one, two) = (
        UdpSocket::bind("127.0.0.1:0")?,
        UdpSocket::bind("127.0.0.1:0")?,
    );
    let to = two.local_addr()?;
    let exchange = || -> Result<()> {
        one.send_to(b"both", to)?;
        check_eq!(two.recv(&mut [0; 9])?, 4, "bytes");
        Ok(())
    };
    let told = |stream: &Made, packets: usize| -> Result<()> {
        let walks = walks(&until_ended(stream, packets)?);
        check_eq!(walks.len(), packets, "packets");
        for walk in &walks {
            check_eq!(points(walk)[..6], LOOP, "points");
        }
        Ok(())
    };
    let first = Made::new("first", &format!("sources=packet port={}", to.port()))?;
    let second = Made::new(
        "second",
        &format!("sources=packet,close port={}", to.port()),
    )?;
    let other = Made::new("other", "sources=packet protocol=6")?;
    exchange()?;
    told(&first, 1)?;
    drop(first);
    check!(probed()? == all(), "the others have no probes");
    exchange()?;
    told(&second, 2)?;
    check_eq!(other.drain()?, [], "what is no packet of TCP");
    drop((second, other));
    check_eq!(probed()?, BTreeSet::new(), "probes at the end");
    let again = Made::new("again", &format!("sources=packet port={}", to.port()))?;
    exchange()?;
    told(&again, 1)
}

fn module_goes_under_a_flood() -> Result<()> {
    let mut flood = Child::spawn(|link| {
        alone()?;
        let free = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
        let sender = UdpSocket::bind("127.0.0.1:0")?;
        link.send(&free.port().to_string())?;
        loop {
            sender.send_to(b"nobody", free)?;
        }
    })?;
    let port = flood.link.wait()?;
    for _ in 0..scale(5, 2) {
        let streams = [
            Made::new("one", &format!("sources=packet bytes=65536 port={port}"))?,
            Made::new("two", "sources=packet,drop,close bytes=65536")?,
        ];
        wait_for("packets", || {
            let states: Result<Vec<_>> = streams.iter().map(Made::state).collect();
            Ok(states?.iter().all(|state| state.events > 100))
        })?;
        module::remove().context("remove the module with streams in it")?;
        check_eq!(called()?, BTreeSet::new(), "what ftrace calls it for");
        module::insert()?;
        check_eq!(client().streams()?.streams, [], "streams of the new module");
    }
    flood.kill()?;
    Ok(())
}
