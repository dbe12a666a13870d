//! The machine that this runs on, as far as it decides whether ravel can.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

/// A machine, seen through its files.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
    /// Whether this program runs as root.
    pub is_root: bool,
}

/// What the kernel's configuration says of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Configured {
    /// Built in.
    Yes,
    /// Not built in.
    No,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        Self::new("/", rustix::process::geteuid().is_root())
    }

    /// A machine whose files are under `root`.
    pub fn new(root: impl Into<PathBuf>, is_root: bool) -> Self {
        Self {
            root: root.into(),
            is_root,
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn read(&self, path: &str) -> Option<String> {
        let bytes = fs::read(self.path(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// Whether a file is there.
    pub fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Release of the running kernel, such as `7.3.4+deb13-amd64`.
    pub fn release(&self) -> Option<String> {
        self.read("/proc/sys/kernel/osrelease")
    }

    /// This host's name.
    pub fn host(&self) -> Option<String> {
        self.read("/proc/sys/kernel/hostname")
    }

    /// The id of this boot.
    pub fn boot_id(&self) -> Option<String> {
        self.read("/proc/sys/kernel/random/boot_id")
    }

    /// Whether a file system of this type is mounted at this place.
    pub fn mounted(&self, kind: &str, place: &str) -> bool {
        let mounts = self.read("/proc/mounts").unwrap_or_default();
        mounts.lines().any(|line| {
            let mut words = line.split(' ').skip(1);
            words.next() == Some(place) && words.next() == Some(kind)
        })
    }

    /// Whether the module is loaded.
    pub fn module_loaded(&self) -> bool {
        self.has("/sys/module/ravel")
    }

    /// The file of the installed module that modprobe loads into the running kernel.
    pub fn module_file(&self) -> Option<String> {
        let folder = format!("/lib/modules/{}", self.release()?);
        let list = self.read(&format!("{folder}/modules.dep"))?;
        let mut files = list
            .lines()
            .filter_map(|line| Some(line.split_once(':')?.0));
        let file = files.find(|file| {
            let name = file.rsplit('/').next().unwrap_or_default();
            name.strip_prefix("ravel.ko")
                .is_some_and(|rest| matches!(rest, "" | ".xz" | ".zst" | ".gz"))
        })?;
        Some(format!("{folder}/{file}"))
    }

    /// Why the package ravel-dkms has built no module for the running kernel, as its build wrote
    /// it.
    pub fn dkms_reason(&self) -> Option<String> {
        let reason = self.read(&format!("/var/lib/ravel-dkms/{}", self.release()?))?;
        Some(reason).filter(|reason| !reason.is_empty())
    }

    /// The version of an installed Debian package.
    pub fn package(&self, name: &str) -> Option<String> {
        let status = self.read("/var/lib/dpkg/status")?;
        let package = status.split("\n\n").find(|package| {
            package
                .lines()
                .next()
                .and_then(|line| line.strip_prefix("Package: "))
                == Some(name)
        })?;
        let field = |name| package.lines().find_map(|line| line.strip_prefix(name));
        field("Status: ").filter(|status| status.ends_with(" installed"))?;
        field("Version: ").map(str::to_owned)
    }

    /// The lockdown in force, such as `integrity`; `none` where there is none, and no answer where
    /// the kernel does not tell.
    pub fn lockdown(&self) -> Option<String> {
        let modes = self.read("/sys/kernel/security/lockdown")?;
        let (_, rest) = modes.split_once('[')?;
        let (mode, _) = rest.split_once(']')?;
        Some(mode.to_owned())
    }

    /// Whether modules without a signature that the kernel trusts are refused.
    pub fn signatures_enforced(&self) -> Option<bool> {
        let flag = self.read("/sys/module/module/parameters/sig_enforce")?;
        Some(flag == "Y" || flag == "1")
    }

    /// The running kernel's configuration.
    pub fn config(&self) -> Option<Config> {
        let boot = self
            .release()
            .map(|release| format!("/boot/config-{release}"));
        if let Some((path, text)) = boot.and_then(|path| Some((path.clone(), self.read(&path)?))) {
            return Some(Config { path, text });
        }
        let path = "/proc/config.gz";
        let text = unzip(&self.path(path)).ok()?;
        Some(Config {
            path: path.to_owned(),
            text,
        })
    }
}

/// A kernel's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that it stands in.
    pub path: String,
    text: String,
}

impl Config {
    /// What it says of an option, by its full name.
    pub fn says(&self, option: &str) -> Configured {
        let yes = format!("{option}=y");
        match self.text.lines().any(|line| line.trim() == yes) {
            true => Configured::Yes,
            false => Configured::No,
        }
    }
}

fn unzip(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    GzDecoder::new(fs::File::open(path)?).read_to_string(&mut text)?;
    Ok(text)
}
