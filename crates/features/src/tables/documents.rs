//! `documents.parquet`: the documents that the other tables name by their numbers.

use std::collections::BTreeMap;
use std::path::Path;

use lapidary_activations::TokenBlock;
use polars::prelude::*;

use super::write::{TableSource, write_table};
use crate::FeaturesError;

/// Tokens of a document whose text is shown.
const SHOWN: usize = 16;

/// One row of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentRow {
    /// Number of the document in the corpus, from 0 (u32).
    pub document: u32,
    /// Its own id, if the corpus says one (string).
    pub id: Option<String>,
    /// Number of its tokens that were counted (u64).
    pub tokens: u64,
    /// The text of the first tokens that were read (string).
    pub start: String,
}

/// The documents of some blocks, by number. `counts` says which tokens count, `ids` are the
/// documents' own ids by number, and `text` gives the text of tokens.
pub fn document_rows(
    blocks: &[TokenBlock],
    counts: &dyn Fn(u32) -> bool,
    ids: &[Option<String>],
    text: &dyn Fn(&[u32]) -> Vec<String>,
) -> Vec<DocumentRow> {
    let mut of_document: BTreeMap<u32, (u64, Vec<u32>)> = BTreeMap::new();
    for block in blocks {
        for (token, (document, _)) in block.tokens.iter().zip(block.places()) {
            if !counts(*token) {
                continue;
            }
            let (tokens, first) = of_document.entry(document).or_default();
            *tokens += 1;
            if first.len() < SHOWN {
                first.push(*token);
            }
        }
    }
    let rows = of_document.into_iter();
    rows.map(|(document, (tokens, first))| DocumentRow {
        document,
        id: ids.get(document as usize).cloned().flatten(),
        tokens,
        start: text(&first).concat(),
    })
    .collect()
}

/// Writes `documents.parquet`, in the order of the rows; the file appears whole or not at all.
///
/// # Errors
/// If it cannot be written.
pub fn write_documents(
    path: &Path,
    rows: &[DocumentRow],
    source: &TableSource,
) -> Result<(), FeaturesError> {
    let numbers: Vec<u32> = rows.iter().map(|row| row.document).collect();
    let ids: Vec<Option<&str>> = rows.iter().map(|row| row.id.as_deref()).collect();
    let tokens: Vec<u64> = rows.iter().map(|row| row.tokens).collect();
    let starts: Vec<&str> = rows.iter().map(|row| &*row.start).collect();
    let columns = vec![
        Column::new("document".into(), numbers),
        Column::new("id".into(), ids),
        Column::new("tokens".into(), tokens),
        Column::new("start".into(), starts),
    ];
    write_table(path, rows.len(), columns, Some(("documents", source)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapidary_activations::Segment;

    #[test]
    fn a_document_in_two_blocks_is_one_row_with_its_id_and_its_start() {
        let segment = |start, document, offset, bos| Segment {
            start,
            document,
            offset,
            bos,
        };
        let block = |tokens: &[u32], segments: Vec<Segment>| TokenBlock {
            tokens: tokens.to_vec(),
            segments,
            attend_across_documents: false,
        };
        let blocks = [
            block(
                &[0, 5, 6, 0, 7],
                vec![segment(0, 1, 0, true), segment(3, 4, 0, true)],
            ),
            block(&[0, 8, 9, 9, 9], vec![segment(0, 4, 1, true)]),
        ];
        let ids = [None, Some("a".to_owned()), None, None];
        let text = |tokens: &[u32]| tokens.iter().map(|t| format!("<{t}>")).collect();
        let rows = document_rows(&blocks, &|token| token != 0, &ids, &text);
        let row = |document, id: Option<&str>, tokens, start: &str| DocumentRow {
            document,
            id: id.map(str::to_owned),
            tokens,
            start: start.to_owned(),
        };
        let expected = [
            row(1, Some("a"), 2, "<5><6>"),
            row(4, None, 5, "<7><8><9><9><9>"),
        ];
        assert_eq!(rows, expected);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("documents.parquet");
        write_documents(&path, &rows, &TableSource::default()).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let table = ParquetReader::new(file).finish().unwrap();
        let types: Vec<String> = table
            .columns()
            .iter()
            .map(|c| format!("{} {}", c.name(), c.dtype()))
            .collect();
        assert_eq!(
            types.join(", "),
            "document u32, id str, tokens u64, start str"
        );
        let id = table.column("id").unwrap();
        assert_eq!(id.get(1).unwrap(), AnyValue::Null);
    }
}
