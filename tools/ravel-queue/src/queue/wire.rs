//! A connection on which nothing takes longer than a deadline, neither the resolver, nor the connection, nor an
//! answer.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use redis::{Cmd, FromRedisValue, Parser, RedisResult, Script, Value};
use rustix::net::sockopt::{set_socket_keepalive, set_tcp_user_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::address::{Address, Place};
use crate::clock::Moment;

/// For how long the kernel sends again what a server does not confirm. After that, what was written to a connection
/// that this program has closed arrives no more.
pub const UNCONFIRMED: Duration = Duration::from_secs(20);

/// After that the server's time is asked for again.
const DRIFT: Duration = Duration::from_secs(300);

/// A connection.
pub struct Wire {
    stream: Timed,
    parser: Parser,
    /// The server's time, and when it was asked for.
    time: Option<(u64, Moment)>,
}

impl Wire {
    /// Connects, and logs in.
    pub fn connect(address: &Address, place: &Place, deadline: Moment) -> RedisResult<Self> {
        let stream = match place {
            Place::Tcp(host, port) => Stream::Tcp(connect_tcp(host, *port, deadline)?),
            Place::Unix(path) => Stream::Unix(connect_unix(path)?),
        };
        let mut wire = Self {
            stream: Timed {
                stream,
                deadline,
                timeouts: [None; 2],
            },
            parser: Parser::new(),
            time: None,
        };
        if let Some(password) = &address.password {
            let mut auth = redis::cmd("AUTH");
            auth.arg(&address.user).arg(password);
            wire.query::<()>(&auth)?;
        }
        if address.database > 0 {
            wire.query::<()>(redis::cmd("SELECT").arg(address.database))?;
        }
        let asked = Moment::now();
        match wire.query::<(u64, u64)>(&redis::cmd("TIME")) {
            Ok((seconds, _)) => wire.time = Some((seconds, asked)),
            Err(error) if error.code() == Some("NOAUTH") || error.is_io_error() => {
                return Err(error);
            }
            // It loads its data, or this user may not ask.
            Err(_) => {}
        }
        Ok(wire)
    }

    /// Sets until when what follows has to be over.
    pub fn limit(&mut self, deadline: Moment) {
        self.stream.deadline = deadline;
    }

    /// Asks for the server's time anew where that was long ago: clocks drift.
    pub fn know_time(&mut self) -> RedisResult<()> {
        let asked = Moment::now();
        let is_known = self
            .time
            .is_none_or(|(_, before)| asked.since(before) < DRIFT);
        if !is_known {
            let (seconds, _) = self.query::<(u64, u64)>(&redis::cmd("TIME"))?;
            self.time = Some((seconds, asked));
        }
        Ok(())
    }

    /// Returns the time, by the server's clock, at a moment of the local clock; none if it is unknown.
    pub fn server_time(&self, moment: Moment) -> Option<u64> {
        let (seconds, asked) = self.time?;
        Some(seconds.saturating_add(moment.since(asked).as_secs()))
    }

    /// Sends a command, and waits for its answer.
    pub fn query<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        self.stream.write_all(&command.get_packed_command())?;
        let value: Value = self.parser.parse_value(&mut self.stream)?;
        Ok(T::from_redis_value(value.extract_error()?)?)
    }

    /// Runs a script, which is sent whenever the server does not know it.
    pub fn eval<T: FromRedisValue>(&mut self, code: &Code, call: &Call) -> RedisResult<T> {
        let sha = code.script.get_hash();
        match self.query(&call.command("EVALSHA", sha)) {
            Err(error) if error.code() == Some("NOSCRIPT") => {
                self.query(&call.command("EVAL", code.text))
            }
            answer => answer,
        }
    }
}

/// A script.
pub struct Code {
    text: &'static str,
    script: Script,
}

impl Code {
    /// Of that text.
    pub fn new(text: &'static str) -> Self {
        Self {
            script: Script::new(text),
            text,
        }
    }
}

/// What a script is called with.
#[derive(Default)]
pub struct Call {
    keys: Vec<String>,
    arguments: Vec<Vec<u8>>,
}

impl Call {
    /// With these keys.
    pub fn new(keys: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            keys: keys.into_iter().map(Into::into).collect(),
            arguments: Vec::new(),
        }
    }

    /// Adds a number.
    pub fn number(self, number: u64) -> Self {
        self.bytes(number.to_string())
    }

    /// Adds an argument.
    pub fn bytes(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.arguments.push(bytes.into());
        self
    }

    /// Adds arguments.
    pub fn all(mut self, all: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        self.arguments.extend(all.into_iter().map(Into::into));
        self
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let mut command = redis::cmd(name);
        command.arg(script).arg(self.keys.len());
        for key in &self.keys {
            command.arg(key);
        }
        for argument in &self.arguments {
            command.arg(argument.as_slice());
        }
        command
    }
}

fn timed_out() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "no answer in time")
}

fn connect_tcp(host: &str, port: u16, deadline: Moment) -> io::Result<TcpStream> {
    let mut last = None;
    for address in resolve(host, port, deadline)? {
        let left = deadline.left();
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                set_socket_keepalive(&stream, true)?;
                let ms = u32::try_from(UNCONFIRMED.as_millis()).unwrap_or(u32::MAX);
                set_tcp_user_timeout(&stream, ms)?;
                return Ok(stream);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(timed_out))
}

/// Resolves a name. The C library's resolver knows no deadline: a thread waits for it, and is left behind.
fn resolve(host: &str, port: u16, deadline: Moment) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let (send, receive) = mpsc::channel();
    let name = host.to_owned();
    thread::Builder::new().spawn(move || {
        let found = (name.as_str(), port).to_socket_addrs();
        // Nobody may be waiting any more.
        let _ = send.send(found.map(Vec::from_iter));
    })?;
    receive
        .recv_timeout(deadline.left())
        .unwrap_or_else(|_| Err(timed_out()))
}

/// Connects to a unix socket, without waiting where its backlog is full.
fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A stream on which each operation ends at the deadline.
struct Timed {
    stream: Stream,
    deadline: Moment,
    /// The timeouts that the socket has now, for reading and for writing.
    timeouts: [Option<Duration>; 2],
}

impl Timed {
    /// Sets the socket's timeout to the deadline. One that is slightly shorter is kept, which saves a system call.
    fn arm(&mut self, which: usize) -> io::Result<()> {
        let left = self.deadline.left();
        if left.is_zero() {
            return Err(timed_out());
        }
        if self.timeouts[which].is_some_and(|set| set <= left && set >= left.mul_f32(0.8)) {
            return Ok(());
        }
        let time = Some(left.mul_f32(0.9).max(Duration::from_millis(1)));
        match (&self.stream, which) {
            (Stream::Tcp(stream), 0) => stream.set_read_timeout(time)?,
            (Stream::Tcp(stream), _) => stream.set_write_timeout(time)?,
            (Stream::Unix(stream), 0) => stream.set_read_timeout(time)?,
            (Stream::Unix(stream), _) => stream.set_write_timeout(time)?,
        }
        self.timeouts[which] = time;
        Ok(())
    }

    /// Repeats what timed out before the deadline.
    fn until_deadline(
        &mut self,
        which: usize,
        mut operation: impl FnMut(&mut Stream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            self.arm(which)?;
            match operation(&mut self.stream) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
    }
}

impl Read for Timed {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.until_deadline(0, |stream| match stream {
            Stream::Tcp(stream) => stream.read(bytes),
            Stream::Unix(stream) => stream.read(bytes),
        })
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.until_deadline(1, |stream| match stream {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
