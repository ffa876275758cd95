//! All rows of `features.parquet` in memory, with the labels, ready for search.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use super::context_texts::ContextTexts;
use super::query::{Found, Query};
use crate::FeaturesError;
use crate::tables::{FeatureRow, LabelRow, TableSource, read_features, read_source};

/// Bins of the density histogram per power of ten.
const BINS_PER_DECADE: f64 = 4.0;

/// How many latents fire how often.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct DensityBins {
    /// log10 of the lower edge of the first bin.
    pub first: f64,
    /// Width of a bin in log10.
    pub width: f64,
    /// Number of latents in each bin; the last bin ends at 1.
    pub counts: Vec<usize>,
    /// The median firing density of the latents that fired.
    pub median: f64,
}

/// The latents of a dictionary with their labels.
#[derive(Debug)]
pub struct FeatureIndex {
    pub(super) rows: Vec<FeatureRow>,
    /// Where the row of a latent is.
    pub(super) place: HashMap<u32, u32>,
    /// The labels of each latent, that with the best score first.
    pub(super) labels: HashMap<u32, Vec<LabelRow>>,
    pub(super) words: Words,
    pub(super) contexts: OnceLock<Result<ContextTexts, String>>,
    source: TableSource,
    folder: PathBuf,
    /// The last queries with what they found.
    pub(super) rankings: Mutex<Vec<(Query, Arc<[Found]>)>>,
}

/// The texts of tokens, each once, and which latent has which.
#[derive(Debug, Default)]
pub(super) struct Words {
    /// In lower case, without the blanks around.
    pub(super) texts: Vec<String>,
    numbers: HashMap<Arc<str>, u32>,
    /// The tokens on which each latent fires, with their activation mass.
    pub(super) firing: Vec<Vec<(u32, f32)>>, // [latents]
    /// The tokens that each latent promotes, and the usual one at its peaks.
    pub(super) named: Vec<Vec<u32>>, // [latents]
}

impl Words {
    fn new(rows: &[FeatureRow]) -> Self {
        let mut words = Words::default();
        for row in rows {
            let firing = row.top_tokens.iter();
            let firing = firing.map(|token| {
                let mass = token.count as f32 * token.mean_activation;
                (words.number(&token.text), mass)
            });
            let firing = firing.collect();
            let promoted = row.promoted.iter().map(|token| &token.text);
            let peak = row.peak_token.iter().map(|token| &token.text);
            let named = promoted.chain(peak).map(|text| words.number(text));
            let named = named.collect();
            words.firing.push(firing);
            words.named.push(named);
        }
        words
    }

    fn number(&mut self, text: &Arc<str>) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.texts.len() as u32;
        let lower = text.to_lowercase();
        let trimmed = lower.trim();
        self.texts.push(match trimmed.is_empty() {
            true => lower, // a token of blanks
            false => trimmed.to_owned(),
        });
        self.numbers.insert(Arc::clone(text), number);
        number
    }
}

impl FeatureIndex {
    /// Reads `features.parquet` in `folder`, for latents with these labels.
    ///
    /// # Errors
    /// If a table cannot be read, or is not what it should be.
    pub fn open(folder: &Path, labels: Vec<LabelRow>) -> Result<Self, FeaturesError> {
        let features = folder.join("features.parquet");
        let rows = read_features(&features)?;
        let mut of_latent: HashMap<u32, Vec<LabelRow>> = HashMap::new();
        for label in labels {
            of_latent.entry(label.feature_id).or_default().push(label);
        }
        let source = read_source(&features)?;
        Ok(Self::new(folder, rows, of_latent, source))
    }

    pub(super) fn new(
        folder: &Path,
        rows: Vec<FeatureRow>,
        mut labels: HashMap<u32, Vec<LabelRow>>,
        source: TableSource,
    ) -> Self {
        for of_latent in labels.values_mut() {
            of_latent.sort_by(|a, b| b.better_than(a));
        }
        let places = rows.iter().map(|row| row.feature_id).zip(0..);
        Self {
            place: places.collect(),
            labels,
            words: Words::new(&rows),
            rows,
            contexts: OnceLock::new(),
            source,
            folder: folder.into(),
            rankings: Mutex::default(),
        }
    }

    /// The folder of the tables.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Number of latents.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether the table has no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Whether the table says which latents are the nearest ones of any latent. Tables of codes and
    /// of earlier versions do not.
    pub fn has_nearest(&self) -> bool {
        let mut rows = self.rows.iter();
        rows.any(|row| row.code.is_some() || !row.nearest.is_empty())
    }

    /// Number of latents that never fired.
    pub fn dead(&self) -> usize {
        self.rows.iter().filter(|row| row.dead).count()
    }

    /// Number of latents with a label.
    pub fn labelled(&self) -> usize {
        self.labels.len()
    }

    /// What made the table.
    pub fn source(&self) -> &TableSource {
        &self.source
    }

    /// The hook points of the latents, each once.
    pub fn hook_points(&self) -> Vec<&str> {
        let mut found: Vec<&str> = vec![];
        for row in &self.rows {
            if found.last() != Some(&&*row.hook_point) && !found.contains(&&*row.hook_point) {
                found.push(&row.hook_point);
            }
        }
        found
    }

    /// The row of a latent.
    pub fn row(&self, latent: u32) -> Option<&FeatureRow> {
        let place = self.place.get(&latent)?;
        self.rows.get(*place as usize)
    }

    /// The label of a latent; of several, that with the best score.
    pub fn label(&self, latent: u32) -> Option<&LabelRow> {
        self.labels.get(&latent)?.first()
    }

    /// How many latents fire how often; nothing if none fired.
    pub fn density_bins(&self) -> Option<DensityBins> {
        let mut densities: Vec<f64> = self.rows.iter().map(|row| row.firing_density).collect();
        densities.retain(|density| *density > 0.0 && *density <= 1.0);
        densities.sort_by(f64::total_cmp);
        let lowest = densities.first()?.log10().min(-2.0);
        let first = (lowest * BINS_PER_DECADE).floor();
        let mut counts = vec![0; (-first) as usize];
        let last = counts.len() - 1;
        for density in &densities {
            let bin = (density.log10() * BINS_PER_DECADE).floor() - first;
            counts[(bin as usize).min(last)] += 1;
        }
        Some(DensityBins {
            first: first / BINS_PER_DECADE,
            width: 1.0 / BINS_PER_DECADE,
            counts,
            median: densities[densities.len() / 2],
        })
    }

    /// Reads the texts of all contexts, so that searches look into them too. Until this is done,
    /// searches look at labels and tokens alone.
    pub fn read_context_texts(&self) {
        self.contexts.get_or_init(|| {
            let path = self.folder.join("examples.parquet");
            ContextTexts::read(&path, &self.place).map_err(|error| error.to_string())
        });
    }

    /// Why searches do not look into all contexts, in words; nothing if they do.
    pub fn contexts_missing(&self) -> Option<String> {
        match self.contexts.get() {
            None => Some("the texts of the contexts are still being read".into()),
            Some(Err(problem)) => Some(problem.clone()),
            Some(Ok(texts)) if !texts.complete => {
                Some("only the first GiB of the texts of the contexts is searched".into())
            }
            Some(Ok(_)) => None,
        }
    }
}
