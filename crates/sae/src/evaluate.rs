//! Figures of merit of a dictionary on text, best on text that it was not trained on, each under the name and with the meaning that the field gives
//! it. Sums run in f64 on the host.
//!
//! Sources: SAEBench `evals/core/main.py` (`l0`, `l1`, `cossim`, `l2_ratio`, `relative_reconstruction_bias`,
//! `explained_variance_legacy`, `ce_loss_score`, `kl_div_score`, `frac_alive`), SAELens 6 (`explained_variance`),
//! sparsify (`fvu`). Special tokens (beginning and end of sequence) count nowhere and keep their activation when the
//! reconstruction is spliced in, as SAEBench recommends.

use burn::tensor::{Int, Tensor, TensorData, activation::log_softmax};
use lapidary_activations::TokenBlock;
use lapidary_model::{HookPoint, HookedRun, Intervention, LanguageModel};
use serde::{Deserialize, Serialize};

use crate::dictionary::Dictionary;
use crate::error::SaeError;
use crate::json::nan_if_null;
use crate::tensors::{host, host_int};

/// Blocks that make one batch, over which the means of `explained_variance_legacy` and
/// `relative_reconstruction_bias` are taken: SAEBench's batch.
pub const BATCH_BLOCKS: usize = 16;

/// Largest number of log-probabilities held at once.
const MOST_LOGITS: usize = 1 << 24;

/// What [`evaluate`] found; the fields are the keys of `metrics.json`. A quotient by 0 is written as `null`,
/// which is read as NaN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Fraction of variance unexplained: sum of |x - x̂|² over sum of |x - mean|², the mean over all evaluated tokens.
    /// sparsify takes the mean of each batch.
    #[serde(deserialize_with = "nan_if_null")]
    pub fvu: f64,
    /// 1 - E|x - x̂|² / (E|x|² - |E x|²), over all evaluated tokens: 1 - `fvu`. As in SAELens since 6.45.
    #[serde(deserialize_with = "nan_if_null")]
    pub explained_variance: f64,
    /// Mean over tokens of 1 - |x - x̂|² / |x - mean of the token's batch|²: the figure in the SAEBench paper and on
    /// Neuronpedia.
    #[serde(deserialize_with = "nan_if_null")]
    pub explained_variance_legacy: f64,
    /// Active latents a token.
    #[serde(deserialize_with = "nan_if_null")]
    pub l0: f64,
    /// (CE_ablated - CE_sae) / (CE_ablated - CE_model): share of the loss that zero ablation costs which the
    /// reconstruction recovers.
    #[serde(deserialize_with = "nan_if_null")]
    pub ce_loss_score: f64,
    /// (KL_ablated - KL_sae) / KL_ablated, with KL(model ‖ changed model) of the next-token distributions.
    #[serde(deserialize_with = "nan_if_null")]
    pub kl_div_score: f64,
    /// Share of latents that fire at least once on the evaluated tokens.
    #[serde(deserialize_with = "nan_if_null")]
    pub frac_alive: f64,
    /// Next-token cross-entropy with the reconstruction spliced in, nats.
    #[serde(deserialize_with = "nan_if_null")]
    pub ce_loss_with_sae: f64,
    /// Next-token cross-entropy of the model, nats.
    #[serde(deserialize_with = "nan_if_null")]
    pub ce_loss_without_sae: f64,
    /// Next-token cross-entropy with zeros spliced in, nats.
    #[serde(deserialize_with = "nan_if_null")]
    pub ce_loss_with_ablation: f64,
    /// KL divergence with the reconstruction spliced in, nats.
    #[serde(deserialize_with = "nan_if_null")]
    pub kl_div_with_sae: f64,
    /// KL divergence with zeros spliced in, nats.
    #[serde(deserialize_with = "nan_if_null")]
    pub kl_div_with_ablation: f64,
    /// Sum of a token's activations, mean over tokens.
    #[serde(deserialize_with = "nan_if_null")]
    pub l1: f64,
    /// Cosine of x and x̂, mean over tokens.
    #[serde(deserialize_with = "nan_if_null")]
    pub cossim: f64,
    /// |x̂| / |x|, mean over tokens.
    #[serde(deserialize_with = "nan_if_null")]
    pub l2_ratio: f64,
    /// E|x̂|² / E⟨x, x̂⟩ of a batch, mean over batches: below 1 is shrinkage.
    #[serde(deserialize_with = "nan_if_null")]
    pub relative_reconstruction_bias: f64,
    /// Tokens evaluated, special ones excluded.
    pub tokens: u64,
}

/// Running sums over reconstructions.
#[derive(Clone, Debug, Default)]
pub struct ReconstructionSums {
    tokens: u64,
    batches: u64,
    error: f64,
    square: f64,
    sum: Vec<f64>,
    legacy: f64,
    cosine: f64,
    ratio: f64,
    bias: f64,
}

impl ReconstructionSums {
    /// Takes in one batch: `x` and its reconstruction `x_hat`, `[n, d]` row by row, of which the rows with `counts`
    /// count.
    pub fn observe(&mut self, x: &[f32], x_hat: &[f32], d: usize, counts: &[bool]) {
        let rows = || {
            x.chunks_exact(d)
                .zip(x_hat.chunks_exact(d))
                .zip(counts)
                .filter(|(_, c)| **c)
                .map(|(rows, _)| rows)
        };
        self.sum.resize(d, 0.0);
        let mut n = 0u64;
        let mut mean = vec![0.0f64; d];
        for (row, _) in rows() {
            n += 1;
            for (m, v) in mean.iter_mut().zip(row) {
                *m += f64::from(*v);
            }
        }
        if n == 0 {
            return;
        }
        for (s, m) in self.sum.iter_mut().zip(&mut mean) {
            *s += *m;
            *m /= n as f64;
        }
        let (mut hat_squares, mut products) = (0.0f64, 0.0f64);
        for (row, hat) in rows() {
            let (mut error, mut square, mut spread, mut hat_square, mut product) =
                (0.0f64, 0.0f64, 0.0f64, 0.0f64, 0.0f64);
            for ((v, h), m) in row.iter().zip(hat).zip(&mean) {
                let (v, h) = (f64::from(*v), f64::from(*h));
                error += (v - h) * (v - h);
                square += v * v;
                spread += (v - m) * (v - m);
                hat_square += h * h;
                product += v * h;
            }
            self.error += error;
            self.square += square;
            self.legacy += 1.0 - error / spread;
            self.cosine += product / (square.sqrt() * hat_square.sqrt()).max(1e-300);
            self.ratio += (hat_square / square).sqrt();
            hat_squares += hat_square;
            products += product;
        }
        self.tokens += n;
        self.batches += 1;
        self.bias += hat_squares / products;
    }

    /// Fraction of variance unexplained, with the mean over all tokens.
    #[must_use]
    pub fn fvu(&self) -> f64 {
        let n = self.tokens as f64;
        let mean_square: f64 = self.sum.iter().map(|s| (s / n).powi(2)).sum();
        (self.error / n) / (self.square / n - mean_square)
    }

    /// Per-token explained variance with the batch's mean.
    #[must_use]
    pub fn explained_variance_legacy(&self) -> f64 {
        self.legacy / self.tokens as f64
    }

    /// Mean cosine.
    #[must_use]
    pub fn cossim(&self) -> f64 {
        self.cosine / self.tokens as f64
    }

    /// Mean ratio of norms.
    #[must_use]
    pub fn l2_ratio(&self) -> f64 {
        self.ratio / self.tokens as f64
    }

    /// Mean over batches of E|x̂|² / E⟨x, x̂⟩.
    #[must_use]
    pub fn relative_reconstruction_bias(&self) -> f64 {
        self.bias / self.batches as f64
    }

    /// Tokens taken in.
    #[must_use]
    pub const fn tokens(&self) -> u64 {
        self.tokens
    }
}

/// Running sums over codes.
#[derive(Clone, Debug)]
pub struct CodeSums {
    tokens: u64,
    active: u64,
    total: f64,
    fired: Vec<bool>,
}

impl CodeSums {
    /// For a dictionary of `d_sae` latents.
    #[must_use]
    pub fn new(d_sae: usize) -> Self {
        Self {
            tokens: 0,
            active: 0,
            total: 0.0,
            fired: vec![false; d_sae],
        }
    }

    /// Takes in codes `[n, k]` row by row, of which the rows with `counts` count.
    pub fn observe(&mut self, values: &[f32], indices: &[i32], k: usize, counts: &[bool]) {
        let rows = values.chunks_exact(k).zip(indices.chunks_exact(k));
        for ((values, indices), _) in rows.zip(counts).filter(|(_, c)| **c) {
            self.tokens += 1;
            for (value, index) in values.iter().zip(indices) {
                if *value != 0.0 {
                    self.active += 1;
                    self.total += f64::from(*value);
                    if let Some(f) = usize::try_from(*index)
                        .ok()
                        .and_then(|i| self.fired.get_mut(i))
                    {
                        *f = true;
                    }
                }
            }
        }
    }

    /// Active latents a token.
    #[must_use]
    pub fn l0(&self) -> f64 {
        self.active as f64 / self.tokens as f64
    }

    /// Sum of activations a token.
    #[must_use]
    pub fn l1(&self) -> f64 {
        self.total / self.tokens as f64
    }

    /// Share of latents that fired.
    #[must_use]
    pub fn frac_alive(&self) -> f64 {
        self.fired.iter().filter(|f| **f).count() as f64 / self.fired.len() as f64
    }
}

/// Running sums over what the model predicts.
#[derive(Clone, Debug, Default)]
struct Predictions {
    cross_entropy: [f64; 3],
    cross_entropy_tokens: u64,
    divergence: [f64; 2],
    divergence_tokens: u64,
}

/// Evaluates `dictionary`, which reads at `hook` of `model`, on `blocks`, all of one length. What it reconstructs is spliced in
/// where it belongs: at `hook`, or for a transcoder at the hook point that the dictionary says. `on_progress` hears the number of
/// blocks done.
///
/// # Errors
/// The dictionary does not fit the hook point, or the model fails.
pub fn evaluate(
    model: &LanguageModel,
    dictionary: &Dictionary,
    hook: HookPoint,
    blocks: &[TokenBlock],
    on_progress: &mut dyn FnMut(usize),
) -> Result<Metrics, SaeError> {
    let Some(first) = blocks.first() else {
        return Err(SaeError::Config {
            place: "evaluation".to_owned(),
            message: "there is no text to evaluate on".to_owned(),
        });
    };
    let context = first.tokens.len();
    if let Some(other) = blocks.iter().find(|b| b.tokens.len() != context) {
        return Err(SaeError::Shape {
            what: "length of a block of tokens",
            found: other.tokens.len(),
            expected: context,
        });
    }
    let coder = dictionary.coder.clone().to_device(model.device());
    let (d_in, d_out, d_sae) = (coder.d_in(), coder.d_out(), coder.d_sae());
    let written = match dictionary.transcodes() {
        true => dictionary.hook_point_out()?,
        false => hook,
    };
    let special: Vec<u32> = model
        .tokenizer()
        .ok()
        .map(|t| t.bos().into_iter().chain(t.eos()).collect())
        .unwrap_or_default();
    let mut reconstruction = ReconstructionSums::default();
    let mut codes = CodeSums::new(d_sae);
    let mut predictions = Predictions::default();
    let mut capture = vec![hook];
    capture.extend((written != hook).then_some(written));
    let mut done = 0;
    for batch in blocks.chunks(BATCH_BLOCKS) {
        let at_once = (MOST_LOGITS / (context * model.config().d_vocab).max(1)).max(1);
        let (mut ys, mut hats, mut counted) = (Vec::new(), Vec::new(), Vec::new());
        for part in batch.chunks(at_once) {
            let tokens: Vec<&[u32]> = part.iter().map(|b| b.tokens.as_slice()).collect();
            let counts: Vec<bool> = tokens
                .iter()
                .flat_map(|t| t.iter().map(|t| !special.contains(t)))
                .collect();
            let input = model.tokens(&tokens)?; // [batch, pos]
            let [b, t] = input.dims();
            let segments = TokenBlock::attention(part, model.device());
            let predicts = predicts(part, &counts, &special);
            let original = model.run(
                input.clone(),
                &HookedRun {
                    capture: &capture,
                    logits: true,
                    segments: segments.clone(),
                    ..Default::default()
                },
            )?;
            let at = |hook: HookPoint, expected: usize, what: &'static str| {
                let Some(value) = original.captured.get(&hook) else {
                    return Err(SaeError::Config {
                        place: "evaluation".to_owned(),
                        message: format!("the model did not return {hook}"),
                    });
                };
                match value.dims()[2] {
                    found if found == expected => Ok(value.clone().reshape([b * t, expected])),
                    found => Err(SaeError::Shape {
                        what,
                        found,
                        expected,
                    }),
                }
            };
            let input_width =
                "width of the activations at the hook point (against the dictionary's d_in)";
            let x = at(hook, d_in, input_width)?;
            let z = coder.encode(x.clone());
            let y_hat = coder.reconstruct(z.clone(), x); // [b * t, d_out]
            let output_width = "width of the activations at the hook point to reconstruct (against the dictionary's d_out)";
            let y = at(written, d_out, output_width)?;
            let k = z.values.dims()[1];
            codes.observe(&host(&z.values)?, &host_int(&z.indices)?, k, &counts);

            let keep: Vec<f32> = counts.iter().map(|c| f32::from(u8::from(!*c))).collect();
            let keep = Tensor::<1>::from_data(TensorData::new(keep, [b * t]), model.device())
                .reshape([b * t, 1])
                .greater_elem(0.5)
                .expand([b * t, d_out]);
            let spliced = y_hat
                .clone()
                .mask_where(keep, y.clone())
                .reshape([b, t, d_out]);
            let with = |replacement: &dyn Fn(Tensor<3>) -> Tensor<3>| {
                model.run(
                    input.clone(),
                    &HookedRun {
                        interventions: &[Intervention::function(written, replacement)],
                        logits: true,
                        segments: segments.clone(),
                        ..Default::default()
                    },
                )
            };
            let original = log_probabilities(original.logits)?;
            let sae = log_probabilities(with(&|_| spliced.clone())?.logits)?;
            predictions.cross_entropy[0] += cross_entropy(&original, &input, &predicts)?;
            predictions.cross_entropy[1] += cross_entropy(&sae, &input, &predicts)?;
            predictions.divergence[0] += divergence(&original, sae, &counts)?;
            let ablated = log_probabilities(with(&|x| x.zeros_like())?.logits)?;
            predictions.cross_entropy[2] += cross_entropy(&ablated, &input, &predicts)?;
            predictions.divergence[1] += divergence(&original, ablated, &counts)?;
            predictions.divergence_tokens += counts.iter().filter(|c| **c).count() as u64;
            predictions.cross_entropy_tokens += predicts
                .chunks(t)
                .map(|row| row[..t - 1].iter().filter(|c| **c).count() as u64)
                .sum::<u64>();

            ys.extend(host(&y)?);
            hats.extend(host(&y_hat)?);
            counted.extend(counts);
        }
        reconstruction.observe(&ys, &hats, d_out, &counted);
        done += batch.len();
        on_progress(done);
    }
    Ok(metrics(&reconstruction, &codes, &predictions))
}

fn metrics(r: &ReconstructionSums, c: &CodeSums, p: &Predictions) -> Metrics {
    let [without, with_sae, with_ablation] =
        p.cross_entropy.map(|s| s / p.cross_entropy_tokens as f64);
    let [kl_sae, kl_ablation] = p.divergence.map(|s| s / p.divergence_tokens as f64);
    Metrics {
        fvu: r.fvu(),
        explained_variance: 1.0 - r.fvu(),
        explained_variance_legacy: r.explained_variance_legacy(),
        l0: c.l0(),
        ce_loss_score: (with_ablation - with_sae) / (with_ablation - without),
        kl_div_score: (kl_ablation - kl_sae) / kl_ablation,
        frac_alive: c.frac_alive(),
        ce_loss_with_sae: with_sae,
        ce_loss_without_sae: without,
        ce_loss_with_ablation: with_ablation,
        kl_div_with_sae: kl_sae,
        kl_div_with_ablation: kl_ablation,
        l1: c.l1(),
        cossim: r.cossim(),
        l2_ratio: r.l2_ratio(),
        relative_reconstruction_bias: r.relative_reconstruction_bias(),
        tokens: r.tokens(),
    }
}

/// Whether each token's prediction counts: it does where the token does, unless another document's text comes next that
/// the token's own has nothing to do with. An end or beginning of sequence it does predict.
fn predicts(blocks: &[TokenBlock], counts: &[bool], special: &[u32]) -> Vec<bool> {
    let mut predicts = counts.to_vec();
    let mut i = 0;
    for block in blocks {
        for (pair, next) in block.sequences().windows(2).zip(&block.tokens[1..]) {
            predicts[i] &= pair[0] == pair[1] || special.contains(next);
            i += 1;
        }
        i += 1;
    }
    predicts
}

fn log_probabilities(logits: Option<Tensor<3>>) -> Result<Tensor<3>, SaeError> {
    let logits = logits.ok_or_else(|| SaeError::Config {
        place: "evaluation".to_owned(),
        message: "the model did not return logits".to_owned(),
    })?;
    Ok(log_softmax(logits, 2))
}

/// Sum over counted positions, the last of each block excepted, of -log p(next token).
fn cross_entropy(
    log_p: &Tensor<3>,
    tokens: &Tensor<2, Int>,
    counts: &[bool],
) -> Result<f64, SaeError> {
    let [b, t, v] = log_p.dims();
    if t < 2 {
        return Ok(0.0);
    }
    let next = tokens.clone().slice([0..b, 1..t]).reshape([b, t - 1, 1]);
    let picked = log_p.clone().slice([0..b, 0..t - 1, 0..v]).gather(2, next); // [b, t - 1, 1]
    let picked = host(&picked)?;
    Ok(picked
        .chunks_exact(t - 1)
        .zip(counts.chunks_exact(t))
        .flat_map(|(values, counts)| values.iter().zip(counts))
        .filter(|(_, c)| **c)
        .map(|(v, _)| -f64::from(*v))
        .sum())
}

/// Sum over counted positions of KL(p ‖ q).
fn divergence(log_p: &Tensor<3>, log_q: Tensor<3>, counts: &[bool]) -> Result<f64, SaeError> {
    let each = (log_p.clone().exp() * (log_p.clone() - log_q)).sum_dim(2); // [b, t, 1]
    Ok(host(&each)?
        .iter()
        .zip(counts)
        .filter(|(_, c)| **c)
        .map(|(v, _)| f64::from(*v))
        .sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deterministic numbers in -1..1.
    fn numbers(n: usize, seed: u64) -> Vec<f32> {
        let mut s = seed;
        (0..n)
            .map(|_| {
                s = s
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                ((s >> 40) as f32 / (1u64 << 24) as f32) * 2.0 - 1.0
            })
            .collect()
    }

    #[test]
    fn reconstruction_figures_equal_their_formulas_written_out() {
        let d = 5;
        let sizes = [7usize, 4];
        let mut sums = ReconstructionSums::default();
        let (mut all_x, mut all_h) = (Vec::new(), Vec::new());
        let (mut legacy, mut bias) = (Vec::new(), Vec::new());
        for (b, n) in sizes.into_iter().enumerate() {
            let x: Vec<f32> = numbers(n * d, b as u64).iter().map(|v| v + 3.0).collect();
            let h: Vec<f32> = x
                .iter()
                .zip(numbers(n * d, 99 + b as u64))
                .map(|(x, e)| x + 0.3 * e)
                .collect();
            let mut counts = vec![true; n];
            counts[2] = false;
            sums.observe(&x, &h, d, &counts);
            let kept = |v: &[f32]| -> Vec<Vec<f64>> {
                v.chunks(d)
                    .enumerate()
                    .filter(|(i, _)| *i != 2)
                    .map(|(_, r)| r.iter().map(|v| f64::from(*v)).collect())
                    .collect()
            };
            let (x, h) = (kept(&x), kept(&h));
            let mean = column_mean(&x);
            for (x, h) in x.iter().zip(&h) {
                legacy.push(1.0 - distance(x, h) / distance(x, &mean));
            }
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            bias.push(
                h.iter().map(|h| dot(h, h)).sum::<f64>()
                    / x.iter().zip(&h).map(|(x, h)| dot(x, h)).sum::<f64>(),
            );
            all_x.extend(x);
            all_h.extend(h);
        }
        let n = all_x.len() as f64;
        assert_eq!(sums.tokens(), 9);
        let mean = column_mean(&all_x);
        let error: f64 = all_x.iter().zip(&all_h).map(|(x, h)| distance(x, h)).sum();
        let spread: f64 = all_x.iter().map(|x| distance(x, &mean)).sum();
        assert!((sums.fvu() - error / spread).abs() < 1e-9);
        assert!((sums.explained_variance_legacy() - legacy.iter().sum::<f64>() / n).abs() < 1e-9);
        assert!((sums.relative_reconstruction_bias() - (bias[0] + bias[1]) / 2.0).abs() < 1e-12);
        let norm = |a: &[f64]| a.iter().map(|v| v * v).sum::<f64>().sqrt();
        let ratio: f64 = all_x
            .iter()
            .zip(&all_h)
            .map(|(x, h)| norm(h) / norm(x))
            .sum();
        assert!((sums.l2_ratio() - ratio / n).abs() < 1e-12);
        let cosine: f64 = all_x
            .iter()
            .zip(&all_h)
            .map(|(x, h)| x.iter().zip(h).map(|(a, b)| a * b).sum::<f64>() / norm(x) / norm(h))
            .sum();
        assert!((sums.cossim() - cosine / n).abs() < 1e-12);
    }

    fn column_mean(rows: &[Vec<f64>]) -> Vec<f64> {
        (0..rows[0].len())
            .map(|j| rows.iter().map(|r| r[j]).sum::<f64>() / rows.len() as f64)
            .collect()
    }

    fn distance(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
    }

    #[test]
    fn code_figures_count_positive_values_of_counted_tokens() {
        let mut sums = CodeSums::new(4);
        sums.observe(
            &[2.0, 1.0, 5.0, 5.0, 3.0, 0.0],
            &[0, 1, 3, 3, 1, 2],
            2,
            &[true, false, true],
        );
        assert_eq!(sums.l0(), 1.5);
        assert_eq!(sums.l1(), 3.0);
        assert_eq!(sums.frac_alive(), 0.5);
    }

    #[test]
    fn cross_entropy_and_divergence_equal_sums_over_the_vocabulary() {
        let device = burn::tensor::Device::flex();
        let (b, t, v) = (2, 3, 4);
        let logits = |seed| numbers(b * t * v, seed);
        let tensor = |l: &[f32]| {
            log_softmax(
                Tensor::<3>::from_data(TensorData::new(l.to_vec(), [b, t, v]), &device),
                2,
            )
        };
        let tokens = [[1i32, 3, 0], [2, 2, 1]];
        let counts = [true, true, true, false, true, true];
        let (l, q) = (logits(1), logits(2));
        let log_p = |l: &[f32], at: usize| -> Vec<f64> {
            let row: Vec<f64> = l[at * v..(at + 1) * v]
                .iter()
                .map(|x| f64::from(*x))
                .collect();
            let z = row.iter().map(|x| x.exp()).sum::<f64>().ln();
            row.iter().map(|x| x - z).collect()
        };
        let ints = Tensor::<2, Int>::from_ints(tokens, &device);
        let found = cross_entropy(&tensor(&l), &ints, &counts).unwrap();
        // Positions (0,0) -> 3, (0,1) -> 0, (1,1) -> 1; (1,0) is special, the last of each block predicts nothing.
        let expected = -log_p(&l, 0)[3] - log_p(&l, 1)[0] - log_p(&l, 4)[1];
        assert!((found - expected).abs() < 1e-5);
        let found = divergence(&tensor(&l), tensor(&q), &counts).unwrap();
        let expected: f64 = (0..6)
            .filter(|at| counts[*at])
            .map(|at| {
                log_p(&l, at)
                    .iter()
                    .zip(log_p(&q, at))
                    .map(|(p, q)| p.exp() * (p - q))
                    .sum::<f64>()
            })
            .sum();
        assert!((found - expected).abs() < 1e-5);
    }
}
