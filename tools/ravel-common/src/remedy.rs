//! An error in words that say what to do about it.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::Path;

use ravel_records::{Error, ReportError};

use crate::machine::Machine;
use crate::screen::{STRONG, plain};

/// The command that loads the module.
pub const LOAD: &str = "sudo insmod ravel.ko";
/// The command that loads a module that is installed.
pub const LOAD_INSTALLED: &str = "sudo modprobe ravel";
/// The command that mounts debugfs.
pub const MOUNT: &str = "sudo mount -t debugfs none /sys/kernel/debug";
/// What makes the module and this program of one version again.
pub const REBUILD: &str = "make && sudo rmmod ravel && sudo insmod ravel.ko";

/// What went wrong, and what mends it.
#[derive(Debug, PartialEq, Eq)]
pub struct Remedy {
    /// What is wrong.
    pub sentence: String,
    /// A command, or what to do.
    pub mend: Option<String>,
}

impl Remedy {
    /// A sentence, and what mends it.
    pub fn new(sentence: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            sentence: sentence.into(),
            mend: Some(mend.into()),
        }
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)?;
        match &self.mend {
            Some(mend) => write!(f, "\n  try: {STRONG}{mend}{STRONG:#}"),
            None => Ok(()),
        }
    }
}

/// Explains why there is no report.
pub fn explain(error: &Error, machine: &Machine) -> Remedy {
    match error {
        Error::Report(error) => refused(error),
        Error::Io { path, source } => unreachable(path, source, machine),
        Error::Format { found, known } if found > known => Remedy::new(
            format!(
                "the module is newer than this program: it writes report format {found}, \
                 this program reads {known}"
            ),
            "make, and use the ravel that it builds",
        ),
        Error::Format { found, known } => Remedy::new(
            format!(
                "the module is older than this program: it writes report format {found}, \
                 this program reads {known}"
            ),
            REBUILD,
        ),
        Error::Mismatch(_) => Remedy::new(
            error.to_string(),
            "reports `lineage`, `anon_vma` and `cow` of one process",
        ),
        Error::Cut { .. } => Remedy::new(error.to_string(), "ask again"),
        Error::Parse { .. } => Remedy::new(
            format!("the module and this program disagree on the report: {error}"),
            REBUILD,
        ),
    }
}

/// The module answered, with an error.
fn refused(error: &ReportError) -> Remedy {
    let message = plain(&error.message);
    let whose = match error.pid {
        0 => String::new(),
        pid => format!("pid {pid}: "),
    };
    let sentence = format!("{whose}{message} ({})", error.errno);
    match error.errno.as_str() {
        "EBADF" => Remedy::new(
            sentence,
            "ls -l /proc/PID/fd, for the descriptors it has now",
        ),
        "ESRCH" => Remedy::new(sentence, "ps -e, for the processes there are now"),
        "EINVAL" => Remedy::new(
            sentence,
            "another pid; ps -e f shows kernel threads in brackets",
        ),
        "ENOMEM" => Remedy::new(sentence, "free -h, and ask again when memory is free"),
        _ => Remedy {
            sentence,
            mend: None,
        },
    }
}

/// The command that loads the module on this machine.
pub fn load(machine: &Machine) -> &'static str {
    match machine.module_file() {
        Some(_) => LOAD_INSTALLED,
        None => LOAD,
    }
}

/// The module could not be asked.
fn unreachable(path: &Path, source: &io::Error, machine: &Machine) -> Remedy {
    let shown = path.display();
    let denied = source.kind() == ErrorKind::PermissionDenied;
    if !machine.is_root && (denied || source.kind() == ErrorKind::NotFound) {
        return Remedy::new(
            format!("{shown} can be read by root alone"),
            "sudo ravel, with the same arguments",
        );
    }
    if denied {
        let lockdown = machine.lockdown().filter(|mode| mode != "none");
        let because = lockdown.map_or(String::new(), |mode| {
            format!(": the kernel is locked down ({mode})")
        });
        return Remedy::new(
            format!("the kernel lets nobody read {shown}{because}"),
            "ravel doctor",
        );
    }
    if source.kind() != ErrorKind::NotFound {
        return Remedy::new(format!("{shown}: {source}"), "ravel doctor");
    }
    if !machine.mounted("debugfs", "/sys/kernel/debug") {
        return Remedy::new("debugfs is not mounted", MOUNT);
    }
    if !machine.module_loaded() {
        return Remedy::new("the ravel module is not loaded", load(machine));
    }
    Remedy::new(
        format!("the ravel module is loaded, but {shown} is not there"),
        "ravel doctor",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use ravel_records::Text;
    use std::fs;

    fn machine(is_root: bool, files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let machine = Machine::new(folder.path(), is_root);
        (folder, machine)
    }

    fn io(errno: i32) -> Error {
        Error::Io {
            path: "/sys/kernel/debug/ravel/query".into(),
            source: io::Error::from_raw_os_error(errno),
        }
    }

    const MOUNTS: (&str, &str) = (
        "proc/mounts",
        "debugfs /sys/kernel/debug debugfs rw,nosuid 0 0\n",
    );

    #[test]
    fn what_is_missing_comes_in_order() {
        let (_folder, user) = machine(false, &[]);
        for errno in [2, 13] {
            let remedy = explain(&io(errno), &user);
            assert!(remedy.mend.unwrap().starts_with("sudo ravel"));
        }
        let (_folder, bare) = machine(true, &[]);
        assert_eq!(explain(&io(2), &bare).mend.unwrap(), MOUNT);
        let (_folder, mounted) = machine(true, &[MOUNTS]);
        assert_eq!(explain(&io(2), &mounted).mend.unwrap(), LOAD);
        let installed = [
            MOUNTS,
            ("proc/sys/kernel/osrelease", "7.3.4+deb13-amd64\n"),
            (
                "lib/modules/7.3.4+deb13-amd64/modules.dep",
                "kernel/fs/ext4/ext4.ko.xz: kernel/lib/crc16.ko.xz\nupdates/dkms/ravel.ko.xz:\n",
            ),
        ];
        let (_folder, installed) = machine(true, &installed);
        let remedy = explain(&io(2), &installed);
        assert_eq!(remedy.mend.unwrap(), LOAD_INSTALLED);
        let loaded = [MOUNTS, ("sys/module/ravel/refcnt", "0")];
        let (_folder, loaded) = machine(true, &loaded);
        assert_eq!(explain(&io(2), &loaded).mend.unwrap(), "ravel doctor");
        let locked = (
            "sys/kernel/security/lockdown",
            "none [integrity] confidentiality",
        );
        let (_folder, locked) = machine(true, &[MOUNTS, locked]);
        let remedy = explain(&io(1), &locked);
        assert!(remedy.sentence.ends_with("locked down (integrity)"));
    }

    #[test]
    fn both_ways_of_being_too_old() {
        let (_folder, machine) = machine(true, &[]);
        let newer = explain(&Error::Format { found: 2, known: 1 }, &machine);
        assert!(newer.sentence.contains("newer"), "{newer}");
        let older = explain(&Error::Format { found: 0, known: 1 }, &machine);
        assert_eq!(older.mend.unwrap(), REBUILD);
    }

    #[test]
    fn the_module_s_words_are_shown_safely() {
        let error = ReportError {
            report: "anon_vma".into(),
            pid: 7,
            errno: "ESRCH".into(),
            message: Text::from("it has exited\x1b"),
        };
        assert_eq!(
            refused(&error).sentence,
            "pid 7: it has exited\\u{1b} (ESRCH)"
        );
    }
}
