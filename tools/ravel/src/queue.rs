//! A queue in Redis or Valkey, in the format of Laravel's, whose workers may share it.
//!
//! What is done to jobs is done by scripts in the server, whole or not at all. A job is in one place: in the
//! list, in the set `delayed`, in the set `reserved` with the time when its reservation ends, or in the stream
//! of those that failed.

pub mod keys;
pub mod link;
pub mod payload;

use std::time::Instant;

use redis::{RedisResult, Script};

use crate::queue::keys::Keys;
use crate::queue::link::{Link, Trouble, Until};

/// How many due jobs a turn moves back to the queue, from each set.
const CHUNK: u32 = 100;

/// How long names of jobs that were pushed are kept where nobody says that they may be forgotten, in seconds.
const REMEMBER: u32 = 7 * 24 * 3600;

/// A queue.
pub struct Queue {
    keys: Keys,
    push: Script,
    turn: Script,
    extend: Script,
    release: Script,
    back: Script,
    bury: Script,
    retry: Script,
}

/// What a worker's turn is to be.
pub struct Wanted<'a> {
    /// Jobs that are done.
    pub done: &'a [Reserved],
    /// How many jobs to take at most,
    pub most: usize,
    /// but no more once they have so many bytes,
    pub bytes: usize,
    /// for that many seconds.
    pub seconds: u64,
    /// How many the worker has besides.
    pub others: usize,
    /// A token of `notify` was taken for the next.
    pub woken: bool,
}

/// What a worker's turn gave.
#[derive(Debug, PartialEq, Eq)]
pub struct Turn {
    /// The places of those that are done and that another worker has by now.
    pub missed: Vec<usize>,
    /// The jobs taken.
    pub jobs: Vec<Reserved>,
    /// They are reserved from then on, or from a moment later.
    pub from: Instant,
    /// Where none is ready: in how many seconds the next is due, if there is one.
    pub due: Option<u64>,
}

/// A job that this worker has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Its text in the set `reserved`.
    pub text: Vec<u8>,
    /// Number of this attempt; none where the text is no job.
    pub attempts: Option<u32>,
}

impl Reserved {
    /// The job's own text, without what marks the reservation.
    pub fn job(&self) -> &[u8] {
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let end = self.text.iter().rposition(|byte| !blank(byte));
        match end {
            Some(end) if self.text[end] == b'\n' => &self.text[..end],
            _ => &self.text,
        }
    }
}

/// A job that failed.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Its id in the stream of such.
    pub id: String,
    /// What is told of it, the job itself among it.
    pub fields: Vec<(String, Vec<u8>)>,
}

macro_rules! script {
    ($name:literal) => {
        Script::new(concat!(
            include_str!("queue/text.lua"),
            include_str!(concat!("queue/", $name, ".lua"))
        ))
    };
}

impl Queue {
    /// The queue of these keys.
    pub fn new(keys: Keys) -> Self {
        Self {
            keys,
            push: script!("push"),
            turn: script!("turn"),
            extend: script!("extend"),
            release: script!("release"),
            back: script!("back"),
            bury: script!("bury"),
            retry: script!("retry"),
        }
    }

    /// Pushes jobs, each by a name under which it is pushed only once; with `durable`, waits until the
    /// server has them on its disk. Forgets names of jobs that will not be pushed again.
    pub fn push(
        &self,
        link: &mut Link,
        until: Until<'_>,
        origin: &str,
        jobs: &[(String, Vec<u8>)],
        forget: &[String],
        durable: bool,
    ) -> Result<u64, Trouble> {
        let pushed = link.call(until, |connection| {
            let mut call = self.push.prepare_invoke();
            call.key(self.keys.queue())
                .key(self.keys.notify())
                .key(self.keys.pushed(origin))
                .arg(REMEMBER)
                .arg(forget.len())
                .arg(forget);
            for (name, job) in jobs {
                call.arg(name).arg(job.as_slice());
            }
            let pushed: u64 = call.invoke(connection)?;
            if durable && !jobs.is_empty() {
                wait_for_disk(connection)?;
            }
            Ok(pushed)
        })?;
        Ok(pushed.value)
    }

    /// Ends jobs that are done, and takes the next. One that was lost with its worker is taken by who has no other.
    pub fn turn(
        &self,
        link: &mut Link,
        until: Until<'_>,
        wanted: &Wanted<'_>,
    ) -> Result<Turn, Trouble> {
        type Told = (Vec<usize>, Vec<(Vec<u8>, i64)>, i64);
        let answer = link.call(until, |connection| {
            let mut call = self.turn.prepare_invoke();
            call.key(self.keys.queue())
                .key(self.keys.delayed())
                .key(self.keys.reserved())
                .key(self.keys.notify())
                .key(self.keys.serial())
                .arg(wanted.seconds)
                .arg(CHUNK)
                .arg(u8::from(wanted.woken))
                .arg(wanted.most)
                .arg(wanted.bytes)
                .arg(wanted.others);
            for job in wanted.done {
                call.arg(job.text.as_slice());
            }
            call.invoke::<Told>(connection)
        })?;
        let (missed, jobs, due) = answer.value;
        // An earlier try, whose answer was lost, may have ended them.
        let missed = if answer.again { Vec::new() } else { missed };
        Ok(Turn {
            missed: missed.into_iter().map(|place| place - 1).collect(),
            jobs: jobs
                .into_iter()
                .map(|(text, attempts)| Reserved {
                    text,
                    attempts: u32::try_from(attempts).ok(),
                })
                .collect(),
            from: answer.asked,
            due: u64::try_from(due).ok(),
        })
    }

    /// Waits until somebody has pushed something, for that many seconds at most: whether a token was taken.
    pub fn wait(&self, link: &mut Link, until: Until<'_>, seconds: f64) -> Result<bool, Trouble> {
        let answer = link.call(until, |connection| {
            let answer: Option<(String, Vec<u8>)> = redis::cmd("BLPOP")
                .arg(self.keys.notify())
                .arg(seconds)
                .query(connection)?;
            Ok(answer.is_some())
        })?;
        Ok(answer.value)
    }

    /// Has reservations hold for that many seconds from now: for each, whether it still did.
    pub fn extend<'a>(
        &self,
        link: &mut Link,
        until: Until<'_>,
        jobs: impl Iterator<Item = &'a Reserved> + Clone,
        seconds: u64,
    ) -> Result<Vec<bool>, Trouble> {
        let answer = link.call(until, |connection| {
            let mut call = self.extend.prepare_invoke();
            call.key(self.keys.reserved()).arg(seconds);
            for job in jobs.clone() {
                call.arg(job.text.as_slice());
            }
            call.invoke::<Vec<u8>>(connection)
        })?;
        Ok(answer.value.into_iter().map(|holds| holds == 1).collect())
    }

    /// Gives a job back that has failed, to be taken after that many seconds: false where another worker has it.
    pub fn release(
        &self,
        link: &mut Link,
        until: Until<'_>,
        job: &Reserved,
        seconds: u64,
    ) -> Result<bool, Trouble> {
        let answer = link.call(until, |connection| {
            self.release
                .key(self.keys.queue())
                .key(self.keys.delayed())
                .key(self.keys.reserved())
                .key(self.keys.notify())
                .arg(job.text.as_slice())
                .arg(seconds)
                .invoke::<u8>(connection)
        })?;
        Ok(answer.value == 1 || answer.again)
    }

    /// Gives jobs back as if they had not been taken, to the front of the queue.
    pub fn give_back(
        &self,
        link: &mut Link,
        until: Until<'_>,
        jobs: &[Reserved],
    ) -> Result<(), Trouble> {
        link.call(until, |connection| {
            let mut call = self.back.prepare_invoke();
            call.key(self.keys.queue())
                .key(self.keys.reserved())
                .key(self.keys.notify());
            for job in jobs {
                call.arg(job.text.as_slice());
            }
            call.invoke::<()>(connection)
        })?;
        Ok(())
    }

    /// Puts a job among those that failed.
    pub fn bury(
        &self,
        link: &mut Link,
        until: Until<'_>,
        job: &Reserved,
        fields: &[(&str, String)],
    ) -> Result<bool, Trouble> {
        let answer = link.call(until, |connection| {
            let mut call = self.bury.prepare_invoke();
            call.key(self.keys.reserved())
                .key(self.keys.failed())
                .arg(job.text.as_slice());
            for (name, value) in fields {
                call.arg(*name).arg(value);
            }
            call.invoke::<u8>(connection)
        })?;
        Ok(answer.value == 1 || answer.again)
    }

    /// The jobs that failed, from one id on, some at a time.
    pub fn failed(
        &self,
        link: &mut Link,
        until: Until<'_>,
        from: &str,
    ) -> Result<Vec<Failed>, Trouble> {
        type Entry = (String, Vec<(String, Vec<u8>)>);
        let answer = link.call(until, |connection| {
            let entries: Vec<Entry> = redis::cmd("XRANGE")
                .arg(self.keys.failed())
                .arg(from)
                .arg("+")
                .arg("COUNT")
                .arg(256)
                .query(connection)?;
            Ok(entries)
        })?;
        let failed = answer.value.into_iter();
        Ok(failed.map(|(id, fields)| Failed { id, fields }).collect())
    }

    /// Has a job that failed run again, as if it were new: whether there is one of that id.
    pub fn retry(&self, link: &mut Link, until: Until<'_>, id: &str) -> Result<bool, Trouble> {
        let answer = link.call(until, |connection| {
            self.retry
                .key(self.keys.queue())
                .key(self.keys.notify())
                .key(self.keys.failed())
                .arg(id)
                .invoke::<u8>(connection)
        })?;
        Ok(answer.value == 1 || answer.again)
    }

    /// Forgets a job that failed: whether there was one of that id.
    pub fn forget(&self, link: &mut Link, until: Until<'_>, id: &str) -> Result<bool, Trouble> {
        let answer = link.call(until, |connection| {
            let forgotten: u8 = redis::cmd("XDEL")
                .arg(self.keys.failed())
                .arg(id)
                .query(connection)?;
            Ok(forgotten)
        })?;
        Ok(answer.value == 1 || answer.again)
    }
}

/// Waits until what was written by this connection is in the append-only file, and that on the disk.
fn wait_for_disk(connection: &mut dyn redis::ConnectionLike) -> RedisResult<()> {
    let (local, _): (u32, u32) = redis::cmd("WAITAOF")
        .arg(1)
        .arg(0)
        .arg(2000)
        .query(connection)?;
    match local {
        0 => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        _ => Ok(()),
    }
}
