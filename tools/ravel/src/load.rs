//! Loads the module that is installed, when root asks for what only the module can answer.

use std::env;
use std::process::{Command as Program, Stdio};

use ravel_common::output::warn;

use crate::cli::Command;
use crate::machine::Machine;

/// Returns whether the module has to be asked for the answer of a command.
fn asks_module(command: &Command) -> bool {
    match command {
        Command::Anon(args) => args.source.from.is_none(),
        Command::Sockets(args) => args.source.from.is_none(),
        Command::Skbs(args) => args.source.from.is_none(),
        Command::Skb(args) => args.from.is_none(),
        Command::Page(args) => args.source.from.is_none(),
        Command::Cow(args) => args.source.from.is_none(),
        Command::Tree(args) => args.source.from.is_none(),
        Command::Cost(args) => args.source.from.is_none(),
        Command::Sharers(args) => args.source.from.is_none(),
        Command::Who(args) => args.from.is_none(),
        Command::Stuck(args) => args.from.is_none(),
        Command::Graph(args) => args.from.is_none(),
        Command::Events(args) => args.read.is_none(),
        Command::Watch(_) | Command::Forward(_) => true,
        // These two report on the state as it is.
        Command::Doctor(_) | Command::Version => false,
        Command::Work(_) | Command::Jobs(_) => false,
        Command::Schema | Command::Completions { .. } => false,
    }
}

/// Loads the module if a command needs it, and says so. Without a module, or if it cannot be
/// loaded, the command itself explains what is missing.
pub fn on_demand(command: &Command, machine: &Machine) {
    // With the variable, the files are not those of this machine's module.
    let elsewhere = env::var_os("RAVEL_DEBUGFS").is_some();
    if elsewhere || !asks_module(command) || !machine.is_root || machine.module_loaded() {
        return;
    }
    let Some(file) = machine.module_file() else {
        return;
    };
    let loaded = Program::new("/sbin/modprobe")
        .arg("ravel")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    match loaded {
        Ok(status) if status.success() => warn(&format!(
            "loaded the kernel module {file} (sudo rmmod ravel unloads it)"
        )),
        Ok(status) => warn(&format!("modprobe ravel failed: {status}")),
        Err(error) => warn(&format!("cannot run /sbin/modprobe: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    #[test]
    fn saved_reports_need_no_module() {
        for (line, asks) in [
            ("ravel sockets 1", true),
            ("ravel sockets --from -", false),
            ("ravel stuck", true),
            ("ravel stuck --from x", false),
            ("ravel events list", true),
            ("ravel events --read spool", false),
            ("ravel watch", true),
            ("ravel forward --stream s --queue q", true),
            ("ravel work --queue q -- true", false),
            ("ravel doctor", false),
            ("ravel version", false),
            ("ravel completions bash", false),
        ] {
            let cli = Cli::parse_from(line.split(' '));
            assert_eq!(asks_module(&cli.command.unwrap()), asks, "{line}");
        }
    }
}
