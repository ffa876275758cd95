//! Prompts and changes of codes as commands take them.

use anyhow::{Context, Result, bail};
use lapidary::CodebookRun;
use lapidary_codebook::{CodeEdit, Codebooks};
use std::path::Path;

/// The tokens of a prompt, BOS first. A TokFSM reads digits.
pub fn prompt_tokens(run: &CodebookRun, prompt: &str) -> Result<Vec<u32>> {
    let mut tokens: Vec<u32> = run.model.config().bos.into_iter().collect();
    match run.machine()? {
        Some(fsm) => {
            if fsm.bos() > 36 {
                bail!(
                    "{}: found a TokFSM in base {}, expected at most 36, the digits that have a character",
                    run.folder.display(),
                    fsm.bos()
                );
            }
            for digit in prompt.chars().filter(|c| !c.is_whitespace()) {
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
        None => tokens.extend(run.model.tokenizer()?.encode(prompt)?),
    }
    Ok(tokens)
}

/// `LAYER.HEAD=CODE` as a change of codes: of one slot of the k, or of all by the one code.
pub fn code_edit(
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

/// Refuses to write a result into the folder of the run.
pub fn check_outside(out: &Path, run: &Path) -> Result<()> {
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if let (Ok(parent), Ok(run)) = (parent.canonicalize(), run.canonicalize())
        && parent.starts_with(&run)
    {
        bail!(
            "--out {}: found a file in the folder of the run, expected one elsewhere",
            out.display()
        );
    }
    Ok(())
}

/// Refuses changes of which one would undo another.
pub fn check_once(edits: &[CodeEdit]) -> Result<()> {
    for (number, edit) in edits.iter().enumerate() {
        let undoes = |other: &&CodeEdit| {
            (other.codebook, other.group) == (edit.codebook, edit.group) && other.slot == edit.slot
        };
        if edits[..number].iter().any(|other| undoes(&other)) {
            bail!(
                "--set: found two codes for head {} of one codebook, expected one for each head",
                edit.group
            );
        }
    }
    Ok(())
}
