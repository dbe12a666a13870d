// SPDX-License-Identifier: GPL-2.0
//! Connections to another network namespace, as to another machine.

use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ravel_records::SkState;
use serde_json::Value;

use super::{holders, of_ours, stuck_over, wait_state};
use crate::process::Child;
use crate::sys;
use crate::tests::peers::wait_for;
use crate::{check, check_eq, tests};

tests!("stuck":
    orphan_goes_when_it_says,
    half_closed_toward_another_machine,
);

/// The test's process in a network namespace that has a wire to another's: addresses 10.9.0.1 here, 10.9.0.2 there.
pub(in crate::tests) struct Wire {
    pub(in crate::tests) there: Child,
}

pub(in crate::tests) const THERE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
pub(in crate::tests) const PORT: u16 = 4000;

pub(in crate::tests) fn ip(words: &str) -> Result<()> {
    let out = Command::new("ip").args(words.split(' ')).output()?;
    let errors = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "ip {words}: {errors}");
    Ok(())
}

impl Wire {
    /// Lays it. At the other end runs a server, which accepts a connection for each line that is sent to it, and
    /// closes one for "close".
    pub(in crate::tests) fn lay() -> Result<Self> {
        let mut there = Child::spawn(|link| {
            sys::unshare(libc::CLONE_NEWNET)?;
            link.send("there")?;
            link.wait()?;
            ip("addr add 10.9.0.2/24 dev far")?;
            ip("link set far up")?;
            let listener = TcpListener::bind((THERE, PORT))?;
            link.send("listens")?;
            let mut accepted = Vec::new();
            loop {
                match link.wait()?.as_str() {
                    "accept" => accepted.push(listener.accept()?.0),
                    "close" => drop(accepted.pop()),
                    _ => return Ok(()),
                }
                link.send(&format!(
                    "{}",
                    accepted
                        .last()
                        .map_or(-1, |last: &TcpStream| last.as_raw_fd())
                ))?;
            }
        })?;
        there.link.recv()?;
        sys::unshare(libc::CLONE_NEWNET)?;
        ip(&format!(
            "link add near type veth peer name far netns {}",
            there.pid
        ))?;
        ip("addr add 10.9.0.1/24 dev near")?;
        ip("link set near up")?;
        there.link.send("laid")?;
        there.link.recv()?;
        Ok(Self { there })
    }

    pub(in crate::tests) fn connect(&mut self) -> Result<(TcpStream, i32)> {
        let address = SocketAddr::from((THERE, PORT));
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(20))?;
        self.there.link.send("accept")?;
        Ok((stream, self.there.link.recv()?.parse()?))
    }
}

/// Runs a scene in a process of its own, which may go to another network namespace.
pub(in crate::tests) fn elsewhere(scene: impl FnOnce() -> Result<()>) -> Result<()> {
    Child::spawn(|_| scene())?.join()
}

fn orphan_goes_when_it_says() -> Result<()> {
    elsewhere(|| {
        let mut wire = Wire::lay()?;
        // TCP_LINGER2: for how many seconds it stays.
        for (seconds, least) in [(4, false), (100, true)] {
            let (stream, fd) = wire.connect()?;
            sys::set_option(&stream, libc::IPPROTO_TCP, libc::TCP_LINGER2, seconds)?;
            let local = stream.local_addr()?.to_string();
            let find = || -> Result<Option<Value>> {
                let all = stuck_over(&[])?;
                Ok(all
                    .into_iter()
                    .find(|of| of["remote"] == *local && of["other_end"]["inode"] == 0))
            };
            drop(stream);
            let (mut asked, mut told) = (Instant::now(), None);
            wait_for("an orphan", || {
                asked = Instant::now();
                told = find()?;
                Ok(told.is_some())
            })?;
            let told = told.context("none")?;
            // The other end is in another namespace, with the same addresses: it has to act.
            check_eq!(told["why"], "close_wait", "why");
            check_eq!(holders(&told["blame"]), [(wire.there.pid, fd)], "blame");
            check_eq!(told["sk_state"], "close_wait", "state");
            let orphan = &told["other_end"];
            check_eq!(orphan["state"], "fin_wait2", "state of the orphan");
            check_eq!(orphan["inode"], 0, "inode of the orphan");
            check_eq!(holders(&orphan["holders"]), [], "holders of the orphan");
            check!(orphan["netns"] != told["netns"], "both in one namespace");
            let ms = orphan["ends_ms"].as_u64().context("no end")?;
            // Above a minute, the first part is told that is waited (tcp_rcv_state_process()).
            let most = if least { 40_000 } else { 4000 };
            check!(ms <= most, "{ms} ms of {most}");
            // It is shown once.
            let all = stuck_over(&[])?;
            let same = all
                .iter()
                .filter(|of| of["remote"] == *local || of["local"] == *local);
            check_eq!(same.count(), 1, "{all:#?}");
            if least {
                wire.there.link.send("close")?;
                wire.there.link.recv()?;
            }
            wait_for("its end", || Ok(find()?.is_none()))?;
            if !least {
                // Each look took a while, and the clock of timers ticks.
                let lasted = asked.elapsed() + Duration::from_millis(20);
                check!(
                    lasted.as_millis() as u64 >= ms,
                    "gone {lasted:?} after {ms} ms were told"
                );
            }
        }
        Ok(())
    })
}

fn half_closed_toward_another_machine() -> Result<()> {
    elsewhere(|| {
        let mut wire = Wire::lay()?;
        let (stream, fd) = wire.connect()?;
        stream.shutdown(Shutdown::Write)?;
        wait_state(&stream, SkState::FinWait2)?;
        // The end there has to act: the connection is shown by it.
        check!(of_ours(&stream)?.is_none(), "it is shown twice");
        let local = stream.local_addr()?.to_string();
        let all = stuck_over(&[])?;
        let told = all.iter().find(|of| of["remote"] == *local);
        let told = told.context("not told")?;
        check_eq!(told["why"], "close_wait", "why");
        check_eq!(holders(&told["blame"]), [(wire.there.pid, fd)], "blame");
        check_eq!(
            holders(&told["other_end"]["holders"]),
            [(sys::getpid(), stream.as_raw_fd())],
            "holders of this end"
        );
        let said = told["text"]["remedy"].as_str().unwrap_or_default();
        check!(said.contains("the peer still reads"), "{said}");
        wire.there.link.send("close")?;
        wire.there.link.recv()?;
        wait_for("its end", || {
            let all = stuck_over(&[])?;
            Ok(all.iter().all(|of| of["remote"] != *local))
        })
    })
}
