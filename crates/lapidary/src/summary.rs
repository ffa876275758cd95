//! What came of a run of several coders: `runs.parquet` for notebooks, and the same in short for
//! whoever watches.

use crate::error::Result;
use crate::progress::{Progress, count};
use crate::run_folder::RunFolder;
use lapidary_evaluation::Metrics;
use lapidary_features::{RunRow, write_runs};
use lapidary_sae::{Recipe, StepReport};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The table of all coders, in the folder of a run of several.
pub const FILE: &str = "runs.parquet";

/// Writes the table into the folder of the run: a coder's name, the keys of the recipe in which
/// coders differ, the last line of its log, and its metrics. Gives the file's path.
pub fn write(
    progress: &dyn Progress,
    out: &Path,
    names: &[String],
    recipes: &[Recipe],
    folders: &[RunFolder],
    figures: &[Option<Metrics>],
) -> Result<PathBuf> {
    let varied = varied(recipes)?;
    let mut rows: Vec<RunRow> = vec![];
    for (number, name) in names.iter().enumerate() {
        let mut row = vec![("name".to_owned(), Value::from(name.as_str()))];
        row.extend(varied[number].clone());
        if let Some(last) = folders[number].read_log().pop() {
            row.extend(course(&last));
        }
        if let Some(metrics) = &figures[number]
            && let Value::Object(metrics) = serde_json::to_value(metrics)?
        {
            row.extend(metrics.into_iter().map(|(key, value)| match key.as_str() {
                "tokens" => ("evaluation_tokens".to_owned(), value),
                _ => (key, value),
            }));
        }
        rows.push(row);
    }
    let path = out.join(FILE);
    write_runs(&path, &rows)?;
    show(progress, &rows, varied[0].len());
    Ok(path)
}

/// Of each recipe the keys in which not all agree.
fn varied(recipes: &[Recipe]) -> Result<Vec<RunRow>> {
    let all: Vec<BTreeMap<String, toml::Value>> = recipes.iter().map(Recipe::values).collect();
    let keys = all.iter().flat_map(BTreeMap::keys);
    let mut keys: Vec<&String> = keys
        .filter(|key| {
            all.iter()
                .any(|values| values.get(*key) != all[0].get(*key))
        })
        .collect();
    keys.sort();
    keys.dedup();
    let row = |values: &BTreeMap<String, toml::Value>| {
        let cell = |key: &&String| {
            let value = values.get(*key).map(serde_json::to_value).transpose()?;
            Ok(((*key).clone(), value.unwrap_or(Value::Null)))
        };
        keys.iter().map(cell).collect()
    };
    all.iter().map(row).collect()
}

/// The last step, under names that no metric has.
fn course(last: &StepReport) -> RunRow {
    [
        ("steps", Value::from(last.step)),
        ("training_tokens", Value::from(last.tokens)),
        ("training_loss", Value::from(last.loss)),
        ("training_fvu", Value::from(last.fvu)),
        ("training_l0", Value::from(last.l0)),
        ("dead", Value::from(last.dead)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Name, the first of the settings that vary, and the metrics that most look at first.
fn show(progress: &dyn Progress, rows: &[RunRow], varied: usize) {
    const FIRST: [&str; 4] = ["l0", "fvu", "ce_loss_score", "frac_alive"];
    /// Settings that fit on a line beside them.
    const SETTINGS: usize = 4;
    let keys = rows[0].iter().map(|(key, _)| key.as_str());
    let head = keys.clone().take(1 + varied.min(SETTINGS));
    let shown: Vec<&str> = head.chain(keys.filter(|key| FIRST.contains(key))).collect();
    if varied > SETTINGS {
        let more = varied - SETTINGS;
        let more = count(more as u64, "setting");
        progress.say("note", &format!("{more} more differ: see {FILE}"));
    }
    let cell = |row: &RunRow, key: &str| match row.iter().find(|(k, _)| k == key) {
        Some((_, Value::String(text))) => text.clone(),
        Some((_, Value::Number(n))) if n.is_f64() => {
            let value = n.as_f64().unwrap_or(f64::NAN);
            match (1e-3..1e4).contains(&value.abs()) {
                true => format!("{value:.4}"),
                false => format!("{value:.3e}"),
            }
        }
        Some((_, Value::Null)) | None => "-".to_owned(),
        Some((_, other)) => other.to_string(),
    };
    let mut lines = vec![shown.iter().map(ToString::to_string).collect::<Vec<_>>()];
    lines.extend(
        rows.iter()
            .map(|row| shown.iter().map(|key| cell(row, key)).collect()),
    );
    let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max();
    let widths: Vec<usize> = (0..shown.len()).filter_map(width).collect();
    for line in &lines {
        let cells = line
            .iter()
            .zip(&widths)
            .map(|(c, width)| format!("{c:<width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        progress.say("", line.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;
    use lapidary_features::describe_table;

    #[test]
    fn a_run_has_the_columns_that_it_had() {
        let folder = tempfile::tempdir().unwrap();
        let metrics = include_str!("../../../tests/fixtures/metrics/metrics.json");
        let metrics: Metrics = serde_json::from_str(metrics).unwrap();
        let text = include_str!("../../../configs/quickstart.toml");
        let recipe = Recipe::parse("quickstart", text, &[]).unwrap();
        let path = write(
            &Silent,
            folder.path(),
            &["a".to_owned()],
            &[recipe],
            &[RunFolder::new(folder.path())],
            &[Some(metrics)],
        )
        .unwrap();
        let columns = describe_table(&path).unwrap().columns.into_iter();
        let columns = columns.map(|(name, of)| format!("{name}\t{of}\n"));
        let expected = include_str!("../../../tests/fixtures/metrics/runs.tsv");
        assert_eq!(columns.collect::<String>(), expected);
    }
}
