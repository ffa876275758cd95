//! What a recipe must know of an architecture before it is trained: what it combines with, and its
//! defaults.

/// Facts about the training of an architecture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// Whether it chooses by the number of latents alone. As a transcoder its decoder may then
    /// start at 0, with rows of any norm.
    pub(crate) is_topk_like: bool,
    /// Whether the loss is the fraction of variance unexplained, and not the squared error.
    pub(crate) minimizes_fvu: bool,
    /// Whether decoder rows may have any norm in training, and then do unless the recipe says
    /// otherwise.
    pub(crate) frees_decoder_norm: bool,
    /// Whether dead latents can have an auxiliary loss (AuxK): it trains the encoder.
    pub(crate) has_aux_k: bool,
    /// Whether dead latents can have ghost gradients. Latents that compete for places would not
    /// fire with the small weights that they then have.
    pub(crate) has_ghost_gradients: bool,
    /// Whether dead latents can be resampled.
    pub(crate) can_be_resampled: bool,
    /// The key of the weight of the penalty that decides how many latents are active, if one does.
    pub(crate) penalty_weight: Option<&'static str>,
    /// Whether its gradients can come from a loss through the model.
    pub(crate) trains_end_to_end: bool,
    /// Its learning rate, in that of TopK (docs/results.md, "Target L0").
    pub(crate) lr_factor: f64,
    /// The norm of decoder rows at the start, where they may have any and neither the recipe nor a
    /// target L0 decides it.
    pub(crate) free_initial_norm: f64,
}

impl Facts {
    /// Those of an architecture that says nothing else.
    pub(crate) const DEFAULT: Self = Self {
        is_topk_like: false,
        minimizes_fvu: false,
        frees_decoder_norm: false,
        has_aux_k: true,
        has_ghost_gradients: false,
        can_be_resampled: false,
        penalty_weight: None,
        lr_factor: 1.0,
        trains_end_to_end: false,
        free_initial_norm: 0.1,
    };

    /// Those of an architecture that chooses by the number of latents alone.
    pub(crate) const TOPK_LIKE: Self = Self {
        is_topk_like: true,
        minimizes_fvu: true,
        ..Self::DEFAULT
    };

    /// Whether decoder rows may have any norm in training.
    pub(crate) const fn may_free_decoder_norm(&self, transcodes: bool) -> bool {
        self.frees_decoder_norm || (transcodes && self.is_topk_like)
    }
}
