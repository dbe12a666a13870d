//! `ravel forward`: pushes a stream's events to a queue, as jobs.
//!
//! A batch is acknowledged once the server has confirmed that it has it. Whoever is given it again, since the one
//! before died in between, finds the names of its jobs in the server, and pushes none twice.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::Duration;

use ravel_common::origin::Origin;
use ravel_common::stop::Stop;
use ravel_common::streams::{FAILED_AGAIN, again, errno, late, refused};
use ravel_records::client::Client;
use ravel_records::{Batch, Reader};
use rustix::io::Errno;

use crate::Failure;
use crate::cli::Forward;
use crate::clock::Moment;
use crate::queue::keys::Keys;
use crate::queue::link::{Link, Trouble, Until};
use crate::queue::{QUARANTINE, Queue, payload};

/// How long an answer of the server may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a server that takes no jobs is waited for with --no-wait.
const WITHOUT_WAITING: Duration = Duration::from_secs(5);

/// Forwards until it is asked to end, or there is nothing more to do.
pub fn run(args: &Forward, client: &Client) -> Result<(), Failure> {
    let broken = |error| Failure::Explained(refused(&args.stream, error));
    let keys = Keys::new(&args.queue.prefix, &args.queue.queue);
    let mut link = crate::open(&args.queue, PATIENCE, &keys)?;
    let mut reader = client.events(&args.stream).map_err(broken)?;
    let forward = Forwarder {
        args,
        origin: Origin::here(&args.stream).map_err(Failure::Output)?,
        queue: Queue::new(keys),
        stop: Stop::listen().map_err(Failure::Output)?,
    };
    let mut names = Names::default();
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 && forward.stop.asked() == 0 {
        // A batch is taken only while the server takes jobs: each time that one is given back counts as an attempt.
        let forget = names.due(Moment::now());
        let time = args.no_wait.then(|| Moment::now() + WITHOUT_WAITING);
        match forward.push(&mut link, forward.heeding(time), &[], &forget) {
            Ok(_) => {}
            Err(Trouble::Silent) if forward.stop.asked() > 0 => break,
            Err(Trouble::Silent) => return Err(Failure::Explained(link.explain_silence())),
            Err(Trouble::Refused(error)) => return Err(Failure::Explained(link.explain(&error))),
        }
        let most = left.min(256);
        let ms = u64::from(args.lease) * 1000;
        let terms = format!("events={most} ms={ms} form=binary");
        reader.terms(&terms).map_err(broken)?;
        let taken = Moment::now();
        let Some(batch) = reader.batch().map_err(broken)? else {
            // No event is to blame for what becomes of a reader.
            if again(client, &args.stream).map_err(broken)? {
                continue;
            }
            if args.no_wait {
                break;
            }
            let waited = forward.stop.wait(Some(reader.as_fd()), Some(FAILED_AGAIN));
            waited.map_err(Failure::Output)?;
            continue;
        };
        if let Some(done) = forward.deliver(&mut link, &mut reader, &batch, taken)? {
            left -= batch.events.len() as u64;
            names.add(done);
        }
    }
    // What stays is forgotten by the server in time.
    let soon = Until {
        time: Some(Moment::now()),
        ..Until::default()
    };
    let _ = forward.push(&mut link, soon, &[], &names.due(Moment::now()));
    Ok(())
}

/// Names of jobs that are acknowledged: the server forgets them once no push of them can arrive any more.
#[derive(Default)]
struct Names {
    /// When they may be forgotten, in that order.
    held: VecDeque<(Moment, Vec<String>)>,
    free: Vec<String>,
}

/// The names of a batch, and until when a push of it may arrive that was given up, if there was one.
struct Done {
    names: Vec<String>,
    until: Option<Moment>,
}

/// How many batches of names are held at most. The server forgets others by itself, after days.
const HELD: usize = 1000;

impl Names {
    fn add(&mut self, done: Done) {
        match done.until {
            None => self.free.extend(done.names),
            Some(until) if self.held.len() < HELD => self.held.push_back((until, done.names)),
            Some(_) => {}
        }
    }

    /// Takes those that may be forgotten.
    fn due(&mut self, now: Moment) -> Vec<String> {
        while let Some((until, names)) = self.held.pop_front() {
            if until > now {
                self.held.push_front((until, names));
                break;
            }
            self.free.extend(names);
        }
        std::mem::take(&mut self.free)
    }
}

struct Forwarder<'a> {
    args: &'a Forward,
    origin: Origin,
    queue: Queue,
    stop: Stop,
}

type Jobs = [(String, Vec<u8>)];

impl Forwarder<'_> {
    fn heeding(&self, time: Option<Moment>) -> Until<'_> {
        Until {
            stop: Some(&self.stop),
            time,
            ..Until::default()
        }
    }

    /// Pushes jobs, and returns whether that succeeded at once.
    fn push(
        &self,
        link: &mut Link,
        until: Until<'_>,
        jobs: &Jobs,
        forget: &[String],
    ) -> Result<bool, Trouble> {
        let origin = [self.origin.boot.as_str(), self.origin.stream.as_str()];
        let durable = self.args.durable;
        self.queue.push(link, until, origin, jobs, forget, durable)
    }

    /// Pushes a batch and acknowledges it. Returns the names of its jobs, or none where the batch goes back.
    fn deliver(
        &self,
        link: &mut Link,
        reader: &mut Reader,
        batch: &Batch,
        taken: Moment,
    ) -> Result<Option<Done>, Failure> {
        let broken = |error| Failure::Explained(refused(&self.args.stream, error));
        let jobs: Result<Vec<_>, _> = batch
            .events
            .iter()
            .map(|event| {
                let job = payload::job(&self.origin, event, &self.args.job)?;
                Ok((payload::name(event), job))
            })
            .collect();
        let jobs = jobs.map_err(|error: serde_json::Error| Failure::Output(error.into()))?;
        let lease = Duration::from_secs(self.args.lease.into());
        let limit = taken + lease * 3 / 4;
        let until = Until {
            limit: Some(limit),
            ..self.heeding(Some(limit))
        };
        let at_once = match self.push(link, until, &jobs, &[]) {
            Ok(at_once) => at_once,
            Err(trouble) => {
                // Past its deadline it has gone back by itself.
                let _ = reader.give_back(0);
                return match trouble {
                    Trouble::Silent if self.args.no_wait && self.stop.asked() == 0 => {
                        Err(Failure::Explained(link.explain_silence()))
                    }
                    Trouble::Silent => Ok(None),
                    Trouble::Refused(error) => Err(Failure::Explained(link.explain(&error))),
                };
            }
        };
        // Another may have pushed what was handed out before.
        let is_first = batch.events.iter().all(|event| event.attempt() == 1);
        let done = || Done {
            names: jobs.iter().map(|(name, _)| name.clone()).collect(),
            until: (!at_once || !is_first).then(|| Moment::now() + QUARANTINE),
        };
        match reader.acknowledge(None) {
            Ok(()) => Ok(Some(done())),
            Err(error) if errno(&error) == Some(Errno::STALE) => {
                // The forwarder that leases the batch now finds the names.
                late();
                Ok(None)
            }
            Err(error) => Err(broken(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_held_until_no_push_can_arrive() {
        let (mut names, now) = (Names::default(), Moment::now());
        let done = |name: &str, until| Done {
            names: vec![name.to_owned()],
            until,
        };
        let later = now + Duration::from_secs(60);
        names.add(done("a", None));
        names.add(done("b", Some(later)));
        names.add(done("c", None));
        assert_eq!(names.due(now), ["a", "c"]);
        assert!(names.due(now).is_empty());
        assert_eq!(names.due(later), ["b"]);
    }
}
