//! Codes for a predicate over text, and their table.

use super::{CodebookRun, Predicate, RunText};
use crate::error::Result;
use crate::opened::TextOptions;
use crate::progress::{Progress, Stage};
use lapidary_codebook::{CodeSearch, FoundCode};
use lapidary_features::{RunRow, write_runs};
use std::path::Path;

/// What to look for.
#[derive(Debug, Clone)]
pub struct Find {
    /// Where codes should be chosen.
    pub predicate: Predicate,
    /// Codes of less recall are left out.
    pub least_recall: f64,
    /// Tokens of the file of a topic, at most.
    pub topic_tokens: u64,
    /// How that file is read.
    pub topic_text: TextOptions,
}

/// The codes that agree with a predicate over `text`, those of highest precision first.
///
/// # Errors
/// The model fails, the predicate holds nowhere, or the file of a topic cannot be read.
pub fn find_codes(
    run: &CodebookRun,
    find: &Find,
    text: &RunText,
    progress: &dyn Progress,
) -> Result<Vec<FoundCode>> {
    let topic = match &find.predicate {
        Predicate::Topic(file) => {
            let file = file.to_string_lossy();
            let tokens = find.topic_tokens;
            Some(RunText::of_topic(run, &file, &find.topic_text, tokens)?)
        }
        _ => None,
    };
    let all = text.blocks.len() + topic.as_ref().map_or(0, |topic| topic.blocks.len());
    let stage = Stage::new(progress, "find", all as u64);
    let mut search = CodeSearch::new();
    let mut done = 0;
    for (text, is_topic) in [(Some(text), false), (topic.as_ref(), true)] {
        let Some(text) = text else { continue };
        for blocks in text.passes() {
            let observed = RunText::observe(run, blocks)?;
            let mut holds = vec![];
            for block in blocks {
                let own = find.predicate.holds(run, text, block)?;
                let own = own.into_iter();
                holds.extend(own.map(|holds| holds.map(|holds| holds || is_topic)));
            }
            search.add(&observed, &holds);
            done += blocks.len();
            stage.at(done as u64, format!("{done} blocks"));
        }
    }
    let found = search.found(&run.codebooks, find.least_recall)?;
    let [positions, positives] = search.positions();
    stage.done(format!(
        "{} codes; the predicate holds at {positives} of {positions} positions",
        found.len()
    ));
    Ok(found)
}

/// Writes found codes as a Parquet table with the columns `layer`, `head`, `code`, `precision`,
/// `recall`, `f1`, `count` and `hook_point`.
///
/// # Errors
/// The file cannot be written.
pub fn write_codes(path: &Path, codes: &[FoundCode]) -> Result<()> {
    let row = |code: &FoundCode| -> RunRow {
        vec![
            ("layer".into(), code.layer.into()),
            ("head".into(), code.head.into()),
            ("code".into(), code.code.into()),
            ("precision".into(), code.precision.into()),
            ("recall".into(), code.recall.into()),
            ("f1".into(), code.f1.into()),
            ("count".into(), code.count.into()),
            ("hook_point".into(), code.hook_point.as_str().into()),
        ]
    };
    let rows: Vec<RunRow> = codes.iter().map(row).collect();
    Ok(write_runs(path, &rows)?)
}
