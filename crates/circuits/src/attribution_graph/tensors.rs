//! A whole attribution graph as `graph.safetensors`.

use super::graph::AttributionGraph;
use super::names::GraphNames;
use crate::CircuitError;
use lapidary_io::tensors::TensorWriter;
use serde_json::json;
use std::collections::HashMap;
use std::path::Path;

/// Writes the nodes and the adjacency matrix, as compressed rows: row i holds the edges to node i.
pub(super) fn write(
    path: &Path,
    graph: &AttributionGraph,
    names: &GraphNames<'_>,
) -> Result<(), CircuitError> {
    let mut file = TensorWriter::default();
    let active = graph.active().iter();
    let places = active.flat_map(|f| [f.layer, f.position, f.index].map(|n| n as i32));
    let places: Vec<i32> = places.collect();
    file.i32("active_features", &[graph.active().len(), 3], &places);
    let activations: Vec<f32> = graph.active().iter().map(|f| f.activation).collect();
    file.f32("activation_values", &[activations.len()], &activations);
    let whole = |values: &[u32]| values.iter().map(|v| *v as i32).collect::<Vec<i32>>();
    let mut list = |name: &str, values: &[u32]| file.i32(name, &[values.len()], &whole(values));
    list("selected_features", graph.selected());
    list("input_tokens", graph.tokens());
    let logits: Vec<u32> = graph.logits().iter().map(|logit| logit.token).collect();
    list("logit_tokens", &logits);
    let probabilities: Vec<f32> = graph.logits().iter().map(|l| l.probability).collect();
    file.f32(
        "logit_probabilities",
        &[probabilities.len()],
        &probabilities,
    );
    let n = graph.n_nodes();
    let (mut offsets, mut columns, mut weights) = (vec![0i64], vec![], vec![]);
    let mut values = [vec![], vec![], vec![], vec![]];
    for node in 0..n {
        for edge in graph.edges_to(node) {
            columns.push(edge.source as i32);
            weights.push(edge.weight);
        }
        offsets.push(columns.len() as i64);
        let value = graph.value(node);
        let value = value.map_or([0.0; 4], |v| [v.total, v.bias, v.cut, v.cut_magnitude]);
        values
            .iter_mut()
            .zip(value)
            .for_each(|(all, v)| all.push(v));
    }
    file.i64("row_offsets", &offsets);
    file.i32("columns", &[columns.len()], &columns);
    file.f32("weights", &[weights.len()], &weights);
    for (name, values) in ["total", "bias", "cut", "cut_magnitude"]
        .iter()
        .zip(&values)
    {
        file.f32(name, &[n], values);
    }
    // One key, since several would be written in any order.
    let description = json!({
        "format": "lapidary attribution graph",
        "format_version": 1,
        "n_layers": graph.n_layers(),
        "scan": names.scan,
        "prompt": names.prompt,
        "transcoders": names.transcoders,
    });
    let metadata = HashMap::from([("graph".to_owned(), description.to_string())]);
    Ok(file.write(path, Some(metadata))?)
}
