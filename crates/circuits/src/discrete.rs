//! Discrete sparse autoencoders (O'Neill and Bui 2024, arXiv 2405.12522): a small autoencoder over
//! what all heads write on a few prompts gives each head an integer code on each prompt. A head
//! that has other codes on the clean prompts than on the corrupted ones belongs to the circuit.

use crate::autoencoder::Autoencoder;
pub use crate::discrete_settings::{DiscreteSettings, INACTIVE, Positions};
use crate::{CircuitError, Graph, PromptBatch, Task};
use burn::tensor::{Device, Int, Tensor, TensorData};
use lapidary_model::{BlockHook, HookPoint, HookedRun, LanguageModel};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};

/// How the codes of a head become a score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum CodeScore {
    /// The number of codes that only clean prompts have: the paper's.
    #[default]
    Unique,
    /// The same as a share of all codes of the head.
    UniqueShare,
    /// Total variation between the codes of clean and corrupted prompts:
    /// `½ Σ_c |p_clean(c) − p_corrupted(c)|`.
    TotalVariation,
}

/// The codes of every head on every prompt. With [`Positions::Each`], a head has several codes on a
/// prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadCodes {
    /// By head, layer by layer: the codes on the clean prompts.
    pub clean: Vec<Vec<i32>>,
    /// By head: the codes on the corrupted prompts.
    pub corrupted: Vec<Vec<i32>>,
    /// The position of each code, counted from the last one, the same for all heads; empty if there
    /// is one code for each prompt.
    pub positions: Vec<u32>,
}

impl HeadCodes {
    /// Trains an autoencoder on what the heads write on the prompts of a task.
    ///
    /// # Errors
    /// The task does not fit the model.
    pub fn of_task(
        model: &LanguageModel,
        graph: &Graph,
        task: &Task,
        settings: &DiscreteSettings,
    ) -> Result<Self, CircuitError> {
        let batches = PromptBatch::of_task(task, model)?;
        let sides = || {
            let corrupted = batches.iter().map(|batch| &batch.corrupted);
            batches.iter().map(|batch| &batch.clean).chain(corrupted)
        };
        // One vector for each head and prompt is little; those of all positions are not kept.
        let kept = match settings.positions {
            Positions::Each => None,
            Positions::Mean | Positions::Last => {
                let all =
                    sides().map(|tokens| head_outputs(model, graph, tokens, settings.positions));
                Some(all.collect::<Result<Vec<_>, _>>()?)
            }
        };
        let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
        let chosen = draw(2 * task.prompts.len(), settings.examples, &mut rng);
        let mut examples = vec![];
        let mut first = 0;
        for (number, tokens) in sides().enumerate() {
            let here = first..first + tokens.dims()[0] as i32;
            let rows = chosen.iter().filter(|row| here.contains(row));
            let rows: Vec<i32> = rows.map(|row| row - first).collect();
            first = here.end;
            if rows.is_empty() {
                continue;
            }
            let rows = index(&rows, model.device());
            let outputs = match &kept {
                Some(kept) => kept[number].clone().select(0, rows),
                None => {
                    let tokens = tokens.clone().select(0, rows);
                    head_outputs(model, graph, &tokens, settings.positions)?
                }
            };
            let [prompts, positions, heads, width] = outputs.dims();
            examples.push(outputs.reshape([prompts * positions * heads, width]));
        }
        let trained = train(Tensor::cat(examples, 0), settings, &mut rng);
        let heads = graph.layers * graph.heads;
        let mut codes: Vec<Vec<i32>> = vec![vec![]; heads];
        let mut positions = vec![];
        for (number, tokens) in sides().enumerate() {
            let outputs = match &kept {
                Some(kept) => kept[number].clone(),
                None => head_outputs(model, graph, tokens, settings.positions)?,
            };
            let [n, pos, heads, width] = outputs.dims();
            let rows = outputs.reshape([n * pos * heads, width]);
            for (row, code) in trained.codes(rows).into_iter().enumerate() {
                codes[row % heads].push(code);
            }
            let from_last = || (0..pos as u32).rev();
            positions.extend((0..n).flat_map(|_| from_last()));
        }
        let half = positions.len() / 2;
        let corrupted = codes.iter_mut().map(|codes| codes.split_off(half));
        let corrupted = corrupted.collect();
        positions.truncate(half);
        if settings.positions != Positions::Each {
            positions.clear();
        }
        Ok(Self {
            clean: codes,
            corrupted,
            positions,
        })
    }

    /// The same from outputs of heads, `[prompts, heads, width]`.
    #[must_use]
    pub fn of_outputs(clean: Tensor<3>, corrupted: Tensor<3>, settings: &DiscreteSettings) -> Self {
        let n = clean.dims()[0];
        let all = Tensor::cat(vec![clean, corrupted], 0);
        let [both, heads, width] = all.dims();
        let mut rng = ChaCha8Rng::seed_from_u64(settings.seed);
        let chosen = draw(both, settings.examples, &mut rng);
        let examples = all.clone().select(0, index(&chosen, &all.device()));
        let examples = examples.reshape([chosen.len() * heads, width]);
        let trained = train(examples, settings, &mut rng);
        let codes = trained.codes(all.reshape([both * heads, width]));
        let of = |prompts: std::ops::Range<usize>, head: usize| -> Vec<i32> {
            prompts.map(|prompt| codes[prompt * heads + head]).collect()
        };
        Self {
            clean: (0..heads).map(|head| of(0..n, head)).collect(),
            corrupted: (0..heads).map(|head| of(n..both, head)).collect(),
            positions: vec![],
        }
    }

    /// The share of outputs that no latent explains.
    #[must_use]
    pub fn inactive(&self) -> f64 {
        let codes = || self.clean.iter().chain(&self.corrupted).flatten();
        let inactive = codes().filter(|code| **code == INACTIVE).count();
        inactive as f64 / codes().count().max(1) as f64
    }

    /// A score for each head.
    #[must_use]
    pub fn scores(&self, score: CodeScore) -> Vec<f64> {
        let heads = self.clean.iter().zip(&self.corrupted);
        heads
            .map(|(clean, corrupted)| self.score(clean, corrupted, score))
            .collect()
    }

    /// Of codes or of pairs of them.
    fn score<T: Ord + Copy>(&self, clean: &[T], corrupted: &[T], score: CodeScore) -> f64 {
        if self.positions.is_empty() {
            return of_codes(clean, corrupted, score);
        }
        let at = |codes: &[T]| -> BTreeMap<u32, Vec<T>> {
            let mut by_position: BTreeMap<u32, Vec<T>> = BTreeMap::new();
            for (position, code) in self.positions.iter().zip(codes) {
                by_position.entry(*position).or_default().push(*code);
            }
            by_position
        };
        let (clean, corrupted) = (at(clean), at(corrupted));
        let scores = clean
            .iter()
            .map(|(position, codes)| of_codes(codes, &corrupted[position], score));
        scores.fold(0.0, f64::max)
    }

    /// The paper's second score of heads, from pairs: pairs are sorted by [`Self::pair_scores`]
    /// (by [`CodeScore::Unique`]) and written as one list of heads, two for each pair; the score of
    /// a head is how often it is among the first ⌊heads² / 2⌋. Pairs with equal scores share the
    /// places that are left for them.
    #[must_use]
    pub fn heads_of_pairs(&self) -> Vec<f64> {
        let heads = self.clean.len();
        let mut pairs: Vec<_> = self.pair_scores(CodeScore::Unique).into_iter().collect();
        pairs.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut left = (heads * heads / 2) as f64;
        let mut counts = vec![0.0; heads];
        for tied in pairs.chunk_by(|a, b| a.1 == b.1) {
            let places = 2.0 * tied.len() as f64;
            let share = (left / places).min(1.0);
            left -= share * places;
            for ((a, b), _) in tied {
                counts[*a] += share;
                counts[*b] += share;
            }
        }
        counts
    }

    /// A score for each ordered pair of different heads, by its first and its second head, from the
    /// pairs of codes that they have on the same prompt.
    #[must_use]
    pub fn pair_scores(&self, score: CodeScore) -> BTreeMap<(usize, usize), f64> {
        let heads = self.clean.len();
        let pairs = |codes: &[Vec<i32>], a: usize, b: usize| -> Vec<(i32, i32)> {
            codes[a]
                .iter()
                .copied()
                .zip(codes[b].iter().copied())
                .collect()
        };
        let all = (0..heads).flat_map(|a| (0..heads).map(move |b| (a, b)));
        all.filter(|(a, b)| a != b)
            .map(|(a, b)| {
                let (clean, corrupted) = (pairs(&self.clean, a, b), pairs(&self.corrupted, a, b));
                ((a, b), self.score(&clean, &corrupted, score))
            })
            .collect()
    }
}

fn of_codes<T: Ord + Copy>(clean: &[T], corrupted: &[T], score: CodeScore) -> f64 {
    let unique = |codes: &[T]| codes.iter().copied().collect::<BTreeSet<T>>();
    let (p, q) = (unique(clean), unique(corrupted));
    match score {
        CodeScore::Unique => p.difference(&q).count() as f64,
        CodeScore::UniqueShare => p.difference(&q).count() as f64 / p.union(&q).count() as f64,
        CodeScore::TotalVariation => {
            let share = |codes: &[T], code: T| {
                codes.iter().filter(|c| **c == code).count() as f64 / codes.len() as f64
            };
            let gaps = p
                .union(&q)
                .map(|code| (share(clean, *code) - share(corrupted, *code)).abs());
            gaps.sum::<f64>() / 2.0
        }
    }
}

/// Some of the numbers below `n`, in random order.
fn draw(n: usize, some: usize, rng: &mut ChaCha8Rng) -> Vec<i32> {
    let mut order: Vec<i32> = (0..n as i32).collect();
    order.shuffle(rng);
    order.truncate(some.max(1));
    order
}

fn index(rows: &[i32], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(rows.to_vec(), [rows.len()]), device)
}

/// On rows, `[n, width]`, or on some of them.
fn train(rows: Tensor<2>, settings: &DiscreteSettings, rng: &mut ChaCha8Rng) -> Autoencoder {
    let n = rows.dims()[0];
    let rows = match settings.positions == Positions::Each && n > settings.vectors {
        true => {
            let some = draw(n, settings.vectors, rng);
            rows.clone().select(0, index(&some, &rows.device()))
        }
        false => rows,
    };
    Autoencoder::train(rows, settings, rng)
}

/// The vectors of heads that have codes, `[prompts, positions, layers * heads, d_model]`.
fn head_outputs(
    model: &LanguageModel,
    graph: &Graph,
    tokens: &Tensor<2, Int>,
    positions: Positions,
) -> Result<Tensor<4>, CircuitError> {
    let points: Vec<HookPoint> = (0..graph.layers)
        .map(|layer| HookPoint::Block(layer, BlockHook::Z))
        .collect();
    let run = HookedRun {
        capture: &points,
        ..Default::default()
    };
    let output = model.run(tokens.clone(), &run)?;
    let [batch, pos] = tokens.dims();
    let of_layer = |layer: usize| {
        let z = output.captured[&points[layer]].clone(); // [batch, pos, heads * d_head]
        // `W_O` comes last, since it is linear.
        let z = match positions {
            Positions::Mean => z.mean_dim(1),
            Positions::Last => z.narrow(1, pos - 1, 1),
            Positions::Each => z,
        };
        let [_, pos, width] = z.dims();
        let rows = z.reshape([batch * pos, width]);
        let d_head = width / graph.heads;
        let of_head = |head: usize| {
            let own = rows.clone().narrow(1, head * d_head, d_head);
            let written = own.matmul(model.w_o(layer, head)); // [batch * pos, d_model]
            let d_model = written.dims()[1];
            written.reshape([batch, pos, 1, d_model])
        };
        Tensor::cat((0..graph.heads).map(of_head).collect(), 2)
    };
    Ok(Tensor::cat((0..graph.layers).map(of_layer).collect(), 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranking::auc;
    use rand::Rng;

    /// What heads of a made-up model write: some of them, the circuit, in other directions on clean
    /// prompts than on corrupted ones.
    fn planted_outputs(seed: u64, noise: f32, device: &Device) -> ([Tensor<3>; 2], Vec<bool>) {
        const HEADS: usize = 48;
        const CIRCUIT: usize = 12;
        const WIDTH: usize = 32;
        const PROMPTS: usize = 100;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let normal = |rng: &mut ChaCha8Rng| (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0;
        let direction = |rng: &mut ChaCha8Rng| -> Vec<f32> {
            let v: Vec<f32> = (0..WIDTH).map(|_| normal(rng)).collect();
            let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt();
            v.iter().map(|x| x / norm).collect()
        };
        let mut heads: Vec<usize> = (0..HEADS).collect();
        heads.shuffle(&mut rng);
        let truth: Vec<bool> = (0..HEADS)
            .map(|head| heads[..CIRCUIT].contains(&head))
            .collect();
        let directions: Vec<[Vec<Vec<f32>>; 2]> = (0..HEADS)
            .map(|head| {
                let mut some = |n: usize| (0..n).map(|_| direction(&mut rng)).collect::<Vec<_>>();
                if truth[head] {
                    return [some(6), some(6)];
                }
                let shared = some(8);
                [shared.clone(), shared]
            })
            .collect();
        let outputs = [0, 1].map(|class| {
            let mut values = Vec::with_capacity(PROMPTS * HEADS * WIDTH);
            for _ in 0..PROMPTS {
                for head in &directions {
                    let of_class = &head[class];
                    let chosen = &of_class[rng.random_range(0..of_class.len())];
                    let size = 1.0 + 0.1 * normal(&mut rng);
                    let spread = 3.0 * noise / (WIDTH as f32).sqrt();
                    values.extend(chosen.iter().map(|x| size * x + spread * normal(&mut rng)));
                }
            }
            Tensor::from_data(TensorData::new(values, [PROMPTS, HEADS, WIDTH]), device)
        });
        (outputs, truth)
    }

    /// By hand: codes 1 and −1 are of both, 2 and 3 of clean prompts alone, 4 of corrupted ones.
    #[test]
    fn scores_are_those_of_sets_and_shares() {
        let (clean, corrupted) = ([1, 2, 2, 3, INACTIVE], [1, 1, 1, 4, INACTIVE]);
        let score = |how| of_codes(&clean, &corrupted, how);
        assert_eq!(score(CodeScore::Unique), 2.0);
        assert_eq!(score(CodeScore::UniqueShare), 2.0 / 5.0);
        assert!((score(CodeScore::TotalVariation) - 0.6).abs() < 1e-12);
        let codes = HeadCodes {
            clean: vec![vec![1, 2], vec![1, 1]],
            corrupted: vec![vec![2, 1], vec![1, 2]],
            positions: vec![],
        };
        assert_eq!(codes.scores(CodeScore::Unique), [0.0, 0.0]);
        // Pairs: clean (1, 1), (2, 1); corrupted (2, 1), (1, 2).
        assert_eq!(codes.pair_scores(CodeScore::Unique)[&(0, 1)], 1.0);
        assert_eq!(codes.inactive(), 0.0);
    }

    /// By hand, three heads: of the six ordered pairs, (0, 1) and (1, 0) have three codes on clean
    /// prompts alone, the others one. The first ⌊9 / 2⌋ = 4 places are those of the best two pairs.
    #[test]
    fn pairs_give_places_to_heads() {
        let codes = HeadCodes {
            clean: vec![vec![1, 2, 3], vec![4, 5, 6], vec![7, 7, 7]],
            corrupted: vec![vec![2, 3, 9], vec![4, 5, 9], vec![7, 7, 7]],
            positions: vec![],
        };
        let found = codes.pair_scores(CodeScore::Unique);
        assert_eq!(found[&(0, 1)], 3.0); // (1, 4), (2, 5), (3, 6) against (2, 4), (3, 5), (9, 9)
        assert_eq!(found[&(2, 0)], 1.0); // (7, 1)
        assert_eq!(found[&(1, 2)], 1.0); // (6, 7)
        assert_eq!(codes.heads_of_pairs(), [2.0, 2.0, 0.0]);
        // All pairs are alike: four places for six pairs of two heads, a third of a place each.
        let alike = HeadCodes {
            clean: vec![vec![1]; 3],
            corrupted: vec![vec![1]; 3],
            positions: vec![],
        };
        for count in alike.heads_of_pairs() {
            assert!((count - 4.0 / 3.0).abs() < 1e-12);
        }
    }

    #[test]
    fn planted_heads_are_found() {
        let (mut unique, mut variation, mut pairs) = (0.0, 0.0, 0.0);
        for seed in 0..12 {
            let ([clean, corrupted], truth) = planted_outputs(seed + 100, 0.1, &Device::flex());
            let settings = DiscreteSettings {
                seed,
                ..Default::default()
            };
            let codes = HeadCodes::of_outputs(clean, corrupted, &settings);
            let of = |score| auc(&codes.scores(score), &truth).unwrap() / 12.0;
            unique += of(CodeScore::Unique);
            variation += of(CodeScore::TotalVariation);
            pairs += auc(&codes.heads_of_pairs(), &truth).unwrap() / 12.0;
        }
        println!("unique {unique}, total variation {variation}, pairs {pairs}");
        assert!(unique >= 0.9 && variation >= 0.97, "{unique}, {variation}");
    }
}
