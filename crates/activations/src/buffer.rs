//! The shuffle buffer: rows come out in random order and new ones take their places, so nothing is
//! ever moved or copied to make room.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// A fixed number of places for rows. A row has one part a hook point, side by side.
pub(crate) struct ShuffleBuffer {
    pub rows: Vec<f32>,
    /// Widths of the parts.
    pub widths: Vec<usize>,
    /// Every place once: those in use first, then the free ones.
    pub places: Vec<u32>,
    pub used: usize,
}

impl ShuffleBuffer {
    /// None where the memory is not to be had, or the places are more than a `u32` counts.
    pub fn new(capacity: usize, widths: Vec<usize>) -> Option<Self> {
        let last = u32::try_from(capacity).ok()?;
        let d = widths.iter().sum();
        let mut rows: Vec<f32> = Vec::new();
        rows.try_reserve_exact(capacity.checked_mul(d)?).ok()?;
        rows.resize(capacity * d, 0.0);
        Some(Self {
            rows,
            widths,
            places: (0..last).collect(),
            used: 0,
        })
    }

    /// Width of a whole row.
    pub fn d(&self) -> usize {
        self.widths.iter().sum()
    }

    /// The part of the first `used` places that belongs to a hook point, row by row, as long as
    /// nothing was taken.
    pub fn part(&self, end: usize) -> impl Iterator<Item = &[f32]> + Clone {
        let start: usize = self.widths[..end].iter().sum();
        let rows = self.rows.chunks_exact(self.d()).take(self.used);
        rows.map(move |row| &row[start..start + self.widths[end]])
    }

    pub fn free(&self) -> usize {
        self.places.len() - self.used
    }

    /// Puts a row, given by its parts, into a free place.
    pub fn push(&mut self, parts: &[&[f32]]) {
        let mut at = self.places[self.used] as usize * self.d();
        self.used += 1;
        for part in parts {
            self.rows[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
    }

    /// Takes `n` rows at random, without replacement: of each part `[n, width]` flat.
    pub fn take(&mut self, n: usize, rng: &mut ChaCha8Rng) -> Vec<Vec<f32>> {
        assert!(n <= self.used, "the caller fills the buffer first");
        let d = self.d();
        let room = |width: &usize| Vec::with_capacity(n * width);
        let mut out: Vec<Vec<f32>> = self.widths.iter().map(room).collect();
        for _ in 0..n {
            let drawn = rng.random_range(0..self.used);
            self.used -= 1;
            self.places.swap(drawn, self.used);
            let place = self.places[self.used] as usize;
            let mut row = &self.rows[place * d..][..d];
            for (out, width) in out.iter_mut().zip(&self.widths) {
                let (part, rest) = row.split_at(*width);
                out.extend_from_slice(part);
                row = rest;
            }
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
        let mut buffer = ShuffleBuffer::new(100, vec![1, 2]).unwrap();
        let (mut out, mut others) = (vec![], vec![]);
        let mut keep = |mut parts: Vec<Vec<f32>>| {
            others.append(&mut parts.pop().unwrap());
            out.append(&mut parts.pop().unwrap());
        };
        let mut next = 0;
        for _ in 0..20 {
            while buffer.free() > 0 {
                let x = next as f32;
                buffer.push(&[&[x], &[-x, 2.0 * x]]);
                next += 1;
            }
            keep(buffer.take(30, &mut rng));
        }
        keep(buffer.take(buffer.used, &mut rng));
        let fits = |(x, other): (&f32, &[f32])| *other == [-x, 2.0 * x];
        assert!(out.iter().zip(others.chunks(2)).all(fits));
        let mut order: Vec<usize> = out.iter().map(|x| *x as usize).collect();
        assert_ne!(order, (0..next).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..next).collect::<Vec<_>>());
    }
}
