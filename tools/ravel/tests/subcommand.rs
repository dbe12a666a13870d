//! `ravel forward`, `work` and `jobs` are executed by `ravel-queue`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

const WORDS: [&str; 5] = ["--color", "never", "jobs", "--queue", "q w"];

/// Keeps tests apart: a child that one of them forks has the descriptors of files that another
/// writes, and these cannot be executed meanwhile (ETXTBSY).
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn install(folder: &Path, says: &str) {
    let path = folder.join("ravel-queue");
    let script = format!("#!/bin/sh\necho {says}\nprintf '%s\\n' \"$@\"\nexit 7\n");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn run(ravel: &Path, path: &Path) -> Output {
    let mut command = Command::new(ravel);
    command.args(WORDS).env("PATH", path);
    command.output().unwrap()
}

#[test]
fn is_found_beside_ravel_then_in_path() {
    let _alone = alone();
    let (beside, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ravel = beside.path().join("ravel");
    fs::copy(env!("CARGO_BIN_EXE_ravel"), &ravel).unwrap();

    let missing = run(&ravel, elsewhere.path());
    assert_eq!(missing.status.code(), Some(1));
    let text = String::from_utf8(missing.stderr).unwrap();
    assert!(
        text.starts_with("ravel: ravel-queue is neither beside ravel nor in PATH\n  try: "),
        "{text}"
    );

    for (folder, says) in [(&elsewhere, "elsewhere"), (&beside, "beside")] {
        install(folder.path(), says);
        let found = run(&ravel, elsewhere.path());
        assert_eq!(found.status.code(), Some(7));
        let text = String::from_utf8(found.stdout).unwrap();
        assert_eq!(text, format!("{says}\n{}\n", WORDS.join("\n")));
    }
}

#[test]
fn wrong_arguments_are_refused_without_it() {
    let _alone = alone();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ravel"));
    let output = command.args(["work", "--queue", "q"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}
