//! The systemd unit and the container of a process, by the path of its cgroup.

use std::fmt;

use serde::Serialize;

/// Where a process runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Place {
    /// The innermost systemd unit.
    pub unit: Option<String>,
    /// The innermost container.
    pub container: Option<Container>,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Container {
    /// What made it, such as `docker`; `container` if the path does not say.
    pub runtime: &'static str,
    /// Its id, or its name where the runtime uses names.
    pub id: String,
    /// The pod that it belongs to, where it is one of Kubernetes'.
    pub pod: Option<String>,
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = ravel_records::visible(&self.id);
        // As the runtimes show ids.
        let short = match is_id(&self.id) {
            true => &id[..12],
            false => &id,
        };
        write!(f, "{} {short}", self.runtime)
    }
}

impl Container {
    /// Whether a name, or the beginning of an id, means this one.
    pub fn matches(&self, wanted: &str) -> bool {
        let begins = |id: &str| !wanted.is_empty() && id.starts_with(wanted);
        match is_id(&self.id) {
            true => begins(&self.id) || self.pod.as_deref().is_some_and(begins),
            false => self.id == wanted,
        }
    }
}

/// Whether a word is an id as runtimes give them: 64 hexadecimal digits.
fn is_id(word: &str) -> bool {
    word.len() == 64 && is_hex(word)
}

fn is_hex(word: &str) -> bool {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    word.bytes().all(digit)
}

/// What runtimes put before the id in the name of a container's cgroup.
const PREFIXES: [(&str, &str); 8] = [
    ("docker-", "docker"),
    ("libpod-", "podman"),
    ("crio-", "cri-o"),
    ("cri-containerd-", "containerd"),
    ("containerd-", "containerd"),
    ("nerdctl-", "containerd"),
    ("buildah-", "buildah"),
    ("crun-", "crun"),
];

/// Units that systemd names in a cgroup's path.
const UNITS: [&str; 5] = [".service", ".scope", ".mount", ".socket", ".swap"];

impl Place {
    /// Parses /proc/PID/cgroup. The path of the unified hierarchy decides; where that one names
    /// neither a unit nor a container, the others do.
    pub fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let path = |line: &str| {
            let mut parts = line.splitn(3, ':');
            let (number, controllers) = (parts.next()?.to_owned(), parts.next()?.to_owned());
            Some((number, controllers, parts.next()?.to_owned()))
        };
        let mut paths: Vec<_> = text.lines().filter_map(path).collect();
        // systemd's own hierarchy names units, those of controllers at least containers.
        paths
            .sort_by_key(|(number, controllers, _)| (number != "0", controllers != "name=systemd"));
        let mut place = Self::default();
        for (_, _, path) in &paths {
            let found = Self::of_path(path);
            place.unit = place.unit.or(found.unit);
            place.container = place.container.or(found.container);
        }
        place
    }

    fn of_path(path: &str) -> Self {
        let mut place = Self::default();
        let mut pod = None;
        let mut above = "";
        for part in path.split('/').filter(|part| !part.is_empty()) {
            if UNITS.iter().any(|kind| part.ends_with(kind)) {
                place.unit = Some(part.to_owned());
            }
            pod = pod_of(part).or(pod);
            if let Some((runtime, id)) = container(above, part, pod.is_some()) {
                place.container = Some(Container {
                    runtime,
                    id,
                    pod: pod.clone(),
                });
            }
            above = part;
        }
        place
    }

    /// Whether the unit is the one that a runtime made for the container.
    pub fn is_container_unit(&self) -> bool {
        let (Some(unit), Some(container)) = (&self.unit, &self.container) else {
            return false;
        };
        unescape(unit).contains(&container.id)
    }
}

/// The pod's uid of a part such as `pod1234-...` or `kubepods-burstable-pod1234_....slice`.
fn pod_of(part: &str) -> Option<String> {
    // containerd's driver for systemd puts the container behind it.
    let name = part.split(':').next().unwrap_or(part);
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let uid = match name.starts_with("kubepods") {
        true => name.rsplit_once("-pod")?.1,
        false => name.strip_prefix("pod")?,
    };
    let uid = uid.replace('_', "-");
    let digits = uid.replace('-', "");
    // A static pod has a hash of its file instead of a uid; both have 32 digits.
    (digits.len() == 32 && is_hex(&digits)).then_some(uid)
}

/// The container of a part of the path, by the part above it.
fn container(above: &str, part: &str, in_pod: bool) -> Option<(&'static str, String)> {
    // systemd and containerd's driver for it: SLICE:PREFIX:ID.
    let last = part.rsplit(':').next().unwrap_or(part);
    let name = last.strip_suffix(".scope").unwrap_or(last);
    let by_prefix = PREFIXES.iter().find_map(|(prefix, runtime)| {
        let id = name.strip_prefix(prefix).filter(|id| is_id(id))?;
        Some((*runtime, id.to_owned()))
    });
    if by_prefix.is_some() {
        return by_prefix;
    }
    if is_id(name) {
        let runtime = match (above, part.contains(":cri-containerd:")) {
            ("docker", _) => "docker",
            ("libpod_parent", _) => "podman",
            (_, true) => "containerd",
            _ if in_pod => "kubernetes",
            _ if part.contains(':') => "containerd",
            _ => "container",
        };
        return Some((runtime, name.to_owned()));
    }
    for prefix in ["lxc.payload.", "lxc.payload/"] {
        if let Some(id) = part.strip_prefix(prefix) {
            return Some(("lxc", id.to_owned()));
        }
    }
    if matches!(above, "lxc" | "lxc.payload") && !part.ends_with(".slice") {
        return Some(("lxc", part.to_owned()));
    }
    if let Some(id) = name.strip_prefix("machine-").filter(|_| part != name) {
        return Some(("machine", unescape(id)));
    }
    let nspawn = part.strip_suffix(".service")?;
    let id = nspawn.strip_prefix("systemd-nspawn@")?;
    Some(("machine", unescape(id)))
}

/// A name as systemd-escape(1) had it before: `\x2d` is a dash.
fn unescape(name: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = name;
    while let Some(at) = rest.find("\\x") {
        let byte = rest.get(at + 2..at + 4);
        let byte = byte.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[at + 4..];
            }
            None => {
                bytes.extend_from_slice(b"\\x");
                rest = &rest[at + 2..];
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}
