//! Commands on this machine and on this program.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;
use ravel_records::describe::json_schema;
use ravel_records::{FORMAT, json};
use serde::Serialize;

use crate::cli::{self, Cli};
use crate::command::{Context, FINDINGS, Failure, Show};
use crate::doctor::{self, Item};
use crate::machine::Machine;
use crate::screen::Screen;
use crate::{output, remedy, screen};

/// The answer of `ravel doctor`.
#[derive(Serialize)]
pub struct Checked {
    items: Vec<Item>,
}

impl Show for cli::Doctor {
    type Model = Checked;

    fn json(&self) -> bool {
        self.json
    }

    fn live(&self) -> bool {
        true
    }

    fn model(&self, context: &Context) -> Result<Checked, Failure> {
        Ok(Checked {
            items: doctor::examine(&Machine::here(), &context.client),
        })
    }

    fn text(&self, checked: &Checked, _screen: &Screen) -> Result<String, Failure> {
        Ok(doctor::draw(&checked.items))
    }

    fn status(&self, checked: &Checked) -> ExitCode {
        match self.exit_code && checked.items.iter().any(Item::is_missing) {
            true => ExitCode::from(FINDINGS),
            false => ExitCode::SUCCESS,
        }
    }
}

/// Prints the JSON Schema of all records.
pub fn schema() -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    json::write_document(&mut text, &json_schema()).map_err(Failure::Output)?;
    output::write(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints this program's version, and the module's where it is loaded.
pub fn version(context: &Context) -> Result<ExitCode, Failure> {
    let cli = env!("CARGO_PKG_VERSION");
    let module = match context.client.version() {
        Ok(version) => format!(
            "{}, report format {}, on Linux {}",
            screen::plain(&version.module),
            version.format,
            screen::plain(&version.kernel)
        ),
        Err(error) => format!(
            "unknown: {}",
            remedy::explain(&error, &Machine::here()).sentence
        ),
    };
    output::print(&format!(
        "ravel {cli}, report format {FORMAT}\nmodule {module}\n"
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints a completion script.
pub fn completions(shell: Shell) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ravel", &mut script);
    output::write(&script)?;
    Ok(ExitCode::SUCCESS)
}
