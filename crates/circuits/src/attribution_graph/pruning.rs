//! The part of an attribution graph that matters for the logits (circuit-tracer's `prune_graph` and
//! `compute_graph_scores`).

use super::graph::{AttributionGraph, Node};
use super::influence::{Target, influence};
use super::rows::Edge;
use serde::Serialize;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pruning {
    /// The share of the nodes' influence that the kept ones have together. 0.8
    pub node_threshold: f64,
    /// The share of the edges' influence, among the kept nodes. 0.98
    pub edge_threshold: f64,
}

impl Default for Pruning {
    fn default() -> Self {
        Self {
            node_threshold: 0.8,
            edge_threshold: 0.98,
        }
    }
}

/// How much of the computation features explain, from 0 to 1; of the whole graph.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GraphScores {
    /// The share of the influence on the logits that comes from tokens and not from errors, at the
    /// start of all paths.
    pub replacement: f64,
    /// The share of what adds to the nodes that is no error, each node weighted by its influence.
    pub completeness: f64,
}

/// What is left of an attribution graph.
pub struct PrunedGraph<'a> {
    graph: &'a AttributionGraph,
    pruning: Pruning,
    kept: Vec<bool>,
    /// The kept edges to each node.
    edges: Vec<Vec<Edge>>,
    /// The share of all influence that nodes of at least a node's influence have together.
    cumulative: Vec<f64>,
    scores: GraphScores,
}

impl AttributionGraph {
    /// The nodes and edges with the most influence on the logits. Tokens and logits are kept.
    #[must_use]
    pub fn prune(&self, pruning: Pruning) -> PrunedGraph<'_> {
        let n = self.n_nodes();
        let influence = self.influence_with(|_| true);
        let limit = threshold(&influence, pruning.node_threshold);
        let mut kept: Vec<bool> = influence.iter().map(|value| *value >= limit).collect();
        kept[self.first_token()..].fill(true);
        let scored = self.edge_scores(&kept);
        let all: Vec<f64> = scored.iter().flatten().map(|(_, score)| *score).collect();
        let limit = threshold(&all, pruning.edge_threshold);
        let mut edges: Vec<Vec<Edge>> = scored
            .into_iter()
            .map(|row| {
                let kept = row.into_iter().filter(|(_, score)| *score >= limit);
                kept.map(|(edge, _)| edge).collect()
            })
            .collect();
        self.drop_loose_ends(&mut kept, &mut edges);
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|a, b| influence[*b].total_cmp(&influence[*a]).then(a.cmp(b)));
        let sum: f64 = influence.iter().sum();
        let (mut cumulative, mut together) = (vec![0.0; n], 0.0);
        for node in order {
            together += influence[node];
            cumulative[node] = if sum > 0.0 { together / sum } else { 1.0 };
        }
        PrunedGraph {
            graph: self,
            pruning,
            scores: self.scores(&influence),
            kept,
            edges,
            cumulative,
        }
    }

    /// The weight of a node as an end.
    fn weight(&self, node: usize) -> f64 {
        match node.checked_sub(self.first_logit()) {
            Some(logit) => f64::from(self.logits[logit].probability),
            None => 0.0,
        }
    }

    /// The influence of all nodes by way of those that `kept` accepts.
    fn influence_with(&self, kept: impl Fn(usize) -> bool + Copy) -> Vec<f64> {
        let order = self.targets_before_sources().into_iter();
        let targets = order.filter(|node| kept(*node)).map(|node| {
            let edges = || {
                let edges = self.edges_to(node).iter();
                let edges = edges.filter(move |edge| kept(edge.source as usize));
                edges.map(|edge| (edge.source as usize, f64::from(edge.weight.abs())))
            };
            Target {
                node: Some(node),
                weight: self.weight(node),
                magnitude: edges().map(|(_, magnitude)| magnitude).sum(),
                edges: edges(),
            }
        });
        influence(self.n_nodes(), targets)
    }

    /// The edges between kept nodes, with the influence that goes through each.
    fn edge_scores(&self, kept: &[bool]) -> Vec<Vec<(Edge, f64)>> {
        let influence = self.influence_with(|node| kept[node]);
        let of = |node: usize| -> Vec<(Edge, f64)> {
            if !kept[node] {
                return vec![];
            }
            let edges = self.edges_to(node).iter();
            let edges: Vec<Edge> = edges
                .filter(|edge| kept[edge.source as usize])
                .copied()
                .collect();
            let magnitude = |edge: &Edge| f64::from(edge.weight.abs());
            let sum: f64 = edges.iter().map(magnitude).sum();
            let factor = (influence[node] + self.weight(node)) / sum.max(1e-10);
            let scored = edges.into_iter();
            scored
                .map(|edge| (edge, magnitude(&edge) * factor))
                .collect()
        };
        (0..self.n_nodes()).map(of).collect()
    }

    /// Drops features and errors from which no edge goes out, features to which none comes in, and
    /// their edges, until there are none.
    fn drop_loose_ends(&self, kept: &mut [bool], edges: &mut [Vec<Edge>]) {
        loop {
            let mut goes_out = vec![false; kept.len()];
            for edge in edges.iter().flatten() {
                goes_out[edge.source as usize] = true;
            }
            let before = kept.iter().filter(|kept| **kept).count();
            for node in 0..self.first_token() {
                let feature = node < self.first_error();
                let comes_in = !feature || !edges[node].is_empty();
                kept[node] &= goes_out[node] && comes_in;
            }
            if kept.iter().filter(|kept| **kept).count() == before {
                return;
            }
            for (node, row) in edges.iter_mut().enumerate() {
                row.retain(|edge| kept[node] && kept[edge.source as usize]);
            }
        }
    }

    fn scores(&self, influence: &[f64]) -> GraphScores {
        let (errors, tokens) = (self.first_error(), self.first_token());
        let of = |nodes: std::ops::Range<usize>| influence[nodes].iter().sum::<f64>();
        let of_tokens = of(tokens..self.first_logit());
        let of_errors = of(errors..tokens);
        let (mut explained, mut all) = (0.0, 0.0);
        for (node, own) in influence.iter().enumerate() {
            let own = own + self.weight(node);
            let (mut sum, mut error) = (0.0, 0.0);
            for edge in self.edges_to(node) {
                let magnitude = f64::from(edge.weight.abs());
                sum += magnitude;
                if (errors..tokens).contains(&(edge.source as usize)) {
                    error += magnitude;
                }
            }
            explained += (1.0 - error / sum.max(1e-10)) * own;
            all += own;
        }
        let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        GraphScores {
            replacement: share(of_tokens, of_tokens + of_errors),
            completeness: share(explained, all),
        }
    }
}

/// Nodes besides tokens, and edges, that a page can show.
const ON_A_PAGE: [usize; 2] = [2000, 40_000];

/// The value that the largest ones, which together have a share `p` of the sum, are not below.
fn threshold(values: &[f64], p: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let sum: f64 = sorted.iter().sum();
    let mut together = 0.0;
    for value in &sorted {
        together += value;
        if together >= p * sum {
            return *value;
        }
    }
    sorted.last().copied().unwrap_or(0.0)
}

impl<'a> PrunedGraph<'a> {
    /// The graph that it is a part of.
    #[must_use]
    pub const fn graph(&self) -> &'a AttributionGraph {
        self.graph
    }

    /// How it was pruned.
    #[must_use]
    pub const fn pruning(&self) -> Pruning {
        self.pruning
    }

    /// What a page shows if this is too large for one: the graph pruned more.
    #[must_use]
    pub fn for_page(&self) -> Option<Self> {
        let fits = |part: &PrunedGraph<'_>| {
            let tokens = part.graph.tokens().len();
            let [nodes, edges] = ON_A_PAGE;
            part.nodes().count() <= nodes + tokens && part.edges().count() <= edges
        };
        if fits(self) {
            return None;
        }
        let mut pruning = self.pruning;
        loop {
            pruning.node_threshold *= 0.85;
            let part = self.graph.prune(pruning);
            if fits(&part) || pruning.node_threshold < 0.01 {
                return Some(part);
            }
        }
    }

    /// The kept nodes with their numbers in the whole graph, ascending.
    pub fn nodes(&self) -> impl Iterator<Item = (usize, Node)> + '_ {
        let numbers = (0..self.kept.len()).filter(|node| self.kept[*node]);
        numbers.map(|node| (node, self.graph.node(node)))
    }

    /// The kept edges: target and edge.
    pub fn edges(&self) -> impl Iterator<Item = (usize, Edge)> + '_ {
        let rows = self.edges.iter().enumerate();
        rows.flat_map(|(target, edges)| edges.iter().map(move |edge| (target, *edge)))
    }

    /// The share of all influence that the nodes with at least this one's influence have together:
    /// small for a node that matters.
    #[must_use]
    pub fn cumulative_influence(&self, node: usize) -> f64 {
        self.cumulative[node]
    }

    /// How much features explain, in the whole graph.
    #[must_use]
    pub const fn scores(&self) -> GraphScores {
        self.scores
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribution_graph::graph::{Feature, LogitTarget};
    use crate::attribution_graph::rows::Row;

    /// The graph of 12 nodes with which circuit-tracer tests its own: features 0 to 8, tokens 9 and
    /// 10, the logit 11.
    fn twelve(edges: &[(usize, &[u32])]) -> AttributionGraph {
        let row = |target: usize| {
            let sources = edges.iter().find(|(node, _)| *node == target);
            let edges = sources.map_or(&[][..], |(_, sources)| sources).iter();
            let edges = edges.map(|source| Edge {
                source: *source,
                weight: 10.0,
            });
            Row {
                edges: edges.collect(),
                ..Row::default()
            }
        };
        let feature = |index| Feature {
            layer: 0,
            position: 0,
            index,
            activation: 1.0,
        };
        AttributionGraph {
            n_layers: 0,
            tokens: vec![5, 6],
            active: (0..9).map(feature).collect(),
            selected: (0..9).collect(),
            logits: vec![LogitTarget {
                token: 0,
                probability: 1.0,
            }],
            rows: (0..9).chain([11]).map(row).collect(),
            totals: vec![0.0; 10],
        }
    }

    const EDGES: [(usize, &[u32]); 4] = [
        (11, &[1, 3, 6, 8]),
        (3, &[0, 1, 6]),
        (1, &[9, 10]),
        (0, &[9]),
    ];

    #[test]
    fn twelve_nodes_have_the_influence_that_circuit_tracer_gives_them() {
        let found = twelve(&EDGES).influence_with(|_| true);
        let expected = [1.0, 4.0, 0.0, 3.0, 0.0, 0.0, 4.0, 0.0, 3.0, 3.0, 2.0, 0.0];
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (12.0 * found - expected).abs() < 1e-12,
                "{found} {expected}"
            );
        }
    }

    #[test]
    fn twelve_nodes_have_the_edge_scores_that_circuit_tracer_gives_them() {
        let edges: [(usize, &[u32]); 3] = [(11, &[1, 3, 6, 8]), (3, &[1, 6]), (1, &[9, 10])];
        let graph = twelve(&edges);
        let scores = graph.edge_scores(&[true; 12]);
        let of = |target: usize| -> Vec<f64> { scores[target].iter().map(|(_, s)| *s).collect() };
        let expected = [
            (11, vec![0.25; 4]),
            (3, vec![0.125; 2]),
            (1, vec![0.1875; 2]),
        ];
        for (target, expected) in expected {
            assert_eq!(of(target), expected, "edges to {target}");
        }
        // All are needed for 98 %, but 6 and 8 have no input and go with their edges.
        let pruned = graph.prune(Pruning {
            node_threshold: 1.0,
            edge_threshold: 0.98,
        });
        assert_eq!(pruned.edges().count(), 5);
        // Without the edges to 3, it has no input either.
        let pruned = graph.prune(Pruning {
            node_threshold: 1.0,
            edge_threshold: 0.8,
        });
        assert_eq!(pruned.edges().count(), 3);
        assert!(pruned.nodes().all(|(number, _)| number != 3));
    }
}
