//! The command line of `ravel forward`, `work` and `jobs`. `ravel` describes them, and `ravel-queue` executes them.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Which queue.
#[derive(Debug, Args)]
pub struct QueueArgs {
    /// The queue; on a cluster a name with braces, such as '{events}'
    #[arg(long)]
    pub queue: String,
    /// The server: redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE] or redis+unix:///PATH; RAVEL_REDIS_URL, or
    /// redis://127.0.0.1/
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// A file that has the server's password, in place of the URL, which every process can read; or
    /// RAVEL_REDIS_PASSWORD
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// What stands before all keys, such as Laravel's REDIS_PREFIX
    #[arg(long, default_value = "", hide_default_value = true)]
    pub prefix: String,
}

/// `ravel forward`.
#[derive(Debug, Args)]
pub struct Forward {
    /// The stream
    #[arg(long)]
    pub stream: String,
    /// Which queue.
    #[command(flatten)]
    pub queue: QueueArgs,
    /// What a worker of Laravel's runs for each
    #[arg(long, value_name = "CLASS@METHOD", default_value = "RavelEvent@handle")]
    pub job: String,
    /// Acknowledge only what Redis has on its disk, too (WAITAOF)
    #[arg(long)]
    pub durable: bool,
    /// End after that many records, in place of going on for ever
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End when nothing is ready
    #[arg(long)]
    pub no_wait: bool,
    /// Seconds to be done with a batch in, before another reader gets it
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub lease: u32,
}

/// `ravel work`.
#[derive(Debug, Args)]
pub struct Work {
    /// Which queue.
    #[command(flatten)]
    pub queue: QueueArgs,
    /// Runs that may fail, 0 for any number; a job's own maxTries comes first
    #[arg(long, default_value_t = 3)]
    pub tries: u32,
    /// Seconds before each further run, with commas between; a job's own backoff comes first
    #[arg(
        long,
        value_name = "SECONDS",
        value_delimiter = ',',
        default_value = "1,10,60"
    )]
    pub backoff: Vec<u32>,
    /// Seconds that a run may take, 0 for any; a job's own timeout comes first
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u32,
    /// Seconds after which a job is another's if this program dies; it is renewed as long as the job runs
    #[arg(long, value_name = "SECONDS", default_value_t = 90)]
    #[arg(value_parser = clap::value_parser!(u64).range(5..=86_400))]
    pub retry_after: u64,
    /// Memory that a run and all that it starts may have
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    pub memory: Option<u64>,
    /// Runs that may be lost with their workers, before a job is taken to have failed
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub lost: u32,
    /// End after that many jobs, in place of going on for ever
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// End when no job is ready
    #[arg(long)]
    pub no_wait: bool,
    /// Start the command once: it reads each job from a line, and answers `done` or `failed WHY`
    #[arg(long)]
    pub keep: bool,
    /// Jobs that are taken ahead at most, and given to a command that is kept before it has answered others
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub prefetch: u32,
    /// What is run for each job, which it reads from standard input
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// `ravel jobs`.
#[derive(Debug, Args)]
pub struct Jobs {
    /// Which queue.
    #[command(flatten)]
    pub queue: QueueArgs,
    /// Print each as a JSON document on a line of its own
    #[arg(long, conflicts_with_all = ["retry", "clear"])]
    pub json: bool,
    /// List jobs of these states only, with commas between
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["retry", "clear", "id"])]
    pub state: Vec<State>,
    /// List that many of each state, 0 for all; by default 10, and all with --json
    #[arg(long, value_name = "N", conflicts_with_all = ["retry", "clear"])]
    pub limit: Option<u64>,
    /// Run those that failed again, as if they were new
    #[arg(long, conflicts_with = "clear")]
    pub retry: bool,
    /// Forget those that failed
    #[arg(long)]
    pub clear: bool,
    /// Only the failed job of this entry
    #[arg(long, value_name = "ENTRY", value_parser = entry)]
    pub id: Option<String>,
}

/// The state of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum State {
    /// It can be taken
    Ready,
    /// A worker has it
    Reserved,
    /// It waits for its time
    Delayed,
    /// It has failed
    Failed,
}

impl State {
    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Reserved => "reserved",
            Self::Delayed => "delayed",
            Self::Failed => "failed",
        }
    }
}

/// An entry's number, as the server gives it.
fn entry(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split('-').collect();
    match parts.as_slice() {
        [time, number] if time.parse::<u64>().is_ok() && number.parse::<u64>().is_ok() => {
            Ok(text.to_owned())
        }
        _ => Err("not an entry, such as 1732286410123-0".to_owned()),
    }
}
