// SPDX-License-Identifier: GPL-2.0
//! Signals, and whom they go to.

use anyhow::{Context, Result};
use ravel_records::SignalTo;

use super::super::peers::pair;
use super::own;
use crate::process::Child;
use crate::sys::{self, Owner};
use crate::{check, check_eq};

pub(super) fn signals_and_their_owners() -> Result<()> {
    let (one, _two) = pair()?;
    let us = sys::getpid();
    let signal = || own(&one)?.signal.context("no signal");
    let flags = sys::file_flags(&one)?;
    let mut child = Child::idle()?;
    sys::set_file_flags(&one, flags | libc::O_ASYNC)?;
    let found = signal()?;
    check_eq!(
        (found.r#async, found.to, found.pid, found.signal),
        (true, SignalTo::None, 0, 0),
        "O_ASYNC without an owner"
    );
    for (owner, kind, pid) in [
        (Owner::Process(child.pid), SignalTo::Process, child.pid),
        (Owner::Thread(us), SignalTo::Thread, us),
        (Owner::Group(sys::group()?), SignalTo::Group, sys::group()?),
        (Owner::Process(child.pid), SignalTo::Process, child.pid),
    ] {
        sys::set_owner(&one, owner)?;
        let found = signal()?;
        check_eq!((found.to, found.pid), (kind, pid as u32), "of {owner:?}");
    }
    sys::set_signal(&one, 35)?;
    check_eq!(signal()?.signal, 35, "signal of F_SETSIG");
    sys::set_file_flags(&one, flags)?;
    let found = signal()?;
    check_eq!(
        (found.r#async, found.pid),
        (false, child.pid as u32),
        "without O_ASYNC"
    );
    child.kill()?;
    let found = signal()?;
    check_eq!(
        (found.to, found.pid),
        (SignalTo::Process, 0),
        "of a process that is gone"
    );
    check!(
        own(&one)?.waiters.is_empty(),
        "it is no entry of a wait queue"
    );
    // O_NONBLOCK is told beside all that.
    check!(!own(&one)?.socket.nonblock, "nonblock");
    sys::set_file_flags(&one, flags | libc::O_NONBLOCK)?;
    check!(own(&one)?.socket.nonblock, "not nonblock");
    Ok(())
}
