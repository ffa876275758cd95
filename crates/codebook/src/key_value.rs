//! The discrete key-value bottleneck (Träuble et al. 2022, "Discrete Key-Value Bottleneck", arXiv
//! 2207.11240), for classes that are learned one after the other.
//!
//! ```text
//! p_c    = h W_c                      [d_key], W_c fixed and random, for each of C codebooks
//! k_c    = the nearest of P keys of codebook c (squared distance)
//! logits = mean over c of v_{c, k_c}  [classes]
//! ```
//!
//! Keys follow unlabelled inputs by moving averages and are then frozen. Training changes only the
//! values that were fetched, so what other inputs fetch is not forgotten.

use crate::data::{generator, stream};
use crate::init::normal;
use crate::memory::{product, too_large};
use crate::{Assignment, CodebookError, nearest_codes};
use burn::tensor::{Device, Tensor, TensorData};
use lapidary_kernels::EncoderState;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Sizes and rates. The defaults are the paper's for CIFAR-10.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyValueOptions {
    /// Codebooks.
    pub codebooks: usize,
    /// Keys of a codebook.
    pub keys: usize,
    /// Width of a key.
    pub d_key: usize,
    /// Classes.
    pub classes: usize,
    /// Decay of the moving averages of keys.
    pub decay: f64,
    /// A key whose average count falls below this share of what it would be if all keys were used
    /// alike moves to an input.
    pub expiry: f64,
    /// Learning rate of values. It is multiplied by the number of codebooks, since the mean over
    /// them divides the gradient by it.
    pub lr: f64,
    /// Share of the target that is spread over all classes.
    pub label_smoothing: f64,
}

impl Default for KeyValueOptions {
    fn default() -> Self {
        Self {
            codebooks: 256,
            keys: 4096,
            d_key: 14,
            classes: 10,
            decay: 0.95,
            expiry: 0.1,
            lr: 0.3,
            label_smoothing: 0.1,
        }
    }
}

impl KeyValueOptions {
    /// Sizes that do not fit into memory: the f64 of keys, sums, counts and values, and
    /// projections. Returns the name of the largest size, the size, and what is expected.
    pub(crate) fn too_large(&self, d_in: usize) -> Option<(&'static str, usize, String)> {
        let of_key = self.d_key.saturating_mul(2).saturating_add(self.classes);
        let keys = product(&[self.codebooks, self.keys, of_key.saturating_add(1), 2]);
        let numbers = keys.saturating_add(product(&[d_in, self.codebooks, self.d_key]));
        let expected = too_large(numbers)?;
        let sizes = [
            ("d_in", d_in),
            ("classes", self.classes),
            ("codebooks", self.codebooks),
            ("d_key", self.d_key),
            ("keys", self.keys),
        ];
        let (key, size) = sizes.into_iter().max_by_key(|(_, size)| *size)?;
        Some((key, size, expected))
    }
}

/// Added to counts so that no key is divided by 0 (Laplace smoothing).
const EPSILON: f64 = 1e-5;

/// Projections, keys and values.
pub struct KeyValueBottleneck {
    options: KeyValueOptions,
    /// `[d_in, codebooks * d_key]`
    projections: Tensor<2>,
    /// `[codebooks * keys, d_key]`, none before [`Self::start_keys`].
    keys: Option<Vec<f64>>,
    /// Moving averages of counts, `[codebooks * keys]`, and of sums of inputs.
    counts: Vec<f64>,
    sums: Vec<f64>,
    /// `[codebooks * keys, classes]`
    values: Vec<f64>,
    rng: ChaCha8Rng,
    device: Device,
}

impl KeyValueBottleneck {
    /// Draws the projections, normal with standard deviation 1/√d_in; values are 0.
    ///
    /// # Errors
    /// When a size is 0, or all together do not fit into memory.
    pub fn new(
        options: KeyValueOptions,
        d_in: usize,
        seed: u64,
        device: &Device,
    ) -> Result<Self, CodebookError> {
        let o = &options;
        let sizes = [
            ("codebooks", o.codebooks),
            ("keys", o.keys),
            ("d_key", o.d_key),
            ("classes", o.classes),
            ("d_in", d_in),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(CodebookError::value(*name, 0, "at least 1"));
        }
        if let Some((name, found, expected)) = o.too_large(d_in) {
            return Err(CodebookError::value(name, found, expected));
        }
        let mut rng = generator(seed, stream::CODES, 0);
        let width = o.codebooks * o.d_key;
        let scale = 1.0 / (d_in as f32).sqrt();
        let projections: Vec<f32> = (0..d_in * width)
            .map(|_| scale * normal(&mut rng))
            .collect();
        let projections = TensorData::new(projections, [d_in, width]);
        Ok(Self {
            projections: Tensor::from_data(projections, device),
            keys: None,
            counts: vec![1.0; o.codebooks * o.keys],
            sums: vec![0.0; o.codebooks * o.keys * o.d_key],
            values: vec![0.0; o.codebooks * o.keys * o.classes],
            options,
            rng,
            device: device.clone(),
        })
    }

    /// Sizes and rates.
    pub fn options(&self) -> &KeyValueOptions {
        &self.options
    }

    /// The values, `[codebooks * keys, classes]`.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The keys, `[codebooks * keys, d_key]`; none before [`Self::start_keys`].
    pub fn keys(&self) -> Option<&[f64]> {
        self.keys.as_deref()
    }

    /// Inputs `[n, d_in]` seen by the codebooks, `[n, codebooks * d_key]`.
    ///
    /// # Panics
    /// When inputs have another width, here and wherever inputs are read.
    pub fn project(&self, h: &Tensor<2>) -> Tensor<2> {
        h.clone().matmul(self.projections.clone())
    }

    /// Puts each key at the projection of a random input; of `h` `[n, d_in]` each is used as often
    /// as the others.
    ///
    /// # Errors
    /// When there are no inputs.
    pub fn start_keys(&mut self, h: &Tensor<2>) -> Result<(), CodebookError> {
        let n = h.dims()[0];
        if n == 0 {
            return Err(CodebookError::value(
                "inputs",
                0,
                "at least 1 to start keys",
            ));
        }
        let o = &self.options;
        let p: Vec<f32> = self.project(h).into_data().iter::<f32>().collect();
        let mut keys = Vec::with_capacity(self.sums.len());
        for codebook in 0..o.codebooks {
            let mut rows: Vec<usize> = vec![];
            for _ in 0..o.keys {
                if rows.is_empty() {
                    rows = rand::seq::index::sample(&mut self.rng, n, n).into_vec();
                }
                let row = rows.pop().expect("n is at least 1");
                let from = (row * o.codebooks + codebook) * o.d_key;
                keys.extend(p[from..][..o.d_key].iter().map(|v| f64::from(*v)));
            }
        }
        self.sums.clone_from(&keys);
        self.counts.fill(1.0);
        self.keys = Some(keys);
        Ok(())
    }

    /// The nearest key of each codebook for `h` `[n, d_in]`, `[n, codebooks]`, as rows of all keys.
    ///
    /// # Errors
    /// When keys were never started.
    pub fn nearest(&self, h: &Tensor<2>) -> Result<Vec<usize>, CodebookError> {
        self.nearest_of(&self.project(h))
    }

    fn nearest_of(&self, projected: &Tensor<2>) -> Result<Vec<usize>, CodebookError> {
        let o = &self.options;
        let Some(keys) = &self.keys else {
            let expected = "keys that were started from inputs";
            return Err(CodebookError::value("keys", "none", expected));
        };
        let n = projected.dims()[0];
        let mut out = vec![0; n * o.codebooks];
        for codebook in 0..o.codebooks {
            let size = o.keys * o.d_key;
            let own = keys[codebook * size..][..size].iter().map(|v| *v as f32);
            let own = TensorData::new(own.collect::<Vec<f32>>(), [o.keys, o.d_key]);
            let own = Tensor::from_data(own, &self.device);
            let p = projected.clone().narrow(1, codebook * o.d_key, o.d_key);
            let state = EncoderState::default();
            let near = nearest_codes(p, own, 1, Assignment::Euclidean, &state).indices;
            for (row, key) in near.into_data().iter::<i64>().enumerate() {
                out[row * o.codebooks + codebook] = codebook * o.keys + key as usize;
            }
        }
        Ok(out)
    }

    /// One step of the keys on unlabelled inputs `[n, d_in]`: `N ← γN + (1−γ)n`,
    /// `S ← γS + (1−γ)Σp`, key = S / N with Laplace smoothing; expired keys move to inputs.
    ///
    /// # Errors
    /// When keys were never started.
    pub fn update_keys(&mut self, h: &Tensor<2>) -> Result<(), CodebookError> {
        let projected = self.project(h);
        let near = self.nearest_of(&projected)?;
        let p: Vec<f32> = projected.into_data().iter::<f32>().collect();
        let o = &self.options;
        let n = h.dims()[0];
        let keep = o.decay;
        self.counts.iter_mut().for_each(|c| *c *= keep);
        self.sums.iter_mut().for_each(|s| *s *= keep);
        for (place, key) in near.iter().enumerate() {
            self.counts[*key] += 1.0 - keep;
            // The order of places is that of the projections.
            let from = &p[place * o.d_key..][..o.d_key];
            let sum = &mut self.sums[key * o.d_key..][..o.d_key];
            sum.iter_mut()
                .zip(from)
                .for_each(|(s, v)| *s += (1.0 - keep) * f64::from(*v));
        }
        let least = o.expiry * n as f64 / o.keys as f64;
        let Some(keys) = &mut self.keys else {
            return Ok(());
        };
        for codebook in 0..o.codebooks {
            let own = codebook * o.keys..(codebook + 1) * o.keys;
            let total: f64 = self.counts[own.clone()].iter().sum();
            for key in own {
                let sum = &mut self.sums[key * o.d_key..][..o.d_key];
                if self.counts[key] < least {
                    let row = self.rng.random_range(0..n);
                    let from = &p[(row * o.codebooks + codebook) * o.d_key..][..o.d_key];
                    sum.iter_mut()
                        .zip(from)
                        .for_each(|(s, v)| *s = f64::from(*v));
                    self.counts[key] = 1.0;
                    keys[key * o.d_key..][..o.d_key].copy_from_slice(sum);
                    continue;
                }
                let smoothed = (self.counts[key] + EPSILON) / (total + o.keys as f64 * EPSILON);
                let count = smoothed * total;
                let place = &mut keys[key * o.d_key..][..o.d_key];
                place.iter_mut().zip(sum).for_each(|(k, s)| *k = *s / count);
            }
        }
        Ok(())
    }

    /// Logits of fetched keys `[n, codebooks]`, `[n, classes]`.
    pub fn logits(&self, fetched: &[usize]) -> Vec<f64> {
        let o = &self.options;
        let mut out = Vec::with_capacity(fetched.len() / o.codebooks * o.classes);
        for keys in fetched.chunks(o.codebooks) {
            let mut sum = vec![0.0; o.classes];
            for key in keys {
                let value = &self.values[key * o.classes..][..o.classes];
                sum.iter_mut().zip(value).for_each(|(s, v)| *s += v);
            }
            out.extend(sum.into_iter().map(|s| s / o.codebooks as f64));
        }
        out
    }

    /// One step of stochastic gradient descent on the values that a batch fetched,
    /// `[n, codebooks]`, by cross-entropy with its labels `[n]`, which are below the number of
    /// classes. No other value changes.
    pub fn train_values(&mut self, fetched: &[usize], labels: &[usize]) {
        let logits = self.logits(fetched);
        let o = &self.options;
        let (n, k) = (labels.len() as f64, o.classes);
        for ((keys, label), logits) in fetched
            .chunks(o.codebooks)
            .zip(labels)
            .zip(logits.chunks(k))
        {
            let gradient = cross_entropy_gradient(logits, *label, o.label_smoothing);
            for key in keys {
                let value = &mut self.values[key * k..][..k];
                // lr · codebooks · (1/codebooks) / n
                value
                    .iter_mut()
                    .zip(&gradient)
                    .for_each(|(v, g)| *v -= o.lr * g / n);
            }
        }
    }
}

/// softmax(logits) minus the smoothed target.
pub(crate) fn cross_entropy_gradient(logits: &[f64], label: usize, smoothing: f64) -> Vec<f64> {
    let most = logits.iter().fold(f64::MIN, |a, b| a.max(*b));
    let exp: Vec<f64> = logits.iter().map(|l| (l - most).exp()).collect();
    let sum: f64 = exp.iter().sum();
    let spread = smoothing / logits.len() as f64;
    let target = |i: usize| spread + if i == label { 1.0 - smoothing } else { 0.0 };
    exp.iter()
        .enumerate()
        .map(|(i, e)| e / sum - target(i))
        .collect()
}
