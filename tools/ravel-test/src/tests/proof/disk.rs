// SPDX-License-Identifier: GPL-2.0
//! A folder on a disk that may be full.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

/// A folder, that goes at the end.
pub struct Disk {
    /// Where it is.
    pub path: PathBuf,
    own: bool,
    small: bool,
    full: bool,
}

impl Disk {
    /// On the machine's disk.
    pub fn here(path: &Path) -> Result<Self> {
        let _ = fs::remove_dir_all(path);
        fs::create_dir_all(path)?;
        Ok(Self {
            path: path.to_owned(),
            own: false,
            small: false,
            full: false,
        })
    }

    /// On a disk of its own, in memory; `small`: that may be full.
    pub fn new(path: &Path, small: bool) -> Result<Self> {
        let mut new = Self::here(path)?;
        let size = if small { "size=16m" } else { "size=64m" };
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", size, "proof"])
            .arg(path)
            .status()?;
        ensure!(status.success(), "mount: {status}");
        (new.own, new.small) = (true, small);
        Ok(new)
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Whether it can be filled now.
    pub fn has_room(&self) -> bool {
        self.small && !self.full
    }

    /// Leaves no more than that many bytes of it, or a page more.
    pub fn fill(&mut self, spare: usize) -> Result<()> {
        let mut file = File::create(self.ballast())?;
        let mut written = 0;
        loop {
            match file.write(&[0; 1 << 16]) {
                Ok(bytes) => written += bytes as u64,
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => return Err(error.into()),
            }
        }
        file.set_len(written.saturating_sub(spare as u64))?;
        self.full = true;
        Ok(())
    }

    /// Takes away what it was filled with.
    pub fn free(&mut self) -> Result<()> {
        if std::mem::take(&mut self.full) {
            fs::remove_file(self.ballast())?;
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.own {
            let _ = Command::new("umount").arg("-l").arg(&self.path).status();
        }
        let _ = fs::remove_dir_all(&self.path);
    }
}
