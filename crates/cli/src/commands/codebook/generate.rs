//! `lapidary codebook generate`.

use super::edits::{check_once, code_edit, prompt_tokens};
use crate::arguments::DeviceArgument;
use crate::terminal::shown;
use anyhow::{Context, Result};
use clap::Args;
use lapidary::CodebookRun;
use lapidary_codebook::interventions;
use lapidary_model::{Sampling, generate};
use std::io::{Write, stdout};
use std::path::PathBuf;

/// Continue a text, with some codes replaced by codes that you choose
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary codebook generate codes \"The people of\" --set 2.1=407
  lapidary codebook generate codes \"The people of\" --set 2.1=-1 --slot 0
  lapidary codebook generate fsm 0712 --tokens 8 --temperature 0

--set changes the codes at every token. A model of a TokFSM reads digits. It writes digits, and | for the beginning-of-sequence token.")]
pub struct Generate {
    /// Folder of a finished run of `lapidary codebook train`
    run: PathBuf,
    /// The text to continue
    prompt: String,
    /// Replace the chosen codes of head HEAD in layer LAYER by CODE, such as 2.1=407; can be
    /// repeated. If CODE is -1, the chosen codes are removed. If the codebook is not divided into
    /// heads, HEAD is 0
    #[arg(long, value_name = "LAYER.HEAD=CODE", allow_hyphen_values = true)]
    set: Vec<String>,
    /// Replace only one of the k chosen codes; 0 is the code with the highest score. Default: CODE
    /// replaces all k codes
    #[arg(long, requires = "set")]
    slot: Option<usize>,
    /// Hook point of the codebook within the layer, such as attn.hook_z. Needed only if the layer
    /// has several codebooks
    #[arg(long, value_name = "NAME")]
    hook: Option<String>,
    /// Maximum number of tokens to add
    #[arg(long, default_value_t = 60)]
    tokens: usize,
    /// Number by which the logits are divided; 0 always chooses the most probable token
    #[arg(long, default_value_t = 0.8)]
    temperature: f32,
    /// Draw only from this number of most probable tokens; 0 means all tokens
    #[arg(long, default_value_t = 40)]
    top_k: usize,
    /// Seed for drawing the tokens
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
        check_once(&edits)?;
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
