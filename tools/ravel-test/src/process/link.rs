// SPDX-License-Identifier: GPL-2.0
//! Conversations: orders and answers are lines in pipes.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, RawFd};

use anyhow::{Context, Result, ensure};

use super::patience;
use crate::sys;

/// One end of a conversation.
pub struct Link {
    from: BufReader<File>,
    to: File,
}

impl Link {
    /// An end that reads from one pipe and writes to another.
    pub fn new(from: File, to: File) -> Self {
        Self {
            from: BufReader::new(from),
            to,
        }
    }

    /// Two ends that are joined.
    pub fn pair() -> Result<(Self, Self)> {
        let (here_from, there_to) = sys::pipe(true)?;
        let (there_from, here_to) = sys::pipe(true)?;
        Ok((
            Self::new(here_from, here_to),
            Self::new(there_from, there_to),
        ))
    }

    /// The descriptors that it reads from and writes to.
    pub(super) fn fds(&self) -> (RawFd, RawFd) {
        (self.from.get_ref().as_raw_fd(), self.to.as_raw_fd())
    }

    /// Says one line.
    pub fn send(&mut self, line: &str) -> Result<()> {
        self.to
            .write_all(format!("{line}\n").as_bytes())
            .context("write to a pipe")
    }

    /// Waits for one line.
    pub fn recv(&mut self) -> Result<String> {
        if self.from.buffer().is_empty() {
            ensure!(
                sys::poll(self.from.get_ref(), libc::POLLIN, patience())?,
                "no answer in time"
            );
        }
        self.wait()
    }

    /// Whether a line is there, or the other end has gone.
    pub fn is_told(&self) -> Result<bool> {
        Ok(!self.from.buffer().is_empty() || sys::poll(self.from.get_ref(), libc::POLLIN, 0)?)
    }

    /// Waits for one line, for ever.
    pub fn wait(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(
            self.from.read_line(&mut line)? > 0,
            "the other end of the pipe is closed"
        );
        Ok(line.trim_end().to_owned())
    }
}
