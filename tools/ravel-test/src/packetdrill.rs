// SPDX-License-Identifier: GPL-2.0
//! packetdrill's scripts, as far as those of the kernel's selftests need them that are about the end of a
//! connection: system calls on one side, and packets on the other, each with its time.
//!
//! Debian has no packetdrill. What stands in a script and is not known here is an error, never passed over.
//!
//! `ravel-test --packetdrill FILE` plays a script once for each version of IP and says what came of it, as TAP.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::process::Child;

mod packet;
mod play;
mod script;

use play::Player;
use script::Script;

/// What a script is played over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Version {
    Ipv4,
    Ipv6,
    /// IPv4 by a socket of IPv6.
    Mapped,
}

impl Version {
    const ALL: [Self; 3] = [Self::Ipv4, Self::Ipv6, Self::Mapped];

    fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
            Self::Mapped => "ipv4-mapped-ipv6",
        }
    }

    /// The names that the kernel's runner of these scripts defines for a version (`-D NAME=VALUE`).
    fn defined(self, folder: &Path) -> Result<BTreeMap<String, String>> {
        let runner = fs::read_to_string(folder.join("ksft_runner.sh"))?;
        let (_, rest) = runner
            .split_once(&format!("[{}]=\"", self.name()))
            .context("the runner does not know it")?;
        let (words, _) = rest.split_once('"').context("no end of its arguments")?;
        let mut words = words.split_whitespace();
        let mut defined = BTreeMap::new();
        while let Some(word) = words.next() {
            if word == "-D" {
                let define = words.next().and_then(|define| define.split_once('='));
                let (name, value) = define.context("-D without NAME=VALUE")?;
                defined.insert(name.to_owned(), value.to_owned());
            }
        }
        Ok(defined)
    }
}

/// Plays a script over each version, in network namespaces of their own.
pub fn run(path: &str) -> Result<()> {
    let path = Path::new(path);
    let folder = path.parent().context("no folder")?;
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    play::run("modprobe tun")?;
    println!("1..{}", Version::ALL.len());
    for (at, version) in Version::ALL.into_iter().enumerate() {
        let script = Script::parse(&text, &version.defined(folder)?)?;
        let mut child = Child::spawn(|link| {
            let played = Player::new(version, folder).and_then(|player| player.play(&script));
            link.send(&match played {
                Ok(()) => "well".to_owned(),
                Err(error) => format!("{error:#}").replace('\n', " "),
            })
        })?;
        let said = child.link.wait()?;
        child.join()?;
        let (number, name) = (at + 1, version.name());
        match said.as_str() {
            "well" => println!("ok {number} {name}"),
            said => println!("not ok {number} {name}: {said}"),
        }
    }
    Ok(())
}
