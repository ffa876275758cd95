//! Documents of a pool whose codes resemble those of a few examples.

use lapidary_activations::{Corpus, TokenPieces};
use lapidary_coder::Coder;
use lapidary_evaluation::probing::{Reading, represent};
use lapidary_features::selection::{
    Embedding, MeanCodes, PoolRanking, Similarity, TopShare, task_embedding,
};
use lapidary_features::{RankedRow, TableSource};

use crate::error::{Result, bail};
use crate::opened::{Opened, TextOptions};
use crate::progress::{Progress, Stage, count};
use crate::provenance::source_of_text;

/// Passages that go through the model at once.
const PASSAGES: usize = 256;

/// How [`select`] works.
#[derive(Debug, Clone)]
pub struct SelectOptions {
    /// The documents to choose from.
    pub pool: String,
    /// Examples of what is wanted.
    pub examples: String,
    /// How both are read.
    pub text: TextOptions,
    /// What makes two documents similar.
    pub similarity: Similarity,
    /// How many documents are chosen.
    pub top: TopShare,
}

/// A ranked pool.
#[derive(Debug, Clone)]
pub struct Selection {
    /// The documents that have tokens, the most similar first.
    pub rows: Vec<RankedRow>,
    /// Number of examples.
    pub examples: usize,
    /// What made the ranking.
    pub source: TableSource,
}

/// Ranks the documents of a pool by the similarity of their mean codes to those of the examples.
///
/// # Errors
/// A text cannot be read or has no document, or the model fails.
pub fn select(
    opened: &Opened,
    options: &SelectOptions,
    progress: &dyn Progress,
) -> Result<Selection> {
    let mut tokens = 0;
    let mut examples = vec![];
    let embed = |corpus: &str, name: &str, each: &mut dyn FnMut(u32, Embedding)| {
        embed_documents(opened, corpus, &options.text, name, progress, each)
    };
    tokens += embed(&options.examples, "examples", &mut |_, document| {
        examples.push(document);
    })?;
    if examples.is_empty() {
        bail!(
            "{}: found no document, expected at least one example",
            options.examples
        );
    }
    let mut ranking = PoolRanking::new(task_embedding(&examples)?, options.similarity);
    let mut documents = vec![];
    tokens += embed(&options.pool, "pool", &mut |number, document| {
        documents.push(number);
        ranking.score(&document);
    })?;
    if documents.is_empty() {
        bail!("{}: found no document, expected at least one", options.pool);
    }
    let chosen = match options.top {
        TopShare::Count(n) if n > documents.len() => {
            let found = count(documents.len() as u64, "document");
            progress.say("note", &format!("the pool has {found}: all are selected"));
            documents.len()
        }
        top => ranking.select(top)?.len(),
    };
    let row = |(rank, place): (usize, usize)| RankedRow {
        document: documents[place],
        score: ranking.scores()[place],
        rank: rank as u32,
        selected: rank < chosen,
    };
    Ok(Selection {
        rows: ranking.ranked().into_iter().enumerate().map(row).collect(),
        examples: examples.len(),
        source: source_of_text(&opened.dictionary, tokens)
            .on_text(&format!("{}, examples: {}", options.pool, options.examples)),
    })
}

/// The mean codes of each document that has tokens; returns the number of tokens.
fn embed_documents(
    opened: &Opened,
    corpus: &str,
    text: &TextOptions,
    name: &str,
    progress: &dyn Progress,
    each: &mut dyn FnMut(u32, Embedding),
) -> Result<u64> {
    let hook = opened.only_hook()?;
    let (model, coder) = (&*opened.model, &opened.dictionary.coder);
    let (context, bos) = opened.context();
    let bos: Vec<u32> = bos.into_iter().collect();
    let room = context.saturating_sub(bos.len()).max(1);
    let tokenizer = model.tokenizer()?;
    let config = opened.block_config(corpus, text);
    let corpus = Corpus::open(corpus, &config.text_field)?;
    let stage = Stage::new(progress, name, 0);
    let (mut read, mut tokens) = (0u64, 0u64);
    let mut documents = corpus.documents();
    loop {
        // Passages of some documents, so that blocks are full.
        let mut passages = vec![];
        let mut lengths = vec![]; // document, tokens of its passages
        while passages.len() < PASSAGES
            && let Some(document) = documents.next().transpose()?
        {
            let mut pieces = TokenPieces::new(document.text);
            let mut of_document = vec![];
            while let Some(piece) = pieces.next_piece(tokenizer)? {
                of_document.extend(piece.into_iter().filter(|token| !model.is_special(*token)));
            }
            let lengths_of = of_document.chunks(room).map(|passage| passage.len() as u64);
            lengths.push((document.number as u32, lengths_of.collect::<Vec<u64>>()));
            let whole = |passage: &[u32]| ([&bos, passage].concat(), Reading::Mean);
            passages.extend(of_document.chunks(room).map(whole));
        }
        if lengths.is_empty() {
            break;
        }
        let found = represent(model, coder, hook, &passages, context, &mut |_| {})?;
        let mut passage = 0;
        for (number, lengths) in lengths
            .into_iter()
            .filter(|(_, lengths)| !lengths.is_empty())
        {
            let mut codes = MeanCodes::new(coder.d_sae());
            for length in lengths {
                let row = found.latents.row(passage).iter().copied();
                let positive: Vec<(u32, f32)> = row.filter(|(_, value)| *value > 0.0).collect();
                codes.add_passage(&positive, length)?;
                passage += 1;
                tokens += length;
            }
            each(number, codes.finish());
            read += 1;
        }
        stage.at(read, format!("{read} documents"));
    }
    if let Some(text) = corpus.skipped_rows().note() {
        progress.say("note", &text);
    }
    stage.done(format!("{}, {tokens} tokens", count(read, "document")));
    Ok(tokens)
}
