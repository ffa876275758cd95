//! Labels of a dictionary's latents, with their scores.

use std::collections::{HashMap, HashSet};

use lapidary_coder::Coder;
use lapidary_evaluation::Hooks;
use lapidary_features::labels::{
    Confusion, ExampleConfig, LABEL_WORDS, LabelMethod, LatentLabel, PmiConfig, Split,
    label_latents,
};
use lapidary_features::{
    LabelRow, TableSource, TextCodes, WRITTEN, shown_tokens, summarize_decoder,
};

use crate::clamping::{ClampOptions, clamping_scores};
use crate::error::{Error, Result, bail};
use crate::label_writer::{LabelWriter, write_labels};
use crate::opened::{Opened, TextOptions};
use crate::progress::{Progress, Stage, count};
use crate::provenance::{STATISTICS, made_with, source_of_text};

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
    /// Which labels are scored by clamping.
    pub clamp: ClampOptions,
    /// A language model that writes labels too.
    pub writer: Option<LabelWriter>,
}

/// The labels of a dictionary.
#[derive(Debug)]
pub struct Labelled {
    /// One row per method and latent, by method, then by latent.
    pub rows: Vec<LabelRow>,
    /// What made them.
    pub source: TableSource,
    /// The scores of each method over all latents.
    pub pooled: Vec<MethodScores>,
    /// What a language model was expected to cost, in words.
    pub estimate: Option<String>,
    /// Why labels of the language model, or clamping scores, are missing.
    pub failed: Option<Error>,
}

/// The scores of a method's labels over all latents.
#[derive(Debug, Clone, PartialEq)]
pub struct MethodScores {
    /// The method's name.
    pub method: &'static str,
    /// Counts of detection over all scored latents.
    pub detection: Confusion,
    /// Counts of fuzzing over them.
    pub fuzzing: Confusion,
    /// Number of these latents.
    pub scored: usize,
    /// Mean clamping score; none if no label has one.
    pub clamping: Option<f64>,
    /// Number of latents with a clamping score.
    pub clamped: usize,
}

/// Labels all latents of a dictionary that fire in the training half of a text, and scores the
/// labels on the other half.
///
/// # Errors
/// The text cannot be read, the model fails, or the text is too short.
pub fn label(opened: &Opened, options: &LabelOptions, progress: &dyn Progress) -> Result<Labelled> {
    options.pmi.check()?;
    let d_sae = opened.dictionary.coder.d_sae();
    if let Some(writer) = &options.writer {
        writer.check(d_sae)?;
    }
    let second = opened.second()?;
    let reader = opened.reader(second.as_ref())?;
    let corpus = options.corpus.as_deref();
    let blocks = opened.read_text(corpus, &options.text, options.tokens, progress)?;
    let stage = Stage::new(progress, "codes", blocks.len() as u64);
    let text = TextCodes::read(&reader, &blocks, &mut |done| {
        stage.at(done as u64, format!("{done} blocks"));
    })?;
    stage.done(format!("{} tokens", text.tokens.len()));
    let halves = [Split::Train, Split::Test].map(|half| {
        let of_half = |document: &u32| Split::of_document(u64::from(*document)) == half;
        text.documents.iter().any(of_half)
    });
    if halves != [true; 2] {
        let documents = count(text.stretches().len() as u64, "document");
        bail!(
            "the text has {documents}; labels are made from one half of the documents and scored on the other, and one of the two has none: give more --tokens, or a --corpus with more documents"
        );
    }
    let tokenizer = opened.model.tokenizer()?;
    let promoted = match options.methods.contains(&LabelMethod::Lens) {
        true => {
            let hooks = Hooks::targets(&opened.dictionary)?;
            let widths = hooks.iter().map(|hook| opened.model.width(*hook));
            let widths: Vec<usize> = widths.collect::<Result<_, _>>()?;
            let seen: HashSet<u32> = text.tokens.iter().copied().collect();
            let shown = shown_tokens(tokenizer, |token| seen.contains(&token));
            let model = &opened.model;
            let dictionary = &opened.dictionary;
            summarize_decoder(model, dictionary, &hooks, &widths, LABEL_WORDS, &shown)?.promoted
        }
        false => vec![],
    };
    let mut labels = vec![];
    if !options.methods.is_empty() {
        let stage = Stage::new(progress, "labels", 1);
        let (methods, pmi) = (&options.methods, &options.pmi);
        labels = label_latents(&text, methods, &promoted, pmi, &options.examples)?;
        stage.done(format!("{} labels of {d_sae} latents", labels.len()));
    }
    let words = |label: &LatentLabel| {
        let words = label.ngrams.iter();
        let words = words.map(|(ngram, _)| tokenizer.texts(ngram.tokens()).concat());
        words.collect::<Vec<_>>().join(" | ")
    };
    let (mut expected, mut failed) = (None, None);
    let clamping = clamping_scores(opened, &text, &labels, &options.clamp, progress);
    // What was found before is not lost with it.
    let clamping = clamping.unwrap_or_else(|error| {
        failed = Some(error);
        HashMap::new()
    });
    let pooled = options.methods.iter().map(|method| {
        let of_method = labels.iter().filter(|label| label.method == *method);
        let mut pooled = MethodScores {
            method: method.name(),
            detection: Confusion::default(),
            fuzzing: Confusion::default(),
            scored: 0,
            clamping: None,
            clamped: 0,
        };
        let mut clamped = 0.0;
        for label in of_method {
            if let Some([detection, fuzzing]) = &label.scores {
                pooled.detection.add(detection);
                pooled.fuzzing.add(fuzzing);
                pooled.scored += 1;
            }
            if let Some(score) = clamping.get(&(*method, label.latent)) {
                clamped += score;
                pooled.clamped += 1;
            }
        }
        pooled.clamping = (pooled.clamped > 0).then(|| clamped / pooled.clamped as f64);
        pooled
    });
    let mut pooled: Vec<MethodScores> = pooled.collect();
    let mut rows: Vec<LabelRow> = labels
        .iter()
        .map(|label| LabelRow {
            feature_id: label.latent,
            label: words(label),
            method: label.method.name().into(),
            detection: label.scores.and_then(|s| s[0].balanced_accuracy()),
            fuzzing: label.scores.and_then(|s| s[1].balanced_accuracy()),
            clamping: clamping.get(&(label.method, label.latent)).copied(),
        })
        .collect();
    if let Some(writer) = &options.writer {
        match write_labels(opened, &text, writer, &options.examples, progress) {
            Ok(written) => {
                if !writer.only_estimate {
                    let scored = written.rows.iter().filter(|row| row.detection.is_some());
                    let [detection, fuzzing] = written.scores;
                    pooled.push(MethodScores {
                        method: WRITTEN,
                        detection,
                        fuzzing,
                        scored: scored.count(),
                        clamping: None,
                        clamped: 0,
                    });
                }
                rows.extend(written.rows);
                expected = Some(written.estimate);
            }
            // What the other methods found is not lost with it.
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    let counted = format!(
        "{} tokens of {}",
        text.tokens.len(),
        opened.text_name(corpus)?
    );
    let mut source = source_of_text(&opened.dictionary, 0);
    source.provenance.retain(|(what, _)| what != STATISTICS);
    source.provenance.extend(pooled.iter().map(|scores| {
        let settings = match scores.method {
            WRITTEN => options.writer.as_ref().map_or(String::new(), |writer| {
                format!(", model {}", writer.endpoint.model)
            }),
            method if method == LabelMethod::Pmi.name() => {
                let PmiConfig {
                    lambda, min_count, ..
                } = options.pmi;
                format!(", lambda {lambda}, min_count {min_count}")
            }
            _ => String::new(),
        };
        let seed = options.examples.seed;
        made_with(scores.method, format!("{counted}, seed {seed}{settings}"))
    }));
    Ok(Labelled {
        rows,
        source,
        pooled,
        estimate: expected,
        failed,
    })
}
