//! A pruned graph as `graph.json`, in the schema that circuit-tracer 0.5 writes and Neuronpedia
//! reads (schema version 1).

use super::graph::Node;
use super::names::GraphNames;
use super::pruning::{GraphScores, PrunedGraph};
use crate::CircuitError;
use crate::page::page;
use lapidary_io::IoError;
use serde::Serialize;
use std::collections::BTreeSet;
use std::io::Write;

const TEMPLATE: &str = include_str!("../../page/graph.html");

#[derive(Serialize)]
struct Document<'a> {
    metadata: Metadata<'a>,
    #[serde(rename = "qParams")]
    parameters: Parameters,
    nodes: Vec<Written>,
    links: Vec<Link<'a>>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    slug: &'a str,
    scan: &'a str,
    transcoder_list: &'a [String],
    prompt_tokens: Vec<String>,
    prompt: &'a str,
    node_threshold: f64,
    schema_version: u32,
    info: Info,
    pruning_settings: PruningSettings,
    scores: GraphScores,
}

#[derive(Serialize)]
struct Info {
    generator: Generator,
}

#[derive(Serialize)]
struct Generator {
    name: &'static str,
    version: &'static str,
}

#[derive(Serialize)]
struct PruningSettings {
    node_threshold: f64,
    edge_threshold: f64,
}

#[derive(Serialize)]
struct Parameters {
    #[serde(rename = "pinnedIds")]
    pinned: [String; 0],
    supernodes: [String; 0],
    #[serde(rename = "linkType")]
    link_type: &'static str,
    #[serde(rename = "clickedId")]
    clicked: &'static str,
    sg_pos: &'static str,
}

#[derive(Serialize)]
struct Written {
    node_id: String,
    feature: i64,
    layer: String,
    ctx_idx: usize,
    feature_type: &'static str,
    token_prob: f32,
    is_target_logit: bool,
    run_idx: u32,
    reverse_ctx_idx: u32,
    #[serde(rename = "jsNodeId")]
    js_node_id: String,
    clerp: String,
    influence: Option<f64>,
    activation: Option<f32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    top_logits: Vec<String>,
}

#[derive(Serialize)]
struct Link<'a> {
    source: &'a str,
    target: &'a str,
    weight: f32,
}

/// One number for two (Cantor's pairing).
const fn paired(x: usize, y: usize) -> i64 {
    ((x + y) * (x + y + 1) / 2 + y) as i64
}

impl PrunedGraph<'_> {
    /// The text of `graph.json`. Features and errors without an edge are left out.
    ///
    /// An error's `node_id` is `0_{layer}_{position}`, as in circuit-tracer, unless the graph has
    /// the feature of that name, latent `layer` of layer 0: then it is `{layer}_-1_{position}`.
    #[must_use]
    pub fn to_json(&self, names: &GraphNames<'_>) -> String {
        let graph = self.graph();
        let mut connected = vec![false; graph.n_nodes()];
        for (target, edge) in self.edges() {
            connected[target] = true;
            connected[edge.source as usize] = true;
        }
        let features = self.nodes().filter_map(|(_, node)| match node {
            Node::Feature(f) => Some((f.layer, f.index, f.position)),
            _ => None,
        });
        let features: BTreeSet<(usize, usize, usize)> = features.collect();
        let mut ids = vec![String::new(); graph.n_nodes()];
        let mut nodes = vec![];
        for (number, node) in self.nodes() {
            let always = matches!(node, Node::Token { .. } | Node::Logit(_));
            if always || connected[number] {
                let collides = |layer, position| features.contains(&(0, layer, position));
                let written = self.written(number, node, names, &collides);
                ids[number].clone_from(&written.node_id);
                nodes.push(written);
            }
        }
        let links = self.edges().map(|(target, edge)| Link {
            source: &ids[edge.source as usize],
            target: &ids[target],
            weight: edge.weight,
        });
        let pruning = self.pruning();
        let document = Document {
            metadata: Metadata {
                slug: &names.slug,
                scan: &names.scan,
                transcoder_list: &names.transcoders,
                prompt_tokens: graph.tokens().iter().map(|t| (names.token)(*t)).collect(),
                prompt: &names.prompt,
                node_threshold: pruning.node_threshold,
                schema_version: 1,
                info: Info {
                    generator: Generator {
                        name: "lapidary",
                        version: env!("CARGO_PKG_VERSION"),
                    },
                },
                pruning_settings: PruningSettings {
                    node_threshold: pruning.node_threshold,
                    edge_threshold: pruning.edge_threshold,
                },
                scores: self.scores(),
            },
            parameters: Parameters {
                pinned: [],
                supernodes: [],
                link_type: "both",
                clicked: "",
                sg_pos: "",
            },
            nodes,
            links: links.collect(),
        };
        serde_json::to_string(&document).expect("numbers and texts")
    }

    fn written(
        &self,
        number: usize,
        node: Node,
        names: &GraphNames<'_>,
        collides: &dyn Fn(usize, usize) -> bool,
    ) -> Written {
        let graph = self.graph();
        let plain = Written {
            node_id: String::new(),
            feature: -1,
            layer: String::new(),
            ctx_idx: 0,
            feature_type: "",
            token_prob: 0.0,
            is_target_logit: false,
            run_idx: 0,
            reverse_ctx_idx: 0,
            js_node_id: String::new(),
            clerp: String::new(),
            influence: Some(self.cumulative_influence(number)),
            activation: None,
            top_logits: vec![],
        };
        match node {
            Node::Feature(f) => Written {
                node_id: format!("{}_{}_{}", f.layer, f.index, f.position),
                feature: paired(f.layer, f.index),
                layer: f.layer.to_string(),
                ctx_idx: f.position,
                feature_type: "cross layer transcoder",
                js_node_id: format!("{}_{}-0", f.layer, f.index),
                activation: Some(f.activation),
                top_logits: (names.promoted)(number)
                    .into_iter()
                    .map(names.token)
                    .collect(),
                ..plain
            },
            Node::Error { layer, position } => Written {
                node_id: match collides(layer, position) {
                    false => format!("0_{layer}_{position}"),
                    true => format!("{layer}_-1_{position}"),
                },
                layer: layer.to_string(),
                ctx_idx: position,
                feature_type: "mlp reconstruction error",
                js_node_id: format!("{layer}_{position}-0"),
                ..plain
            },
            Node::Token { position, token } => Written {
                node_id: format!("E_{token}_{position}"),
                feature: position as i64,
                layer: "E".into(),
                ctx_idx: position,
                feature_type: "embedding",
                js_node_id: format!("E_{token}-{position}"),
                ..plain
            },
            Node::Logit(logit) => {
                let (token, last) = (logit.token, graph.tokens().len() - 1);
                let layer = graph.n_layers() + 1;
                let text = (names.token)(token);
                Written {
                    node_id: format!("{layer}_{token}_{last}"),
                    feature: i64::from(token),
                    layer: layer.to_string(),
                    ctx_idx: last,
                    feature_type: "logit",
                    token_prob: logit.probability,
                    is_target_logit: graph.logits()[0] == logit,
                    js_node_id: format!("L_{token}-{last}"),
                    clerp: format!("Output \"{text}\" (p={:.3})", logit.probability),
                    influence: None,
                    ..plain
                }
            }
        }
    }

    /// Writes `graph.json`, `graph.html` and `graph.safetensors` into a folder. The page shows
    /// `on_page`: this graph, or [`PrunedGraph::for_page`] if it is too large.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(
        &self,
        folder: &std::path::Path,
        names: &GraphNames<'_>,
        on_page: Option<&Self>,
    ) -> Result<(), CircuitError> {
        let json = self.to_json(names);
        let html = match on_page {
            None => page(TEMPLATE, &names.slug, &json),
            Some(part) => page(TEMPLATE, &names.slug, &part.to_json(names)),
        };
        for (name, text) in [("graph.json", &json), ("graph.html", &html)] {
            let path = folder.join(name);
            let written = std::fs::File::create(&path).and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            });
            written.map_err(IoError::write(&path))?;
        }
        super::tensors::write(&folder.join("graph.safetensors"), self.graph(), names)
    }
}
