//! `lapidary codebook generate`.

use crate::arguments::DeviceArgument;
use crate::terminal::shown;
use anyhow::{Context, Result, bail};
use clap::Args;
use lapidary::CodebookRun;
use lapidary_codebook::{CodeEdit, Codebooks, interventions};
use lapidary_model::{Sampling, generate};
use std::io::{Write, stdout};
use std::path::PathBuf;

/// How a beginning of a sequence is shown among digits.
const BOS: char = '|';

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
    #[arg(long)]
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
            let edit = edit(&run.codebooks, text, self.slot, self.hook.as_deref());
            edits.push(edit.with_context(|| format!("--set {text}"))?);
        }
        let machine = run.machine()?;
        let mut tokens: Vec<u32> = run.model.config().bos.into_iter().collect();
        match &machine {
            Some(fsm) => {
                if fsm.bos() > 36 {
                    bail!(
                        "{}: found a TokFSM in base {}, expected at most 36, the digits that have a character",
                        self.run.display(),
                        fsm.bos()
                    );
                }
                for digit in self.prompt.chars().filter(|c| !c.is_whitespace()) {
                    let token = digit.to_digit(36).filter(|d| *d < fsm.bos());
                    let token = token.with_context(|| {
                        format!(
                            "the prompt: found '{digit}', expected digits below {}",
                            fsm.bos()
                        )
                    })?;
                    tokens.push(token);
                }
            }
            None => tokens.extend(run.model.tokenizer()?.encode(&self.prompt)?),
        }
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
        let text = match machine {
            Some(fsm) => {
                let digit = |t: &u32| char::from_digit(*t, fsm.bos()).unwrap_or(BOS);
                new.iter().map(digit).collect()
            }
            None => run.model.tokenizer()?.decode_plain(&new),
        };
        writeln!(stdout(), "{}{}", self.prompt, shown(&text))?;
        Ok(())
    }
}

/// `LAYER.HEAD=CODE` as a change of codes.
fn edit(
    codebooks: &Codebooks,
    text: &str,
    slot: Option<usize>,
    hook: Option<&str>,
) -> Result<CodeEdit> {
    let parts = text.split_once('=').and_then(|(place, code)| {
        let (layer, head) = place.split_once('.')?;
        Some((
            layer.parse::<usize>().ok()?,
            head.parse::<usize>().ok()?,
            code.parse::<i32>().ok()?,
        ))
    });
    let Some((layer, group, code)) = parts else {
        bail!("found {text:?}, expected LAYER.HEAD=CODE, such as 2.1=407");
    };
    let in_layer: Vec<_> = codebooks
        .placed()
        .iter()
        .enumerate()
        .filter(|(_, p)| p.at.layer() == Some(layer))
        .filter(|(_, p)| hook.is_none_or(|hook| p.at.to_string().ends_with(&format!(".{hook}"))))
        .collect();
    let all = || {
        let all = codebooks.placed().iter().map(|p| p.at.to_string());
        all.collect::<Vec<_>>().join(", ")
    };
    let [(codebook, placed)] = in_layer[..] else {
        bail!(
            "found {} codebooks in layer {layer}, expected one (--hook chooses); codebooks are at {}",
            in_layer.len(),
            all()
        );
    };
    let book = &placed.codebook;
    if group >= book.groups() {
        bail!("found head {group}, expected 0 to {}", book.groups() - 1);
    }
    let n_codes = book.options().n_codes;
    if code < -1 || code >= n_codes as i32 {
        bail!("found code {code}, expected -1 to {}", n_codes - 1);
    }
    if let Some(slot) = slot
        && slot >= book.options().k
    {
        bail!(
            "found --slot {slot}, expected 0 to {}",
            book.options().k - 1
        );
    }
    Ok(CodeEdit {
        codebook,
        group,
        slot,
        code,
        position: None,
    })
}
