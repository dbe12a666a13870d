//! Subcommands that are programs of their own.

use std::env;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use crate::remedy::Remedy;

/// Replaces this program by another that takes the same arguments: the one in the same directory, else the
/// first in PATH. Returns only if there is none.
pub fn run(name: &str) -> Remedy {
    let beside = env::current_exe()
        .ok()
        .and_then(|path| Some(path.parent()?.join(name)));
    let mut failure = None;
    for path in beside.into_iter().chain([PathBuf::from(name)]) {
        let error = Command::new(&path).args(env::args_os().skip(1)).exec();
        if error.kind() != ErrorKind::NotFound {
            failure.get_or_insert((path, error));
        }
    }
    match failure {
        Some((path, error)) => Remedy::new(
            format!("cannot run {}: {error}", path.display()),
            "reinstall ravel",
        ),
        None => Remedy::new(
            format!("{name} is neither beside ravel nor in PATH"),
            format!("install {name}, which `make` builds beside ravel"),
        ),
    }
}
