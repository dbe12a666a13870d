//! What is in a queue, state by state, some at a time.

use super::link::{Link, Trouble, Until};
use super::{Queue, mark};

/// How many entries are asked for at once.
pub const PAGE: u64 = 100;

/// How many jobs there are of each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Can be taken.
    pub ready: u64,
    /// Wait for their time.
    pub delayed: u64,
    /// A worker has them.
    pub reserved: u64,
    /// Failed.
    pub failed: u64,
    /// The server's time, in seconds since 1970.
    pub now: u64,
}

/// A job that failed.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Its id in the stream of such.
    pub id: String,
    /// What is noted of it, the job itself among it.
    pub fields: Vec<(String, Vec<u8>)>,
}

/// A job in a set, and its time.
pub type Timed = (Vec<u8>, f64);

/// A worker as it was noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its machine's name.
    pub host: String,
    /// Its process.
    pub pid: u32,
}

impl Queue {
    /// Counts the jobs.
    pub fn counts(&self, link: &mut Link, until: Until<'_>) -> Result<Counts, Trouble> {
        let keys = &self.keys;
        let answer = link.call("count", until, |wire| {
            let mut ask = |name: &str, key: &str| wire.query::<u64>(redis::cmd(name).arg(key));
            let mut counts = Counts {
                ready: ask("LLEN", keys.queue())?,
                delayed: ask("ZCARD", &keys.delayed())?,
                reserved: ask("ZCARD", &keys.reserved())?,
                failed: ask("XLEN", &keys.failed())?,
                now: 0,
            };
            (counts.now, _) = wire.query::<(u64, u64)>(&redis::cmd("TIME"))?;
            Ok(counts)
        })?;
        Ok(answer.value)
    }

    /// Returns jobs that are ready, in their order, from a place on.
    pub fn ready(
        &self,
        link: &mut Link,
        until: Until<'_>,
        from: u64,
    ) -> Result<Vec<Vec<u8>>, Trouble> {
        let mut command = redis::cmd("LRANGE");
        command
            .arg(self.keys.queue())
            .arg(from)
            .arg(from + PAGE - 1);
        let answer = link.call("list", until, |wire| wire.query(&command))?;
        Ok(answer.value)
    }

    /// Returns jobs that are delayed and when they are due, from a place on.
    pub fn delayed(
        &self,
        link: &mut Link,
        until: Until<'_>,
        from: u64,
    ) -> Result<Vec<Timed>, Trouble> {
        self.timed(link, until, &self.keys.delayed(), from)
    }

    /// Returns jobs that are reserved and when that ends, from a place on.
    pub fn reserved(
        &self,
        link: &mut Link,
        until: Until<'_>,
        from: u64,
    ) -> Result<Vec<Timed>, Trouble> {
        self.timed(link, until, &self.keys.reserved(), from)
    }

    fn timed(
        &self,
        link: &mut Link,
        until: Until<'_>,
        key: &str,
        from: u64,
    ) -> Result<Vec<Timed>, Trouble> {
        let mut command = redis::cmd("ZRANGE");
        command.arg(key).arg(from).arg(from + PAGE - 1);
        command.arg("WITHSCORES");
        let answer = link.call("list", until, |wire| wire.query(&command))?;
        Ok(answer.value)
    }

    /// Returns the worker that has a reservation, by the text of that; none where it is of another make.
    pub fn owner<'o>(&self, owners: &'o [(u64, Owner)], text: &[u8]) -> Option<&'o Owner> {
        let number = mark::split(text).1?;
        let found = owners.iter().rev().find(|(known, _)| *known == number);
        found.map(|(_, owner)| owner)
    }

    /// Returns all workers that are known.
    pub fn owners(&self, link: &mut Link, until: Until<'_>) -> Result<Vec<(u64, Owner)>, Trouble> {
        let mut command = redis::cmd("ZRANGE");
        command.arg(self.keys.workers()).arg(0).arg(-1);
        let answer = link.call("list", until, |wire| wire.query::<Vec<String>>(&command))?;
        Ok(answer.value.iter().filter_map(|text| owner(text)).collect())
    }

    /// Returns jobs that failed, from one id to another, some at a time.
    pub fn failed(
        &self,
        link: &mut Link,
        until: Until<'_>,
        [from, to]: [&str; 2],
    ) -> Result<Vec<Failed>, Trouble> {
        type Entry = (String, Vec<(String, Vec<u8>)>);
        let mut command = redis::cmd("XRANGE");
        command.arg(self.keys.failed()).arg(from).arg(to);
        command.arg("COUNT").arg(PAGE);
        let answer = link.call("list", until, |wire| wire.query::<Vec<Entry>>(&command))?;
        let failed = answer.value.into_iter();
        Ok(failed.map(|(id, fields)| Failed { id, fields }).collect())
    }

    /// Returns the id of the job that failed last, if there is one.
    pub fn last_failed(
        &self,
        link: &mut Link,
        until: Until<'_>,
    ) -> Result<Option<String>, Trouble> {
        type Entry = (String, Vec<(String, Vec<u8>)>);
        let mut command = redis::cmd("XREVRANGE");
        command.arg(self.keys.failed()).arg("+").arg("-");
        command.arg("COUNT").arg(1);
        let answer = link.call("list", until, |wire| wire.query::<Vec<Entry>>(&command))?;
        Ok(answer.value.into_iter().next().map(|(id, _)| id))
    }
}

/// Reads a worker's note: its number, process and host.
fn owner(text: &str) -> Option<(u64, Owner)> {
    let mut words = text.splitn(3, ' ');
    let number = words.next()?.parse().ok()?;
    let pid = words.next()?.parse().ok()?;
    let host = words.next()?.to_owned();
    Some((number, Owner { host, pid }))
}
