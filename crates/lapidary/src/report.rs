//! `report.html` of a run's folder, from the tables and the labels in it.

use lapidary_evaluation::{Metric, Metrics};
use lapidary_features::{
    Curve, FeatureRow, FeaturesError, LabelRow, Report, read_examples, read_features,
    read_histogram_rows, read_partner_rows, read_source, write_report,
};
use lapidary_sae::StepReport;
use std::collections::HashMap;
use std::path::Path;

use crate::error::{Result, bail};
use crate::label_table::labels_of_run;
use crate::progress::{Progress, Stage, count};
use crate::run_folder::RunFolder;

/// Writes `report.html` again, from the tables, labels, metrics and the training log that the
/// folder has. No model runs.
///
/// # Errors
/// There are no tables, they are those of codebooks, or one is damaged.
pub fn rewrite_report(folder: &RunFolder, progress: &dyn Progress) -> Result<()> {
    let metrics = folder.read_metrics()?;
    let stage = Stage::new(progress, "report", 1);
    let labels = labels_of_run(folder, progress)?;
    let (latents, labels) = report_of(folder, metrics.as_ref(), &folder.read_log(), &labels)?;
    stage.done(format!(
        "{}, {} with a label: {}",
        count(latents as u64, "latent"),
        labels,
        folder.report().display()
    ));
    Ok(())
}

/// Writes the report of a folder's tables, with these metrics, this training log and these labels.
/// Returns the number of latents, and how many have a label.
pub(crate) fn report_of(
    folder: &RunFolder,
    metrics: Option<&Metrics>,
    log: &[StepReport],
    labels: &[LabelRow],
) -> Result<(usize, usize)> {
    let tables = folder.features();
    let path = tables.join("features.parquet");
    if !path.is_file() {
        bail!(
            "{}: found no features/features.parquet, which `lapidary features` writes",
            folder.path.display()
        );
    }
    let mut features = read_features(&path)?;
    features.sort_by_key(|row| row.feature_id);
    if features.iter().any(|row| row.code.is_some()) {
        bail!(
            "{}: found the tables of codebooks, whose report `lapidary codebook features` writes",
            path.display()
        );
    }
    let source = read_source(&path)?;
    let examples = table(&tables.join("examples.parquet"), read_examples)?;
    let histograms = table(&tables.join("histograms.parquet"), read_histogram_rows)?;
    let histograms = by_latent(&features, histograms);
    let partners = table(&tables.join("coactivations.parquet"), read_partner_rows)?;
    let partners = by_latent(&features, partners);
    let place = match &features[..] {
        [] => String::new(),
        [first, rest @ ..] if rest.iter().all(|row| row.hook_point == first.hook_point) => {
            first.hook_point.to_string()
        }
        _ => "several hook points".to_owned(),
    };
    let report = Report {
        title: source.title(&place),
        provenance: source.provenance,
        metrics: metrics.map(figures).unwrap_or_default(),
        curves: curves(log),
        features: &features,
        examples: &examples,
        labels,
        histograms: &histograms,
        partners: &partners,
    };
    write_report(&folder.report(), &report)?;
    let mut labelled: Vec<u32> = labels.iter().map(|label| label.feature_id).collect();
    labelled.sort_unstable();
    labelled.dedup();
    Ok((features.len(), labelled.len()))
}

/// For each latent its rows of another table, in their order; nothing if that table has none.
fn by_latent<T: Clone>(features: &[FeatureRow], rows: Vec<(u32, T)>) -> Vec<Vec<T>> {
    if rows.is_empty() {
        return vec![];
    }
    let ids = features.iter().map(|row| row.feature_id);
    let places: HashMap<u32, usize> = ids.zip(0..).collect();
    let mut of_latents = vec![vec![]; features.len()];
    for (latent, row) in rows {
        if let Some(place) = places.get(&latent) {
            of_latents[*place].push(row);
        }
    }
    of_latents
}

/// The rows of a table; none if it is not there.
fn table<T>(
    path: &Path,
    read: impl FnOnce(&Path) -> std::result::Result<Vec<T>, FeaturesError>,
) -> Result<Vec<T>> {
    match path.is_file() {
        true => Ok(read(path)?),
        false => Ok(vec![]),
    }
}

/// The metrics of the report, each with its value and what it means.
pub(crate) fn figures(m: &Metrics) -> Vec<(String, f64, String)> {
    let shown = m.named(&Metrics::REPORT);
    let row = |(metric, value): (&Metric, Option<f64>)| {
        let meaning = metric.report_label.unwrap_or(metric.label);
        Some((metric.name.to_owned(), value?, meaning.to_owned()))
    };
    shown.filter_map(row).collect()
}

fn curves(log: &[StepReport]) -> Vec<Curve> {
    if log.is_empty() {
        return vec![];
    }
    let steps: Vec<u64> = log.iter().map(|r| r.step).collect();
    let curve = |name: &str, value: fn(&StepReport) -> f64| Curve {
        name: name.into(),
        steps: steps.clone(),
        values: log.iter().map(value).collect(),
    };
    vec![
        curve("loss", |r| r.loss),
        curve("FVU", |r| r.fvu),
        curve("L0", |r| r.l0),
        curve("dead latents", |r| r.dead as f64),
        curve("learning rate", |r| r.lr),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metrics_of_the_report_are_what_they_were() {
        let metrics: Metrics =
            serde_json::from_str(include_str!("../../../tests/fixtures/metrics/metrics.json"))
                .unwrap();
        let rows = figures(&metrics).into_iter();
        let rows = rows.map(|(name, value, meaning)| format!("{name}\t{value}\t{meaning}\n"));
        let expected = include_str!("../../../tests/fixtures/metrics/report.tsv");
        assert_eq!(rows.collect::<String>(), expected);
    }
}
