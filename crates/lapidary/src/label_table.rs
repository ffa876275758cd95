//! `labels.parquet`: read beside a run, and added to.

use std::collections::HashSet;
use std::path::Path;

use lapidary_coder::Dictionary;
use lapidary_features::{
    LABEL_COLUMNS, LabelRow, TableSource, WRITTEN, describe_table, read_labels, read_source,
    write_labels,
};

use crate::error::{Result, bail};
use crate::labelling::Labelled;
use crate::progress::Progress;
use crate::run_folder::RunFolder;
use crate::tables::{WEIGHTS, source_of_text};

/// What two tables of one dictionary say in the same words, if both say it. Tables of earlier
/// versions and from elsewhere have no digest of the weights.
const SAME: [&str; 13] = [
    WEIGHTS,
    "Model",
    "Second model",
    "Hook point",
    "Reconstructs",
    "Architecture",
    "Width",
    "k",
    "Trained on",
    "Steps",
    "Context",
    "Normalization",
    "Seed",
];

/// How the provenance calls what labels of a method were made with.
const LABELS_BY: &str = "Labels by ";

/// Labels beside a run, if there are any. Those of another dictionary are left out, which is said.
pub(crate) fn labels_of_run(run: &RunFolder, progress: &dyn Progress) -> Result<Vec<LabelRow>> {
    let path = run.labels();
    if !path.is_file() {
        return Ok(vec![]);
    }
    let features = run.features().join("features.parquet");
    if features.is_file()
        && let Some(other) = difference(&read_source(&path)?, &read_source(&features)?)
    {
        let path = path.display();
        progress.say(
            "note",
            &format!("{path} is left out: its labels are of another dictionary ({other})"),
        );
        return Ok(vec![]);
    }
    Ok(read_labels(&path)?)
}

/// The same, without those that cannot be read, which is said: they are no reason to lose what a
/// command has computed.
pub(crate) fn readable_labels(run: &RunFolder, progress: &dyn Progress) -> Vec<LabelRow> {
    labels_of_run(run, progress).unwrap_or_else(|error| {
        progress.say("note", &format!("labels are left out: {error}"));
        vec![]
    })
}

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

/// A row of the provenance: what labels of a method were made with.
pub(crate) fn made_with(method: &str, settings: String) -> (String, String) {
    (format!("{LABELS_BY}{method}"), settings)
}

/// The labels in a file and what made them; none if it is not there.
fn known_labels(path: &Path, source: &TableSource) -> Result<(Vec<LabelRow>, TableSource)> {
    if !path.is_file() {
        return Ok((vec![], TableSource::default()));
    }
    let rows = read_labels(path)?;
    let columns = describe_table(path)?.columns;
    if let Some((other, _)) = columns
        .iter()
        .find(|(name, _)| !LABEL_COLUMNS.contains(&&**name))
    {
        bail!(
            "{}: has the column `{other}`, which would be lost; give another --out",
            path.display()
        );
    }
    let known = read_source(path)?;
    if let Some(other) = difference(&known, source) {
        bail!(
            "{}: has labels of another dictionary ({other}); give another --out, or delete the file",
            path.display()
        );
    }
    Ok((rows, known))
}

/// What two tables say of their dictionaries that differs, if anything.
fn difference(found: &TableSource, expected: &TableSource) -> Option<String> {
    let value = |source: &TableSource, name: &str| {
        let mut rows = source.provenance.iter();
        rows.find(|(what, _)| what == name)
            .map(|(_, value)| value.clone())
    };
    SAME.iter().find_map(|name| {
        let (found, expected) = (value(found, name)?, value(expected, name)?);
        (found != expected).then(|| format!("{name}: found {found}, expected {expected}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labelling::MethodScores;
    use lapidary_features::labels::Confusion;

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
