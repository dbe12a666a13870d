//! The sockets that a command line asks for.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use ravel_records::{Protocol, visible};

use crate::census::paths::{escaped, unescaped};

/// Names of ports.
const SERVICES: &str = "/etc/services";

/// The sockets that are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Bound to this port, at any address.
    Port(Port),
    /// Those that would receive what is sent to an address and a port.
    Address(Host, Port),
    /// The one with this inode.
    Inode(u64),
    /// Unix sockets that are bound to the file of this path.
    Path(PathBuf),
    /// Unix sockets that are bound to this abstract name, without the NUL before it.
    Abstract(Vec<u8>),
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// The protocol, if one was named.
    pub protocol: Option<Protocol>,
}

/// Where something is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An address, with the device by which it is reached.
    Ip(IpAddr, Option<String>),
    /// A name to be resolved.
    Name(String),
}

impl Port {
    fn of(text: &str, protocol: Option<Protocol>, services: &str) -> Option<Self> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = match is_number {
            true => text.parse().ok().filter(|number| *number != 0)?,
            false => service(text, protocol.as_ref(), services)?,
        };
        Some(Self { number, protocol })
    }

    /// Whether a socket's protocol was asked for.
    pub fn is_of(&self, protocol: &Protocol) -> bool {
        match &self.protocol {
            None => true,
            // MPTCP listens at ports of TCP.
            Some(Protocol::Tcp) => matches!(protocol, Protocol::Tcp | Protocol::Mptcp),
            Some(wanted) => wanted == protocol,
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.protocol {
            Some(protocol) => write!(f, "{}/{protocol}", self.number),
            None => self.number.fmt(f),
        }
    }
}

/// The port of a service, by the lines of /etc/services.
fn service(name: &str, protocol: Option<&Protocol>, services: &str) -> Option<u16> {
    let entry = |line: &str| {
        let mut words = line.split('#').next()?.split_ascii_whitespace();
        let first = words.next()?;
        let (port, of) = words.next()?.split_once('/')?;
        let is_named = first == name || words.any(|alias| alias == name);
        let is_of = protocol.is_none_or(|protocol| protocol.as_str() == of);
        (is_named && is_of).then(|| port.parse().ok())?
    };
    services.lines().find_map(entry)
}

const NONSENSE: &str = "none of PORT, HOST:PORT, inode:NUMBER, @NAME and the path of a \
                        unix socket; write ./NAME for a file here";

impl Wanted {
    /// What a word of the command line means.
    pub fn parse(word: &OsStr) -> Result<Self, String> {
        // Where there is no such file, there are no names.
        let services = std::fs::read_to_string(SERVICES).unwrap_or_default();
        Self::of(word, &services, |path| path.exists())
    }

    fn of(word: &OsStr, services: &str, exists: impl Fn(&Path) -> bool) -> Result<Self, String> {
        let bytes = word.as_bytes();
        if let Some(name) = bytes.strip_prefix(b"@") {
            return match unescaped(name)? {
                name if name.is_empty() => Err("an abstract name without a name".to_owned()),
                name => Ok(Self::Abstract(name)),
            };
        }
        let text = word.to_str().unwrap_or_default();
        let (plain, protocol) = match text.rsplit_once('/') {
            Some((plain, "tcp")) if !plain.contains('/') => (plain, Some(Protocol::Tcp)),
            Some((plain, "udp")) if !plain.contains('/') => (plain, Some(Protocol::Udp)),
            Some((plain, "sctp")) if !plain.contains('/') => (plain, Some(Protocol::Sctp)),
            _ => (text, None),
        };
        let port = |text: &str| Port::of(text, protocol.clone(), services);
        let is_path = || bytes.contains(&b'/') && protocol.is_none();
        if is_path() || plain.is_empty() && !bytes.is_empty() {
            return Ok(Self::Path(PathBuf::from(OsString::from_vec(
                bytes.to_vec(),
            ))));
        }
        let link = plain
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'));
        if let Some(inode) = link.or(plain.strip_prefix("inode:")) {
            let is_number = inode.bytes().all(|byte| byte.is_ascii_digit());
            let inode = inode.parse().ok().filter(|_| is_number);
            return inode
                .map(Self::Inode)
                .ok_or_else(|| "not an inode's number".to_owned());
        }
        if plain.parse::<std::net::Ipv6Addr>().is_ok()
            && port_of(plain).is_none_or(|(host, _)| host.parse::<IpAddr>().is_err())
        {
            return Err("an address without a port".to_owned());
        }
        let Some((host, digits)) = port_of(plain) else {
            return match port(plain) {
                Some(port) => Ok(Self::Port(port)),
                None if !plain.is_empty() && exists(Path::new(plain)) => {
                    Ok(Self::Path(plain.into()))
                }
                None => Err(NONSENSE.to_owned()),
            };
        };
        let port =
            port(digits).ok_or_else(|| match digits.bytes().all(|byte| byte.is_ascii_digit()) {
                true => "no port".to_owned(),
                false => format!("{SERVICES} has no service {digits:?}"),
            })?;
        match host {
            "" | "*" => Ok(Self::Port(port)),
            host => Ok(Self::Address(Host::of(host)?, port)),
        }
    }
}

/// The host and the port of `HOST:PORT`.
fn port_of(text: &str) -> Option<(&str, &str)> {
    text.rsplit_once(':')
}

impl Host {
    fn of(text: &str) -> Result<Self, String> {
        let inner = match text.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or("an address without its `]`")?,
            None => text,
        };
        let (ip, scope) = match inner.split_once('%') {
            Some((ip, scope)) => (ip, Some(scope.to_owned())),
            None => (inner, None),
        };
        if let Ok(ip) = ip.parse() {
            return Ok(Self::Ip(ip, scope));
        }
        let is_name = inner
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        match is_name && !inner.is_empty() && inner.len() == text.len() {
            true => Ok(Self::Name(inner.to_owned())),
            false => Err("neither an address nor the name of a host".to_owned()),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "port {port}"),
            Self::Address(Host::Ip(ip, None), port) => {
                SocketAddr::new(*ip, port.number).fmt(f)?;
                port.protocol.iter().try_for_each(|of| write!(f, "/{of}"))
            }
            Self::Address(Host::Ip(ip, Some(scope)), port) => {
                write!(f, "[{ip}%{}]:{port}", visible(scope))
            }
            Self::Address(Host::Name(name), port) => write!(f, "{name}:{port}"),
            Self::Inode(inode) => write!(f, "inode {inode}"),
            Self::Path(path) => f.write_str(&visible(&path.to_string_lossy())),
            Self::Abstract(name) => write!(f, "@{}", escaped(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &str = "# names\nhttp 80/tcp www # web\ndomain 53/tcp\ndomain 53/udp\n";

    fn of(word: &str) -> Result<Wanted, String> {
        Wanted::of(word.as_ref(), NAMES, |path| path == Path::new("a.sock"))
    }

    fn port(number: u16) -> Port {
        Port {
            number,
            protocol: None,
        }
    }

    #[test]
    fn sockets_in_any_words() {
        let is = |text: &str, wanted| assert_eq!(of(text), Ok(wanted), "{text}");
        let address = |text: &str| {
            let address: SocketAddr = text.parse().unwrap();
            Wanted::Address(Host::Ip(address.ip(), None), port(address.port()))
        };
        for one in ["80", ":80", "*:80", "http", "www", "*:http"] {
            is(one, Wanted::Port(port(80)));
        }
        let udp = Port {
            number: 53,
            protocol: Some(Protocol::Udp),
        };
        is("53/udp", Wanted::Port(udp.clone()));
        is("domain/udp", Wanted::Port(udp));
        is("127.0.0.1:80", address("127.0.0.1:80"));
        is("127.0.0.1:http", address("127.0.0.1:80"));
        for one in ["[::1]:80", "[0:0::1]:80", "::1:80", "[0:0:0:0:0:0:0:1]:80"] {
            is(one, address("[::1]:80"));
        }
        is(
            "localhost:80",
            Wanted::Address(Host::Name("localhost".into()), port(80)),
        );
        let scoped = Host::Ip("fe80::1".parse().unwrap(), Some("eth0".into()));
        is("[fe80::1%eth0]:80", Wanted::Address(scoped, port(80)));
        is("inode:4711", Wanted::Inode(4711));
        is("socket:[4711]", Wanted::Inode(4711));
        for path in ["/run/a:80", "./a", "../a", "a/b", "/", "/run/tcp"] {
            is(path, Wanted::Path(path.into()));
        }
        is("a.sock", Wanted::Path("a.sock".into()));
        is("@name", Wanted::Abstract(b"name".to_vec()));
        is("@a\\0{2}b", Wanted::Abstract(b"a\0\0b".to_vec()));
        for text in [
            "",
            ":",
            "0",
            "70000",
            "+80",
            "x",
            "a:b",
            "[::1:80",
            "[::1]",
            "::1",
            "inode:",
            "inode:x",
            "socket:[1",
            "@",
            "@\\",
            "a b:80",
            "localhost:",
            "[localhost]:80",
        ] {
            assert!(of(text).is_err(), "{text}: {:?}", of(text));
        }
    }

    #[test]
    fn what_is_shown_means_the_same() {
        for text in [
            "127.0.0.1:80",
            "[::1]:80",
            "[fe80::1%eth0]:80",
            "localhost:80",
            "@a\\0{100}",
            "/run/a",
            "[::1]:53/udp",
        ] {
            let wanted = of(text).unwrap();
            assert_eq!(of(&wanted.to_string()), Ok(wanted), "{text}");
        }
        assert_eq!(of("53/udp").unwrap().to_string(), "port 53/udp");
    }
}
