//! `report.html`: one self-contained page that shows a dictionary to a person.
//!
//! The page is a template with the data as JSON inside it: no network, no framework. To stay small
//! with thousands of latents, every token text stands once in a table, windows of tokens are
//! written as fixed-width base-64 numbers into it, and activations are sparse and rounded to three
//! significant digits; the tables keep the exact ones.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;

use crate::page_data::{Short, TokenTable};
use crate::shared_page::write_page;
use crate::tables::{ExampleRow, FeatureRow, LabelRow, PartnerRow};
use crate::{FeaturesError, HistogramBin};

const TEMPLATE: &str = include_str!("../report/template.html");

/// Contexts in one page, over all latents: at about 100 bytes each they stay near 10 MB.
const CONTEXTS_IN_A_PAGE: usize = 100_000;

/// Nearest and co-active latents in one page, of each kind: about 6 MB.
const RELATED_IN_A_PAGE: usize = 400_000;

/// Nearest and co-active latents of one latent, of each kind.
const RELATED: usize = 8;

/// Points of one training curve in the page.
const POINTS_OF_A_CURVE: usize = 1000;

/// What a page shows.
#[derive(Debug, Clone, Default)]
pub struct Report<'a> {
    /// Heading and window title.
    pub title: String,
    /// Where the dictionary comes from, as (what, value), in reading order.
    pub provenance: Vec<(String, String)>,
    /// Metrics, as (name, value, what it means in a few words); the first ones are shown
    /// largest.
    pub metrics: Vec<(String, f64, String)>,
    /// Training curves.
    pub curves: Vec<Curve>,
    /// The latents.
    pub features: &'a [FeatureRow],
    /// Their contexts, in any order; shown by band and rank.
    pub examples: &'a [ExampleRow],
    /// Their labels, in any order.
    pub labels: &'a [LabelRow],
    /// Histogram of the activations of each latent; empty where that is not known.
    pub histograms: &'a [Vec<HistogramBin>], // [features]
    /// The latents that fire together with each latent, those with the highest phi first; empty
    /// where that is not known.
    pub partners: &'a [Vec<PartnerRow>], // [features]
}

/// A quantity over the steps of training.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Curve {
    /// Its name.
    pub name: String,
    /// Training steps, ascending.
    pub steps: Vec<u64>, // [points]
    /// The value at each; not finite shows as a gap.
    pub values: Vec<f64>, // [points]
}

/// Writes the page; the file appears whole or not at all.
///
/// With very many latents only the first contexts of each are shown (about 100,000 in all), and the
/// page says so.
///
/// # Errors
/// If a curve has more steps than values or the reverse, there are histograms or partners of some
/// latents only, or the file cannot be written.
pub fn write_report(path: &Path, report: &Report<'_>) -> Result<(), FeaturesError> {
    for curve in &report.curves {
        if curve.steps.len() != curve.values.len() {
            return Err(FeaturesError::Input {
                field: "curve.values",
                found: format!("{} values in `{}`", curve.values.len(), curve.name),
                expected: format!("{}, one per step", curve.steps.len()),
            });
        }
    }
    let latents = report.features.len();
    for (field, found) in [
        ("histograms", report.histograms.len()),
        ("partners", report.partners.len()),
    ] {
        if found != 0 && found != latents {
            return Err(FeaturesError::Input {
                field,
                found: format!("{found} entries"),
                expected: format!("{latents}, one per latent, or none"),
            });
        }
    }
    write_page(path, TEMPLATE, &report.title, &Page::new(report))
}

/// The JSON in the page; the template's script is its reader.
#[derive(Serialize)]
struct Page<'a> {
    title: &'a str,
    provenance: &'a [(String, String)],
    metrics: &'a [(String, f64, String)],
    curves: Vec<PageCurve<'a>>,
    /// Texts of tokens; everything below names them by their place here.
    tokens: Vec<&'a str>,
    /// Digits of a token number in a context.
    digits: usize,
    features: Columns<'a>,
    contexts: Vec<Vec<PageContext>>, // [features]
    contexts_in_tables: usize,
}

#[derive(Serialize)]
struct PageCurve<'a> {
    name: &'a str,
    steps: Vec<u64>,
    values: Vec<Short>,
}

#[derive(Serialize, Default)]
struct Columns<'a> {
    /// Where the latents are, each place once.
    places: Vec<String>,
    /// Each latent's place; empty where there is one.
    place: Vec<usize>,
    /// Of codes how `codebook generate --set` calls each.
    set: Vec<String>,
    id: Vec<u32>,
    count: Vec<u64>,
    density: Vec<Short>,
    mean: Vec<Short>,
    max: Vec<Short>,
    std: Vec<Short>,
    quantiles: Vec<[Short; 5]>,
    norm: Vec<Short>,
    cosine: Vec<Option<Short>>,
    promoted: Vec<Vec<(usize, Short)>>,
    suppressed: Vec<Vec<(usize, Short)>>,
    top: Vec<Vec<(usize, u64, Short)>>,
    /// The labels of each latent, the best one first; empty if there are none at all.
    labels: Vec<Vec<PageLabel<'a>>>,
    nearest: Vec<Vec<(u32, Short)>>,
    coactive: Vec<Vec<(u32, Short)>>,
    /// Number of the first bin and the counts of all bins; empty if there are none at all.
    histogram: Vec<Vec<i64>>,
}

/// Label, method, and the scores of detection, fuzzing and clamping.
#[derive(Serialize)]
struct PageLabel<'a>(
    &'a str,
    &'a str,
    Option<Short>,
    Option<Short>,
    Option<Short>,
);

/// Band, peak, document, position, tokens, and (place, activation) of every token that fired.
#[derive(Serialize)]
struct PageContext(u8, u32, u32, u32, String, Vec<(usize, Short)>);

impl<'a> Page<'a> {
    fn new(report: &'a Report<'_>) -> Self {
        let mut tokens = TokenTable::default();
        let mut features = Columns::default();
        let mut places: HashMap<String, usize> = HashMap::new();
        for row in report.features {
            let place = place(row);
            let next = places.len();
            let number = *places.entry(place.clone()).or_insert(next);
            if number == next {
                features.places.push(place);
            }
            features.place.push(number);
            let code = row.code.iter();
            let set = code.map(|c| format!("{}.{}={}", c.layer, c.head, c.code));
            features.set.extend(set);
            features.id.push(row.feature_id);
            features.count.push(row.firing_count);
            features.density.push(Short(row.firing_density));
            features.mean.push(row.mean_activation.into());
            features.max.push(row.max_activation.into());
            features.std.push(row.std_activation.into());
            features.quantiles.push(row.quantiles.map(Short::from));
            features.norm.push(row.decoder_norm.into());
            features
                .cosine
                .push(row.encoder_decoder_cosine.map(Short::from));
            let mut logits = |list: &'a [crate::LogitToken]| {
                list.iter()
                    .map(|token| (tokens.place(&token.text), Short::from(token.logit)))
                    .collect()
            };
            features.promoted.push(logits(&row.promoted));
            features.suppressed.push(logits(&row.suppressed));
            let top = row.top_tokens.iter();
            features.top.push(
                top.map(|top| {
                    (
                        tokens.place(&top.text),
                        top.count,
                        top.mean_activation.into(),
                    )
                })
                .collect(),
            );
        }

        if features.places.len() < 2 {
            features.place.clear();
        }
        features.labels = labels_by_feature(report);
        features.histogram = report.histograms.iter().map(|bins| counts(bins)).collect();
        let each = (RELATED_IN_A_PAGE / report.features.len().max(1)).clamp(1, RELATED);
        let near = |row: &FeatureRow| {
            let near = row.nearest.iter().take(each);
            near.map(|(id, cosine)| (*id, (*cosine).into())).collect()
        };
        if report.features.iter().any(|row| !row.nearest.is_empty()) {
            features.nearest = report.features.iter().map(near).collect();
        }
        let partners = |rows: &Vec<PartnerRow>| {
            let rows = rows.iter().take(each);
            rows.map(|row| (row.partner_id, Short(row.phi))).collect()
        };
        features.coactive = report.partners.iter().map(partners).collect();
        let chosen = contexts_by_feature(report);
        for row in chosen.iter().flatten() {
            for text in &row.tokens {
                tokens.place(text);
            }
        }
        let digits = tokens.digits();
        let contexts = chosen
            .iter()
            .map(|rows| {
                rows.iter()
                    .map(|row| PageContext::new(row, &mut tokens, digits))
                    .collect()
            })
            .collect();
        Page {
            title: &report.title,
            provenance: &report.provenance,
            metrics: &report.metrics,
            curves: report.curves.iter().map(PageCurve::new).collect(),
            tokens: tokens.into_texts(),
            digits,
            features,
            contexts,
            contexts_in_tables: report.examples.len(),
        }
    }
}

/// The labels of each latent, the best one first.
fn labels_by_feature<'a>(report: &Report<'a>) -> Vec<Vec<PageLabel<'a>>> {
    if report.labels.is_empty() {
        return vec![];
    }
    let mut of_latent: HashMap<u32, Vec<&LabelRow>> = HashMap::new();
    for label in report.labels {
        of_latent.entry(label.feature_id).or_default().push(label);
    }
    let page_label = |label: &'a LabelRow| {
        let [detection, fuzzing, clamping] =
            [label.detection, label.fuzzing, label.clamping].map(|score| score.map(Short));
        PageLabel(&label.label, &label.method, detection, fuzzing, clamping)
    };
    let labels = report.features.iter().map(|row| {
        let mut labels = of_latent.remove(&row.feature_id).unwrap_or_default();
        labels.sort_by(|a, b| b.better_than(a));
        labels.into_iter().map(page_label).collect()
    });
    labels.collect()
}

/// A histogram in a quarter of an octave each: bin `4 e + j` begins at `2^e (1 + j / 4)`. The
/// number of the first bin, then the counts; nothing if an edge is no positive number.
fn counts(bins: &[HistogramBin]) -> Vec<i64> {
    let bin = |lower: f32| -> Option<i64> {
        let exponent = f64::from(lower).log2().floor();
        let quarter = ((f64::from(lower) / exponent.exp2() - 1.0) * 4.0).floor();
        (lower.is_normal() && lower > 0.0).then(|| 4 * exponent as i64 + quarter as i64)
    };
    let numbered: Option<Vec<(i64, i64)>> = bins
        .iter()
        .map(|of| Some((bin(of.lower)?, of.count as i64)))
        .collect();
    let numbered = numbered.unwrap_or_default();
    let numbers = || numbered.iter().map(|(bin, _)| *bin);
    let (Some(first), Some(last)) = (numbers().min(), numbers().max()) else {
        return vec![];
    };
    let mut counts = vec![0; 2 + (last - first) as usize];
    counts[0] = first;
    for (bin, count) in numbered {
        counts[1 + (bin - first) as usize] += count;
    }
    counts
}

/// Where a latent is, as it is shown.
fn place(row: &FeatureRow) -> String {
    match row.code {
        Some(code) => format!("{}, head {}", row.hook_point, code.head),
        None => row.hook_point.to_string(),
    }
}

/// The contexts to show of each feature, strongest band first.
fn contexts_by_feature<'a>(report: &'a Report<'_>) -> Vec<Vec<&'a ExampleRow>> {
    let place: HashMap<u32, usize> = report
        .features
        .iter()
        .enumerate()
        .map(|(place, row)| (row.feature_id, place))
        .collect();
    let mut chosen = vec![Vec::new(); report.features.len()];
    for row in report.examples {
        if let Some(&place) = place.get(&row.feature_id) {
            chosen[place].push(row);
        }
    }
    let shown = chosen.iter().filter(|rows| !rows.is_empty()).count();
    let each = (CONTEXTS_IN_A_PAGE / shown.max(1)).max(1);
    for rows in &mut chosen {
        rows.sort_by_key(|row| (row.band, row.rank));
        rows.truncate(each);
    }
    chosen
}

impl PageContext {
    fn new<'a>(row: &'a ExampleRow, tokens: &mut TokenTable<'a>, digits: usize) -> Self {
        let numbers = tokens.encode(&row.tokens, digits);
        let fired = row
            .activations
            .iter()
            .enumerate()
            .filter(|(_, value)| **value != 0.0);
        PageContext(
            row.band as u8,
            row.peak_index,
            row.document,
            row.position,
            numbers,
            fired.map(|(at, &value)| (at, value.into())).collect(),
        )
    }
}

impl<'a> PageCurve<'a> {
    /// Every n-th point, and the last.
    fn new(curve: &'a Curve) -> Self {
        let last = curve.steps.len().saturating_sub(1);
        let stride = curve.steps.len().div_ceil(POINTS_OF_A_CURVE).max(1);
        let kept = |at: &usize| at.is_multiple_of(stride) || *at == last;
        PageCurve {
            name: &curve.name,
            steps: (0..curve.steps.len())
                .filter(kept)
                .map(|at| curve.steps[at])
                .collect(),
            values: (0..curve.steps.len())
                .filter(kept)
                .map(|at| Short(curve.values[at]))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests;
