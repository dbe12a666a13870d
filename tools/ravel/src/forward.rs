//! `ravel forward`: pushes a stream's events to a queue, as jobs.
//!
//! A batch is acknowledged once the server has confirmed that it has it. Whoever is given it again, since the one
//! before died in between, finds the names of its jobs in the server, and pushes none twice.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ravel_records::client::Client;
use ravel_records::{Batch, Reader};
use rustix::io::Errno;

use crate::Failure;
use crate::cli::Forward;
use crate::events::{FAILED_AGAIN, again, errno, late, refused};
use crate::origin::Origin;
use crate::queue::keys::Keys;
use crate::queue::link::{Link, Trouble, Until};
use crate::queue::{Queue, payload};
use crate::remedy::Remedy;
use crate::stop::Stop;

/// How long an answer of the server may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Forwards until it is asked to end, or there is nothing more to do.
pub fn run(args: &Forward, client: &Client) -> Result<(), Failure> {
    let broken = |error| refused(&args.stream, error);
    let keys = Keys::new(&args.queue.prefix, &args.queue.queue);
    let link = Link::open(&args.queue.redis, PATIENCE, keys.share_a_slot());
    let mut link = link.map_err(Failure::Events)?;
    if args.durable && link.is_cluster() {
        let text = "it takes one server to say what is on its disk, and this is a cluster";
        return Err(Failure::Events(Remedy::new(
            text,
            "appendfsync always there, without --durable",
        )));
    }
    let mut reader = client.events(&args.stream).map_err(broken)?;
    let forward = Forwarder {
        args,
        origin: Origin::here(&args.stream).map_err(Failure::Output)?,
        queue: Queue::new(keys),
        stop: Stop::listen().map_err(Failure::Output)?,
    };
    let mut forget = Vec::new();
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 && forward.stop.asked() == 0 {
        // A batch is taken only while somebody is there to have it: each time that one is given back counts
        // as an attempt.
        match forward.push(&mut link, forward.heeding(None), &[], &forget) {
            Ok(()) => forget.clear(),
            Err(Trouble::Silent) => break,
            Err(Trouble::Refused(error)) => return Err(Failure::Events(link.explain(&error))),
        }
        let most = left.min(256);
        let ms = u64::from(args.lease) * 1000;
        let terms = format!("events={most} ms={ms} form=binary");
        reader.terms(&terms).map_err(broken)?;
        let taken = Instant::now();
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
        if let Some(done) = forward.hand_on(&mut link, &mut reader, &batch, taken)? {
            left -= batch.events.len() as u64;
            forget = done;
        }
    }
    // What stays is forgotten by the server in time.
    let soon = Until {
        time: Some(Instant::now()),
        ..Until::default()
    };
    let _ = forward.push(&mut link, soon, &[], &forget);
    Ok(())
}

struct Forwarder<'a> {
    args: &'a Forward,
    origin: Origin,
    queue: Queue,
    stop: Stop,
}

type Jobs = [(String, Vec<u8>)];

impl Forwarder<'_> {
    fn heeding(&self, time: Option<Instant>) -> Until<'_> {
        Until {
            stop: Some(&self.stop),
            time,
            ..Until::default()
        }
    }

    fn push(
        &self,
        link: &mut Link,
        until: Until<'_>,
        jobs: &Jobs,
        forget: &[String],
    ) -> Result<(), Trouble> {
        let Origin { host, boot, stream } = &self.origin;
        let whose = format!("{host}:{boot}:{stream}");
        let durable = self.args.durable;
        self.queue
            .push(link, until, &whose, jobs, forget, durable)
            .map(drop)
    }

    /// Pushes a batch and acknowledges it: the names that may be forgotten then. None where it goes back.
    fn hand_on(
        &self,
        link: &mut Link,
        reader: &mut Reader,
        batch: &Batch,
        taken: Instant,
    ) -> Result<Option<Vec<String>>, Failure> {
        let broken = |error| refused(&self.args.stream, error);
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
        let until = self.heeding(Some(taken + lease * 3 / 4));
        match self.push(link, until, &jobs, &[]) {
            Ok(()) => {}
            Err(trouble) => {
                // Past its deadline it has gone back by itself.
                let _ = reader.give_back(0);
                return match trouble {
                    Trouble::Silent => Ok(None),
                    Trouble::Refused(error) => Err(Failure::Events(link.explain(&error))),
                };
            }
        }
        match reader.acknowledge(None) {
            Ok(()) => Ok(Some(jobs.into_iter().map(|(name, _)| name).collect())),
            Err(error) if errno(&error) == Some(Errno::STALE) => {
                // Who has it now finds the names.
                late();
                Ok(None)
            }
            Err(error) => Err(broken(error)),
        }
    }
}
