// SPDX-License-Identifier: GPL-2.0
//! The kernel's own tests of GRO, of GSO, of MSG_ZEROCOPY and of VXLAN, each played alone and then again while
//! `ravel watch` follows every packet of the machine, and all of the test's processes are read by every report.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{are_there, passes_again, run_alone};
use crate::harness::say;
use crate::module;
use crate::stream::client;
use crate::sys;
use crate::tests::peers::wait_for;
use crate::{check, check_eq, tests};

tests!("selftests" when are_there:
    net_gro_ipv4 [600 s],
    net_gro_ipv6 [600 s],
    net_gro_ipip [600 s],
    net_gro_ip6ip6 [600 s],
    net_udpgso [300 s],
    net_msg_zerocopy [300 s],
    net_vxlan_under_vrf [300 s],
);

/// A shell that has the tools which are there for these tests, in their folder.
fn shell(line: &str) -> Result<Command> {
    let tools = module::beside("net/tools/usr")?;
    let path = std::env::var("PATH")?;
    let mut command = Command::new("bash");
    command
        .arg("-c")
        .arg(format!("cd {} && {line}", module::beside("net")?.display()))
        .env("PATH", format!("{0}/bin:{0}/sbin:{path}", tools.display()))
        .env("LD_LIBRARY_PATH", tools.join("lib/x86_64-linux-gnu"));
    Ok(command)
}

/// What a watcher told: rows of each point, events that were lost, and the kinds of packets it saw.
#[derive(Default)]
struct Watched {
    points: BTreeMap<String, u64>,
    carried: BTreeMap<String, u64>,
    lost: u64,
}

impl Watched {
    fn read(path: &Path) -> Result<Self> {
        let mut watched = Self::default();
        for line in BufReader::new(File::open(path)?).lines() {
            let line = line?;
            let row: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
            match row["point"].as_str() {
                Some(point) => {
                    *watched.points.entry(point.to_owned()).or_default() += 1;
                    let carries = row["carries"].as_str().context("no protocol")?;
                    *watched.carried.entry(carries.to_owned()).or_default() += 1;
                }
                None => watched.lost += row["count"].as_u64().with_context(|| line.clone())?,
            }
        }
        Ok(watched)
    }
}

/// Plays a test alone, and watched; `points` have to be among those that packets were told at.
fn passes_while_watched(name: &str, line: &str, points: &[&str]) -> Result<()> {
    let alone = run_alone(|| shell(line))?;
    let told = PathBuf::from("/tmp/watched");
    let mut watch = Command::new(module::beside("ravel")?)
        .args(["watch", "--json", "--bytes", "16777216"])
        .stdin(Stdio::null())
        .stdout(File::create(&told)?)
        .stderr(Stdio::piped())
        .spawn()?;
    let stream = format!("watch-{}", watch.id());
    wait_for("its stream", || {
        let streams = client().streams()?.streams;
        Ok(streams.iter().any(|one| one.name == stream))
    })?;
    let passed = passes_again(name, &alone, || shell(line), |_| Ok(()));
    let ended = watch.try_wait()?;
    sys::kill(watch.id() as i32, libc::SIGINT)?;
    let output = watch.wait_with_output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    passed?;
    ensure!(
        ended.is_none() && output.status.success() && errors.is_empty(),
        "ravel watch: {}: {errors}",
        output.status
    );
    check_eq!(client().streams()?.streams, [], "streams at the end");
    let watched = Watched::read(&told)?;
    fs::remove_file(&told)?;
    say(format_args!(
        "{name}: watched at {:?}; carrying {:?}; {} lost",
        watched.points, watched.carried, watched.lost
    ));
    for point in points {
        check!(
            watched.points.contains_key(*point),
            "no packet was told at {point}"
        );
    }
    Ok(())
}

fn gro(protocol: &str) -> Result<()> {
    fs::write("/tmp/gro.sh", include_str!("gro.sh"))?;
    passes_while_watched(
        &format!("gro, {protocol}"),
        &format!("bash /tmp/gro.sh ./lib/gro {protocol}"),
        &["queue", "transmit", "gro", "receive"],
    )
}

fn net_gro_ipv4() -> Result<()> {
    gro("ipv4")
}

fn net_gro_ipv6() -> Result<()> {
    gro("ipv6")
}

fn net_gro_ipip() -> Result<()> {
    gro("ipip")
}

fn net_gro_ip6ip6() -> Result<()> {
    gro("ip6ip6")
}

fn net_udpgso() -> Result<()> {
    passes_while_watched(
        "udpgso",
        "./udpgso.sh",
        &["output", "queue", "transmit", "copy", "consume"],
    )
}

fn net_msg_zerocopy() -> Result<()> {
    // As its automated test does, but there the receiver has no more time than the sender, who begins later.
    passes_while_watched(
        "msg_zerocopy",
        "for protocol in tcp udp; do ./msg_zerocopy.sh 4 $protocol && ./msg_zerocopy.sh 6 $protocol || exit; done",
        &["output", "queue", "transmit", "receive", "copy"],
    )
}

fn net_vxlan_under_vrf() -> Result<()> {
    passes_while_watched(
        "vxlan under vrf",
        "./test_vxlan_under_vrf.sh",
        &["output", "queue", "transmit", "receive", "transport"],
    )
}
