//! A language model whose MLPs are replaced by transcoders, one for each layer.

use super::graph::Feature;
use crate::CircuitError;
use burn::tensor::Tensor;
use lapidary_coder::{
    AnyCoder, Architecture, Coder, CoderError, Dictionary, Sites, SparseCoder, host,
};
use lapidary_model::{BlockHook, HookPoint, LanguageModel, Norm};

/// Features whose logits are made at once: each takes four bytes a token of the vocabulary.
const FEATURES_AT_ONCE: usize = 64;

/// A language model with transcoders for all its layers: what one attributes in.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use burn::tensor::Device;
/// use lapidary_circuits::attribution_graph::{AttributionOptions, Pruning, ReplacementModel};
/// use lapidary_model::LanguageModel;
///
/// # let transcoders = vec![];
/// let model = LanguageModel::load("embedded", &Device::flex())?;
/// let replacement = ReplacementModel::new(&model, transcoders)?;
/// let prompt = model.tokenizer()?.encode("The Congress of the United")?;
/// let graph = replacement.attribute(&prompt, &AttributionOptions::default(), &|_, _| {})?;
/// let pruned = graph.prune(Pruning::default());
/// println!("{} of {} nodes, {:?}", pruned.nodes().count(), graph.n_nodes(), pruned.scores());
/// # Ok(())
/// # }
/// ```
pub struct ReplacementModel<'m> {
    model: &'m LanguageModel,
    layers: Vec<Replacement>,
}

/// What stands for the MLP of a layer.
pub(super) struct Replacement {
    /// Its encoder, and its skip connection if it has one.
    pub coder: SparseCoder,
    /// Where it reads.
    pub from: HookPoint,
    /// Where it writes.
    pub to: HookPoint,
    /// The decoder rows `[d_sae, d_model]` at its own layer and, of a cross-layer transcoder, at
    /// each later one.
    pub decoders: Vec<Tensor<2>>,
    /// What is added at its own layer, `[d_model]`.
    pub bias: Tensor<1>,
}

impl<'m> ReplacementModel<'m> {
    /// A model with transcoders, each with a name for messages: one for each layer, with a skip
    /// connection or without, or one cross-layer transcoder.
    ///
    /// # Errors
    /// A layer has no transcoder or two; a dictionary is no transcoder of an MLP of this model; or
    /// the values of its latents are not affine functions of what it reads.
    pub fn new(
        model: &'m LanguageModel,
        transcoders: Vec<(String, Dictionary)>,
    ) -> Result<Self, CircuitError> {
        let n_layers = model.config().n_layers();
        let mut layers: Vec<Option<(String, Replacement)>> = (0..n_layers).map(|_| None).collect();
        for (name, dictionary) in transcoders {
            for (layer, replacement) in replacements(model, &name, dictionary)? {
                if let Some((other, _)) = &layers[layer] {
                    let problem = format!("layer {layer} has the transcoder {other} already");
                    return Err(CircuitError::Transcoder { name, problem });
                }
                layers[layer] = Some((name.clone(), replacement));
            }
        }
        let missing: Vec<String> = (0..n_layers)
            .filter(|layer| layers[*layer].is_none())
            .map(|layer| layer.to_string())
            .collect();
        if !missing.is_empty() {
            return Err(CircuitError::MissingTranscoders {
                model: model.name().into(),
                missing: missing.join(", "),
                n_layers,
            });
        }
        let layers = layers.into_iter().flatten().map(|(_, layer)| layer);
        Ok(Self {
            model,
            layers: layers.collect(),
        })
    }

    /// The language model.
    #[must_use]
    pub const fn model(&self) -> &'m LanguageModel {
        self.model
    }

    /// About the bytes of the model and its transcoders in memory, the same on every run.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let values = |tensor: &Tensor<2>| tensor.dims().iter().product::<usize>() as u64;
        let of_layer = |layer: &Replacement| {
            let decoders = layer.decoders.iter().map(values).sum::<u64>();
            let whole = match layer.decoders.len() {
                1 => 0, // the coder's own
                _ => values(&layer.coder.w_dec()),
            };
            let skip = layer.coder.w_skip().as_ref().map_or(0, values);
            values(&layer.coder.w_enc()) + decoders + whole + skip
        };
        let model = self.model.config().n_params();
        4 * (model + self.layers.iter().map(of_layer).sum::<u64>())
    }

    /// The tokens whose logits each feature raises most by what it writes to the residual stream
    /// itself, with nothing in between, the most raised first. None are given where the model
    /// normalizes what a transcoder writes.
    ///
    /// # Errors
    /// The device fails.
    pub fn promoted(&self, features: &[Feature], n: usize) -> Result<Vec<Vec<u32>>, CoderError> {
        let c = self.model.config();
        let normalized = |layer: &Replacement| {
            let before = matches!(layer.to, HookPoint::Block(_, BlockHook::MlpHookOut));
            c.post_norms && before
        };
        if self.layers.iter().any(normalized) {
            return Ok(vec![vec![]; features.len()]);
        }
        let weight = self.model.final_norm_weight().unsqueeze();
        let unembedding = self.model.unembedding();
        let mut promoted = Vec::with_capacity(features.len());
        for features in features.chunks(FEATURES_AT_ONCE) {
            let written = features.iter().map(|feature| {
                let index = feature.index;
                let rows = self.layers[feature.layer].decoders.iter();
                let rows = rows.map(|decoder| decoder.clone().narrow(0, index, 1));
                let sum = rows.reduce(|a, b| a + b);
                sum.expect("a feature writes at its own layer")
            });
            let written = Tensor::cat(written.collect(), 0);
            let seen = match c.norm {
                Norm::Layer => written.clone() - written.mean_dim(1),
                Norm::Rms => written,
            };
            let logits = host(&(seen * weight.clone()).matmul(unembedding.clone()))?;
            for logits in logits.chunks(c.d_vocab) {
                let mut order: Vec<u32> = (0..logits.len() as u32).collect();
                let higher = |a: &u32, b: &u32| {
                    let [x, y] = [a, b].map(|token| logits[*token as usize]);
                    y.total_cmp(&x).then(a.cmp(b))
                };
                let n = n.min(order.len());
                if n < order.len() {
                    order.select_nth_unstable_by(n, higher);
                }
                order.truncate(n);
                order.sort_by(higher);
                promoted.push(order);
            }
        }
        Ok(promoted)
    }

    /// One for each layer.
    pub(super) fn layers(&self) -> &[Replacement] {
        &self.layers
    }
}

/// The layers that a dictionary replaces, with what replaces them.
fn replacements(
    model: &LanguageModel,
    name: &str,
    dictionary: Dictionary,
) -> Result<Vec<(usize, Replacement)>, CircuitError> {
    let wrong = |problem: String| CircuitError::Transcoder {
        name: name.into(),
        problem,
    };
    let (from, to) = match dictionary.sites() {
        Sites::Transcoder { from, to } => {
            let from = from.clone().ok_or_else(|| wrong(no_site("reads")))?;
            let to = to.clone().ok_or_else(|| wrong(no_site("writes")))?;
            (vec![from], vec![to])
        }
        Sites::CrossLayer { from, to } => (from.clone(), to.clone()),
        _ => {
            let problem = "found a coder that reconstructs what it reads, expected a transcoder, which reads before an MLP and writes after it";
            return Err(wrong(problem.into()));
        }
    };
    match dictionary.coder.architecture() {
        Architecture::Standard
        | Architecture::TopK { .. }
        | Architecture::BatchTopK { .. }
        | Architecture::Matryoshka { .. }
        | Architecture::JumpRelu => {}
        other => {
            return Err(wrong(format!(
                "found the architecture {}, expected standard, topk or jumprelu, whose values are affine functions of what they read",
                other.kind()
            )));
        }
    }
    let mut layers = vec![];
    for (from, to) in from.iter().zip(&to) {
        let [from, to] = [parsed(from, &wrong)?, parsed(to, &wrong)?];
        layers.push(layer_of(model, from, to, &wrong)?);
    }
    let d_model = model.config().d_model;
    let check = |what: &str, found: usize| match found == d_model {
        true => Ok(()),
        false => Err(wrong(format!(
            "it {what} {found} dimensions, but `{}` has {d_model}",
            model.name()
        ))),
    };
    match dictionary.coder {
        AnyCoder::Sparse(coder) => {
            check("reads", coder.d_in())?;
            check("writes", coder.d_out())?;
            let (layer, from, to) = layers[0];
            let replacement = Replacement {
                decoders: vec![coder.w_dec()],
                bias: coder.b_dec(),
                coder,
                from,
                to,
            };
            Ok(vec![(layer, replacement)])
        }
        AnyCoder::CrossLayer(all) => {
            let numbers: Vec<usize> = layers.iter().map(|(layer, ..)| *layer).collect();
            if numbers.windows(2).any(|pair| pair[1] != pair[0] + 1) {
                let problem = format!("its layers are {numbers:?}, expected consecutive ones");
                return Err(wrong(problem));
            }
            let width = all.d_out() / layers.len();
            check("writes", width)?;
            let mut replaced = vec![];
            for (number, coder) in all.layers().iter().enumerate() {
                check("reads", coder.d_in())?;
                let (layer, from, to) = layers[number];
                let written = layers.len() - number;
                // Contiguous, so that no product has to copy them.
                let decoders = (0..written).map(|later| {
                    let rows = coder.w_dec().narrow(1, later * width, width);
                    rows * 1.0
                });
                let replacement = Replacement {
                    decoders: decoders.collect(),
                    bias: all.b_dec().narrow(0, number * width, width),
                    coder: coder.clone(),
                    from,
                    to,
                };
                replaced.push((layer, replacement));
            }
            Ok(replaced)
        }
    }
}

fn no_site(what: &str) -> String {
    format!("its files do not say where it {what}")
}

fn parsed(name: &str, wrong: &dyn Fn(String) -> CircuitError) -> Result<HookPoint, CircuitError> {
    let hook = name.parse::<HookPoint>();
    hook.map_err(|error| wrong(error.to_string()))
}

/// The layer whose MLP is between two hook points.
fn layer_of(
    model: &LanguageModel,
    from: HookPoint,
    to: HookPoint,
    wrong: &dyn Fn(String) -> CircuitError,
) -> Result<(usize, HookPoint, HookPoint), CircuitError> {
    use BlockHook as B;
    for hook in [from, to] {
        model
            .width(hook)
            .map_err(|error| wrong(error.to_string()))?;
    }
    match (from, to) {
        (
            HookPoint::Block(layer, B::ResidMid | B::MlpIn | B::Ln2 | B::MlpHookIn),
            HookPoint::Block(same, B::MlpOut | B::MlpHookOut),
        ) if layer == same => Ok((layer, from, to)),
        _ => Err(wrong(format!(
            "it reads at {from} and writes at {to}; expected hook_resid_mid, hook_mlp_in, ln2.hook_normalized or mlp.hook_in, and hook_mlp_out or mlp.hook_out of the same layer"
        ))),
    }
}
