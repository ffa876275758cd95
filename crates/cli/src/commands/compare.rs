//! `lapidary compare`.

use crate::arguments::{DeviceArgument, DictionaryArgument, TextArgument};
use crate::progress::Watched;
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use lapidary::run_folder::write_json;
use lapidary::{CompareOptions, ComparisonSummary, compare};
use lapidary_features::comparison::MatchingReport;
use lapidary_features::write_pairs;
use lapidary_io::check_target;
use std::io::{Write, stdout};
use std::path::PathBuf;

/// Compare dictionaries: find the latents that represent the same thing
#[derive(Args)]
#[command(after_help = "Examples:
  lapidary compare seed0 seed1 --out pairs.parquet
  lapidary compare seed0 seed1 seed2 seed3 --by cosine --out pairs.parquet
  lapidary compare sae other-sae --by correlation --prediction --clusters 50 --tokens 500000 --out pairs.parquet

Similarity of two latents: the cosine of their decoder rows, or the correlation of their activations over the tokens of a text.
Latents are matched in two ways:
  greedy     the match of a latent of A is the most similar latent of B; several latents of A can have the same match
  bipartite  one to one, so that the sum of the similarities is as large as possible
For comparison, the correlations are computed again with the tokens of B in random order (\"shuffled\" in the printed table).

A method is a way of matching with a similarity, such as greedy-cosine. For each method, the output has one row per latent of A that has a
match. Columns: feature_a, feature_b, cosine, correlation, method. A JSON file of the same name has the summary. With three dictionaries
or more, the summary also says, for each latent of A, in how many of the other dictionaries it has a match (one to one, cosine of at
least 0.7). An HTML file of the same name is a page that shows the matches. If the dictionaries are run folders with feature tables, the
page shows both latents of a pair with their tokens and contexts.")]
pub struct Compare {
    /// Dictionaries to compare: A, B, and any number of further ones. Each is a run's folder, a
    /// folder or file in any format, or hf:OWNER/NAME/PATH on the Hugging Face hub
    #[arg(value_name = "DIR", required = true, num_args = 2..)]
    dictionaries: Vec<PathBuf>,
    #[command(flatten)]
    from: DictionaryArgument,
    /// Similarity of latents; default: both, or correlation if decoder rows have different widths
    #[arg(long, value_name = "WHAT")]
    by: Option<By>,
    /// Language model of A, and of B if --model-b is not given; default: the models that the
    /// dictionaries name
    #[arg(long)]
    model: Option<String>,
    /// Language model of B. It must have the same tokens as that of A
    #[arg(long, value_name = "MODEL")]
    model_b: Option<String>,
    /// Text: `embedded`, a file, a folder, or hf:OWNER/NAME (a dataset on the Hugging Face hub);
    /// default: the text that A was trained on
    #[arg(long)]
    corpus: Option<String>,
    #[command(flatten)]
    text: TextArgument,
    /// Number of tokens
    #[arg(long, default_value_t = 100_000)]
    tokens: u64,
    /// Predict each latent of B from a few latents of A (lasso), with ten weights of the penalty in
    /// turn
    #[arg(long)]
    prediction: bool,
    /// Cluster the latents of A and B by their correlations into N clusters
    #[arg(long, value_name = "N")]
    clusters: Option<usize>,
    /// Seed for shuffling and clusters
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Parquet file to write; the summary has the same name with .json, the page with .html
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    device: DeviceArgument,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum By {
    /// Cosine of decoder rows; needs no model and no text
    Cosine,
    /// Correlation of activations
    Correlation,
    /// Both
    Both,
}

impl Compare {
    pub fn run(self) -> Result<()> {
        let [json, html] = ["json", "html"].map(|kind| self.out.with_extension(kind));
        if [&json, &html].contains(&&self.out) {
            bail!(
                "--out {}: the summary or the page would have the same name; expected a name such as pairs.parquet",
                self.out.display()
            );
        }
        if html.exists() && !self.out.exists() {
            bail!(
                "{}: exists, and the page would replace it; give another --out, or delete it",
                html.display()
            );
        }
        for path in [&self.out, &json, &html] {
            check_target(path)?;
        }
        let device = self.device.open()?;
        let by = self.by.unwrap_or(By::Both);
        if by == By::Cosine && (self.prediction || self.clusters.is_some()) {
            bail!(
                "--prediction and --clusters need activations: found --by cosine, expected correlation or both"
            );
        }
        let options = CompareOptions {
            from: self.from.options(),
            cosine: by != By::Correlation,
            cosine_if_possible: self.by.is_none(),
            correlation: by != By::Cosine,
            models: [self.model.clone(), self.model_b.or(self.model)],
            corpus: self.corpus,
            text: self.text.options(),
            tokens: self.tokens,
            prediction: self.prediction,
            clusters: self.clusters,
            seed: self.seed,
        };
        let comparison = compare(&self.dictionaries, &options, &device, &Watched)?;
        write_pairs(&self.out, &comparison.pairs, &comparison.source)?;
        write_json(&json, &comparison.summary)?;
        comparison.write_page(&html)?;
        print(&comparison.summary)
    }
}

fn print(summary: &ComparisonSummary) -> Result<()> {
    let mut out = stdout();
    let reports = [
        ("cosine", &summary.cosine),
        ("correlation", &summary.correlation),
    ];
    writeln!(
        out,
        "{:<24} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "", "latents", "mean", ">= 0.5", ">= 0.7", ">= 0.9"
    )?;
    for (name, report) in reports {
        let Some(MatchingReport { observed, null, .. }) = report else {
            continue;
        };
        for (what, found) in [
            (name.to_owned(), Some(observed)),
            (format!("{name}, shuffled"), null.as_ref()),
        ] {
            let Some(found) = found else { continue };
            let rows = [
                (
                    format!("{what}, greedy"),
                    found.latents,
                    found.semi_mean,
                    found.semi_shares,
                ),
                (
                    format!("{what}, bipartite"),
                    found.matched,
                    found.bipartite_mean,
                    found.bipartite_shares,
                ),
            ];
            for (name, latents, mean, shares) in rows {
                let [a, b, c] = shares.map(|share| format!("{:.1} %", 100.0 * share));
                writeln!(
                    out,
                    "{name:<32} {latents:>6} {mean:>8.3} {a:>8} {b:>8} {c:>8}"
                )?;
            }
        }
    }
    if let Some(curve) = &summary.prediction {
        writeln!(out, "predicting a latent of B from few latents of A:")?;
        for point in &curve.points {
            let error = 1.0 - point.mean_error;
            writeln!(
                out,
                "  {:>6.1} latents explain {:.3} of the variance",
                point.mean_nonzeros, error
            )?;
        }
    }
    if let Some(clusters) = &summary.clusters {
        let both = clusters
            .sizes
            .iter()
            .filter(|size| size.a > 0 && size.b > 0)
            .count();
        writeln!(
            out,
            "{} clusters, {both} with latents of both",
            clusters.sizes.len()
        )?;
    }
    if let Some(stability) = &summary.stability {
        let others = stability.share_per_dictionary.len();
        let share = 100.0 * stability.share_in_all;
        writeln!(
            out,
            "{share:.1} % of the latents of A have a match (cosine of at least 0.7) in all {others} others"
        )?;
    }
    Ok(())
}
