//! `ravel doctor`: what ravel needs of a machine, item by item, and the command that mends it.

use std::borrow::Cow;
use std::fmt::Write;

use ravel_records::client::Client;
use ravel_records::{Error, FORMAT};
use serde::Serialize;

use crate::machine::{Config, Configured, Machine};
use crate::remedy::{self, MOUNT, REBUILD, explain};
use crate::screen::{BAD, GOOD, NOTE, STRONG, pad, plain};

const NEW_KERNEL: &str =
    "sudo apt install -t trixie-backports linux-image-amd64, and boot that kernel";
const DISABLE_SECURE_BOOT: &str =
    "sudo mokutil --disable-validation, or boot without Secure Boot and without lockdown=";

/// How it stands with an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing to do.
    Ok,
    /// Reports will not work before it is mended.
    Missing,
    /// It cannot be seen from here.
    Unknown,
}

/// One thing that ravel needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Item {
    name: &'static str,
    state: State,
    found: String,
    mend: Option<Cow<'static, str>>,
}

impl Item {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Ok,
            found: found.into(),
            mend: None,
        }
    }

    fn missing(
        name: &'static str,
        found: impl Into<String>,
        mend: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            name,
            state: State::Missing,
            found: found.into(),
            mend: Some(mend.into()),
        }
    }

    fn unknown(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Unknown,
            found: found.into(),
            mend: None,
        }
    }

    /// Whether reports will not work for want of it.
    pub fn is_missing(&self) -> bool {
        self.state == State::Missing
    }
}

/// Looks at everything, in the order in which it is to be mended.
pub fn examine(machine: &Machine, client: &Client) -> Vec<Item> {
    let config = machine.config();
    let option = |name, option, why| configured(config.as_ref(), name, option, why);
    vec![
        kernel(machine),
        option("Rust", "CONFIG_RUST", "the module is written in Rust"),
        option(
            "memcg",
            "CONFIG_MEMCG",
            "it tells which process owns a memory",
        ),
        option("debugfs", "CONFIG_DEBUG_FS", "the module's files are there"),
        lockdown(machine),
        signatures(machine),
        mounted(machine),
        packages(machine),
        installed(machine),
        loaded(machine, client),
        events(machine, client),
        root(machine),
    ]
}

fn kernel(machine: &Machine) -> Item {
    let Some(release) = machine.release() else {
        return Item::unknown("kernel", "its release cannot be read");
    };
    let major = release.split('.').next().and_then(|text| text.parse().ok());
    match major {
        Some(7u32..) => Item::ok("kernel", release),
        Some(_) => Item::missing("kernel", format!("{release}, not 7.0 or later"), NEW_KERNEL),
        None => Item::unknown("kernel", release),
    }
}

fn configured(
    config: Option<&Config>,
    name: &'static str,
    option: &'static str,
    why: &'static str,
) -> Item {
    let Some(config) = config else {
        return Item::unknown(
            name,
            format!("{option}: neither /boot nor /proc has this kernel's configuration"),
        );
    };
    let path = &config.path;
    match config.says(option) {
        Configured::Yes => Item::ok(name, format!("{option}=y in {path}")),
        Configured::No => Item::missing(
            name,
            format!("{option} is not set in {path}; {why}"),
            NEW_KERNEL,
        ),
    }
}

fn lockdown(machine: &Machine) -> Item {
    match machine.lockdown().as_deref() {
        Some("none") => Item::ok("lockdown", "the kernel is not locked down"),
        Some(mode) => Item::missing(
            "lockdown",
            format!("{mode}: the kernel refuses unsigned modules and debugfs"),
            DISABLE_SECURE_BOOT,
        ),
        // Without the file there is no lockdown, if its file system is there.
        None if machine.mounted("securityfs", "/sys/kernel/security") => {
            Item::ok("lockdown", "this kernel has none")
        }
        None => Item::unknown("lockdown", "securityfs is not mounted"),
    }
}

fn signatures(machine: &Machine) -> Item {
    match machine.signatures_enforced() {
        Some(false) => Item::ok("signatures", "unsigned modules may be loaded"),
        Some(true) => Item::missing(
            "signatures",
            "unsigned modules are refused (module.sig_enforce)",
            "take module.sig_enforce from GRUB_CMDLINE_LINUX in /etc/default/grub, \
             sudo update-grub, and boot again",
        ),
        None => Item::unknown(
            "signatures",
            "the kernel does not say whether it asks for them",
        ),
    }
}

fn mounted(machine: &Machine) -> Item {
    match machine.mounted("debugfs", "/sys/kernel/debug") {
        true => Item::ok("mount", "debugfs is at /sys/kernel/debug"),
        false => Item::missing("mount", "debugfs is not mounted", MOUNT),
    }
}

/// Whether the packages are of one version, which is that of this program.
fn packages(machine: &Machine) -> Item {
    const NAME: &str = "packages";
    let here = env!("CARGO_PKG_VERSION");
    let command = machine.package("ravel");
    let module = machine.package("ravel-dkms");
    match (command.as_deref(), module.as_deref()) {
        (None, None) => Item::ok(
            NAME,
            "neither ravel nor ravel-dkms is installed as a package",
        ),
        (Some(command), None) => Item::missing(
            NAME,
            format!("ravel {command} without ravel-dkms, which has the module"),
            "sudo apt install ravel-dkms",
        ),
        // A program that was built from source beside it brings its own version.
        (None, Some(module)) => Item::ok(NAME, format!("ravel-dkms {module}")),
        (Some(command), Some(module)) if command != module => Item::missing(
            NAME,
            format!("ravel {command}, but ravel-dkms {module}"),
            "sudo apt install ravel ravel-dkms",
        ),
        (Some(command), Some(_)) if command != here => Item::missing(
            NAME,
            format!("ravel and ravel-dkms {command}, but this program is {here}"),
            "/usr/bin/ravel doctor",
        ),
        (Some(command), Some(_)) => Item::ok(NAME, format!("ravel and ravel-dkms {command}")),
    }
}

/// Whether DKMS has built the module for the running kernel.
fn installed(machine: &Machine) -> Item {
    const NAME: &str = "DKMS";
    if machine.package("ravel-dkms").is_none() {
        return Item::ok(NAME, "not used, because ravel-dkms is not installed");
    }
    let Some(release) = machine.release() else {
        return Item::unknown(NAME, "the kernel's release cannot be read");
    };
    if let Some(file) = machine.module_file() {
        return Item::ok(NAME, format!("the module of this kernel is {file}"));
    }
    let found = format!("there is no module for kernel {release}");
    let Some(reason) = machine.dkms_reason() else {
        return Item::missing(
            NAME,
            found,
            format!("sudo apt install linux-headers-{release}, or sudo dkms autoinstall"),
        );
    };
    // The reasons end with the command.
    match reason.split_once("; run: ") {
        Some((why, command)) => {
            Item::missing(NAME, format!("{found}: {why}"), format!("sudo {command}"))
        }
        None => Item::missing(
            NAME,
            format!("{found}: {reason}"),
            "sudo dkms autoinstall, and its log in /var/lib/dkms/ravel",
        ),
    }
}

fn loaded(machine: &Machine, client: &Client) -> Item {
    if !machine.module_loaded() {
        return Item::missing("module", "ravel is not loaded", remedy::load(machine));
    }
    let version = match client.version() {
        Ok(version) => version,
        Err(Error::Io { .. }) if !machine.is_root => {
            return Item::unknown("module", "ravel is loaded; root can ask for its version");
        }
        Err(error) => {
            let why = explain(&error, machine).sentence;
            return Item::missing("module", format!("ravel is loaded, but: {why}"), REBUILD);
        }
    };
    let found = format!(
        "ravel {}, report format {}",
        plain(&version.module),
        version.format
    );
    match version.format == FORMAT {
        true => Item::ok("module", found),
        false => Item::missing(
            "module",
            format!("{found}; this program reads format {FORMAT}"),
            REBUILD,
        ),
    }
}

/// The tracepoints and functions that streams of events hang on.
fn events(machine: &Machine, client: &Client) -> Item {
    if !machine.module_loaded() || !machine.is_root {
        return Item::unknown("events", "the loaded module tells root which there are");
    }
    let sources = match client.sources() {
        Ok(sources) => sources.sources,
        Err(error) => return Item::unknown("events", explain(&error, machine).sentence),
    };
    let names = |found| {
        let some = sources.iter().filter(move |source| source.found() == found);
        some.map(|source| format!("{} ({})", source.name, source.hooks()))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let missing = names(false);
    match missing.is_empty() {
        true => Item::ok("events", format!("sources {}", names(true))),
        false => Item::missing(
            "events",
            format!("this kernel lacks what a source hangs on: {missing}; streams cannot have it"),
            NEW_KERNEL,
        ),
    }
}

fn root(machine: &Machine) -> Item {
    match machine.is_root {
        true => Item::ok("root", "running as root"),
        false => Item::missing("root", "not root", "sudo ravel doctor"),
    }
}

/// The items as lines, each that is missing with what mends it below.
pub fn draw(items: &[Item]) -> String {
    let wide = items.iter().map(|item| item.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for item in items {
        let (style, word) = match item.state {
            State::Ok => (GOOD, "ok"),
            State::Missing => (BAD, "missing"),
            State::Unknown => (NOTE, "unknown"),
        };
        let word = format!("{style}{}{style:#}", pad(word, 7));
        let name = pad(item.name, wide);
        let _ = writeln!(text, "{word}  {name}  {}", item.found);
        if let Some(mend) = &item.mend {
            let indent = " ".repeat(wide + 11);
            let _ = writeln!(text, "{indent}try: {STRONG}{mend}{STRONG:#}");
        }
    }
    let missing = items.iter().filter(|item| item.is_missing()).count();
    let _ = match missing {
        0 => writeln!(text, "\nNothing is missing."),
        1 => writeln!(text, "\n1 thing is missing."),
        many => writeln!(text, "\n{many} things are missing."),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::fs;
    use std::io::Write as _;
    use std::path::Path;

    const MOUNTS: &str = "proc /proc proc rw 0 0\n\
        securityfs /sys/kernel/security securityfs rw 0 0\n\
        debugfs /sys/kernel/debug debugfs rw 0 0\n";
    const VERSION: &str = "version module=\"0.1.0\" kernel=\"7.3.4\" format=1\n";
    const CONFIG: &str = "CONFIG_RUST=y\nCONFIG_MEMCG=y\nCONFIG_DEBUG_FS=y\n";

    const SOURCES: &str = "source name=fork tracepoints=sched_process_fork functions=none missing=0\n\
        summary report=sources sources=1 missing=0 cut=0\n";
    const NO_SOURCES: &str = "source name=fork tracepoints=sched_process_fork functions=none missing=1\n\
        summary report=sources sources=1 missing=1 cut=0\n";

    const GOOD_MACHINE: [(&str, &str); 8] = [
        ("proc/sys/kernel/osrelease", "7.3.4+deb13-amd64\n"),
        ("proc/mounts", MOUNTS),
        ("boot/config-7.3.4+deb13-amd64", CONFIG),
        (
            "sys/kernel/security/lockdown",
            "[none] integrity confidentiality\n",
        ),
        ("sys/module/module/parameters/sig_enforce", "N\n"),
        ("sys/module/ravel/initstate", "live\n"),
        ("sys/kernel/debug/ravel/version", VERSION),
        ("sys/kernel/debug/ravel/sources", SOURCES),
    ];

    fn put(folder: &Path, path: &str, bytes: &[u8]) {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn look(files: &[(&str, &str)], is_root: bool) -> Vec<Item> {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            put(folder.path(), path, text.as_bytes());
        }
        let client = Client::new(folder.path().join("sys/kernel/debug/ravel"));
        examine(&Machine::new(folder.path(), is_root), &client)
    }

    /// The good machine with one file changed.
    fn changed(path: &str, text: &str) -> Vec<Item> {
        let mut files = GOOD_MACHINE;
        let file = files.iter_mut().find(|(name, _)| *name == path).unwrap();
        file.1 = text;
        look(&files, true)
    }

    fn missing(items: &[Item]) -> Vec<&str> {
        let missing = items.iter().filter(|item| item.is_missing());
        missing.map(|item| item.name).collect()
    }

    #[test]
    fn a_good_machine() {
        let items = look(&GOOD_MACHINE, true);
        assert!(
            items.iter().all(|item| item.state == State::Ok),
            "{items:?}"
        );
        assert_eq!(missing(&look(&GOOD_MACHINE, false)), ["root"]);
    }

    #[test]
    fn an_empty_machine() {
        let items = look(&[], false);
        assert_eq!(missing(&items), ["mount", "module", "root"]);
        insta::assert_snapshot!(anstream::adapter::strip_str(&draw(&items)).to_string());
    }

    #[test]
    fn one_thing_at_a_time() {
        for (path, text, name) in [
            ("proc/mounts", "", "mount"),
            (
                "boot/config-7.3.4+deb13-amd64",
                "CONFIG_MEMCG=y\nCONFIG_DEBUG_FS=y\n# CONFIG_RUST is not set\n",
                "Rust",
            ),
            (
                "boot/config-7.3.4+deb13-amd64",
                "CONFIG_RUST=y\nCONFIG_DEBUG_FS=y\nCONFIG_MEMCG_V1=y\n",
                "memcg",
            ),
            (
                "sys/kernel/security/lockdown",
                "none [integrity] confidentiality\n",
                "lockdown",
            ),
            (
                "sys/module/module/parameters/sig_enforce",
                "Y\n",
                "signatures",
            ),
            (
                "sys/kernel/debug/ravel/version",
                "version module=\"0.2.0\" kernel=\"7.3.4\" format=2\n",
                "module",
            ),
            ("sys/kernel/debug/ravel/version", "rubbish", "module"),
            ("sys/kernel/debug/ravel/sources", NO_SOURCES, "events"),
        ] {
            assert_eq!(missing(&changed(path, text)), [name], "{path}");
        }
        let old = changed("proc/sys/kernel/osrelease", "6.12.57+deb13-amd64\n");
        assert_eq!(missing(&old), ["kernel"]);
        // Its configuration is not there.
        assert_eq!(old[1].state, State::Unknown);
    }

    #[test]
    fn packages_and_their_module() {
        const STATUS: &str = "Package: ravel\nStatus: install ok installed\nVersion: 0.0.9\n\n\
            Package: ravel-dkms\nStatus: install ok installed\nVersion: 0.0.9\n";
        let release = "7.3.4+deb13-amd64";
        let here = STATUS.replace("0.0.9", env!("CARGO_PKG_VERSION"));
        let removed = here.replacen("install ok installed", "deinstall ok config-files", 1);
        let module = format!("lib/modules/{release}/modules.dep");
        let reason = format!("var/lib/ravel-dkms/{release}");
        let built = (module.as_str(), "updates/dkms/ravel.ko.xz:\n");
        let why = (
            reason.as_str(),
            "no source; run: apt install linux-source-7.3\n",
        );
        for (status, file, lacks) in [
            (here.as_str(), built, &[][..]),
            (&here, why, &["DKMS"]),
            (&here, ("none", ""), &["DKMS"]),
            (STATUS, built, &["packages"]),
            (
                &here.replacen("Version: ", "Version: 1", 1),
                built,
                &["packages"],
            ),
            (
                &here.replace("ravel-dkms", "other"),
                ("none", ""),
                &["packages"],
            ),
            (&removed, built, &[]),
            ("", ("none", ""), &[]),
        ] {
            let mut files = GOOD_MACHINE.to_vec();
            files.extend([("var/lib/dpkg/status", status), file]);
            let items = look(&files, true);
            assert_eq!(missing(&items), lacks, "{status} {file:?}");
            if file == why {
                let item = items.iter().find(|item| item.name == "DKMS").unwrap();
                assert!(item.found.ends_with(": no source"), "{}", item.found);
                let mend = item.mend.as_deref();
                assert_eq!(mend, Some("sudo apt install linux-source-7.3"));
            }
        }
    }

    #[test]
    fn a_zipped_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let mut zip = GzEncoder::new(Vec::new(), Compression::default());
        zip.write_all(CONFIG.as_bytes()).unwrap();
        put(folder.path(), "proc/config.gz", &zip.finish().unwrap());
        let machine = Machine::new(folder.path(), true);
        assert_eq!(
            machine.config().unwrap().says("CONFIG_RUST"),
            Configured::Yes
        );
        put(folder.path(), "proc/config.gz", b"not zipped");
        assert!(machine.config().is_none());
    }
}
