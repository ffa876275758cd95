//! Labels of a dictionary's latents, with their scores.

use std::path::PathBuf;

use lapidary_coder::Coder;
use lapidary_evaluation::Hooks;
use lapidary_features::labels::{
    Confusion, Endpoint, EndpointConfig, Estimate, ExampleConfig, JobConfig, Journal, LABEL_WORDS,
    LabelMethod, LabelTask, LatentLabel, LatentTexts, PmiConfig, Prices, estimate, explain_latents,
    label_latents,
};
use lapidary_features::{LabelRow, TableSource, TextCodes, shown_tokens, summarize_decoder};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result, bail};
use crate::opened::{Opened, TextOptions};
use crate::progress::{Progress, Stage};
use crate::tables::source_of_text;

/// How [`label`] works.
#[derive(Debug, Clone)]
pub struct LabelOptions {
    /// How labels are made; each gives a row per latent.
    pub methods: Vec<LabelMethod>,
    /// The text; by default that of the training.
    pub corpus: Option<String>,
    /// How it is read.
    pub text: TextOptions,
    /// Number of tokens.
    pub tokens: u64,
    /// Parameters of [`LabelMethod::Pmi`].
    pub pmi: PmiConfig,
    /// On which windows labels are scored.
    pub examples: ExampleConfig,
    /// A language model that writes labels too.
    pub writer: Option<LabelWriter>,
}

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

/// The name of labels that a language model wrote.
const WRITTEN: &str = "llm";

/// The labels of a dictionary.
#[derive(Debug, Clone)]
pub struct Labelled {
    /// One row per method and latent, by method, then by latent.
    pub rows: Vec<LabelRow>,
    /// What made them.
    pub source: TableSource,
    /// For each method the pooled counts of detection and of fuzzing over all scored latents.
    pub pooled: Vec<(&'static str, [Confusion; 2], usize)>,
    /// What a language model would cost, or has cost.
    pub estimate: Option<Estimate>,
}

/// Labels all latents of a dictionary that fire in the training half of a text, and scores the
/// labels on the other half.
///
/// # Errors
/// The text cannot be read, the model fails, or the text is too short.
pub fn label(opened: &Opened, options: &LabelOptions, progress: &dyn Progress) -> Result<Labelled> {
    let second = opened.second()?;
    let reader = opened.reader(second.as_ref())?;
    let corpus = options.corpus.as_deref();
    let blocks = opened.read_text(corpus, &options.text, options.tokens, progress)?;
    let stage = Stage::new(progress, "codes", blocks.len() as u64);
    let text = TextCodes::read(&reader, &blocks, &mut |done| {
        stage.at(done as u64, format!("{done} blocks"));
    })?;
    stage.done(format!("{} tokens", text.tokens.len()));
    if text.stretches().len() < 2 {
        bail!(
            "the text has one document; labels are made from one half of the documents and scored on the other: give more --tokens, or a --corpus with several documents"
        );
    }
    let tokenizer = opened.model.tokenizer()?;
    let promoted = match options.methods.contains(&LabelMethod::Lens) {
        true => {
            let hooks = Hooks::targets(&opened.dictionary)?;
            let widths = hooks.iter().map(|hook| opened.model.width(*hook));
            let widths: Vec<usize> = widths.collect::<Result<_, _>>()?;
            let shown = shown_tokens(tokenizer, |token| text.tokens.contains(&token));
            let model = &opened.model;
            let dictionary = &opened.dictionary;
            summarize_decoder(model, dictionary, &hooks, &widths, LABEL_WORDS, &shown)?.promoted
        }
        false => vec![],
    };
    let d_sae = opened.dictionary.coder.d_sae();
    let stage = Stage::new(progress, "labels", 1);
    let labels = label_latents(
        &text,
        &options.methods,
        &promoted,
        &options.pmi,
        &options.examples,
    )?;
    stage.done(format!("{} labels of {d_sae} latents", labels.len()));
    let words = |label: &LatentLabel| {
        let words = label.ngrams.iter();
        let words = words.map(|(ngram, _)| tokenizer.texts(ngram.tokens()).concat());
        words.collect::<Vec<_>>().join(" | ")
    };
    let pooled = options.methods.iter().map(|method| {
        let of_method = labels.iter().filter(|label| label.method == *method);
        let scored: Vec<[Confusion; 2]> = of_method.filter_map(|label| label.scores).collect();
        let mut sums = [Confusion::default(); 2];
        for scores in &scored {
            sums[0].add(&scores[0]);
            sums[1].add(&scores[1]);
        }
        (method.name(), sums, scored.len())
    });
    let mut pooled: Vec<_> = pooled.collect();
    let mut rows: Vec<LabelRow> = labels
        .iter()
        .map(|label| LabelRow {
            feature_id: label.latent,
            label: words(label),
            method: label.method.name().into(),
            detection: label.scores.and_then(|s| s[0].balanced_accuracy()),
            fuzzing: label.scores.and_then(|s| s[1].balanced_accuracy()),
        })
        .collect();
    let mut expected = None;
    if let Some(writer) = &options.writer {
        let (written, scores, estimate) = write_labels(opened, &text, writer, options, progress)?;
        if !writer.only_estimate {
            pooled.push((
                WRITTEN,
                scores,
                written.iter().filter(|r| r.detection.is_some()).count(),
            ));
        }
        rows.extend(written);
        expected = Some(estimate);
    }
    Ok(Labelled {
        rows,
        source: source_of_text(&opened.dictionary, text.tokens.len() as u64),
        pooled,
        estimate: expected,
    })
}

/// Labels of a language model, their pooled scores, and the estimate of requests.
fn write_labels(
    opened: &Opened,
    text: &TextCodes,
    writer: &LabelWriter,
    options: &LabelOptions,
    progress: &dyn Progress,
) -> Result<(Vec<LabelRow>, [Confusion; 2], Estimate)> {
    let endpoint = Endpoint::new(writer.endpoint.clone())?;
    let tokenizer = opened.model.tokenizer()?;
    let texts = |tokens: &[u32]| tokenizer.texts(tokens);
    let d_sae = text.d_sae();
    if let Some(latent) = writer.latents.iter().find(|l| **l as usize >= d_sae) {
        bail!("found latent {latent}, expected one below {d_sae}");
    }
    let mut order: Vec<usize> = (0..d_sae).collect();
    let most = match writer.latents.is_empty() {
        true => {
            order.shuffle(&mut ChaCha8Rng::seed_from_u64(options.examples.seed));
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
        match LatentTexts::choose(text, latent, &options.examples, &texts)? {
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
    let cost = expected
        .cost
        .map_or(String::new(), |cost| format!(", costs about {cost:.2}"));
    progress.say(
        "estimate",
        &format!(
            "{} latents: {} requests, about {} tokens to {} and at most {} from it{cost}",
            tasks.len(),
            expected.usage.requests,
            expected.usage.prompt_tokens,
            writer.endpoint.model,
            expected.usage.completion_tokens,
        ),
    );
    let (mut rows, mut scores) = (vec![], [Confusion::default(); 2]);
    if writer.only_estimate {
        return Ok((rows, scores, expected));
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
    let malformed = totals.detection.malformed + totals.fuzzing.malformed;
    stage.done(format!(
        "{} labels, {} requests and {} tokens sent now, {malformed} malformed predictions",
        rows.len(),
        totals.sent.requests,
        totals.sent.prompt_tokens + totals.sent.completion_tokens,
    ));
    Ok((rows, scores, expected))
}
