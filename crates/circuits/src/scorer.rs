//! The scores of every method on one task. What several methods need is computed once.

use crate::discrete::{CodeScore, DiscreteSettings, HeadCodes, Positions};
use crate::{
    Attribution, CircuitError, Graph, HeadEffects, Method, ProbingSettings, Ranker, Sender, Task,
    acdc, acdc_heads, attribute, edge_effects, head_effects, information_flow, subnetwork_probing,
};
use lapidary_model::LanguageModel;
use std::cell::OnceCell;
use std::time::Instant;

/// Steps of integrated gradients, as in MIB.
const STEPS: usize = 5;

/// The most edges of a graph for methods that run the model for each edge.
pub const MOST_EDGES: usize = 4000;

/// Computes the scores of methods.
pub struct Scorer<'a> {
    model: &'a LanguageModel,
    graph: Graph,
    task: &'a Task,
    seed: u64,
    most_edges: usize,
    patching: OnceCell<Timed<HeadEffects>>,
    exact_edges: OnceCell<Timed<Vec<f64>>>,
    gradients: OnceCell<Timed<Attribution>>,
    codes: OnceCell<Timed<HeadCodes>>,
    position_codes: OnceCell<Timed<HeadCodes>>,
}

/// What a method found.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    /// Of each head, layer by layer, if the method scores heads. A head with a higher score matters
    /// more; below 0 it works against the behaviour.
    pub heads: Option<Vec<f64>>,
    /// Of each edge, by its number, if the method scores edges.
    pub edges: Option<Vec<f64>>,
    /// Time of the method, with that of what it shares with others.
    pub seconds: f64,
}

struct Timed<T> {
    value: T,
    seconds: f64,
}

/// The value of a cell; makes it if the cell is empty.
fn once<T>(
    cell: &OnceCell<Timed<T>>,
    make: impl FnOnce() -> Result<T, CircuitError>,
) -> Result<&Timed<T>, CircuitError> {
    if let Some(known) = cell.get() {
        return Ok(known);
    }
    let start = Instant::now();
    let value = make()?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(cell.get_or_init(|| Timed { value, seconds }))
}

impl<'a> Scorer<'a> {
    /// `seed`: of methods that draw random numbers; `most_edges`: methods that run the model for
    /// each edge are refused if the graph has more.
    ///
    /// # Errors
    /// The model has no graph.
    pub fn new(
        model: &'a LanguageModel,
        task: &'a Task,
        seed: u64,
        most_edges: usize,
    ) -> Result<Self, CircuitError> {
        Ok(Self {
            graph: Graph::of(model)?,
            model,
            task,
            seed,
            most_edges,
            patching: OnceCell::new(),
            exact_edges: OnceCell::new(),
            gradients: OnceCell::new(),
            codes: OnceCell::new(),
            position_codes: OnceCell::new(),
        })
    }

    /// The graph of the model.
    #[must_use]
    pub const fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Whether a method is refused because the graph has too many edges.
    ///
    /// # Errors
    /// It is.
    pub fn check(&self, ranker: Ranker) -> Result<(), CircuitError> {
        match ranker.runs_per_edge() && self.graph.edges() > self.most_edges {
            true => Err(CircuitError::TooManyEdges {
                method: ranker.to_string(),
                model: self.model.name().into(),
                found: self.graph.edges(),
                most: self.most_edges,
            }),
            false => Ok(()),
        }
    }

    /// The exact effects of all heads.
    ///
    /// # Errors
    /// The task does not fit the model.
    pub fn head_effects(&self) -> Result<&HeadEffects, CircuitError> {
        Ok(&self.patching()?.value)
    }

    /// The exact effects of all edges, if they have been computed.
    #[must_use]
    pub fn known_edge_effects(&self) -> Option<&[f64]> {
        self.exact_edges.get().map(|timed| &timed.value[..])
    }

    fn patching(&self) -> Result<&Timed<HeadEffects>, CircuitError> {
        once(&self.patching, || {
            head_effects(self.model, &self.graph, self.task)
        })
    }

    /// The scores of heads by a method.
    ///
    /// # Errors
    /// The task does not fit the model, or the method scores edges alone.
    pub fn heads(&self, ranker: Ranker) -> Result<Vec<f64>, CircuitError> {
        let refused = || CircuitError::NotRanked {
            method: ranker.to_string(),
        };
        // Before any run.
        if !ranker.ranks_heads() {
            return Err(refused());
        }
        self.scores(ranker)?.heads.ok_or_else(refused)
    }

    /// The scores of a method.
    ///
    /// # Errors
    /// The task does not fit the model, or it has too many edges for the method.
    pub fn scores(&self, ranker: Ranker) -> Result<Scores, CircuitError> {
        self.check(ranker)?;
        let (model, graph, task) = (self.model, &self.graph, self.task);
        let start = Instant::now();
        // Seconds of what was known before.
        let mut shared = 0.0;
        let of_attribution = |a: &Attribution| {
            let heads = heads_of(graph, |head| a.senders[head]);
            (Some(heads), Some(a.edges.clone()))
        };
        let attributed =
            |method| Ok::<_, CircuitError>(of_attribution(&attribute(model, graph, task, method)?));
        let (heads, edges) = match ranker {
            Ranker::Patching => {
                shared = self.patching.get().map_or(0.0, |timed| timed.seconds);
                (Some(self.patching()?.value.effects.clone()), None)
            }
            Ranker::ExactEdges => {
                shared = self.exact_edges.get().map_or(0.0, |timed| timed.seconds);
                let effects = once(&self.exact_edges, || edge_effects(model, graph, task))?;
                (None, Some(effects.value.clone()))
            }
            Ranker::AttributionPatching | Ranker::HeadImportance => {
                shared = self.gradients.get().map_or(0.0, |timed| timed.seconds);
                let found = once(&self.gradients, || {
                    attribute(model, graph, task, Method::Eap)
                })?;
                match ranker {
                    Ranker::AttributionPatching => of_attribution(&found.value),
                    _ => (Some(head_importance(graph, &found.value)), None),
                }
            }
            Ranker::EapIgInputs => attributed(Method::EapIgInputs { steps: STEPS })?,
            Ranker::EapIgActivations => attributed(Method::EapIgActivations { steps: STEPS })?,
            Ranker::RelP => attributed(Method::RelP)?,
            Ranker::DiscreteSae
            | Ranker::DiscreteSaeTotalVariation
            | Ranker::DiscreteSaePairs
            | Ranker::DiscreteSaePositions
            | Ranker::DiscreteSaePositionsTotalVariation => {
                let (cell, positions) = match ranker {
                    Ranker::DiscreteSaePositions | Ranker::DiscreteSaePositionsTotalVariation => {
                        (&self.position_codes, Positions::Each)
                    }
                    _ => (&self.codes, Positions::Mean),
                };
                shared = cell.get().map_or(0.0, |timed| timed.seconds);
                let settings = DiscreteSettings {
                    seed: self.seed,
                    positions,
                    ..DiscreteSettings::default()
                };
                let codes = once(cell, || HeadCodes::of_task(model, graph, task, &settings))?;
                let heads = match ranker {
                    Ranker::DiscreteSae | Ranker::DiscreteSaePositions => {
                        codes.value.scores(CodeScore::Unique)
                    }
                    Ranker::DiscreteSaePairs => codes.value.heads_of_pairs(),
                    _ => codes.value.scores(CodeScore::TotalVariation),
                };
                (Some(heads), None)
            }
            Ranker::SubnetworkProbing => {
                let settings = ProbingSettings {
                    seed: self.seed,
                    ..ProbingSettings::default()
                };
                let heads = subnetwork_probing(model, graph, task, &settings)?;
                (Some(heads), None)
            }
            Ranker::InformationFlow => {
                let edges = information_flow(model, graph, task)?;
                let sum = |head| out_edges(graph, head).map(|edge| edges[edge]).sum();
                (Some(heads_of(graph, sum)), Some(edges))
            }
            Ranker::AcdcHeads => (Some(acdc_heads(model, graph, task, None)?.heads), None),
            Ranker::Acdc => {
                let edges = acdc(model, graph, task, None)?.edges;
                let largest = |head| {
                    let scores = out_edges(graph, head).map(|edge| edges[edge]);
                    scores.fold(0.0, f64::max)
                };
                (Some(heads_of(graph, largest)), Some(edges))
            }
        };
        Ok(Scores {
            heads,
            edges,
            seconds: shared + start.elapsed().as_secs_f64(),
        })
    }
}

/// Scores of all heads, of a function of the head's number among the senders.
fn heads_of(graph: &Graph, score: impl Fn(usize) -> f64) -> Vec<f64> {
    let heads = graph.all_heads();
    let number = |(layer, head)| graph.number_of(Sender::Head { layer, head });
    heads.map(|head| score(number(head))).collect()
}

/// The numbers of the edges out of a sender.
fn out_edges(graph: &Graph, sender: usize) -> impl Iterator<Item = usize> + '_ {
    let readers = (0..graph.receivers()).filter(move |r| sender < graph.senders_before(*r));
    readers.map(move |receiver| graph.edges_into(receiver).start + sender)
}

/// Head importance, of norm 1 in each layer.
fn head_importance(graph: &Graph, attribution: &Attribution) -> Vec<f64> {
    let mut scores = heads_of(graph, |head| attribution.importance[head]);
    for layer in scores.chunks_mut(graph.heads) {
        let norm = layer.iter().map(|s| s * s).sum::<f64>().sqrt();
        let norm = norm.max(f64::MIN_POSITIVE);
        layer.iter_mut().for_each(|score| *score /= norm);
    }
    scores
}
