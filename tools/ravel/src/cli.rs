//! The command line. `ravel.1` describes the same options, and a test compares the two.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

/// Shows the anon_vma chains, sockets and sk_buffs of a process, as the ravel kernel module reads
/// them.
#[derive(Debug, Parser)]
#[command(name = "ravel", arg_required_else_help = true)]
#[command(disable_version_flag = true)]
#[command(after_help = "Reports need root and the module: `ravel doctor` says what is missing.")]
pub struct Cli {
    /// Print the versions of this program and of the module
    #[arg(short = 'V', long)]
    pub version: bool,
    #[command(flatten)]
    pub color: colorchoice_clap::Color,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to show.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show which VMAs share anonymous memory: anon_vma chains and their members
    Anon(Anon),
    /// Show the state of the sockets among the descriptors
    Sockets(Source),
    /// Show the sk_buffs in the sockets' queues, with their header offsets
    Skbs(Skbs),
    /// Say what is missing on this machine, item by item, and how to mend it
    Doctor,
    /// Print the versions of this program and of the module
    Version,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Where a report comes from, and in which form it goes out.
#[derive(Debug, Args)]
pub struct Source {
    /// Process to show, by its number in this pid namespace; a thread's names its process
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    #[arg(required_unless_present = "from", conflicts_with = "from")]
    pub pid: Option<u32>,
    /// Show a report that was saved from the module's files instead, `-` for stdin
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// Print one JSON document, with the keys of the report format
    #[arg(long)]
    pub json: bool,
}

/// `ravel anon`.
#[derive(Debug, Args)]
pub struct Anon {
    #[command(flatten)]
    pub source: Source,
    /// Show every member of each anon_vma, not the first 8
    #[arg(long)]
    pub all: bool,
    /// Show the module's ids beside the short labels
    #[arg(long)]
    pub ids: bool,
}

/// `ravel skbs`.
#[derive(Debug, Args)]
pub struct Skbs {
    #[command(flatten)]
    pub source: Source,
    /// Show the raw values of unset offsets, too
    #[arg(long)]
    pub raw: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_holds() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_manual_names_everything() {
        let page = include_str!("../ravel.1");
        let manual = page.replace("\\-", "-");
        let mut commands = vec![Cli::command()];
        while let Some(command) = commands.pop() {
            let name = command.get_name();
            if name != "ravel" {
                assert!(manual.contains(&format!(".It Cm {name}")), "{name}");
            }
            for argument in command.get_arguments() {
                if let Some(long) = argument.get_long().filter(|long| *long != "help") {
                    assert!(manual.contains(&format!("Fl -{long}")), "{name} --{long}");
                }
            }
            commands.extend(command.get_subcommands().cloned());
        }
        for line in page.lines().filter(|line| line.starts_with(".It Cm ")) {
            let name = line[".It Cm ".len()..].split(' ').next();
            let name = name.unwrap_or_default();
            assert!(Cli::command().find_subcommand(name).is_some(), "{name}");
        }
    }
}
