//! The page of a comparison: how the latents of two dictionaries match, for a reader.

use std::path::Path;

use serde::Serialize;

use super::matching::MatchingReport;
use super::sparse_prediction::PredictionCurve;
use super::spectral::Clustering;
use super::stability::StabilitySummary;
use crate::FeaturesError;
use crate::page_data::{Short, TokenTable};
use crate::shared_page::write_page;
use crate::tables::{ExampleRow, FeatureRow, LabelRow, PairRow, best_labels};

const TEMPLATE: &str = include_str!("../../report/compare.html");

/// Contexts of one dictionary in a page, over all latents: near 5 MB.
const CONTEXTS_OF_A_SIDE: usize = 50_000;

/// Contexts of one latent.
const CONTEXTS: usize = 3;

/// Tokens of each kind of one latent.
const TOKENS: usize = 8;

/// Width of a bin of similarities.
const BIN: f64 = 0.02;

/// What a page of a comparison shows.
#[derive(Debug, Clone, Default)]
pub struct ComparisonPage<'a> {
    /// Heading and window title.
    pub title: String,
    /// What made it, as (what, value), in reading order.
    pub provenance: Vec<(String, String)>,
    /// Name and number of latents of each dictionary, A and B first.
    pub dictionaries: Vec<(String, usize)>,
    /// Matches by the cosine of decoder rows.
    pub cosine: Option<&'a MatchingReport>,
    /// Matches by the correlation of activations.
    pub correlation: Option<&'a MatchingReport>,
    /// How well few latents of A predict one of B.
    pub prediction: Option<&'a PredictionCurve>,
    /// Clusters of the latents of both.
    pub clusters: Option<&'a Clustering>,
    /// In how many of the other dictionaries latents of A are found.
    pub stability: Option<&'a StabilitySummary>,
    /// The pairs.
    pub pairs: &'a [PairRow],
    /// What the tables say of the latents of A and of B, if there are tables.
    pub sides: [Option<ComparedLatents<'a>>; 2],
}

/// The latents of a dictionary, as its tables describe them.
#[derive(Debug, Clone, Copy)]
pub struct ComparedLatents<'a> {
    /// Their rows, ascending from latent 0.
    pub features: &'a [FeatureRow],
    /// Their contexts, in any order.
    pub examples: &'a [ExampleRow],
    /// Their labels, in any order.
    pub labels: &'a [LabelRow],
}

/// Writes the page; the file appears whole or not at all.
///
/// # Errors
/// If the file cannot be written.
pub fn write_comparison_page(path: &Path, page: &ComparisonPage<'_>) -> Result<(), FeaturesError> {
    write_page(path, TEMPLATE, &page.title, &Data::new(page))
}

/// The JSON in the page; the template's script is its reader.
#[derive(Serialize)]
struct Data<'a> {
    title: &'a str,
    provenance: &'a [(String, String)],
    dictionaries: Vec<Named<'a>>,
    matchings: Vec<Matching>,
    /// Mean number of latents of A per latent of B, and the variance that they explain.
    prediction: Option<Vec<(Short, Short)>>,
    /// Latents of A and of B in each cluster.
    clusters: Option<Vec<(usize, usize)>>,
    stability: Option<Stability<'a>>,
    /// Texts of tokens; everything below names them by their place here.
    tokens: Vec<&'a str>,
    /// Digits of a token number in a context.
    digits: usize,
    sides: [Option<Side<'a>>; 2],
    pairs: Columns,
    /// Names of the methods of pairs.
    methods: Vec<&'static str>,
}

#[derive(Serialize)]
struct Named<'a> {
    name: &'a str,
    latents: usize,
}

#[derive(Serialize)]
struct Matching {
    by: &'static str,
    kind: &'static str,
    shuffled: bool,
    latents: usize,
    mean: Short,
    /// Of the latents, those with a match of at least 0.5, 0.7 and 0.9.
    shares: [Short; 3],
    /// Lower edge of the first bin.
    first: Short,
    counts: Vec<usize>,
}

#[derive(Serialize)]
struct Stability<'a> {
    found_in: &'a [usize],
    share_in_all: Short,
    share_per_dictionary: Vec<Short>,
}

#[derive(Serialize, Default)]
struct Side<'a> {
    density: Vec<Short>,
    max: Vec<Short>,
    label: Vec<Option<&'a str>>,
    top: Vec<Vec<(usize, u64)>>,
    promoted: Vec<Vec<(usize, Short)>>,
    contexts: Vec<Vec<PageContext>>,
}

/// Peak, tokens, and (place, activation) of every token that fired.
#[derive(Serialize)]
struct PageContext(u32, String, Vec<(usize, Short)>);

#[derive(Serialize, Default)]
struct Columns {
    a: Vec<u32>,
    b: Vec<u32>,
    method: Vec<usize>,
    cosine: Vec<Option<Short>>,
    correlation: Vec<Option<Short>>,
}

impl<'a> Data<'a> {
    fn new(page: &'a ComparisonPage<'_>) -> Self {
        let mut tokens = TokenTable::default();
        let contexts = page.sides.map(|side| side.map(contexts_by_latent));
        for row in contexts.iter().flatten().flatten().flatten() {
            for text in &row.tokens {
                tokens.place(text);
            }
        }
        let digits = tokens.digits();
        let sides = [0, 1].map(|side| {
            let (latents, contexts) = (page.sides[side]?, contexts[side].as_ref()?);
            Some(Side::new(latents, contexts, &mut tokens, digits))
        });
        let mut methods: Vec<&'static str> = vec![];
        let mut pairs = Columns::default();
        for row in page.pairs {
            let known = methods.iter().position(|method| *method == row.method);
            pairs.method.push(known.unwrap_or_else(|| {
                methods.push(row.method);
                methods.len() - 1
            }));
            pairs.a.push(row.feature_a);
            pairs.b.push(row.feature_b);
            pairs.cosine.push(row.cosine.map(Short));
            pairs.correlation.push(row.correlation.map(Short));
        }
        let reports = [("cosine", page.cosine), ("correlation", page.correlation)];
        let reports = reports
            .into_iter()
            .filter_map(|(by, report)| Some((by, report?)));
        let dictionaries = page.dictionaries.iter();
        Data {
            title: &page.title,
            provenance: &page.provenance,
            dictionaries: dictionaries
                .map(|(name, latents)| Named {
                    name,
                    latents: *latents,
                })
                .collect(),
            matchings: reports
                .flat_map(|(by, report)| matchings(by, report))
                .collect(),
            prediction: page.prediction.map(|curve| {
                let points = curve.points.iter();
                let points = points.map(|p| (Short(p.mean_nonzeros), Short(1.0 - p.mean_error)));
                points.collect()
            }),
            clusters: page.clusters.map(|clusters| {
                let sizes = clusters.sizes.iter();
                sizes.map(|size| (size.a, size.b)).collect()
            }),
            stability: page.stability.map(|stability| Stability {
                found_in: &stability.latents_found_in,
                share_in_all: Short(stability.share_in_all),
                share_per_dictionary: shorts(&stability.share_per_dictionary),
            }),
            tokens: tokens.into_texts(),
            digits,
            sides,
            pairs,
            methods,
        }
    }
}

fn shorts(values: &[f64]) -> Vec<Short> {
    values.iter().map(|value| Short(*value)).collect()
}

/// The greedy and the one-to-one matching of a similarity, each with its shuffled baseline.
fn matchings(by: &'static str, report: &MatchingReport) -> Vec<Matching> {
    let mut found = vec![];
    for kind in ["greedy", "bipartite"] {
        for (shuffled, summary) in [
            (false, Some(&report.observed)),
            (true, report.null.as_ref()),
        ] {
            let Some(summary) = summary else { continue };
            let (latents, mean, shares, similarities) = match kind {
                "greedy" => (
                    summary.latents,
                    summary.semi_mean,
                    summary.semi_shares,
                    &summary.semi_sorted,
                ),
                _ => (
                    summary.matched,
                    summary.bipartite_mean,
                    summary.bipartite_shares,
                    &summary.bipartite_sorted,
                ),
            };
            let (first, counts) = histogram(similarities);
            found.push(Matching {
                by,
                kind,
                shuffled,
                latents,
                mean: Short(mean),
                shares: shares.map(Short),
                first: Short(first),
                counts,
            });
        }
    }
    found
}

/// Counts in bins of [`BIN`], up to the one that ends at 1: the lower edge of the first, and the
/// counts.
fn histogram(similarities: &[f64]) -> (f64, Vec<usize>) {
    let last = (1.0 / BIN).round() as i64 - 1;
    let bin = |value: f64| ((value / BIN + 1e-9).floor() as i64).clamp(-last - 1, last);
    // As the pairs are rounded, so that a bar has as many pairs as it lists.
    let shown = similarities.iter().map(|value| Short(*value).rounded());
    let shown: Vec<f64> = shown.filter(|value| value.is_finite()).collect();
    let numbers = || shown.iter().map(|value| bin(*value));
    let first = numbers().min().unwrap_or(0).min(0);
    let mut counts = vec![0; (last - first + 1) as usize];
    for number in numbers() {
        counts[(number - first) as usize] += 1;
    }
    (first as f64 * BIN, counts)
}

/// The contexts to show of each latent, strongest band first.
fn contexts_by_latent<'a>(side: ComparedLatents<'a>) -> Vec<Vec<&'a ExampleRow>> {
    let latents = side.features.len();
    let mut chosen = vec![vec![]; latents];
    for row in side.examples {
        if let Some(of_latent) = chosen.get_mut(row.feature_id as usize) {
            of_latent.push(row);
        }
    }
    let each = (CONTEXTS_OF_A_SIDE / latents.max(1)).clamp(1, CONTEXTS);
    for rows in &mut chosen {
        rows.sort_by_key(|row| (row.band, row.rank));
        rows.truncate(each);
    }
    chosen
}

impl<'a> Side<'a> {
    fn new(
        latents: ComparedLatents<'a>,
        contexts: &[Vec<&'a ExampleRow>],
        tokens: &mut TokenTable<'a>,
        digits: usize,
    ) -> Self {
        let best = best_labels(latents.labels);
        let mut side = Side::default();
        for (row, contexts) in latents.features.iter().zip(contexts) {
            side.density.push(Short(row.firing_density));
            side.max.push(row.max_activation.into());
            let label = best.get(&row.feature_id);
            side.label.push(label.map(|label| &*label.label));
            let top = row.top_tokens.iter().take(TOKENS);
            side.top
                .push(top.map(|t| (tokens.place(&t.text), t.count)).collect());
            let promoted = row.promoted.iter().take(TOKENS);
            let promoted = promoted.map(|t| (tokens.place(&t.text), t.logit.into()));
            side.promoted.push(promoted.collect());
            let contexts = contexts.iter().map(|row| {
                let fired = row.activations.iter().enumerate();
                let fired = fired.filter(|(_, value)| **value != 0.0);
                PageContext(
                    row.peak_index,
                    tokens.encode(&row.tokens, digits),
                    fired.map(|(at, &value)| (at, value.into())).collect(),
                )
            });
            side.contexts.push(contexts.collect());
        }
        side
    }
}

#[cfg(test)]
mod tests;
