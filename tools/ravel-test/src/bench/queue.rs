// SPDX-License-Identifier: GPL-2.0
//! Workers of one queue, on one Redis.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Usage, spent};
use crate::module;
use crate::server::{Server, laravel};

/// Jobs a second that do nothing, as ratios to a plain loop of PHP's that only takes them.
pub fn jobs() -> Result<()> {
    println!("Jobs a second, of one worker on one Redis, as ratios to BLPOP in a loop of PHP's");
    let server = Server::start("redis-server", 6440, &["--appendonly", "no"])?;
    let url = server.url();
    let ours = |more: &[&str]| -> Result<Command> {
        let mut command = Command::new(module::beside("ravel")?);
        command.args(["work", "--queue", "q", "--redis", &url, "--no-wait"]);
        command.args(more);
        Ok(command)
    };
    let handler = "while ($job = fgets(STDIN)) { json_decode($job); echo \"done\\n\"; }";
    let mut all = [
        Worker::new(3000, laravel("drain", &server, "q", &[])?),
        Worker::new(1500, laravel("work", &server, "q", &["-", "90", "1"])?),
        Worker::new(1500, ours(&["--keep", "--", "php", "-r", handler])?),
        Worker::new(
            9000,
            ours(&["--keep", "--prefetch", AHEAD, "--", "php", "-r", handler])?,
        ),
        Worker::new(300, ours(&["--", "true"])?),
    ];
    // In turns: what else the machine does is then the same for all.
    for _ in 0..TURNS {
        for worker in &mut all {
            worker.turn(&server)?;
        }
    }
    let tell = |what: &str, rate: fn(&Worker) -> f64| {
        let [plain, theirs, kept, ahead, each] = all.each_ref().map(rate);
        println!(
            "  {what}: the loop 1, Laravel's worker {:.3}, ravel work --keep with a loop of PHP's {:.3}, with \
             --prefetch {AHEAD} {:.3}, a process for each {:.3}; to Laravel's worker ravel work --keep {:.1}, with \
             --prefetch {AHEAD} {:.1} (aim: 10)",
            theirs / plain,
            kept / plain,
            ahead / plain,
            each / plain,
            kept / theirs,
            ahead / theirs
        );
    };
    tell("a second", Worker::rate);
    tell(
        "a second of CPU, of all that take part",
        Worker::rate_of_cpu,
    );
    Ok(())
}

const TURNS: usize = 6;

/// Jobs that a worker has ahead.
const AHEAD: &str = "100";

/// One that works until the queue is empty.
struct Worker {
    jobs: usize,
    command: Command,
    /// The least time, and time on a CPU, for one job, and for all of them and one.
    one: [Duration; 2],
    all: [Duration; 2],
}

impl Worker {
    fn new(jobs: usize, command: Command) -> Self {
        Self {
            jobs,
            command,
            one: [Duration::MAX; 2],
            all: [Duration::MAX; 2],
        }
    }

    fn turn(&mut self, server: &Server) -> Result<()> {
        let (one, all) = (self.run(server, 1)?, self.run(server, self.jobs + 1)?);
        for at in 0..2 {
            self.one[at] = self.one[at].min(one[at]);
            self.all[at] = self.all[at].min(all[at]);
        }
        Ok(())
    }

    fn run(&mut self, server: &Server, count: usize) -> Result<[Duration; 2]> {
        let mut fill = redis::pipe();
        for at in 0..count {
            let job = format!(
                "{{\"job\":\"RavelEvent@handle\",\"data\":[],\"id\":\"{at}\",\"attempts\":0}}"
            );
            fill.rpush("queues:q", job).ignore();
        }
        fill.query::<()>(&mut server.connect()?)?;
        let pid = server.pid().context("no server")? as i32;
        let (start, before) = (Instant::now(), spent(pid)?);
        let cpu = Usage::of(&mut self.command)?.cpu;
        let time = start.elapsed();
        let cpu = cpu + Duration::from_nanos((spent(pid)? - before) as u64);
        let left = server.counts("q")?;
        ensure!(left == [0, 0, 0, 0], "{:?} leaves {left:?}", self.command);
        Ok([time, cpu])
    }

    /// How many a second it does at best, less what it takes to start and do one.
    fn rate(&self) -> f64 {
        self.per(0)
    }

    /// The same of a second on a CPU, which says more where others use the machine, too.
    fn rate_of_cpu(&self) -> f64 {
        self.per(1)
    }

    fn per(&self, which: usize) -> f64 {
        let time = self.all[which].saturating_sub(self.one[which]);
        self.jobs as f64 / time.max(Duration::from_millis(1)).as_secs_f64()
    }
}
