//! `lapidary bench --config M1`: what a training step of matching pursuit costs beside one of TopK
//! at the same sizes, and with `--vs-peers` beside other tools, all in turn.

use super::peers::Peers;
use super::sizes::Sizes;
use super::timing::{Ours, median, memory};
use anyhow::Result;
use burn::tensor::Device;
use lapidary::device::device_name;
use serde::Serialize;
use std::io::{Write, stdout};
use std::path::Path;

/// What to measure.
pub struct PursuitBench<'a> {
    pub sizes: Sizes,
    pub rounds: usize,
    /// The folder of the scripts, if other tools shall be timed too.
    pub peers: Option<&'a Path>,
    pub json: bool,
}

/// What was measured in rounds in which each had its turn: of ours the mean of all steps, since
/// some make the Gram matrix and some do not; of peers medians. A ratio above 1 says that this
/// program is faster.
#[derive(Serialize)]
struct Findings {
    device: String,
    #[serde(flatten)]
    sizes: Sizes,
    step_seconds: f64,
    encode_seconds: f64,
    topk_step_seconds: f64,
    /// A step of matching pursuit over one of TopK: the less the better.
    step_over_topk: f64,
    peak_bytes: Option<u64>,
    peers: Vec<Peer>,
}

#[derive(Serialize)]
struct Peer {
    tool: String,
    version: String,
    step_seconds: f64,
    step_ratio: f64,
    encode_seconds: f64,
    encode_ratio: f64,
}

/// The mean of several in a row after a first, since in training a step follows a step, and since
/// not all steps of a pursuit do the same: the Gram matrix serves for some.
fn mean(once: &mut dyn FnMut() -> Result<f64>) -> Result<f64> {
    const IN_A_ROW: usize = 8;
    once()?;
    let times: Result<Vec<f64>> = (0..IN_A_ROW).map(|_| once()).collect();
    Ok(times?.iter().sum::<f64>() / IN_A_ROW as f64)
}

impl PursuitBench<'_> {
    pub fn run(&self, device: &Device) -> Result<()> {
        let mut arguments = self.sizes.arguments().to_vec();
        arguments.push(("--coder", "matching_pursuit".to_owned()));
        let start = |scripts| Peers::start(scripts, "bench_peers.py", &arguments, device);
        let mut peers = self.peers.map(start).transpose()?;
        let mut pursuit = Ours::new("matching_pursuit", self.sizes, device)?;
        let mut topk = Ours::new("topk", self.sizes, device)?;
        let tools = peers.as_ref().map_or(0, |peers| peers.tools().len());
        let mut ours = [vec![], vec![], vec![]];
        let mut theirs = vec![[vec![], vec![]]; tools];
        for round in 0..=self.rounds {
            let times = [
                mean(&mut || pursuit.step())?,
                mean(&mut || pursuit.encode())?,
                mean(&mut || topk.step())?,
            ];
            // The first round warms everybody up.
            if round > 0 {
                ours.iter_mut()
                    .zip(times)
                    .for_each(|(all, time)| all.push(time));
            }
            // Peers take seconds, so once is enough.
            for (tool, times) in theirs.iter_mut().enumerate() {
                let Some(peers) = &mut peers else { continue };
                for (what, times) in ["step", "encode"].into_iter().zip(times) {
                    let time = peers.time(tool, what)?;
                    if round > 0 {
                        times.push(time);
                    }
                }
            }
        }
        let [step_seconds, encode_seconds, topk_step_seconds] =
            ours.map(|times| times.iter().sum::<f64>() / times.len() as f64);
        let names = peers.iter().flat_map(|peers| peers.tools().iter().cloned());
        let of_peer = |((tool, version), times): ((String, String), [Vec<f64>; 2])| {
            let [step, encode] = times.map(median);
            Peer {
                tool,
                version,
                step_seconds: step,
                step_ratio: step / step_seconds,
                encode_seconds: encode,
                encode_ratio: encode / encode_seconds,
            }
        };
        let findings = Findings {
            device: device_name(device),
            sizes: self.sizes,
            step_seconds,
            encode_seconds,
            topk_step_seconds,
            step_over_topk: step_seconds / topk_step_seconds,
            peak_bytes: memory::peak().filter(|_| *device == Device::flex()),
            peers: names.zip(theirs).map(of_peer).collect(),
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
        let mut text = s.headline(&self.device);
        let mut line = |name: &str, value: String| text += &format!("{name:<28} {value}\n");
        let timed = |seconds: f64| s.timed(seconds);
        line("matching pursuit, step", timed(self.step_seconds));
        line("matching pursuit, encode", timed(self.encode_seconds));
        line("TopK, step", timed(self.topk_step_seconds));
        line("step / TopK's", format!("{:>9.2}", self.step_over_topk));
        if let Some(peak) = self.peak_bytes {
            line(
                "peak memory, both",
                format!("{:>9.0} MB", peak as f64 / 1e6),
            );
        }
        for peer in &self.peers {
            line(
                &format!("{} {}", peer.tool, peer.version),
                format!(
                    "step {} ({:.2} times)   encode {} ({:.2} times)",
                    timed(peer.step_seconds),
                    peer.step_ratio,
                    timed(peer.encode_seconds),
                    peer.encode_ratio
                ),
            );
        }
        text
    }
}
