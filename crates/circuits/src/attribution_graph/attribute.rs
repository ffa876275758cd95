//! From a prompt to its attribution graph: gradients of logits and features, backwards through the
//! frozen model.

use super::graph::{AttributionGraph, LogitTarget};
use super::influence::{Target as Influenced, influence};
use super::local::{Local, whole};
use super::replacement::ReplacementModel;
use super::rows::Row;
use crate::CircuitError;
use burn::tensor::{Tensor, TensorData};
use lapidary_coder::{Coder, CoderError, host};
use lapidary_kernels::sparse_dot;

/// Batches between two rankings of the features by influence.
const BATCHES_A_RANKING: usize = 4;

/// Values of the gradients of one batch: few enough to stay near the processor.
const VALUES_AT_ONCE: usize = 1 << 21;

/// The fewest rows of one batch, of long prompts: their attention weights are made again for each
/// batch.
const LEAST_ROWS_AT_ONCE: usize = 32;

/// The most rows of one batch.
const ROWS_AT_ONCE: usize = 512;

/// What the gradients of a batch take at most, in copies of the gradients themselves.
const COPIES: u64 = 8;

/// How a prompt is attributed. Defaults are circuit-tracer's.
#[derive(Clone, Debug)]
pub struct AttributionOptions {
    /// The most logits. 10
    pub max_n_logits: usize,
    /// The logits are the most probable ones that have this probability together. 0.95
    pub desired_logit_prob: f64,
    /// The most features that are nodes, those with the most influence. 7,500
    pub max_feature_nodes: usize,
    /// Bytes that attribution may use besides the model and its transcoders; edges that take more
    /// are left out, the smallest of each node. No limit
    pub memory: Option<u64>,
}

impl Default for AttributionOptions {
    fn default() -> Self {
        Self {
            max_n_logits: 10,
            desired_logit_prob: 0.95,
            max_feature_nodes: 7500,
            memory: None,
        }
    }
}

impl ReplacementModel<'_> {
    /// The attribution graph of a prompt, of which the most influential features are nodes.
    /// `progress` hears of the features done and of their number.
    ///
    /// # Errors
    /// The prompt is empty, longer than the model's context, or has a token outside the vocabulary;
    /// the memory is too small; the model has no unembedding.
    pub fn attribute(
        &self,
        tokens: &[u32],
        options: &AttributionOptions,
        progress: &dyn Fn(usize, usize),
    ) -> Result<AttributionGraph, CircuitError> {
        let local = self.local(tokens)?;
        let logits = salient(&local, options)?;
        let nodes = options.max_feature_nodes.min(local.features.len());
        let limits = Limits::new(self, &local, options, nodes + logits.len())?;
        let mut tracing = Tracing {
            replacement: self,
            local: &local,
            limits,
        };
        progress(0, nodes);
        let (logit_rows, logit_totals) = tracing.logit_rows(&logits)?;
        let mut rows: Vec<Option<Row>> = (0..local.features.len()).map(|_| None).collect();
        let mut done = 0;
        while done < nodes {
            for batch in tracing.next_batches(&logits, &logit_rows, &rows, nodes - done) {
                let found = tracing.feature_rows(&batch)?;
                done += batch.len();
                for (feature, row) in batch.into_iter().zip(found) {
                    rows[feature] = Some(row);
                }
                progress(done, nodes);
            }
        }
        Ok(assemble(
            self,
            local,
            tokens,
            logits,
            rows,
            (logit_rows, logit_totals),
        ))
    }
}

/// The most probable next tokens.
fn salient(
    local: &Local<'_>,
    options: &AttributionOptions,
) -> Result<Vec<LogitTarget>, CoderError> {
    let logits = host(&local.frozen.logits())?;
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials = logits.iter().map(|x| f64::from(x - highest).exp());
    let exponentials: Vec<f64> = exponentials.collect();
    let sum: f64 = exponentials.iter().sum();
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    let mut chosen = vec![];
    let mut together = 0.0;
    for token in order.into_iter().take(options.max_n_logits.max(1)) {
        let probability = exponentials[token] / sum;
        chosen.push(LogitTarget {
            token: token as u32,
            probability: probability as f32,
        });
        together += probability;
        if together >= options.desired_logit_prob {
            break;
        }
    }
    Ok(chosen)
}

/// How much is done and kept at once.
struct Limits {
    /// Bytes of gradients of one batch.
    batch_bytes: u64,
    /// Edges that a row keeps.
    edges: usize,
}

impl Limits {
    fn new(
        replacement: &ReplacementModel<'_>,
        local: &Local<'_>,
        options: &AttributionOptions,
        rows: usize,
    ) -> Result<Self, CircuitError> {
        let Some(memory) = options.memory else {
            return Ok(Self {
                batch_bytes: u64::MAX,
                edges: usize::MAX,
            });
        };
        let c = replacement.model().config();
        let (pos, layers) = (local.frozen.pos() as u64, c.n_layers() as u64);
        let heads = (c.n_heads + c.n_kv_heads) as u64 * c.d_head as u64;
        // Queries, keys and errors of each layer; scores of a block of sources, and their copies.
        let frozen = 4 * layers * pos * (heads + c.d_model as u64);
        let scores = 4 * 4 * 256 * pos * c.n_heads as u64;
        let features = 64 * local.features.len() as u64;
        let fixed = frozen + scores + features;
        let one = 4 * COPIES * pos * c.d_model as u64;
        let least = fixed + 2 * (one + 8 * 1024 * rows as u64);
        if memory < least {
            return Err(CircuitError::Memory {
                found: memory,
                least,
                rows,
            });
        }
        let rest = memory - fixed;
        Ok(Self {
            batch_bytes: rest / 3,
            edges: (rest / 2 / 8 / rows.max(1) as u64) as usize,
        })
    }
}

/// A node whose row is to be found.
struct Target {
    /// The layer whose input it reads; the number of layers for logits.
    layer: usize,
    position: usize,
    /// What it reads of the residual stream there, `[d_model]`.
    direction: Vec<f32>,
    /// What its value has besides.
    constant: f64,
}

struct Tracing<'a, 'm> {
    replacement: &'a ReplacementModel<'m>,
    local: &'a Local<'a>,
    limits: Limits,
}

impl Tracing<'_, '_> {
    /// Features and then errors and tokens, the sources of rows before features are chosen.
    fn n_sources(&self) -> usize {
        let layers = self.local.layers.len();
        self.local.features.len() + (layers + 1) * self.local.frozen.pos()
    }

    /// The rows of the logits, and their values.
    fn logit_rows(&mut self, logits: &[LogitTarget]) -> Result<(Vec<Row>, Vec<f32>), CircuitError> {
        let tokens: Vec<u32> = logits.iter().map(|logit| logit.token).collect();
        let read = self.local.frozen.logit_directions(&tokens);
        let [n, d] = read.directions.dims();
        let directions = host(&read.directions)?;
        let layer = self.local.layers.len();
        let position = self.local.frozen.pos() - 1;
        let targets = (0..n).map(|i| Target {
            layer,
            position,
            direction: directions[i * d..(i + 1) * d].to_vec(),
            constant: read.constants[i],
        });
        let targets: Vec<Target> = targets.collect();
        let mut rows = vec![];
        for targets in targets.chunks(self.at_once(position)) {
            rows.extend(self.rows(targets)?);
        }
        let totals = read.values.iter().map(|value| *value as f32);
        Ok((rows, totals.collect()))
    }

    /// Features to go on with, at most `most` of them, in batches of near positions.
    fn next_batches(
        &self,
        logits: &[LogitTarget],
        logit_rows: &[Row],
        rows: &[Option<Row>],
        most: usize,
    ) -> Vec<Vec<usize>> {
        let features = &self.local.features;
        let mut pending: Vec<usize> = (0..features.len()).filter(|f| rows[*f].is_none()).collect();
        if most < pending.len() {
            let queue = (BATCHES_A_RANKING * self.at_once(self.local.frozen.pos() - 1)).min(most);
            let logits = logits
                .iter()
                .zip(logit_rows)
                .map(|(logit, row)| Influenced {
                    node: None,
                    weight: f64::from(logit.probability),
                    magnitude: row.magnitude(),
                    edges: sources(row),
                });
            let known = (0..rows.len()).rev().filter_map(|feature| {
                let row = rows[feature].as_ref()?;
                Some(Influenced {
                    node: Some(feature),
                    weight: 0.0,
                    magnitude: row.magnitude(),
                    edges: sources(row),
                })
            });
            let influence = influence(self.n_sources(), logits.chain(known));
            pending.sort_by(|a, b| influence[*b].total_cmp(&influence[*a]).then(a.cmp(b)));
            pending.truncate(queue);
        }
        // Gradients reach no position after that of their target.
        pending.sort_by_key(|f| (features[*f].position, usize::MAX - features[*f].layer));
        let mut batches: Vec<Vec<usize>> = vec![];
        let mut left = &pending[..];
        while let Some(first) = left.first() {
            let mut n = self.at_once(features[*first].position).min(left.len());
            // The last has the latest position of all.
            while n > self.at_once(features[left[n - 1]].position) {
                n -= 1;
            }
            batches.push(left[..n.max(1)].to_vec());
            left = &left[n.max(1)..];
        }
        batches
    }

    /// Rows of one batch if the last position is this.
    fn at_once(&self, position: usize) -> usize {
        let values = (position + 1) * self.replacement.model().config().d_model;
        let bytes = 4 * (COPIES * values as u64 + self.n_sources() as u64);
        let fit = (self.limits.batch_bytes / bytes).max(1) as usize;
        let rows = (VALUES_AT_ONCE / values).clamp(LEAST_ROWS_AT_ONCE, ROWS_AT_ONCE);
        rows.min(fit)
    }

    /// The rows of these features.
    fn feature_rows(&self, features: &[usize]) -> Result<Vec<Row>, CircuitError> {
        let mut targets: Vec<Option<Target>> = features.iter().map(|_| None).collect();
        for (l, layer) in self.replacement.layers().iter().enumerate() {
            let own = features.iter().enumerate();
            let own = own.filter(|(_, f)| self.local.features[**f].layer == l);
            let (places, own): (Vec<usize>, Vec<_>) =
                own.map(|(i, f)| (i, self.local.features[*f])).unzip();
            if own.is_empty() {
                continue;
            }
            let coder = &layer.coder;
            let indices: Vec<i32> = own.iter().map(|feature| feature.index as i32).collect();
            let w_enc = coder.w_enc();
            let rows = w_enc.clone().select(0, whole(indices.clone(), &w_enc)); // [n, d]
            let mut constants = vec![0.0; own.len()];
            let biases = coder.b_enc();
            let biases = host(&biases.select(0, whole(indices, &w_enc)))?;
            add(&mut constants, &biases, 1.0);
            if coder.apply_b_dec_to_input {
                add(&mut constants, &along(&rows, coder.b_dec())?, -1.0);
            }
            if let Some(constant) = self.local.frozen.constant_read(layer.from) {
                add(&mut constants, &along(&rows, constant)?, 1.0);
            }
            let positions: Vec<usize> = own.iter().map(|feature| feature.position).collect();
            let directions = self.local.frozen.to_stream(layer.from, rows, &positions);
            let directions = directions.expect("a replacement reads before an MLP");
            let [_, d] = directions.dims();
            let directions = host(&directions)?;
            for (i, place) in places.into_iter().enumerate() {
                targets[place] = Some(Target {
                    layer: l,
                    position: positions[i],
                    direction: directions[i * d..(i + 1) * d].to_vec(),
                    constant: constants[i],
                });
            }
        }
        let targets: Vec<Target> = targets.into_iter().flatten().collect();
        self.rows(&targets)
    }

    /// The rows of targets, all at once: their gradients go down the layers together, each from
    /// its own layer on.
    fn rows(&self, targets: &[Target]) -> Result<Vec<Row>, CircuitError> {
        let mut order: Vec<usize> = (0..targets.len()).collect();
        order.sort_by_key(|target| usize::MAX - targets[*target].layer);
        let sorted: Vec<&Target> = order.iter().map(|target| &targets[*target]).collect();
        let mut pass = Pass {
            tracing: self,
            pos: 1 + targets
                .iter()
                .map(|target| target.position)
                .max()
                .unwrap_or(0),
            gradients: None,
            weights: vec![vec![0.0; self.n_sources()]; targets.len()],
            bias: sorted.iter().map(|target| target.constant).collect(),
        };
        pass.run(&sorted)?;
        let mut rows: Vec<Row> = (0..targets.len()).map(|_| Row::default()).collect();
        let found = pass.weights.into_iter().zip(pass.bias);
        for (target, (weights, bias)) in order.into_iter().zip(found) {
            rows[target] = Row::new(&weights, bias, self.limits.edges);
        }
        Ok(rows)
    }
}

/// Adds `factor` times the values.
fn add(sums: &mut [f64], values: &[f32], factor: f64) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += factor * f64::from(*value);
    }
}

/// The products of rows `[n, d]` with a vector `[d]`.
fn along(rows: &Tensor<2>, vector: Tensor<1>) -> Result<Vec<f32>, CoderError> {
    host(&(rows.clone() * vector.unsqueeze()).sum_dim(1))
}

fn sources(row: &Row) -> impl Iterator<Item = (usize, f64)> + '_ {
    let edges = row.edges.iter();
    edges.map(|edge| (edge.source as usize, f64::from(edge.weight.abs())))
}

/// The way of a batch's gradients down the layers.
struct Pass<'a, 'b, 'm> {
    tracing: &'a Tracing<'b, 'm>,
    /// Positions that gradients reach.
    pos: usize,
    /// At the residual stream, of the targets met so far, `[pos, n, d_model]`.
    gradients: Option<Tensor<3>>,
    /// What each source adds to each target.
    weights: Vec<Vec<f32>>,
    /// What biases add to each target.
    bias: Vec<f64>,
}

impl Pass<'_, '_, '_> {
    /// `targets` descend by layer.
    fn run(&mut self, targets: &[&Target]) -> Result<(), CircuitError> {
        let local = self.tracing.local;
        let n_layers = local.layers.len();
        let parallel = self.tracing.replacement.model().config().parallel;
        let mut left = targets;
        let mut take = |layer: usize| {
            let n = left
                .iter()
                .take_while(|target| target.layer == layer)
                .count();
            let (own, rest) = left.split_at(n);
            left = rest;
            own
        };
        self.start(take(n_layers));
        for l in (0..n_layers).rev() {
            let skipped = self.read_mlp(l)?;
            let own = take(l);
            // Side by side, an MLP reads what enters attention.
            if !parallel {
                self.pass_on(skipped.clone());
                self.start(own);
            }
            self.read_attention(l)?;
            if parallel {
                self.pass_on(skipped);
                self.start(own);
            }
        }
        self.read_tokens()
    }

    /// Takes up targets: their gradients at the residual stream begin here.
    fn start(&mut self, targets: &[&Target]) {
        let Some(first) = targets.first() else {
            return;
        };
        let (n, d) = (targets.len(), first.direction.len());
        let mut values = vec![0.0; self.pos * n * d];
        for (i, target) in targets.iter().enumerate() {
            let place = (target.position * n + i) * d;
            values[place..place + d].copy_from_slice(&target.direction);
        }
        let data = TensorData::new(values, [self.pos, n, d]);
        let new = Tensor::from_data(data, self.tracing.replacement.model().device());
        self.gradients = Some(match self.gradients.take() {
            None => new,
            Some(old) => Tensor::cat(vec![old, new], 1),
        });
    }

    /// Adds gradients that came another way.
    fn pass_on(&mut self, more: Option<Tensor<3>>) {
        if let (Some(old), Some(more)) = (&mut self.gradients, more) {
            *old = old.clone() + more;
        }
    }

    /// Reads what the transcoders write at a layer and its error; gives the gradients that go
    /// through its skip connection.
    fn read_mlp(&mut self, l: usize) -> Result<Option<Tensor<3>>, CircuitError> {
        let Some(stream) = self.gradients.clone() else {
            return Ok(None);
        };
        let (replacement, local) = (self.tracing.replacement, self.tracing.local);
        let layer = &replacement.layers()[l];
        let frozen = &local.frozen;
        if let Some(constant) = frozen.constant_written(layer.to) {
            self.read_constant(&stream, constant.unsqueeze())?;
        }
        let at_mlp = frozen.mlp_gradient(layer.to, stream);
        let at_mlp = at_mlp.expect("a replacement writes after an MLP");
        let [pos, n, d] = at_mlp.dims();
        let rows = at_mlp.clone().reshape([pos * n, d]);
        for lower in 0..=l {
            if let Some(decoder) = replacement.layers()[lower].decoders.get(l - lower) {
                self.read_features(lower, &rows, decoder)?;
            }
        }
        self.read_constant(&at_mlp, layer.bias.clone().unsqueeze())?;
        let errors = local.layers[l].errors.clone().narrow(0, 0, pos);
        let first = self.tracing.local.features.len() + l * frozen.pos();
        self.read_positions(&at_mlp, errors, first)?;
        let start = at_mlp.clone().narrow(0, 0, 1);
        self.read_constant(&start, local.layers[l].first.clone())?;
        let Some(w_skip) = layer.coder.w_skip() else {
            return Ok(None);
        };
        let read = rows.matmul(w_skip); // [pos * n, d_in]
        if let Some(constant) = frozen.constant_read(layer.from) {
            let read = read.clone().reshape([pos, n, d]);
            self.read_constant(&read, constant.unsqueeze())?;
        }
        let positions: Vec<usize> = (0..pos * n).map(|row| row / n).collect();
        let stream = frozen.to_stream(layer.from, read, &positions);
        let stream = stream.expect("a replacement reads before an MLP");
        Ok(Some(stream.reshape([pos, n, d])))
    }

    /// What the features of a layer add through these decoder rows; gradients `[pos * n, d_model]`.
    fn read_features(
        &mut self,
        layer: usize,
        gradients: &Tensor<2>,
        decoder: &Tensor<2>,
    ) -> Result<(), CircuitError> {
        let local = &self.tracing.local.layers[layer];
        let [_, k] = local.codes.values.dims();
        let (pos, n) = (self.pos, gradients.dims()[0] / self.pos);
        let indices = local.codes.indices.clone().narrow(0, 0, pos);
        let indices = indices.reshape([pos, 1, k]).expand([pos, n, k]);
        let indices = indices.reshape([pos * n, k]);
        let products = sparse_dot(gradients.clone(), decoder.clone(), indices);
        let values = local.codes.values.clone().narrow(0, 0, pos);
        let products = products.reshape([pos, n, k]) * values.reshape([pos, 1, k]);
        let products = host(&products)?;
        for (place, number) in local.numbers[..pos * k].iter().enumerate() {
            let Some(number) = number else {
                continue;
            };
            let (position, slot) = (place / k, place % k);
            for (i, weights) in self.weights[..n].iter_mut().enumerate() {
                weights[*number as usize] += products[(position * n + i) * k + slot];
            }
        }
        Ok(())
    }

    /// What `written` `[pos, d_model]` adds from each position, as sources from `first` on.
    fn read_positions(
        &mut self,
        gradients: &Tensor<3>,
        written: Tensor<2>,
        first: usize,
    ) -> Result<(), CircuitError> {
        let [pos, n, d] = gradients.dims();
        let products = gradients.clone() * written.reshape([pos, 1, d]);
        let products = host(&products.sum_dim(2))?; // [pos, n]
        for position in 0..pos {
            for (i, weights) in self.weights[..n].iter_mut().enumerate() {
                weights[first + position] += products[position * n + i];
            }
        }
        Ok(())
    }

    /// What a constant adds, `[1, d_model]` or `[pos, d_model]`.
    fn read_constant(
        &mut self,
        gradients: &Tensor<3>,
        written: Tensor<2>,
    ) -> Result<(), CircuitError> {
        let [pos, _, d] = gradients.dims();
        let written = match written.dims()[0] {
            1 => written.reshape([1, 1, d]),
            _ => written.narrow(0, 0, pos).reshape([pos, 1, d]),
        };
        let products = (gradients.clone() * written).sum_dim(2).sum_dim(0);
        add(&mut self.bias, &host(&products)?, 1.0);
        Ok(())
    }

    /// Goes through attention of a layer.
    fn read_attention(&mut self, l: usize) -> Result<(), CircuitError> {
        let Some(stream) = self.gradients.clone() else {
            return Ok(());
        };
        let frozen = &self.tracing.local.frozen;
        if let Some(constant) = frozen.attention_constant(l) {
            self.read_constant(&stream, constant)?;
        }
        self.gradients = Some(stream.clone() + frozen.through_attention(l, stream));
        Ok(())
    }

    /// What the embeddings add.
    fn read_tokens(&mut self) -> Result<(), CircuitError> {
        let Some(stream) = self.gradients.take() else {
            return Ok(());
        };
        let local = self.tracing.local;
        let pos = stream.dims()[0];
        let first = local.features.len() + local.layers.len() * local.frozen.pos();
        if let Some(positions) = &local.positions {
            self.read_constant(&stream, positions.clone().narrow(0, 0, pos))?;
        }
        self.read_positions(&stream, local.embeddings.clone().narrow(0, 0, pos), first)
    }
}

/// The graph of the features that have rows.
fn assemble(
    replacement: &ReplacementModel<'_>,
    local: Local<'_>,
    tokens: &[u32],
    logits: Vec<LogitTarget>,
    rows: Vec<Option<Row>>,
    (logit_rows, logit_totals): (Vec<Row>, Vec<f32>),
) -> AttributionGraph {
    let n_active = local.features.len() as u32;
    let (mut selected, mut kept, mut totals) = (vec![], vec![], vec![]);
    let mut numbers: Vec<Option<u32>> = vec![None; rows.len()];
    for (feature, row) in rows.into_iter().enumerate() {
        if let Some(row) = row {
            numbers[feature] = Some(selected.len() as u32);
            selected.push(feature as u32);
            totals.push(local.totals[feature]);
            kept.push(row);
        }
    }
    let n_selected = selected.len() as u32;
    let number = |source: u32| match source < n_active {
        true => numbers[source as usize],
        false => Some(source - n_active + n_selected),
    };
    kept.extend(logit_rows);
    totals.extend(logit_totals);
    AttributionGraph {
        n_layers: replacement.layers().len(),
        tokens: tokens.to_vec(),
        active: local.features,
        selected,
        logits,
        rows: kept.into_iter().map(|row| row.renumbered(number)).collect(),
        totals,
    }
}
