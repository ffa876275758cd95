//! Paths to a feature: which tokens and features add to it, by which heads (Dunefsky, Chlenski,
//! Nanda 2024, "Transcoders Find Interpretable LLM Feature Circuits").

use super::graph::Feature;
use super::local::Local;
use super::replacement::ReplacementModel;
use crate::CircuitError;
use burn::tensor::Tensor;
use lapidary_coder::{Coder, CoderError, host};
use lapidary_kernels::sparse_dot;
use lapidary_model::{BlockHook, HookPoint};
use serde::Serialize;

/// How far paths are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathOptions {
    /// The parts of a node that are shown, those with the largest magnitudes. 5
    pub branches: usize,
    /// The nodes that are taken apart, always the one with the largest magnitude next. 20
    pub nodes: usize,
}

impl Default for PathOptions {
    fn default() -> Self {
        Self {
            branches: 5,
            nodes: 20,
        }
    }
}

/// What adds to a feature.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "type")]
pub enum Step {
    /// A feature at the same position.
    Feature {
        /// The layer of its transcoder.
        layer: usize,
        /// Its number among the latents.
        index: usize,
        /// The position.
        position: usize,
        /// Its activation.
        activation: f32,
    },
    /// What a head moves from one position to another.
    Head {
        /// The layer.
        layer: usize,
        /// The head.
        head: usize,
        /// The position that it reads.
        from: usize,
        /// The position that it writes to.
        to: usize,
    },
    /// What the skip connection of a transcoder passes on.
    Skip {
        /// The layer.
        layer: usize,
        /// The position.
        position: usize,
    },
    /// The embedding of a token.
    Token {
        /// The position.
        position: usize,
        /// The token.
        token: u32,
    },
    /// What the transcoder of a layer misses.
    Error {
        /// The layer.
        layer: usize,
        /// The position.
        position: usize,
    },
    /// Biases, learned positions, and the MLPs at the first position.
    Bias,
}

/// A part of a feature's pre-activation, and what it is made of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PathNode {
    /// What adds it.
    #[serde(flatten)]
    pub step: Step,
    /// How much of the pre-activation at the root goes this way.
    pub contribution: f32,
    /// Its largest parts, the largest first; empty if it was not taken apart.
    pub parts: Vec<PathNode>,
    /// What its other parts come to; 0 if it was not taken apart.
    pub rest: f32,
}

/// A place that reads the residual stream.
#[derive(Clone)]
struct Read {
    /// What it reads, `[d_model]`.
    direction: Tensor<1>,
    position: usize,
    /// Layers whose attention writes before it.
    attentions: usize,
    /// Layers whose MLP writes before it.
    mlps: usize,
    /// What is added to the product: biases of an encoder.
    constant: f64,
}

/// A part on its way into the tree: with what it reads, if it can be taken apart.
struct Part {
    step: Step,
    contribution: f64,
    read: Option<Read>,
}

impl ReplacementModel<'_> {
    /// The paths that make a feature active on a prompt: at `position`, or else where it is most
    /// active.
    ///
    /// # Errors
    /// The feature does not exist, or is not active there; otherwise as
    /// [`ReplacementModel::attribute`].
    pub fn paths(
        &self,
        tokens: &[u32],
        [layer, index]: [usize; 2],
        position: Option<usize>,
        options: PathOptions,
    ) -> Result<PathNode, CircuitError> {
        let wrong = |problem: String| CircuitError::Feature {
            layer,
            index,
            problem,
        };
        let Some(replacement) = self.layers().get(layer) else {
            let last = self.layers().len() - 1;
            return Err(wrong(format!("layers are 0 to {last}")));
        };
        let latents = replacement.coder.d_sae();
        if index >= latents {
            let last = latents - 1;
            return Err(wrong(format!("latents of layer {layer} are 0 to {last}")));
        }
        let (local, streams) = self.local_with_streams(tokens)?;
        if let Some(position) = position.filter(|position| *position >= tokens.len()) {
            let last = tokens.len().saturating_sub(1);
            return Err(wrong(format!(
                "found position {position}, positions are 0 to {last}"
            )));
        }
        let of = |f: &&Feature| f.layer == layer && f.index == index;
        let places = local.features.iter().filter(of);
        let found = match position {
            Some(position) => places.clone().find(|f| f.position == position),
            None => places
                .clone()
                .max_by(|a, b| a.activation.total_cmp(&b.activation)),
        };
        let Some(found) = found else {
            let active: Vec<String> = places.map(|f| f.position.to_string()).collect();
            return Err(wrong(match (position, active.is_empty()) {
                (Some(position), false) => format!(
                    "it is not active at position {position}, but at {}",
                    active.join(", ")
                ),
                _ => "it is not active on this prompt".into(),
            }));
        };
        let paths = Paths {
            replacement: self,
            local: &local,
            streams: &streams,
            tokens,
            branches: options.branches.max(1),
        };
        paths.tree(found, options.nodes.max(1))
    }
}

struct Paths<'a, 'm> {
    replacement: &'a ReplacementModel<'m>,
    local: &'a Local<'a>,
    /// The residual stream that enters each layer, and that after its attention, `[pos, d_model]`.
    streams: &'a [[Tensor<2>; 2]],
    tokens: &'a [u32],
    branches: usize,
}

/// A node of the tree before it is put together.
struct Open {
    part: Part,
    parent: Option<usize>,
    /// What its parts beyond the largest come to, once it is taken apart.
    rest: Option<f64>,
}

impl Paths<'_, '_> {
    fn tree(&self, target: &Feature, nodes: usize) -> Result<PathNode, CircuitError> {
        let read = self.read_of(target, 1.0)?;
        let total = self.value(&read)?;
        let root = Part {
            step: step_of(target),
            contribution: total,
            read: Some(read),
        };
        let mut all = vec![Open {
            part: root,
            parent: None,
            rest: None,
        }];
        for _ in 0..nodes {
            let open = all.iter().enumerate();
            let open = open.filter(|(_, node)| node.rest.is_none());
            let open = open.filter_map(|(i, node)| Some((i, node, node.part.read.as_ref()?)));
            let size = |node: &Open| node.part.contribution.abs();
            let largest = open.max_by(|a, b| size(a.1).total_cmp(&size(b.1)));
            let Some((i, _, read)) = largest else {
                break;
            };
            let mut parts = self.parts(read)?;
            parts.sort_by(|a, b| b.contribution.abs().total_cmp(&a.contribution.abs()));
            let rest = parts.split_off(self.branches.min(parts.len()));
            all[i].rest = Some(rest.iter().map(|part| part.contribution).sum());
            all.extend(parts.into_iter().map(|part| Open {
                part,
                parent: Some(i),
                rest: None,
            }));
        }
        Ok(joined(all))
    }

    /// What a feature reads of the residual stream, and what its pre-activation has besides.
    fn encoder(&self, feature: &Feature) -> Result<(Tensor<1>, f64), CoderError> {
        let layer = &self.replacement.layers()[feature.layer];
        let coder = &layer.coder;
        let row = coder.w_enc().narrow(0, feature.index, 1); // [1, d]
        let product = |vector: Tensor<1>| -> Result<f64, CoderError> {
            let products = host(&(row.clone() * vector.unsqueeze()).sum())?;
            Ok(f64::from(products[0]))
        };
        let bias = host(&coder.b_enc().narrow(0, feature.index, 1))?;
        let mut constant = f64::from(bias[0]);
        if coder.apply_b_dec_to_input {
            constant -= product(coder.b_dec())?;
        }
        if let Some(read) = self.local.frozen.constant_read(layer.from) {
            constant += product(read)?;
        }
        let stream = (self.local.frozen).to_stream(layer.from, row.clone(), &[feature.position]);
        let stream = stream.expect("a replacement reads before an MLP");
        Ok((stream.squeeze_dim(0), constant))
    }

    /// What a feature reads, times a factor.
    fn read_of(&self, feature: &Feature, factor: f64) -> Result<Read, CoderError> {
        let (direction, constant) = self.encoder(feature)?;
        let direction = direction * factor as f32;
        let read = self.before_mlp(feature.layer, feature.position, direction);
        Ok(Read {
            constant: factor * constant,
            ..read
        })
    }

    /// What reads where the MLP of a layer does.
    fn before_mlp(&self, layer: usize, position: usize, direction: Tensor<1>) -> Read {
        let parallel = self.replacement.model().config().parallel;
        Read {
            direction,
            position,
            attentions: layer + usize::from(!parallel),
            mlps: layer,
            constant: 0.0,
        }
    }

    /// The product of what is read with the residual stream there, and its constant.
    fn value(&self, read: &Read) -> Result<f64, CoderError> {
        let after = usize::from(read.attentions > read.mlps);
        let stream = self.streams[read.mlps][after].clone();
        let stream = stream.narrow(0, read.position, 1).squeeze_dim::<1>(0);
        let product = host(&(stream * read.direction.clone()).sum())?;
        Ok(f64::from(product[0]) + read.constant)
    }

    /// All that adds to what is read.
    fn parts(&self, read: &Read) -> Result<Vec<Part>, CircuitError> {
        let mut parts = vec![];
        let mut bias = read.constant;
        let position = read.position;
        let token = self.product(read, &self.local.embeddings)?;
        parts.push(Part {
            step: Step::Token {
                position,
                token: self.tokens[position],
            },
            contribution: token,
            read: None,
        });
        if let Some(positions) = &self.local.positions {
            bias += self.product(read, positions)?;
        }
        for l in 0..read.attentions {
            self.heads(l, read, &mut parts)?;
            if let Some(constant) = self.local.frozen.attention_constant(l) {
                let row = match constant.dims()[0] {
                    1 => 0,
                    _ => position,
                };
                let constant = constant.narrow(0, row, 1).squeeze_dim::<1>(0);
                let product = host(&(constant * read.direction.clone()).sum())?;
                bias += f64::from(product[0]);
            }
        }
        let mut features: Vec<f64> = vec![0.0; self.local.features.len()];
        for l in 0..read.mlps {
            bias += self.mlp(l, read, &mut parts, &mut features)?;
        }
        for (feature, contribution) in self.local.features.iter().zip(features) {
            if contribution == 0.0 {
                continue;
            }
            let factor = contribution / f64::from(feature.activation);
            parts.push(Part {
                step: step_of(feature),
                contribution,
                read: Some(self.read_of(feature, factor)?),
            });
        }
        parts.push(Part {
            step: Step::Bias,
            contribution: bias,
            read: None,
        });
        Ok(parts)
    }

    fn product(&self, read: &Read, rows: &Tensor<2>) -> Result<f64, CoderError> {
        let row = rows.clone().narrow(0, read.position, 1);
        let product = host(&(row.squeeze_dim::<1>(0) * read.direction.clone()).sum())?;
        Ok(f64::from(product[0]))
    }

    /// What each head of a layer moves here, from each position.
    fn heads(&self, l: usize, read: &Read, parts: &mut Vec<Part>) -> Result<(), CircuitError> {
        let direction = read.direction.clone();
        let through = (self.local.frozen).through_heads(l, direction, read.position);
        let [_, sources, d] = through.dims();
        let stream = self.streams[l][0].clone().narrow(0, 0, sources);
        let products = through.clone() * stream.reshape([1, sources, d]);
        let products = host(&products.sum_dim(2))?; // [heads, sources]
        for (place, product) in products.iter().enumerate() {
            let (head, from) = (place / sources, place % sources);
            let direction = through.clone().narrow(0, head, 1).narrow(1, from, 1);
            parts.push(Part {
                step: Step::Head {
                    layer: l,
                    head,
                    from,
                    to: read.position,
                },
                contribution: f64::from(*product),
                read: Some(Read {
                    direction: direction.reshape([d]),
                    position: from,
                    attentions: l,
                    mlps: l,
                    constant: 0.0,
                }),
            });
        }
        Ok(())
    }

    /// What is written where the MLP of a layer writes: adds to the features' sums, gives the bias.
    fn mlp(
        &self,
        l: usize,
        read: &Read,
        parts: &mut Vec<Part>,
        features: &mut [f64],
    ) -> Result<f64, CircuitError> {
        let (layer, local) = (&self.replacement.layers()[l], &self.local.layers[l]);
        let (frozen, position) = (&self.local.frozen, read.position);
        let d = read.direction.dims()[0];
        let mut bias = 0.0;
        let product = |a: &Tensor<2>, b: Tensor<2>| -> Result<f64, CoderError> {
            Ok(f64::from(host(&(a.clone() * b).sum())?[0]))
        };
        let stream = read.direction.clone().reshape([1, d]);
        if let Some(constant) = frozen.constant_written(layer.to) {
            bias += product(&stream, constant.unsqueeze())?;
        }
        let at_mlp = frozen.mlp_gradient_at(layer.to, stream, position);
        let at_mlp = at_mlp.expect("a replacement writes after an MLP");
        bias += product(&at_mlp, layer.bias.clone().unsqueeze())?;
        for lower in 0..=l {
            let Some(decoder) = self.replacement.layers()[lower].decoders.get(l - lower) else {
                continue;
            };
            let codes = &self.local.layers[lower].codes;
            let [_, k] = codes.values.dims();
            let indices = codes.indices.clone().narrow(0, position, 1);
            let products = sparse_dot(at_mlp.clone(), decoder.clone(), indices);
            let products = host(&(products * codes.values.clone().narrow(0, position, 1)))?;
            let numbers = &self.local.layers[lower].numbers[position * k..(position + 1) * k];
            for (number, product) in numbers.iter().zip(products) {
                if let Some(number) = number {
                    features[*number as usize] += f64::from(product);
                }
            }
        }
        let error = product(&at_mlp, local.errors.clone().narrow(0, position, 1))?;
        if error != 0.0 {
            parts.push(Part {
                step: Step::Error { layer: l, position },
                contribution: error,
                read: None,
            });
        }
        if position == 0 {
            bias += product(&at_mlp, local.first.clone())?;
        }
        if let Some(w_skip) = layer.coder.w_skip() {
            let passed = at_mlp.matmul(w_skip); // [1, d_in]
            if let Some(constant) = frozen.constant_read(layer.from) {
                bias += product(&passed, constant.unsqueeze())?;
            }
            let passed = frozen.to_stream(layer.from, passed, &[position]);
            let passed = passed.expect("a replacement reads before an MLP");
            let read = self.before_mlp(l, position, passed.squeeze_dim(0));
            parts.push(Part {
                step: Step::Skip { layer: l, position },
                contribution: self.value(&read)?,
                read: Some(read),
            });
        }
        Ok(bias)
    }
}

const fn step_of(feature: &Feature) -> Step {
    Step::Feature {
        layer: feature.layer,
        index: feature.index,
        position: feature.position,
        activation: feature.activation,
    }
}

/// Puts nodes below their parents, which stand before them.
fn joined(all: Vec<Open>) -> PathNode {
    let mut nodes: Vec<(PathNode, Option<usize>)> = all
        .into_iter()
        .map(|open| {
            let node = PathNode {
                step: open.part.step,
                contribution: open.part.contribution as f32,
                parts: vec![],
                rest: open.rest.unwrap_or(0.0) as f32,
            };
            (node, open.parent)
        })
        .collect();
    while nodes.len() > 1 {
        let (mut node, parent) = nodes.pop().expect("there are two");
        node.parts.reverse();
        let parent = parent.expect("only the first has none");
        nodes[parent].0.parts.push(node);
    }
    let (mut root, _) = nodes.pop().expect("there is a root");
    root.parts.reverse();
    root
}

/// The weights of a feature, whatever the prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct FeatureWeights {
    /// Tokens whose embedding adds most to its pre-activation, with the products.
    pub tokens: Vec<(u32, f32)>,
    /// Features of lower layers whose decoder rows add most, layer, index and product; of either
    /// sign.
    pub features: Vec<(usize, usize, f32)>,
}

impl ReplacementModel<'_> {
    /// What the weights alone say of a feature: its de-embedding, and its connections to features
    /// of lower layers, both without norms and attention. Features that are never active together
    /// have connections too.
    ///
    /// # Errors
    /// The device fails.
    ///
    /// # Panics
    /// There is no such feature.
    pub fn weights_of(
        &self,
        [layer, index]: [usize; 2],
        n: usize,
    ) -> Result<FeatureWeights, CoderError> {
        let encoder = self.layers()[layer].coder.w_enc().narrow(0, index, 1); // [1, d]
        let [_, d] = encoder.dims();
        let column = encoder.reshape([d, 1]);
        let embeddings = self.model().embedding();
        let products = host(&embeddings.matmul(column.clone()))?;
        let mut tokens: Vec<(u32, f32)> = products
            .iter()
            .enumerate()
            .map(|(token, product)| (token as u32, *product))
            .collect();
        tokens.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        tokens.truncate(n);
        let mut features = vec![];
        for (lower, other) in self.layers()[..layer].iter().enumerate() {
            // What it writes before this layer reads.
            let written = other.decoders.iter().take(layer - lower).cloned();
            let written = written.reduce(|a, b| a + b);
            let written = written.expect("a feature writes at its own layer");
            let products = host(&written.matmul(column.clone()))?;
            let all = products.iter().enumerate();
            features.extend(all.map(|(index, product)| (lower, index, *product)));
        }
        features.sort_by(|a, b| b.2.abs().total_cmp(&a.2.abs()));
        features.truncate(n);
        Ok(FeatureWeights { tokens, features })
    }
}

impl ReplacementModel<'_> {
    /// The model on a prompt, with the residual stream entering each layer and after its attention.
    fn local_with_streams(
        &self,
        tokens: &[u32],
    ) -> Result<(Local<'_>, Vec<[Tensor<2>; 2]>), CircuitError> {
        let parallel = self.model().config().parallel;
        let hooks = match parallel {
            true => [BlockHook::ResidPre; 2],
            false => [BlockHook::ResidPre, BlockHook::ResidMid],
        };
        let points = (0..self.layers().len()).map(|l| hooks.map(|hook| HookPoint::Block(l, hook)));
        let points: Vec<[HookPoint; 2]> = points.collect();
        let (local, mut kept) = self.local_keeping(tokens, &points.concat())?;
        let mut streams = vec![];
        for [pre, mid] in points {
            let entering = kept[&pre].clone();
            let after = kept.remove(&mid).expect("it was to be kept");
            streams.push([entering, after]);
        }
        Ok((local, streams))
    }
}
