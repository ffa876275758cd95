//! From a prompt to its attribution graph: gradients of logits and features, backwards through the
//! frozen model.

use super::graph::{AttributionGraph, LogitTarget};
use super::influence::{Target as Influenced, influence};
use super::local::Local;
use super::replacement::ReplacementModel;
use super::rows::Row;
use super::trace::{Target, Tracing};
use crate::CircuitError;
use lapidary_coder::host;

/// Batches between two rankings of the features by influence.
const BATCHES_A_RANKING: usize = 4;

/// Values of the gradients of one batch: few enough to stay near the processor.
const VALUES_AT_ONCE: usize = 1 << 21;

/// The fewest rows of one batch, of long prompts: their attention weights are made again for each
/// batch.
const LEAST_ROWS_AT_ONCE: usize = 32;

/// The most rows of one batch.
const ROWS_AT_ONCE: usize = 512;

/// An edge, with what pruning and writing need for it.
const BYTES_OF_AN_EDGE: u64 = 48;

/// What the gradients of a batch take at most, in copies of the gradients themselves.
const COPIES: u64 = 8;

/// How a prompt is attributed. Defaults are circuit-tracer's.
#[derive(Clone, Debug)]
pub struct AttributionOptions {
    /// The most logits. 10
    pub max_n_logits: usize,
    /// The logits are the most probable ones that have this probability together. 0.95
    pub desired_logit_prob: f64,
    /// Tokens whose logits are explained, in place of the most probable ones. Empty
    pub targets: Vec<u32>,
    /// The most features that are nodes, those with the most influence. 7,500
    pub max_feature_nodes: usize,
    /// Bytes that attribution may use besides the model and its transcoders; edges that take more
    /// are left out, the smallest of each node. No limit
    pub memory: Option<u64>,
}

impl Default for AttributionOptions {
    fn default() -> Self {
        Self {
            max_n_logits: 10,
            desired_logit_prob: 0.95,
            targets: vec![],
            max_feature_nodes: 7500,
            memory: None,
        }
    }
}

impl ReplacementModel<'_> {
    /// The attribution graph of a prompt, of which the most influential features are nodes.
    /// `progress` hears of the features done and of their number.
    ///
    /// # Errors
    /// The prompt is empty, longer than the model's context, or has a token outside the vocabulary,
    /// as a target may have; the memory is too small; the model has no unembedding.
    pub fn attribute(
        &self,
        tokens: &[u32],
        options: &AttributionOptions,
        progress: &dyn Fn(usize, usize),
    ) -> Result<AttributionGraph, CircuitError> {
        let local = self.local(tokens)?;
        let logits = explained(&local, options)?;
        let nodes = options.max_feature_nodes.min(local.features.len());
        let limits = Limits::new(self, &local, options, nodes + logits.len())?;
        let tracing = Tracing {
            replacement: self,
            local: &local,
            batch_bytes: limits.batch_bytes,
        };
        progress(0, nodes);
        let (logit_rows, logit_totals) = tracing.logit_rows(&logits, limits.edges)?;
        let mut rows: Vec<Option<Row>> = (0..local.features.len()).map(|_| None).collect();
        let mut done = 0;
        while done < nodes {
            for batch in tracing.next_batches(&logits, &logit_rows, &rows, nodes - done) {
                let found = tracing.feature_rows(&batch, limits.edges)?;
                done += batch.len();
                for (feature, row) in batch.into_iter().zip(found) {
                    rows[feature] = Some(row);
                }
                progress(done, nodes);
            }
        }
        Ok(assemble(
            self,
            local,
            tokens,
            logits,
            rows,
            (logit_rows, logit_totals),
        ))
    }
}

/// The tokens that are asked for, or the most probable next tokens.
fn explained(
    local: &Local<'_>,
    options: &AttributionOptions,
) -> Result<Vec<LogitTarget>, CircuitError> {
    let logits = host(&local.frozen.logits())?;
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials = logits.iter().map(|x| f64::from(x - highest).exp());
    let exponentials: Vec<f64> = exponentials.collect();
    let sum: f64 = exponentials.iter().sum();
    if !options.targets.is_empty() {
        let target = |token: &u32| match exponentials.get(*token as usize) {
            Some(exponential) => Ok(LogitTarget {
                token: *token,
                probability: (exponential / sum) as f32,
            }),
            None => Err(CircuitError::TargetToken {
                found: *token,
                d_vocab: logits.len(),
            }),
        };
        return options.targets.iter().map(target).collect();
    }
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    let mut chosen = vec![];
    let mut together = 0.0;
    for token in order.into_iter().take(options.max_n_logits.max(1)) {
        let probability = exponentials[token] / sum;
        chosen.push(LogitTarget {
            token: token as u32,
            probability: probability as f32,
        });
        together += probability;
        if together >= options.desired_logit_prob {
            break;
        }
    }
    Ok(chosen)
}

/// How much is done and kept at once.
struct Limits {
    /// Bytes of gradients of one batch.
    batch_bytes: u64,
    /// Edges that a row keeps.
    edges: usize,
}

impl Limits {
    fn new(
        replacement: &ReplacementModel<'_>,
        local: &Local<'_>,
        options: &AttributionOptions,
        rows: usize,
    ) -> Result<Self, CircuitError> {
        let Some(memory) = options.memory else {
            return Ok(Self {
                batch_bytes: u64::MAX,
                edges: usize::MAX,
            });
        };
        let c = replacement.model().config();
        let (pos, layers) = (local.frozen.pos() as u64, c.n_layers() as u64);
        let heads = (c.n_heads + c.n_kv_heads) as u64 * c.d_head as u64;
        // Queries, keys and errors of each layer; scores of a block of sources, and their copies.
        let frozen = 4 * layers * pos * (heads + c.d_model as u64);
        let scores = 4 * 4 * 256 * pos * c.n_heads as u64;
        let features = 64 * local.features.len() as u64;
        let fixed = frozen + scores + features;
        let one = 4 * COPIES * pos * c.d_model as u64;
        let least = fixed + 2 * (one + BYTES_OF_AN_EDGE * 1024 * rows as u64);
        if memory < least {
            return Err(CircuitError::Memory {
                found: memory,
                least,
                rows,
            });
        }
        let rest = memory - fixed;
        Ok(Self {
            batch_bytes: rest / 3,
            edges: (rest / 2 / BYTES_OF_AN_EDGE / rows.max(1) as u64) as usize,
        })
    }
}

impl Tracing<'_, '_> {
    /// The rows of the logits, and their values.
    fn logit_rows(
        &self,
        logits: &[LogitTarget],
        edges: usize,
    ) -> Result<(Vec<Row>, Vec<f32>), CircuitError> {
        let tokens: Vec<u32> = logits.iter().map(|logit| logit.token).collect();
        let (targets, totals) = self.logit_targets(&tokens)?;
        let position = self.local.frozen.pos() - 1;
        let mut rows = vec![];
        for targets in targets.chunks(self.at_once(position)) {
            rows.extend(self.rows(targets, edges)?);
        }
        Ok((rows, totals))
    }

    /// Features to go on with, at most `most` of them, in batches of near positions.
    fn next_batches(
        &self,
        logits: &[LogitTarget],
        logit_rows: &[Row],
        rows: &[Option<Row>],
        most: usize,
    ) -> Vec<Vec<usize>> {
        let features = &self.local.features;
        let mut pending: Vec<usize> = (0..features.len()).filter(|f| rows[*f].is_none()).collect();
        if most < pending.len() {
            let queue = (BATCHES_A_RANKING * self.at_once(self.local.frozen.pos() - 1)).min(most);
            let logits = logits
                .iter()
                .zip(logit_rows)
                .map(|(logit, row)| Influenced {
                    node: None,
                    weight: f64::from(logit.probability),
                    magnitude: row.magnitude(),
                    edges: sources(row),
                });
            let known = (0..rows.len()).rev().filter_map(|feature| {
                let row = rows[feature].as_ref()?;
                Some(Influenced {
                    node: Some(feature),
                    weight: 0.0,
                    magnitude: row.magnitude(),
                    edges: sources(row),
                })
            });
            let influence = influence(self.n_sources(), logits.chain(known));
            pending.sort_by(|a, b| influence[*b].total_cmp(&influence[*a]).then(a.cmp(b)));
            pending.truncate(queue);
        }
        // Gradients reach no position after that of their target.
        pending.sort_by_key(|f| (features[*f].position, usize::MAX - features[*f].layer));
        let mut batches: Vec<Vec<usize>> = vec![];
        let mut left = &pending[..];
        while let Some(first) = left.first() {
            let mut n = self.at_once(features[*first].position).min(left.len());
            // The last has the latest position of all.
            while n > self.at_once(features[left[n - 1]].position) {
                n -= 1;
            }
            batches.push(left[..n.max(1)].to_vec());
            left = &left[n.max(1)..];
        }
        batches
    }

    /// Rows of one batch if the last position is this.
    fn at_once(&self, position: usize) -> usize {
        let values = (position + 1) * self.replacement.model().config().d_model;
        let bytes = 4 * (COPIES * values as u64 + self.n_sources() as u64);
        let fit = (self.batch_bytes / bytes).max(1) as usize;
        let rows = (VALUES_AT_ONCE / values).clamp(LEAST_ROWS_AT_ONCE, ROWS_AT_ONCE);
        rows.min(fit)
    }

    /// The rows of these features.
    fn feature_rows(&self, features: &[usize], edges: usize) -> Result<Vec<Row>, CircuitError> {
        let targets = self.feature_targets(features)?;
        self.rows(&targets, edges)
    }

    /// The rows of targets, all at once.
    fn rows(&self, targets: &[Target], edges: usize) -> Result<Vec<Row>, CircuitError> {
        let traced = self.trace(targets, None)?;
        let rows = traced.weights.iter().zip(traced.bias);
        Ok(rows
            .map(|(weights, bias)| Row::new(weights, bias, edges))
            .collect())
    }
}

fn sources(row: &Row) -> impl Iterator<Item = (usize, f64)> + '_ {
    let edges = row.edges.iter();
    edges.map(|edge| (edge.source as usize, f64::from(edge.weight.abs())))
}

/// The graph of the features that have rows.
fn assemble(
    replacement: &ReplacementModel<'_>,
    local: Local<'_>,
    tokens: &[u32],
    logits: Vec<LogitTarget>,
    rows: Vec<Option<Row>>,
    (logit_rows, logit_totals): (Vec<Row>, Vec<f32>),
) -> AttributionGraph {
    let n_active = local.features.len() as u32;
    let (mut selected, mut kept, mut totals) = (vec![], vec![], vec![]);
    let mut numbers: Vec<Option<u32>> = vec![None; rows.len()];
    for (feature, row) in rows.into_iter().enumerate() {
        if let Some(row) = row {
            numbers[feature] = Some(selected.len() as u32);
            selected.push(feature as u32);
            totals.push(local.totals[feature]);
            kept.push(row);
        }
    }
    let n_selected = selected.len() as u32;
    let number = |source: u32| match source < n_active {
        true => numbers[source as usize],
        false => Some(source - n_active + n_selected),
    };
    kept.extend(logit_rows);
    totals.extend(logit_totals);
    AttributionGraph {
        n_layers: replacement.layers().len(),
        tokens: tokens.to_vec(),
        active: local.features,
        selected,
        logits,
        rows: kept.into_iter().map(|row| row.renumbered(number)).collect(),
        totals,
    }
}
