//! A coder's weights by name. Which there are, an architecture says; whoever copies, stores or
//! updates them goes over all.

use burn::tensor::{Device, Tensor};
use lapidary_kernels::EncoderState;

/// One weight.
#[derive(Clone, Debug)]
pub enum Weight {
    /// Two-dimensional: for encoders and decoders, one row per latent.
    Matrix(Tensor<2>),
    /// One number a latent, or a dimension of the activation.
    Vector(Tensor<1>),
}

impl From<Tensor<2>> for Weight {
    fn from(tensor: Tensor<2>) -> Self {
        Self::Matrix(tensor)
    }
}

impl From<Tensor<1>> for Weight {
    fn from(tensor: Tensor<1>) -> Self {
        Self::Vector(tensor)
    }
}

impl Weight {
    /// Its sizes.
    #[must_use]
    pub fn dims(&self) -> Vec<usize> {
        match self {
            Self::Matrix(t) => t.dims().to_vec(),
            Self::Vector(t) => t.dims().to_vec(),
        }
    }

    fn to_device(&self, device: &Device) -> Self {
        match self {
            Self::Matrix(t) => t.clone().to_device(device).into(),
            Self::Vector(t) => t.clone().to_device(device).into(),
        }
    }

    fn tracked(&self) -> Self {
        match self {
            Self::Matrix(t) => t.clone().autodiff().require_grad().into(),
            Self::Vector(t) => t.clone().autodiff().require_grad().into(),
        }
    }
}

/// Which weight of a coder: its name, and its layer if there are several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WeightKey {
    /// The layer of a cross-layer transcoder; none for other coders, and for what all layers share.
    pub layer: Option<usize>,
    /// The name, `w_enc` for instance.
    pub name: &'static str,
}

impl From<&'static str> for WeightKey {
    fn from(name: &'static str) -> Self {
        Self { layer: None, name }
    }
}

/// The name in files: `w_enc`, or `w_enc.3`.
impl std::fmt::Display for WeightKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.layer {
            Some(layer) => write!(f, "{}.{layer}", self.name),
            None => f.write_str(self.name),
        }
    }
}

/// The name of the weight of a skip connection.
pub const SKIP: &str = "w_skip";

/// The weights of a coder, in its own order.
#[derive(Clone, Debug, Default)]
pub struct Weights {
    all: Vec<(&'static str, Weight)>,
    /// Shared with clones, and with what is made of these weights. It is no part of them: it is
    /// neither stored nor compared.
    encoder_state: EncoderState,
}

impl Weights {
    /// Weights under their names.
    #[must_use]
    pub fn new<const N: usize>(weights: [(&'static str, Weight); N]) -> Self {
        weights.into_iter().collect()
    }

    /// What an encoder of these weights leaves for its next call.
    #[must_use]
    pub const fn encoder_state(&self) -> &EncoderState {
        &self.encoder_state
    }

    /// With another encoder's state: that of the weights which these were before a training step.
    #[must_use]
    pub fn with_encoder_state(self, encoder_state: EncoderState) -> Self {
        Self {
            encoder_state,
            ..self
        }
    }

    /// With one more, or another under a name that is there.
    #[must_use]
    pub fn with(mut self, name: &'static str, weight: impl Into<Weight>) -> Self {
        match self.all.iter_mut().find(|(n, _)| *n == name) {
            Some((_, old)) => *old = weight.into(),
            None => self.all.push((name, weight.into())),
        }
        self
    }

    /// Each name with its weight.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &Weight)> {
        self.all.iter().map(|(name, weight)| (*name, weight))
    }

    /// The matrix of this name, if there is one.
    #[must_use]
    pub fn matrix(&self, name: &str) -> Option<&Tensor<2>> {
        self.all.iter().find_map(|(n, weight)| match weight {
            Weight::Matrix(t) if *n == name => Some(t),
            _ => None,
        })
    }

    /// The vector of this name, if there is one.
    #[must_use]
    pub fn vector(&self, name: &str) -> Option<&Tensor<1>> {
        self.all.iter().find_map(|(n, weight)| match weight {
            Weight::Vector(t) if *n == name => Some(t),
            _ => None,
        })
    }

    /// The encoder `[d_sae, d_in]`. Matching pursuit reads with its decoder rows.
    ///
    /// # Panics
    /// There is neither.
    #[must_use]
    pub fn encoder(&self) -> Tensor<2> {
        let own = self.matrix("w_enc").cloned();
        own.unwrap_or_else(|| self.decoder())
    }

    /// The decoder `[d_sae, d_out]`.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn decoder(&self) -> Tensor<2> {
        let found = self.matrix("w_dec");
        found.expect("an architecture has its weights").clone()
    }

    /// The vector of this name.
    ///
    /// # Panics
    /// There is none.
    #[must_use]
    pub fn the_vector(&self, name: &str) -> Tensor<1> {
        let found = self.vector(name);
        found.expect("an architecture has its weights").clone()
    }

    /// The device that holds the weights.
    ///
    /// # Panics
    /// There is no decoder.
    #[must_use]
    pub fn device(&self) -> Device {
        self.decoder().device()
    }

    /// The number of latents.
    ///
    /// # Panics
    /// There is no decoder.
    #[must_use]
    pub fn latents(&self) -> usize {
        self.decoder().dims()[0]
    }

    /// The same weights on another device.
    #[must_use]
    pub fn to_device(&self, device: &Device) -> Self {
        self.map(|weight| weight.to_device(device))
    }

    /// The same weights as leaves of a gradient graph.
    #[must_use]
    pub fn tracked(&self) -> Self {
        self.map(Weight::tracked)
    }

    fn map(&self, f: impl Fn(&Weight) -> Weight) -> Self {
        Self {
            all: self.all.iter().map(|(n, w)| (*n, f(w))).collect(),
            encoder_state: self.encoder_state.clone(),
        }
    }
}

impl FromIterator<(&'static str, Weight)> for Weights {
    fn from_iter<I: IntoIterator<Item = (&'static str, Weight)>>(weights: I) -> Self {
        Self {
            all: weights.into_iter().collect(),
            encoder_state: EncoderState::default(),
        }
    }
}
