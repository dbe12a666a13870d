//! `ravel`: shows what the ravel kernel module reads of processes, as text and as JSON.

mod census;
mod cli;
mod clock;
mod command;
mod commands;
mod connections;
mod cost;
mod doctor;
mod epoll;
mod events;
mod family;
mod graph;
mod identity;
mod load;
mod output;
mod packet;
mod proc;
mod shared;
mod spool;
mod stuck;
mod subcommand;
mod sweep;
mod syscall;
mod view;
mod watch;
mod who;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use ravel_common::{machine, origin, remedy, screen, stop};
use ravel_records::client::Client;

use cli::{Cli, Command};
use command::{Context, Failure};
use output::{has_colours, print, write};
use screen::Screen;

fn main() -> ExitCode {
    let cli = Cli::parse();
    cli.color.write_global();
    match run(cli) {
        Ok(code) => code,
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            // There is nobody to inform if standard error is closed as well.
            let _ = writeln!(anstream::stderr(), "ravel: {}", failure.explain());
            failure.status()
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let context = Context {
        client: Client::from_env(),
        screen: Screen::of_stdout(),
    };
    let client = &context.client;
    let command = match cli.command {
        Some(command) if !cli.version => command,
        _ => Command::Version,
    };
    if !cli.no_load {
        load::on_demand(&command, &machine::Machine::here());
    }
    match command {
        Command::Anon(args) => return context.show(&args),
        Command::Sockets(args) => return context.show(&args),
        Command::Skbs(args) => return context.show(&args),
        Command::Skb(args) => return context.show(&args),
        Command::Page(args) => return context.show(&args),
        Command::Cow(args) => return context.show(&args),
        Command::Tree(args) => return context.show(&args),
        Command::Cost(args) => return context.show(&args),
        Command::Sharers(args) => return context.show(&args),
        Command::Who(args) => return context.show(&args),
        Command::Doctor(args) => return context.show(&args),
        Command::Stuck(args) => return commands::sockets::stuck(&context, &args),
        Command::Graph(args) => return commands::memory::graph(&context, &args),
        Command::Version => return commands::machine::version(&context),
        Command::Schema => return commands::machine::schema(),
        Command::Completions { shell } => return commands::machine::completions(shell),
        Command::Events(command) => events::run(&command, client)?,
        Command::Forward(_) | Command::Work(_) | Command::Jobs(_) => {
            return Err(Failure::Events(subcommand::run("ravel-queue")));
        }
        Command::Watch(args) => watch::run(&args, client)?,
    }
    Ok(ExitCode::SUCCESS)
}
