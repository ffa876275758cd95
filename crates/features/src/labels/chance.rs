//! Random draws that depend only on a seed and on what they are for, never on the order of calls.

pub(super) use crate::statistics::hash;

/// A stream of its own for each list of words, such as (seed, purpose, latent).
pub(super) fn stream(words: &[u64]) -> u64 {
    // Not 0, which the finalizer maps to itself.
    words.iter().fold(0x4c61_7069_6461_7279, |stream, &word| {
        hash(stream.rotate_left(1), word)
    })
}

/// `count` of the numbers `0..n`, each subset equally likely, ascending; all of them if `n` is at
/// most `count`.
pub(super) fn draw(n: usize, count: usize, stream: u64) -> Vec<usize> {
    if count == 0 {
        return Vec::new();
    }
    let mut keyed = keyed(n, stream);
    if count < n {
        keyed.select_nth_unstable(count);
        keyed.truncate(count);
    }
    let mut drawn: Vec<usize> = keyed.into_iter().map(|(_, index)| index).collect();
    drawn.sort_unstable();
    drawn
}

/// The numbers `0..n` in random order.
pub(super) fn shuffled(n: usize, stream: u64) -> Vec<usize> {
    let mut keyed = keyed(n, stream);
    keyed.sort_unstable();
    keyed.into_iter().map(|(_, index)| index).collect()
}

fn keyed(n: usize, stream: u64) -> Vec<(u64, usize)> {
    (0..n)
        .map(|index| (hash(stream, index as u64), index))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_is_drawn_equally_often() {
        let mut drawn = [0u32; 20];
        for seed in 0..4000 {
            let picks = draw(20, 5, stream(&[seed, 3]));
            assert_eq!(picks.len(), 5);
            assert!(picks.windows(2).all(|pair| pair[0] < pair[1]));
            for pick in picks {
                drawn[pick] += 1;
            }
        }
        // Expected 1000 each, standard deviation 27.
        assert!(drawn.iter().all(|&n| (850..1150).contains(&n)), "{drawn:?}");
    }

    #[test]
    fn a_shuffle_moves_every_index_everywhere() {
        let mut first = [0u32; 5];
        for seed in 0..5000 {
            let order = shuffled(5, stream(&[seed]));
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4]);
            first[order[0]] += 1;
        }
        // Expected 1000 each, standard deviation 28.
        assert!(first.iter().all(|&n| (850..1150).contains(&n)), "{first:?}");
    }
}
