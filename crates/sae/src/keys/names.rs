//! The choices that a recipe names.

/// Declares an enum whose values have names in recipes.
macro_rules! names {
    (
        $(#[doc = $doc:literal])+
        $name:ident { $( $(#[doc = $value_doc:literal])+ $value:ident = $text:literal ),* $(,)? }
    ) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $( $(#[doc = $value_doc])+ $value, )* }

        impl lapidary_io::settings::Named for $name {
            const NAMES: &'static [(Self, &'static str)] = &[ $( (Self::$value, $text), )* ];
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(lapidary_io::settings::Named::name(*self))
            }
        }
    };
}

pub(crate) use names;

names! {
    /// What is minimized besides sparsity.
    Loss {
        /// What the coder leaves of the activations.
        Local = "local",
        /// The divergence of the model's predictions with the reconstruction from those without.
        Kl = "kl",
        /// The cross-entropy of the next tokens with the reconstruction.
        Ce = "ce",
    }
}

impl Loss {
    /// Whether the loss goes through the model.
    #[must_use]
    pub const fn is_end_to_end(self) -> bool {
        matches!(self, Self::Kl | Self::Ce)
    }
}

names! {
    /// How a gradient moves a weight.
    Optimizer {
        /// Adam (Kingma, Ba 2015).
        Adam = "adam",
        /// The sign of the mean gradient (Bernstein et al. 2018).
        Signum = "signum",
        /// The mean gradient of a matrix made orthogonal (Jordan et al. 2024); biases by Adam.
        Muon = "muon",
    }
}

impl Optimizer {
    /// Highest learning rate where the recipe has none and Adam's would be `adam`: signum's is
    /// sparsify's.
    pub(crate) fn default_lr(self, adam: f64, d_sae: usize) -> f64 {
        match self {
            Self::Adam => adam,
            Self::Signum => 5e-3 / (d_sae as f64 / 16_384.0).sqrt(),
            Self::Muon => 2e-3,
        }
    }

    /// Decay of the mean gradient where the recipe has none.
    pub(crate) fn default_decay(self) -> f64 {
        match self {
            Self::Adam => 0.9,
            Self::Signum | Self::Muon => 0.95,
        }
    }
}

names! {
    /// What is done for dead latents.
    DeadLatents {
        /// Nothing.
        None = "none",
        /// They reconstruct what active latents leave (AuxK).
        AuxK = "aux_k",
        /// The same with exponentials, scaled.
        GhostGradients = "ghost_gradients",
        /// They get the directions of inputs that are reconstructed badly.
        Resampling = "resampling",
    }
}

names! {
    /// Whether the rows of the decoder keep their norm in training.
    DecoderNorm {
        /// Rows keep norm 1.
        Unit = "unit",
        /// Rows may have any norm.
        Free = "free",
    }
}

names! {
    /// Where `b_dec` starts.
    DecoderBiasStart {
        /// The geometric median of the first batch.
        GeometricMedian = "geometric_median",
        /// The mean of the first batch.
        Mean = "mean",
        /// Zeros.
        Zeros = "zeros",
    }
}

names! {
    /// The sparsity penalty of a "standard" coder.
    SparsityPenalty {
        /// The sum of activation times decoder norm.
        L1 = "l1",
        /// The sum of the hyperbolic tangents of the same.
        Tanh = "tanh",
    }
}
