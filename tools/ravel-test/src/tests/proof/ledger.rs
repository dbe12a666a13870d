// SPDX-License-Identifier: GPL-2.0
//! What was done, and what is told of it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::makers::Deed;
use crate::{check, check_eq};

/// A record as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its number.
    pub seq: u64,
    /// When it was.
    pub time: u64,
    /// For how many numbers it stands, where it is a loss.
    pub lost: Option<u64>,
    /// What happened, as makers note it down.
    pub what: String,
}

impl Told {
    /// From an event as JSON, or a job's data.
    pub fn new(data: &Value) -> Result<Self> {
        let words = |keys: &[&str]| -> Result<String> {
            let words: Result<Vec<String>> = keys.iter().map(|key| word(data, key)).collect();
            Ok(words?.join(" "))
        };
        let number = |key: &str| -> Result<u64> { Ok(word(data, key)?.parse()?) };
        let event = word(data, "event")?;
        let (lost, keys): (_, &[&str]) = match event.as_str() {
            "fork" => (None, &["event", "pid", "child"]),
            "close" => (None, &["event", "pid", "inode", "refs"]),
            "shutdown" => (None, &["event", "pid", "inode", "how"]),
            "reset" => (None, &["event", "way", "local", "remote"]),
            "loss" => (Some(number("count")?), &["event", "cpu", "last", "count"]),
            _ => bail!("nobody asked for that: {data}"),
        };
        Ok(Self {
            seq: number("seq")?,
            time: number("time")?,
            lost,
            what: words(keys)?,
        })
    }

    fn count(&self) -> u64 {
        self.lost.unwrap_or(1)
    }
}

fn word(data: &Value, key: &str) -> Result<String> {
    match &data[key] {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        // As in the data of a job, which has no lists.
        Value::Array(words) => {
            let words: Option<Vec<&str>> = words.iter().map(Value::as_str).collect();
            let words = words.with_context(|| format!("{key} is no list of words, in {data}"))?;
            Ok(words.join(","))
        }
        other => bail!("{key} is {other}, in {data}"),
    }
}

/// What became of events, of one run or several.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Runs.
    pub runs: u64,
    /// What went wrong, and how often.
    pub harm: BTreeMap<Harm, u64>,
    /// Events that happened.
    pub happened: u64,
    /// Of these, delivered.
    pub delivered: u64,
    /// Told as lost.
    pub lost: u64,
    /// Gone with a stream that was removed, or happened while there was none.
    pub removed: u64,
    /// Confirmed by a server that forgot all.
    pub forgotten: u64,
    /// Records that arrived more than once, each time but the first.
    pub again: u64,
}

impl Tally {
    /// The sum of both.
    pub fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        for (harm, times) in &other.harm {
            *self.harm.entry(*harm).or_default() += times;
        }
        self.happened += other.happened;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.removed += other.removed;
        self.forgotten += other.forgotten;
        self.again += other.again;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let harm: Vec<String> = self
            .harm
            .iter()
            .map(|(harm, times)| format!("{times} {harm}"))
            .collect();
        write!(
            f,
            "{} runs, with {}: {} events = {} delivered + {} lost and counted + {} gone with their stream + {} \
             forgotten by the server; {} delivered again",
            self.runs,
            harm.join(", "),
            self.happened,
            self.delivered,
            self.lost,
            self.removed,
            self.forgotten,
            self.again
        )
    }
}

/// What goes wrong.
pub type Harm = &'static str;

/// What a consumer has of a stream in the end.
#[derive(Default)]
pub struct Arrived {
    /// What went wrong besides what was asked for.
    pub harm: Vec<Harm>,
    /// Delivered, in the order of the delivery, as often as it was.
    pub told: Vec<Told>,
    /// What the server had confirmed before it forgot.
    pub forgotten: Vec<Told>,
    /// Whether a record may come again at all.
    pub twice: bool,
    /// Whether one alone read the stream, and so got all from its beginning on.
    pub alone: bool,
    /// Whether they come in the order of their numbers.
    pub ordered: bool,
}

/// A stream, from when it is made until it is removed, or everything has come to its end.
pub struct Life {
    /// By that time it was made.
    pub made: u64,
    /// All of its records are before that time.
    pub until: u64,
    /// How many records were acknowledged, at least.
    pub acked: u64,
    /// How many events happened, likewise.
    pub events: u64,
    /// Where it was removed: since when it may have been more.
    pub asked: Option<u64>,
}

/// Each deed's place: whose it is, and the how manieth of his.
struct Deeds<'d> {
    places: HashMap<&'d str, (usize, usize)>,
    all: &'d [Vec<Deed>],
}

impl<'d> Deeds<'d> {
    fn new(deeds: &'d [Vec<Deed>]) -> Result<Self> {
        let mut places = HashMap::new();
        for (who, deeds) in deeds.iter().enumerate() {
            for (at, deed) in deeds.iter().enumerate() {
                let before = places.insert(deed.what.as_str(), (who, at));
                ensure!(before.is_none(), "done twice: {}", deed.what);
            }
        }
        Ok(Self { places, all: deeds })
    }
}

/// Accounts for everything: each event that happened is delivered, lost and counted, forgotten by a server, or gone
/// with its stream before it was acknowledged.
pub fn balance(deeds: &[Vec<Deed>], lives: &[Life], arrived: &Arrived) -> Result<Tally> {
    let deeds = Deeds::new(deeds)?;
    let mut tally = Tally {
        runs: 1,
        happened: deeds.all.iter().map(Vec::len).sum::<usize>() as u64,
        ..Tally::default()
    };
    // Of each maker: the first that no life before has told.
    let mut next = vec![0; deeds.all.len()];
    let mut from = 0;
    for (which, life) in lives.iter().enumerate() {
        let is_of = |told: &&Told| (from..life.until).contains(&told.time);
        let told: Vec<&Told> = arrived.told.iter().filter(is_of).collect();
        let forgotten: Vec<&Told> = arrived.forgotten.iter().filter(is_of).collect();
        let first = which == 0;
        let last = which + 1 == lives.len();
        one_life(
            &deeds,
            life,
            arrived,
            [&told, &forgotten],
            &mut next,
            [first, last],
            &mut tally,
        )
        .with_context(|| format!("life {which} of the stream"))?;
        from = life.until;
    }
    let known = tally.delivered + tally.lost + tally.forgotten;
    match lives.len() {
        1 => check_eq!(known, tally.happened, "delivered, lost and forgotten"),
        _ => {
            check!(known <= tally.happened, "{tally}: more than happened");
            tally.removed = tally.happened - known;
            let most = most_gone(&deeds, lives);
            check!(
                tally.removed <= most,
                "{tally}: no more than {most} were not yet acknowledged, or came later"
            );
        }
    }
    Ok(tally)
}

fn one_life(
    deeds: &Deeds<'_>,
    life: &Life,
    arrived: &Arrived,
    [told, forgotten]: [&[&Told]; 2],
    next: &mut [usize],
    [first, last]: [bool; 2],
    tally: &mut Tally,
) -> Result<()> {
    let mut by_number: BTreeMap<u64, (&Told, bool)> = BTreeMap::new();
    let mut before = 0;
    for told in told {
        if arrived.ordered {
            check!(told.seq > before, "{} comes behind {before}", told.seq);
            before = told.seq;
        }
        if let Some((other, _)) = by_number.insert(told.seq, (told, true)) {
            check_eq!(other, *told, "the same number");
            check!(arrived.twice, "comes twice: {told:?}");
            tally.again += 1;
        }
    }
    for told in forgotten {
        let (other, _) = by_number.entry(told.seq).or_insert((told, false));
        check_eq!(other, told, "the same number");
    }
    let records = by_number.len() as u64;
    check!(
        records >= life.acked && (!last || records == life.acked),
        "{records} records arrived, {} were acknowledged",
        life.acked
    );
    let (mut number, mut time, mut lost) = (1, 0, 0);
    // Where several read, what others had when the stream was removed leaves gaps.
    let whole = last || arrived.alone;
    for (told, is_delivered) in by_number.values() {
        if whole {
            check_eq!(told.seq, number, "the number behind {}", number - 1);
        }
        number = told.seq + told.count();
        check!(told.time >= time, "from before {time}: {told:?}");
        time = told.time;
        match (told.lost, is_delivered) {
            (Some(count), true) => {
                lost += count;
                tally.lost += count;
            }
            (Some(count), false) => {
                lost += count;
                tally.forgotten += count;
            }
            (None, true) => tally.delivered += 1,
            (None, false) => tally.forgotten += 1,
        }
        if told.lost.is_some() {
            continue;
        }
        let place = deeds.places.get(told.what.as_str());
        let (who, at) = *place.with_context(|| format!("nobody did that: {told:?}"))?;
        check!(
            at >= next[who],
            "told before a later one of the same: {told:?}"
        );
        if whole && lost == 0 {
            none_left_out(&deeds.all[who][next[who]..at], life.made, first)?;
        }
        next[who] = at + 1;
    }
    if last {
        check_eq!(number, life.events + 1, "the number behind the last");
    }
    if last && lost == 0 {
        for (deeds, next) in deeds.all.iter().zip(next) {
            none_left_out(&deeds[*next..], life.made, first)?;
        }
    }
    Ok(())
}

/// How many can be gone with streams that were removed: what nobody had acknowledged by then, and what was done from
/// then on until the next was made.
fn most_gone(deeds: &Deeds<'_>, lives: &[Life]) -> u64 {
    let pairs = lives.iter().zip(&lives[1..]);
    let gone = pairs.map(|(life, next)| {
        let asked = life.asked.unwrap_or(life.until);
        let since = deeds.all.iter().map(|deeds| {
            // Of what had begun by then, a part may have come later.
            let begun = deeds.iter().map(|deed| deed.time);
            let from = begun.filter(|time| *time < asked).max().unwrap_or(0);
            let is_since = |deed: &&Deed| (from..next.made).contains(&deed.time);
            deeds.iter().filter(is_since).count() as u64
        });
        life.events - life.acked + since.sum::<u64>()
    });
    gone.sum()
}

/// Whatever is not told was done before the stream was made. (While it is made, one source begins after the other.)
fn none_left_out(deeds: &[Deed], made: u64, first: bool) -> Result<()> {
    for deed in deeds {
        check!(
            !first && deed.time < made,
            "it is left out that at {} or later there was: {}",
            deed.time,
            deed.what
        );
    }
    Ok(())
}
