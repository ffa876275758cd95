//! Numbers that begin with a cache line.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line, and of the widest vectors.
const LINE: usize = 64;

/// A vector of integers whose first one begins a cache line, whatever the allocator does. Vectors
/// and rows of tiles that lie across two lines take several times as long to load.
pub(crate) struct Aligned<N> {
    memory: Vec<N>,
    start: usize,
    len: usize,
}

impl<N: Copy> Aligned<N> {
    /// `len` times `number`.
    pub fn new(len: usize, number: N) -> Self {
        Self::within(vec![number; len + LINE / size_of::<N>()], len)
    }

    /// `len` numbers in `memory`, if it is large enough: whatever it has there, and `number` behind
    /// that. Otherwise as [`Self::new`].
    pub fn reusing(mut memory: Vec<N>, len: usize, number: N) -> Self {
        let needed = len + LINE / size_of::<N>();
        if memory.capacity() < needed {
            return Self::new(len, number);
        }
        memory.resize(needed, number);
        Self::within(memory, len)
    }

    fn within(memory: Vec<N>, len: usize) -> Self {
        let start = memory.as_ptr().align_offset(LINE);
        assert!(start + len <= memory.len());
        Self { memory, start, len }
    }

    /// For [`Self::reusing`].
    pub fn into_memory(self) -> Vec<N> {
        self.memory
    }
}

impl<N> Deref for Aligned<N> {
    type Target = [N];

    fn deref(&self) -> &[N] {
        &self.memory[self.start..][..self.len]
    }
}

impl<N> DerefMut for Aligned<N> {
    fn deref_mut(&mut self) -> &mut [N] {
        &mut self.memory[self.start..][..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_begin_with_a_line_also_in_memory_that_was_used_before() {
        let mut memory = vec![];
        for len in [0, 1, 63, 64, 1000, 70_000, 999] {
            let mut numbers = Aligned::reusing(memory, len, 3i16);
            assert_eq!(numbers.len(), len);
            assert!(numbers.as_ptr().addr().is_multiple_of(LINE));
            assert!(numbers.iter().all(|n| *n == 3));
            numbers.fill(3);
            memory = numbers.into_memory();
        }
    }
}
