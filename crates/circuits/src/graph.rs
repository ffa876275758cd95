//! A transformer as a graph: what writes to the residual stream, what reads from it, and the edges
//! from each writer to every reader after it. Names are those of the MIB benchmark.

use crate::CircuitError;
use lapidary_model::LanguageModel;
use std::fmt;
use std::str::FromStr;

/// A component that writes to the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sender {
    /// `input`: the embeddings, positions included.
    Input,
    /// `a{layer}.h{head}`: a head, without the bias of `W_O`.
    Head {
        /// From 0.
        layer: usize,
        /// From 0.
        head: usize,
    },
    /// `m{layer}`: an MLP.
    Mlp(usize),
}

/// A place where a component reads the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Receiver {
    /// `a{layer}.h{head}<q>`: the query of a head.
    Query {
        /// From 0.
        layer: usize,
        /// From 0.
        head: usize,
    },
    /// `a{layer}.h{head}<k>`: the key of a head. Heads that share a key are counted once.
    Key {
        /// From 0.
        layer: usize,
        /// From 0, among key heads.
        head: usize,
    },
    /// `a{layer}.h{head}<v>`: the value of a head. Heads that share a value are counted once.
    Value {
        /// From 0.
        layer: usize,
        /// From 0, among value heads.
        head: usize,
    },
    /// `m{layer}`: an MLP.
    Mlp(usize),
    /// `logits`: the last residual stream, before the final norm.
    Logits,
}

impl fmt::Display for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input => f.write_str("input"),
            Self::Head { layer, head } => write!(f, "a{layer}.h{head}"),
            Self::Mlp(layer) => write!(f, "m{layer}"),
        }
    }
}

impl fmt::Display for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Query { layer, head } => write!(f, "a{layer}.h{head}<q>"),
            Self::Key { layer, head } => write!(f, "a{layer}.h{head}<k>"),
            Self::Value { layer, head } => write!(f, "a{layer}.h{head}<v>"),
            Self::Mlp(layer) => write!(f, "m{layer}"),
            Self::Logits => f.write_str("logits"),
        }
    }
}

/// Layer and head of `a{layer}.h{head}`.
fn head(text: &str) -> Option<(usize, usize)> {
    let (layer, head) = text.strip_prefix('a')?.split_once(".h")?;
    Some((layer.parse().ok()?, head.parse().ok()?))
}

impl FromStr for Sender {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mlp = text.strip_prefix('m').and_then(|layer| layer.parse().ok());
        if text == "input" {
            Ok(Self::Input)
        } else if let Some(layer) = mlp {
            Ok(Self::Mlp(layer))
        } else if let Some((layer, head)) = head(text) {
            Ok(Self::Head { layer, head })
        } else {
            Err(format!("found {text:?}, expected input, a0.h1 or m0"))
        }
    }
}

impl FromStr for Receiver {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("found {text:?}, expected a0.h1<q>, <k> or <v>, m0 or logits");
        if text == "logits" {
            return Ok(Self::Logits);
        }
        if let Some(layer) = text.strip_prefix('m') {
            return layer.parse().map(Self::Mlp).map_err(|_| wrong());
        }
        let (place, part) = text.split_once('<').ok_or_else(wrong)?;
        let (layer, head) = head(place).ok_or_else(wrong)?;
        match part {
            "q>" => Ok(Self::Query { layer, head }),
            "k>" => Ok(Self::Key { layer, head }),
            "v>" => Ok(Self::Value { layer, head }),
            _ => Err(wrong()),
        }
    }
}

/// The components of a model. Senders and receivers have numbers in the order of computation, so
/// the senders before a receiver are the first [`Self::senders_before`] of them, and the edges of
/// all receivers, one receiver after the other, have numbers too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Graph {
    /// Layers of the model.
    pub layers: usize,
    /// Heads of a layer.
    pub heads: usize,
    /// Key and value heads of a layer.
    pub kv_heads: usize,
    parallel: bool,
    /// Of each receiver, the number of its first edge; then the number of all edges.
    first_edges: Vec<usize>,
}

impl Graph {
    /// The graph of a model.
    ///
    /// # Errors
    /// The model normalizes what heads and MLPs write (Gemma 2 and 3), so that it is not a sum.
    pub fn of(model: &LanguageModel) -> Result<Self, CircuitError> {
        let c = model.config();
        if c.post_norms {
            return Err(CircuitError::Unsupported {
                model: model.name().into(),
                problem: "it normalizes the sum of what its heads write, so single heads have no \
                          edges; expected a model without norms after attention"
                    .into(),
            });
        }
        Ok(Self::new(c.n_layers(), c.n_heads, c.n_kv_heads, c.parallel))
    }

    /// The graph of a transformer of these sizes. In a `parallel` one, attention and MLP of a layer
    /// read the same stream.
    #[must_use]
    pub fn new(layers: usize, heads: usize, kv_heads: usize, parallel: bool) -> Self {
        let mut graph = Self {
            layers,
            heads,
            kv_heads,
            parallel,
            first_edges: vec![0],
        };
        let mut edges = 0;
        for receiver in 0..graph.receivers() {
            edges += graph.senders_before(receiver);
            graph.first_edges.push(edges);
        }
        graph
    }

    /// How many senders there are.
    #[must_use]
    pub const fn senders(&self) -> usize {
        1 + self.layers * (self.heads + 1)
    }

    /// How many receivers there are.
    #[must_use]
    pub const fn receivers(&self) -> usize {
        self.layers * self.receivers_of_layer() + 1
    }

    /// How many edges there are.
    #[must_use]
    pub fn edges(&self) -> usize {
        self.first_edges[self.receivers()]
    }

    /// How many receivers a layer has.
    #[must_use]
    pub(crate) const fn receivers_of_layer(&self) -> usize {
        self.heads + 2 * self.kv_heads + 1
    }

    /// The number of the first sender of a layer, its first head.
    pub(crate) const fn first_sender(&self, layer: usize) -> usize {
        1 + layer * (self.heads + 1)
    }

    /// The sender of a number.
    #[must_use]
    pub const fn sender(&self, number: usize) -> Sender {
        if number == 0 {
            return Sender::Input;
        }
        let (layer, head) = (
            (number - 1) / (self.heads + 1),
            (number - 1) % (self.heads + 1),
        );
        match head == self.heads {
            true => Sender::Mlp(layer),
            false => Sender::Head { layer, head },
        }
    }

    /// The number of a sender.
    #[must_use]
    pub const fn number_of(&self, sender: Sender) -> usize {
        match sender {
            Sender::Input => 0,
            Sender::Head { layer, head } => self.first_sender(layer) + head,
            Sender::Mlp(layer) => self.first_sender(layer) + self.heads,
        }
    }

    /// The receiver of a number.
    #[must_use]
    pub const fn receiver(&self, number: usize) -> Receiver {
        let (layer, place) = (
            number / self.receivers_of_layer(),
            number % self.receivers_of_layer(),
        );
        let (queries, keys) = (self.heads, self.heads + self.kv_heads);
        if layer == self.layers {
            Receiver::Logits
        } else if place < queries {
            Receiver::Query { layer, head: place }
        } else if place < keys {
            let head = place - queries;
            Receiver::Key { layer, head }
        } else if place < keys + self.kv_heads {
            let head = place - keys;
            Receiver::Value { layer, head }
        } else {
            Receiver::Mlp(layer)
        }
    }

    /// How many senders, the first ones, write before a receiver reads.
    #[must_use]
    pub const fn senders_before(&self, receiver: usize) -> usize {
        match self.receiver(receiver) {
            Receiver::Query { layer, .. }
            | Receiver::Key { layer, .. }
            | Receiver::Value { layer, .. } => self.first_sender(layer),
            Receiver::Mlp(layer) if self.parallel => self.first_sender(layer),
            Receiver::Mlp(layer) => self.first_sender(layer) + self.heads,
            Receiver::Logits => self.senders(),
        }
    }

    /// The numbers of the edges into a receiver, in the order of their senders.
    #[must_use]
    pub fn edges_into(&self, receiver: usize) -> std::ops::Range<usize> {
        self.first_edges[receiver]..self.first_edges[receiver + 1]
    }

    /// Sender and receiver of an edge.
    #[must_use]
    pub fn edge(&self, number: usize) -> (Sender, Receiver) {
        let receiver = self.first_edges.partition_point(|first| *first <= number) - 1;
        let sender = number - self.first_edges[receiver];
        (self.sender(sender), self.receiver(receiver))
    }

    /// The number of an edge; `None` if the graph has no such edge.
    #[must_use]
    pub fn edge_number(&self, sender: Sender, receiver: Receiver) -> Option<usize> {
        let exists = match sender {
            Sender::Input => true,
            Sender::Head { layer, head } => layer < self.layers && head < self.heads,
            Sender::Mlp(layer) => layer < self.layers,
        };
        let receiver = (0..self.receivers()).find(|r| self.receiver(*r) == receiver)?;
        let number = self.number_of(sender);
        let range = self.edges_into(receiver);
        (exists && number < range.len()).then(|| range.start + number)
    }

    /// The numbers of the senders that compute with what a receiver reads: several heads may share
    /// a key or a value.
    pub(crate) fn fed_by(&self, receiver: usize) -> std::ops::Range<usize> {
        let group = self.heads / self.kv_heads;
        let first = |layer: usize, head: usize| self.first_sender(layer) + head;
        match self.receiver(receiver) {
            Receiver::Query { layer, head } => first(layer, head)..first(layer, head) + 1,
            Receiver::Key { layer, head } | Receiver::Value { layer, head } => {
                first(layer, head * group)..first(layer, (head + 1) * group)
            }
            Receiver::Mlp(layer) => first(layer, self.heads)..first(layer, self.heads) + 1,
            Receiver::Logits => 0..0,
        }
    }

    /// All heads, layer by layer.
    pub fn all_heads(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let heads = self.heads;
        (0..self.layers * heads).map(move |i| (i / heads, i % heads))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_components_belong_to_each_other() {
        for graph in [Graph::new(3, 4, 2, false), Graph::new(2, 3, 3, true)] {
            for number in 0..graph.senders() {
                assert_eq!(graph.number_of(graph.sender(number)), number);
            }
            let mut edges = 0;
            for receiver in 0..graph.receivers() {
                for (sender, edge) in graph.edges_into(receiver).enumerate() {
                    assert_eq!(edge, edges);
                    assert_eq!(
                        graph.edge(edge),
                        (graph.sender(sender), graph.receiver(receiver))
                    );
                    edges += 1;
                }
            }
            assert_eq!(edges, graph.edges());
        }
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        let graph = Graph::new(2, 4, 2, false);
        for edge in 0..graph.edges() {
            let (sender, receiver) = graph.edge(edge);
            assert_eq!(sender.to_string().parse(), Ok(sender));
            assert_eq!(receiver.to_string().parse(), Ok(receiver));
            assert_eq!(graph.edge_number(sender, receiver), Some(edge));
        }
        let backwards = (Sender::Mlp(1), Receiver::Key { layer: 1, head: 0 });
        assert_eq!(graph.edge_number(backwards.0, backwards.1), None);
        let none = Sender::Head { layer: 0, head: 4 };
        assert_eq!(graph.edge_number(none, Receiver::Logits), None);
        for text in ["a1", "a1.h", "h1.a1", "m", "mx", ""] {
            assert!(text.parse::<Sender>().is_err(), "{text}");
            assert!(text.parse::<Receiver>().is_err(), "{text}");
        }
    }

    /// GPT-2 small has 32,491 edges in the MIB benchmark.
    #[test]
    fn gpt2_small_has_as_many_edges_as_in_mib() {
        assert_eq!(Graph::new(12, 12, 12, false).edges(), 32_491);
    }

    #[test]
    fn the_mlp_of_a_parallel_layer_does_not_read_its_heads() {
        let mlp = |parallel| {
            let graph = Graph::new(2, 3, 3, parallel);
            let receiver = (0..graph.receivers()).find(|r| graph.receiver(*r) == Receiver::Mlp(1));
            graph.senders_before(receiver.unwrap())
        };
        assert_eq!((mlp(false), mlp(true)), (8, 5));
    }
}
