//! `report.html`: one self-contained page that shows a dictionary to a person.
//!
//! The page is a template with the data as JSON inside it: no network, no framework. To stay small
//! with thousands of latents, every token text stands once in a table, windows of tokens are
//! written as fixed-width base-64 numbers into it, and activations are sparse and rounded to three
//! significant digits; the tables keep the exact ones.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use serde::{Serialize, Serializer};

use crate::FeaturesError;
use crate::shared_page::with_shared_parts;
use crate::tables::{ExampleRow, FeatureRow};
use lapidary_io::write_file;

const TEMPLATE: &str = include_str!("../report/template.html");

/// Contexts in one page, over all latents: at about 100 bytes each they stay near 10 MB.
const CONTEXTS_IN_A_PAGE: usize = 100_000;

/// Points of one training curve in the page.
const POINTS_OF_A_CURVE: usize = 1000;

/// Digits of a token number; they need no escape in JSON or HTML.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

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
/// If a curve has more steps than values or the reverse, or the file cannot be written.
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
    let io_error = |source| FeaturesError::Write {
        path: path.into(),
        source,
    };
    let data = serde_json::to_string(&Page::new(report))
        .map_err(|error| io_error(error.into()))?
        // Inside JSON `<` stands only in strings. Without it no text can end the script element or
        // open a comment.
        .replace('<', "\\u003c");
    // Split before anything is put in, so that a title `{{data}}` stays a title.
    let template = with_shared_parts(TEMPLATE);
    let (head, body, end) = parts(&template);
    let title = escape_html(&report.title);
    write_file(path, |file| {
        let mut page = std::io::BufWriter::new(file);
        let parts = [head, "<title>", &title, "</title>", body, &data, end];
        parts
            .iter()
            .try_for_each(|part| page.write_all(part.as_bytes()))
            .map_err(io_error)?;
        page.flush().map_err(io_error)
    })
}

/// The template before the title, between title and data, and after the data.
fn parts(template: &str) -> (&str, &str, &str) {
    let (head, rest) = template
        .split_once("<title>{{title}}</title>")
        .expect("the template has a title");
    let (body, end) = rest
        .split_once("{{data}}")
        .expect("the template has a place for the data");
    (head, body, end)
}

fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
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
    features: Columns,
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
struct Columns {
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
}

/// Band, peak, document, position, tokens, and (place, activation) of every token that fired.
#[derive(Serialize)]
struct PageContext(u8, u32, u32, u32, String, Vec<(usize, Short)>);

/// A number in at most three significant digits (`null` if it is not finite).
#[derive(Debug, Clone, Copy, PartialEq)]
struct Short(f64);

impl Serialize for Short {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let rounded: f64 = format!("{:.2e}", self.0).parse().unwrap_or(f64::NAN);
        if !rounded.is_finite() {
            serializer.serialize_none()
        } else if rounded.fract() == 0.0 && rounded.abs() < 1e15 {
            serializer.serialize_i64(rounded as i64)
        } else {
            serializer.serialize_f64(rounded)
        }
    }
}

impl From<f32> for Short {
    fn from(value: f32) -> Self {
        Short(f64::from(value))
    }
}

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
        let chosen = contexts_by_feature(report);
        for row in chosen.iter().flatten() {
            for text in &row.tokens {
                tokens.place(text);
            }
        }
        let digits = digits_for(tokens.texts.len());
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
            tokens: tokens.texts,
            digits,
            features,
            contexts,
            contexts_in_tables: report.examples.len(),
        }
    }
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
        let mut numbers = String::with_capacity(row.tokens.len() * digits);
        for text in &row.tokens {
            let place = tokens.place(text);
            for digit in (0..digits).rev() {
                numbers.push(char::from(DIGITS[(place >> (6 * digit)) % 64]));
            }
        }
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

/// Each token text once, in order of first use.
#[derive(Default)]
struct TokenTable<'a> {
    texts: Vec<&'a str>,
    places: HashMap<&'a str, usize>,
}

impl<'a> TokenTable<'a> {
    fn place(&mut self, text: &'a str) -> usize {
        *self.places.entry(text).or_insert_with(|| {
            self.texts.push(text);
            self.texts.len() - 1
        })
    }
}

fn digits_for(tokens: usize) -> usize {
    (1..)
        .find(|&digits| tokens <= 64usize.saturating_pow(digits))
        .map_or(1, |digits| digits as usize)
}

#[cfg(test)]
mod tests;
