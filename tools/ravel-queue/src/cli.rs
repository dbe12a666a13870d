//! The command line: the part of `ravel`'s that this program executes.

use clap::{Parser, Subcommand};
pub use ravel_common::queue_cli::{Forward, Jobs, QueueArgs, Work};

/// Forwards events to a queue in Redis or Valkey, and runs a queue's jobs.
#[derive(Debug, Parser)]
#[command(
    name = "ravel-queue",
    bin_name = "ravel",
    version,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Accepted because `ravel` passes its options on; this program never loads the module
    #[arg(long, global = true, hide = true)]
    pub no_load: bool,
    #[command(flatten)]
    pub color: colorchoice_clap::Color,
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Push a stream's events to a queue in Redis or Valkey, as jobs
    Forward(Forward),
    /// Run a command for each job of a queue in Redis or Valkey
    Work(Work),
    /// List the jobs of a queue by their states, and retry or forget those that failed
    Jobs(Jobs),
    /// Wait for the end of standard input, then kill the own process group; `work` runs it
    #[command(hide = true)]
    GuardJobs,
}
