//! Labels that are added to a table.

use std::collections::HashSet;
use std::path::Path;

use lapidary_coder::Dictionary;
use lapidary_features::{WRITTEN, write_labels};

use crate::error::Result;
use crate::label_table::known_labels;
use crate::labelling::Labelled;
use crate::provenance::{LABELS_BY, source_of_text};

/// Checks that labels of `dictionary` can be added to the file, if there is one.
///
/// # Errors
/// It is no table of labels, it has further columns, or its labels are of another dictionary.
pub fn check_labels(path: &Path, dictionary: &Dictionary) -> Result<()> {
    known_labels(path, &source_of_text(dictionary, 0)).map(|_| ())
}

/// Writes labels to `labels.parquet`. Labels by other methods that the file has stay, and so do
/// those that a language model wrote for other latents. Returns the number of labels that stayed.
///
/// # Errors
/// The file is no table of labels of this dictionary, or cannot be written.
pub fn save_labels(path: &Path, labelled: &Labelled) -> Result<usize> {
    let (mut rows, known) = known_labels(path, &labelled.source)?;
    let made: HashSet<&str> = labelled.pooled.iter().map(|scores| scores.method).collect();
    let written = labelled.rows.iter().filter(|row| &*row.method == WRITTEN);
    let written: HashSet<u32> = written.map(|row| row.feature_id).collect();
    rows.retain(|row| match &*row.method {
        WRITTEN => !written.contains(&row.feature_id),
        method => !made.contains(method),
    });
    let stayed = rows.len();
    let mut source = labelled.source.clone();
    let by_model = format!("{LABELS_BY}{WRITTEN}");
    let model_labels_stay = rows.iter().any(|row| &*row.method == WRITTEN);
    for (what, value) in known.provenance {
        if !what.starts_with(LABELS_BY) {
            continue;
        }
        match source.provenance.iter_mut().find(|row| row.0 == what) {
            None => source.provenance.push((what, value)),
            // Two runs of a language model may have had other settings.
            Some(row)
                if what == by_model
                    && model_labels_stay
                    && value.split("; ").all(|v| v != row.1) =>
            {
                row.1 = format!("{value}; {}", row.1);
            }
            Some(row) if what == by_model && model_labels_stay => row.1 = value,
            Some(_) => {}
        }
    }
    // Where a latent has several labels, they are in the order of the methods' names.
    rows.extend(labelled.rows.iter().cloned());
    rows.sort_by(|a, b| a.method.cmp(&b.method));
    write_labels(path, &rows, &source)?;
    Ok(stayed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label_table::difference;
    use crate::labelling::MethodScores;
    use lapidary_features::labels::Confusion;
    use lapidary_features::{LabelRow, TableSource, read_labels, read_source};

    fn row(feature_id: u32, method: &str, label: &str) -> LabelRow {
        LabelRow {
            feature_id,
            label: label.into(),
            method: method.into(),
            detection: None,
            fuzzing: None,
            clamping: None,
        }
    }

    fn source(rows: &[(&str, &str)]) -> TableSource {
        let rows = rows
            .iter()
            .map(|(what, value)| (what.to_string(), value.to_string()));
        TableSource {
            provenance: rows.collect(),
        }
    }

    fn labelled(methods: &[&'static str], rows: &[LabelRow], made: &[(&str, &str)]) -> Labelled {
        let scores = |method: &&'static str| MethodScores {
            method,
            detection: Confusion::default(),
            fuzzing: Confusion::default(),
            scored: 0,
            clamping: None,
            clamped: 0,
        };
        Labelled {
            rows: rows.to_vec(),
            source: source(&[&[("Model", "embedded"), ("Seed", "0")], made].concat()),
            pooled: methods.iter().map(scores).collect(),
            estimate: None,
            failed: None,
        }
    }

    #[test]
    fn labels_of_other_methods_and_latents_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.parquet");
        let first = [row(0, "pmi", "a"), row(1, "pmi", "b"), row(0, "lens", "c")];
        let made = [("Labels by pmi", "seed 1"), ("Labels by lens", "seed 1")];
        let first = labelled(&["pmi", "lens"], &first, &made);
        assert_eq!(save_labels(&path, &first).unwrap(), 0);
        // Latent 1 has no label by pmi any more.
        let second = labelled(
            &["pmi"],
            &[row(0, "pmi", "d")],
            &[("Labels by pmi", "seed 2")],
        );
        assert_eq!(save_labels(&path, &second).unwrap(), 1);
        let model = |latent, label| {
            labelled(
                &["llm"],
                &[row(latent, "llm", label)],
                &[("Labels by llm", label)],
            )
        };
        save_labels(&path, &model(3, "x")).unwrap();
        save_labels(&path, &model(3, "y")).unwrap();
        save_labels(&path, &model(0, "z")).unwrap();
        let expected = [
            row(0, "lens", "c"),
            row(0, "llm", "z"),
            row(0, "pmi", "d"),
            row(3, "llm", "y"),
        ];
        assert_eq!(read_labels(&path).unwrap(), expected);
        let mut known = read_source(&path).unwrap().provenance;
        known.sort();
        let expected = [
            ("Labels by lens", "seed 1"),
            ("Labels by llm", "y; z"),
            ("Labels by pmi", "seed 2"),
            ("Model", "embedded"),
            ("Seed", "0"),
        ];
        assert_eq!(known, source(&expected).provenance);
    }

    #[test]
    fn labels_of_another_dictionary_are_not_mixed_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.parquet");
        let of_first = labelled(&["pmi"], &[row(0, "pmi", "a")], &[]);
        save_labels(&path, &of_first).unwrap();
        let mut of_second = labelled(&["pmi"], &[row(0, "pmi", "b")], &[]);
        of_second.source.provenance[1].1 = "7".to_owned();
        let error = save_labels(&path, &of_second).unwrap_err().to_string();
        assert!(
            error.ends_with("has labels of another dictionary (Seed: found 0, expected 7); give another --out, or delete the file"),
            "{error}"
        );
        assert_eq!(read_labels(&path).unwrap(), of_first.rows);
        // A digest of the weights decides, where both have one.
        let mut digested = of_first.source.clone();
        digested
            .provenance
            .push(("Weights".to_owned(), "1".to_owned()));
        let mut other = digested.clone();
        assert_eq!(difference(&digested, &of_first.source), None);
        other.provenance[2].1 = "2".to_owned();
        assert_eq!(
            difference(&digested, &other).unwrap(),
            "Weights: found 1, expected 2"
        );
        // A table from elsewhere does not say of which dictionary it is.
        write_labels(&path, &[row(5, "by hand", "c")], &TableSource::default()).unwrap();
        assert_eq!(save_labels(&path, &of_second).unwrap(), 1);
    }
}
