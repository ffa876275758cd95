//! `lapidary codebook generate`.

use super::edits::{code_edit, prompt_tokens};
use crate::arguments::DeviceArgument;
use crate::terminal::shown;
use anyhow::{Context, Result};
use clap::Args;
use lapidary::CodebookRun;
use lapidary_codebook::interventions;
use lapidary_model::{Sampling, generate};
use std::io::{Write, stdout};
use std::path::PathBuf;

/// Continue a text with codes set by hand
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary codebook generate codes \"The people of\" --set 2.1=407
  lapidary codebook generate codes \"The people of\" --set 2.1=-1 --slot 0
  lapidary codebook generate fsm 0712 --tokens 8 --temperature 0

At each token, the chosen codes of head HEAD of layer LAYER are changed. A model of a TokFSM reads and writes digits, and | for the beginning of a sequence.")]
pub struct Generate {
    /// Folder of a finished `lapidary codebook train`
    run: PathBuf,
    /// The text to continue
    prompt: String,
    /// The code in place of a chosen one, such as 2.1=407; -1 takes it away; can be repeated. HEAD
    /// is 0 where a codebook is not divided into heads
    #[arg(long, value_name = "LAYER.HEAD=CODE", allow_hyphen_values = true)]
    set: Vec<String>,
    /// Which of the k chosen codes is replaced, the nearest is 0; default: all k, by the one code
    #[arg(long)]
    slot: Option<usize>,
    /// The hook point within the layer whose codebook is meant, such as attn.hook_z; needed only
    /// where a layer has several
    #[arg(long, value_name = "NAME")]
    hook: Option<String>,
    /// Maximum number of tokens to add
    #[arg(long, default_value_t = 60)]
    tokens: usize,
    /// Divides the logits; 0 always chooses the likeliest token
    #[arg(long, default_value_t = 0.8)]
    temperature: f32,
    /// Draw only among this many of the likeliest tokens; 0 means all
    #[arg(long, default_value_t = 40)]
    top_k: usize,
    /// Seed of the draw
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgument,
}

impl Generate {
    pub fn run(self) -> Result<()> {
        let run = CodebookRun::open(&self.run, &self.device.open()?)?;
        let mut edits = vec![];
        for text in &self.set {
            let edit = code_edit(&run.codebooks, text, self.slot, self.hook.as_deref());
            edits.push(edit.with_context(|| format!("--set {text}"))?);
        }
        let tokens = prompt_tokens(&run, &self.prompt)?;
        let sampling = Sampling {
            max_tokens: self.tokens,
            temperature: self.temperature,
            top_k: self.top_k,
            seed: self.seed,
            ..Default::default()
        };
        let functions = run.codebooks.functions(&edits, None);
        let interventions = interventions(&functions);
        let new = generate(&run.model, &tokens, &sampling, &interventions, &mut |_| ())?;
        let all = run.texts(&[&tokens[..], &new[..]].concat())?;
        let text = all[tokens.len()..].concat();
        writeln!(stdout(), "{}{}", self.prompt, shown(&text))?;
        Ok(())
    }
}
