//! `runs.parquet`: one row a coder of a run, what it was asked and what came of it.

use std::path::Path;

use polars::prelude::*;
use serde_json::Value;

use super::write::write_table;
use crate::FeaturesError;

/// A coder's cells by column; what another coder has and this one lacks is null.
pub type RunRow = Vec<(String, Value)>;

/// Writes `runs.parquet`; the file appears whole or not at all. Columns are in the order in which
/// they first come. One is of whole numbers (i64), numbers (f64) or booleans if all its values are,
/// and text otherwise.
///
/// # Errors
/// If it cannot be written.
pub fn write_runs(path: &Path, rows: &[RunRow]) -> Result<(), FeaturesError> {
    let mut names: Vec<&str> = vec![];
    for (name, _) in rows.iter().flatten() {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let columns = names.iter().map(|name| {
        let cell = |row: &RunRow| {
            let found = row.iter().find(|(column, _)| column == name);
            found.map_or(Value::Null, |(_, value)| value.clone())
        };
        column(name, rows.iter().map(cell).collect())
    });
    write_table(path, rows.len(), columns.collect(), None)
}

fn column(name: &str, cells: Vec<Value>) -> Column {
    let name = PlSmallStr::from(name);
    let all = |is: fn(&Value) -> bool| cells.iter().all(|cell| cell.is_null() || is(cell));
    if all(Value::is_i64) {
        let cells: Vec<Option<i64>> = cells.iter().map(Value::as_i64).collect();
        Column::new(name, cells)
    } else if all(Value::is_number) {
        let cells: Vec<Option<f64>> = cells.iter().map(Value::as_f64).collect();
        Column::new(name, cells)
    } else if all(Value::is_boolean) {
        let cells: Vec<Option<bool>> = cells.iter().map(Value::as_bool).collect();
        Column::new(name, cells)
    } else {
        let text = |cell: &Value| match cell {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        let cells: Vec<Option<String>> = cells.iter().map(text).collect();
        Column::new(name, cells)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs::File;

    #[test]
    fn columns_have_the_type_of_their_values_and_gaps_are_null() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("runs.parquet");
        let row = |cells: &[(&str, Value)]| -> RunRow {
            let cells = cells.iter().cloned();
            cells
                .map(|(name, value)| (name.to_owned(), value))
                .collect()
        };
        let rows = [
            row(&[
                ("name", json!("a")),
                ("k", json!(16)),
                ("lr", json!(1)),
                ("on", json!(true)),
            ]),
            row(&[
                ("name", json!("b")),
                ("k", json!(32)),
                ("lr", json!(0.5)),
                ("widths", json!([1, 2])),
            ]),
        ];
        write_runs(&path, &rows).unwrap();
        let table = ParquetReader::new(File::open(&path).unwrap())
            .finish()
            .unwrap();
        assert_eq!(
            table.get_column_names(),
            ["name", "k", "lr", "on", "widths"]
        );
        let number = |name: &str, row| table.column(name).unwrap().get(row).unwrap();
        assert_eq!(number("k", 1), AnyValue::Int64(32));
        assert_eq!(
            (number("lr", 0), number("lr", 1)),
            (AnyValue::Float64(1.0), AnyValue::Float64(0.5))
        );
        assert_eq!(
            (number("on", 0), number("on", 1)),
            (AnyValue::Boolean(true), AnyValue::Null)
        );
        assert_eq!(number("widths", 1).to_string(), "\"[1,2]\"");
        assert_eq!(number("widths", 0), AnyValue::Null);
    }
}
