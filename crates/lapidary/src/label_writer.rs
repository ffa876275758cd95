//! Labels that a language model behind an endpoint writes and judges.

use std::path::PathBuf;

use lapidary_features::labels::{
    Confusion, Endpoint, EndpointConfig, Estimate, ExampleConfig, JobConfig, Journal, LabelTask,
    LatentTexts, Prices, estimate, explain_latents,
};
use lapidary_features::{LabelRow, TextCodes, WRITTEN};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result, bail};
use crate::opened::Opened;
use crate::progress::{Progress, Stage, count};

/// A language model behind an endpoint that writes labels and judges them.
#[derive(Debug, Clone)]
pub struct LabelWriter {
    /// Where it is.
    pub endpoint: EndpointConfig,
    /// The latents to label; if empty, a random sample of those that have enough windows.
    pub latents: Vec<u32>,
    /// Size of the sample.
    pub sample: usize,
    /// Requests in flight, and the order of windows.
    pub job: JobConfig,
    /// The file that keeps finished requests.
    pub journal: PathBuf,
    /// Prices, for the estimate.
    pub prices: Option<Prices>,
    /// Only make the estimate.
    pub only_estimate: bool,
}

impl LabelWriter {
    /// Checks all that can be checked before the text is read.
    pub(crate) fn check(&self, d_sae: usize) -> Result<()> {
        Endpoint::new(self.endpoint.clone())?;
        estimate(&[], self.endpoint.max_tokens, self.prices.as_ref())?;
        if let Some(latent) = self.latents.iter().find(|l| **l as usize >= d_sae) {
            bail!("found latent {latent}, expected one below {d_sae}");
        }
        Ok(())
    }
}

/// Labels of a language model.
pub(crate) struct Written {
    /// One row per label.
    pub rows: Vec<LabelRow>,
    /// Pooled counts of detection and of fuzzing.
    pub scores: [Confusion; 2],
    /// What was expected, in words.
    pub estimate: String,
}

/// Lets the language model label latents, or only says what that takes.
pub(crate) fn write_labels(
    opened: &Opened,
    text: &TextCodes,
    writer: &LabelWriter,
    examples: &ExampleConfig,
    progress: &dyn Progress,
) -> Result<Written> {
    let endpoint = Endpoint::new(writer.endpoint.clone())?;
    let tokenizer = opened.model.tokenizer()?;
    let texts = |tokens: &[u32]| tokenizer.texts(tokens);
    let mut order: Vec<usize> = (0..text.d_sae()).collect();
    let most = match writer.latents.is_empty() {
        true => {
            order.shuffle(&mut ChaCha8Rng::seed_from_u64(examples.seed));
            writer.sample
        }
        false => {
            order = writer
                .latents
                .iter()
                .map(|latent| *latent as usize)
                .collect();
            usize::MAX
        }
    };
    let mut chosen = vec![];
    for latent in order {
        if chosen.len() >= most {
            break;
        }
        match LatentTexts::choose(text, latent, examples, &texts)? {
            Some(found) => chosen.push((latent, found)),
            None if !writer.latents.is_empty() => progress.say(
                "note",
                &format!("latent {latent} has too few windows in the text, and gets no label"),
            ),
            None => {}
        }
    }
    chosen.sort_by_key(|(latent, _)| *latent);
    let tasks: Vec<LabelTask<'_>> = chosen.iter().map(|(_, texts)| texts.task()).collect();
    let max_tokens = writer.endpoint.max_tokens;
    let expected = estimate(&tasks, max_tokens, writer.prices.as_ref())?;
    let line = describe(&expected, tasks.len(), &writer.endpoint.model);
    if !writer.only_estimate {
        progress.say("estimate", &line);
    }
    let (mut rows, mut scores) = (vec![], [Confusion::default(); 2]);
    if writer.only_estimate {
        return Ok(Written {
            rows,
            scores,
            estimate: line,
        });
    }
    let mut journal = Journal::open(&writer.journal)?;
    let stage = Stage::new(progress, "label", tasks.len() as u64);
    progress.training(true);
    let stop = || progress.must_stop();
    let totals = explain_latents(
        &endpoint,
        &tasks,
        &mut journal,
        &writer.job,
        &stop,
        &mut |found| {
            stage.at(
                rows.len() as u64 + 1,
                found.label.clone().unwrap_or_default(),
            );
            scores[0].add(&found.detection);
            scores[1].add(&found.fuzzing);
            rows.extend(found.label.map(|label| LabelRow {
                feature_id: found.latent as u32,
                label,
                method: WRITTEN.into(),
                detection: found.detection.balanced_accuracy(),
                fuzzing: found.fuzzing.balanced_accuracy(),
                clamping: None, // a sentence has no tokens to look for
            }));
            Ok(())
        },
    );
    progress.training(false);
    let totals = totals?;
    if totals.stopped {
        return Err(Error::Interrupted(format!(
            "interrupted: finished requests are in {}; the same command goes on",
            writer.journal.display()
        )));
    }
    if totals.unlabelled == tasks.len() && !tasks.is_empty() {
        bail!(
            "{} gave no label for {}: its answers have no text. They are not kept, so the same command asks again",
            writer.endpoint.model,
            count(tasks.len() as u64, "latent")
        );
    }
    let malformed = totals.detection.malformed + totals.fuzzing.malformed;
    stage.done(format!(
        "{} labels, {} latents without one, {} requests and {} tokens sent now, {malformed} malformed predictions",
        rows.len(),
        totals.unlabelled,
        totals.sent.requests,
        totals.sent.prompt_tokens + totals.sent.completion_tokens,
    ));
    Ok(Written {
        rows,
        scores,
        estimate: line,
    })
}

/// An estimate in words.
fn describe(estimate: &Estimate, latents: usize, model: &str) -> String {
    let usage = &estimate.usage;
    let cost = estimate.cost.map(|cost| format!(", costs about {cost:.4}"));
    format!(
        "{}: {} requests, about {} tokens to {model} and at most {} from it{}",
        count(latents as u64, "latent"),
        usage.requests,
        usage.prompt_tokens,
        usage.completion_tokens,
        cost.unwrap_or_default()
    )
}
