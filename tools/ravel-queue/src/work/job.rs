//! What a job says of itself, and what becomes of it when it fails.

use serde_json::{Map, Value};

use crate::cli::Work;

/// A job, as far as a worker has to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// What names it.
    pub id: String,
    /// Runs that failed.
    pub failures: u32,
    max_tries: Option<u32>,
    max_exceptions: Option<u32>,
    fail_on_timeout: bool,
    backoff: Option<Vec<u32>>,
    timeout: Option<u32>,
    retry_until: Option<u64>,
}

/// How a run failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By itself.
    Ended,
    /// It took longer than it may.
    Late,
}

/// What becomes of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is run again after that many seconds.
    Again(u64),
    /// It has failed.
    Failed,
}

impl Job {
    /// Reads a job's text; what is wrong with it where it is none.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let value: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let Value::Object(fields) = value else {
            return Err("it is not an object".to_owned());
        };
        let number = |name| fields.get(name).and_then(number);
        let small = |name| number(name).map(|number| u32::try_from(number).unwrap_or(u32::MAX));
        Ok(Self {
            id: name(&fields),
            failures: small("failures").unwrap_or(0),
            max_tries: small("maxTries"),
            max_exceptions: small("maxExceptions").filter(|most| *most > 0),
            fail_on_timeout: fields.get("failOnTimeout") == Some(&Value::Bool(true)),
            backoff: fields.get("backoff").and_then(backoff),
            timeout: small("timeout"),
            retry_until: number("retryUntil"),
        })
    }

    /// How many seconds it may run, 0: any.
    pub fn timeout(&self, args: &Work) -> u32 {
        self.timeout.unwrap_or(args.timeout)
    }

    /// How many of its runs never came to an end: `attempts` counts this run.
    pub fn lost(&self, attempts: u32) -> u32 {
        attempts.saturating_sub(1).saturating_sub(self.failures)
    }

    /// Why it is not to be run at all: `now` is in seconds since 1970.
    pub fn is_over(&self, attempts: u32, now: u64, args: &Work) -> Option<String> {
        let lost = self.lost(attempts);
        if self.retry_until.is_some_and(|until| now > until) {
            return Some("it was to be run until a time that is over".to_owned());
        }
        (lost >= args.lost).then(|| {
            format!(
                "{lost} of its runs never came to an end: their workers were killed, or lost it"
            )
        })
    }

    /// What becomes of it after a run that failed.
    pub fn outcome(&self, how: How, now: u64, args: &Work) -> Outcome {
        let failures = self.failures.saturating_add(1);
        let most = match self.retry_until {
            Some(until) if now >= until => 1,
            Some(_) => 0,
            None => self.max_tries.unwrap_or(args.tries),
        };
        let over = most > 0 && failures >= most
            || self.max_exceptions.is_some_and(|most| failures >= most)
            || self.fail_on_timeout && how == How::Late;
        if over {
            return Outcome::Failed;
        }
        let pauses = self.backoff.as_deref().unwrap_or(&args.backoff);
        let at = (failures as usize - 1).min(pauses.len().saturating_sub(1));
        Outcome::Again(pauses.get(at).copied().unwrap_or(0).into())
    }
}

fn name(fields: &Map<String, Value>) -> String {
    let name = ["id", "uuid"]
        .iter()
        .find_map(|name| match fields.get(*name) {
            Some(Value::String(name)) => Some(name.clone()),
            Some(Value::Number(name)) => Some(name.to_string()),
            _ => None,
        });
    // It goes into the environment, and to the terminal.
    let plain = |letter: &char| !letter.is_control();
    name.unwrap_or_default()
        .chars()
        .filter(plain)
        .take(200)
        .collect()
}

/// A number, also where it is written as a string.
fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// Seconds before each further run: a number, or several as text or as a list.
fn backoff(value: &Value) -> Option<Vec<u32>> {
    let pauses: Option<Vec<u64>> = match value {
        Value::String(text) => text
            .split(',')
            .map(|word| word.trim().parse().ok())
            .collect(),
        Value::Array(list) => list.iter().map(number).collect(),
        other => number(other).map(|pause| vec![pause]),
    };
    let pauses = pauses.filter(|pauses| !pauses.is_empty())?;
    let small = |pause| u32::try_from(pause).unwrap_or(u32::MAX);
    Some(pauses.into_iter().map(small).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn args(words: &str) -> Work {
        let words = format!("ravel work --queue q {words} -- true");
        match Cli::try_parse_from(words.split_whitespace())
            .unwrap()
            .command
        {
            Command::Work(args) => args,
            _ => panic!("{words}"),
        }
    }

    fn job(text: &str) -> Job {
        Job::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_a_job_says_comes_before_what_the_command_says() {
        let args = args("--tries 2 --backoff 7 --timeout 9");
        assert_eq!(job("{}").timeout(&args), 9);
        assert_eq!(job("{\"timeout\":3}").timeout(&args), 3);
        assert_eq!(job("{\"timeout\":null}").timeout(&args), 9);
        let outcome = |text: &str| job(text).outcome(How::Ended, 100, &args);
        assert_eq!(outcome("{}"), Outcome::Again(7));
        assert_eq!(outcome("{\"failures\":1}"), Outcome::Failed);
        assert_eq!(outcome("{\"maxTries\":1}"), Outcome::Failed);
        assert_eq!(
            outcome("{\"maxTries\":5,\"failures\":3}"),
            Outcome::Again(7)
        );
        assert_eq!(outcome("{\"maxTries\":5,\"failures\":4}"), Outcome::Failed);
        assert_eq!(
            outcome("{\"maxTries\":0,\"failures\":400}"),
            Outcome::Again(7)
        );
        assert_eq!(outcome("{\"maxExceptions\":1}"), Outcome::Failed);
        for (backoff, pauses) in [
            ("5", [5, 5, 5]),
            ("\"1,2,5\"", [1, 2, 5]),
            ("[1,2]", [1, 2, 2]),
            ("\"x\"", [7, 7, 7]),
            ("null", [7, 7, 7]),
            ("[]", [7, 7, 7]),
        ] {
            for (failures, pause) in pauses.into_iter().enumerate() {
                let text =
                    format!("{{\"maxTries\":9,\"backoff\":{backoff},\"failures\":{failures}}}");
                assert_eq!(outcome(&text), Outcome::Again(pause), "{text}");
            }
        }
    }

    #[test]
    fn time_limits() {
        let args = args("");
        let slow = job("{\"failOnTimeout\":true}");
        assert_eq!(slow.outcome(How::Late, 0, &args), Outcome::Failed);
        assert!(matches!(
            slow.outcome(How::Ended, 0, &args),
            Outcome::Again(_)
        ));
        let until = job("{\"retryUntil\":100,\"failures\":50,\"maxTries\":1}");
        assert!(matches!(
            until.outcome(How::Ended, 99, &args),
            Outcome::Again(_)
        ));
        assert_eq!(until.outcome(How::Ended, 100, &args), Outcome::Failed);
        assert_eq!(until.is_over(51, 100, &args), None);
        assert!(until.is_over(51, 101, &args).is_some());
    }

    #[test]
    fn runs_that_never_end_are_not_failures_but_are_bounded() {
        let args = args("--tries 1 --lost 3");
        assert_eq!(job("{}").is_over(1, 0, &args), None);
        assert_eq!(job("{}").is_over(3, 0, &args), None);
        assert!(job("{}").is_over(4, 0, &args).is_some());
        assert_eq!(job("{\"failures\":3}").is_over(6, 0, &args), None);
        assert!(job("{\"failures\":3}").is_over(7, 0, &args).is_some());
    }

    #[test]
    fn what_is_no_job() {
        for text in ["", "x", "[]", "7", "{\"a\":}", "{} x"] {
            assert!(Job::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert_eq!(job("{\"id\":7}").id, "7");
        assert_eq!(job("{\"id\":\"a\\u001b\",\"uuid\":null}").id, "a");
        assert_eq!(job("{\"id\":[],\"failures\":\"2\"}").failures, 2);
    }
}
