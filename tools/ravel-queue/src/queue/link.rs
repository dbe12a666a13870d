//! A connection to Redis or Valkey, alone or a cluster, that is made anew whenever it breaks.

use std::time::Duration;

use ravel_common::output::warn;
use ravel_common::remedy::Remedy;
use ravel_common::stop::Stop;
use redis::{ErrorKind, FromRedisValue, RedisError, RedisResult, ServerErrorKind, Value};

use super::address::{Address, PASSWORD, Place};
use super::wire::Wire;
use crate::clock::Moment;

/// For how long it is tried.
#[derive(Clone, Copy, Default)]
pub struct Until<'a> {
    /// Not once this program is asked to end,
    pub stop: Option<&'a Stop>,
    /// more often than that.
    pub spare: u32,
    /// Not begun after that.
    pub time: Option<Moment>,
    /// Nothing takes longer than until then, neither the connection nor the answer.
    pub limit: Option<Moment>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Trouble {
    /// There was none in the time given, or before this program was asked to end.
    Silent,
    /// The server refuses, and would again.
    Refused(RedisError),
}

/// An answer.
#[derive(Debug)]
pub struct Answer<T> {
    /// What it is.
    pub value: T,
    /// The question was asked before, and the server may have heard that.
    pub again: bool,
    /// When it was asked last.
    pub asked: Moment,
}

/// A connection.
pub struct Link {
    address: Address,
    /// Where the server may be: the place that was given, and the nodes of its cluster.
    places: Vec<Place>,
    /// Which of them is tried next.
    next: usize,
    patience: Duration,
    /// All keys are in one slot of a cluster.
    tagged: bool,
    wire: Option<Wire>,
    /// The operation of which it was said that it does not succeed, and why.
    complaint: Option<(&'static str, String)>,
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How many nodes of a cluster are remembered.
const NODES: usize = 64;
/// How often a question follows one node's hint at another at once.
const REDIRECTS: u32 = 4;

impl Link {
    /// Connects. An answer may take `patience`; `tagged`: all keys are in one slot of a cluster.
    pub fn open(address: Address, patience: Duration, tagged: bool) -> Result<Self, Remedy> {
        let mut link = Self {
            places: vec![address.place.clone()],
            address,
            next: 0,
            patience,
            tagged,
            wire: None,
            complaint: None,
        };
        match link.connect(Moment::now() + patience) {
            Ok(wire) => {
                link.wire = Some(wire);
                Ok(link)
            }
            Err(error) => Err(link.explain(&error)),
        }
    }

    /// How long one attempt may take.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    fn connect(&mut self, deadline: Moment) -> RedisResult<Wire> {
        let place = &self.places[self.next % self.places.len()];
        let wire = Wire::connect(&self.address, place, deadline);
        if wire.is_err() {
            self.next += 1;
        }
        wire
    }

    /// Asks, and asks again where there is no answer: with pauses in between, and over a new connection. `what` names
    /// the operation.
    pub fn call<T>(
        &mut self,
        what: &'static str,
        until: Until<'_>,
        mut ask: impl FnMut(&mut Wire) -> RedisResult<T>,
    ) -> Result<Answer<T>, Trouble> {
        let mut pause = FIRST_PAUSE;
        let (mut again, mut redirects) = (false, 0);
        loop {
            let asked = Moment::now();
            let deadline = asked + self.patience;
            let deadline = until.limit.map_or(deadline, |limit| limit.min(deadline));
            let error = match self.attempt(deadline, &mut again, &mut ask) {
                Ok((value, asked)) => {
                    self.succeeded(what);
                    return Ok(Answer {
                        value,
                        again,
                        asked,
                    });
                }
                Err(error) => error,
            };
            if redirects < REDIRECTS && self.follow(&error)? {
                redirects += 1;
                continue;
            }
            if !passes(&error) {
                return Err(Trouble::Refused(error));
            }
            let left = until.time.map(Moment::left);
            let is_asked = || until.stop.is_some_and(|stop| stop.asked() > until.spare);
            if left.is_some_and(|left| left.is_zero()) || is_asked() {
                self.complain(what, &error, "");
                return Err(Trouble::Silent);
            }
            self.complain(what, &error, "; trying again");
            // Not all of a fleet at the same moment.
            let time = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            let time = left.map_or(time, |left| time.min(left));
            match until.stop {
                Some(stop) => stop.sleep(time),
                None => std::thread::sleep(time),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Asks once, over a new connection where there is none: the answer, and when it was asked for.
    fn attempt<T>(
        &mut self,
        deadline: Moment,
        again: &mut bool,
        ask: &mut impl FnMut(&mut Wire) -> RedisResult<T>,
    ) -> RedisResult<(T, Moment)> {
        let mut wire = match self.wire.take() {
            Some(wire) => wire,
            None => self.connect(deadline)?,
        };
        wire.limit(deadline);
        let asked = Moment::now();
        let answer = ask(&mut wire);
        match &answer {
            // Nobody knows what arrives yet on this one.
            Err(error) if !is_answer(error) => *again = true,
            Err(error) if passes(error) => {}
            _ => self.wire = Some(wire),
        }
        Ok((answer?, asked))
    }

    /// Turns to the node of a cluster that an error names: whether there is one.
    fn follow(&mut self, error: &RedisError) -> Result<bool, Trouble> {
        use ServerErrorKind::{Ask, CrossSlot, Moved};
        let is_of_cluster = matches!(
            error.kind(),
            ErrorKind::Server(Moved | Ask | CrossSlot | ServerErrorKind::ClusterDown)
        );
        if is_of_cluster && !self.tagged {
            return Err(Trouble::Refused(
                (ErrorKind::InvalidClientConfig, UNTAGGED).into(),
            ));
        }
        // During a migration (ASK) the keys are on both: it is tried again until they have moved.
        let ErrorKind::Server(Moved) = error.kind() else {
            return Ok(false);
        };
        let detail = error.detail().unwrap_or_default();
        let Some((host, port)) = detail.split(' ').nth(1).and_then(|to| to.rsplit_once(':')) else {
            return Ok(false);
        };
        let Ok(port) = port.parse() else {
            return Ok(false);
        };
        let host = match (host, &self.places[self.next % self.places.len()]) {
            // The node does not know its own address: it is the one that was asked.
            ("", Place::Tcp(host, _)) => host.clone(),
            ("", Place::Unix(_)) => return Ok(false),
            (host, _) => host.trim_matches(['[', ']']).to_owned(),
        };
        self.learn_nodes();
        self.next = self.remember(Place::Tcp(host, port));
        self.wire = None;
        Ok(true)
    }

    /// Remembers the nodes of a cluster: the one that was given may be gone when the connection breaks.
    fn learn_nodes(&mut self) {
        let deadline = Moment::now() + self.patience;
        let Ok(mut wire) = self.connect(deadline) else {
            return;
        };
        // Without permission, only the given node is known.
        let answer = wire.query::<Value>(redis::cmd("CLUSTER").arg("SLOTS"));
        for (host, port) in primaries(answer.unwrap_or(Value::Nil)) {
            self.remember(Place::Tcp(host, port));
        }
    }

    fn remember(&mut self, place: Place) -> usize {
        if let Some(at) = self.places.iter().position(|known| *known == place) {
            return at;
        }
        if self.places.len() == NODES {
            self.places.pop();
        }
        self.places.push(place);
        self.places.len() - 1
    }

    /// Says that an operation does not succeed, once for each reason.
    fn complain(&mut self, what: &'static str, error: &RedisError, then: &str) {
        let why = sentence(error);
        if self
            .complaint
            .as_ref()
            .is_some_and(|(_, said)| *said == why)
        {
            return;
        }
        warn(&format!("{}: {why}{then}", self.address.place));
        let what = self.complaint.take().map_or(what, |(what, _)| what);
        self.complaint = Some((what, why));
    }

    /// Says that all is well again, once what had failed has succeeded.
    fn succeeded(&mut self, what: &'static str) {
        if self
            .complaint
            .as_ref()
            .is_some_and(|(failed, _)| *failed == what)
        {
            self.complaint = None;
            warn("Redis answers again");
        }
    }

    /// What to say where there was no answer in time: why, if that is known.
    pub fn explain_silence(&self) -> Remedy {
        let why = match &self.complaint {
            Some((_, why)) => why,
            None => "Redis did not answer in time",
        };
        Remedy::new(
            format!("{}: {why}", self.address.place),
            "the server's log, and the same again once it takes writes",
        )
    }

    /// What to say about an error that does not pass.
    pub fn explain(&self, error: &RedisError) -> Remedy {
        let text = format!("{}: {}", self.address.place, sentence(error));
        let login = match &self.address.user {
            Some(user) => format!("user {user:?}"),
            None => "the default user".to_owned(),
        };
        let mend = match (error.kind(), error.code()) {
            (ErrorKind::InvalidClientConfig, _) => {
                "a --queue with braces, such as '{events}', so that one node has all of its keys"
                    .to_owned()
            }
            (_, Some("NOAUTH")) => format!("--password-file FILE, or the variable {PASSWORD}"),
            (_, Some("WRONGPASS")) => {
                format!("the password of {login}; in a URL with percent-escapes, such as %40 for @")
            }
            (_, Some("NOPERM")) => format!(
                "ACL SETUSER, which lets {login} use the keys of this queue, and scripts: '~*queues:*' +@all -@admin"
            ),
            (_, Some("WRONGTYPE")) => "another --queue: something else has these keys".to_owned(),
            (_, Some("DENIED")) => "a password in the server's configuration, or bind".to_owned(),
            (ErrorKind::Io, _) => "--redis with the address of a server that runs".to_owned(),
            _ => "redis-cli with the same address, and the server's log".to_owned(),
        };
        Remedy::new(text, mend)
    }
}

/// Returns the primary of each range of slots that `CLUSTER SLOTS` names: first, last, primary, replicas; a node is its
/// host, its port, and more.
fn primaries(slots: Value) -> Vec<(String, u16)> {
    let list = |value| match value {
        Value::Array(list) => list,
        _ => Vec::new(),
    };
    let primary = |range| -> Option<(String, u16)> {
        let mut node = list(list(range).into_iter().nth(2)?).into_iter();
        let host = String::from_redis_value(node.next()?).ok()?;
        let port = u16::from_redis_value(node.next()?).ok()?;
        (!host.is_empty()).then_some((host, port))
    };
    list(slots).into_iter().filter_map(primary).collect()
}

const UNTAGGED: &str = "it is a cluster, and the queue's keys are not in one slot of it";

/// Whether it is what a server said, not the lack of an answer.
fn is_answer(error: &RedisError) -> bool {
    !matches!(error.kind(), ErrorKind::Io | ErrorKind::Parse)
}

/// Whether an error is gone when it is tried again, sooner or later.
fn passes(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved, ReadOnly, TryAgain};
    match error.kind() {
        ErrorKind::Io | ErrorKind::Parse => true,
        ErrorKind::Server(kind) => matches!(
            kind,
            Ask | BusyLoading | ClusterDown | MasterDown | Moved | ReadOnly | TryAgain
        ),
        // Memory is full, the disk is, a script runs for long, too few replicas, failover.
        _ => matches!(
            error.code(),
            Some("OOM" | "MISCONF" | "BUSY" | "NOREPLICAS" | "UNBLOCKED")
        ),
    }
}

/// An error as a sentence, with the server's own words where ours say less.
fn sentence(error: &RedisError) -> String {
    let detail = without_script(error.detail().unwrap_or_default());
    let known = match error.code() {
        Some("NOAUTH") => "it wants a password (NOAUTH)",
        Some("WRONGPASS") => "it does not take this password (WRONGPASS)",
        Some("NOPERM") => "this user lacks a permission (NOPERM)",
        Some("READONLY") => "it takes no writes, since it is a replica (READONLY)",
        Some("OOM") => "its memory is full (OOM)",
        Some("MISCONF") => "it takes no writes, since it cannot save them (MISCONF)",
        Some("LOADING") => "it is loading its data (LOADING)",
        Some("BUSY") => "it is busy with a script (BUSY)",
        Some("NOREPLICAS") => {
            "it takes no writes, since too few replicas are connected (NOREPLICAS)"
        }
        Some("MASTERDOWN") => "it is a replica that has lost its primary (MASTERDOWN)",
        Some("CLUSTERDOWN") => "its cluster is down (CLUSTERDOWN)",
        Some("WRONGTYPE") => "a key of this queue holds something else (WRONGTYPE)",
        Some("DENIED") => "it is in protected mode and takes local connections only (DENIED)",
        _ => "",
    };
    match (known, error.code()) {
        ("", Some(code)) if !code.is_empty() => format!("{code} {detail}").trim_end().to_owned(),
        ("", _) => error.to_string(),
        (known, Some("NOPERM" | "WRONGTYPE")) if !detail.is_empty() => format!("{known}: {detail}"),
        (known, _) => known.to_owned(),
    }
}

/// A server's words without what names the script and the line: `... script: f1d2..., on @user_script:12.`
fn without_script(detail: &str) -> &str {
    let end = [" script: ", " Error running script"]
        .iter()
        .filter_map(|mark| detail.find(mark))
        .min();
    detail[..end.unwrap_or(detail.len())].trim_end_matches([' ', '.'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> RedisError {
        let parsed = redis::parse_redis_value(text.as_bytes()).unwrap();
        parsed.extract_error().unwrap_err()
    }

    #[test]
    fn what_passes_and_what_does_not() {
        for text in [
            "-LOADING x\r\n",
            "-OOM x\r\n",
            "-READONLY x\r\n",
            "-MISCONF x\r\n",
            "-CLUSTERDOWN x\r\n",
        ] {
            assert!(passes(&error(text)), "{text}");
        }
        for text in [
            "-WRONGTYPE x\r\n",
            "-NOAUTH x\r\n",
            "-ERR x\r\n",
            "-NOPERM x\r\n",
        ] {
            assert!(!passes(&error(text)), "{text}");
        }
        assert!(passes(
            &std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into()
        ));
    }

    #[test]
    fn nodes_of_a_cluster() {
        let text = "*2\r\n*4\r\n:0\r\n:5460\r\n*4\r\n$4\r\nhost\r\n:7000\r\n$2\r\nid\r\n*0\r\n*3\r\n$1\r\nx\r\n:1\r\n$1\r\ny\r\n\
                    *3\r\n:5461\r\n:16383\r\n*3\r\n$0\r\n\r\n:7001\r\n$2\r\nid\r\n";
        let value = redis::parse_redis_value(text.as_bytes()).unwrap();
        assert_eq!(primaries(value), [("host".to_owned(), 7000)]);
    }

    #[test]
    fn errors_are_sentences_without_the_script() {
        let hash = "0123456789abcdef0123456789abcdef01234567";
        for (text, wanted) in [
            (
                "-READONLY You can't write against a read only replica. script: HASH, on @user_script:5.\r\n",
                "it takes no writes, since it is a replica (READONLY)",
            ),
            (
                "-NOPERM User bob has no permissions to run the 'evalsha' command\r\n",
                "this user lacks a permission (NOPERM): User bob has no permissions to run the 'evalsha' command",
            ),
            (
                "-ERR WAITAOF cannot be used when appendonly is disabled. script: HASH, on @user_script:5.\r\n",
                "ERR WAITAOF cannot be used when appendonly is disabled",
            ),
        ] {
            assert_eq!(sentence(&error(&text.replace("HASH", hash))), wanted);
        }
    }
}
