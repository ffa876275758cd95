//! Latents as they are shown: a line of the list, and all of one latent.

use serde::Serialize;

use super::index::FeatureIndex;
use super::query::{Found, Match};
use crate::FeaturesError;
use crate::tables::{
    ExampleRow, FeatureRow, LabelRow, LogitToken, read_examples_of, read_histogram_of,
    read_partners_of,
};

/// Tokens of each kind in a line of the list.
const TOKENS_OF_A_LINE: usize = 7;

/// Latents that are similar to one, or fire with it.
const RELATED: usize = 10;

/// What a latent is about, in a few characters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct About<'a> {
    /// Its label.
    pub label: Option<&'a str>,
    /// The usual token at its peaks.
    pub peak: Option<&'a str>,
}

/// A line of the list of latents.
#[derive(Debug, Serialize)]
pub struct LatentSummary<'a> {
    id: u32,
    #[serde(flatten)]
    about: About<'a>,
    detection: Option<f64>,
    density: f64,
    max_activation: f32,
    dead: bool,
    top_tokens: Vec<&'a str>,
    promoted: Vec<&'a str>,
    #[serde(rename = "match")]
    how: Option<Match>,
}

/// One latent with the rows of all tables about it. What is not known is null.
#[derive(Debug, Serialize)]
pub struct LatentDetail<'a> {
    id: u32,
    hook_point: &'a str,
    /// Of a code: how `codebook generate --set` calls it.
    set: Option<String>,
    dead: bool,
    density: f64,
    count: u64,
    mean_activation: f32,
    max_activation: f32,
    std_activation: f32,
    quantiles: [f32; 5],
    mean_position: Option<f64>,
    decoder_norm: f32,
    encoder_decoder_cosine: Option<f32>,
    logit_kurtosis: Option<f32>,
    labels: Vec<Label<'a>>,
    peak: Option<&'a str>,
    top_tokens: Vec<Firing<'a>>,
    promoted: Vec<Logit<'a>>,
    suppressed: Vec<Logit<'a>>,
    contexts: Option<Vec<Context>>,
    /// Lower edge, upper edge and count of each bin.
    histogram: Option<Vec<(f32, f32, u64)>>,
    coactive: Option<Vec<Partner<'a>>>,
    similar: Option<Vec<Similar<'a>>>,
}

#[derive(Debug, Serialize)]
struct Label<'a> {
    label: &'a str,
    method: &'a str,
    detection: Option<f64>,
    fuzzing: Option<f64>,
    clamping: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Firing<'a> {
    token: &'a str,
    count: u64,
    mean_activation: f32,
    lift: Option<f32>,
}

#[derive(Debug, Serialize)]
struct Logit<'a> {
    token: &'a str,
    logit: f32,
}

#[derive(Debug, Serialize)]
struct Context {
    band: &'static str,
    tokens: Vec<String>,
    activations: Vec<f32>,
    peak_index: u32,
    document: u32,
    position: u32,
}

#[derive(Debug, Serialize)]
struct Partner<'a> {
    id: u32,
    #[serde(flatten)]
    about: About<'a>,
    phi: f64,
    jaccard: f64,
    count: u64,
}

#[derive(Debug, Serialize)]
struct Similar<'a> {
    id: u32,
    #[serde(flatten)]
    about: About<'a>,
    cosine: f32,
}

impl FeatureIndex {
    /// What a latent is about.
    pub fn about(&self, latent: u32) -> About<'_> {
        let peak = self.row(latent).and_then(|row| row.peak_token.as_ref());
        About {
            label: self.label(latent).map(|label| &*label.label),
            peak: peak.map(|token| &*token.text),
        }
    }

    /// The number of a latent that was found.
    pub fn id(&self, found: &Found) -> u32 {
        self.rows[found.place as usize].feature_id
    }

    /// A latent that was found, as a line of the list.
    pub fn summary(&self, found: &Found) -> LatentSummary<'_> {
        let row = &self.rows[found.place as usize];
        let top_tokens = row.top_tokens.iter().map(|token| &*token.text);
        let promoted = row.promoted.iter().map(|token| &*token.text);
        LatentSummary {
            id: row.feature_id,
            about: self.about(row.feature_id),
            detection: self.label(row.feature_id).and_then(|l| l.detection),
            density: row.firing_density,
            max_activation: row.max_activation,
            dead: row.dead,
            top_tokens: top_tokens.take(TOKENS_OF_A_LINE).collect(),
            promoted: promoted.take(TOKENS_OF_A_LINE).collect(),
            how: found.how,
        }
    }

    /// All that is known of a latent; nothing if there is no such latent. Tables that are not there
    /// are left out.
    ///
    /// # Errors
    /// If a table is damaged where it should have the latent.
    pub fn detail(&self, latent: u32) -> Result<Option<LatentDetail<'_>>, FeaturesError> {
        let Some(row) = self.row(latent) else {
            return Ok(None);
        };
        let table = |name: &str| Some(self.folder().join(name)).filter(|path| path.is_file());
        let contexts = table("examples.parquet").map(|path| read_examples_of(&path, latent));
        let histogram = table("histograms.parquet").map(|path| read_histogram_of(&path, latent));
        let partners = table("coactivations.parquet").map(|path| read_partners_of(&path, latent));
        let coactive = partners.transpose()?.map(|partners| {
            let partners = partners.into_iter().take(RELATED);
            let partner = |row: crate::PartnerRow| Partner {
                id: row.partner_id,
                about: self.about(row.partner_id),
                phi: row.phi,
                jaccard: row.jaccard,
                count: row.count,
            };
            partners.map(partner).collect()
        });
        let similar = (!row.nearest.is_empty()).then(|| {
            let similar = row.nearest.iter().map(|&(id, cosine)| Similar {
                id,
                about: self.about(id),
                cosine,
            });
            similar.collect()
        });
        let labels = self.labels.get(&latent).into_iter().flatten();
        Ok(Some(LatentDetail {
            contexts: contexts.transpose()?.map(contexts_in_order),
            histogram: histogram.transpose()?.map(|bins| {
                let bin = bins.iter().map(|bin| (bin.lower, bin.upper, bin.count));
                bin.collect()
            }),
            coactive,
            similar,
            labels: labels.map(Label::of).collect(),
            ..LatentDetail::of(row)
        }))
    }
}

impl<'a> LatentDetail<'a> {
    /// What the latent's row says.
    fn of(row: &'a FeatureRow) -> Self {
        let code = row.code.as_ref();
        let firing = row.top_tokens.iter().map(|token| Firing {
            token: &token.text,
            count: token.count,
            mean_activation: token.mean_activation,
            lift: token.lift,
        });
        Self {
            id: row.feature_id,
            hook_point: &row.hook_point,
            set: code.map(|code| format!("{}.{}={}", code.layer, code.head, code.code)),
            dead: row.dead,
            density: row.firing_density,
            count: row.firing_count,
            mean_activation: row.mean_activation,
            max_activation: row.max_activation,
            std_activation: row.std_activation,
            quantiles: row.quantiles,
            mean_position: row.mean_position,
            decoder_norm: row.decoder_norm,
            encoder_decoder_cosine: row.encoder_decoder_cosine,
            logit_kurtosis: row.logit_kurtosis,
            labels: vec![],
            peak: row.peak_token.as_ref().map(|token| &*token.text),
            top_tokens: firing.collect(),
            promoted: row.promoted.iter().map(Logit::of).collect(),
            suppressed: row.suppressed.iter().map(Logit::of).collect(),
            contexts: None,
            histogram: None,
            coactive: None,
            similar: None,
        }
    }
}

impl<'a> Label<'a> {
    fn of(row: &'a LabelRow) -> Self {
        Self {
            label: &row.label,
            method: &row.method,
            detection: row.detection,
            fuzzing: row.fuzzing,
            clamping: row.clamping,
        }
    }
}

impl<'a> Logit<'a> {
    fn of(token: &'a LogitToken) -> Self {
        Self {
            token: &token.text,
            logit: token.logit,
        }
    }
}

/// Contexts by band and rank.
fn contexts_in_order(mut rows: Vec<ExampleRow>) -> Vec<Context> {
    rows.sort_by_key(|row| (row.band, row.rank));
    let context = |row: ExampleRow| Context {
        band: row.band.name(),
        tokens: row.tokens.iter().map(ToString::to_string).collect(),
        activations: row.activations,
        peak_index: row.peak_index,
        document: row.document,
        position: row.position,
    };
    rows.into_iter().map(context).collect()
}
