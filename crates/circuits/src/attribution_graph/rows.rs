//! Rows of an adjacency matrix: what adds how much to one node.

/// What one node adds to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Edge {
    /// The number of the node that it comes from.
    pub source: u32,
    /// How much the source adds to the target's value: its pre-activation, or its logit less the
    /// mean logit.
    pub weight: f32,
}

/// All that adds to one node.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    /// Ascending by source; none is 0.
    pub edges: Vec<Edge>,
    /// What biases add, and the MLPs at the first position.
    pub bias: f64,
    /// What the edges left out would add.
    pub cut: f64,
    /// The sum of their magnitudes.
    pub cut_magnitude: f64,
}

impl Row {
    /// The row of these weights, one for each source; of more than `most` edges, the largest.
    pub fn new(weights: &[f32], bias: f64, most: usize) -> Self {
        // Counted first: a row has many edges, and no room for more than they need.
        let n = weights.iter().filter(|weight| **weight != 0.0).count();
        let mut edges: Vec<Edge> = Vec::with_capacity(n);
        for (source, weight) in weights.iter().enumerate() {
            if *weight != 0.0 {
                edges.push(Edge {
                    source: source as u32,
                    weight: *weight,
                });
            }
        }
        let (mut cut, mut cut_magnitude) = (0.0, 0.0);
        if edges.len() > most {
            let magnitude = |edge: &Edge| edge.weight.abs();
            edges.select_nth_unstable_by(most, |a, b| {
                (magnitude(b).total_cmp(&magnitude(a))).then(a.source.cmp(&b.source))
            });
            for edge in edges.drain(most..) {
                cut += f64::from(edge.weight);
                cut_magnitude += f64::from(magnitude(&edge));
            }
            edges.sort_unstable_by_key(|edge| edge.source);
            edges.shrink_to_fit();
        }
        Self {
            edges,
            bias,
            cut,
            cut_magnitude,
        }
    }

    /// The sum of the magnitudes of all edges, those left out among them.
    pub fn magnitude(&self) -> f64 {
        let kept = self.edges.iter().map(|edge| f64::from(edge.weight.abs()));
        kept.sum::<f64>() + self.cut_magnitude
    }

    /// The same row with other numbers of sources; edges from those without one are left out.
    pub fn renumbered(mut self, number: impl Fn(u32) -> Option<u32>) -> Self {
        let (mut cut, mut cut_magnitude) = (self.cut, self.cut_magnitude);
        self.edges.retain_mut(|edge| match number(edge.source) {
            Some(number) => {
                edge.source = number;
                true
            }
            None => {
                cut += f64::from(edge.weight);
                cut_magnitude += f64::from(edge.weight.abs());
                false
            }
        });
        Self {
            cut,
            cut_magnitude,
            ..self
        }
    }
}
