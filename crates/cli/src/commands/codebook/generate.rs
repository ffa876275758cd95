//! `lapidary codebook generate`.

use super::edits::{check_once, code_edit, prompt_tokens};
use crate::arguments::{DeviceArgument, SamplingArguments};
use crate::terminal::shown;
use anyhow::{Context, Result};
use clap::Args;
use lapidary::CodebookRun;
use lapidary_codebook::interventions;
use lapidary_model::generate;
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
    #[command(flatten)]
    sampling: SamplingArguments,
    #[command(flatten)]
    device: DeviceArgument,
}

impl Generate {
    pub fn run(self) -> Result<()> {
        let sampling = self.sampling.sampling()?;
        let run = CodebookRun::open(&self.run, &self.device.open()?)?;
        let mut edits = vec![];
        for text in &self.set {
            let edit = code_edit(&run.codebooks, text, self.slot, self.hook.as_deref());
            edits.push(edit.with_context(|| format!("--set {text}"))?);
        }
        check_once(&edits)?;
        let tokens = prompt_tokens(&run, &self.prompt)?;
        let functions = run.codebooks.functions(&edits, None);
        let interventions = interventions(&functions);
        let new = generate(&run.model, &tokens, &sampling, &interventions, &mut |_| ())?;
        let all = run.texts(&[&tokens[..], &new[..]].concat())?;
        let text = all[tokens.len()..].concat();
        writeln!(stdout(), "{}{}", self.prompt, shown(&text))?;
        Ok(())
    }
}
