//! Every method on one task, judged in the same way.

use crate::discrete::{CodeScore, DiscreteSettings, HeadCodes};
use crate::ranking::{CIRCUIT_SIZES, auc, circuit_areas, correlation};
use crate::{
    Attribution, CircuitError, Graph, HeadEffects, Method, Task, attribute, faithfulness,
    head_effects,
};
use lapidary_model::LanguageModel;
use serde::Serialize;
use std::fmt;
use std::str::FromStr;
use std::time::Instant;

/// A way to rank the heads of a model for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ranker {
    /// `patching`: the exact effect of each head ([`head_effects`]).
    Patching,
    /// `attribution-patching`: [`Method::Eap`].
    AttributionPatching,
    /// `eap-ig-inputs`: [`Method::EapIgInputs`].
    EapIgInputs,
    /// `eap-ig-activations`: [`Method::EapIgActivations`].
    EapIgActivations,
    /// `relp`: [`Method::RelP`].
    RelP,
    /// `hisp`: [`Attribution::importance`], with norm 1 in each layer.
    HeadImportance,
    /// `discrete-sae`: [`CodeScore::Unique`].
    DiscreteSae,
    /// `discrete-sae-tv`: [`CodeScore::TotalVariation`].
    DiscreteSaeTotalVariation,
}

/// Steps of integrated gradients, as in MIB.
const STEPS: usize = 5;

impl Ranker {
    /// All of them with their names, those that need the fewest passes first.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::DiscreteSae, "discrete-sae"),
        (Self::DiscreteSaeTotalVariation, "discrete-sae-tv"),
        (Self::AttributionPatching, "attribution-patching"),
        (Self::RelP, "relp"),
        (Self::HeadImportance, "hisp"),
        (Self::EapIgInputs, "eap-ig-inputs"),
        (Self::EapIgActivations, "eap-ig-activations"),
        (Self::Patching, "patching"),
    ];

    /// Scores of all heads, layer by layer. A head with a higher score matters more; below 0 it
    /// works against the behaviour.
    ///
    /// # Errors
    /// The task does not fit the model.
    pub fn scores(
        self,
        model: &LanguageModel,
        graph: &Graph,
        task: &Task,
        seed: u64,
    ) -> Result<Vec<f64>, CircuitError> {
        let attributed = |method| attribute(model, graph, task, method);
        let of_heads = |a: Attribution| heads_of(graph, &a.senders);
        let steps = STEPS;
        Ok(match self {
            Self::Patching => head_effects(model, graph, task)?.effects,
            Self::AttributionPatching => of_heads(attributed(Method::Eap)?),
            Self::EapIgInputs => of_heads(attributed(Method::EapIgInputs { steps })?),
            Self::EapIgActivations => of_heads(attributed(Method::EapIgActivations { steps })?),
            Self::RelP => of_heads(attributed(Method::RelP)?),
            Self::HeadImportance => {
                let mut scores = heads_of(graph, &attributed(Method::Eap)?.importance);
                for layer in scores.chunks_mut(graph.heads) {
                    let norm = layer.iter().map(|s| s * s).sum::<f64>().sqrt();
                    layer
                        .iter_mut()
                        .for_each(|s| *s /= norm.max(f64::MIN_POSITIVE));
                }
                scores
            }
            Self::DiscreteSae | Self::DiscreteSaeTotalVariation => {
                let settings = DiscreteSettings {
                    seed,
                    ..DiscreteSettings::default()
                };
                let how = match self {
                    Self::DiscreteSae => CodeScore::Unique,
                    _ => CodeScore::TotalVariation,
                };
                HeadCodes::of_task(model, graph, task, &settings)?.scores(how)
            }
        })
    }

    /// Whether a score below 0 means that a head works against the behaviour.
    #[must_use]
    pub const fn is_signed(self) -> bool {
        !matches!(
            self,
            Self::HeadImportance | Self::DiscreteSae | Self::DiscreteSaeTotalVariation
        )
    }
}

fn heads_of(graph: &Graph, senders: &[f64]) -> Vec<f64> {
    let heads = graph.all_heads();
    let number = |(layer, head)| graph.number_of(crate::Sender::Head { layer, head });
    heads.map(|head| senders[number(head)]).collect()
}

impl fmt::Display for Ranker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::ALL.iter().find(|(ranker, _)| ranker == self);
        f.write_str(named.expect("all are named").1)
    }
}

impl FromStr for Ranker {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = Self::ALL.iter().find(|(_, name)| *name == text);
        named.map(|(ranker, _)| *ranker).ok_or_else(|| {
            let known = Self::ALL.map(|(_, name)| name).join(", ");
            format!("found {text}, expected one of {known}")
        })
    }
}

/// How good the ranking of a method is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judgement {
    /// Name of the method.
    pub method: String,
    /// Name of the task.
    pub task: String,
    /// What is ranked: `node`, here heads.
    pub level: &'static str,
    /// Area under the ROC curve against the true circuit, of magnitudes; `None` without one.
    pub auc: Option<f64>,
    /// Correlation with the exact effects of patching; of methods without signs, with their
    /// magnitudes.
    pub correlation_exact: Option<f64>,
    /// MIB's circuit performance ratio: the area under faithfulness.
    pub cpr: f64,
    /// MIB's circuit model distance: the area under |1 − faithfulness|, of the ranking by
    /// magnitude.
    pub cmd: f64,
    /// Time of the method alone.
    pub seconds: f64,
    /// Peak memory of the process while it ran, where it is known.
    pub peak_bytes: Option<u64>,
    /// The fewest heads, of the sizes tried, whose circuit keeps at least 0.8 of the behaviour;
    /// `None` if no circuit does.
    pub n_heads: Option<usize>,
    /// Faithfulness of the circuits of the highest scores, and their numbers of heads.
    #[serde(skip)]
    pub curve: Vec<(usize, f64)>,
    /// Score of each head, layer by layer.
    #[serde(skip)]
    pub scores: Vec<f64>,
}

/// How much of the behaviour a circuit has to keep to count in `n_heads`.
pub const FAITHFUL: f64 = 0.8;

/// What a comparison is made with.
pub struct Comparison<'a> {
    model: &'a LanguageModel,
    graph: Graph,
    task: &'a Task,
    exact: HeadEffects,
    exact_seconds: f64,
    truth: Option<Vec<bool>>,
    seed: u64,
}

impl<'a> Comparison<'a> {
    /// Measures the exact effects of all heads, with which methods are compared. `truth`: layer and
    /// head of the true circuit.
    ///
    /// # Errors
    /// The task does not fit the model, or a head of `truth` does not exist.
    pub fn new(
        model: &'a LanguageModel,
        task: &'a Task,
        truth: Option<&[(usize, usize)]>,
        seed: u64,
    ) -> Result<Self, CircuitError> {
        let graph = Graph::of(model)?;
        let in_truth = |truth: &[(usize, usize)]| {
            let outside =
                |(layer, head): &&(usize, usize)| *layer >= graph.layers || *head >= graph.heads;
            if let Some((layer, head)) = truth.iter().find(outside) {
                return Err(CircuitError::Unsupported {
                    model: model.name().into(),
                    problem: format!(
                        "the true circuit has head {head} of layer {layer}, expected layers 0 to \
                         {} and heads 0 to {}",
                        graph.layers - 1,
                        graph.heads - 1
                    ),
                });
            }
            Ok(graph
                .all_heads()
                .map(|head| truth.contains(&head))
                .collect())
        };
        let truth = truth.map(in_truth).transpose()?;
        let start = Instant::now();
        let exact = head_effects(model, &graph, task)?;
        Ok(Self {
            model,
            task,
            exact,
            exact_seconds: start.elapsed().as_secs_f64(),
            truth,
            seed,
            graph,
        })
    }

    /// The graph of the model.
    #[must_use]
    pub const fn graph(&self) -> &Graph {
        &self.graph
    }

    /// What patching found.
    #[must_use]
    pub const fn exact(&self) -> &HeadEffects {
        &self.exact
    }

    /// Ranks the heads by a method.
    ///
    /// # Errors
    /// The task does not fit the model.
    pub fn judge(&self, ranker: Ranker) -> Result<Judgement, CircuitError> {
        let start = Instant::now();
        let (scores, seconds) = match ranker {
            Ranker::Patching => (self.exact.effects.clone(), self.exact_seconds),
            _ => {
                let scores = ranker.scores(self.model, &self.graph, self.task, self.seed)?;
                (scores, start.elapsed().as_secs_f64())
            }
        };
        let magnitudes: Vec<f64> = scores.iter().map(|s| s.abs()).collect();
        let exact = match ranker.is_signed() {
            true => self.exact.effects.clone(),
            false => self.exact.effects.iter().map(|e| e.abs()).collect(),
        };
        let sizes = CIRCUIT_SIZES.map(|k| (k * scores.len() as f64) as usize);
        let by_score = self.faithfulness(&scores, &sizes)?;
        let by_magnitude = match ranker.is_signed() {
            true => self.faithfulness(&magnitudes, &sizes)?,
            false => by_score.clone(),
        };
        let curve: Vec<(usize, f64)> = sizes.into_iter().zip(by_score.iter().copied()).collect();
        let kept = curve.iter().find(|(_, f)| *f >= FAITHFUL);
        Ok(Judgement {
            method: ranker.to_string(),
            task: self.task.name.clone(),
            level: "node",
            auc: self
                .truth
                .as_ref()
                .and_then(|truth| auc(&magnitudes, truth)),
            correlation_exact: correlation(&scores, &exact),
            cpr: circuit_areas(&CIRCUIT_SIZES, &by_score)[0],
            cmd: circuit_areas(&CIRCUIT_SIZES, &by_magnitude)[1],
            seconds,
            peak_bytes: None,
            n_heads: kept.map(|(heads, _)| *heads),
            curve,
            scores,
        })
    }

    /// Of the circuits of the best heads.
    fn faithfulness(&self, scores: &[f64], sizes: &[usize]) -> Result<Vec<f64>, CircuitError> {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        let heads: Vec<(usize, usize)> = self.graph.all_heads().collect();
        let circuit = |size: &usize| order[..*size].iter().map(|head| heads[*head]).collect();
        let circuits: Vec<_> = sizes.iter().map(circuit).collect();
        faithfulness(self.model, &self.graph, self.task, &circuits)
    }
}
