//! `lapidary bench --config F1`: how fast statistics of latents are gathered from sparse codes,
//! beside the TopK encoder that makes the codes, and how much memory that takes.

use super::sizes::Sizes;
use super::timing::memory;
use anyhow::Result;
use burn::tensor::{Device, Distribution, Tensor};
use lapidary::device::device_name;
use lapidary_evaluation::HostCodes;
use lapidary_features::{BlockView, FeatureStatistics, StatisticsConfig};
use lapidary_kernels::{EncoderState, encode_topk};
use serde::Serialize;
use std::io::{Write, stdout};
use std::time::Instant;

/// Codes of the whole measurement; a tenth of them is measured first.
const CODES: usize = 50_000_000;

/// Batches of codes that are encoded; their statistics are gathered again and again.
const BATCHES: usize = 8;

/// What to measure.
pub struct StatisticsBench {
    pub sizes: Sizes,
    pub json: bool,
}

#[derive(Serialize)]
struct Findings {
    device: String,
    #[serde(flatten)]
    sizes: Sizes,
    codes: usize,
    encoder_codes_per_second: f64,
    statistics_codes_per_second: f64,
    statistics_over_encoder: f64,
    memory_after_a_tenth: Option<u64>,
    memory_after_all: Option<u64>,
}

impl StatisticsBench {
    pub fn run(&self, device: &Device) -> Result<()> {
        let Sizes {
            d_in,
            d_sae,
            k,
            batch_tokens,
        } = self.sizes;
        device.seed(0);
        let normal = |shape| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), device);
        let (w_enc, bias) = (normal([d_sae, d_in]), Tensor::<1>::zeros([d_sae], device));
        let state = EncoderState::default();
        let mut encode_seconds = 0.0;
        let mut batches = vec![];
        for batch in 0..=BATCHES {
            let x = normal([batch_tokens, d_in]);
            device.sync()?;
            let start = Instant::now();
            let codes = encode_topk(x, w_enc.clone(), bias.clone(), k, &state);
            device.sync()?;
            // The first batch warms the encoder up.
            if batch > 0 {
                encode_seconds += start.elapsed().as_secs_f64();
                batches.push(HostCodes::read(codes));
            }
        }
        let tokens: Vec<u32> = (0..batch_tokens as u32).map(|at| at * 31 % 4001).collect();
        let position: Vec<u32> = (0..batch_tokens as u32).collect();
        let active = vec![true; batch_tokens];
        let rounds = CODES.div_ceil(batch_tokens * k);
        memory::forget_peak();
        let base = memory::resident();
        let mut statistics = FeatureStatistics::new(StatisticsConfig::new(d_sae));
        let mut tenth = None;
        let start = Instant::now();
        for round in 0..rounds {
            let document = vec![round as u32; batch_tokens];
            let block = BlockView {
                tokens: &tokens,
                document: &document,
                position: &position,
                block_index: round as u64,
                active: &active,
            };
            let codes = &batches[round % BATCHES];
            statistics.observe_block(block, &codes.values, &codes.indices, k)?;
            if round == rounds / 10 {
                tenth = memory::peak();
            }
        }
        let all = memory::peak();
        let summary = statistics.finish();
        let seconds = start.elapsed().as_secs_f64();
        let codes = summary
            .latents
            .iter()
            .map(|l| l.firing_count as usize)
            .sum();
        let grown = |now: Option<u64>| now.zip(base).map(|(now, base)| now.saturating_sub(base));
        let encoder = (BATCHES * batch_tokens * k) as f64 / encode_seconds;
        let gathered = codes as f64 / seconds;
        let findings = Findings {
            device: device_name(device),
            sizes: self.sizes,
            codes,
            encoder_codes_per_second: encoder,
            statistics_codes_per_second: gathered,
            statistics_over_encoder: gathered / encoder,
            memory_after_a_tenth: grown(tenth),
            memory_after_all: grown(all),
        };
        let mut out = stdout();
        match self.json {
            true => writeln!(out, "{}", serde_json::to_string_pretty(&findings)?)?,
            false => write!(out, "{}", findings.table())?,
        }
        Ok(())
    }
}

impl Findings {
    fn table(&self) -> String {
        let s = self.sizes;
        let mut text = format!(
            "{}; d {}, {} latents, k {}, {} codes in batches of {} tokens\n",
            self.device, s.d_in, s.d_sae, s.k, self.codes, s.batch_tokens
        );
        let mut line = |name: &str, value: String| text += &format!("{name:<28} {value}\n");
        let rate = |rate: f64| format!("{:>9.2} million codes per second", rate / 1e6);
        line("TopK encoder", rate(self.encoder_codes_per_second));
        line("statistics", rate(self.statistics_codes_per_second));
        line(
            "statistics / encoder",
            format!("{:>9.2}", self.statistics_over_encoder),
        );
        for (name, bytes) in [
            ("memory after a tenth", self.memory_after_a_tenth),
            ("memory after all codes", self.memory_after_all),
        ] {
            if let Some(bytes) = bytes {
                line(name, format!("{:>9.0} MB", bytes as f64 / 1e6));
            }
        }
        text
    }
}
