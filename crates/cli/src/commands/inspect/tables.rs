//! Parquet tables.

use super::view::{View, brief, cut, size};
use crate::commands::figures;
use anyhow::Result;
use lapidary_features::{describe_table, read_examples, read_features, read_runs};
use serde_json::{Value, json};
use std::path::Path;

/// Tables that are read whole, for their first rows.
const READ_AT_MOST: u64 = 64 << 20;
/// Rows that are shown of them.
const ROWS: usize = 20;

/// A table: its columns, and of one of ours the first rows too.
pub fn table(path: &Path, all: bool) -> Result<View> {
    let described = describe_table(path)?;
    let has = |name: &str| described.columns.iter().any(|(column, _)| column == name);
    let bytes = path.metadata().map_or(u64::MAX, |data| data.len());
    let small = bytes <= READ_AT_MOST;
    if small
        && has("firing_density")
        && let Ok(rows) = read_features(path)
    {
        let mut view = View::new("feature table");
        let dead = rows.iter().filter(|r| r.dead).count();
        view.line(format!("{} latents, {dead} dead", rows.len()));
        view.store("latents", rows.len());
        view.store("dead", dead);
        let mut rows: Vec<_> = rows.iter().filter(|r| !r.dead).collect();
        rows.sort_by(|a, b| b.firing_density.total_cmp(&a.firing_density));
        let lines = rows.iter().take(ROWS).map(|row| {
            let tokens = row.top_tokens.iter().take(6);
            let words: Vec<String> = tokens.map(|t| format!("{:?}", t.text)).collect();
            let line = format!(
                "{:>7}  density {:.5}  max {:>8.3}  {}",
                row.feature_id,
                row.firing_density,
                row.max_activation,
                words.join(" ")
            );
            let value = json!({
                "feature_id": row.feature_id,
                "firing_density": row.firing_density,
                "max_activation": row.max_activation,
            });
            (value, line)
        });
        let lines: Vec<_> = lines.collect();
        view.list("first_rows", lines, true);
        return Ok(view);
    }
    if small
        && has("peak_index")
        && let Ok(rows) = read_examples(path)
    {
        let mut view = View::new("table of contexts");
        view.line(format!("{} contexts", rows.len()));
        view.store("contexts", rows.len());
        let lines = rows.iter().take(ROWS).map(|row| {
            let text = row.tokens.concat();
            let line = format!(
                "{:>7}  {:>8.3}  {}",
                row.feature_id,
                row.max_activation,
                cut(&text)
            );
            let value = json!({"feature_id": row.feature_id, "max_activation": row.max_activation, "text": text});
            (value, line)
        });
        let lines: Vec<_> = lines.collect();
        view.list("first_rows", lines, true);
        return Ok(view);
    }
    let mut view = View::new("table");
    view.told("rows", described.rows, &described.rows.to_string());
    view.told("size", bytes, &size(bytes));
    let columns = described.columns.into_iter().map(|(name, dtype)| {
        let line = format!("{dtype:<16} {name}");
        (json!({"name": name, "type": dtype}), line)
    });
    let columns: Vec<_> = columns.collect();
    view.told("columns", columns.len(), &columns.len().to_string());
    view.list("columns", columns, all);
    Ok(view)
}

/// The table of a sweep's runs.
pub fn runs(path: &Path, all: bool) -> Result<View> {
    let bytes = path.metadata().map_or(u64::MAX, |data| data.len());
    if bytes > READ_AT_MOST {
        return table(path, all);
    }
    let rows = read_runs(path)?;
    let mut view = View::new("sweep");
    view.line(format!("{} runs in {}", rows.len(), path.display()));
    // What runs were told apart by stands between their names and the course of their training.
    let mut shown: Vec<String> = vec!["name".into()];
    let keys = rows.first().into_iter().flatten().map(|(key, _)| key);
    shown.extend(keys.filter(|key| key.contains('.')).take(6).cloned());
    shown.extend(figures::HEADLINE.map(str::to_owned));
    let cell = |row: &[(String, Value)], key: &str| {
        let found = row.iter().find(|(name, _)| name == key);
        match found.map(|(_, value)| value) {
            None | Some(Value::Null) => "-".to_owned(),
            Some(value) => match value.as_f64().filter(|_| value.is_f64()) {
                Some(number) => figures::number(number),
                None => cut(&brief(value, false)),
            },
        }
    };
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| shown.iter().map(|key| cell(row, key)).collect())
        .collect();
    let wide = |at: usize| {
        let cells = lines.iter().map(|line| line[at].chars().count());
        cells.chain([shown[at].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..shown.len()).map(wide).collect();
    let join = |cells: &[String]| {
        let padded = cells.iter().zip(&widths);
        let padded: Vec<String> = padded.map(|(c, w)| format!("{c:<w$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    view.line(join(&shown));
    let values = rows.iter().map(|row| {
        let fields = row.iter().cloned();
        Value::Object(fields.collect())
    });
    let listed = values.zip(lines.iter().map(|line| join(line)));
    let listed: Vec<_> = listed.collect();
    view.list("runs", listed, all);
    Ok(view)
}
