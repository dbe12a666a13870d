//! `ravel jobs`: what failed in a queue is shown, run again or forgotten.

use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use crate::Failure;
use crate::cli::Jobs;
use crate::queue::keys::Keys;
use crate::queue::link::{Link, Trouble, Until};
use crate::queue::{Failed, Queue};
use crate::remedy::Remedy;
use crate::screen::{DIM, NAME, plain};

/// How long an answer of the server may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Does what the command says, with one job or with all.
pub fn run(args: &Jobs) -> Result<(), Failure> {
    let keys = Keys::new(&args.queue.prefix, &args.queue.queue);
    let link = Link::open(&args.queue.redis, PATIENCE, keys.share_a_slot());
    let mut link = link.map_err(Failure::Events)?;
    let queue = Queue::new(keys);
    let mut from = args.id.clone().unwrap_or_else(|| "-".to_owned());
    let mut found = false;
    loop {
        let some = queue
            .failed(&mut link, soon(), &from)
            .map_err(|trouble| told(&link, trouble))?;
        let Some(last) = some.last() else { break };
        from = format!("({}", last.id);
        for failed in some {
            if args.id.as_ref().is_some_and(|id| *id != failed.id) {
                continue;
            }
            found = true;
            let id = &failed.id;
            match (args.retry, args.clear) {
                (true, _) => queue.retry(&mut link, soon(), id).map(drop),
                (_, true) => queue.forget(&mut link, soon(), id).map(drop),
                _ => {
                    show(&failed, args.json)?;
                    Ok(())
                }
            }
            .map_err(|trouble| told(&link, trouble))?;
        }
        if args.id.is_some() {
            break;
        }
    }
    match &args.id {
        Some(id) if !found => Err(Failure::Events(Remedy::new(
            format!("no job that failed has the id {id:?}"),
            "the same without --id, for those there are",
        ))),
        _ => Ok(()),
    }
}

fn soon() -> Until<'static> {
    Until {
        time: Some(Instant::now() + PATIENCE),
        ..Until::default()
    }
}

fn told(link: &Link, trouble: Trouble) -> Failure {
    Failure::Events(match trouble {
        Trouble::Refused(error) => link.explain(&error),
        Trouble::Silent => Remedy::new("Redis did not answer in time", "the server's log"),
    })
}

fn show(failed: &Failed, json: bool) -> Result<(), Failure> {
    let text = |name: &str| {
        let field = failed.fields.iter().find(|(key, _)| key == name);
        field.map_or(String::new(), |(_, value)| {
            String::from_utf8_lossy(value).into_owned()
        })
    };
    if json {
        let mut all = Map::new();
        all.insert("entry".to_owned(), failed.id.clone().into());
        for (name, _) in &failed.fields {
            all.insert(name.clone(), text(name).into());
        }
        return crate::write(format!("{}\n", Value::Object(all)).as_bytes());
    }
    let plain = |name: &str| plain(&text(name).as_str().into());
    crate::print(&format!(
        "{DIM}{}{DIM:#}  {NAME}{}{NAME:#}, attempt {} on {}: {}\n",
        failed.id,
        plain("id"),
        plain("attempts"),
        plain("host"),
        plain("why")
    ))
}
