// SPDX-License-Identifier: GPL-2.0
//! Those who read a stream, and are killed.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ravel_records::{Event, Reader};
use serde_json::{Value, json};

use super::STREAM;
use super::disk::Disk;
use super::ledger::{Arrived, Harm, Told};
use crate::random::Random;
use crate::stream::{client, errno_of};
use crate::{check, check_eq, module, process, sys};

/// Who reads the stream, and whatever stands behind him.
pub trait Consumer {
    /// Does something bad to one of them: what, where there was anything left to do it to.
    fn harm(&mut self, random: &mut Random) -> Result<Option<Harm>>;
    /// Starts those who have died.
    fn mend(&mut self) -> Result<()>;
    /// Ends what would keep them from coming to an end.
    fn relieve(&mut self) -> Result<()>;
    /// Once the stream is empty: what has arrived.
    fn finish(&mut self, random: &mut Random) -> Result<Arrived>;
}

/// A program of ours that is started anew whenever it has ended.
pub struct Kept {
    words: Vec<String>,
    /// Why it may end by itself.
    reasons: &'static [&'static str],
    /// What runs, and what it says.
    child: Option<(Child, File)>,
}

/// What those say who find their stream removed.
pub const REMOVED: &str = "was removed";
/// Those who look for it before it is made again.
pub const NOT_THERE: &str = "there is no stream";

impl Kept {
    /// `ravel` with these words, which may end by itself if it says one of these reasons.
    pub fn new(words: &[&str], reasons: &'static [&'static str]) -> Result<Self> {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let mut new = Self {
            words,
            reasons,
            child: None,
        };
        new.mend()?;
        Ok(new)
    }

    /// One that does not run yet.
    fn start(&self) -> Result<Command> {
        let mut command = Command::new(module::beside("ravel")?);
        command.args(&self.words).stdin(Stdio::null());
        Ok(command)
    }

    /// Starts it where it does not run.
    pub fn mend(&mut self) -> Result<()> {
        if let Some((child, said)) = &mut self.child {
            let Some(status) = child.try_wait()? else {
                return Ok(());
            };
            let text = text_of(said)?;
            self.may_end(status, &text)?;
        }
        let said = sys::memfd("said")?;
        let child = self.start()?.stderr(said.try_clone()?).spawn();
        self.child = Some((child.context("start ravel")?, said));
        Ok(())
    }

    /// Whether it had a reason to end so, and said it.
    fn may_end(&self, status: ExitStatus, said: &str) -> Result<()> {
        let has_reason = self.reasons.iter().any(|reason| said.contains(reason));
        check!(
            status.code() == Some(1) && has_reason,
            "{:?} ended with {status}: {said}",
            self.words
        );
        Ok(())
    }

    /// Kills it: whether it ran.
    pub fn kill(&mut self) -> Result<bool> {
        let Some((mut child, mut said)) = self.child.take() else {
            return Ok(false);
        };
        child.kill()?;
        let status = child.wait()?;
        if status.signal() == Some(libc::SIGKILL) {
            return Ok(true);
        }
        self.may_end(status, &text_of(&mut said)?).map(|()| false)
    }

    /// Asks it to end.
    pub fn ask(&self) -> Result<()> {
        match &self.child {
            Some((child, _)) => Ok(sys::kill(child.id() as i32, libc::SIGTERM)?),
            None => Ok(()),
        }
    }

    /// Asks it to end, and waits until it has.
    pub fn end(&mut self) -> Result<()> {
        self.ask()?;
        self.ended()
    }

    /// Waits until it has ended.
    pub fn ended(&mut self) -> Result<()> {
        let Some((mut child, mut said)) = self.child.take() else {
            return Ok(());
        };
        let status = child.wait()?;
        // By the signal itself where it had not yet begun to listen.
        if status.success() || status.signal() == Some(libc::SIGTERM) {
            return Ok(());
        }
        self.may_end(status, &text_of(&mut said)?)
    }

    /// Runs it to its end.
    pub fn once(words: &[&str]) -> Result<Vec<u8>> {
        let kept = Self {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            reasons: &[],
            child: None,
        };
        let output = kept.start()?.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "{words:?}: {}: {said}",
            output.status
        );
        Ok(output.stdout)
    }
}

fn text_of(said: &mut File) -> Result<String> {
    let mut text = Vec::new();
    said.rewind()?;
    said.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// What one says whose disk is full.
const FULL: &str = "No space left on device";

/// `ravel events --spool`.
pub struct Spool {
    disk: Disk,
    writer: Kept,
}

impl Spool {
    /// Begins one.
    pub fn new(folder: &Path, small: bool) -> Result<Self> {
        let path = folder.join("spool");
        let disk = match small {
            true => Disk::new(&path, true),
            false => Disk::here(&path),
        }?;
        let path = disk.path.display().to_string();
        let words = ["events", "--stream", STREAM, "--spool", &path];
        let writer = Kept::new(&words, &[FULL, REMOVED, NOT_THERE])?;
        Ok(Self { disk, writer })
    }
}

impl Consumer for Spool {
    fn harm(&mut self, random: &mut Random) -> Result<Option<Harm>> {
        if self.disk.has_room() && random.one_in(2) {
            self.disk.fill(random.below(30_000))?;
            return Ok(Some("disks filled"));
        }
        if random.one_in(2) {
            self.disk.free()?;
        }
        Ok(self.writer.kill()?.then_some("spools killed"))
    }

    fn mend(&mut self) -> Result<()> {
        self.writer.mend()
    }

    fn relieve(&mut self) -> Result<()> {
        self.disk.free()
    }

    fn finish(&mut self, _: &mut Random) -> Result<Arrived> {
        self.writer.end()?;
        let path = self.disk.path.display().to_string();
        let lines = String::from_utf8(Kept::once(&["events", "--read", &path, "--json"])?)?;
        let told: Result<Vec<Told>> = lines
            .lines()
            .map(|line| Told::new(&serde_json::from_str(line)?))
            .collect();
        Ok(Arrived {
            told: told?,
            ..Arrived::default()
        })
    }
}

/// Programs that use the stream's file by themselves. Each notes what it is handed, and then what the stream has
/// taken its word for.
pub struct Readers {
    notes: PathBuf,
    readers: Vec<process::Child>,
}

impl Readers {
    /// Begins some.
    pub fn new(folder: &Path, count: usize, random: &mut Random) -> Result<Self> {
        let notes = folder.join("notes");
        File::create(&notes)?;
        let mut new = Self {
            notes,
            readers: Vec::new(),
        };
        for _ in 0..count {
            new.readers.push(new.start(random)?);
        }
        Ok(new)
    }

    fn start(&self, random: &mut Random) -> Result<process::Child> {
        let (mut random, path) = (Random::new(random.next()), self.notes.clone());
        process::Child::spawn(move |_| {
            let mut notes = File::options().append(true).open(path)?;
            loop {
                let Some(mut reader) = granted(&mut notes, client().events(STREAM))? else {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                };
                // Until the stream is removed, or a deadline has passed.
                while one_batch(&mut reader, &mut notes, &mut random)? {}
            }
        })
    }
}

/// Adds a note, whole or, where we are killed, as a line that is none.
fn note(notes: &mut File, what: &Value) -> Result<()> {
    Ok(notes.write_all(format!("\n{what}\n").as_bytes())?)
}

/// Whether the stream said yes. What is wrong with it is noted, too.
fn granted<T>(notes: &mut File, result: Result<T, ravel_records::Error>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            // It is removed, it is not there, a deadline has passed.
            if ![libc::EIO, libc::ENOENT, libc::ESTALE].contains(&errno_of(&error)) {
                note(notes, &json!({ "error": error.to_string() }))?;
            }
            Ok(None)
        }
    }
}

fn one_batch(reader: &mut Reader, notes: &mut File, random: &mut Random) -> Result<bool> {
    let deadline = if random.one_in(6) {
        random.below(40) + 1
    } else {
        30_000
    };
    let terms = format!("events={} ms={deadline}", random.below(64) + 1);
    if granted(notes, reader.terms(&terms))?.is_none() {
        return Ok(false);
    }
    let batch = match granted(notes, reader.batch())? {
        None => return Ok(false),
        Some(None) => {
            sys::poll(&reader.as_fd(), libc::POLLIN, 50)?;
            return Ok(true);
        }
        Some(Some(batch)) => batch,
    };
    note(notes, &json!({ "got": batch.events }))?;
    if random.one_in(3) {
        thread::sleep(Duration::from_micros(random.below(30_000) as u64));
    }
    let mut done = &batch.events[..];
    let mut upto = None;
    match random.below(8) {
        0 => return Ok(granted(notes, reader.give_back(random.below(30) as u64))?.is_some()),
        1 => {
            done = &done[..=random.below(done.len())];
            upto = done.last().map(Event::seq);
        }
        _ => {}
    }
    if granted(notes, reader.acknowledge(upto))?.is_none() {
        return Ok(false);
    }
    let acked: Vec<_> = done
        .iter()
        .map(|event| [event.time(), event.seq(), event.attempt().into()])
        .collect();
    note(notes, &json!({ "acked": acked }))?;
    // What is left of it goes back.
    Ok(done.len() == batch.events.len())
}

impl Consumer for Readers {
    fn harm(&mut self, random: &mut Random) -> Result<Option<Harm>> {
        let which = random.below(self.readers.len());
        self.readers[which].kill()?;
        let fresh = self.start(random)?;
        self.readers[which] = fresh;
        Ok(Some("readers killed"))
    }

    fn mend(&mut self) -> Result<()> {
        Ok(())
    }

    fn relieve(&mut self) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self, _: &mut Random) -> Result<Arrived> {
        self.readers.clear();
        let mut arrived = Arrived {
            twice: true,
            ..Arrived::default()
        };
        // By time and number: the attempts, and that of them which was acknowledged.
        let mut attempts: HashMap<[u64; 2], (Vec<u64>, Option<u64>)> = HashMap::new();
        for line in fs::read_to_string(&self.notes)?.lines() {
            // Who is killed writes half a line.
            let Ok(line) = serde_json::from_str::<Value>(line) else {
                continue;
            };
            if let Some(error) = line.get("error") {
                bail!("a reader was told {error}");
            }
            for event in line["got"].as_array().into_iter().flatten() {
                let told = Told::new(event)?;
                let attempt = event["attempt"].as_u64().context("no attempt")?;
                let (all, _) = attempts.entry([told.time, told.seq]).or_default();
                check!(
                    !all.contains(&attempt),
                    "handed out twice at once, in attempt {attempt}: {told:?}"
                );
                all.push(attempt);
                arrived.told.push(told);
            }
            let acked: Vec<[u64; 3]> = match line.get("acked") {
                Some(acked) => serde_json::from_value(acked.clone())?,
                None => continue,
            };
            for [time, seq, attempt] in acked {
                let (_, acked) = attempts.entry([time, seq]).or_default();
                check!(acked.is_none(), "{seq} is acknowledged twice");
                *acked = Some(attempt);
            }
        }
        for ([_, seq], (all, acked)) in &attempts {
            let last = all.iter().max().copied();
            if let Some(acked) = acked {
                check_eq!(
                    last,
                    Some(*acked),
                    "the last attempt of {seq}, and the acknowledged"
                );
            }
        }
        Ok(arrived)
    }
}
