//! How much of the logits goes through each node.

/// Sums smaller than this are as good as 0, as in circuit-tracer.
const LEAST: f64 = 1e-10;

/// A node with the edges to it.
pub(super) struct Target<E> {
    /// Its number, if edges can come from it: its influence is complete by now.
    pub node: Option<usize>,
    /// Its weight as an end: a logit's probability.
    pub weight: f64,
    /// The sum of the magnitudes of all its edges; more than those of `edges` if some are left out.
    pub magnitude: f64,
    /// The source and the magnitude of each edge.
    pub edges: E,
}

/// The influence of nodes 0 to `n`: with N the magnitudes of edges, each row divided by its sum,
/// and w the weights of the logits, w N + w N² + w N³ + …. In `targets`, each node stands before
/// the sources of its edges.
pub(super) fn influence<E: Iterator<Item = (usize, f64)>>(
    n: usize,
    targets: impl Iterator<Item = Target<E>>,
) -> Vec<f64> {
    let mut influence = vec![0.0; n];
    for target in targets {
        let own = target.weight + target.node.map_or(0.0, |node| influence[node]);
        let factor = own / target.magnitude.max(LEAST);
        if factor != 0.0 {
            for (source, magnitude) in target.edges {
                influence[source] += factor * magnitude;
            }
        }
    }
    influence
}
