//! What the documents of a corpus are called by whoever made it.

use lapidary_activations::{Corpus, TokenBlock};

use crate::error::Result;

/// The field of the embedded corpus that names a speech.
const TITLE: &str = "title";

/// The own ids of the documents that some blocks are of, by their numbers: the values of `field`,
/// of the embedded corpus its titles. Empty if there is no field.
///
/// # Errors
/// The corpus cannot be read, or has no such field.
pub fn document_ids(
    corpus: &str,
    field: Option<&str>,
    blocks: &[TokenBlock],
) -> Result<Vec<Option<String>>> {
    let embedded = matches!(corpus, "embedded" | "embedded:heldout");
    let Some(field) = field.or(embedded.then_some(TITLE)) else {
        return Ok(vec![]);
    };
    let documents = blocks.iter().flat_map(|block| &block.segments);
    let last = documents.map(|segment| segment.document).max();
    let read = last.map_or(0, |last| last as usize + 1);
    let rows = Corpus::ids(corpus, field)?.rows().take(read);
    Ok(rows.collect::<Result<_, _>>()?)
}
