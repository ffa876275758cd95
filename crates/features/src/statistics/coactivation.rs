//! How often pairs of latents fire on the same token, in memory that does not grow with the text.
//!
//! For each latent the partners with a higher number are counted. Counts are exact while a latent
//! has at most `capacity` such partners. Beyond twice that many those with the lowest phi, as it
//! looks then, are forgotten: what was counted of them is lost, and a pair that becomes strong
//! later may lack it. The most that any count can lack is kept.

/// A pair of latents, and on how many tokens both fired.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coactivation {
    /// The latent with the lower number.
    pub a: u32,
    /// The latent with the higher number.
    pub b: u32,
    /// Number of tokens on which both fired.
    pub count: u64,
    /// The most that `count` can lack; 0 means exact.
    pub count_error: u64,
    /// Jaccard index: tokens on which both fired / tokens on which at least one did.
    pub jaccard: f64,
    /// Phi coefficient: the Pearson correlation of the two firing indicators over tokens.
    pub phi: f64,
}

impl Coactivation {
    /// The measures of a pair; `tokens` were counted, on which the two fired `n_a` and `n_b` times.
    fn new((a, b): (u32, u32), count: u64, error: u64, [n_a, n_b]: [u64; 2], tokens: u64) -> Self {
        let [both, n_a, n_b, n] = [count, n_a, n_b, tokens].map(|n| n as f64);
        let spread = (n_a * (n - n_a)).sqrt() * (n_b * (n - n_b)).sqrt();
        Coactivation {
            a,
            b,
            count,
            count_error: error,
            jaccard: both / (n_a + n_b - both).max(1.0),
            // A latent that fires on every token tells nothing of another.
            phi: if spread > 0.0 {
                (n * both - n_a * n_b) / spread
            } else {
                0.0
            },
        }
    }
}

/// The counted partners of one latent.
#[derive(Debug, Clone, Default)]
pub(super) struct Partners {
    counts: Vec<(u32, u32)>, // (partner, count), ascending by partner
    missed_at_most: u64,
}

/// Counts of a batch by partner; all 0 between two latents.
#[derive(Debug, Default)]
pub(super) struct PartnerScratch {
    counts: Vec<u32>, // [d_sae]
    touched: Vec<u32>,
    merged: Vec<(u32, u32)>,
}

impl PartnerScratch {
    /// Counts the latents above `latent` in one token's row of active latents.
    #[inline]
    pub(super) fn count(&mut self, latent: u32, active: impl Iterator<Item = u32>, d_sae: usize) {
        self.counts.resize(d_sae, 0);
        for partner in active.filter(|partner| *partner > latent) {
            let count = &mut self.counts[partner as usize];
            if *count == 0 {
                self.touched.push(partner);
            }
            *count += 1;
        }
    }
}

impl Partners {
    /// Takes in, and clears, what the scratch has counted.
    ///
    /// `fired` has the number of firings of each latent so far: of two partners with the same count
    /// the rarer one is the more closely related.
    pub(super) fn add(&mut self, scratch: &mut PartnerScratch, capacity: usize, fired: &[u64]) {
        let PartnerScratch {
            counts,
            touched,
            merged,
        } = scratch;
        touched.sort_unstable();
        merged.clear();
        let mut old = self.counts.iter().copied().peekable();
        for partner in touched.drain(..) {
            while let Some(known) = old.next_if(|known| known.0 < partner) {
                merged.push(known);
            }
            let before = old.next_if(|known| known.0 == partner).map_or(0, |k| k.1);
            let new = std::mem::take(&mut counts[partner as usize]);
            merged.push((partner, before.saturating_add(new)));
        }
        merged.extend(old);
        if merged.len() > 2 * capacity {
            // About phi², up to a factor that all partners share.
            let strength = |&(partner, count): &(u32, u32)| {
                f64::from(count).powi(2) / fired[partner as usize].max(1) as f64
            };
            merged.sort_unstable_by(|a, b| strength(b).total_cmp(&strength(a)).then(a.0.cmp(&b.0)));
            let lost = merged[capacity..].iter().map(|partner| partner.1).max();
            self.missed_at_most += u64::from(lost.unwrap_or(0));
            merged.truncate(capacity);
            merged.sort_unstable();
        }
        self.counts.clear();
        self.counts.extend_from_slice(merged);
    }
}

/// For each latent its `each` partners with the highest phi above 0, as pairs without repetition,
/// by `a`, then by `b`. `firings` are the latents' counts of firings over `tokens`.
pub(super) fn strongest(
    partners: &[Partners],
    firings: &[u64],
    tokens: u64,
    each: usize,
) -> Vec<Coactivation> {
    // Of every latent the best pairs so far, the weakest of them last.
    let mut best: Vec<Vec<Coactivation>> = vec![vec![]; partners.len()];
    let mut offer = |latent: u32, pair: Coactivation| {
        let kept = &mut best[latent as usize];
        let place = kept.partition_point(|k| {
            k.phi
                .total_cmp(&pair.phi)
                .then((pair.a, pair.b).cmp(&(k.a, k.b)))
                .is_gt()
        });
        if place < each {
            kept.insert(place, pair);
            kept.truncate(each);
        }
    };
    for (a, known) in partners.iter().enumerate() {
        for &(b, count) in &known.counts {
            let fired = [firings[a], firings[b as usize]];
            let pair = (a as u32, b);
            let error = known.missed_at_most;
            let pair = Coactivation::new(pair, u64::from(count), error, fired, tokens);
            if pair.phi > 0.0 {
                offer(pair.a, pair);
                offer(pair.b, pair);
            }
        }
    }
    let mut pairs: Vec<Coactivation> = best.into_iter().flatten().collect();
    pairs.sort_unstable_by_key(|pair| (pair.a, pair.b));
    pairs.dedup_by_key(|pair| (pair.a, pair.b));
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phi_is_the_correlation_of_the_firing_indicators() {
        let fires = [
            [true, true],
            [true, false],
            [false, true],
            [false; 2],
            [true; 2],
            [false; 2],
        ];
        let of = |at: usize| fires.map(|row| f64::from(u8::from(row[at])));
        let mean = |x: [f64; 6]| x.iter().sum::<f64>() / 6.0;
        let (x, y) = (of(0), of(1));
        let cov = |x: [f64; 6], y: [f64; 6]| {
            let products = x.iter().zip(y).map(|(x, y)| x * y);
            products.sum::<f64>() / 6.0 - mean(x) * mean(y)
        };
        let expected = cov(x, y) / (cov(x, x) * cov(y, y)).sqrt();
        let pair = Coactivation::new((0, 1), 2, 0, [3, 3], 6);
        assert!((pair.phi - expected).abs() < 1e-12);
        assert_eq!(pair.jaccard, 2.0 / 4.0);
        assert_eq!(Coactivation::new((0, 1), 3, 0, [6, 3], 6).phi, 0.0);
    }

    #[test]
    fn a_rare_close_partner_outlives_frequent_chance_ones() {
        let mut scratch = PartnerScratch::default();
        let mut partners = Partners::default();
        // Latents 1 to 39 fire on every token, and with latent 0 on 5 of 1,000. Latent 40 fires
        // on 2 tokens only, both times with it.
        let mut fired = vec![1000; 41];
        fired[40] = 2;
        for _ in 0..3 {
            scratch.count(0, 1..40, 41);
        }
        for _ in 0..2 {
            scratch.count(0, 1..41, 41);
        }
        partners.add(&mut scratch, 8, &fired);
        assert_eq!(partners.counts.len(), 8);
        assert!(partners.counts.contains(&(40, 2)), "{:?}", partners.counts);
        assert_eq!(partners.missed_at_most, 5);
    }

    #[test]
    fn forgotten_partners_leave_lower_bounds() {
        let mut scratch = PartnerScratch::default();
        let mut partners = Partners::default();
        // Partner j fires with latent 0 on every j-th token.
        for token in 1..=600u32 {
            let active = (1..40).filter(|j| token % j == 0);
            scratch.count(0, active, 40);
            if token % 20 == 0 {
                partners.add(&mut scratch, 8, &[600; 40]);
            }
        }
        assert!(partners.missed_at_most > 0 && partners.counts.len() <= 16);
        for &(partner, count) in &partners.counts {
            let (truth, found) = (600 / partner, count);
            assert!(found <= truth && u64::from(truth - found) <= partners.missed_at_most);
        }
        let three: Vec<u32> = partners
            .counts
            .iter()
            .take(3)
            .map(|known| known.0)
            .collect();
        assert_eq!(three, [1, 2, 3]);
    }
}
