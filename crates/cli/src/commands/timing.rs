//! What a training step and the encoder cost, beside a dense product, Adam's pass and other tools.

use super::peers::Peers;
use super::sizes::Sizes;
use super::step_parts::{Part, step_parts};
use anyhow::Result;
use burn::tensor::{Device, Distribution, Tensor};
use lapidary_activations::{ActivationMatrix, BatchSource, NormalizationKind, Store, StoreBatches};
use lapidary_coder::{ArchitectureKind, Coder};
use lapidary_kernels::{AdamStep, Moments, adam_step, encode_topk};
use lapidary_sae::{Recipe, TrainingRun};
use serde::Serialize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often something is timed.
#[derive(Clone, Copy)]
pub struct Rounds {
    pub most: usize,
    /// No round but the first begins when this has passed.
    pub patience: Duration,
}

impl Rounds {
    fn go_on(self, done: usize, begun: Instant) -> bool {
        done == 0 || (done < self.most && begun.elapsed() < self.patience)
    }
}

/// What was measured. Times are medians in seconds; a ratio above 1 says that this program is
/// faster.
#[derive(Serialize)]
pub struct Findings {
    pub device: String,
    #[serde(flatten)]
    pub sizes: Sizes,
    /// Making the coder, its first two steps and its first encoding: on a GPU also compiling their
    /// kernels.
    pub start_seconds: f64,
    pub step_seconds: f64,
    pub step_tokens_per_second: f64,
    /// A step of as many in a row, with the device waited for only after the last: what training
    /// has. The same as a step on the CPU.
    pub step_in_a_row_seconds: f64,
    pub encode_seconds: f64,
    pub encode_tokens_per_second: f64,
    /// A dense f32 product of the encoder's size, by the library that the device has for it.
    pub product_seconds: f64,
    /// One pass of Adam over all weights.
    pub adam_seconds: f64,
    /// Step over product and Adam's pass.
    pub floor_ratio: f64,
    /// The parts of a step, each by itself.
    pub parts: Vec<Part>,
    /// Memory that making and running the trainer added at its peak, its batch included; Linux
    /// only, and no device memory.
    pub peak_bytes: Option<u64>,
    /// Weights, Adam's moments and one batch, in f32.
    pub least_bytes: u64,
    pub step_vs_sparsify: Option<f64>,
    pub step_vs_saelens: Option<f64>,
    pub step_vs_dictionary_learning: Option<f64>,
    pub encode_vs_best_peer: Option<f64>,
    /// Seconds of each tool's step and encoding, ours among them, as timed in turn.
    pub in_turn: Vec<InTurn>,
}

/// A tool's medians in the rounds that all tools shared.
#[derive(Serialize)]
pub struct InTurn {
    pub tool: String,
    pub version: String,
    pub step_seconds: f64,
    pub encode_seconds: f64,
}

impl Findings {
    /// Times a TopK coder of these sizes on random activations, alone and then in turn with the
    /// peers, in as many rounds each.
    pub fn measure(
        sizes: Sizes,
        device: &Device,
        device_name: String,
        rounds: Rounds,
        mut peers: Option<Peers>,
    ) -> Result<Self> {
        let before = memory::resident();
        memory::forget_peak();
        let start = Instant::now();
        let mut ours = Ours::new("topk", sizes, device)?;
        ours.step()?;
        ours.encode()?;
        let start_seconds = start.elapsed().as_secs_f64();
        let mut times = [vec![], vec![]];
        let begun = Instant::now();
        while rounds.go_on(times[0].len(), begun) {
            times[0].push(ours.step()?);
            times[1].push(ours.encode()?);
        }
        let done = times[0].len();
        let peak_bytes = memory::peak()
            .zip(before)
            .filter(|_| *device == Device::flex())
            .map(|(peak, before)| peak.saturating_sub(before));
        let [step_seconds, encode_seconds] = times.map(median);
        let step_in_a_row_seconds = ours.steps(done)? / done as f64;
        let (product_seconds, adam_seconds) = floor(sizes, device, done)?;
        let parts = step_parts(sizes, device, done)?;

        let in_turn = match &mut peers {
            Some(peers) => in_turn(peers, &mut ours, rounds)?,
            None => vec![],
        };
        let versus = |tool: &str| {
            let ours = in_turn.first()?;
            let other = in_turn.iter().find(|t| t.tool == tool)?;
            Some(other.step_seconds / ours.step_seconds).filter(|ratio| ratio.is_finite())
        };
        let weights = (2 * sizes.d_in + 1) * sizes.d_sae + sizes.d_in;
        Ok(Self {
            device: device_name,
            sizes,
            start_seconds,
            step_seconds,
            step_tokens_per_second: sizes.batch_tokens as f64 / step_seconds,
            step_in_a_row_seconds,
            encode_seconds,
            encode_tokens_per_second: sizes.batch_tokens as f64 / encode_seconds,
            product_seconds,
            adam_seconds,
            floor_ratio: step_seconds / (product_seconds + adam_seconds),
            parts,
            peak_bytes,
            least_bytes: 4 * (3 * weights + sizes.batch_tokens * sizes.d_in) as u64,
            step_vs_sparsify: versus("sparsify"),
            step_vs_saelens: versus("saelens"),
            step_vs_dictionary_learning: versus("dictionary_learning"),
            encode_vs_best_peer: in_turn.split_first().and_then(|(ours, peers)| {
                let best = peers.iter().map(|p| p.encode_seconds).reduce(f64::min)?;
                Some(best / ours.encode_seconds).filter(|ratio| ratio.is_finite())
            }),
            in_turn,
        })
    }
}

/// Ours and every peer, one after the other, round after round. In its turn each does a thing twice
/// and the second time counts, since in training a step follows a step: the first finds the caches
/// and cores as another program left them.
fn in_turn(peers: &mut Peers, ours: &mut Ours, rounds: Rounds) -> Result<Vec<InTurn>> {
    let mut times = vec![[vec![], vec![]]; 1 + peers.tools().len()];
    let (mut round, begun) = (0, Instant::now());
    while round == 0 || rounds.go_on(round - 1, begun) {
        for (tool, times) in times.iter_mut().enumerate() {
            let mut twice = |what: &str| {
                let mut once = || match tool.checked_sub(1) {
                    None if what == "step" => ours.step(),
                    None => ours.encode(),
                    Some(peer) => peers.time(peer, what),
                };
                once()?;
                once()
            };
            let [step, encode] = [twice("step")?, twice("encode")?];
            // The first round warms everybody up.
            if round > 0 {
                times[0].push(step);
                times[1].push(encode);
            }
        }
        round += 1;
    }
    let ours = ("lapidary".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    let names = std::iter::once(ours).chain(peers.tools().iter().cloned());
    let medians = times.into_iter().map(|times| times.map(median));
    Ok(names
        .zip(medians)
        .map(|((tool, version), [step_seconds, encode_seconds])| InTurn {
            tool,
            version,
            step_seconds,
            encode_seconds,
        })
        .collect())
}

/// A coder in training on random activations.
pub struct Ours {
    trainer: TrainingRun,
    x: Tensor<2>,
    k: usize,
    pursues: bool,
    device: Device,
}

impl Ours {
    pub fn new(architecture: &str, sizes: Sizes, device: &Device) -> Result<Self> {
        let Sizes {
            d_in,
            d_sae,
            k,
            batch_tokens,
        } = sizes;
        device.seed(0);
        let x = Tensor::<2>::random([batch_tokens, d_in], Distribution::Normal(0.0, 1.0), device);
        // No log and no dead latents in the steps that are timed.
        let recipe = format!(
            "[coder]\narchitecture = '{architecture}'\nd_sae = {d_sae}\nk = {k}\nb_dec_init = 'mean'\n\
             [training]\nbatch_tokens = {batch_tokens}\ntokens = {}\nlr = 1e-4\nlog_every_steps = 1000000\n\
             dead_after_tokens = 1000000000000\n",
            1_000_000 * batch_tokens
        );
        let source = ActivationMatrix::new(x.clone(), batch_tokens, 0)?;
        Self::of_recipe(&recipe, Box::new(source), x, k, device)
    }

    /// A TopK coder with defaults for `steps` steps, in training on rows of a store; rows of
    /// another order are encoded.
    pub fn on_store(
        store: &Arc<Store>,
        hook: &str,
        sizes: Sizes,
        steps: usize,
        device: &Device,
    ) -> Result<Self> {
        const WINDOW: usize = 1 << 16;
        let Sizes {
            d_sae,
            k,
            batch_tokens,
            ..
        } = sizes;
        let recipe = format!(
            "[coder]\narchitecture = 'topk'\nd_sae = {d_sae}\nk = {k}\n\
             [training]\nbatch_tokens = {batch_tokens}\ntokens = {}\nlog_every_steps = 1000000\n",
            steps * batch_tokens
        );
        let batches = |seed| {
            StoreBatches::new(
                store.clone(),
                &[hook],
                batch_tokens,
                WINDOW,
                NormalizationKind::default(),
                seed,
                device,
            )
        };
        let x = batches(1)?.next_batch()?.remove(0);
        Self::of_recipe(&recipe, Box::new(batches(0)?), x, k, device)
    }

    fn of_recipe(
        recipe: &str,
        source: Box<dyn BatchSource>,
        x: Tensor<2>,
        k: usize,
        device: &Device,
    ) -> Result<Self> {
        let config = Recipe::parse("bench", recipe, &[])?;
        let pursues = config.coder.architecture == ArchitectureKind::MatchingPursuit;
        let mut trainer = TrainingRun::new(&[config], source, device)?;
        trainer.step()?; // The first step is logged.
        Ok(Self {
            trainer,
            x,
            k,
            pursues,
            device: device.clone(),
        })
    }

    pub fn step(&mut self) -> Result<f64> {
        self.steps(1)
    }

    pub fn steps(&mut self, count: usize) -> Result<f64> {
        let start = Instant::now();
        for _ in 0..count {
            self.trainer.step()?;
        }
        self.device.sync()?;
        Ok(start.elapsed().as_secs_f64())
    }

    pub fn encode(&self) -> Result<f64> {
        let coder = self.trainer.trainers()[0].coder();
        let b_enc = coder.latent_vector("b_enc");
        // What the coder subtracts from its input is no part of the encoder.
        let x = coder.layers()[0].centre(self.x.clone());
        self.device.sync()?;
        let start = Instant::now();
        let codes = match b_enc {
            Some(b_enc) if !self.pursues => {
                let state = coder.layers()[0].weights.encoder_state();
                encode_topk(x, coder.w_enc(), b_enc, self.k, state)
            }
            _ => coder.encode(self.x.clone()),
        };
        self.device.sync()?;
        let seconds = start.elapsed().as_secs_f64();
        drop(codes);
        Ok(seconds)
    }
}

/// Seconds of a dense f32 product as large as the encoder's, a slice of latents at a time, and of
/// Adam over encoder and decoder.
fn floor(sizes: Sizes, device: &Device, times: usize) -> Result<(f64, f64)> {
    const SLICE: usize = 4096;
    let normal = |shape| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), device);
    let x = normal([sizes.batch_tokens, sizes.d_in]);
    let slice = sizes.d_sae.min(SLICE);
    let w = normal([sizes.d_in, slice]);
    let slices = sizes.d_sae as f64 / slice as f64;
    let weights = || normal([sizes.d_sae, sizes.d_in]);
    let (mut param, grad) = (weights(), weights());
    let mut moments = Moments {
        m: param.zeros_like(),
        v: param.zeros_like(),
    };
    let (mut products, mut updates) = (vec![], vec![]);
    for step in 0..=times as u64 {
        let start = Instant::now();
        let product = x.clone().matmul(w.clone());
        device.sync()?;
        let seconds = start.elapsed().as_secs_f64() * slices;
        drop(product);
        let adam = AdamStep {
            lr: 1e-4,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            step: step + 1,
        };
        let start = Instant::now();
        (param, moments) = adam_step(param, grad.clone(), moments, &adam);
        device.sync()?;
        if step > 0 {
            products.push(seconds);
            updates.push(2.0 * start.elapsed().as_secs_f64());
        }
    }
    Ok((median(products), median(updates)))
}

pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// This process's memory, as Linux tells it.
// Not by a crate: memory-stats and sysinfo know no peak, and procfs does not build elsewhere.
pub mod memory {
    fn status(field: &str) -> Option<u64> {
        let text = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = text.lines().find(|line| line.starts_with(field))?;
        let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kilobytes * 1024)
    }

    pub fn resident() -> Option<u64> {
        status("VmRSS:")
    }

    pub fn peak() -> Option<u64> {
        status("VmHWM:")
    }

    /// Starts the peak anew from what is resident now. Where that is not allowed the peak is that
    /// of the whole process.
    pub fn forget_peak() {
        let _ = std::fs::write("/proc/self/clear_refs", "5");
    }
}
