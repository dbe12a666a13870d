// SPDX-License-Identifier: GPL-2.0

//! Bytes that grow at their end, a few at a time.

#![deny(unsafe_code)]

use super::gfp;
use kernel::prelude::*;

/// How much more room is made at once: so many bytes at least are set to 0 before they are written, but only
/// where none were before.
const STEP: usize = 4096;

/// Bytes, the first `len` of those that there is room for.
///
/// A vector's own spare room cannot be written without `unsafe`, and its `extend_from_slice()` is long for the few
/// bytes of a field.
#[derive(Default)]
pub(super) struct Buffer {
    room: KVVec<u8>,
    len: usize,
}

impl Buffer {
    /// What was written.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.room[..self.len]
    }

    /// Forgets what was written after the first `len` bytes, and keeps the room.
    pub(super) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Returns how many bytes of memory it has.
    pub(super) fn capacity(&self) -> usize {
        self.room.capacity()
    }

    /// Frees its memory, with what was written.
    pub(super) fn free(&mut self) {
        *self = Self::default();
    }

    /// Takes the memory for so many more bytes in one step. Where that fails, less may do.
    pub(super) fn reserve(&mut self, bytes: usize) {
        let more = (self.len + bytes).saturating_sub(self.room.len());
        let _ = self.room.reserve(more, gfp());
    }

    /// Appends bytes: all, or none where there is no memory.
    #[inline(always)]
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result {
        let free = self.room.get_mut(self.len..);
        match free.and_then(|free| free.get_mut(..bytes.len())) {
            Some(free) => {
                copy_few(free, bytes);
                self.len += bytes.len();
                Ok(())
            }
            None => self.push_where_is_no_room(bytes),
        }
    }

    /// Returns room for so many bytes behind what was written.
    #[inline]
    pub(super) fn room(&mut self, bytes: usize) -> Result<&mut [u8]> {
        if self.room.len() - self.len < bytes {
            self.grow(bytes)?;
        }
        Ok(&mut self.room[self.len..])
    }

    /// So many bytes of the room were written.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.len = self.len.saturating_add(bytes).min(self.room.len());
    }

    #[cold]
    #[inline(never)]
    fn push_where_is_no_room(&mut self, bytes: &[u8]) -> Result {
        self.grow(bytes.len())?;
        let end = self.len + bytes.len();
        self.room[self.len..end].copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    /// Makes room for so many bytes.
    #[cold]
    #[inline(never)]
    fn grow(&mut self, bytes: usize) -> Result {
        let len = (self.len + bytes).next_multiple_of(STEP);
        Ok(self.room.resize(len, 0, gfp())?)
    }
}

/// Copies a slice of the same length, mostly of a few bytes, for which a call of memcpy() is long.
#[inline(always)]
pub(super) fn copy_few(to: &mut [u8], from: &[u8]) {
    /// In two pieces, which may overlap.
    #[inline(always)]
    fn pieces<const N: usize>(to: &mut [u8], from: &[u8]) {
        if let (Some(to), Some(from)) = (to.first_chunk_mut::<N>(), from.first_chunk()) {
            *to = *from;
        }
        if let (Some(to), Some(from)) = (to.last_chunk_mut::<N>(), from.last_chunk()) {
            *to = *from;
        }
    }
    match from.len() {
        0 => {}
        1 => pieces::<1>(to, from),
        2..4 => pieces::<2>(to, from),
        4..8 => pieces::<4>(to, from),
        8..17 => pieces::<8>(to, from),
        _ => to.copy_from_slice(from),
    }
}
