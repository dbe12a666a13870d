//! A connection to Redis or Valkey, alone or a cluster, that is made anew whenever it breaks.

use std::io::Write;
use std::time::{Duration, Instant};

use redis::cluster::ClusterClientBuilder;
use redis::{Client, ConnectionLike, ErrorKind, RedisError, RedisResult, ServerErrorKind};

use crate::remedy::Remedy;
use crate::stop::Stop;

/// For how long it is tried.
#[derive(Clone, Copy, Default)]
pub struct Until<'a> {
    /// Not once this program is asked to end,
    pub stop: Option<&'a Stop>,
    /// more often than that.
    pub spare: u32,
    /// Not after that.
    pub time: Option<Instant>,
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
    pub asked: Instant,
}

/// A connection.
pub struct Link {
    client: Client,
    shown: String,
    patience: Duration,
    tagged: bool,
    cluster: bool,
    connection: Option<Box<dyn ConnectionLike>>,
    /// It was said that nobody answers.
    complained: bool,
}

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

impl Link {
    /// Connects. An answer may take `patience`; `tagged`: all keys are in one slot of a cluster.
    pub fn open(url: &str, patience: Duration, tagged: bool) -> Result<Self, Remedy> {
        let client = Client::open(url).map_err(|error| {
            Remedy::new(
                format!("{error}, of --redis {}", without_secrets(url)),
                "redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], or redis+unix:///PATH",
            )
        })?;
        let mut link = Self {
            client,
            shown: without_secrets(url),
            patience,
            tagged,
            cluster: false,
            connection: None,
            complained: false,
        };
        match link.connect() {
            Ok(connection) => {
                link.connection = Some(connection);
                Ok(link)
            }
            Err(error) => Err(link.explain(&error)),
        }
    }

    /// Whether it is one.
    pub fn is_cluster(&self) -> bool {
        self.cluster
    }

    fn connect(&mut self) -> RedisResult<Box<dyn ConnectionLike>> {
        let mut connection = self.client.get_connection_with_timeout(self.patience)?;
        connection.set_read_timeout(Some(self.patience))?;
        connection.set_write_timeout(Some(self.patience))?;
        // Who may not ask for it is taken for one server.
        let info: RedisResult<String> = redis::cmd("INFO").arg("cluster").query(&mut connection);
        if !info.is_ok_and(|info| info.contains("cluster_enabled:1")) {
            return Ok(Box::new(connection));
        }
        if !self.tagged {
            return Err((ErrorKind::InvalidClientConfig, UNTAGGED).into());
        }
        self.cluster = true;
        let node = self.client.get_connection_info().clone();
        let cluster = ClusterClientBuilder::new([node])
            .connection_timeout(self.patience)
            .response_timeout(self.patience)
            .build()?;
        Ok(Box::new(cluster.get_connection()?))
    }

    /// Asks, and asks again where there is no answer: with pauses in between, and over a new connection.
    pub fn call<T>(
        &mut self,
        until: Until<'_>,
        mut ask: impl FnMut(&mut dyn ConnectionLike) -> RedisResult<T>,
    ) -> Result<Answer<T>, Trouble> {
        let mut pause = FIRST_PAUSE;
        let mut again = false;
        loop {
            let fresh = match self.connection.take() {
                Some(connection) => Ok(connection),
                None => self.connect(),
            };
            let asked = Instant::now();
            let error = match fresh {
                Ok(mut connection) => match ask(connection.as_mut()) {
                    Ok(value) => {
                        self.connection = Some(connection);
                        if std::mem::take(&mut self.complained) {
                            say("Redis answers again");
                        }
                        return Ok(Answer {
                            value,
                            again,
                            asked,
                        });
                    }
                    Err(error) => {
                        if !passes(&error) {
                            self.connection = Some(connection);
                        }
                        again = true;
                        error
                    }
                },
                Err(error) => error,
            };
            if !passes(&error) {
                return Err(Trouble::Refused(error));
            }
            let left = until
                .time
                .map(|time| time.saturating_duration_since(Instant::now()));
            let is_asked = || until.stop.is_some_and(|stop| stop.asked() > until.spare);
            if left.is_some_and(|left| left.is_zero()) || is_asked() {
                return Err(Trouble::Silent);
            }
            if !std::mem::replace(&mut self.complained, true) {
                say(&format!("{}: {error}; trying again", self.shown));
            }
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

    /// What to say about an error that does not pass.
    pub fn explain(&self, error: &RedisError) -> Remedy {
        let shown = &self.shown;
        let text = format!("{shown}: {error}");
        let mend = match (error.kind(), error.code()) {
            (ErrorKind::InvalidClientConfig, _) if error.to_string().contains(UNTAGGED) => {
                "a --queue with braces, such as '{events}', so that one node has all of its keys"
            }
            (ErrorKind::AuthenticationFailed, _) | (_, Some("NOAUTH" | "WRONGPASS")) => {
                "--redis redis://USER:PASSWORD@HOST"
            }
            (_, Some("NOPERM")) => {
                "ACL SETUSER in Redis, for the keys of this queue, and for scripts"
            }
            (_, Some("WRONGTYPE")) => "another --queue: something else has these keys",
            (ErrorKind::Io, _) => "--redis with the address of a server that runs",
            _ => "redis-cli with the same address, and the server's log",
        };
        Remedy::new(text, mend)
    }
}

const UNTAGGED: &str = "it is a cluster, and the queue's keys are not in one slot of it";

/// Whether an error is gone when it is tried again, sooner or later.
fn passes(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, Moved, ReadOnly, TryAgain};
    match error.kind() {
        ErrorKind::Io | ErrorKind::Parse | ErrorKind::ClusterConnectionNotFound => true,
        ErrorKind::Server(kind) => matches!(
            kind,
            BusyLoading | ClusterDown | MasterDown | Moved | ReadOnly | TryAgain
        ),
        // Memory is full, the disk is, a script runs for long, too few replicas, failover.
        _ => matches!(
            error.code(),
            Some("OOM" | "MISCONF" | "BUSY" | "NOREPLICAS" | "UNBLOCKED")
        ),
    }
}

fn say(text: &str) {
    // Nobody is left to be told where even stderr is closed.
    let _ = writeln!(anstream::stderr(), "ravel: {text}");
}

/// A URL without its user and password.
fn without_secrets(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find('/').unwrap_or(rest.len());
            let host = rest[..end].rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{}", &rest[end..])
        }
        None => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        for (url, wanted) in [
            ("redis://me:pa@ss@host:1/2", "redis://host:1/2"),
            ("redis://host", "redis://host"),
            ("redis+unix:///run/a@b", "redis+unix:///run/a@b"),
            ("host", "host"),
        ] {
            assert_eq!(without_secrets(url), wanted);
        }
    }

    #[test]
    fn what_passes_and_what_does_not() {
        let server = |text: &str| -> RedisError {
            let parsed = redis::parse_redis_value(text.as_bytes()).unwrap();
            parsed.extract_error().unwrap_err()
        };
        for text in [
            "-LOADING x\r\n",
            "-OOM x\r\n",
            "-READONLY x\r\n",
            "-MISCONF x\r\n",
            "-CLUSTERDOWN x\r\n",
        ] {
            assert!(passes(&server(text)), "{text}");
        }
        for text in [
            "-WRONGTYPE x\r\n",
            "-NOAUTH x\r\n",
            "-ERR x\r\n",
            "-NOPERM x\r\n",
        ] {
            assert!(!passes(&server(text)), "{text}");
        }
        assert!(passes(
            &std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into()
        ));
    }
}
