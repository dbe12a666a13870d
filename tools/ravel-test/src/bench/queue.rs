// SPDX-License-Identifier: GPL-2.0
//! Workers of one queue, on one Redis.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::module;
use crate::server::{Server, laravel};

/// Jobs a second that do nothing, as ratios to a plain loop of PHP's that only takes them.
pub fn jobs() -> Result<()> {
    println!("Jobs a second, of one worker on one Redis, as ratios to BLPOP in a loop of PHP's");
    let server = Server::start("redis-server", 6440, &["--appendonly", "no"])?;
    let plain = rate(&server, 3000, laravel("drain", &server, "q", &[])?)?;
    let theirs = rate(
        &server,
        1000,
        laravel("work", &server, "q", &["-", "90", "1"])?,
    )?;
    let url = server.url();
    let ours = |more: &[&str]| -> Result<Command> {
        let mut command = Command::new(module::beside("ravel")?);
        command.args(["work", "--queue", "q", "--redis", &url, "--no-wait"]);
        command.args(more);
        Ok(command)
    };
    let each = rate(&server, 300, ours(&["--", "true"])?)?;
    let handler = "while ($job = fgets(STDIN)) { json_decode($job); echo \"done\\n\"; }";
    let kept = rate(
        &server,
        1000,
        ours(&["--keep", "--", "php", "-r", handler])?,
    )?;
    println!(
        "  the loop 1, Laravel's worker {:.3}, ravel work --keep with a loop of PHP's {:.3}, a process for each {:.3}",
        theirs / plain,
        kept / plain,
        each / plain
    );
    Ok(())
}

/// How many a second it does at best, less what it takes to start and do one.
fn rate(server: &Server, count: usize, mut command: Command) -> Result<f64> {
    let mut run = |count: usize| -> Result<Duration> {
        let mut fill = redis::pipe();
        for at in 0..count {
            let job = format!(
                "{{\"job\":\"RavelEvent@handle\",\"data\":[],\"id\":\"{at}\",\"attempts\":0}}"
            );
            fill.rpush("queues:q", job).ignore();
        }
        fill.query::<()>(&mut server.connect()?)?;
        let start = Instant::now();
        let status = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()?;
        let time = start.elapsed();
        ensure!(status.success(), "{command:?} ended with {status}");
        let left = server.counts("q")?;
        ensure!(left == [0, 0, 0, 0], "{command:?} leaves {left:?}");
        Ok(time)
    };
    let (mut one, mut all) = (Duration::MAX, Duration::MAX);
    for _ in 0..4 {
        one = one.min(run(1)?);
        all = all.min(run(count + 1)?);
    }
    let time = all.saturating_sub(one).max(Duration::from_millis(1));
    Ok(count as f64 / time.as_secs_f64())
}
