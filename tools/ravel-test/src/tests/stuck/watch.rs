// SPDX-License-Identifier: GPL-2.0
//! `ravel stuck --watch`: the same, again and again.

use std::io::{BufRead, BufReader};
use std::net::Shutdown;
use std::process::{ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::report::own_socket;
use crate::tests::peers::pair;
use crate::{check, check_eq, module, tests, tier};

tests!("stuck":
    watch_shows_what_is_stuck_then,
);

/// The next document: each is a line.
fn next(from: &mut BufReader<ChildStdout>) -> Result<Value> {
    let mut text = String::new();
    check!(from.read_line(&mut text)? > 0, "no more");
    Ok(serde_json::from_str(&text)?)
}

fn watch_shows_what_is_stuck_then() -> Result<()> {
    let (client, server) = pair()?;
    let inode = own_socket(&server)?.0.inode;
    let mut child = Command::new(module::beside("ravel")?)
        .args(["stuck", "--json", "--watch", "1"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut from = BufReader::new(child.stdout.take().context("no pipe")?);
    let mut is_told = || -> Result<bool> {
        let answer = next(&mut from)?;
        let told = answer["stuck"].as_array().context("no list")?;
        let of = told.iter().find(|of| of["inode"] == inode);
        Ok(of.is_some_and(|of| of["why"] == "close_wait"))
    };
    check!(!is_told()?, "an open connection");
    let (start, mut looks) = (Instant::now(), 0);
    client.shutdown(Shutdown::Write)?;
    while !is_told()? {
        looks += 1;
        check!(looks < 5, "it is not told although it is half closed");
    }
    server.shutdown(Shutdown::Both)?;
    while is_told()? {
        looks += 1;
        check!(looks < 10, "it is told although it is over");
    }
    let least = Duration::from_secs(1);
    check!(
        start.elapsed() > least,
        "two looks in {:?}",
        start.elapsed()
    );
    // Nobody reads any more: that ends it, and is no failure.
    drop(from);
    let limit = Instant::now() + tier::patience(20);
    loop {
        match child.try_wait()? {
            Some(status) => {
                check_eq!(status.code(), Some(0), "how it ends");
                return Ok(());
            }
            None if Instant::now() > limit => {
                child.kill()?;
                anyhow::bail!("it goes on although nobody reads");
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
