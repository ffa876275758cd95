//! Every method on one task, judged in the same way.

use crate::edge_circuits::{by_score, greedy, heads_of};
use crate::page::page;
use crate::ranking::{CIRCUIT_SIZES, auc, circuit_areas, correlation};
use crate::{
    Ablation, CircuitError, CircuitMetric, Graph, HeadEffects, Ranker, Scorer, Task, Truth,
    edge_faithfulness, faithfulness, prune,
};
use lapidary_model::LanguageModel;
use serde::Serialize;
use serde_json::json;

const TEMPLATE: &str = include_str!("../page/compare.html");
const SIZES: usize = CIRCUIT_SIZES.len();

/// How good the ranking of a method is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judgement {
    /// Name of the method.
    pub method: String,
    /// Name of the task.
    pub task: String,
    /// What is ranked: `node`, here heads, or `edge`.
    pub level: &'static str,
    /// Area under the ROC curve against the true circuit, of magnitudes; `None` without one.
    pub auc: Option<f64>,
    /// Correlation with the exact effects of patching, where they are known; of methods without
    /// signs, with their magnitudes.
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
    /// The heads of the smallest circuit, of the sizes tried, that keeps at least 0.8 of the
    /// behaviour; `None` if no circuit does.
    pub n_heads: Option<usize>,
    /// The task's metric with all heads ablated, or with all edges.
    #[serde(skip)]
    pub metric_ablated: f64,
    /// The circuits of the highest scores, from the smallest to the largest.
    #[serde(skip)]
    pub curve: Vec<CircuitPoint>,
    /// Score of each head, layer by layer, or of each edge, by its number.
    #[serde(skip)]
    pub scores: Vec<f64>,
}

/// What is ranked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Heads.
    Node,
    /// Edges.
    Edge,
}

/// A circuit that a ranking picks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CircuitPoint {
    /// Its share of all heads or edges.
    pub share: f64,
    /// How many of the highest scores it consists of.
    pub size: usize,
    /// Its heads.
    pub heads: usize,
    /// How much of the behaviour it keeps.
    #[serde(flatten)]
    pub kept: CircuitMetric,
}

/// How much of the behaviour a circuit has to keep to count in `n_heads`.
pub const FAITHFUL: f64 = 0.8;

/// What a comparison is made with.
pub struct Comparison<'a> {
    model: &'a LanguageModel,
    task: &'a Task,
    scorer: Scorer<'a>,
    ablation: Ablation,
    true_heads: Option<Vec<bool>>,
    true_edges: Option<Vec<bool>>,
}

/// The circuits of a ranking, and the metric of an empty circuit.
type Curve = (Vec<CircuitPoint>, f64);

/// A ranking and what it is judged by.
struct Ranking<'r> {
    ranker: Ranker,
    level: &'static str,
    scores: Vec<f64>,
    seconds: f64,
    truth: Option<&'r [bool]>,
    exact: Option<&'r [f64]>,
}

impl<'a> Comparison<'a> {
    /// Measures the exact effects of all heads, with which methods are compared. `ablation`: of
    /// what is outside of circuits; `seed` and `most_edges`: as in [`Scorer::new`].
    ///
    /// # Errors
    /// The task does not fit the model, its metric is the same on clean and on corrupted prompts,
    /// or a head or an edge of `truth` does not exist.
    pub fn new(
        model: &'a LanguageModel,
        task: &'a Task,
        truth: Option<&Truth>,
        ablation: Ablation,
        seed: u64,
        most_edges: usize,
    ) -> Result<Self, CircuitError> {
        let scorer = Scorer::new(model, task, seed, most_edges)?;
        let (graph, name) = (scorer.graph(), model.name());
        let true_heads = truth.map(|t| t.of_each_head(graph, name)).transpose()?;
        let true_edges = truth.map(|t| t.of_each_edge(graph, name)).transpose()?;
        let exact = scorer.head_effects()?;
        // Rounding alone may leave a little.
        let span = exact.clean - exact.corrupted;
        if span.abs() <= 1e-5 * (exact.clean.abs() + exact.corrupted.abs()) {
            return Err(CircuitError::Task {
                task: task.name.clone(),
                problem: format!(
                    "its metric is {:.4} on clean and on corrupted prompts, so no head can matter",
                    exact.clean
                ),
            });
        }
        Ok(Self {
            model,
            task,
            ablation,
            true_heads,
            true_edges: true_edges.flatten(),
            scorer,
        })
    }

    /// The graph of the model.
    #[must_use]
    pub const fn graph(&self) -> &Graph {
        self.scorer.graph()
    }

    /// The scores of methods.
    #[must_use]
    pub const fn scorer(&self) -> &Scorer<'a> {
        &self.scorer
    }

    /// What patching found.
    ///
    /// # Errors
    /// None: it was measured before.
    pub fn exact(&self) -> Result<&HeadEffects, CircuitError> {
        self.scorer.head_effects()
    }

    /// Ranks the heads, the edges or both by a method, in this order; `level`: only these. The
    /// scores of edges are compared with those of [`Ranker::ExactEdges`] if that was judged before.
    ///
    /// # Errors
    /// The task does not fit the model, or it has too many edges for the method.
    pub fn judge(
        &self,
        ranker: Ranker,
        level: Option<Level>,
    ) -> Result<Vec<Judgement>, CircuitError> {
        let found = self.scorer.scores(ranker)?;
        let asked = |this: Level| level.is_none_or(|level| level == this);
        let mut judged = vec![];
        if let Some(scores) = found.heads.filter(|_| asked(Level::Node)) {
            let ranking = Ranking {
                ranker,
                level: "node",
                scores,
                seconds: found.seconds,
                truth: self.true_heads.as_deref(),
                exact: Some(&self.scorer.head_effects()?.effects),
            };
            judged.push(self.judge_ranking(ranking, &|scores| self.of_heads(scores))?);
        }
        if let Some(scores) = found.edges.filter(|_| asked(Level::Edge)) {
            let ranking = Ranking {
                ranker,
                level: "edge",
                scores,
                seconds: found.seconds,
                truth: self.true_edges.as_deref(),
                exact: self.scorer.known_edge_effects(),
            };
            let order = |scores: &[f64]| match ranker {
                Ranker::InformationFlow => greedy(self.graph(), scores),
                _ => by_score(scores),
            };
            judged.push(self.judge_ranking(ranking, &|scores| self.of_edges(&order(scores)))?);
        }
        Ok(judged)
    }

    /// `curve`: of the circuits that scores pick.
    fn judge_ranking(
        &self,
        ranking: Ranking<'_>,
        curve: &dyn Fn(&[f64]) -> Result<Curve, CircuitError>,
    ) -> Result<Judgement, CircuitError> {
        let (ranker, scores) = (ranking.ranker, ranking.scores);
        let magnitudes: Vec<f64> = scores.iter().map(|s| s.abs()).collect();
        let exact = ranking.exact.map(|exact| match ranker.is_signed() {
            true => exact.to_vec(),
            false => exact.iter().map(|effect| effect.abs()).collect(),
        });
        let by_score = curve(&scores)?;
        let by_magnitude = match ranker.is_signed() {
            true => curve(&magnitudes)?,
            false => by_score.clone(),
        };
        let ((by_score, metric_ablated), (by_magnitude, _)) = (by_score, by_magnitude);
        let areas = |curve: &[CircuitPoint]| {
            let faithfulness: Vec<f64> = curve.iter().map(|at| at.kept.faithfulness).collect();
            circuit_areas(&CIRCUIT_SIZES, &faithfulness)
        };
        let kept = by_score.iter().find(|at| at.kept.faithfulness >= FAITHFUL);
        Ok(Judgement {
            method: ranker.to_string(),
            task: self.task.name.clone(),
            level: ranking.level,
            auc: ranking.truth.and_then(|truth| auc(&magnitudes, truth)),
            correlation_exact: exact.and_then(|exact| correlation(&scores, &exact)),
            cpr: areas(&by_score)[0],
            cmd: areas(&by_magnitude)[1],
            seconds: ranking.seconds,
            peak_bytes: None,
            n_heads: kept.map(|at| at.heads),
            metric_ablated,
            curve: by_score,
            scores,
        })
    }

    /// Of the circuits of the best heads.
    fn of_heads(&self, scores: &[f64]) -> Result<Curve, CircuitError> {
        let order = by_score(scores);
        let heads: Vec<(usize, usize)> = self.graph().all_heads().collect();
        let sizes = CIRCUIT_SIZES.map(|k| (k * scores.len() as f64) as usize);
        let circuit = |size: &usize| order[..*size].iter().map(|head| heads[*head]).collect();
        // An empty circuit behind the others costs no further run.
        let circuits: Vec<_> = sizes.iter().chain([&0]).map(circuit).collect();
        let (model, graph, task) = (self.model, self.graph(), self.task);
        let kept = faithfulness(model, graph, task, &circuits, self.ablation)?;
        Ok(curve(sizes, sizes, &kept))
    }

    /// Of the circuits of the first edges, pruned.
    fn of_edges(&self, order: &[usize]) -> Result<Curve, CircuitError> {
        let graph = self.graph();
        let circuit = |k: f64| {
            let mut kept = vec![false; graph.edges()];
            for edge in &order[..(k * order.len() as f64) as usize] {
                kept[*edge] = true;
            }
            prune(graph, &mut kept);
            kept
        };
        let mut circuits = CIRCUIT_SIZES.map(circuit).to_vec();
        let heads = std::array::from_fn(|size| heads_of(graph, &circuits[size]));
        circuits.push(vec![false; graph.edges()]);
        let (model, task) = (self.model, self.task);
        let kept = edge_faithfulness(model, graph, task, &circuits, self.ablation)?;
        let sizes = CIRCUIT_SIZES.map(|k| (k * order.len() as f64) as usize);
        Ok(curve(sizes, heads, &kept))
    }

    /// A self-contained page about rankings that were judged: table, curves of faithfulness, a heat
    /// map of heads for each method.
    ///
    /// # Errors
    /// None: what patching found was measured before.
    pub fn page(&self, judged: &[Judgement]) -> Result<String, CircuitError> {
        let (graph, exact) = (self.graph(), self.exact()?);
        let heads = || graph.all_heads();
        let truth = self.true_heads.as_ref().map(|truth| {
            let of_circuit = heads().zip(truth).filter(|(_, of_circuit)| **of_circuit);
            of_circuit.map(|(head, _)| head).collect::<Vec<_>>()
        });
        let method = |j: &Judgement| {
            let mut object = json!(j);
            object["curve"] = json!(j.curve);
            object["scores"] = match j.level {
                "node" => json!(j.scores),
                _ => json!(null),
            };
            let ranker: Option<Ranker> = j.method.parse().ok();
            object["signed"] = json!(ranker.is_some_and(Ranker::is_signed));
            object
        };
        let data = json!({
            "model": self.model.name(),
            "task": self.task.name,
            "prompts": self.task.prompts.len(),
            "clean": exact.clean,
            "corrupted": exact.corrupted,
            "ablated": judged.iter().find(|j| j.level == "node").map(|j| j.metric_ablated),
            "ablation": self.ablation.to_string(),
            "layers": graph.layers,
            "heads": graph.heads,
            "edges": graph.edges(),
            "truth": truth,
            "methods": judged.iter().map(method).collect::<Vec<_>>(),
        });
        let title = format!("{} in {}", self.task.name, self.model.name());
        Ok(page(TEMPLATE, &title, &data.to_string()))
    }
}

/// `kept`: of each size, and last of an empty circuit.
fn curve(sizes: [usize; SIZES], heads: [usize; SIZES], kept: &[CircuitMetric]) -> Curve {
    let shares = CIRCUIT_SIZES.into_iter().zip(sizes).zip(heads).zip(kept);
    let points = shares.map(|(((share, size), heads), kept)| CircuitPoint {
        share,
        size,
        heads,
        kept: *kept,
    });
    (points.collect(), kept[SIZES].metric)
}
