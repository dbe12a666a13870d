//! The address of a server, and the credentials to log in with. No message contains a password, in any form.

use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use ravel_common::remedy::Remedy;

/// The variable that has a password.
pub const PASSWORD: &str = "RAVEL_REDIS_PASSWORD";
/// The variable that has a URL.
pub const URL: &str = "RAVEL_REDIS_URL";

/// A server.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    /// Where it listens.
    pub place: Place,
    /// Its database.
    pub database: u32,
    /// The user to log in as; none: the default one.
    pub user: Option<String>,
    /// The password to log in with.
    pub password: Option<String>,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A host and a port.
    Tcp(String, u16),
    /// A unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(host, port) if host.contains(':') => write!(f, "redis://[{host}]:{port}"),
            Self::Tcp(host, port) => write!(f, "redis://{host}:{port}"),
            Self::Unix(path) => write!(f, "redis+unix://{}", path.display()),
        }
    }
}

const FORM: &str = "redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], or redis+unix:///PATH";
const ESCAPE: &str = "percent-escapes in the user and the password: %40 for @, %3A for :, %2F for /, %3F for ?, \
                      %23 for #, %25 for %; or --password-file";

impl Address {
    /// Reads the address that the command line and the environment give.
    pub fn of(url: Option<&str>, password_file: Option<&Path>) -> Result<Self, Remedy> {
        let variable = env::var(URL).ok();
        let (url, source) = match (url, &variable) {
            (Some(url), _) => (url, "--redis"),
            (None, Some(url)) => (url.as_str(), URL),
            (None, None) => ("redis://127.0.0.1/", "--redis"),
        };
        let mut address = Self::parse(url, source)?;
        if let Some(path) = password_file {
            address.password = Some(read(path)?);
        } else if address.password.is_none() {
            address.password = elsewhere()?;
        }
        if address.user.is_some() && address.password.is_none() {
            return Err(Remedy::new(
                format!("{source}: there is a user, and no password"),
                format!("--password-file FILE, or the variable {PASSWORD}"),
            ));
        }
        Ok(address)
    }

    fn parse(url: &str, source: &str) -> Result<Self, Remedy> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let refused = |why: &str, mend: &str| {
            // What follows the scheme may be a password, or a part of one.
            let shown = match scheme {
                "" => source.to_owned(),
                scheme => format!("{source} {scheme}://..."),
            };
            Remedy::new(format!("{shown}: {why}"), mend)
        };
        let parsed = match scheme {
            "redis" | "valkey" => parse_tcp(rest),
            "redis+unix" | "valkey+unix" | "unix" => parse_unix(rest),
            "rediss" | "valkeys" => {
                return Err(refused(
                    "TLS is not supported",
                    "a tunnel, such as stunnel or ssh -L, and redis:// to its near end",
                ));
            }
            _ => return Err(refused("it is not the URL of a server", FORM)),
        };
        parsed.map_err(|wrong| match wrong {
            Wrong::Form(why) => refused(why, FORM),
            Wrong::Escapes(why) => refused(why, ESCAPE),
        })
    }
}

/// What is wrong with a URL.
enum Wrong {
    Form(&'static str),
    Escapes(&'static str),
}

fn parse_tcp(rest: &str) -> Result<Address, Wrong> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if path.contains('@') {
        return Err(Wrong::Escapes("there is a /, ? or # before the @"));
    }
    let (login, place) = match authority.split_once('@') {
        Some((_, place)) if place.contains('@') => {
            return Err(Wrong::Escapes("there is more than one @"));
        }
        Some((login, place)) => (login, place),
        None => ("", authority),
    };
    let (user, password) = match login.split_once(':') {
        Some((_, password)) if password.contains(':') => {
            return Err(Wrong::Escapes("there is more than one : before the @"));
        }
        Some((user, password)) => (user, password),
        None => (login, ""),
    };
    let (host, port) = match place.strip_prefix('[') {
        Some(inside) => {
            let wrong = Wrong::Form("the host begins with [ and has no ]");
            let (host, port) = inside.split_once(']').ok_or(wrong)?;
            (host, port.strip_prefix(':').unwrap_or(port))
        }
        None => place.split_once(':').unwrap_or((place, "")),
    };
    let port = match port {
        "" => 6379,
        port => match port.parse() {
            Ok(port @ 1..) => port,
            _ => return Err(Wrong::Form("the port is not a number from 1 to 65535")),
        },
    };
    let host = match host {
        "" => "127.0.0.1",
        host => host,
    };
    let database = match path.strip_prefix('/').unwrap_or(path) {
        "" => 0,
        text => text
            .parse()
            .map_err(|_| Wrong::Form("what follows the / is not the number of a database"))?,
    };
    Ok(Address {
        place: Place::Tcp(host.to_owned(), port),
        database,
        user: filled(user)?,
        password: filled(password)?,
    })
}

fn parse_unix(rest: &str) -> Result<Address, Wrong> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    if !path.starts_with('/') {
        return Err(Wrong::Form("the path of the socket does not begin with /"));
    }
    let mut address = Address {
        place: Place::Unix(PathBuf::from(decoded(path)?)),
        database: 0,
        user: None,
        password: None,
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("db", number)) => {
                let wrong = Wrong::Form("db is not the number of a database");
                address.database = number.parse().map_err(|_| wrong)?;
            }
            Some(("user", user)) => address.user = filled(user)?,
            Some(("pass", password)) => address.password = filled(password)?,
            _ => {
                return Err(Wrong::Escapes(
                    "what follows the ? is not db=, user= or pass=",
                ));
            }
        }
    }
    Ok(address)
}

fn filled(text: &str) -> Result<Option<String>, Wrong> {
    Ok(match text {
        "" => None,
        text => Some(decoded(text)?),
    })
}

/// Replaces percent-escapes by what they stand for.
fn decoded(text: &str) -> Result<String, Wrong> {
    let wrong = || Wrong::Escapes("a % is not followed by two hexadecimal digits");
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(wrong());
        };
        bytes.extend(u8::try_from(16 * high + low));
    }
    String::from_utf8(bytes).map_err(|_| Wrong::Escapes("its escapes are not UTF-8"))
}

/// The password of the environment, or of systemd's credential `redis-password`.
fn elsewhere() -> Result<Option<String>, Remedy> {
    if let Ok(password) = env::var(PASSWORD) {
        return Ok(Some(password).filter(|password| !password.is_empty()));
    }
    let folder = env::var_os("CREDENTIALS_DIRECTORY");
    let path = folder.map(|folder| Path::new(&folder).join("redis-password"));
    match path.filter(|path| path.exists()) {
        Some(path) => read(&path).map(Some),
        None => Ok(None),
    }
}

fn read(path: &Path) -> Result<String, Remedy> {
    let text = fs::read_to_string(path).map_err(|error| {
        Remedy::new(
            format!("cannot read the password in {}: {error}", path.display()),
            "a file that has the password on its only line",
        )
    })?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> (String, u32, Option<String>, Option<String>) {
        match Address::parse(url, "--redis") {
            Ok(of) => (of.place.to_string(), of.database, of.user, of.password),
            Err(remedy) => panic!("{url}: {remedy}"),
        }
    }

    #[test]
    fn addresses_in_every_form() {
        let some = |text: &str| Some(text.to_owned());
        for (url, place, database, user, password) in [
            ("redis://", "redis://127.0.0.1:6379", 0, None, None),
            ("redis://host/2", "redis://host:6379", 2, None, None),
            ("redis://[::1]:7/", "redis://[::1]:7", 0, None, None),
            ("redis://:p@h:1", "redis://h:1", 0, None, some("p")),
            ("redis://me@h", "redis://h:6379", 0, some("me"), None),
            (
                "redis://al%40ice:S%40cret%2F1%25@h/",
                "redis://h:6379",
                0,
                some("al@ice"),
                some("S@cret/1%"),
            ),
            (
                "redis+unix:///run/a@b?db=3&user=u&pass=%3D%26",
                "redis+unix:///run/a@b",
                3,
                some("u"),
                some("=&"),
            ),
        ] {
            assert_eq!(
                parsed(url),
                (place.to_owned(), database, user, password),
                "{url}"
            );
        }
    }

    #[test]
    fn what_is_refused_is_explained_without_the_password() {
        for (url, mend) in [
            ("redis://:hunter@2@host/", "%40"),
            ("redis://:hunter/2@host/", "%2F"),
            ("redis://:hunter?2@host/", "%3F"),
            ("redis://:hunter#2@host/", "%23"),
            ("redis://:hunter:2@host/", "%3A"),
            ("redis://:hunter%@host/", "%25"),
            ("redis://:hunter%zz@host/", "%25"),
            ("redis://:hunter", "PORT"),
            ("redis://host?password=hunter", "PORT"),
            ("redis+unix:///run/x?password=hunter", "%3F"),
            ("redis+unix:///run/x?db=hunter", "PATH"),
            ("rediss://:hunter@host", "tunnel"),
            ("http://:hunter@host", "redis://"),
            (":hunter@host", "redis://"),
        ] {
            let remedy = Address::parse(url, "--redis").err();
            let said = remedy.map(|remedy| remedy.to_string()).unwrap_or_default();
            assert!(said.contains(mend), "{url}: {said}");
            assert!(!said.contains("hunter"), "{url}: {said}");
        }
    }

    #[test]
    fn passwords_in_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        for text in ["a b\n", "a b", "a b\r\n"] {
            fs::write(&path, text).unwrap();
            assert_eq!(read(&path).unwrap(), "a b");
        }
        assert!(read(&folder.path().join("none")).is_err());
    }
}
