// SPDX-License-Identifier: GPL-2.0
//! Real servers of queues, and what stands in a queue.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use redis::{Client, Connection, FromRedisValue};

use crate::tier::patience;

/// What is told of a job that failed.
pub type Fields = Vec<(String, Vec<u8>)>;

/// A server, that is killed at the end.
pub struct Server {
    program: &'static str,
    port: u16,
    options: Vec<String>,
    folder: PathBuf,
    child: Option<Child>,
}

impl Server {
    /// Redis, that confirms nothing that is not on its disk.
    pub fn redis(port: u16) -> Result<Self> {
        Self::start(
            "redis-server",
            port,
            &["--appendonly", "yes", "--appendfsync", "always"],
        )
    }

    /// Redis or Valkey with options.
    pub fn start(program: &'static str, port: u16, options: &[&str]) -> Result<Self> {
        let folder = PathBuf::from(format!("/var/tmp/{program}-{port}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder)?;
        Self::start_in(program, port, options, &folder)
    }

    /// The same with what is in a folder, which goes at the end.
    pub fn start_in(
        program: &'static str,
        port: u16,
        options: &[&str],
        folder: &Path,
    ) -> Result<Self> {
        let mut server = Self {
            program,
            port,
            options: options.iter().map(|word| (*word).to_owned()).collect(),
            folder: folder.to_owned(),
            child: None,
        };
        server.again()?;
        Ok(server)
    }

    /// Starts it where it does not run.
    pub fn again(&mut self) -> Result<()> {
        let child = Command::new(self.program)
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--loglevel", "warning", "--dir"])
            .arg(&self.folder)
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("start a server")?;
        self.child = Some(child);
        let end = Instant::now() + patience(60);
        loop {
            // While it loads its file, it refuses.
            let answer = self
                .connect()
                .and_then(|mut connection| Ok(redis::cmd("DBSIZE").query::<u64>(&mut connection)?));
            match answer {
                Ok(_) => return Ok(()),
                Err(error) => ensure!(Instant::now() < end, "it does not answer: {error}"),
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills it: whether it ran.
    pub fn kill(&mut self) -> Result<bool> {
        let Some(mut child) = self.child.take() else {
            return Ok(false);
        };
        child.kill()?;
        Ok(child.wait()?.signal() == Some(libc::SIGKILL))
    }

    /// Whether it runs: it may have ended by itself.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(match &mut self.child {
            Some(child) => child.try_wait()?.is_none(),
            None => false,
        })
    }

    /// Its pid.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What clients call it.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// A connection.
    pub fn connect(&self) -> Result<Connection> {
        let client = Client::open(self.url())?;
        Ok(client.get_connection_with_timeout(Duration::from_secs(20))?)
    }

    /// What a command answers: its words, with blanks between.
    pub fn ask<T: FromRedisValue>(&self, words: &str) -> Result<T> {
        let mut words = words.split(' ');
        let mut command = redis::cmd(words.next().unwrap_or_default());
        for word in words {
            command.arg(word);
        }
        Ok(command.query(&mut self.connect()?)?)
    }

    /// Pushes a job as a foreign producer does, without telling anybody.
    pub fn push(&self, queue: &str, job: &[u8]) -> Result<()> {
        let mut command = redis::cmd("RPUSH");
        command.arg(format!("queues:{queue}")).arg(job);
        Ok(command.query(&mut self.connect()?)?)
    }

    /// How many jobs are ready, delayed, reserved, and failed.
    pub fn counts(&self, queue: &str) -> Result<[u64; 4]> {
        let mut all = redis::pipe();
        all.atomic();
        all.cmd("LLEN").arg(format!("queues:{queue}"));
        all.cmd("ZCARD").arg(format!("queues:{queue}:delayed"));
        all.cmd("ZCARD").arg(format!("queues:{queue}:reserved"));
        all.cmd("XLEN").arg(format!("queues:{queue}:ravel:failed"));
        Ok(all
            .query::<(u64, u64, u64, u64)>(&mut self.connect()?)?
            .into())
    }

    /// The jobs that failed: their fields by name.
    pub fn failed(&self, queue: &str) -> Result<Vec<Fields>> {
        type Entry = (String, Fields);
        let all: Vec<Entry> = self.ask(&format!("XRANGE queues:{queue}:ravel:failed - +"))?;
        Ok(all.into_iter().map(|(_, fields)| fields).collect())
    }

    /// All jobs that are ready.
    pub fn ready(&self, queue: &str) -> Result<Vec<Vec<u8>>> {
        self.ask(&format!("LRANGE queues:{queue} 0 -1"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.kill();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Laravel's own queue, by its PHP: `work`, `push`, `drain` and what they take.
pub fn laravel(what: &str, server: &Server, queue: &str, more: &[&str]) -> Result<Command> {
    // Of its own, for another test may read it just now.
    let path = PathBuf::from(format!("/tmp/laravel-{}.php", server.port));
    fs::write(&path, include_str!("laravel/laravel.php"))?;
    let mut command = Command::new("php");
    command
        .arg(path)
        .args([what, &server.port.to_string(), queue])
        .args(more);
    command.stdin(Stdio::null());
    Ok(command)
}

/// Waits until something is so.
pub fn until(what: &str, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + patience(60);
    while !so()? {
        if Instant::now() > end {
            bail!("it never comes to it that {what}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
