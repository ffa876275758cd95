//! `lapidary bench --config K1`: how fast codes are assigned, beside the TopK encoder at the same
//! sizes, in turn.

use super::sizes::Sizes;
use super::timing::median;
use anyhow::Result;
use burn::tensor::{Device, Distribution, Tensor};
use lapidary::device::device_name;
use lapidary_codebook::{Assignment, Codebook, CodebookOptions};
use lapidary_kernels::{EncoderState, encode_topk};
use serde::Serialize;
use std::io::{Write, stdout};
use std::time::Instant;

/// What to measure: `d_sae` of the sizes is the number of codes.
pub struct CodebookBench {
    pub sizes: Sizes,
    pub rounds: usize,
    pub json: bool,
}

/// Medians in seconds of rounds in which each had its turn. A ratio is the time of the assignment
/// over that of the encoder: the less the better.
#[derive(Serialize)]
struct Findings {
    device: String,
    #[serde(flatten)]
    sizes: Sizes,
    encode_seconds: f64,
    cosine_seconds: f64,
    cosine_over_encode: f64,
    euclidean_seconds: f64,
    euclidean_over_encode: f64,
}

impl CodebookBench {
    pub fn run(&self, device: &Device) -> Result<()> {
        let Sizes {
            d_in,
            d_sae,
            k,
            batch_tokens,
        } = self.sizes;
        device.seed(0);
        let normal = |shape| Tensor::<2>::random(shape, Distribution::Normal(0.0, 1.0), device);
        let (x, codes) = (normal([batch_tokens, d_in]), normal([d_sae, d_in]));
        let codebook = |assignment| {
            let options = CodebookOptions {
                n_codes: d_sae,
                k,
                assignment,
                ..CodebookOptions::default()
            };
            Codebook::new(options, 1, codes.clone())
        };
        let (cosine, euclidean) = (
            codebook(Assignment::Cosine)?,
            codebook(Assignment::Euclidean)?,
        );
        let (bias, state) = (Tensor::<1>::zeros([d_sae], device), EncoderState::default());
        let encode = || {
            drop(encode_topk(
                x.clone(),
                codes.clone(),
                bias.clone(),
                k,
                &state,
            ))
        };
        let assign = |codebook: &Codebook| drop(codebook.nearest(&x));
        let mut times = [vec![], vec![], vec![]];
        for round in 0..=self.rounds {
            let all: [&dyn Fn(); 3] = [&encode, &|| assign(&cosine), &|| assign(&euclidean)];
            for (times, once) in times.iter_mut().zip(all) {
                let start = Instant::now();
                once();
                device.sync()?;
                // The first round warms everybody up.
                if round > 0 {
                    times.push(start.elapsed().as_secs_f64());
                }
            }
        }
        let [encode_seconds, cosine_seconds, euclidean_seconds] = times.map(median);
        let findings = Findings {
            device: device_name(device),
            sizes: self.sizes,
            encode_seconds,
            cosine_seconds,
            cosine_over_encode: cosine_seconds / encode_seconds,
            euclidean_seconds,
            euclidean_over_encode: euclidean_seconds / encode_seconds,
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
            "{}; d {}, {} codes, k {}, {} activations per pass, f32\n",
            self.device, s.d_in, s.d_sae, s.k, s.batch_tokens
        );
        let mut line = |name: &str, value: String| text += &format!("{name:<28} {value}\n");
        line("TopK encoder", s.timed(self.encode_seconds));
        line("codes by cosine", s.timed(self.cosine_seconds));
        line("codes by distance", s.timed(self.euclidean_seconds));
        for (name, ratio) in [
            ("cosine / encoder", self.cosine_over_encode),
            ("distance / encoder", self.euclidean_over_encode),
        ] {
            line(name, format!("{ratio:>9.2}"));
        }
        text
    }
}
