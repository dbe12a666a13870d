// SPDX-License-Identifier: GPL-2.0
//! What the module costs: kernel memory, and how long it holds locks.

use std::fmt;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::module::{read_file, write_file};

/// Bytes of kernel memory in use that are not for files: slabs, large buffers, vmalloc.
pub fn kernel_bytes() -> Result<i64> {
    // Counts wait with each CPU until they are many; this adds them up.
    fs::write("/proc/sys/vm/stat_refresh", "1").context("refresh the counts")?;
    let text = fs::read_to_string("/proc/meminfo")?;
    let kib = |name: &str| -> Result<i64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let line = line.with_context(|| format!("no {name}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    };
    Ok((kib("SUnreclaim:")? + kib("VmallocUsed:")?) << 10)
}

/// The longest hold of each lock since [`Holds::forget`].
#[derive(Debug)]
pub struct Holds(Vec<(String, Duration)>);

impl Holds {
    /// Begins anew.
    pub fn forget() -> Result<()> {
        match write_file("locks", b"reset\n")? {
            0 => Ok(()),
            errno => bail!("reset of locks: errno {errno}"),
        }
    }

    /// What they are now.
    pub fn now() -> Result<Self> {
        let text = String::from_utf8(read_file("locks")?.whole()?)?;
        let hold = |line: &str| -> Result<(String, Duration)> {
            let value = |key: &str| {
                let mut words = line.split(' ');
                words
                    .find_map(|word| word.strip_prefix(key))
                    .with_context(|| format!("no {key} in {line}"))
            };
            let held = Duration::from_nanos(value("longest_ns=")?.parse()?);
            Ok((value("name=")?.to_owned(), held))
        };
        let lines = text.lines().filter(|line| line.starts_with("lock "));
        Ok(Self(lines.map(hold).collect::<Result<_>>()?))
    }

    /// The longest of all.
    pub fn longest(&self) -> Duration {
        self.0
            .iter()
            .map(|(_, held)| *held)
            .max()
            .unwrap_or_default()
    }
}

impl fmt::Display for Holds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.0.iter().filter(|(_, held)| !held.is_zero());
        for (i, (name, held)) in held.enumerate() {
            let ms = held.as_secs_f64() * 1000.0;
            write!(f, "{}{name} {ms:.2} ms", if i > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}
