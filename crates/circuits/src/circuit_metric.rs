//! How much of a behaviour a circuit keeps.

use crate::{CircuitError, Task};
use serde::Serialize;

/// What is left of a task's metric with everything outside of a circuit ablated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CircuitMetric {
    /// m(C): the mean of the task's metric over the clean prompts.
    pub metric: f64,
    /// `(m(C) − m(∅)) / (m(all) − m(∅))`: 1 for a circuit that keeps all of the behaviour, 0 for
    /// one that keeps no more than an empty circuit.
    pub faithfulness: f64,
}

/// From sums over the prompts: of circuits (`sums`), and of the circuit of nothing and the one of
/// everything. `parts`: what circuits are made of.
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
