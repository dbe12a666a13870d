//! `ravel jobs`: lists what is in a queue, and runs again or forgets what failed there.

use std::time::Duration;

use ravel_common::output::{print, write};
use ravel_common::queue_cli::State;
use ravel_common::remedy::Remedy;
use ravel_common::screen::{Screen, plain};
use ravel_common::table::{self, Column, dim};
use serde_json::{Map, Value, json};

use crate::Failure;
use crate::cli::Jobs;
use crate::clock::Moment;
use crate::queue::Queue;
use crate::queue::keys::Keys;
use crate::queue::link::{Link, Trouble, Until};
use crate::queue::listing::{Counts, Failed, Owner, PAGE, Timed};
use crate::queue::mark;
use crate::work::job::Job;

/// How long an answer of the server may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Does what the command line says, with one job or with all.
pub fn run(args: &Jobs) -> Result<(), Failure> {
    let keys = Keys::new(&args.queue.prefix, &args.queue.queue);
    let link = crate::open(&args.queue, PATIENCE, &keys)?;
    let mut jobs = Asked {
        args,
        link,
        queue: Queue::new(keys),
    };
    match args.retry || args.clear {
        true => jobs.change(),
        false => jobs.show(),
    }
    .map_err(|wrong| match wrong {
        Wrong::Trouble(Trouble::Refused(error)) => Failure::Explained(jobs.link.explain(&error)),
        Wrong::Trouble(Trouble::Silent) => Failure::Explained(jobs.link.explain_silence()),
        Wrong::Failure(failure) => failure,
    })
}

enum Wrong {
    Trouble(Trouble),
    Failure(Failure),
}

impl From<Trouble> for Wrong {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl From<std::io::Error> for Wrong {
    fn from(error: std::io::Error) -> Self {
        Self::Failure(Failure::Output(error))
    }
}

fn soon() -> Until<'static> {
    Until {
        time: Some(Moment::now() + PATIENCE),
        ..Until::default()
    }
}

struct Asked<'a> {
    args: &'a Jobs,
    link: Link,
    queue: Queue,
}

impl Asked<'_> {
    /// Runs jobs again, or forgets them: those that have failed by now. One that fails again meanwhile is another.
    fn change(&mut self) -> Result<(), Wrong> {
        let Some(last) = self.last()? else {
            return self.none_of_that_id();
        };
        let (mut from, mut found) = (self.first(), false);
        loop {
            let some = self.queue.failed(&mut self.link, soon(), [&from, &last])?;
            let Some(end) = some.last() else { break };
            from = format!("({}", end.id);
            for failed in &some {
                found |= match self.args.retry {
                    true => self.queue.retry(&mut self.link, soon(), &failed.id)?,
                    false => self.queue.forget(&mut self.link, soon(), &failed.id)?,
                };
            }
        }
        match found || self.args.id.is_none() {
            true => Ok(()),
            false => self.none_of_that_id(),
        }
    }

    /// The first and the last entry that the command is about.
    fn first(&self) -> String {
        self.args.id.clone().unwrap_or_else(|| "-".to_owned())
    }

    fn last(&mut self) -> Result<Option<String>, Wrong> {
        match &self.args.id {
            Some(id) => Ok(Some(id.clone())),
            None => Ok(self.queue.last_failed(&mut self.link, soon())?),
        }
    }

    fn none_of_that_id(&self) -> Result<(), Wrong> {
        match &self.args.id {
            Some(id) => Err(Wrong::Failure(Failure::Explained(Remedy::new(
                format!("no job that failed has the id {id:?}"),
                "the same without --id, for those there are",
            )))),
            None => Ok(()),
        }
    }

    fn wants(&self, state: State) -> bool {
        match self.args.id {
            Some(_) => state == State::Failed,
            None => self.args.state.is_empty() || self.args.state.contains(&state),
        }
    }

    fn show(&mut self) -> Result<(), Wrong> {
        let counts = self.queue.counts(&mut self.link, soon())?;
        let mut out = Out {
            json: self.args.json,
            limit: match self.args.limit {
                Some(0) => u64::MAX,
                Some(limit) => limit,
                None if self.args.json => u64::MAX,
                None => 10,
            },
            now: counts.now,
            rows: Vec::new(),
            left_out: Vec::new(),
        };
        self.show_ready(counts.ready, &mut out)?;
        self.show_timed(State::Reserved, counts.reserved, &mut out)?;
        self.show_timed(State::Delayed, counts.delayed, &mut out)?;
        let found = self.show_failed(counts.failed, &mut out)?;
        out.end(&self.args.queue.queue, &counts)?;
        match found {
            0 => self.none_of_that_id(),
            _ => Ok(()),
        }
    }

    fn show_ready(&mut self, count: u64, out: &mut Out) -> Result<(), Wrong> {
        if !self.wants(State::Ready) {
            return Ok(());
        }
        let mut shown = 0;
        while shown < count.min(out.limit) {
            let some = self.queue.ready(&mut self.link, soon(), shown)?;
            for text in some.iter().take(out.left(shown)) {
                out.add(Row::new(State::Ready, text))?;
            }
            shown += some.len() as u64;
            if some.len() < PAGE as usize {
                break;
            }
        }
        out.leave_out(State::Ready, count);
        Ok(())
    }

    fn show_timed(&mut self, state: State, count: u64, out: &mut Out) -> Result<(), Wrong> {
        if !self.wants(state) {
            return Ok(());
        }
        let owners = match state {
            State::Reserved if count > 0 => self.queue.owners(&mut self.link, soon())?,
            _ => Vec::new(),
        };
        let mut shown = 0;
        while shown < count.min(out.limit) {
            let link = &mut self.link;
            let some: Vec<Timed> = match state {
                State::Reserved => self.queue.reserved(link, soon(), shown)?,
                _ => self.queue.delayed(link, soon(), shown)?,
            };
            for (text, time) in some.iter().take(out.left(shown)) {
                let mut row = Row::new(state, text);
                row.time = Some(*time as u64);
                row.owner = self.queue.owner(&owners, text).cloned();
                out.add(row)?;
            }
            shown += some.len() as u64;
            if some.len() < PAGE as usize {
                break;
            }
        }
        out.leave_out(state, count);
        Ok(())
    }

    /// Returns how many there were.
    fn show_failed(&mut self, count: u64, out: &mut Out) -> Result<u64, Wrong> {
        if !self.wants(State::Failed) {
            return Ok(0);
        }
        let Some(last) = self.last()? else {
            return Ok(0);
        };
        let (mut from, mut shown) = (self.first(), 0);
        while shown < out.limit {
            let some = self.queue.failed(&mut self.link, soon(), [&from, &last])?;
            let Some(end) = some.last() else { break };
            from = format!("({}", end.id);
            for failed in some.iter().take(out.left(shown)) {
                out.add(Row::failed(failed))?;
            }
            shown += some.len() as u64;
        }
        if self.args.id.is_none() {
            out.leave_out(State::Failed, count);
        }
        Ok(shown)
    }
}

/// A job that is listed.
struct Row {
    state: State,
    id: String,
    name: String,
    attempts: Option<u64>,
    /// When it is due, its reservation ends, or it failed.
    time: Option<u64>,
    owner: Option<Owner>,
    /// The entry of one that failed, and what is noted of it.
    failed: Option<Failed>,
    text: Vec<u8>,
}

impl Row {
    fn new(state: State, text: &[u8]) -> Self {
        let text = mark::split(text).0;
        let value: Value = serde_json::from_slice(text).unwrap_or_default();
        let name = ["displayName", "job"]
            .iter()
            .find_map(|key| value[*key].as_str());
        Self {
            state,
            id: Job::parse(text).map(|job| job.id).unwrap_or_default(),
            name: name.unwrap_or_default().to_owned(),
            attempts: value["attempts"].as_u64(),
            time: None,
            owner: None,
            failed: None,
            text: text.to_owned(),
        }
    }

    fn failed(failed: &Failed) -> Self {
        let mut row = Self::new(State::Failed, field(failed, "job").unwrap_or_default());
        let text = |name| field(failed, name).and_then(|bytes| std::str::from_utf8(bytes).ok());
        row.id = text("id").unwrap_or_default().to_owned();
        row.attempts = text("attempts").and_then(|number| number.parse().ok());
        row.time = text("failed_at").and_then(|number| number.parse().ok());
        row.failed = Some(failed.clone());
        row
    }

    fn json(&self) -> Value {
        let mut all = Map::new();
        all.insert("state".to_owned(), self.state.name().into());
        if let Some(failed) = &self.failed {
            all.insert("entry".to_owned(), failed.id.clone().into());
            for (name, value) in &failed.fields {
                let value = String::from_utf8_lossy(value).into_owned();
                all.insert(name.clone(), value.into());
            }
            return Value::Object(all);
        }
        all.insert("id".to_owned(), self.id.clone().into());
        all.insert("name".to_owned(), self.name.clone().into());
        all.insert("attempts".to_owned(), json!(self.attempts));
        match self.state {
            State::Reserved => {
                all.insert("expires_at".to_owned(), json!(self.time));
                let owner = self.owner.as_ref();
                all.insert("host".to_owned(), json!(owner.map(|owner| &owner.host)));
                all.insert("pid".to_owned(), json!(owner.map(|owner| owner.pid)));
            }
            State::Delayed => {
                all.insert("due_at".to_owned(), json!(self.time));
            }
            _ => {}
        }
        let text = String::from_utf8_lossy(&self.text).into_owned();
        all.insert("job".to_owned(), text.into());
        Value::Object(all)
    }

    /// What there is to say of its state.
    fn detail(&self, now: u64) -> String {
        let time = self.time.unwrap_or(now);
        let (ahead, ago) = (
            span(time.saturating_sub(now)),
            span(now.saturating_sub(time)),
        );
        match (self.state, &self.owner) {
            (State::Ready, _) => String::new(),
            (State::Delayed, _) => format!("due in {ahead}"),
            (State::Failed, _) => {
                let text = |name| {
                    let bytes = self.failed.as_ref().and_then(|failed| field(failed, name));
                    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
                };
                let (entry, host, why) = (
                    self.failed.as_ref().map_or("", |failed| failed.id.as_str()),
                    text("host"),
                    text("why"),
                );
                format!("{entry}, on {host} {ago} ago: {why}")
            }
            (State::Reserved, owner) => {
                let whose = match owner {
                    Some(Owner { host, pid }) => format!("by pid {pid} on {host}"),
                    None => "by an unknown worker".to_owned(),
                };
                match time > now {
                    true => format!("{whose}, expires in {ahead}"),
                    false => format!("{whose}, expired {ago} ago"),
                }
            }
        }
    }
}

fn field<'f>(failed: &'f Failed, name: &str) -> Option<&'f [u8]> {
    let field = failed.fields.iter().find(|(key, _)| key == name);
    field.map(|(_, value)| value.as_slice())
}

/// A time span in its largest unit.
fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Where rows go: at once as JSON, or together as a table.
struct Out {
    json: bool,
    /// How many of each state are shown.
    limit: u64,
    now: u64,
    rows: Vec<Row>,
    left_out: Vec<String>,
}

impl Out {
    fn left(&self, shown: u64) -> usize {
        usize::try_from(self.limit - shown).unwrap_or(usize::MAX)
    }

    fn add(&mut self, row: Row) -> Result<(), Wrong> {
        if self.json {
            return Ok(write(format!("{}\n", row.json()).as_bytes())?);
        }
        self.rows.push(row);
        Ok(())
    }

    fn leave_out(&mut self, state: State, count: u64) {
        if count > self.limit {
            let more = count - self.limit;
            self.left_out.push(format!("{more} more {}", state.name()));
        }
    }

    fn end(self, queue: &str, counts: &Counts) -> Result<(), Wrong> {
        if self.json {
            return Ok(());
        }
        let Counts {
            ready,
            delayed,
            reserved,
            failed,
            ..
        } = counts;
        let mut text = format!(
            "{}: {ready} ready, {reserved} reserved, {delayed} delayed, {failed} failed\n",
            plain(&queue.into())
        );
        if !self.rows.is_empty() {
            let columns = [
                ("STATE", Column::Left),
                ("ID", Column::Name),
                ("ATTEMPTS", Column::Right),
                ("NAME", Column::Name),
                ("DETAIL", Column::Name),
            ];
            let mut table = table::table(&Screen::of_stdout(), &columns);
            for row in &self.rows {
                let attempts = row
                    .attempts
                    .map_or("-".to_owned(), |number| number.to_string());
                let shown = |text: &str| plain(&text.into());
                table.add_row(vec![
                    dim(row.state.name()),
                    shown(&row.id).into(),
                    attempts.into(),
                    shown(&row.name).into(),
                    shown(&row.detail(self.now)).into(),
                ]);
            }
            text += &table::lines(&table, 0);
        }
        if !self.left_out.is_empty() {
            text += &format!("+ {} (--limit 0 for all)\n", self.left_out.join(", "));
        }
        Ok(print(&text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_each_state() {
        let mut row = Row::new(
            State::Reserved,
            b"{\"id\":\"a\",\"attempts\":2,\"job\":\"X@y\"}",
        );
        row.time = Some(1012);
        assert_eq!((row.id.as_str(), row.attempts), ("a", Some(2)));
        assert_eq!(row.detail(1000), "by an unknown worker, expires in 12 s");
        row.owner = Some(Owner {
            host: "web1".into(),
            pid: 7,
        });
        assert_eq!(row.detail(1200), "by pid 7 on web1, expired 3 min ago");
        let json = row.json();
        assert_eq!(json["expires_at"], 1012);
        assert_eq!(json["pid"], 7);
        assert_eq!(json["name"], "X@y");
    }
}
