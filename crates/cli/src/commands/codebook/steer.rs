//! `lapidary codebook steer`.

use super::edits::{check_outside, code_edit, prompt_tokens};
use crate::arguments::{DeviceArgument, SamplingArguments};
use crate::progress::Watched;
use crate::terminal::shown;
use anyhow::{Context, Result, bail};
use clap::Args;
use lapidary::CodebookRun;
use lapidary::codebooks::{Steer as Steering, steer};
use lapidary::run_folder::write_json;
use lapidary_codebook::CodeEdit;
use lapidary_features::{RunRow, read_runs};
use lapidary_io::check_target;
use regex::Regex;
use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

/// Generate texts without and with codes that you choose, and compare how many are on a topic
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary codebook find codes --predicate 'regex:(?i)\\b(war|army|navy)' --out war.parquet
  lapidary codebook steer codes --codes war.parquet --top 4 --on-topic '(?i)\\b(war|army|navy)' --out war.json
  lapidary codebook steer codes --set 2.1=407 --on-topic '(?i)\\bwar\\b'")]
pub struct Steer {
    /// Folder of a finished run of `lapidary codebook train`
    run: PathBuf,
    /// Regular expression; a text is on topic if it contains a match
    #[arg(long, value_name = "PATTERN")]
    on_topic: Regex,
    /// Table written by `lapidary codebook find`. The first codes of the table are set
    #[arg(long, value_name = "FILE", required_unless_present = "set")]
    codes: Option<PathBuf>,
    /// Number of codes that are set from the table. A code is left out if its head already has as
    /// many set codes as --slots
    #[arg(long, default_value_t = 4, requires = "codes", value_parser = at_least_one)]
    top: usize,
    /// Also set CODE in head HEAD of layer LAYER, such as 2.1=407; can be repeated. If the codebook
    /// is not divided into heads, HEAD is 0
    #[arg(long, value_name = "LAYER.HEAD=CODE", allow_hyphen_values = true)]
    set: Vec<String>,
    /// Hook point of the codebook of --set within the layer, such as attn.hook_z. Needed only if
    /// the layer has several codebooks
    #[arg(long, value_name = "NAME")]
    hook: Option<String>,
    /// In each head that has set codes, the set codes replace this number of the k chosen codes,
    /// those with the lowest scores first. Default: all k
    #[arg(long)]
    slots: Option<usize>,
    /// Text that each generated text continues
    #[arg(long, default_value = "")]
    prompt: String,
    /// Number of texts without the codes, and number of texts with the codes. The tokens of text n
    /// (counted from 0) are drawn with --seed plus n
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    generations: u32,
    #[command(flatten)]
    sampling: SamplingArguments,
    /// Also write the shares and all texts to this JSON file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgument,
}

impl Steer {
    pub fn run(self) -> Result<()> {
        if let Some(out) = &self.out {
            check_target(out)?;
            check_outside(out, &self.run)?;
        }
        let sampling = self.sampling.sampling()?;
        let run = CodebookRun::open(&self.run, &self.device.open()?)?;
        let (codes, edits) = self.edits(&run)?;
        let steering = Steering {
            prompt: prompt_tokens(&run, &self.prompt)?,
            edits,
            on_topic: self.on_topic,
            generations: self.generations as usize,
            sampling,
        };
        if steering.prompt.is_empty() {
            bail!("--prompt: found nothing, expected a text, since the model has no BOS token");
        }
        let steered = steer(&run, &steering, &Watched)?;
        if let Some(path) = &self.out {
            let all = serde_json::json!({ "codes": codes, "before": steered.before, "after": steered.after });
            write_json(path, &all)?;
        }
        let mut out = stdout();
        writeln!(out, "  codes set: {}", codes.join(" "))?;
        for (name, texts) in [("without", &steered.before), ("with", &steered.after)] {
            writeln!(out, "  {name:<8} {:>5.1} % on topic", 100.0 * texts.share)?;
            let line = texts.texts.first().map_or("", String::as_str);
            let line: String = shown(line).chars().take(100).collect();
            writeln!(out, "           {}", line.replace('\n', " "))?;
        }
        Ok(())
    }

    /// The codes that are set, and what is changed: each code is in as many of its head's slots as
    /// asked for, the farthest first; codes of one head share them.
    fn edits(&self, run: &CodebookRun) -> Result<(Vec<String>, Vec<CodeEdit>)> {
        let slots = |edit: &CodeEdit| -> Result<[usize; 2]> {
            let k = run.codebooks.placed()[edit.codebook].codebook.options().k;
            let slots = self.slots.unwrap_or(k);
            if slots == 0 || slots > k {
                bail!("--slots: found {slots}, expected 1 to k = {k}");
            }
            Ok([k - slots, k])
        };
        let same_head = |a: &CodeEdit, b: &CodeEdit| (a.codebook, a.group) == (b.codebook, b.group);
        let mut set: Vec<(String, CodeEdit)> = vec![];
        for code in &self.set {
            let edit = code_edit(&run.codebooks, code, None, self.hook.as_deref());
            let edit = edit.with_context(|| format!("the code {code}"))?;
            let [first, end] = slots(&edit)?;
            let before = set
                .iter()
                .filter(|(_, other)| same_head(other, &edit))
                .count();
            if before >= end - first {
                bail!(
                    "--set {code}: found {} codes for this head, expected at most {}, one for each slot",
                    before + 1,
                    end - first
                );
            }
            set.push((code.clone(), edit));
        }
        // Codes of the table for which their head has no slot left are passed over.
        if let Some(path) = &self.codes {
            let most = set.len() + self.top;
            for (code, hook) in table(path)? {
                if set.len() == most {
                    break;
                }
                let edit = code_edit(&run.codebooks, &code, None, Some(&hook));
                let edit = edit.with_context(|| format!("{}: {code}", path.display()))?;
                let [first, end] = slots(&edit)?;
                let before = set
                    .iter()
                    .filter(|(_, other)| same_head(other, &edit))
                    .count();
                if before < end - first {
                    set.push((code, edit));
                }
            }
        }
        let mut edits = vec![];
        for (number, (_, edit)) in set.iter().enumerate() {
            let [first, end] = slots(edit)?;
            let before = set[..number]
                .iter()
                .filter(|(_, other)| same_head(other, edit))
                .count();
            let of_head = set
                .iter()
                .filter(|(_, other)| same_head(other, edit))
                .count();
            let own = (first..end).filter(|slot| (end - 1 - slot) % of_head == before);
            edits.extend(own.map(|slot| CodeEdit {
                slot: Some(slot),
                ..edit.clone()
            }));
        }
        Ok((set.into_iter().map(|(code, _)| code).collect(), edits))
    }
}

/// The codes of a table, as `LAYER.HEAD=CODE` and the hook point within the layer.
fn table(path: &Path) -> Result<Vec<(String, String)>> {
    let of = |row: &RunRow| -> Option<(String, String)> {
        let cell = |name: &str| {
            row.iter()
                .find(|(column, _)| column == name)
                .map(|(_, v)| v)
        };
        let number = |name| cell(name)?.as_i64();
        let (layer, head, code) = (number("layer")?, number("head")?, number("code")?);
        let hook = cell("hook_point")?.as_str()?;
        let within = hook.splitn(3, '.').nth(2).unwrap_or(hook);
        Some((format!("{layer}.{head}={code}"), within.to_owned()))
    };
    let rows: Option<Vec<_>> = read_runs(path)?.iter().map(of).collect();
    match rows {
        Some(rows) if !rows.is_empty() => Ok(rows),
        _ => bail!(
            "{}: found no rows with layer, head, code and hook_point, expected a table of `lapidary codebook find`",
            path.display()
        ),
    }
}

/// A number of codes.
fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number of at least 1".into()),
        Ok(n) => Ok(n),
    }
}
