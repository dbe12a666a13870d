// SPDX-License-Identifier: GPL-2.0
//! The kernel log, and what in it is a complaint.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result};

/// Taint bits that an unsigned out-of-tree module sets by itself: O and E.
const EXPECTED_TAINT: u64 = (1 << 12) | (1 << 13);

/// What a line that tells of a fault begins with.
const BEGINNINGS: &[&str] = &["WARNING: ", "BUG: ", "INFO: ", "Oops: ", "kernel BUG at "];

/// What a line that tells of a fault contains.
const PARTS: &[&str] = &[
    "Oops:",
    "Call Trace:",
    "[ cut here ]",
    "Kernel panic",
    "general protection fault",
    "unable to handle",
    "possible circular locking",
    "possible recursive locking",
    "inconsistent lock state",
    "suspicious RCU usage",
    "KASAN:",
    "UBSAN:",
    "suspected memory leak",
    "detected stall",
    "self-detected stall",
    "rcu_preempt kthread starved",
    "soft lockup",
    "hard LOCKUP",
    "hung task",
    "blocked for more than",
    "refcount_t: ",
    "list_add corruption",
    "list_del corruption",
    "stack segment",
    "double fault",
    "scheduling while atomic",
    "sleeping function called from invalid context",
    "unregister_netdevice: waiting",
    "Out of memory: Killed",
];

/// Whether a line of the kernel log tells of a fault. Not a data race: most are the kernel's own, and
/// only the whole report, which the host reads afterwards, says whose.
pub fn is_complaint(line: &str) -> bool {
    let begins = BEGINNINGS.iter().any(|b| line.starts_with(b));
    let contains = PARTS.iter().any(|p| line.contains(p));
    (begins || contains) && !line.starts_with("BUG: KCSAN: ")
}

/// The kernel log, read as it grows.
pub struct Log {
    file: File,
    lines: Vec<String>,
    checked: usize,
    lost: u64,
}

impl Log {
    /// The log from the boot on.
    pub fn open() -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .context("open /dev/kmsg")?;
        Ok(Self {
            file,
            lines: Vec::new(),
            checked: 0,
            lost: 0,
        })
    }

    fn read(&mut self) -> Result<()> {
        let mut buffer = vec![0; 16 << 10];
        loop {
            match self.file.read(&mut buffer) {
                Ok(n) => {
                    let record = String::from_utf8_lossy(&buffer[..n]);
                    let text = record.split_once(';').map_or(&*record, |(_, text)| text);
                    let first = text.lines().next().unwrap_or("");
                    self.lines.push(first.to_owned());
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => self.lost += 1,
                Err(e) => return Err(e).context("read /dev/kmsg"),
            }
        }
    }

    /// The complaints since the last call, each with the lines that follow it.
    pub fn new_complaints(&mut self) -> Result<Vec<String>> {
        self.read()?;
        let new = &self.lines[self.checked..];
        let complaints = match new.iter().position(|line| is_complaint(line)) {
            Some(first) => new[first..].iter().take(80).cloned().collect(),
            None => Vec::new(),
        };
        self.checked = self.lines.len();
        Ok(complaints)
    }

    /// All complaints since the boot, times that the log overran us, and lines read.
    pub fn all(&mut self) -> Result<(Vec<String>, u64, usize)> {
        self.read()?;
        let all = self
            .lines
            .iter()
            .filter(|line| is_complaint(line))
            .cloned()
            .collect();
        Ok((all, self.lost, self.lines.len()))
    }
}

fn taint() -> Result<u64> {
    let text = fs::read_to_string("/proc/sys/kernel/tainted")?;
    Ok(text.trim().parse()?)
}

/// The taint bits that are set and should not be.
pub fn unexpected_taint() -> Result<u64> {
    Ok(taint()? & !EXPECTED_TAINT)
}

/// Whether the kernel has had an Oops: a task died in it with whatever locks it held.
pub fn has_died() -> Result<bool> {
    // TAINT_DIE
    Ok(taint()? & (1 << 7) != 0)
}

#[cfg(test)]
mod tests {
    use super::is_complaint;

    #[test]
    fn faults_are_complaints() {
        for line in [
            "WARNING: CPU: 0 PID: 12 at mm/rmap.c:443 unlink_anon_vmas+0x1/0x2",
            "WARNING: mm/rmap.c:443 at unlink_anon_vmas+0x1/0x2, CPU#0: rmmod/12",
            "WARNING: possible circular locking dependency detected",
            "BUG: kernel NULL pointer dereference, address: 0000000000000008",
            "BUG: KASAN: slab-use-after-free in x+0x1/0x2",
            "Oops: Oops: 0000 [#1] SMP NOPTI",
            "INFO: task ravel-test:12 blocked for more than 120 seconds.",
            "rcu: INFO: rcu_preempt self-detected stall on CPU",
            "watchdog: BUG: soft lockup - CPU#1 stuck for 26s!",
            "kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
            "------------[ cut here ]------------",
            " Call Trace:",
        ] {
            assert!(is_complaint(line), "{line}");
        }
    }

    #[test]
    fn a_boot_makes_no_complaint() {
        for line in [
            "ravel: loading out-of-tree module taints kernel.",
            "ravel: module verification failed: signature and/or required key missing",
            "kmemleak: Kernel memory leak detector initialized (mem pool available: 15679)",
            "BUG: KCSAN: data-race in __lru_add_drain_all / folio_add_lru",
            "Spectre V2 : WARNING: Unprivileged eBPF is enabled with eIBRS on",
            "rcu: Hierarchical RCU implementation.",
            "x86/bugs: a BUG in the CPU is worked around",
        ] {
            assert!(!is_complaint(line), "{line}");
        }
    }
}
