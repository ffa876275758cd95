//! Every method on one task, judged in the same way.

use crate::edge_circuits::{by_score, greedy, heads_of};
use crate::ranking::{CIRCUIT_SIZES, auc, circuit_areas, correlation};
use crate::{
    CircuitError, Graph, HeadEffects, Ranker, Scorer, Task, Truth, edge_faithfulness, faithfulness,
    prune,
};
use lapidary_model::LanguageModel;
use serde::Serialize;

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
    /// Faithfulness of the circuits of the highest scores, and their numbers of heads.
    #[serde(skip)]
    pub curve: Vec<(usize, f64)>,
    /// Score of each head, layer by layer, or of each edge, by its number.
    #[serde(skip)]
    pub scores: Vec<f64>,
}

/// How much of the behaviour a circuit has to keep to count in `n_heads`.
pub const FAITHFUL: f64 = 0.8;

/// What a comparison is made with.
pub struct Comparison<'a> {
    model: &'a LanguageModel,
    task: &'a Task,
    scorer: Scorer<'a>,
    true_heads: Option<Vec<bool>>,
    true_edges: Option<Vec<bool>>,
}

/// Number of heads and faithfulness of circuits, from the smallest to the largest.
type Curve = Vec<(usize, f64)>;

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
    /// Measures the exact effects of all heads, with which methods are compared. `seed` and
    /// `most_edges`: as in [`Scorer::new`].
    ///
    /// # Errors
    /// The task does not fit the model, or a head or an edge of `truth` does not exist.
    pub fn new(
        model: &'a LanguageModel,
        task: &'a Task,
        truth: Option<&Truth>,
        seed: u64,
        most_edges: usize,
    ) -> Result<Self, CircuitError> {
        let scorer = Scorer::new(model, task, seed, most_edges)?;
        let (graph, name) = (scorer.graph(), model.name());
        let true_heads = truth.map(|t| t.of_each_head(graph, name)).transpose()?;
        let true_edges = truth.map(|t| t.of_each_edge(graph, name)).transpose()?;
        scorer.head_effects()?;
        Ok(Self {
            model,
            task,
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

    /// Ranks the heads, the edges or both by a method, in this order. The scores of edges are
    /// compared with those of [`Ranker::ExactEdges`] if that was judged before.
    ///
    /// # Errors
    /// The task does not fit the model, or it has too many edges for the method.
    pub fn judge(&self, ranker: Ranker) -> Result<Vec<Judgement>, CircuitError> {
        let found = self.scorer.scores(ranker)?;
        let mut judged = vec![];
        if let Some(scores) = found.heads {
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
        if let Some(scores) = found.edges {
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
        let areas = |curve: &[(usize, f64)]| {
            let faithfulness: Vec<f64> = curve.iter().map(|(_, f)| *f).collect();
            circuit_areas(&CIRCUIT_SIZES, &faithfulness)
        };
        let kept = by_score.iter().find(|(_, f)| *f >= FAITHFUL);
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
            n_heads: kept.map(|(heads, _)| *heads),
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
        let circuits: Vec<_> = sizes.iter().map(circuit).collect();
        let kept = faithfulness(self.model, self.graph(), self.task, &circuits)?;
        Ok(sizes.into_iter().zip(kept).collect())
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
        let circuits = CIRCUIT_SIZES.map(circuit);
        let kept = edge_faithfulness(self.model, graph, self.task, &circuits)?;
        let heads = circuits.iter().map(|circuit| heads_of(graph, circuit));
        Ok(heads.zip(kept).collect())
    }
}
