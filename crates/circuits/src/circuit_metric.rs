//! How much of a behaviour a circuit keeps.

use crate::{CircuitError, Task};
use serde::Serialize;

/// What is left of a task's metric with everything outside of a circuit C ablated. m(C) is the mean
/// of the metric over the clean prompts, in its own unit; m(∅) that with everything ablated, and
/// m(all) that with nothing ablated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CircuitMetric {
    /// m(C).
    pub metric: f64,
    /// `(m(C) − m(∅)) / (m(all) − m(∅))`: 1 if C has the metric of the whole model, 0 if it has
    /// that of an empty circuit. Other values are possible.
    pub faithfulness: f64,
}

/// The metrics of circuits from sums of the task's metric over its prompts: `sums` of the circuits,
/// and those of the empty circuit and of the whole model. `parts`: what circuits are made of.
pub(crate) fn circuit_metrics(
    task: &Task,
    sums: impl IntoIterator<Item = f64>,
    [none, all]: [f64; 2],
    parts: &str,
) -> Result<Vec<CircuitMetric>, CircuitError> {
    let span = all - none;
    // Rounding alone may leave a little.
    if span.abs() <= 1e-5 * (all.abs() + none.abs()) {
        return Err(CircuitError::Task {
            task: task.name.clone(),
            problem: format!(
                "its metric is the same with all {parts} ablated as with none, so no circuit of \
                 {parts} can be measured"
            ),
        });
    }
    let of_circuit = |sum: f64| CircuitMetric {
        metric: sum / task.prompts.len() as f64,
        faithfulness: (sum - none) / span,
    };
    Ok(sums.into_iter().map(of_circuit).collect())
}
