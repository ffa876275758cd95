//! `labels.parquet`, and whether its labels are of a dictionary.

use std::path::Path;

use lapidary_features::{
    LABEL_COLUMNS, LabelRow, TableSource, describe_table, read_labels, read_source,
};

use crate::error::{Result, bail};
use crate::progress::Progress;
use crate::provenance::WEIGHTS;
use crate::run_folder::RunFolder;

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

/// The labels in a file and what made them; none if it is not there.
pub(crate) fn known_labels(
    path: &Path,
    source: &TableSource,
) -> Result<(Vec<LabelRow>, TableSource)> {
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
pub(crate) fn difference(found: &TableSource, expected: &TableSource) -> Option<String> {
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
