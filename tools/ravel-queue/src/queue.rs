//! A queue in Redis or Valkey, in the format of Laravel's, whose workers may share it.
//!
//! Jobs are changed by scripts in the server, which check whatever could fail before they change anything. A job is in
//! one place: in the list, in the set `delayed`, in the set `reserved` with the time when its reservation ends, or in the
//! stream of those that failed.

pub mod address;
pub mod keys;
pub mod link;
pub mod listing;
pub mod mark;
pub mod payload;
mod wire;

use std::time::Duration;

use redis::RedisResult;

use crate::clock::Moment;
use crate::queue::keys::Keys;
use crate::queue::link::{Link, Trouble, Until};
use crate::queue::wire::{Call, Code, UNCONFIRMED, Wire};

/// How many due jobs a turn moves back to the queue.
const CHUNK: u64 = 100;

/// How long names of jobs that were pushed are kept where nobody says that they may be forgotten, in seconds.
const REMEMBER: u64 = 7 * 24 * 3600;

/// How long a worker is known that is not heard of, in seconds: longer than any reservation.
const WORKERS: u64 = 3 * 24 * 3600;

/// How much later than it was given up a push may still arrive: the server counts whole seconds.
const LATE: Duration = Duration::from_secs(2);

/// After that no push arrives that was given up before.
pub const QUARANTINE: Duration = UNCONFIRMED.saturating_add(Duration::from_secs(40));

/// A queue.
pub struct Queue {
    keys: Keys,
    push: Code,
    turn: Code,
    extend: Code,
    release: Code,
    back: Code,
    bury: Code,
    retry: Code,
    enlist: Code,
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
    /// The worker's number.
    pub worker: u64,
}

/// What a worker's turn gave.
#[derive(Debug, PartialEq, Eq)]
pub struct Turn {
    /// The places of those that are done and whose reservation did not hold any more.
    pub missed: Vec<usize>,
    /// The jobs taken.
    pub jobs: Vec<Reserved>,
    /// They are reserved from then on, or from a moment later.
    pub from: Moment,
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
        mark::split(&self.text).0
    }
}

macro_rules! script {
    ($name:literal) => {
        Code::new(concat!(
            include_str!("queue/text.lua"),
            include_str!(concat!("queue/", $name, ".lua"))
        ))
    };
}

fn texts(jobs: &[Reserved]) -> impl Iterator<Item = &[u8]> {
    jobs.iter().map(|job| job.text.as_slice())
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
            enlist: script!("enlist"),
        }
    }

    /// Pushes jobs, each by a name under which it is pushed only once; with `durable`, waits until the server has them
    /// on its disk. Forgets names of jobs that will not be pushed again. Returns whether it succeeded at once, so that
    /// no other attempt is on its way.
    pub fn push(
        &self,
        link: &mut Link,
        until: Until<'_>,
        [boot, stream]: [&str; 2],
        jobs: &[(String, Vec<u8>)],
        forget: &[String],
        durable: bool,
    ) -> Result<bool, Trouble> {
        let patience = link.patience();
        let pushed = link.call("push", until, |wire| {
            wire.know_time()?;
            let latest = wire.server_time(Moment::now() + patience + LATE);
            let mut call = Call::new([
                self.keys.queue().to_owned(),
                self.keys.notify(),
                self.keys.pushed(boot, stream),
            ])
            .number(latest.unwrap_or(0))
            .number(REMEMBER)
            .number(forget.len() as u64)
            .all(forget.iter().map(String::as_str));
            for (name, job) in jobs {
                call = call.bytes(name.as_str()).bytes(job.as_slice());
            }
            let pushed: i64 = wire.eval(&self.push, &call)?;
            if pushed < 0 {
                // The server's clock was set, or the machine slept in between.
                return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
            }
            if durable && !jobs.is_empty() {
                wait_for_disk(wire)?;
            }
            Ok(())
        })?;
        Ok(!pushed.again)
    }

    /// Registers a worker, and assigns it a number if that is 0.
    pub fn enlist(
        &self,
        link: &mut Link,
        until: Until<'_>,
        number: u64,
        who: &str,
    ) -> Result<u64, Trouble> {
        let call = Call::new([self.keys.serial(), self.keys.workers()])
            .number(number)
            .bytes(who)
            .number(WORKERS);
        let answer = link.call("enlist", until, |wire| wire.eval(&self.enlist, &call))?;
        Ok(answer.value)
    }

    /// Ends jobs that are done, and takes the next. A job whose worker was lost is taken alone.
    pub fn turn(
        &self,
        link: &mut Link,
        until: Until<'_>,
        wanted: &Wanted<'_>,
    ) -> Result<Turn, Trouble> {
        type Told = (Vec<usize>, Vec<(Vec<u8>, i64)>, i64);
        let call = Call::new([
            self.keys.queue().to_owned(),
            self.keys.delayed(),
            self.keys.reserved(),
            self.keys.notify(),
            self.keys.serial(),
        ])
        .number(wanted.seconds)
        .number(CHUNK)
        .number(wanted.woken.into())
        .number(wanted.most as u64)
        .number(wanted.bytes as u64)
        .number(wanted.others as u64)
        .bytes(mark::of_worker(wanted.worker))
        .all(texts(wanted.done));
        let answer = link.call("turn", until, |wire| wire.eval::<Told>(&self.turn, &call))?;
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
        let mut command = redis::cmd("BLPOP");
        command.arg(self.keys.notify()).arg(seconds);
        let answer = link.call("wait", until, |wire| {
            wire.query::<Option<(String, Vec<u8>)>>(&command)
        })?;
        Ok(answer.value.is_some())
    }

    /// Has reservations hold for that many seconds from now: for each, whether it still did, and when that was asked
    /// for.
    pub fn extend<'a>(
        &self,
        link: &mut Link,
        until: Until<'_>,
        jobs: impl Iterator<Item = &'a Reserved>,
        seconds: u64,
    ) -> Result<(Vec<bool>, Moment), Trouble> {
        let call = Call::new([self.keys.reserved()])
            .number(seconds)
            .all(jobs.map(|job| job.text.as_slice()));
        let answer = link.call("extend", until, |wire| {
            wire.eval::<Vec<u8>>(&self.extend, &call)
        })?;
        let holds = answer.value.into_iter().map(|holds| holds == 1).collect();
        Ok((holds, answer.asked))
    }

    /// Gives a job back that has failed, to be taken after that many seconds: false where its reservation did not hold.
    pub fn release(
        &self,
        link: &mut Link,
        until: Until<'_>,
        job: &Reserved,
        seconds: u64,
    ) -> Result<bool, Trouble> {
        let call = Call::new([
            self.keys.queue().to_owned(),
            self.keys.delayed(),
            self.keys.reserved(),
            self.keys.notify(),
        ])
        .bytes(job.text.as_slice())
        .number(seconds);
        self.whether(link, "release", until, &self.release, &call)
    }

    /// Gives jobs back as if they had not been taken, to the front of the queue.
    pub fn give_back(
        &self,
        link: &mut Link,
        until: Until<'_>,
        jobs: &[Reserved],
    ) -> Result<(), Trouble> {
        let call = Call::new([
            self.keys.queue().to_owned(),
            self.keys.reserved(),
            self.keys.notify(),
        ])
        .all(texts(jobs));
        link.call("give back", until, |wire| {
            wire.eval::<()>(&self.back, &call)
        })?;
        Ok(())
    }

    /// Puts a job among those that failed: false where its reservation did not hold.
    pub fn bury(
        &self,
        link: &mut Link,
        until: Until<'_>,
        job: &Reserved,
        fields: &[(&str, String)],
    ) -> Result<bool, Trouble> {
        let mut call =
            Call::new([self.keys.reserved(), self.keys.failed()]).bytes(job.text.as_slice());
        for (name, value) in fields {
            call = call.bytes(*name).bytes(value.as_str());
        }
        self.whether(link, "bury", until, &self.bury, &call)
    }

    /// Has a job that failed run again, as if it were new: whether there is one of that id.
    pub fn retry(&self, link: &mut Link, until: Until<'_>, id: &str) -> Result<bool, Trouble> {
        let call = Call::new([
            self.keys.queue().to_owned(),
            self.keys.notify(),
            self.keys.failed(),
        ])
        .bytes(id);
        self.whether(link, "retry", until, &self.retry, &call)
    }

    /// Forgets a job that failed: whether there was one of that id.
    pub fn forget(&self, link: &mut Link, until: Until<'_>, id: &str) -> Result<bool, Trouble> {
        let mut command = redis::cmd("XDEL");
        command.arg(self.keys.failed()).arg(id);
        let answer = link.call("forget", until, |wire| wire.query::<u8>(&command))?;
        Ok(answer.value == 1 || answer.again)
    }

    /// Whether a script has found what it was to change, now or in an attempt before.
    fn whether(
        &self,
        link: &mut Link,
        what: &'static str,
        until: Until<'_>,
        code: &Code,
        call: &Call,
    ) -> Result<bool, Trouble> {
        let answer = link.call(what, until, |wire| wire.eval::<u8>(code, call))?;
        Ok(answer.value == 1 || answer.again)
    }
}

/// Waits until what was written by this connection is in the append-only file, and that on the disk.
fn wait_for_disk(wire: &mut Wire) -> RedisResult<()> {
    let mut command = redis::cmd("WAITAOF");
    command.arg(1).arg(0).arg(2000);
    let (local, _): (u32, u32) = wire.query(&command)?;
    match local {
        0 => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
        _ => Ok(()),
    }
}
