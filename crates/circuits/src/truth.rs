//! Circuits that are known: read from a file, or found by people and published.

use crate::{CircuitError, Graph, Receiver, Sender};
use serde::Deserialize;
use std::path::Path;

/// The heads of a circuit, and its edges if they are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truth {
    /// Layer and head.
    pub heads: Vec<(usize, usize)>,
    /// Sender and receiver.
    pub edges: Option<Vec<(Sender, Receiver)>>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "a list of [layer, head], or an object with `heads` and perhaps `edges`"
)]
enum TruthFile {
    Heads(Vec<(usize, usize)>),
    Circuit(CircuitFile),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CircuitFile {
    heads: Vec<(usize, usize)>,
    edges: Option<Vec<String>>,
}

/// A circuit of heads that was published.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// As in `--truth`.
    pub name: &'static str,
    /// Task, model and source.
    pub what: &'static str,
    /// Layer and head.
    pub heads: &'static [(usize, usize)],
}

/// Published circuits.
pub const PUBLISHED: [Published; 6] = [
    Published {
        name: "ioi_wang",
        what: "ioi in GPT-2 small, Wang et al. 2022",
        heads: &[
            (0, 1),
            (0, 10),
            (3, 0),
            (2, 2),
            (4, 11),
            (5, 5),
            (5, 8),
            (5, 9),
            (6, 9),
            (7, 3),
            (7, 9),
            (8, 6),
            (8, 10),
            (9, 6),
            (9, 9),
            (10, 0),
            (10, 7),
            (11, 10),
            (9, 0),
            (9, 7),
            (10, 1),
            (10, 2),
            (10, 6),
            (10, 10),
            (11, 2),
            (11, 9),
        ],
    },
    Published {
        name: "ioi_oneill",
        what: "the same in the program of O'Neill and Bui 2024: head 3 of layer 11 in place of head 0 of \
         layer 9",
        heads: &[
            (0, 1),
            (0, 10),
            (3, 0),
            (2, 2),
            (4, 11),
            (5, 5),
            (5, 8),
            (5, 9),
            (6, 9),
            (7, 3),
            (7, 9),
            (8, 6),
            (8, 10),
            (9, 6),
            (9, 9),
            (10, 0),
            (10, 7),
            (11, 10),
            (11, 3),
            (9, 7),
            (10, 1),
            (10, 2),
            (10, 6),
            (10, 10),
            (11, 2),
            (11, 9),
        ],
    },
    Published {
        name: "gt_acdc",
        what: "greater-than in GPT-2 small, the program of Conmy et al. 2023",
        heads: &[
            (0, 1),
            (0, 3),
            (0, 5),
            (5, 5),
            (6, 1),
            (6, 9),
            (7, 10),
            (8, 11),
            (9, 1),
        ],
    },
    Published {
        name: "gt_hanna",
        what: "greater-than in GPT-2 small, the program of Hanna et al. 2023",
        heads: &[
            (0, 1),
            (0, 3),
            (0, 5),
            (5, 1),
            (5, 5),
            (6, 9),
            (7, 10),
            (8, 8),
            (8, 11),
            (9, 1),
        ],
    },
    Published {
        name: "docstring_acdc",
        what: "docstring in attn-only-4l, the program of Conmy et al. 2023",
        heads: &[(0, 5), (1, 2), (1, 4), (2, 0), (3, 0), (3, 6)],
    },
    Published {
        name: "docstring_oneill",
        what: "docstring in attn-only-4l, the program of O'Neill and Bui 2024",
        heads: &[(0, 5), (1, 0), (1, 4), (2, 0), (3, 0), (3, 6)],
    },
];

impl Truth {
    /// A circuit of heads.
    #[must_use]
    pub fn of_heads(heads: &[(usize, usize)]) -> Self {
        Self {
            heads: heads.to_vec(),
            edges: None,
        }
    }

    /// One of [`PUBLISHED`], if there is one of this name.
    #[must_use]
    pub fn published(name: &str) -> Option<Self> {
        let found = PUBLISHED.iter().find(|circuit| circuit.name == name)?;
        Some(Self::of_heads(found.heads))
    }

    /// A JSON file: a list of `[layer, head]`, or an object with such a list, `heads`, and a list
    /// of edges, `edges`, such as `"a0.h1->a2.h3<q>"`.
    ///
    /// # Errors
    /// The file cannot be read, is something else, or names no head.
    pub fn read(path: &Path) -> Result<Self, CircuitError> {
        let text = lapidary_io::read_text(path)?;
        let wrong = |problem: String| CircuitError::TruthFile {
            path: path.into(),
            problem,
        };
        let file: TruthFile = serde_json::from_str(&text).map_err(|e| {
            wrong(format!(
                "{e}: expected a JSON list of [layer, head], or an object with this list as heads, \
                 and edges, a list of texts such as \"a0.h1->a2.h3<q>\""
            ))
        })?;
        let (heads, edges) = match file {
            TruthFile::Heads(heads) => (heads, None),
            TruthFile::Circuit(circuit) => (circuit.heads, circuit.edges),
        };
        if heads.is_empty() {
            return Err(wrong("found no head, expected at least one".into()));
        }
        let edge = |text: &String| {
            let wrong = |problem: String| wrong(format!("edges: {text:?}: {problem}"));
            let (sender, receiver) = text
                .split_once("->")
                .ok_or_else(|| wrong("found no ->, expected sender->receiver".into()))?;
            Ok::<_, CircuitError>((
                sender.parse().map_err(wrong)?,
                receiver.parse().map_err(wrong)?,
            ))
        };
        let edges = edges.map(|edges| edges.iter().map(edge).collect::<Result<Vec<_>, _>>());
        let edges = edges.transpose()?;
        if edges.as_ref().is_some_and(Vec::is_empty) {
            return Err(wrong(
                "edges: found an empty list, expected an edge, or no field edges".into(),
            ));
        }
        Ok(Self { heads, edges })
    }

    /// Whether each head of a graph, layer by layer, belongs to the circuit.
    ///
    /// # Errors
    /// The circuit has a head that the graph does not have; `model` is named.
    pub fn of_each_head(&self, graph: &Graph, model: &str) -> Result<Vec<bool>, CircuitError> {
        let outside =
            |(layer, head): &&(usize, usize)| *layer >= graph.layers || *head >= graph.heads;
        if let Some((layer, head)) = self.heads.iter().find(outside) {
            return Err(CircuitError::Unsupported {
                model: model.into(),
                problem: format!(
                    "the true circuit has head {head} of layer {layer}, expected layers 0 to {} and \
                     heads 0 to {}",
                    graph.layers - 1,
                    graph.heads - 1
                ),
            });
        }
        let heads = graph.all_heads();
        Ok(heads.map(|head| self.heads.contains(&head)).collect())
    }

    /// Whether each edge of a graph, by its number, belongs to the circuit; `None` if its edges are
    /// not known.
    ///
    /// # Errors
    /// The circuit has an edge that the graph does not have; `model` is named.
    pub fn of_each_edge(
        &self,
        graph: &Graph,
        model: &str,
    ) -> Result<Option<Vec<bool>>, CircuitError> {
        let Some(edges) = &self.edges else {
            return Ok(None);
        };
        let mut truth = vec![false; graph.edges()];
        for (sender, receiver) in edges {
            let Some(number) = graph.edge_number(*sender, *receiver) else {
                return Err(CircuitError::Unsupported {
                    model: model.into(),
                    problem: format!(
                        "the true circuit has the edge {sender}->{receiver}, expected a sender and \
                         a later receiver among {} layers, {} heads and {} key and value heads",
                        graph.layers, graph.heads, graph.kv_heads
                    ),
                });
            };
            truth[number] = true;
        }
        Ok(Some(truth))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts are those of the papers.
    #[test]
    fn published_circuits_fit_their_models_and_no_smaller_ones() {
        let (gpt2, attn_only) = (Graph::new(12, 12, 12, false), Graph::new(4, 8, 8, false));
        for (name, graph, n) in [
            ("ioi_wang", &gpt2, 26),
            ("ioi_oneill", &gpt2, 26),
            ("gt_acdc", &gpt2, 9),
            ("gt_hanna", &gpt2, 10),
            ("docstring_acdc", &attn_only, 6),
            ("docstring_oneill", &attn_only, 6),
        ] {
            let truth = Truth::published(name).unwrap();
            let heads = truth.of_each_head(graph, "model").unwrap();
            assert_eq!(heads.iter().filter(|h| **h).count(), n, "{name}");
            let small = Graph::new(2, 4, 4, false);
            let told = truth.of_each_head(&small, "small").unwrap_err().to_string();
            assert!(
                told.contains("small") && told.contains("heads 0 to 3"),
                "{told}"
            );
        }
        assert_eq!(Truth::published("ioi"), None);
    }

    #[test]
    fn a_truth_file_names_heads_and_edges() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("truth.json");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Truth::read(&path)
        };
        let graph = Graph::new(2, 2, 2, false);
        let heads = read("[[0, 1], [1, 0]]").unwrap();
        assert_eq!(heads, Truth::of_heads(&[(0, 1), (1, 0)]));
        assert_eq!(heads.of_each_edge(&graph, "m").unwrap(), None);
        let both = read(r#"{"heads": [[0, 1]], "edges": ["a0.h1->a1.h0<q>", "m1->logits"]}"#);
        let edges = both.unwrap().of_each_edge(&graph, "m").unwrap().unwrap();
        let true_edges: Vec<String> = (0..graph.edges())
            .filter(|edge| edges[*edge])
            .map(|edge| {
                let (sender, receiver) = graph.edge(edge);
                format!("{sender}->{receiver}")
            })
            .collect();
        assert_eq!(true_edges, ["a0.h1->a1.h0<q>", "m1->logits"]);
        let backwards = read(r#"{"heads": [[0, 1]], "edges": ["m1->a0.h0<q>"]}"#).unwrap();
        let told = backwards.of_each_edge(&graph, "m").unwrap_err().to_string();
        assert!(told.contains("m1->a0.h0<q>"), "{told}");
        for (text, expected) in [
            ("{}", "expected a JSON list"),
            ("[]", "found no head"),
            (
                r#"{"heads": [[0, 1]], "edges": []}"#,
                "edges: found an empty",
            ),
            (r#"{"heads": [[0, 1]], "edges": ["a0.h1"]}"#, "found no ->"),
            (r#"{"heads": [[0, 1]], "edges": ["x->m0"]}"#, "found \"x\""),
            (r#"{"heads": [[0, 1]], "edges": ["m0->a1.h0"]}"#, "<q>"),
        ] {
            let told = read(text).unwrap_err().to_string();
            assert!(
                told.contains(expected) && told.contains("truth.json"),
                "{told}"
            );
        }
    }
}
