// SPDX-License-Identifier: GPL-2.0
//! `ravel forward`, a real Redis, and `ravel work` behind it.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::STREAM;
use super::consumer::{Consumer, Kept, NOT_THERE, REMOVED};
use super::disk::Disk;
use super::ledger::{Arrived, Harm, Told};
use crate::check;
use crate::random::Random;
use crate::server::{Server, until};
use crate::tier::patience;

/// What a server has when it is there again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// All that it ever confirmed.
    Everything,
    /// What it said that it has on its disk.
    Durable,
    /// Nothing. What it had is read from a file that it never sees again.
    Nothing,
}

/// A queue, who pushes to it, and who works for it.
pub struct Queue {
    keeps: Keeps,
    /// Goes before its disk.
    server: Server,
    disk: Disk,
    forward: Kept,
    workers: Vec<Kept>,
    /// How many jobs each takes at once.
    ahead: usize,
    work: Vec<String>,
    /// Whether jobs come first in the order of their events.
    ordered: bool,
    notes: PathBuf,
    /// Files of servers that forgot.
    witnesses: Vec<PathBuf>,
    /// What went wrong, while it was worked off.
    harm: Vec<Harm>,
    workers_killed: usize,
}

/// What those say who come while their server is away.
const ABSENT: &str = "Connection refused";
/// Those whose server goes while they connect.
const GONE: [&str; 2] = ["Connection reset by peer", "unexpected end of file"];

const PORT: u16 = 6450;

impl Queue {
    /// Begins one. `alone`: who pushes to it gets events in their order. Each worker takes `ahead` jobs at once.
    pub fn new(
        folder: &Path,
        keeps: Keeps,
        small: bool,
        alone: bool,
        [workers, ahead]: [usize; 2],
    ) -> Result<Self> {
        let disk = Disk::new(&folder.join("server"), small)?;
        let sync = match keeps {
            Keeps::Durable => "everysec",
            Keeps::Everything | Keeps::Nothing => "always",
        };
        let options = ["--appendonly", "yes", "--appendfsync", sync];
        let server = Server::start_in("redis-server", PORT, &options, &disk.path)?;
        let url = server.url();
        let mut words = vec![
            "forward", "--stream", STREAM, "--queue", "q", "--redis", &url,
        ];
        if keeps == Keeps::Durable {
            words.push("--durable");
        }
        let forward = Kept::new(&words, &[ABSENT, GONE[0], GONE[1], REMOVED, NOT_THERE])?;
        let notes = folder.join("notes");
        // No worker is to lose a job to another because the machine is slow.
        let reserved = patience(20).as_secs();
        let work = format!(
            "work --queue q --keep --prefetch {ahead} --redis {url} --retry-after {reserved} --"
        );
        let mut work: Vec<String> = work.split(' ').map(str::to_owned).collect();
        let us = std::env::current_exe()?;
        let command = [us.as_path(), "--workload".as_ref(), "note".as_ref(), &notes];
        work.extend(command.map(|word| word.display().to_string()));
        let mut new = Self {
            keeps,
            server,
            disk,
            forward,
            workers: Vec::new(),
            ahead,
            work,
            ordered: alone && workers == 1 && keeps == Keeps::Everything,
            notes,
            witnesses: Vec::new(),
            harm: Vec::new(),
            workers_killed: 0,
        };
        for _ in 0..workers {
            let words: Vec<&str> = new.work.iter().map(String::as_str).collect();
            new.workers
                .push(Kept::new(&words, &[ABSENT, GONE[0], GONE[1]])?);
        }
        Ok(new)
    }

    /// Starts the server where it is gone.
    fn serve(&mut self) -> Result<()> {
        if self.server.runs()? {
            return Ok(());
        }
        self.disk.free()?;
        if self.keeps == Keeps::Nothing {
            let name = format!("witness-{}", self.witnesses.len());
            let witness = self.disk.path.join(name);
            fs::create_dir(&witness)?;
            fs::rename(self.disk.path.join(FILE), witness.join(FILE))?;
            self.witnesses.push(witness);
        }
        self.server.again()
    }

    /// All jobs that there were in a server that is gone.
    fn witnessed(&self, folder: &Path) -> Result<Vec<Told>> {
        let options = ["--appendonly", "yes"];
        let server = Server::start_in("redis-server", PORT + 1, &options, folder)?;
        let mut jobs = server.ready("q")?;
        for set in ["delayed", "reserved"] {
            jobs.extend(server.ask::<Vec<Vec<u8>>>(&format!("ZRANGE queues:q:{set} 0 -1"))?);
        }
        check!(server.failed("q")?.is_empty(), "a job has failed");
        jobs.iter()
            .map(|job| told(&serde_json::from_slice(job)?))
            .collect()
    }
}

/// Where a server keeps its append-only files.
const FILE: &str = "appendonlydir";

fn told(job: &Value) -> Result<Told> {
    Told::new(&job["data"])
}

impl Consumer for Queue {
    fn harm(&mut self, random: &mut Random) -> Result<Option<Harm>> {
        Ok(match random.below(5) {
            0 if self.disk.has_room() => {
                self.disk.fill(random.below(50_000))?;
                Some("disks filled")
            }
            1 | 2 => self.forward.kill()?.then_some("forwarders killed"),
            _ => self.harm_work(random)?,
        })
    }

    fn mend(&mut self) -> Result<()> {
        self.serve()?;
        self.forward.mend()?;
        self.workers.iter_mut().try_for_each(Kept::mend)
    }

    fn relieve(&mut self) -> Result<()> {
        self.disk.free()
    }

    fn finish(&mut self, random: &mut Random) -> Result<Arrived> {
        self.forward.end()?;
        let (mut left, mut strikes) = (u64::MAX, 1 + random.below(4));
        while left > 0 {
            let before = left;
            until("another job is done", || {
                self.mend_workers()?;
                // The server has something else to do.
                thread::sleep(Duration::from_millis(100));
                let [ready, delayed, ..] = self.server.counts("q")?;
                left = ready + delayed;
                Ok(left == 0 || left < before)
            })?;
            if left > 0 && strikes > 0 && random.one_in(4) {
                strikes -= 1;
                let harm = self.harm_work(random)?;
                self.harm.extend(harm);
            }
        }
        self.workers.iter().try_for_each(Kept::ask)?;
        // Who waits for a token hears of nothing else before that.
        for _ in &self.workers {
            self.server.ask::<u32>("RPUSH queues:q:notify 1")?;
        }
        for worker in &mut self.workers {
            worker.ended()?;
        }
        // What those had who were killed: its time has come.
        for job in self
            .server
            .ask::<Vec<Vec<u8>>>("ZRANGE queues:q:reserved 0 -1")?
        {
            let mut command = redis::cmd("ZADD");
            command.arg("queues:q:reserved").arg(1).arg(job);
            command.query::<u32>(&mut self.server.connect()?)?;
        }
        let mut words: Vec<&str> = self.work.iter().map(String::as_str).collect();
        words.insert(1, "--no-wait");
        Kept::once(&words)?;
        let counts = self.server.counts("q")?;
        check!(counts == [0, 0, 0, 0], "jobs at the end: {counts:?}");
        let forgot = self.witnesses.iter().map(|_| "servers emptied");
        let mut arrived = Arrived {
            harm: self.harm.drain(..).chain(forgot).collect(),
            twice: true,
            ..Arrived::default()
        };
        let mut runs = HashSet::new();
        let mut before = (0, 0);
        for line in fs::read_to_string(&self.notes).unwrap_or_default().lines() {
            // Who is killed writes half a line.
            let Ok(job) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            let attempt = job["attempts"].as_u64().context("no attempts")?;
            let told = told(&job)?;
            let fresh = runs.insert((told.time, told.seq, attempt));
            check!(
                fresh || self.keeps != Keeps::Everything,
                "run twice in attempt {attempt}: {told:?}"
            );
            if self.ordered && attempt == 1 {
                let this = (told.time, told.seq);
                check!(this > before, "behind the job of {before:?}: {told:?}");
                before = this;
            }
            arrived.told.push(told);
        }
        if self.keeps == Keeps::Everything {
            let names: HashSet<_> = runs.iter().map(|(time, seq, _)| (time, seq)).collect();
            let again = arrived.told.len() - names.len();
            check!(
                again <= self.workers_killed * self.ahead,
                "{again} jobs run again, with {} workers killed that had {} each",
                self.workers_killed,
                self.ahead
            );
        }
        for witness in &self.witnesses {
            arrived.forgotten.extend(self.witnessed(witness)?);
        }
        Ok(arrived)
    }
}

impl Queue {
    /// Kills the server or a worker.
    fn harm_work(&mut self, random: &mut Random) -> Result<Option<Harm>> {
        // One that forgets all is rather left what it has, or nothing would ever arrive.
        let server = if self.keeps == Keeps::Nothing { 6 } else { 2 };
        if random.one_in(server) {
            return Ok(self.server.kill()?.then_some("servers killed"));
        }
        let which = random.below(self.workers.len());
        let killed = self.workers[which].kill()?;
        self.workers_killed += usize::from(killed);
        Ok(killed.then_some("workers killed"))
    }

    fn mend_workers(&mut self) -> Result<()> {
        self.serve()?;
        self.workers.iter_mut().try_for_each(Kept::mend)
    }
}
