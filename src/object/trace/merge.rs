// SPDX-License-Identifier: GPL-2.0

//! A tournament among CPUs: whose oldest event is the oldest of all.
//!
//! Nothing of the kernel is used: the tools' own tests put this file through random histories.

use core::ops::DerefMut;

/// The time of a CPU that has nothing.
pub(crate) const NEVER: u64 = u64::MAX;

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A CPU's oldest, and its time.
    Now(usize, u64),
    /// All that there is has a later time than was asked for: the earliest of these times.
    Later(u64),
    /// There is nothing.
    Nothing,
}

/// The times of CPUs' oldest events, in arrays of whoever makes this.
pub(crate) struct Merge<T, W> {
    times: T,
    /// Of each match of the tournament, the CPU with the earliest time. Match 1 is the final, and
    /// the players of match `n` are the winners of `2 * n` and `2 * n + 1`, which are CPUs where
    /// there are no such matches.
    winners: W,
}

impl<T: DerefMut<Target = [u64]>, W: DerefMut<Target = [u32]>> Merge<T, W> {
    /// Returns how many winners there are room for with so many CPUs.
    pub(crate) fn matches(cpus: usize) -> usize {
        cpus.next_power_of_two()
    }

    /// Makes one of arrays: of as many times as there are CPUs, and of as many winners as
    /// [`Self::matches`] says.
    pub(crate) fn new(times: T, winners: W) -> Self {
        Self { times, winners }
    }

    /// Sets each CPU's time to what `time` gives of it.
    pub(crate) fn set_all(&mut self, mut time: impl FnMut(usize) -> u64) {
        for (cpu, of_cpu) in self.times.iter_mut().enumerate() {
            *of_cpu = time(cpu);
        }
        for at in (1..self.winners.len()).rev() {
            self.play(at);
        }
    }

    /// Sets a CPU's time.
    pub(crate) fn set(&mut self, cpu: usize, time: u64) {
        if let Some(of_cpu) = self.times.get_mut(cpu) {
            *of_cpu = time;
        }
        let mut at = cpu.wrapping_add(self.winners.len()) / 2;
        while at > 0 {
            self.play(at);
            at /= 2;
        }
    }

    /// Returns the oldest, if its time is not after `now`.
    pub(crate) fn next(&self, now: u64) -> Next {
        let cpu = self.winner(1);
        match self.time(cpu) {
            NEVER => Next::Nothing,
            time if time > now => Next::Later(time),
            time => Next::Now(cpu as usize, time),
        }
    }

    fn play(&mut self, at: usize) {
        let (one, other) = (self.winner(at << 1), self.winner((at << 1) | 1));
        let winner = if self.time(other) < self.time(one) {
            other
        } else {
            one
        };
        if let Some(place) = self.winners.get_mut(at) {
            *place = winner;
        }
    }

    /// The winner of a match; of those without one, the CPU that stands there.
    fn winner(&self, at: usize) -> u32 {
        match self.winners.get(at) {
            Some(winner) => *winner,
            None => at.wrapping_sub(self.winners.len()) as u32,
        }
    }

    fn time(&self, cpu: u32) -> u64 {
        self.times.get(cpu as usize).copied().unwrap_or(NEVER)
    }
}
