//! Why a head attends where it does (QK attribution), and which heads carry an edge (head
//! loadings). Both are of "Tracing Attention Computation Through Feature Interactions" (Kamath et
//! al. 2025, transformer-circuits.pub/2025/attention-qk).

use super::graph::{Feature, Node};
use super::local::Local;
use super::replacement::ReplacementModel;
use super::trace::{Place, Target, Traced, Tracing};
use crate::CircuitError;
use lapidary_coder::host;
use serde::Serialize;

/// Sources of each side whose pairs are looked at: those with the largest norms.
const PAIRED: usize = 512;

/// What a score is made of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoreAttribution {
    /// Query times key, before a soft cap and the softmax.
    pub score: f32,
    /// What each source adds to the score through the query, while the key stays as it is. All of
    /// them sum to the score; these are the largest.
    pub by_query: Vec<ScorePart>,
    /// The same through the key.
    pub by_key: Vec<ScorePart>,
    /// What each source of the query and each of the key add together. All pairs sum to the score;
    /// these are the largest.
    pub pairs: Vec<ScorePair>,
    /// What all other pairs come to.
    pub rest: f32,
}

/// A source's part of a score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ScorePart {
    /// The source; none for biases.
    pub source: Option<Node>,
    /// How much of the score.
    pub contribution: f32,
}

/// A part of a score that a source of the query and one of the key have together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ScorePair {
    /// The source of the query; none for biases.
    pub query: Option<Node>,
    /// The source of the key; none for biases.
    pub key: Option<Node>,
    /// How much of the score.
    pub contribution: f32,
}

/// An edge, split by the heads of one layer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct HeadLoading {
    /// The source of the edge.
    pub source: Node,
    /// What goes past attention of the layer.
    pub bypass: f32,
    /// What goes through each head.
    pub heads: Vec<f32>, // [n_heads]
}

/// A feature or a logit, as the end of edges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EdgeEnd {
    /// An active feature.
    Feature {
        /// The layer of its transcoder.
        layer: usize,
        /// Its number among the latents.
        index: usize,
        /// The position.
        position: usize,
    },
    /// The logit of a token after the prompt, less the mean logit.
    Logit(u32),
}

impl ReplacementModel<'_> {
    /// What the score of a head is made of, at the position of the query and that of the key; the
    /// `n` largest parts of each kind. Divisors of norms are constants, and so are the patterns of
    /// lower layers.
    ///
    /// # Errors
    /// There is no such head or position, or the key comes after the query; otherwise as
    /// [`ReplacementModel::attribute`].
    pub fn score_attribution(
        &self,
        tokens: &[u32],
        [layer, head]: [usize; 2],
        [query, key]: [usize; 2],
        n: usize,
    ) -> Result<ScoreAttribution, CircuitError> {
        let c = self.model().config();
        let wrong = |problem: String| CircuitError::Head {
            layer,
            head,
            problem,
        };
        if layer >= c.n_layers() {
            return Err(wrong(format!("layers are 0 to {}", c.n_layers() - 1)));
        }
        if head >= c.n_heads {
            return Err(wrong(format!("heads are 0 to {}", c.n_heads - 1)));
        }
        if query >= tokens.len() || key > query {
            return Err(wrong(format!(
                "found query {query} and key {key}, expected a query below {} and a key not after it",
                tokens.len()
            )));
        }
        let local = self.local(tokens)?;
        let tracing = whole(self, &local);
        let sides = local.frozen.score_sides(layer, head, [query, key]);
        let mut traced = vec![];
        for (side, position) in sides.iter().zip([query, key]) {
            let [_, d] = side.directions.dims();
            let directions = host(&side.directions)?;
            let rows = directions.chunks(d).zip(&side.constants);
            let targets: Vec<Target> = rows
                .map(|(row, constant)| Target {
                    place: Place::Attention(layer),
                    position,
                    direction: row.to_vec(),
                    constant: *constant,
                })
                .collect();
            traced.push(Side::new(tracing.trace(&targets, None)?));
        }
        let [query, key] = [&traced[0], &traced[1]];
        let whole_of = |side: &Side| -> Vec<f64> {
            let n = side.vectors.first().map_or(0, Vec::len);
            (0..n)
                .map(|c| side.vectors.iter().map(|v| v[c]).sum())
                .collect()
        };
        let [q, k] = [whole_of(query), whole_of(key)];
        let node = |number: usize| tracing_node(&local, tokens, number);
        let parts = |side: &Side, other: &[f64]| -> Vec<ScorePart> {
            let all = side.vectors.iter().enumerate();
            let mut parts: Vec<ScorePart> = all
                .map(|(number, vector)| ScorePart {
                    source: node(number),
                    contribution: product(vector, other) as f32,
                })
                .filter(|part| part.contribution != 0.0)
                .collect();
            parts.sort_by(|a, b| b.contribution.abs().total_cmp(&a.contribution.abs()));
            parts.truncate(n);
            parts
        };
        let score = product(&q, &k);
        let mut pairs = vec![];
        for i in query.strongest() {
            for j in key.strongest() {
                pairs.push((i, j, product(&query.vectors[i], &key.vectors[j])));
            }
        }
        pairs.sort_by(|a, b| b.2.abs().total_cmp(&a.2.abs()));
        pairs.truncate(n);
        let shown: f64 = pairs.iter().map(|pair| pair.2).sum();
        Ok(ScoreAttribution {
            score: score as f32,
            by_query: parts(query, &k),
            by_key: parts(key, &q),
            pairs: pairs
                .into_iter()
                .map(|(i, j, contribution)| ScorePair {
                    query: node(i),
                    key: node(j),
                    contribution: contribution as f32,
                })
                .collect(),
            rest: (score - shown) as f32,
        })
    }

    /// The edges to a feature or a logit, each split by the heads of one layer: the parts and the
    /// bypass sum to the edge. The `n` largest edges, by magnitude.
    ///
    /// # Errors
    /// There is no such layer, the feature is not active there, or the token is outside the
    /// vocabulary; otherwise as [`ReplacementModel::attribute`].
    pub fn head_loadings(
        &self,
        tokens: &[u32],
        end: EdgeEnd,
        layer: usize,
        n: usize,
    ) -> Result<Vec<HeadLoading>, CircuitError> {
        let c = self.model().config();
        if layer >= c.n_layers() {
            return Err(CircuitError::Head {
                layer,
                head: 0,
                problem: format!("layers are 0 to {}", c.n_layers() - 1),
            });
        }
        let local = self.local(tokens)?;
        let tracing = whole(self, &local);
        let targets = match end {
            EdgeEnd::Feature {
                layer,
                index,
                position,
            } => {
                let is_end =
                    |f: &Feature| f.layer == layer && f.index == index && f.position == position;
                let found = local.features.iter().position(is_end);
                let found = found.ok_or_else(|| CircuitError::Feature {
                    layer,
                    index,
                    problem: format!("it is not active at position {position}"),
                })?;
                tracing.feature_targets(&[found])?
            }
            EdgeEnd::Logit(token) => {
                self.model().tokens(&[[token]])?; // checks it
                tracing.logit_targets(&[token])?.0
            }
        };
        let traced = tracing.trace(&targets, Some(layer))?;
        let of_source = |source: usize| -> Vec<f32> {
            traced
                .weights
                .iter()
                .map(|weights| weights[source])
                .collect()
        };
        let sources = traced.weights[0].len();
        let mut order: Vec<(usize, f32)> = (0..sources)
            .map(|source| (source, of_source(source).iter().sum::<f32>().abs()))
            .filter(|(_, size)| *size != 0.0)
            .collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        order.truncate(n);
        let loading = |(source, _)| {
            let parts = of_source(source);
            let mut heads = parts[1..].to_vec();
            heads.resize(c.n_heads, 0.0); // a target below the layer meets none of its heads
            HeadLoading {
                source: tracing_node(&local, tokens, source).expect("it is no bias"),
                bypass: parts[0],
                heads,
            }
        };
        Ok(order.into_iter().map(loading).collect())
    }
}

fn whole<'a, 'm>(replacement: &'a ReplacementModel<'m>, local: &'a Local<'a>) -> Tracing<'a, 'm> {
    Tracing {
        replacement,
        local,
        batch_bytes: u64::MAX,
    }
}

/// The source of this number, in the order of [`Traced`]; none for the one after all, biases.
fn tracing_node(local: &Local<'_>, tokens: &[u32], number: usize) -> Option<Node> {
    let (pos, features) = (tokens.len(), local.features.len());
    if number < features {
        return Some(Node::Feature(local.features[number]));
    }
    let (row, position) = ((number - features) / pos, (number - features) % pos);
    match row.cmp(&local.layers.len()) {
        std::cmp::Ordering::Less => Some(Node::Error {
            layer: row,
            position,
        }),
        std::cmp::Ordering::Equal => Some(Node::Token {
            position,
            token: tokens[position],
        }),
        std::cmp::Ordering::Greater => None,
    }
}

/// What each source adds to a query or a key.
struct Side {
    /// One vector for each source, the biases last.
    vectors: Vec<Vec<f64>>, // [sources + 1][d_head]
}

impl Side {
    fn new(traced: Traced) -> Self {
        let sources = traced.weights.first().map_or(0, Vec::len);
        let of = |source: usize| -> Vec<f64> {
            let rows = traced.weights.iter();
            rows.map(|weights| f64::from(weights[source])).collect()
        };
        let mut vectors: Vec<Vec<f64>> = (0..sources).map(of).collect();
        vectors.push(traced.bias);
        Self { vectors }
    }

    /// The sources with the largest norms.
    fn strongest(&self) -> Vec<usize> {
        let norm = |vector: &Vec<f64>| product(vector, vector);
        let mut order: Vec<(usize, f64)> = self.vectors.iter().map(norm).enumerate().collect();
        order.retain(|(_, norm)| *norm > 0.0);
        order.sort_by(|a, b| b.1.total_cmp(&a.1));
        order.truncate(PAIRED);
        order.into_iter().map(|(source, _)| source).collect()
    }
}

fn product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
