//! The accumulator against plain computations on the whole dense matrix of activations.

use std::collections::BTreeMap;

use super::*;

const D_SAE: usize = 40;
const CONTEXT: usize = 30;
const K: usize = 5;

struct Text {
    blocks: Vec<Block>,
}

struct Block {
    tokens: Vec<u32>,
    document: Vec<u32>,
    position: Vec<u32>,
    active: Vec<bool>,
    values: Vec<f32>,
    indices: Vec<i32>,
}

/// Numbers in 0..1 from a linear congruential generator.
fn uniform(state: &mut u64) -> f64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 11) as f64 / (1u64 << 53) as f64
}

impl Text {
    /// Blocks of random codes; activations are multiples of 1/8, so that equal peaks are common.
    /// Latents 38 and 39 are dead.
    fn random(blocks: usize, seed: u64) -> Self {
        let mut state = seed;
        let blocks = (0..blocks)
            .map(|block| {
                let mut draw = |n: usize| (uniform(&mut state) * n as f64) as usize;
                let (mut values, mut indices) = (Vec::new(), Vec::new());
                for _ in 0..CONTEXT {
                    let mut row: Vec<i32> = Vec::new();
                    while row.len() < K {
                        // Low latents fire often, high ones rarely.
                        let latent = (draw(39) * draw(39) / 39) as i32;
                        if !row.contains(&latent) {
                            row.push(latent);
                        }
                    }
                    for latent in row {
                        let inactive = draw(4) == 0;
                        values.push(if inactive {
                            0.0
                        } else {
                            (draw(64) + 1) as f32 / 8.0
                        });
                        indices.push(if inactive && draw(2) == 0 { -1 } else { latent });
                    }
                }
                Block {
                    tokens: (0..CONTEXT).map(|_| draw(90) as u32).collect(),
                    document: vec![block as u32 / 3; CONTEXT],
                    position: (0..CONTEXT)
                        .map(|at| (block % 3 * CONTEXT + at) as u32)
                        .collect(),
                    active: (0..CONTEXT).map(|at| at != 0 && draw(20) != 0).collect(),
                    values,
                    indices,
                }
            })
            .collect();
        Text { blocks }
    }

    fn observe(&self, config: StatisticsConfig) -> StatisticsSummary {
        let mut statistics = FeatureStatistics::new(config);
        for (index, block) in self.blocks.iter().enumerate() {
            statistics
                .observe_block(block.view(index), &block.values, &block.indices, K)
                .unwrap();
        }
        statistics.finish()
    }

    /// Activations of one latent on all tokens of a block, excluded ones 0.
    fn dense(&self, block: usize, latent: usize) -> Vec<f32> {
        let block = &self.blocks[block];
        let value = |at: usize| {
            let row = at * K..(at + 1) * K;
            let entry = row
                .clone()
                .find(|&entry| block.indices[entry] == latent as i32);
            if block.active[at] {
                entry.map_or(0.0, |entry| block.values[entry])
            } else {
                0.0
            }
        };
        (0..CONTEXT).map(value).collect()
    }
}

impl Block {
    fn view(&self, index: usize) -> BlockView<'_> {
        BlockView {
            tokens: &self.tokens,
            document: &self.document,
            position: &self.position,
            block_index: index as u64,
            active: &self.active,
        }
    }
}

#[test]
fn every_figure_equals_brute_force_over_dense_activations() {
    let text = Text::random(200, 3);
    let config = StatisticsConfig {
        tokens_before: 6,
        tokens_after: 3,
        kept_activations: 100_000,
        ..StatisticsConfig::new(D_SAE)
    };
    let summary = text.observe(config.clone());
    let counted = text
        .blocks
        .iter()
        .flat_map(|block| &block.active)
        .filter(|&&active| active)
        .count();
    assert_eq!(summary.tokens, counted as u64);
    assert_eq!(summary.latents.len(), D_SAE);

    for (latent, got) in summary.latents.iter().enumerate() {
        let dense: Vec<Vec<f32>> = (0..text.blocks.len())
            .map(|block| text.dense(block, latent))
            .collect();
        let mut firing: Vec<f64> = dense
            .iter()
            .flatten()
            .filter(|&&v| v > 0.0)
            .map(|&v| f64::from(v))
            .collect();
        firing.sort_by(f64::total_cmp);
        assert_eq!(got.firing_count, firing.len() as u64);
        assert_eq!(got.firing_density, firing.len() as f64 / counted as f64);
        if firing.is_empty() {
            assert!(latent >= 38);
            assert_eq!(
                (got.mean_activation, got.max_activation, got.std_activation),
                (0.0, 0.0, 0.0)
            );
            assert_eq!(got.quantiles, [0.0; 5]);
            assert!(got.top_tokens.is_empty() && got.contexts.is_empty());
            continue;
        }
        let n = firing.len() as f64;
        let mean = firing.iter().sum::<f64>() / n;
        let std = (firing.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
        assert!((f64::from(got.mean_activation) - mean).abs() < 1e-6);
        assert!((f64::from(got.std_activation) - std).abs() < 1e-6);
        assert_eq!(f64::from(got.max_activation), *firing.last().unwrap());
        assert!(got.quantiles_exact);
        for (got, q) in got.quantiles.into_iter().zip(QUANTILES) {
            let place = q * (n - 1.0);
            let (low, high) = (
                firing[place.floor() as usize],
                firing[place.ceil() as usize],
            );
            assert!((f64::from(got) - (low + (high - low) * place.fract())).abs() < 1e-6);
        }

        let mut by_token = BTreeMap::<u32, (u64, f64)>::new();
        for (block, values) in text.blocks.iter().zip(&dense) {
            for (&token, &value) in block
                .tokens
                .iter()
                .zip(values)
                .filter(|(_, value)| **value > 0.0)
            {
                let entry = by_token.entry(token).or_default();
                *entry = (entry.0 + 1, entry.1 + f64::from(value));
            }
        }
        let mut expected: Vec<(u32, u64, f64)> = by_token
            .into_iter()
            .map(|(t, (n, sum))| (t, n, sum / n as f64))
            .collect();
        let sum = |t: &(u32, u64, f64)| (t.1 as f64 * t.2 * 8.0).round(); // multiples of 1/8
        expected.sort_by(|a, b| sum(b).total_cmp(&sum(a)).then(a.0.cmp(&b.0)));
        expected.truncate(10);
        assert_eq!(got.top_token_error, 0);
        assert_eq!(got.top_tokens.len(), expected.len());
        for (got, (token, count, mean)) in got.top_tokens.iter().zip(expected) {
            assert_eq!((got.token, got.count), (token, count));
            assert!((f64::from(got.mean_activation) - mean).abs() < 1e-6);
        }

        // Peaks of all blocks: the highest first, ties to the earlier block, in a block to the
        // earlier token.
        let mut peaks: Vec<(f32, usize, usize)> = Vec::new();
        for (block, values) in dense.iter().enumerate() {
            let peak = values.iter().copied().fold(0.0, f32::max);
            if peak > 0.0 {
                peaks.push((peak, block, values.iter().position(|&v| v == peak).unwrap()));
            }
        }
        peaks.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let top: Vec<&Context> = got
            .contexts
            .iter()
            .filter(|context| context.band == Band::Top)
            .collect();
        assert_eq!(top.len(), peaks.len().min(16));
        for (context, &(peak, block, place)) in top.iter().zip(&peaks) {
            assert_eq!((context.peak, context.block_index), (peak, block as u64));
            let window = place.saturating_sub(6)..(place + 4).min(CONTEXT);
            assert_eq!(context.tokens, text.blocks[block].tokens[window.clone()]);
            assert_eq!(context.activations, dense[block][window.clone()]);
            assert_eq!(context.peak_index, place - window.start);
            assert_eq!(context.activations[context.peak_index], peak);
            assert_eq!(context.document, block as u32 / 3);
            assert_eq!(context.position, (block % 3 * CONTEXT + place) as u32);
        }
    }
}

#[test]
fn histograms_positions_and_pairs_equal_brute_force() {
    let text = Text::random(100, 4);
    let summary = text.observe(StatisticsConfig {
        partners: D_SAE,
        ..StatisticsConfig::new(D_SAE)
    });
    // Each latent's activations on all counted tokens, in order.
    let dense: Vec<Vec<f32>> = (0..D_SAE)
        .map(|latent| {
            let of_block = |block| text.dense(block, latent);
            (0..text.blocks.len()).flat_map(of_block).collect()
        })
        .collect();
    let positions: Vec<u32> = text
        .blocks
        .iter()
        .flat_map(|b| b.position.clone())
        .collect();
    for (got, dense) in summary.latents.iter().zip(&dense) {
        for bin in &got.histogram {
            let inside = dense.iter().filter(|v| bin.lower <= **v && **v < bin.upper);
            assert_eq!(bin.count, inside.count() as u64);
        }
        let all: u64 = got.histogram.iter().map(|bin| bin.count).sum();
        assert_eq!(all, got.firing_count);
        let fires = dense.iter().zip(&positions).filter(|(v, _)| **v > 0.0);
        let mean = fires.map(|(_, p)| f64::from(*p)).sum::<f64>() / all.max(1) as f64;
        assert!((got.mean_position - mean).abs() < 1e-9);
    }
    let count =
        |of: &dyn Fn(usize) -> bool| (0..positions.len()).filter(|at| of(*at)).count() as f64;
    let n = summary.tokens as f64;
    let mut expected = vec![];
    for a in 0..D_SAE {
        for b in a + 1..D_SAE {
            let n_a = count(&|at| dense[a][at] > 0.0);
            let n_b = count(&|at| dense[b][at] > 0.0);
            let both = count(&|at| dense[a][at] > 0.0 && dense[b][at] > 0.0);
            let phi = (n * both - n_a * n_b) / (n_a * n_b * (n - n_a) * (n - n_b)).sqrt();
            if phi > 0.0 {
                expected.push((
                    a as u32,
                    b as u32,
                    both as u64,
                    both / (n_a + n_b - both),
                    phi,
                ));
            }
        }
    }
    assert!(expected.len() > 100 && summary.coactivations.len() == expected.len());
    for (got, (a, b, both, jaccard, phi)) in summary.coactivations.iter().zip(expected) {
        assert_eq!((got.a, got.b, got.count, got.count_error), (a, b, both, 0));
        assert!((got.jaccard - jaccard).abs() < 1e-12 && (got.phi - phi).abs() < 1e-9);
    }
    let few = text.observe(StatisticsConfig {
        partners: 2,
        ..StatisticsConfig::new(D_SAE)
    });
    // The two strongest partners of each latent, found by sorting all pairs.
    let mut strongest = std::collections::BTreeSet::new();
    for latent in 0..D_SAE as u32 {
        let of_latent = summary
            .coactivations
            .iter()
            .filter(|p| p.a == latent || p.b == latent);
        let mut pairs: Vec<&Coactivation> = of_latent.collect();
        pairs.sort_by(|x, y| y.phi.total_cmp(&x.phi).then((x.a, x.b).cmp(&(y.a, y.b))));
        strongest.extend(pairs.iter().take(2).map(|pair| (pair.a, pair.b)));
    }
    let got = few.coactivations.iter().map(|pair| (pair.a, pair.b));
    assert_eq!(
        got.collect::<Vec<_>>(),
        strongest.into_iter().collect::<Vec<_>>()
    );
}

#[test]
fn weaker_bands_show_other_blocks_near_their_quartile() {
    let text = Text::random(400, 5);
    let summary = text.observe(StatisticsConfig {
        examples_per_feature: 3,
        ..StatisticsConfig::new(D_SAE)
    });
    let mut far = 0;
    for (latent, got) in summary.latents.iter().enumerate() {
        let mut blocks: Vec<u64> = got
            .contexts
            .iter()
            .map(|context| context.block_index)
            .collect();
        blocks.sort_unstable();
        blocks.dedup();
        assert_eq!(
            blocks.len(),
            got.contexts.len(),
            "a block gives one context at most"
        );
        let mut peaks: Vec<f32> = (0..text.blocks.len())
            .map(|block| text.dense(block, latent).into_iter().fold(0.0, f32::max))
            .filter(|&peak| peak > 0.0)
            .collect();
        peaks.sort_by(f32::total_cmp);
        if peaks.len() < 60 {
            continue;
        }
        for (band, q) in [(Band::Q75, 0.75), (Band::Q50, 0.5), (Band::Q25, 0.25)] {
            let of_band: Vec<&Context> = got
                .contexts
                .iter()
                .filter(|context| context.band == band)
                .collect();
            assert_eq!(of_band.len(), 2);
            assert!(of_band[0].peak >= of_band[1].peak);
            for context in of_band {
                // A quartile of a sample of 32 strays by 0.08 of all peaks; three times that is
                // rare.
                let below = peaks.iter().filter(|&&peak| peak < context.peak).count() as f64
                    / peaks.len() as f64;
                let up_to = peaks.iter().filter(|&&peak| peak <= context.peak).count() as f64
                    / peaks.len() as f64;
                far += usize::from(q < below - 0.24 || q > up_to + 0.24);
            }
        }
    }
    assert!(far <= 2, "{far}");
}

#[test]
fn a_quantile_from_the_histogram_says_so_and_is_near() {
    let text = Text::random(400, 11);
    let exact = text.observe(StatisticsConfig {
        kept_activations: 100_000,
        ..StatisticsConfig::new(D_SAE)
    });
    let binned = text.observe(StatisticsConfig {
        kept_activations: 256,
        ..StatisticsConfig::new(D_SAE)
    });
    for (exact, binned) in exact.latents.iter().zip(&binned.latents) {
        assert_eq!(binned.quantiles_exact, binned.firing_count <= 256);
        if binned.quantiles_exact {
            assert_eq!(exact.quantiles, binned.quantiles);
        } else {
            // Activations are multiples of 1/8, so a quantile may also fall between two of them.
            for (exact, binned) in exact.quantiles.into_iter().zip(binned.quantiles) {
                assert!(
                    (exact - binned).abs() <= exact / 64.0 + 0.125,
                    "{exact} {binned}"
                );
            }
        }
        assert_eq!(
            (exact.mean_activation, exact.firing_count),
            (binned.mean_activation, binned.firing_count)
        );
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let text = Text::random(60, 8);
    let config = StatisticsConfig {
        kept_activations: 16,
        token_capacity: 8,
        ..StatisticsConfig::new(D_SAE)
    };
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| text.observe(config.clone()))
    };
    assert_eq!(on(1), on(3));
    let other_seed = StatisticsConfig {
        seed: 1,
        ..config.clone()
    };
    assert_ne!(
        text.observe(other_seed).latents[0].contexts,
        on(1).latents[0].contexts
    );
}

#[test]
fn blocks_that_are_taken_in_at_different_times_add_up() {
    // More codes than wait at once, so that several rounds are merged.
    let mut statistics = FeatureStatistics::new(StatisticsConfig::new(4));
    let (n, rounds) = (1 << 12, 600u64);
    let tokens: Vec<u32> = (0..n).map(|at| at % 7).collect();
    let values: Vec<f32> = (0..n).map(|at| 1.0 + (at % 3) as f32).collect();
    let indices: Vec<i32> = (0..n as i32).map(|at| at % 2).collect();
    let active = vec![true; n as usize];
    for block_index in 0..rounds {
        let block = BlockView {
            tokens: &tokens,
            document: &tokens,
            position: &tokens,
            block_index,
            active: &active,
        };
        statistics
            .observe_block(block, &values, &indices, 1)
            .unwrap();
    }
    let summary = statistics.finish();
    assert_eq!(summary.tokens, u64::from(n) * rounds);
    assert_eq!(summary.latents[0].firing_count, u64::from(n) / 2 * rounds);
    assert_eq!(summary.latents[1].firing_density, 0.5);
    assert_eq!(summary.latents[0].max_activation, 3.0);
    let blocks: Vec<u64> = summary.latents[0]
        .contexts
        .iter()
        .take(16)
        .map(|context| context.block_index)
        .collect();
    assert_eq!(blocks, (0..16).collect::<Vec<u64>>());
    let counted: u64 = summary.latents[1]
        .top_tokens
        .iter()
        .map(|token| token.count)
        .sum();
    assert_eq!(counted, summary.latents[1].firing_count);
}

#[test]
fn codes_that_do_not_fit_are_refused_and_leave_no_trace() {
    let mut statistics = FeatureStatistics::new(StatisticsConfig::new(4));
    let block = BlockView {
        tokens: &[1, 2],
        document: &[0, 0],
        position: &[0, 1],
        block_index: 0,
        active: &[true, true],
    };
    let refused = |statistics: &mut FeatureStatistics, values: &[f32], indices: &[i32]| {
        statistics
            .observe_block(block, values, indices, 1)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refused(&mut statistics, &[1.0, 1.0], &[0, 4]),
        "indices: found 4, expected -1 or a latent below 4"
    );
    assert_eq!(
        refused(&mut statistics, &[1.0, 1.0], &[0, -2]),
        "indices: found -2, expected -1 or a latent below 4"
    );
    assert_eq!(
        refused(&mut statistics, &[1.0, f32::NAN], &[0, 1]),
        "values: found NaN for latent 1, expected finite activations"
    );
    assert_eq!(
        refused(&mut statistics, &[1.0], &[0, 1]),
        "values: found 1 entries, expected 2"
    );
    let short = BlockView {
        active: &[true],
        ..block
    };
    let error = statistics
        .observe_block(short, &[1.0; 2], &[0; 2], 1)
        .unwrap_err()
        .to_string();
    assert_eq!(error, "block.active: found 1 entries, expected 2");
    let summary = statistics.finish();
    assert_eq!(summary.tokens, 0);
    assert!(
        summary
            .latents
            .iter()
            .all(|latent| latent.firing_count == 0 && latent.firing_density == 0.0)
    );
}
