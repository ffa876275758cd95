//! The tokens on which one latent fires most, in bounded memory.
//!
//! Counts are exact while at most `capacity` distinct tokens have made the latent fire. Beyond
//! twice that many the rarest are forgotten (ties: the higher token id goes), so later counts are
//! lower bounds; the most that any count can lack is kept beside them.

/// How often, and how strongly, a latent fired on one token of the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenCount {
    /// Token id.
    pub token: u32,
    /// Number of firings on it.
    pub count: u64,
    /// Mean activation over those firings.
    pub mean_activation: f32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Tally {
    token: u32,
    count: u32,
    sum: f64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct TopTokens {
    tallies: Vec<Tally>, // ascending by token
    missed_at_most: u64,
}

impl TopTokens {
    /// Adds firings given as (token, activation), in any order; `scratch` is only lent.
    pub(super) fn add(
        &mut self,
        firings: &mut [(u32, f32)],
        capacity: usize,
        scratch: &mut TallyScratch,
    ) {
        // Equal tokens keep their order in time, so that sums have one order of addition.
        firings.sort_by_key(|&(token, _)| token);
        let merged = &mut scratch.0;
        merged.clear();
        let mut old = self.tallies.iter().copied().peekable();
        for group in firings.chunk_by(|a, b| a.0 == b.0) {
            let token = group[0].0;
            while let Some(tally) = old.next_if(|tally| tally.token < token) {
                merged.push(tally);
            }
            let mut tally = old.next_if(|tally| tally.token == token).unwrap_or(Tally {
                token,
                count: 0,
                sum: 0.0,
            });
            tally.count = tally
                .count
                .saturating_add(u32::try_from(group.len()).unwrap_or(u32::MAX));
            tally.sum += group
                .iter()
                .map(|&(_, value)| f64::from(value))
                .sum::<f64>();
            merged.push(tally);
        }
        merged.extend(old);
        if merged.len() > 2 * capacity {
            merged.sort_unstable_by(|a, b| b.count.cmp(&a.count).then(a.token.cmp(&b.token)));
            self.missed_at_most += u64::from(merged[capacity].count);
            merged.truncate(capacity);
            merged.sort_unstable_by_key(|tally| tally.token);
        }
        self.tallies.clear();
        self.tallies.extend_from_slice(merged);
    }

    /// The most that any count can lack: 0 means exact.
    pub(super) fn missed_at_most(&self) -> u64 {
        self.missed_at_most
    }

    /// The `n` tokens with the largest sums of activations; ties: the lower token id first. Counts
    /// alone would put frequent words first that barely activate the latent.
    pub(super) fn strongest(mut self, n: usize) -> Vec<TokenCount> {
        self.tallies
            .sort_unstable_by(|a, b| b.sum.total_cmp(&a.sum).then(a.token.cmp(&b.token)));
        self.tallies.truncate(n);
        self.tallies
            .iter()
            .map(|tally| TokenCount {
                token: tally.token,
                count: u64::from(tally.count),
                mean_activation: (tally.sum / f64::from(tally.count)) as f32,
            })
            .collect()
    }
}

#[derive(Debug, Default)]
pub(super) struct TallyScratch(Vec<Tally>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_exact_while_they_fit_and_bounded_after() {
        let mut exact = TopTokens::default();
        let mut bounded = TopTokens::default();
        let mut truth = std::collections::BTreeMap::<u32, u64>::new();
        let mut scratch = TallyScratch::default();
        let mut state = 1u64;
        for _ in 0..200 {
            let mut firings: Vec<(u32, f32)> = (0..50)
                .map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let u = (state >> 33) as f64 / f64::from(1u32 << 31);
                    ((u * u * u * 100.0) as u32, 2.0)
                })
                .collect();
            for &(token, _) in &firings {
                *truth.entry(token).or_default() += 1;
            }
            exact.add(&mut firings.clone(), 100, &mut scratch);
            bounded.add(&mut firings, 16, &mut scratch);
        }
        assert_eq!(exact.missed_at_most(), 0);
        for got in exact.strongest(100) {
            assert_eq!(got.count, truth[&got.token]);
            assert_eq!(got.mean_activation, 2.0);
        }
        let slack = bounded.missed_at_most();
        assert!(slack > 0);
        let top = bounded.strongest(3);
        assert_eq!(
            top.iter().map(|t| t.token).collect::<Vec<_>>(),
            vec![0, 1, 2]
        );
        for got in top {
            assert!(got.count <= truth[&got.token] && truth[&got.token] <= got.count + slack);
        }
    }

    #[test]
    fn ties_go_to_the_lower_token() {
        let mut counter = TopTokens::default();
        let mut firings = [(9, 1.0), (4, 1.0), (7, 1.0), (4, 3.0), (9, 1.0)];
        counter.add(&mut firings, 8, &mut TallyScratch::default());
        let got: Vec<(u32, u64, f32)> = counter
            .strongest(2)
            .iter()
            .map(|t| (t.token, t.count, t.mean_activation))
            .collect();
        assert_eq!(got, vec![(4, 2, 2.0), (9, 2, 1.0)]);
    }

    #[test]
    fn tokens_are_ordered_by_the_sum_of_activations() {
        let mut counter = TopTokens::default();
        let mut firings = [(1, 0.5), (1, 0.5), (1, 0.5), (2, 9.0)];
        counter.add(&mut firings, 8, &mut TallyScratch::default());
        let got: Vec<u32> = counter.strongest(2).iter().map(|t| t.token).collect();
        assert_eq!(got, [2, 1]);
    }
}
