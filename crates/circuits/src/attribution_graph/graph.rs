//! The whole attribution graph of a prompt.

use super::rows::{Edge, Row};
use serde::Serialize;

/// A feature that is active at a position.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Feature {
    /// The layer of its transcoder.
    pub layer: usize,
    /// The position of the token.
    pub position: usize,
    /// Its number among the latents of the transcoder.
    pub index: usize,
    /// Its activation.
    pub activation: f32,
}

/// A logit that the graph explains.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LogitTarget {
    /// The token.
    pub token: u32,
    /// Its probability as the next token.
    pub probability: f32,
}

/// A node of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Node {
    /// An active feature.
    Feature(Feature),
    /// What the MLP of a layer writes at a position and the transcoders do not.
    Error {
        /// The layer.
        layer: usize,
        /// The position.
        position: usize,
    },
    /// The embedding of a token of the prompt.
    Token {
        /// The position.
        position: usize,
        /// The token.
        token: u32,
    },
    /// A logit after the last token.
    Logit(LogitTarget),
}

/// The attribution graph of a prompt. Nodes are numbered: the features that it has
/// ([`AttributionGraph::selected`]), errors layer by layer, tokens, logits. An edge's weight is
/// what its source adds to its target while attention patterns and the divisors of norms stay as
/// they are.
pub struct AttributionGraph {
    pub(super) n_layers: usize,
    pub(super) tokens: Vec<u32>,
    pub(super) active: Vec<Feature>,
    pub(super) selected: Vec<u32>,
    pub(super) logits: Vec<LogitTarget>,
    /// One for each selected feature, then one for each logit.
    pub(super) rows: Vec<Row>,
    /// The value of each of them.
    pub(super) totals: Vec<f32>,
}

impl AttributionGraph {
    /// Number of nodes.
    #[must_use]
    pub fn n_nodes(&self) -> usize {
        self.first_logit() + self.logits.len()
    }

    /// Number of edges.
    #[must_use]
    pub fn n_edges(&self) -> usize {
        self.rows.iter().map(|row| row.edges.len()).sum()
    }

    /// Number of layers of the model.
    #[must_use]
    pub const fn n_layers(&self) -> usize {
        self.n_layers
    }

    /// The tokens of the prompt.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// All features that are active on the prompt, ascending by layer, position and index.
    #[must_use]
    pub fn active(&self) -> &[Feature] {
        &self.active
    }

    /// Which of them are nodes, ascending.
    #[must_use]
    pub fn selected(&self) -> &[u32] {
        &self.selected
    }

    /// The logits, the most probable first.
    #[must_use]
    pub fn logits(&self) -> &[LogitTarget] {
        &self.logits
    }

    /// A node by its number.
    ///
    /// # Panics
    /// There is none of this number.
    #[must_use]
    pub fn node(&self, number: usize) -> Node {
        let (errors, tokens) = (self.first_error(), self.first_token());
        let pos = self.tokens.len();
        if number < errors {
            Node::Feature(self.active[self.selected[number] as usize])
        } else if number < tokens {
            Node::Error {
                layer: (number - errors) / pos,
                position: (number - errors) % pos,
            }
        } else if number < tokens + pos {
            let position = number - tokens;
            let token = self.tokens[position];
            Node::Token { position, token }
        } else {
            Node::Logit(self.logits[number - tokens - pos])
        }
    }

    /// The edges to a node, ascending by source; errors and tokens have none.
    #[must_use]
    pub fn edges_to(&self, number: usize) -> &[Edge] {
        self.row(number).map_or(&[], |row| &row.edges)
    }

    /// The value of a node (a feature's pre-activation, a logit less the mean logit), and the part
    /// of it that no edge has: what biases and the MLPs at the first position add, and what the
    /// edges add that were left out. The edges sum to the rest. `None` for errors and tokens.
    #[must_use]
    pub fn value(&self, number: usize) -> Option<NodeValue> {
        let row = self.row(number)?;
        Some(NodeValue {
            total: self.totals[self.row_of(number)?],
            bias: row.bias as f32,
            cut: row.cut as f32,
            cut_magnitude: row.cut_magnitude as f32,
        })
    }

    /// The share of all magnitudes of edges to the nodes that was left out: edges from features
    /// that are no nodes, and those beyond the limit of memory.
    #[must_use]
    pub fn share_cut(&self) -> f64 {
        let all: f64 = self.rows.iter().map(Row::magnitude).sum();
        let cut: f64 = self.rows.iter().map(|row| row.cut_magnitude).sum();
        if all > 0.0 { cut / all } else { 0.0 }
    }

    pub(super) fn first_error(&self) -> usize {
        self.selected.len()
    }

    pub(super) fn first_token(&self) -> usize {
        self.first_error() + self.n_layers * self.tokens.len()
    }

    pub(super) fn first_logit(&self) -> usize {
        self.first_token() + self.tokens.len()
    }

    fn row_of(&self, number: usize) -> Option<usize> {
        match number {
            _ if number < self.first_error() => Some(number),
            _ if number >= self.first_logit() => {
                Some(self.first_error() + number - self.first_logit())
            }
            _ => None,
        }
    }

    fn row(&self, number: usize) -> Option<&Row> {
        self.row_of(number).map(|row| &self.rows[row])
    }

    /// The nodes that have rows, each after all nodes that its value goes to: logits, then features
    /// from the last layer to the first.
    pub(super) fn targets_before_sources(&self) -> Vec<usize> {
        let logits = self.first_logit()..self.n_nodes();
        logits.chain((0..self.first_error()).rev()).collect()
    }
}

/// What a node's value is made of besides its edges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NodeValue {
    /// A feature's pre-activation, or a logit less the mean logit.
    pub total: f32,
    /// What biases add, and the MLPs at the first position.
    pub bias: f32,
    /// What the edges that were left out add.
    pub cut: f32,
    /// The sum of their magnitudes.
    pub cut_magnitude: f32,
}
