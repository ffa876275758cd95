//! Feature tables and the report of a dictionary.

use lapidary_activations::{OtherModel, TokenBlock};
use lapidary_coder::{Coder, Dictionary, Sites};
use lapidary_evaluation::{EvaluatedBatch, Hooks, Metrics};
use lapidary_features::{
    Collector, FeaturesError, StatisticsConfig, TableSource, document_rows, example_rows,
    feature_rows, names, nearest_latents, shown_tokens, summarize_decoder, write_coactivations,
    write_codes, write_documents, write_examples, write_features, write_histograms,
};
use lapidary_model::{HookPoint, LanguageModel};
use lapidary_sae::StepReport;

use crate::error::{Context, Result};
use crate::label_table::readable_labels;
use crate::progress::{Progress, Stage};
use crate::provenance::{STATISTICS, provenance, source_of_text};
use crate::report::report_of;
use crate::run_folder::RunFolder;

/// The feature tables and the report of a dictionary, before they are written.
pub struct Tables<'a> {
    model: &'a LanguageModel,
    other: Option<&'a OtherModel>,
    dictionary: &'a Dictionary,
    hooks: [Vec<HookPoint>; 2],
    blocks: &'a [TokenBlock],
    top_tokens: usize,
    collector: Collector<'a>,
    codes: bool,
    text: Option<String>,
    ids: Vec<Option<String>>,
    /// What went wrong while an evaluation was taken over.
    failed: Option<FeaturesError>,
}

impl<'a> Tables<'a> {
    /// Tables of `dictionary` over `blocks`, with so many contexts of each latent.
    ///
    /// # Errors
    /// The dictionary does not fit the model.
    pub fn new(
        (model, other): (&'a LanguageModel, Option<&'a OtherModel>),
        dictionary: &'a Dictionary,
        blocks: &'a [TokenBlock],
        examples_per_feature: usize,
    ) -> Result<Self> {
        let hooks = Hooks::sources_of_both(dictionary)?;
        let coder = &dictionary.coder;
        let config = StatisticsConfig {
            examples_per_feature,
            ..StatisticsConfig::new(coder.d_sae())
        };
        let top_tokens = config.top_tokens;
        let collector = Collector::new(model, coder, hooks[0].clone(), other, blocks, config)?;
        Ok(Self {
            model,
            other,
            dictionary,
            hooks,
            blocks,
            top_tokens,
            collector,
            codes: false,
            text: None,
            ids: vec![],
            failed: None,
        })
    }

    /// The same, which say that the blocks are of a text of this name, and what its documents are
    /// called: by their numbers, as from [`document_ids`](crate::document_ids).
    #[must_use]
    pub fn of_text(self, name: &str, ids: Vec<Option<String>>) -> Self {
        Self {
            text: Some(name.to_owned()),
            ids,
            ..self
        }
    }

    /// The same, with the codes of every token too.
    #[must_use]
    pub fn with_codes(self) -> Self {
        Self {
            codes: true,
            ..self
        }
    }

    /// Takes over what an evaluation of the dictionary on the same blocks has computed. What goes
    /// wrong is said when the tables are written, so that the evaluation ends.
    pub(crate) fn take(&mut self, batch: &EvaluatedBatch<'_>) {
        if self.failed.is_none() {
            self.failed = self.collector.take(batch).err();
        }
    }

    /// Writes `features/` and `report.html`, the report with the metrics and the training log.
    ///
    /// # Errors
    /// The model fails, or a file cannot be written.
    pub fn write(
        self,
        progress: &dyn Progress,
        folder: &RunFolder,
        metrics: Option<&Metrics>,
        log: &[StepReport],
    ) -> Result<()> {
        let Self {
            model,
            other,
            dictionary,
            hooks: [hooks, others],
            blocks,
            top_tokens,
            collector,
            codes,
            text: name,
            ids,
            failed,
        } = self;
        if let Some(failed) = failed {
            return Err(failed.into());
        }
        let stage = Stage::new(progress, "features", blocks.len() as u64);
        let hook = match others.is_empty() {
            true => names(&hooks),
            false => dictionary.sites().read().join(", "),
        };
        let tokenizer = model.tokenizer()?;
        let text = |token: u32| tokenizer.token_text(token);
        let mut on_progress = |done: usize| stage.at(done as u64, format!("{done} blocks"));
        let tables = folder.features();
        std::fs::create_dir_all(&tables)
            .with_context(|| format!("{}: cannot be made", tables.display()))?;
        let summary = match codes {
            true => {
                let mut source = source_of_text(dictionary, 0);
                source.provenance.retain(|(what, _)| what != STATISTICS); // not known yet
                if let Some(name) = &name {
                    source = source.on_text(name);
                }
                let path = tables.join("codes.parquet");
                write_codes(&path, &text, &source, |writer| {
                    collector.finish_with(Some(writer), &mut on_progress)
                })?
            }
            false => collector.finish(&mut on_progress)?,
        };
        // Of two models what a latent does to the second one's logits.
        let (lens, written) = match other {
            Some(other) => (&*other.model, others),
            None => (model, Hooks::targets(dictionary)?),
        };
        let parts = match other {
            Some(_) => hooks.iter().map(|hook| model.width(*hook)).collect(),
            None => Ok(vec![]),
        };
        let mut parts: Vec<usize> = parts?;
        for hook in &written {
            parts.push(lens.width(*hook)?);
        }
        let shown = shown_tokens(tokenizer, |t| summary.token_counts.contains_key(&t));
        let mut decoder =
            summarize_decoder(lens, dictionary, &written, &parts, top_tokens, &shown)?;
        decoder.nearest = nearest(dictionary, progress);
        // A latent of a cross-layer transcoder reads at the hook point of its layer, one of any
        // other coder at all.
        let places: Vec<String> = match dictionary.sites() {
            Sites::CrossLayer { .. } => hooks.iter().map(ToString::to_string).collect(),
            _ => vec![hook.clone()],
        };
        let features = feature_rows(&summary, &decoder, &places, &text)?;
        let examples = example_rows(&summary, &|tokens| tokenizer.texts(tokens));
        let mut source = TableSource {
            provenance: provenance(dictionary, summary.tokens, log),
        };
        if dictionary.provenance.model_name.is_none() {
            let model = ("Model".to_owned(), model.name().to_owned());
            source.provenance.insert(0, model);
        }
        if let Some(name) = &name {
            source = source.on_text(name);
        }
        write_features(&tables.join("features.parquet"), &features, &source)?;
        write_examples(&tables.join("examples.parquet"), &examples, &source)?;
        write_histograms(&tables.join("histograms.parquet"), &summary, &source)?;
        write_coactivations(&tables.join("coactivations.parquet"), &summary, &source)?;
        let counts = |token: u32| !model.is_special(token);
        let documents = document_rows(blocks, &counts, &ids, &|tokens| tokenizer.texts(tokens));
        write_documents(&tables.join("documents.parquet"), &documents, &source)?;
        let dead = features.iter().filter(|row| row.dead).count();
        let done = format!(
            "{} latents ({dead} never fired), {} contexts from {} tokens",
            features.len(),
            examples.len(),
            summary.tokens
        );
        drop((features, examples)); // the report reads what it shows of them
        let labels = readable_labels(folder, progress);
        report_of(folder, metrics, log, &labels)?;
        stage.done(done);
        Ok(())
    }
}

/// Nearest latents of each latent that are kept.
const NEAREST: usize = 10;

/// Most products of numbers that the search for nearest latents may take: some minutes.
const MOST_PRODUCTS: f64 = 1e14;

/// The nearest latents of each latent; none of dictionaries so large that it would take hours.
fn nearest(dictionary: &Dictionary, progress: &dyn Progress) -> Vec<Vec<(u32, f32)>> {
    let w_dec = dictionary.coder.w_dec();
    let [d_sae, d] = w_dec.dims();
    if (d_sae as f64).powi(2) * d as f64 > MOST_PRODUCTS {
        progress.say(
            "note",
            &format!("{d_sae} latents are too many to find the nearest ones of each: the column `nearest` is empty"),
        );
        return vec![vec![]; d_sae];
    }
    let stage = Stage::new(progress, "nearest", d_sae as u64);
    nearest_latents(&w_dec, NEAREST, &mut |done| {
        stage.at(done as u64, format!("{done} latents"));
    })
}
