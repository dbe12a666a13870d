// SPDX-License-Identifier: GPL-2.0
//! Processes to look at: children that run a closure, and puppets, that fork, map and write as they are told.

mod area;
mod child;
mod link;
mod obey;
mod puppet;

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::sys::{self, Pid};
use crate::tier;

pub use {
    area::{Area, HUGE},
    child::{Child, Sleepers},
    link::Link,
    obey::{hex, serve_after_exec},
    puppet::{Puppet, Stage},
};

/// Milliseconds that a puppet may take for one answer.
fn patience() -> i32 {
    tier::patience(30).as_millis() as i32
}

/// Makes the calling process die with its parent, which is `parent`.
pub fn die_with(parent: Pid) {
    if sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64).is_err() || sys::getppid() != parent
    {
        sys::exit_now(3);
    }
}

/// Waits until a process' main thread, or a thread, is in that state.
pub fn wait_state(pid: Pid, state: char) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < tier::patience(10) {
        let stat = fs::read(format!("/proc/{pid}/stat"))?;
        let stat = String::from_utf8_lossy(&stat);
        if stat
            .rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with(state))
        {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    bail!("pid {pid} does not come to state {state}")
}
