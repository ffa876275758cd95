//! Features set to other activations on a prompt, and what becomes of the other features and of the
//! next token: a test of what a graph says.

use super::graph::Feature;
use super::replacement::ReplacementModel;
use crate::CircuitError;
use burn::tensor::{Tensor, TensorData};
use lapidary_coder::{Coder, host, host_int};
use lapidary_model::{BlockHook, HookPoint, HookedRun, Intervention, RunOutput};
use serde::Serialize;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// A feature and the activation that it is to have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FeatureChange {
    /// The layer of its transcoder.
    pub layer: usize,
    /// The position of the token.
    pub position: usize,
    /// Its number among the latents of the transcoder.
    pub index: usize,
    /// The new activation.
    pub activation: f32,
}

/// What follows from a change. What MLPs write beyond their transcoders, the errors, is never
/// computed anew from features: MLPs of the model itself run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// MLPs and norms compute with what they then read; attention patterns stay as they were. The
    /// default of circuit-tracer.
    #[default]
    FrozenAttention,
    /// Attention patterns are computed anew too.
    Full,
    /// Attention patterns, the divisors of norms, and what MLPs write stay as they were, except for
    /// skip connections. Then logits, less their mean, and pre-activations change by the edges from
    /// the feature, times (new activation / activation − 1).
    Direct,
}

/// How the activation of a feature changed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ChangedFeature {
    /// The layer of its transcoder.
    pub layer: usize,
    /// The position of the token.
    pub position: usize,
    /// Its number among the latents of the transcoder.
    pub index: usize,
    /// Its activation on the prompt.
    pub before: f32,
    /// Its activation after the change.
    pub after: f32,
}

/// What an intervention led to.
#[derive(Clone, Debug)]
pub struct Intervened {
    /// The logits after the prompt, `[d_vocab]`.
    pub logits_before: Vec<f32>,
    /// The logits after the change.
    pub logits_after: Vec<f32>,
    /// The features of later layers whose activation changed, the largest change first. Those at
    /// the first position do not count, as in graphs.
    pub features: Vec<ChangedFeature>,
    /// The pre-activations `⟨W_enc[i], x⟩` of asked-for features before and after the change,
    /// without their biases, in the order of `watch`.
    pub watched: Vec<[f32; 2]>,
}

impl ReplacementModel<'_> {
    /// Runs the model on a prompt while features have other activations: what a transcoder's
    /// decoder row adds to the MLP's output at the position is changed by the difference to the
    /// activation that the feature has in this run. With [`Propagation::Direct`], it is the
    /// difference to the activation on the unchanged prompt.
    /// `watch`: layer, position and index of features whose pre-activations are asked for.
    ///
    /// # Errors
    /// The tokens do not fit the model; a layer, a latent or a position does not exist; the
    /// position is the first one, at which no feature counts; a feature is changed twice; or the
    /// device fails.
    pub fn intervene(
        &self,
        tokens: &[u32],
        changes: &[FeatureChange],
        propagation: Propagation,
        watch: &[[usize; 3]],
    ) -> Result<Intervened, CircuitError> {
        let places = changes.iter().map(|c| [c.layer, c.position, c.index]);
        for place in places.clone().chain(watch.iter().copied()) {
            self.check_place(place, tokens.len())?;
        }
        let mut seen = std::collections::BTreeSet::new();
        for [layer, position, index] in places {
            if !seen.insert([layer, position, index]) {
                return Err(CircuitError::Feature {
                    layer,
                    index,
                    problem: format!("it is changed twice at position {position}"),
                });
            }
        }
        let model = self.model();
        let batch = model.tokens(&[tokens])?;
        let inputs: Vec<HookPoint> = self.layers().iter().map(|layer| layer.from).collect();
        let constants = self.constants(propagation);
        let capture: Vec<HookPoint> = inputs.iter().chain(&constants).copied().collect();
        let plain = HookedRun {
            capture: &capture,
            logits: true,
            last_logits: true,
            ..Default::default()
        };
        let before = model.run(batch.clone(), &plain)?;
        let features_before = self.features(&before)?;
        // What is to be added where transcoders write.
        let written: RefCell<BTreeMap<HookPoint, Tensor<3>>> = RefCell::default();
        let mut layers: Vec<usize> = changes.iter().map(|change| change.layer).collect();
        layers.sort_unstable();
        layers.dedup();
        if propagation == Propagation::Direct {
            for layer in &layers {
                self.write_changes(*layer, changes, &features_before, tokens.len(), &written);
            }
        }
        // What MLPs read in the changed run, for skip connections.
        let read: RefCell<BTreeMap<usize, Tensor<3>>> = RefCell::default();
        let mut interventions = before.freeze(|at| constants.contains(&at));
        let keep: Vec<_> = (0..inputs.len())
            .map(|layer| {
                let read = &read;
                move |value: Tensor<3>| {
                    read.borrow_mut().insert(layer, value.clone());
                    value
                }
            })
            .collect();
        let skip: Vec<_> = (0..inputs.len())
            .map(|layer| {
                let (read, coder) = (&read, &self.layers()[layer].coder);
                let x_before = before.captured[&inputs[layer]].clone();
                move |value: Tensor<3>| {
                    let moved = read.borrow()[&layer].clone() - x_before.clone();
                    let moved = moved.squeeze_dim::<2>(0);
                    let rows = value.clone().squeeze_dim::<2>(0);
                    coder.with_skip(rows, moved).unsqueeze_dim(0)
                }
            })
            .collect();
        if propagation == Propagation::Direct {
            for (layer, (keep, skip)) in keep.iter().zip(&skip).enumerate() {
                if self.layers()[layer].coder.w_skip().is_some() {
                    let to = self.layers()[layer].to;
                    interventions.push(Intervention::function(inputs[layer], keep));
                    interventions.push(Intervention::function(to, skip));
                }
            }
        }
        // The first encoder that fails in the changed run, where a hook cannot return an error.
        let failed = RefCell::new(None);
        let write: Vec<_> = layers
            .iter()
            .map(|layer| {
                let (layer, written, failed) = (*layer, &written, &failed);
                move |value: Tensor<3>| {
                    let mut active = BTreeMap::new();
                    match self.features_of(layer, value.clone(), &mut active) {
                        Ok(()) => {
                            self.write_changes(layer, changes, &active, tokens.len(), written);
                        }
                        Err(error) => {
                            failed.borrow_mut().get_or_insert(error);
                        }
                    }
                    value
                }
            })
            .collect();
        let add: Vec<_> = self
            .layers()
            .iter()
            .map(|layer| {
                let (at, written) = (layer.to, &written);
                move |value: Tensor<3>| match written.borrow().get(&at) {
                    Some(delta) => value + delta.clone(),
                    None => value,
                }
            })
            .collect();
        if propagation != Propagation::Direct {
            let reads = layers.iter().zip(&write);
            interventions.extend(reads.map(|(l, read)| Intervention::function(inputs[*l], read)));
        }
        let writes = self.layers().iter().zip(&add);
        interventions.extend(writes.map(|(layer, add)| Intervention::function(layer.to, add)));
        let changed = HookedRun {
            capture: &inputs,
            interventions: &interventions,
            ..plain.clone()
        };
        let after = model.run(batch, &changed);
        if let Some(error) = failed.take() {
            return Err(error);
        }
        let after = after?;
        let features_after = self.features(&after)?;
        let first = changes.iter().map(|c| c.layer).min();
        let watched = watch.iter().map(|place| {
            let x = |run: &RunOutput| self.pre_activation(run, *place);
            Ok([x(&before)?, x(&after)?])
        });
        Ok(Intervened {
            logits_before: logits(&before)?,
            logits_after: logits(&after)?,
            features: differences(&features_before, &features_after, first),
            watched: watched.collect::<Result<_, CircuitError>>()?,
        })
    }

    /// The features that are active on a prompt, but for those at the first position.
    ///
    /// # Errors
    /// The tokens do not fit the model.
    pub fn active_features(&self, tokens: &[u32]) -> Result<Vec<Feature>, CircuitError> {
        let inputs: Vec<HookPoint> = self.layers().iter().map(|layer| layer.from).collect();
        let run = HookedRun {
            capture: &inputs,
            ..Default::default()
        };
        let output = self.model().run(self.model().tokens(&[tokens])?, &run)?;
        let features = self.features(&output)?.into_iter();
        let feature = |([layer, position, index], activation): ([usize; 3], f32)| Feature {
            layer,
            position,
            index,
            activation,
        };
        Ok(features.map(feature).collect())
    }

    /// Whether there is such a feature.
    ///
    /// # Errors
    /// There is none.
    pub fn check_feature(&self, layer: usize, index: usize) -> Result<(), CircuitError> {
        let wrong = |problem: String| {
            Err(CircuitError::Feature {
                layer,
                index,
                problem,
            })
        };
        let Some(replacement) = self.layers().get(layer) else {
            return wrong(format!("expected a layer below {}", self.layers().len()));
        };
        match replacement.coder.d_sae() {
            latents if index >= latents => wrong(format!("expected a latent below {latents}")),
            _ => Ok(()),
        }
    }

    fn check_place(
        &self,
        [layer, position, index]: [usize; 3],
        n_tokens: usize,
    ) -> Result<(), CircuitError> {
        self.check_feature(layer, index)?;
        let wrong = |problem: String| {
            Err(CircuitError::Feature {
                layer,
                index,
                problem,
            })
        };
        match position {
            0 => wrong(
                "found position 0, where no feature counts, expected a position from 1 on".into(),
            ),
            _ if position >= n_tokens => wrong(format!(
                "found position {position}, expected one below {n_tokens}, the number of tokens"
            )),
            _ => Ok(()),
        }
    }

    /// The hook points whose values stay as they were.
    fn constants(&self, propagation: Propagation) -> Vec<HookPoint> {
        use BlockHook as B;
        let model = self.model();
        let mut points = vec![];
        for (layer, replacement) in self.layers().iter().enumerate() {
            if propagation == Propagation::Full {
                continue;
            }
            points.push(HookPoint::Block(layer, B::Pattern));
            if propagation == Propagation::Direct {
                let scales = [B::Ln1Scale, B::Ln1PostScale, B::Ln2Scale, B::Ln2PostScale];
                let scales = scales.map(|hook| HookPoint::Block(layer, hook)).into_iter();
                // Not every model has all of these norms.
                points.extend(scales.filter(|at| model.width(*at).is_ok()));
                points.push(replacement.to);
            }
        }
        if propagation == Propagation::Direct {
            points.push(HookPoint::FinalNormScale);
        }
        points
    }

    /// Adds what the changes of a layer write, `[1, pos, d_model]`, to what is written at each
    /// point.
    fn write_changes(
        &self,
        layer: usize,
        changes: &[FeatureChange],
        active: &BTreeMap<[usize; 3], f32>,
        n_tokens: usize,
        written: &RefCell<BTreeMap<HookPoint, Tensor<3>>>,
    ) {
        let d_model = self.model().config().d_model;
        let mut written = written.borrow_mut();
        for change in changes.iter().filter(|change| change.layer == layer) {
            let place = [change.layer, change.position, change.index];
            let difference = change.activation - active.get(&place).copied().unwrap_or(0.0);
            let decoders = &self.layers()[change.layer].decoders;
            for (later, decoder) in decoders.iter().enumerate() {
                let row = decoder.clone().narrow(0, change.index, 1) * difference; // [1, d_model]
                let mut at_position = vec![0.0_f32; n_tokens];
                at_position[change.position] = 1.0;
                let column = TensorData::new(at_position, [n_tokens, 1]);
                let column = Tensor::<2>::from_data(column, &row.device());
                let delta = column.matmul(row).reshape([1, n_tokens, d_model]);
                let at = self.layers()[change.layer + later].to;
                let sum = match written.remove(&at) {
                    Some(other) => other + delta,
                    None => delta,
                };
                written.insert(at, sum);
            }
        }
    }

    /// Activations by layer, position and index.
    fn features(&self, run: &RunOutput) -> Result<BTreeMap<[usize; 3], f32>, CircuitError> {
        let mut active = BTreeMap::new();
        for (layer, replacement) in self.layers().iter().enumerate() {
            self.features_of(layer, run.captured[&replacement.from].clone(), &mut active)?;
        }
        Ok(active)
    }

    /// Adds those of one layer, from what it reads, `[1, pos, d_model]`.
    fn features_of(
        &self,
        layer: usize,
        x: Tensor<3>,
        active: &mut BTreeMap<[usize; 3], f32>,
    ) -> Result<(), CircuitError> {
        let codes = self.layers()[layer].coder.encode(x.squeeze_dim::<2>(0));
        let [_, k] = codes.values.dims();
        let (values, indices) = (host(&codes.values)?, host_int(&codes.indices)?);
        for (place, (value, index)) in values.iter().zip(&indices).enumerate() {
            let position = place / k;
            if position > 0 && *value != 0.0 {
                active.insert([layer, position, *index as usize], *value);
            }
        }
        Ok(())
    }

    fn pre_activation(
        &self,
        run: &RunOutput,
        [layer, position, index]: [usize; 3],
    ) -> Result<f32, CircuitError> {
        let replacement = &self.layers()[layer];
        let x = run.captured[&replacement.from].clone().squeeze_dim::<2>(0);
        let read = replacement.coder.centre(x.narrow(0, position, 1));
        let row = replacement.coder.w_enc().narrow(0, index, 1);
        Ok(host(&(read * row).sum_dim(1))?[0])
    }
}

fn logits(run: &RunOutput) -> Result<Vec<f32>, CircuitError> {
    let logits = run.logits.as_ref().expect("the run was asked for logits");
    Ok(host(logits)?)
}

/// Those that changed, after the first layer that was changed.
fn differences(
    before: &BTreeMap<[usize; 3], f32>,
    after: &BTreeMap<[usize; 3], f32>,
    first: Option<usize>,
) -> Vec<ChangedFeature> {
    let places: std::collections::BTreeSet<&[usize; 3]> =
        before.keys().chain(after.keys()).collect();
    let later = places.into_iter().filter(|place| Some(place[0]) > first);
    let mut changed: Vec<ChangedFeature> = later
        .map(|place| {
            let value = |of: &BTreeMap<[usize; 3], f32>| of.get(place).copied().unwrap_or(0.0);
            let [layer, position, index] = *place;
            ChangedFeature {
                layer,
                position,
                index,
                before: value(before),
                after: value(after),
            }
        })
        .filter(|feature| feature.before != feature.after)
        .collect();
    let size = |feature: &ChangedFeature| (feature.after - feature.before).abs();
    changed.sort_by(|a, b| size(b).total_cmp(&size(a)));
    changed
}
