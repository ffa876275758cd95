//! The shuffle buffer: rows come out in random order and new ones take their places, so nothing is ever moved or copied
//! to make room.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// A fixed number of places for rows of width `d`.
pub(crate) struct ShuffleBuffer {
    pub rows: Vec<f32>,
    pub d: usize,
    /// Every place once: those in use first, then the free ones.
    pub places: Vec<u32>,
    pub used: usize,
}

impl ShuffleBuffer {
    /// None where the memory is not to be had, or the places are more than a `u32` counts.
    pub fn new(capacity: usize, d: usize) -> Option<Self> {
        let last = u32::try_from(capacity).ok()?;
        let mut rows: Vec<f32> = Vec::new();
        rows.try_reserve_exact(capacity.checked_mul(d)?).ok()?;
        rows.resize(capacity * d, 0.0);
        Some(Self {
            rows,
            d,
            places: (0..last).collect(),
            used: 0,
        })
    }

    pub fn free(&self) -> usize {
        self.places.len() - self.used
    }

    /// Puts a row into a free place.
    pub fn push(&mut self, row: &[f32]) {
        let place = self.places[self.used] as usize;
        self.used += 1;
        self.rows[place * self.d..][..self.d].copy_from_slice(row);
    }

    /// Takes `n` rows at random, without replacement, `[n, d]` flat.
    pub fn take(&mut self, n: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
        assert!(n <= self.used, "the caller fills the buffer first");
        let mut out = Vec::with_capacity(n * self.d);
        for _ in 0..n {
            let drawn = rng.random_range(0..self.used);
            self.used -= 1;
            self.places.swap(drawn, self.used);
            let place = self.places[self.used] as usize;
            out.extend_from_slice(&self.rows[place * self.d..][..self.d]);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn every_row_comes_out_once_in_another_order() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut buffer = ShuffleBuffer::new(100, 2).unwrap();
        let mut out = vec![];
        let mut next = 0;
        for _ in 0..20 {
            while buffer.free() > 0 {
                buffer.push(&[next as f32, -(next as f32)]);
                next += 1;
            }
            out.extend(buffer.take(30, &mut rng));
        }
        out.extend(buffer.take(buffer.used, &mut rng));
        assert!(out.chunks(2).all(|row| row[1] == -row[0]));
        let mut order: Vec<usize> = out.chunks(2).map(|row| row[0] as usize).collect();
        assert_ne!(order, (0..next).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..next).collect::<Vec<_>>());
    }
}
