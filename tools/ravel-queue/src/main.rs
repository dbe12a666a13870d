//! `ravel-queue`: `ravel forward`, `ravel work` and `ravel jobs`.
//!
//! A program of its own, so that the diagnostic commands, which run as root, link no client of a network service.

mod cli;
mod clock;
mod forward;
mod jobs;
mod queue;
mod work;

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use ravel_common::output::warn;
use ravel_common::remedy::Remedy;
use ravel_common::stop;
use ravel_records::client::Client;

use cli::{Cli, Command, QueueArgs};
use queue::address::Address;
use queue::keys::Keys;
use queue::link::Link;

/// Why a command did not succeed.
enum Failure {
    /// Explained, with a remedy.
    Explained(Remedy),
    /// The output could not be written, or a system call failed.
    Output(io::Error),
}

impl From<Remedy> for Failure {
    fn from(remedy: Remedy) -> Self {
        Self::Explained(remedy)
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.color.write_global();
    let result = match &cli.command {
        Command::Forward(args) => stop::undisturbed(|| forward::run(args, &Client::from_env())),
        Command::Work(args) => stop::undisturbed(|| work::run(args)),
        Command::Jobs(args) => jobs::run(args),
        Command::GuardJobs => work::guard::run().map_err(Failure::Output),
    };
    match result {
        Ok(()) => return ExitCode::SUCCESS,
        // The reader of the output has closed it.
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        Err(Failure::Explained(remedy)) => warn(&remedy.to_string()),
        Err(Failure::Output(error)) => warn(&format!("cannot write: {error}")),
    }
    ExitCode::FAILURE
}

/// Connects to the server of a queue.
fn open(args: &QueueArgs, patience: Duration, keys: &Keys) -> Result<Link, Remedy> {
    let address = Address::of(args.redis.as_deref(), args.password_file.as_deref())?;
    Link::open(address, patience, keys.share_a_slot())
}
