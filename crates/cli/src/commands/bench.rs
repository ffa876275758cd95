//! `lapidary bench`: what a training step and the encoder cost here, against the floor and against other tools.

use crate::arguments::{DeviceArgument, device_name};
use crate::commands::bench_model::ModelBench;
use crate::commands::bench_pursuit::PursuitBench;
use crate::commands::bench_store;
use crate::commands::peers::Peers;
use anyhow::{Result, ensure};
use burn::tensor::{Device, Distribution, Tensor};
use clap::{Args, ValueEnum};
use lapidary_activations::ActivationMatrix;
use lapidary_kernels::{AdamStep, Moments, adam_step, encode_topk};
use lapidary_model::HookPoint;
use lapidary_sae::{RunConfig, TrainingRun};
use serde::Serialize;
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::Instant;

/// Time the training step and the encoder of a TopK coder on random activations
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary bench
  lapidary bench --vs-peers                  # from a checkout: beside sparsify, SAELens and dictionary_learning
  lapidary bench --device cuda --config G1 --json
  lapidary bench --config M1 --vs-peers      # matching pursuit, beside TopK, SAELens and overcomplete
  lapidary bench --store /data               # a store of activations on that disk, beside dd
  lapidary bench --model FOLDER --vs-peers   # harvesting and logits of a language model, beside transformers")]
pub struct Bench {
    #[command(flatten)]
    device: DeviceArgument,
    /// Sizes to measure at
    #[arg(long, value_enum, default_value_t = Config::C1, ignore_case = true)]
    config: Config,
    /// Timed steps, and timed encodings; medians are printed
    #[arg(long, default_value_t = 7, value_name = "N")]
    steps: usize,
    /// Also time other tools, in turn with ours. Makes their Python environment first (3 GB), unless LAPIDARY_PEERS_PYTHON
    /// names an interpreter that has them
    #[arg(long)]
    vs_peers: bool,
    /// The folder with the peers' scripts and setup_python.sh
    #[arg(long, default_value = "scripts", value_name = "DIR")]
    scripts: PathBuf,
    /// Instead time writing and reading a store of activations in this folder (3.2 GB for a while), beside dd
    #[arg(long, value_name = "DIR", conflicts_with_all = ["vs_peers", "config", "device"])]
    store: Option<PathBuf>,
    /// Instead time a language model: its activations at --hook, and its logits. --vs-peers then times transformers, which
    /// needs a folder in Hugging Face layout
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["config", "store"])]
    model: Option<String>,
    /// With --model: the hook point to stop at; the middle layer's output if not given
    #[arg(long, value_name = "HOOK", requires = "model")]
    hook: Option<HookPoint>,
    /// With --model: sequences of a pass
    #[arg(long, value_name = "N", default_value_t = 8, requires = "model")]
    batch: usize,
    /// With --model: tokens of a sequence
    #[arg(long, value_name = "N", default_value_t = 128, requires = "model")]
    context: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Config {
    /// d 768, F 24,576, k 32, 2,048 tokens a step
    #[value(name = "C1")]
    C1,
    /// d 768, F 24,576, k 32, 8,192 tokens a step
    #[value(name = "G1")]
    G1,
    /// d 4,096, F 131,072, k 64, 8,192 tokens a step
    #[value(name = "G2")]
    G2,
    /// matching pursuit: d 512, F 8,192, k 32, 2,048 tokens a step
    #[value(name = "M1")]
    M1,
    /// d 64, F 512, k 8, 128 tokens a step: to try the command
    #[value(name = "tiny")]
    Tiny,
    /// matching pursuit at the sizes of tiny
    #[value(name = "tiny-pursuit")]
    TinyPursuit,
}

/// Sizes of a coder and its batch.
#[derive(Clone, Copy, Serialize)]
pub struct Sizes {
    pub d_in: usize,
    pub d_sae: usize,
    pub k: usize,
    pub batch_tokens: usize,
}

impl Sizes {
    /// The first line of a table.
    pub fn headline(self, device: &str) -> String {
        format!(
            "{device}; d {}, F {}, k {}, {} tokens a step, f32\n",
            self.d_in, self.d_sae, self.k, self.batch_tokens
        )
    }

    /// What a batch takes, and the tokens a second that this is.
    pub fn timed(self, seconds: f64) -> String {
        format!(
            "{:>9.1} ms {:>9.0} tokens/s",
            seconds * 1e3,
            self.batch_tokens as f64 / seconds
        )
    }

    pub fn arguments(self) -> [(&'static str, String); 4] {
        [
            ("--d-in", self.d_in.to_string()),
            ("--d-sae", self.d_sae.to_string()),
            ("-k", self.k.to_string()),
            ("--batch-tokens", self.batch_tokens.to_string()),
        ]
    }
}

impl Config {
    const fn sizes(self) -> Sizes {
        let (d_in, d_sae, k, batch_tokens) = match self {
            Self::C1 => (768, 24_576, 32, 2048),
            Self::G1 => (768, 24_576, 32, 8192),
            Self::G2 => (4096, 131_072, 64, 8192),
            Self::M1 => (512, 8192, 32, 2048),
            Self::Tiny | Self::TinyPursuit => (64, 512, 8, 128),
        };
        Sizes {
            d_in,
            d_sae,
            k,
            batch_tokens,
        }
    }
}

/// What was measured. Times are medians in seconds; a ratio above 1 says that this program is faster.
#[derive(Serialize)]
struct Findings {
    device: String,
    #[serde(flatten)]
    sizes: Sizes,
    step_seconds: f64,
    step_tokens_per_second: f64,
    encode_seconds: f64,
    encode_tokens_per_second: f64,
    /// A dense f32 product of the encoder's size, by the library that the device has for it.
    product_seconds: f64,
    /// One pass of Adam over all weights.
    adam_seconds: f64,
    /// Step over product and Adam's pass.
    floor_ratio: f64,
    /// Memory that making and running the trainer added at its peak, its batch included; Linux only, and no device memory.
    peak_bytes: Option<u64>,
    /// Weights, Adam's moments and one batch, in f32.
    least_bytes: u64,
    step_vs_sparsify: Option<f64>,
    step_vs_saelens: Option<f64>,
    step_vs_dictionary_learning: Option<f64>,
    encode_vs_best_peer: Option<f64>,
    /// Seconds of each tool's step and encoding, ours among them, as timed in turn.
    in_turn: Vec<InTurn>,
}

/// A tool's medians in the rounds that all tools shared.
#[derive(Serialize)]
struct InTurn {
    tool: String,
    version: String,
    step_seconds: f64,
    encode_seconds: f64,
}

impl Bench {
    pub fn run(self) -> Result<()> {
        ensure!(self.steps > 0, "--steps: found 0, expected at least 1");
        if let Some(folder) = &self.store {
            return bench_store::run(folder, self.steps, self.json);
        }
        let device = self.device.open()?;
        if let Some(model) = &self.model {
            let bench = ModelBench {
                model,
                hook: self.hook,
                batch: self.batch,
                context: self.context,
                rounds: self.steps,
                peers: self.vs_peers.then_some(&*self.scripts),
                json: self.json,
            };
            return bench.run(&device);
        }
        let sizes = self.config.sizes();
        if matches!(self.config, Config::M1 | Config::TinyPursuit) {
            let bench = PursuitBench {
                sizes,
                rounds: self.steps,
                peers: self.vs_peers.then_some(&*self.scripts),
                json: self.json,
            };
            return bench.run(&device);
        }
        let mut peers = match self.vs_peers {
            true => Some(Peers::start(
                &self.scripts,
                "bench_peers.py",
                &sizes.arguments(),
                &device,
            )?),
            false => None,
        };
        let before = memory::resident();
        memory::forget_peak();
        let mut ours = Ours::new("topk", sizes, &device)?;
        ours.step()?;
        ours.encode()?;
        let mut times = [vec![], vec![]];
        for _ in 0..self.steps {
            times[0].push(ours.step()?);
            times[1].push(ours.encode()?);
        }
        let peak_bytes = memory::peak()
            .zip(before)
            .filter(|_| device == Device::flex())
            .map(|(peak, before)| peak.saturating_sub(before));
        let [step_seconds, encode_seconds] = times.map(median);
        let (product_seconds, adam_seconds) = floor(sizes, &device, self.steps)?;

        let in_turn = match &mut peers {
            Some(peers) => in_turn(peers, &mut ours, self.steps)?,
            None => vec![],
        };
        let versus = |tool: &str| {
            let ours = in_turn.first()?;
            let other = in_turn.iter().find(|t| t.tool == tool)?;
            Some(other.step_seconds / ours.step_seconds)
        };
        let weights = (2 * sizes.d_in + 1) * sizes.d_sae + sizes.d_in;
        let findings = Findings {
            device: device_name(&device),
            sizes,
            step_seconds,
            step_tokens_per_second: sizes.batch_tokens as f64 / step_seconds,
            encode_seconds,
            encode_tokens_per_second: sizes.batch_tokens as f64 / encode_seconds,
            product_seconds,
            adam_seconds,
            floor_ratio: step_seconds / (product_seconds + adam_seconds),
            peak_bytes,
            least_bytes: 4 * (3 * weights + sizes.batch_tokens * sizes.d_in) as u64,
            step_vs_sparsify: versus("sparsify"),
            step_vs_saelens: versus("saelens"),
            step_vs_dictionary_learning: versus("dictionary_learning"),
            encode_vs_best_peer: in_turn.split_first().and_then(|(ours, peers)| {
                let best = peers.iter().map(|p| p.encode_seconds).reduce(f64::min)?;
                Some(best / ours.encode_seconds)
            }),
            in_turn,
        };
        let mut out = stdout();
        match self.json {
            true => writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?,
            false => write!(out, "{}", findings.table())?,
        }
        Ok(())
    }
}

/// Ours and every peer, one after the other, round after round. In its turn each does a thing twice and the second time
/// counts, since in training a step follows a step: the first finds the caches and cores as another program left them.
fn in_turn(peers: &mut Peers, ours: &mut Ours, rounds: usize) -> Result<Vec<InTurn>> {
    let mut times = vec![[vec![], vec![]]; 1 + peers.tools().len()];
    for round in 0..=rounds {
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
        let config = RunConfig::parse("bench", &recipe, &[])?;
        let source = ActivationMatrix::new(x.clone(), batch_tokens, 0)?;
        let mut trainer = TrainingRun::new(&[config], Box::new(source), device)?;
        trainer.step()?; // The first step is logged.
        Ok(Self {
            trainer,
            x,
            k,
            pursues: architecture == "matching_pursuit",
            device: device.clone(),
        })
    }

    pub fn step(&mut self) -> Result<f64> {
        let start = Instant::now();
        self.trainer.step()?;
        self.device.sync()?;
        Ok(start.elapsed().as_secs_f64())
    }

    pub fn encode(&self) -> Result<f64> {
        let coder = self.trainer.trainers()[0].coder();
        let start = Instant::now();
        let x = self.x.clone();
        let codes = match self.pursues {
            true => coder.encode(x),
            false => encode_topk(x, coder.w_enc(), coder.b_enc(), self.k),
        };
        self.device.sync()?;
        let seconds = start.elapsed().as_secs_f64();
        drop(codes);
        Ok(seconds)
    }
}

/// Seconds of a dense f32 product as large as the encoder's, a slice of latents at a time, and of Adam over encoder and decoder.
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

impl Findings {
    fn table(&self) -> String {
        let s = self.sizes;
        let mut text = s.headline(&self.device);
        let mut line = |name: &str, value: String| text += &format!("{name:<28} {value}\n");
        let timed = |seconds: f64| s.timed(seconds);
        line("training step", timed(self.step_seconds));
        line("encode", timed(self.encode_seconds));
        line("dense product, f32", timed(self.product_seconds));
        line(
            "Adam, all weights",
            format!("{:>9.1} ms", self.adam_seconds * 1e3),
        );
        line(
            "step / (product + Adam)",
            format!("{:>9.2}", self.floor_ratio),
        );
        if let Some(peak) = self.peak_bytes {
            line(
                "peak memory",
                format!(
                    "{:>9.0} MB, {:.2} times weights, moments and batch",
                    peak as f64 / 1e6,
                    peak as f64 / self.least_bytes as f64
                ),
            );
        }
        for tool in &self.in_turn {
            line(
                &format!("{} {}", tool.tool, tool.version),
                format!(
                    "step {}   encode {}",
                    timed(tool.step_seconds),
                    timed(tool.encode_seconds)
                ),
            );
        }
        for (name, ratio) in [
            ("step against sparsify", self.step_vs_sparsify),
            ("step against SAELens", self.step_vs_saelens),
            (
                "step against dictionary_learning",
                self.step_vs_dictionary_learning,
            ),
            ("encode against the best peer", self.encode_vs_best_peer),
        ] {
            if let Some(ratio) = ratio {
                line(name, format!("{ratio:>9.2} times as fast"));
            }
        }
        text
    }
}

/// This process's memory, as Linux tells it.
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

    /// Starts the peak anew from what is resident now. Where that is not allowed the peak is that of the whole process.
    pub fn forget_peak() {
        let _ = std::fs::write("/proc/self/clear_refs", "5");
    }
}
