//! Codes set by hand while text is generated, and how often it is on a topic then.

use super::CodebookRun;
use crate::error::Result;
use crate::progress::{Progress, Stage};
use lapidary_codebook::{CodeEdit, interventions};
use lapidary_model::{Sampling, generate};
use regex::Regex;
use serde::Serialize;

/// What is generated.
#[derive(Debug, Clone)]
pub struct Steer {
    /// Tokens that every text starts with.
    pub prompt: Vec<u32>,
    /// The changes of codes.
    pub edits: Vec<CodeEdit>,
    /// A text in which this matches is on topic.
    pub on_topic: Regex,
    /// Texts with the changes, and as many without.
    pub generations: usize,
    /// How they are drawn; the seed is that of the first text.
    pub sampling: Sampling,
}

/// How many of some texts are on topic.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OnTopic {
    /// Share of the texts on topic.
    pub share: f64,
    /// The texts, without the prompt.
    pub texts: Vec<String>,
}

/// Texts without and with changed codes, drawn with the same seeds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Steered {
    /// Without changes.
    pub before: OnTopic,
    /// With changed codes.
    pub after: OnTopic,
}

/// Generates texts without and with changed codes.
///
/// # Errors
/// The model fails, or a number of the sampling means nothing.
pub fn steer(run: &CodebookRun, steer: &Steer, progress: &dyn Progress) -> Result<Steered> {
    let stage = Stage::new(progress, "generate", 2 * steer.generations as u64);
    let mut done = 0;
    let mut texts_with = |edits: &[CodeEdit]| -> Result<OnTopic> {
        let functions = run.codebooks.functions(edits, None);
        let interventions = interventions(&functions);
        let mut texts = vec![];
        for number in 0..steer.generations {
            let sampling = Sampling {
                seed: steer.sampling.seed.wrapping_add(number as u64),
                ..steer.sampling.clone()
            };
            let prompt = &steer.prompt;
            let new = generate(&run.model, prompt, &sampling, &interventions, &mut |_| ())?;
            // With the prompt, so that the first token is read as the tokenizer means it.
            let all = [prompt, &new[..]].concat();
            let all = run.texts(&all)?;
            texts.push(all[prompt.len()..].concat());
            done += 1;
            stage.at(done, format!("{done} texts"));
        }
        let hits = texts
            .iter()
            .filter(|text| steer.on_topic.is_match(text))
            .count();
        Ok(OnTopic {
            share: hits as f64 / steer.generations.max(1) as f64,
            texts,
        })
    };
    let (before, after) = (texts_with(&[])?, texts_with(&steer.edits)?);
    stage.done(format!(
        "on topic: {:.1} % without, {:.1} % with the codes, of {} texts each",
        100.0 * before.share,
        100.0 * after.share,
        steer.generations
    ));
    Ok(Steered { before, after })
}
