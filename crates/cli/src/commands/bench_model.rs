//! `lapidary bench --model MODEL`: how fast a language model's activations are harvested at one
//! hook point and its logits computed, and what memory that takes beside the weights; with
//! `--vs-peers` beside transformers, in turn.

use super::peers::Peers;
use super::timing::{median, memory};
use anyhow::{Result, ensure};
use burn::tensor::{Device, Int, Tensor};
use lapidary::device::device_name;
use lapidary_model::{HookPoint, HookedRun, LanguageModel};
use serde::Serialize;
use std::io::{Write, stdout};
use std::path::Path;
use std::time::Instant;

/// What to measure.
pub struct ModelBench<'a> {
    pub model: &'a str,
    /// Where activations are taken; the middle of the model if nothing is said.
    pub hook: Option<HookPoint>,
    /// Sequences, and tokens of each.
    pub batch: usize,
    pub context: usize,
    pub rounds: usize,
    /// The folder of the scripts, if transformers shall be timed too.
    pub peers: Option<&'a Path>,
    pub json: bool,
}

/// What was measured: medians of the rounds. A ratio above 1 says that this program is faster.
#[derive(Serialize)]
struct Findings {
    device: String,
    model: String,
    hook_point: String,
    batch: usize,
    context: usize,
    harvest_seconds: f64,
    harvest_tokens_per_second: f64,
    logits_seconds: f64,
    logits_tokens_per_second: f64,
    /// The whole process at its peak, loading included; Linux only, and no device memory.
    peak_bytes: Option<u64>,
    /// The weights in f32, as they are held.
    weights_bytes: u64,
    transformers: Option<Transformers>,
}

#[derive(Serialize)]
struct Transformers {
    version: String,
    harvest_seconds: f64,
    logits_seconds: f64,
    harvest_ratio: f64,
    logits_ratio: f64,
}

impl ModelBench<'_> {
    pub fn run(&self, device: &Device) -> Result<()> {
        let model = LanguageModel::load(self.model, device)?;
        let c = model.config();
        ensure!(
            self.batch > 0 && (1..=c.n_ctx).contains(&self.context),
            "--batch, --context: found {} x {}, expected at least one sequence of 1 to {} tokens",
            self.batch,
            self.context,
            c.n_ctx
        );
        let hook = match self.hook {
            Some(hook) => hook,
            None => format!("blocks.{}.hook_resid_post", c.n_layers() / 2).parse()?,
        };
        // The same ids for both; which ones they are changes no time.
        let id = |i: usize| ((i * 7919 + 13) % c.d_vocab) as u32;
        let ids: Vec<u32> = (0..self.batch * self.context).map(id).collect();
        let sequences: Vec<&[u32]> = ids.chunks(self.context).collect();
        let tokens = model.tokens(&sequences)?;
        let mut peers = match self.peers {
            Some(scripts) => Some(self.transformers(scripts, hook, c.n_layers(), device)?),
            None => None,
        };
        let (harvest, logits) = (
            HookedRun {
                capture: &[hook],
                ..Default::default()
            },
            HookedRun {
                logits: true,
                ..Default::default()
            },
        );
        let mut times = [vec![], vec![], vec![], vec![]];
        for round in 0..=self.rounds {
            let mut seconds = [0.0; 4];
            seconds[0] = timed(&model, &tokens, &harvest)?;
            seconds[1] = timed(&model, &tokens, &logits)?;
            if let Some(peers) = &mut peers {
                seconds[2] = peers.time(0, "harvest")?;
                seconds[3] = peers.time(0, "logits")?;
            }
            // The first round warms everybody up.
            if round > 0 {
                for (times, seconds) in times.iter_mut().zip(seconds) {
                    times.push(seconds);
                }
            }
        }
        let [harvest, logits, their_harvest, their_logits] = times.map(median);
        let rate = |seconds: f64| (self.batch * self.context) as f64 / seconds;
        let findings = Findings {
            device: device_name(device),
            model: model.name().into(),
            hook_point: hook.to_string(),
            batch: self.batch,
            context: self.context,
            harvest_seconds: harvest,
            harvest_tokens_per_second: rate(harvest),
            logits_seconds: logits,
            logits_tokens_per_second: rate(logits),
            peak_bytes: memory::peak().filter(|_| *device == Device::flex()),
            weights_bytes: 4 * c.n_params(),
            transformers: peers.map(|peers| Transformers {
                version: peers.tools()[0].1.clone(),
                harvest_seconds: their_harvest,
                logits_seconds: their_logits,
                harvest_ratio: their_harvest / harvest,
                logits_ratio: their_logits / logits,
            }),
        };
        match self.json {
            true => writeln!(stdout(), "{}", serde_json::to_string_pretty(&findings)?)?,
            false => write!(stdout(), "{}", findings.table())?,
        }
        Ok(())
    }

    /// transformers with as many layers as the hook point needs, and with all.
    fn transformers(
        &self,
        scripts: &Path,
        hook: HookPoint,
        n_layers: usize,
        device: &Device,
    ) -> Result<Peers> {
        ensure!(
            Path::new(self.model).is_dir(),
            "--vs-peers: found the model {}, expected a folder in Hugging Face layout, which transformers reads too",
            self.model
        );
        let layers = match hook {
            HookPoint::Embed | HookPoint::PosEmbed => 0,
            _ => hook.layer().map_or(n_layers, |l| l + 1),
        };
        let sizes = [
            ("--model", self.model.to_owned()),
            ("--layers", layers.to_string()),
            ("--batch", self.batch.to_string()),
            ("--context", self.context.to_string()),
        ];
        Peers::start(scripts, "bench_transformers.py", &sizes, device)
    }
}

/// Seconds of one pass.
fn timed(model: &LanguageModel, tokens: &Tensor<2, Int>, run: &HookedRun<'_>) -> Result<f64> {
    let start = Instant::now();
    let output = model.run(tokens.clone(), run)?;
    model.device().sync()?;
    let seconds = start.elapsed().as_secs_f64();
    drop(output);
    Ok(seconds)
}

impl Findings {
    fn table(&self) -> String {
        let tokens = (self.batch * self.context) as f64;
        let timed = |seconds: f64| {
            format!(
                "{:>9.1} ms {:>9.0} tokens/s",
                seconds * 1e3,
                tokens / seconds
            )
        };
        let mut text = format!(
            "{}; {}, {} x {} tokens, f32\n",
            self.device, self.model, self.batch, self.context
        );
        let mut line = |name: &str, value: String| text += &format!("{name:<40} {value}\n");
        line(
            &format!("to {}", self.hook_point),
            timed(self.harvest_seconds),
        );
        line("to the logits", timed(self.logits_seconds));
        if let Some(peak) = self.peak_bytes {
            line(
                "peak memory",
                format!(
                    "{:>9.0} MB, {:.0} MB above the weights' {:.0} MB",
                    peak as f64 / 1e6,
                    peak as f64 / 1e6 - self.weights_bytes as f64 / 1e6,
                    self.weights_bytes as f64 / 1e6
                ),
            );
        }
        if let Some(peer) = &self.transformers {
            let name = format!("transformers {}", peer.version);
            for (what, seconds, ratio) in [
                ("as far", peer.harvest_seconds, peer.harvest_ratio),
                ("to the logits", peer.logits_seconds, peer.logits_ratio),
            ] {
                line(
                    &format!("{name}, {what}"),
                    format!("{}   {ratio:.2} times as long as ours", timed(seconds)),
                );
            }
        }
        text
    }
}
