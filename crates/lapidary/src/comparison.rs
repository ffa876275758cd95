//! Which latents of two dictionaries represent the same thing.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use lapidary_activations::TokenBlock;
use lapidary_coder::{Coder, Dictionary, host};
use lapidary_evaluation::HostCodes;
use lapidary_features::comparison::{
    Affinity, BipartiteConfig, Clustering, CodeCorrelation, ComparedLatents, ComparisonPage,
    Correlations, DecoderCosines, MatchingReport, PredictionConfig, PredictionCurve, Similarity,
    SpectralConfig, StabilitySummary, bipartite_match, cluster_units, match_latents, predict_units,
    stability, write_comparison_page,
};
use lapidary_features::{
    CodeReader, ExampleRow, FeatureRow, LabelRow, PairRow, SparseRows, TableSource, read_examples,
    read_features,
};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use crate::error::{Result, bail};
use crate::label_table::readable_labels;
use crate::opened::{DictionaryOptions, Opened, TextOptions, open_dictionary};
use crate::progress::{Progress, Stage};
use crate::provenance::source_of_text;
use crate::run_folder::RunFolder;

/// Two latents with decoder rows of at least this cosine count as the same.
const SAME_LATENT: f64 = 0.7;

/// Neighbours of a latent in the graph that is clustered.
const NEIGHBOURS: usize = 10;

/// How [`compare`] works.
#[derive(Debug, Clone)]
pub struct CompareOptions {
    /// What the files of the dictionaries may leave open.
    pub from: DictionaryOptions,
    /// Compare decoder rows.
    pub cosine: bool,
    /// Do without that if decoder rows have different widths.
    pub cosine_if_possible: bool,
    /// Compare activations on a text.
    pub correlation: bool,
    /// The model of the first dictionary, and of the second one; by default those that they name.
    pub models: [Option<String>; 2],
    /// The text; by default that of the first dictionary's training.
    pub corpus: Option<String>,
    /// How it is read.
    pub text: TextOptions,
    /// Number of tokens.
    pub tokens: u64,
    /// Predict each latent of the second dictionary from few latents of the first one.
    pub prediction: bool,
    /// Cluster the latents of both.
    pub clusters: Option<usize>,
    /// Seed of the shuffled tokens and of the clusters.
    pub seed: u64,
}

/// What a comparison says, as `pairs.json` has it.
#[derive(Debug, Clone, Serialize)]
pub struct ComparisonSummary {
    /// The dictionaries.
    pub dictionaries: Vec<String>,
    /// Numbers of their latents.
    pub d_sae: Vec<usize>,
    /// Tokens of the text, if there was one.
    pub tokens: Option<u64>,
    /// Of the first two: matches by the cosine of decoder rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cosine: Option<MatchingReport>,
    /// Of the first two: matches by the correlation of activations, and with the tokens of the
    /// second one shuffled. Only latents that vary on the text are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation: Option<MatchingReport>,
    /// How well few latents of the first dictionary predict one of the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prediction: Option<PredictionCurve>,
    /// Clusters of the latents of the first two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clusters: Option<Clustering>,
    /// Of three dictionaries or more: in how many of the others a latent of the first has a match.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stability: Option<StabilitySummary>,
    /// The program's version.
    pub lapidary_version: &'static str,
}

/// A comparison of dictionaries.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// For each latent of the first dictionary its counterparts in the second one.
    pub pairs: Vec<PairRow>,
    /// The numbers.
    pub summary: ComparisonSummary,
    /// What made them.
    pub source: TableSource,
    /// The tables beside the first two dictionaries, if they are runs with tables.
    described: [Option<Described>; 2],
}

/// The rows of the tables of a dictionary.
#[derive(Debug, Clone)]
struct Described {
    features: Vec<FeatureRow>,
    examples: Vec<ExampleRow>,
    labels: Vec<LabelRow>,
}

impl Comparison {
    /// Writes the page that shows the comparison.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_page(&self, path: &Path) -> Result<()> {
        let summary = &self.summary;
        let names = summary.dictionaries.iter().cloned();
        let sides = self.described.each_ref().map(|described| {
            described.as_ref().map(|rows| ComparedLatents {
                features: &rows.features,
                examples: &rows.examples,
                labels: &rows.labels,
            })
        });
        let page = ComparisonPage {
            title: match &summary.dictionaries[..] {
                [a, b] => format!("{a} and {b}"),
                [a, others @ ..] => format!("{a} and {} others", others.len()),
                [] => String::new(),
            },
            provenance: self.source.provenance.clone(),
            dictionaries: names.zip(summary.d_sae.iter().copied()).collect(),
            cosine: summary.cosine.as_ref(),
            correlation: summary.correlation.as_ref(),
            prediction: summary.prediction.as_ref(),
            clusters: summary.clusters.as_ref(),
            stability: summary.stability.as_ref(),
            pairs: &self.pairs,
            sides,
        };
        Ok(write_comparison_page(path, &page)?)
    }
}

/// What the tables beside a dictionary say of its latents. Tables that are missing, damaged or of
/// other latents do not stop a comparison.
fn describe(place: &Path, d_sae: usize, progress: &dyn Progress) -> Option<Described> {
    let run = RunFolder::new(place);
    let table = |name: &str| run.features().join(name);
    if !table("features.parquet").is_file() {
        return None;
    }
    let read = || -> Result<Described> {
        let mut features = read_features(&table("features.parquet"))?;
        features.sort_by_key(|row| row.feature_id);
        let ids = features.iter().map(|row| row.feature_id as usize);
        if !ids.eq(0..d_sae) {
            bail!(
                "found {} latents, expected 0 to {}",
                features.len(),
                d_sae - 1
            );
        }
        Ok(Described {
            features,
            examples: read_examples(&table("examples.parquet"))?,
            labels: readable_labels(&run, progress),
        })
    };
    let read = read();
    if let Err(error) = &read {
        let place = place.display();
        progress.say(
            "note",
            &format!("the tables of {place} are left out: {error}"),
        );
    }
    read.ok()
}

/// Compares the first two dictionaries, and, if there are more, says how stable the latents of the
/// first one are over all.
///
/// # Errors
/// A dictionary, a model or the text cannot be read; their widths or tokenizers differ.
pub fn compare(
    places: &[PathBuf],
    options: &CompareOptions,
    device: &Device,
    progress: &dyn Progress,
) -> Result<Comparison> {
    let dictionaries: Vec<Dictionary> = places
        .iter()
        .map(|place| open_dictionary(place, options.from, device))
        .collect::<Result<_>>()?;
    let [first, second, ..] = &dictionaries[..] else {
        bail!(
            "found {} dictionary, expected at least 2",
            dictionaries.len()
        );
    };
    if dictionaries.len() > 2 && !options.cosine {
        bail!(
            "found {} dictionaries, expected 2: activations are compared in pairs, only decoder rows over several",
            dictionaries.len()
        );
    }
    let width = first.coder.d_out();
    let widths_differ = dictionaries.iter().any(|d| d.coder.d_out() != width);
    let cosine = options.cosine && !(widths_differ && options.cosine_if_possible);
    if options.cosine && !cosine {
        progress.say(
            "note",
            "decoder rows have different widths: only activations are compared",
        );
    }
    let config = BipartiteConfig::default();
    let mut pairs = Pairs::default();

    let decoders: Vec<Vec<f32>> = match cosine {
        true => {
            let rows = dictionaries.iter().map(|d| host(&d.coder.w_dec()));
            rows.collect::<Result<_, _>>()?
        }
        false => vec![],
    };
    let mut matchings = vec![];
    let mut cosines = None;
    for (number, other) in dictionaries.iter().enumerate().skip(1) {
        if !cosine {
            break;
        }
        if other.coder.d_out() != width {
            bail!(
                "{}: decoder rows have width {}, expected {width} as in {} (--by correlation compares activations)",
                places[number].display(),
                other.coder.d_out(),
                places[0].display()
            );
        }
        let stage = Stage::new(progress, "cosines", 1);
        let found = DecoderCosines::new(&decoders[0], &decoders[number], width)?;
        match number {
            1 => {
                let report = match_latents(&found, None, None, &config)?;
                pairs.add(["greedy-cosine", "bipartite-cosine"], &report);
                matchings.push(report.bipartite.clone());
                cosines = Some((found, report));
            }
            _ => matchings.push(bipartite_match(&found, &config)?),
        }
        stage.done(format!(
            "decoder rows of {} and {}",
            places[0].display(),
            places[number].display()
        ));
    }
    let mut summary = ComparisonSummary {
        dictionaries: places
            .iter()
            .map(|place| place.display().to_string())
            .collect(),
        d_sae: dictionaries.iter().map(|d| d.coder.d_sae()).collect(),
        tokens: None,
        cosine: None,
        correlation: None,
        prediction: None,
        clusters: None,
        stability: None,
        lapidary_version: env!("CARGO_PKG_VERSION"),
    };
    if dictionaries.len() > 2 && !matchings.is_empty() {
        summary.stability = Some(stability(first.coder.d_sae(), &matchings, SAME_LATENT)?);
    }
    let (cosines, report) = cosines.unzip();
    summary.cosine = report;
    let found = match options.correlation {
        true => Some(correlate(
            places,
            [first, second],
            options,
            device,
            progress,
        )?),
        false => None,
    };
    if let Some(found) = &found {
        let counted: Vec<bool> = (0..found.across.d_a())
            .map(|a| found.across.varies_a(a))
            .collect();
        let null = Some(&found.null as &dyn Similarity);
        summary.tokens = Some(found.across.tokens());
        let report = match_latents(&found.across, null, Some(&counted), &config)?;
        pairs.add(["greedy-correlation", "bipartite-correlation"], &report);
        summary.correlation = Some(report);
        if let Some(within) = &found.within {
            let config = PredictionConfig::default();
            if options.prediction {
                let across = found.across.transpose();
                summary.prediction = Some(predict_units(&within[0], &across, &config)?);
            }
            if let Some(clusters) = options.clusters {
                let [a, b] = within;
                let affinity = Affinity::new(a, &found.across, b, NEIGHBOURS)?;
                let config = SpectralConfig {
                    seed: options.seed,
                    ..SpectralConfig::new(clusters)
                };
                summary.clusters = Some(cluster_units(&affinity, &config)?);
            }
        }
    }
    let across = found.as_ref().map(|found| &found.across);
    let described = [0, 1].map(|at| describe(&places[at], summary.d_sae[at], progress));
    Ok(Comparison {
        described,
        pairs: pairs.rows(cosines.as_ref(), across),
        source: source_of_comparison(first, options, &summary),
        summary,
    })
}

/// What made the table: the first dictionary, the names of all, and the text.
fn source_of_comparison(
    first: &Dictionary,
    options: &CompareOptions,
    summary: &ComparisonSummary,
) -> TableSource {
    let mut source = source_of_text(first, summary.tokens.unwrap_or(0));
    let names = summary.dictionaries.join(", ");
    source.provenance.push(("Dictionaries".to_owned(), names));
    let text = options
        .corpus
        .as_deref()
        .or(first.provenance.corpus.as_deref());
    match text.filter(|_| summary.tokens.is_some()) {
        Some(text) => source.on_text(text),
        None => source,
    }
}

/// The pairs of all methods.
#[derive(Default)]
struct Pairs(Vec<(u32, u32, &'static str)>);

impl Pairs {
    /// The many-to-one and the one-to-one matches of a similarity.
    fn add(&mut self, names: [&'static str; 2], report: &MatchingReport) {
        let all = [&report.greedy, &report.bipartite.pairs];
        for (name, pairs) in names.into_iter().zip(all) {
            self.0
                .extend(pairs.iter().map(|pair| (pair.a, pair.b, name)));
        }
    }

    fn rows(
        &self,
        cosines: Option<&DecoderCosines<'_>>,
        across: Option<&Correlations>,
    ) -> Vec<PairRow> {
        let row = |&(a, b, method): &(u32, u32, &'static str)| {
            let (i, j) = (a as usize, b as usize);
            PairRow {
                feature_a: a,
                feature_b: b,
                cosine: cosines.map(|cosines| cosines.cosine(i, j)),
                correlation: across
                    .filter(|across| across.varies_a(i) && across.varies_b(j))
                    .map(|across| across.correlation(i, j)),
                method,
            }
        };
        let rows = self.0.iter().map(row);
        // A latent that is constant on the text has no counterpart by correlation.
        let known = |row: &PairRow| row.correlation.is_some() || row.method.ends_with("cosine");
        rows.filter(known).collect()
    }
}

/// Correlations of the latents of two dictionaries.
struct Found {
    across: Correlations,
    /// With the tokens of the second one shuffled.
    null: Correlations,
    /// Among the latents of each.
    within: Option<[Correlations; 2]>,
}

fn correlate(
    places: &[PathBuf],
    [first, second]: [&Dictionary; 2],
    options: &CompareOptions,
    device: &Device,
    progress: &dyn Progress,
) -> Result<Found> {
    let open = |number: usize| {
        let model = options.models[number].as_deref();
        Opened::new(&places[number], options.from, model, device, progress)
    };
    let opened = [open(0)?, open(1)?];
    let seconds = [opened[0].second()?, opened[1].second()?];
    let readers = [
        opened[0].reader(seconds[0].as_ref())?,
        opened[1].reader(seconds[1].as_ref())?,
    ];
    lapidary_activations::OtherModel {
        model: opened[1].model.clone(),
        hook_points: vec![],
    }
    .check_tokens(&opened[0].model)?;
    let corpus = options.corpus.as_deref();
    let blocks = opened[0].read_text(corpus, &options.text, options.tokens, progress)?;
    let [d_a, d_b] = [first.coder.d_sae(), second.coder.d_sae()];
    let mut across = CodeCorrelation::new(d_a, d_b);
    let mut null = CodeCorrelation::new(d_a, d_b);
    let mut within = (options.prediction || options.clusters.is_some()).then(|| {
        [
            CodeCorrelation::new(d_a, d_a),
            CodeCorrelation::new(d_b, d_b),
        ]
    });
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let stage = Stage::new(progress, "correlate", blocks.len() as u64);
    readers[0].for_each(&blocks, |done, batch, codes_a| {
        let special: Vec<bool> = special_tokens(&readers[0], batch);
        let a = Counted::new(codes_a, &special);
        let b = Counted::new(&readers[1].read(batch)?, &special);
        across.observe(&a.rows(d_a)?, &b.rows(d_b)?)?;
        if let Some([of_a, of_b]) = &mut within {
            of_a.observe(&a.rows(d_a)?, &a.rows(d_a)?)?;
            of_b.observe(&b.rows(d_b)?, &b.rows(d_b)?)?;
        }
        null.observe(&a.rows(d_a)?, &b.shuffled(&mut rng).rows(d_b)?)?;
        stage.at(
            (done + batch.len()) as u64,
            format!("{} blocks", done + batch.len()),
        );
        Ok::<(), crate::Error>(())
    })?;
    stage.done(format!("{} tokens", across.tokens()));
    Ok(Found {
        across: across.finish(),
        null: null.finish(),
        within: within.map(|within| within.map(CodeCorrelation::finish)),
    })
}

fn special_tokens(reader: &CodeReader<'_>, blocks: &[TokenBlock]) -> Vec<bool> {
    let tokens = blocks.iter().flat_map(|block| &block.tokens);
    tokens
        .map(|token| reader.model().is_special(*token))
        .collect()
}

/// Codes without the rows of special tokens.
struct Counted(HostCodes);

impl Counted {
    fn new(codes: &HostCodes, special: &[bool]) -> Self {
        let rows = (0..special.len()).filter(|row| !special[*row]);
        Self(pick(codes, rows))
    }

    fn rows(&self, d_sae: usize) -> Result<SparseRows<'_>> {
        Ok(SparseRows::new(
            &self.0.values,
            &self.0.indices,
            self.0.k,
            d_sae,
        )?)
    }

    /// The same rows in another order.
    fn shuffled(&self, rng: &mut ChaCha8Rng) -> Self {
        let mut order: Vec<usize> = (0..self.0.values.len() / self.0.k.max(1)).collect();
        order.shuffle(rng);
        Self(pick(&self.0, order.into_iter()))
    }
}

fn pick(codes: &HostCodes, rows: impl Iterator<Item = usize>) -> HostCodes {
    let k = codes.k;
    let (mut values, mut indices) = (vec![], vec![]);
    for row in rows {
        values.extend_from_slice(&codes.values[row * k..(row + 1) * k]);
        indices.extend_from_slice(&codes.indices[row * k..(row + 1) * k]);
    }
    HostCodes { values, indices, k }
}
