//! Labels of a dictionary's latents, with their scores.

use lapidary_coder::Coder;
use lapidary_evaluation::Hooks;
use lapidary_features::labels::{
    Confusion, ExampleConfig, LABEL_WORDS, LabelMethod, LatentLabel, PmiConfig, label_latents,
};
use lapidary_features::{LabelRow, TableSource, TextCodes, shown_tokens, summarize_decoder};

use crate::error::{Result, bail};
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
}

/// The labels of a dictionary.
#[derive(Debug, Clone)]
pub struct Labelled {
    /// One row per method and latent, by method, then by latent.
    pub rows: Vec<LabelRow>,
    /// What made them.
    pub source: TableSource,
    /// For each method the pooled counts of detection and of fuzzing over all scored latents.
    pub pooled: Vec<(LabelMethod, [Confusion; 2], usize)>,
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
        (*method, sums, scored.len())
    });
    Ok(Labelled {
        pooled: pooled.collect(),
        rows: labels
            .iter()
            .map(|label| LabelRow {
                feature_id: label.latent,
                label: words(label),
                method: label.method.name().into(),
                detection: label.scores.and_then(|s| s[0].balanced_accuracy()),
                fuzzing: label.scores.and_then(|s| s[1].balanced_accuracy()),
            })
            .collect(),
        source: source_of_text(&opened.dictionary, text.tokens.len() as u64),
    })
}
