//! Gradients of targets, backwards through the frozen model: what each source adds to them.

use super::local::{Local, whole};
use super::replacement::ReplacementModel;
use crate::CircuitError;
use burn::tensor::{Tensor, TensorData};
use lapidary_coder::{Coder, CoderError, host};
use lapidary_kernels::sparse_dot;

/// Something whose value is a product with the residual stream somewhere, and whose row is to be
/// found.
pub(super) struct Target {
    pub place: Place,
    pub position: usize,
    /// What it reads of the residual stream there, `[d_model]`.
    pub direction: Vec<f32>,
    /// What its value has besides.
    pub constant: f64,
}

/// A place on the residual stream, ascending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// Where attention of a layer reads.
    Attention(usize),
    /// Where the MLP of a layer reads.
    Mlp(usize),
    /// After all layers.
    End,
}

impl Place {
    /// In the order of computation.
    fn order(self) -> (usize, bool) {
        match self {
            Self::Attention(l) => (l, false),
            Self::Mlp(l) => (l, true),
            Self::End => (usize::MAX, true),
        }
    }
}

/// What each source adds to each target, and what is added whatever they are.
pub(super) struct Traced {
    /// Features, then errors layer by layer, then tokens; one row for each target.
    pub weights: Vec<Vec<f32>>,
    pub bias: Vec<f64>,
}

/// Where gradients go down from.
pub(super) struct Tracing<'a, 'm> {
    pub replacement: &'a ReplacementModel<'m>,
    pub local: &'a Local<'a>,
    /// Bytes of gradients of one batch.
    pub batch_bytes: u64,
}

impl Tracing<'_, '_> {
    /// Features and then errors and tokens, the sources of rows before features are chosen.
    pub fn n_sources(&self) -> usize {
        let layers = self.local.layers.len();
        self.local.features.len() + (layers + 1) * self.local.frozen.pos()
    }

    /// The logits of tokens, each less the mean of all, with their values.
    pub fn logit_targets(&self, tokens: &[u32]) -> Result<(Vec<Target>, Vec<f32>), CoderError> {
        let read = self.local.frozen.logit_directions(tokens);
        let [_, d] = read.directions.dims();
        let directions = host(&read.directions)?;
        let constants = read.constants.iter();
        let targets = directions
            .chunks(d)
            .zip(constants)
            .map(|(row, constant)| Target {
                place: Place::End,
                position: self.local.frozen.pos() - 1,
                direction: row.to_vec(),
                constant: *constant,
            });
        let totals = read.values.iter().map(|value| *value as f32);
        Ok((targets.collect(), totals.collect()))
    }

    /// The pre-activations of these features.
    pub fn feature_targets(&self, features: &[usize]) -> Result<Vec<Target>, CoderError> {
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
                    place: Place::Mlp(l),
                    position: positions[i],
                    direction: directions[i * d..(i + 1) * d].to_vec(),
                    constant: constants[i],
                });
            }
        }
        Ok(targets.into_iter().flatten().collect())
    }

    /// What sources add to targets: their gradients go down the layers together, each from its own
    /// place on. With a layer to split, there must be one target: the first row is what goes past
    /// attention of this layer, and one row follows for each of its heads.
    pub fn trace(&self, targets: &[Target], split: Option<usize>) -> Result<Traced, CircuitError> {
        let mut order: Vec<usize> = (0..targets.len()).collect();
        order.sort_by_key(|target| std::cmp::Reverse(targets[*target].place.order()));
        let sorted: Vec<&Target> = order.iter().map(|target| &targets[*target]).collect();
        let mut pass = Pass {
            tracing: self,
            pos: 1 + targets
                .iter()
                .map(|target| target.position)
                .max()
                .unwrap_or(0),
            split,
            gradients: None,
            weights: vec![vec![0.0; self.n_sources()]; targets.len()],
            bias: sorted.iter().map(|target| target.constant).collect(),
        };
        pass.run(&sorted)?;
        if split.is_some() {
            return Ok(Traced {
                weights: pass.weights,
                bias: pass.bias,
            });
        }
        let mut found: Vec<(usize, Vec<f32>, f64)> = order
            .into_iter()
            .zip(pass.weights)
            .zip(pass.bias)
            .map(|((target, weights), bias)| (target, weights, bias))
            .collect();
        found.sort_by_key(|(target, ..)| *target);
        let (weights, bias) = found.into_iter().map(|(_, w, b)| (w, b)).unzip();
        Ok(Traced { weights, bias })
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

/// The way of a batch's gradients down the layers.
struct Pass<'a, 'b, 'm> {
    tracing: &'a Tracing<'b, 'm>,
    /// Positions that gradients reach.
    pos: usize,
    /// The layer whose heads are told apart.
    split: Option<usize>,
    /// At the residual stream, of the targets met so far, `[pos, n, d_model]`.
    gradients: Option<Tensor<3>>,
    /// What each source adds to each target.
    weights: Vec<Vec<f32>>,
    /// What biases add to each target.
    bias: Vec<f64>,
}

impl Pass<'_, '_, '_> {
    /// `targets` descend by place.
    fn run(&mut self, targets: &[&Target]) -> Result<(), CircuitError> {
        let local = self.tracing.local;
        let n_layers = local.layers.len();
        let parallel = self.tracing.replacement.model().config().parallel;
        let mut left = targets;
        let mut take = |place: Place| {
            let n = left
                .iter()
                .take_while(|target| target.place == place)
                .count();
            let (own, rest) = left.split_at(n);
            left = rest;
            own
        };
        self.start(take(Place::End));
        for l in (0..n_layers).rev() {
            let skipped = self.read_mlp(l)?;
            let own = take(Place::Mlp(l));
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
            self.start(take(Place::Attention(l)));
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

    /// Adds gradients that came another way, of the first targets or all.
    fn pass_on(&mut self, more: Option<Tensor<3>>) {
        if let (Some(old), Some(more)) = (&mut self.gradients, more) {
            let [n, of] = [more.dims()[1], old.dims()[1]];
            let sum = old.clone().narrow(1, 0, n) + more;
            *old = match of - n {
                0 => sum,
                // The heads of a layer that is split past an MLP beside it.
                rest => Tensor::cat(vec![sum, old.clone().narrow(1, n, rest)], 1),
            };
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
        self.gradients = Some(match self.split {
            Some(split) if split == l => {
                let heads = frozen.through_each_head(l, stream.clone());
                let sources = self.tracing.n_sources();
                let n = 1 + heads.dims()[1];
                self.weights.resize(n, vec![0.0; sources]);
                self.bias.resize(n, 0.0);
                Tensor::cat(vec![stream, heads], 1)
            }
            _ => stream.clone() + frozen.through_attention(l, stream),
        });
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
