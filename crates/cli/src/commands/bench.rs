//! `lapidary bench`: what a training step and the encoder cost here, against the floor and against
//! other tools.

use crate::arguments::DeviceArgument;
use crate::commands::bench_activations::ActivationsBench;
use crate::commands::bench_codebook::CodebookBench;
use crate::commands::bench_model::ModelBench;
use crate::commands::bench_pursuit::PursuitBench;
use crate::commands::bench_statistics::StatisticsBench;
use crate::commands::bench_store;
use crate::commands::peers::Peers;
use crate::commands::sizes::Sizes;
use crate::commands::timing::{Findings, Rounds};
use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use lapidary::device::device_name;
use lapidary_model::HookPoint;
use std::io::{Write, stdout};
use std::path::PathBuf;
use std::time::Duration;

/// Time the training step and the encoder of a TopK coder on random activations
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary bench
  lapidary bench --vs-peers                  # compare with sparsify, SAELens and dictionary_learning; from a checkout
  lapidary bench --device cuda --config G1 --json
  lapidary bench --config M1 --vs-peers      # compare matching pursuit with TopK, SAELens and overcomplete
  lapidary bench --config K1                 # assign codes of a codebook; compare with the TopK encoder
  lapidary bench --config F1                 # gather statistics of latents; compare with the TopK encoder
  lapidary bench --store /data               # write and read a store of activations on that disk; compare with dd
  lapidary bench --activations store         # train on stored activations; compare with random numbers of the same shape
  lapidary bench --model FOLDER --vs-peers   # activations and logits of a language model; compare with transformers")]
pub struct Bench {
    #[command(flatten)]
    device: DeviceArgument,
    /// Sizes to measure
    #[arg(long, value_enum, default_value_t = Config::C1, ignore_case = true)]
    config: Config,
    /// Number of training steps and number of encodings to time; their medians are printed
    #[arg(long, default_value_t = 7, value_name = "N")]
    steps: usize,
    /// Also time other tools, in alternation with Lapidary. The first use installs a Python
    /// environment with these tools (3 GB). If LAPIDARY_PEERS_PYTHON is set, it names the Python to
    /// use, which must have these tools
    #[arg(long)]
    vs_peers: bool,
    /// Folder with setup_python.sh and the scripts that time other tools
    #[arg(long, default_value = "scripts", value_name = "DIR")]
    scripts: PathBuf,
    /// Time a store of activations instead of training: write and read a store in this folder, and
    /// compare the speed with dd. This needs 3.2 GB of temporary disk space
    #[arg(long, value_name = "DIR", conflicts_with_all = ["vs_peers", "config", "device"])]
    store: Option<PathBuf>,
    /// Time the training step and the encoder on the activations of this store, after 200 training
    /// steps on them, and on random numbers of the same shape. `lapidary harvest` writes stores
    #[arg(long, value_name = "STORE", conflicts_with_all = ["vs_peers", "config", "store", "model"])]
    activations: Option<PathBuf>,
    /// With --activations: number of latents; default: 32 times the width of the activations
    #[arg(long, value_name = "N", requires = "activations", value_parser = clap::value_parser!(u32).range(1..))]
    d_sae: Option<u32>,
    /// With --activations: number of active latents per token
    #[arg(short, value_name = "K", requires = "activations", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    k: u32,
    /// Time a language model instead of training: compute its activations at --hook, and its
    /// logits. With --vs-peers, transformers is timed too; MODEL must then be a folder in Hugging
    /// Face layout
    #[arg(long, value_name = "MODEL", conflicts_with_all = ["config", "store"])]
    model: Option<String>,
    /// With --model: hook point of the activations; default: the output of the middle layer. With
    /// --activations: hook point of the store, if it has several
    #[arg(long, value_name = "HOOK")]
    hook: Option<HookPoint>,
    /// With --model: number of sequences per pass
    #[arg(long, value_name = "N", default_value_t = 8, requires = "model")]
    batch: usize,
    /// With --model: number of tokens per sequence
    #[arg(long, value_name = "N", default_value_t = 128, requires = "model")]
    context: usize,
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Config {
    /// d_in 768, d_sae 24,576, k 32, 2,048 tokens per step
    #[value(name = "C1")]
    C1,
    /// d_in 768, d_sae 24,576, k 32, 8,192 tokens per step
    #[value(name = "G1")]
    G1,
    /// d_in 4,096, d_sae 131,072, k 64, 8,192 tokens per step
    #[value(name = "G2")]
    G2,
    /// matching pursuit: d_in 512, d_sae 8,192, k 32, 2,048 tokens per step
    #[value(name = "M1")]
    M1,
    /// codebook assignment, compared with the TopK encoder: d_in 768, 10,000 codes, k 8, 2,048
    /// activations
    #[value(name = "K1")]
    K1,
    /// statistics of latents, compared with the TopK encoder: the sizes of C1, 50 million active
    /// latents
    #[value(name = "F1")]
    F1,
    /// d_in 64, d_sae 512, k 8, 128 tokens per step (to try the command)
    #[value(name = "tiny")]
    Tiny,
    /// matching pursuit, with the sizes of tiny (to try the command)
    #[value(name = "tiny-pursuit")]
    TinyPursuit,
    /// codebook assignment, with the sizes of tiny (to try the command)
    #[value(name = "tiny-codebook")]
    TinyCodebook,
}

impl Config {
    const fn sizes(self) -> Sizes {
        let (d_in, d_sae, k, batch_tokens) = match self {
            Self::C1 | Self::F1 => (768, 24_576, 32, 2048),
            Self::G1 => (768, 24_576, 32, 8192),
            Self::G2 => (4096, 131_072, 64, 8192),
            Self::M1 => (512, 8192, 32, 2048),
            Self::K1 => (768, 10_000, 8, 2048),
            Self::Tiny | Self::TinyPursuit | Self::TinyCodebook => (64, 512, 8, 128),
        };
        Sizes {
            d_in,
            d_sae,
            k,
            batch_tokens,
        }
    }
}

impl Bench {
    pub fn run(self) -> Result<()> {
        ensure!(self.steps > 0, "--steps: found 0, expected at least 1");
        ensure!(
            self.hook.is_none() || self.model.is_some() || self.activations.is_some(),
            "--hook: expected --model or --activations too"
        );
        if let Some(folder) = &self.store {
            return bench_store::run(folder, self.steps, self.json);
        }
        let device = self.device.open()?;
        if let Some(store) = &self.activations {
            let bench = ActivationsBench {
                store,
                hook: self.hook.map(|hook| hook.to_string()),
                d_sae: self.d_sae.map(|n| n as usize),
                k: self.k as usize,
                batch_tokens: 2048,
                rounds: self.steps,
                json: self.json,
            };
            return bench.run(&device);
        }
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
        if matches!(self.config, Config::F1) {
            ensure!(
                !self.vs_peers,
                "--vs-peers: found F1, expected C1, G1, G2 or M1: no other tool gathers these statistics"
            );
            let bench = StatisticsBench {
                sizes,
                json: self.json,
            };
            return bench.run(&device);
        }
        if matches!(self.config, Config::M1 | Config::TinyPursuit) {
            let bench = PursuitBench {
                sizes,
                rounds: self.steps,
                peers: self.vs_peers.then_some(&*self.scripts),
                json: self.json,
            };
            return bench.run(&device);
        }
        if matches!(self.config, Config::K1 | Config::TinyCodebook) {
            ensure!(
                !self.vs_peers,
                "--vs-peers: found a config of codebooks, expected C1, G1, G2 or M1: no other tool assigns codes"
            );
            let bench = CodebookBench {
                sizes,
                rounds: self.steps,
                json: self.json,
            };
            return bench.run(&device);
        }
        let peers = match self.vs_peers {
            true => Some(Peers::start(
                &self.scripts,
                "bench_peers.py",
                &sizes.arguments(),
                &device,
            )?),
            false => None,
        };
        let rounds = Rounds {
            most: self.steps,
            patience: Duration::MAX,
        };
        let findings = Findings::measure(sizes, &device, device_name(&device), rounds, peers)?;
        let mut out = stdout();
        match self.json {
            true => writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?,
            false => write!(out, "{}", table(&findings))?,
        }
        Ok(())
    }
}

fn table(findings: &Findings) -> String {
    let s = findings.sizes;
    let mut text = s.headline(&findings.device);
    let mut line = |name: &str, value: String| text += &format!("{name:<42} {value}\n");
    let timed = |seconds: f64| s.timed(seconds);
    line("training step", timed(findings.step_seconds));
    line("encode", timed(findings.encode_seconds));
    line("dense product, f32", timed(findings.product_seconds));
    line(
        "Adam, all weights",
        format!("{:>9.1} ms", findings.adam_seconds * 1e3),
    );
    line(
        "step / (product + Adam)",
        format!("{:>9.2}", findings.floor_ratio),
    );
    for part in &findings.parts {
        line(
            &format!("  {}", part.name),
            format!("{:>9.1} ms", part.seconds * 1e3),
        );
    }
    if let Some(peak) = findings.peak_bytes {
        line(
            "peak memory",
            format!(
                "{:>9.0} MB, {:.2} times weights, moments and batch",
                peak as f64 / 1e6,
                peak as f64 / findings.least_bytes as f64
            ),
        );
    }
    for tool in &findings.in_turn {
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
        ("step against sparsify", findings.step_vs_sparsify),
        ("step against SAELens", findings.step_vs_saelens),
        (
            "step against dictionary_learning",
            findings.step_vs_dictionary_learning,
        ),
        ("encode against the best peer", findings.encode_vs_best_peer),
    ] {
        if let Some(ratio) = ratio {
            line(name, format!("{ratio:>9.2} times as fast"));
        }
    }
    text
}
