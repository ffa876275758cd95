//! What recipes must know of an architecture: what goes with it, and its defaults.

use lapidary_coder::ArchitectureKind;

/// Facts about the training of an architecture. An architecture that is not named in [`facts`] has
/// the defaults.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// Whether it chooses by the number of latents alone: its loss is the fraction of variance
    /// unexplained, dead latents can make an auxiliary loss by AuxK, and as a transcoder its
    /// decoder may start at 0, free.
    pub(crate) is_topk_like: bool,
    /// Whether the loss is the fraction of variance unexplained, and not the squared error.
    pub(crate) minimizes_fvu: bool,
    /// Whether decoder rows may have any norm in training, and then do unless the recipe says
    /// otherwise.
    pub(crate) frees_decoder_norm: bool,
    /// Whether dead latents can have ghost gradients or be resampled. Latents that compete for
    /// places would not fire with the small weights that they then have.
    pub(crate) has_ghost_gradients: bool,
    /// Whether its gradients can come from a loss through the model.
    pub(crate) trains_end_to_end: bool,
    /// The norm of decoder rows at the start, where they may have any and the recipe has none.
    pub(crate) free_initial_norm: f64,
    /// The highest learning rate where the recipe has none and the number of latents does not say.
    pub(crate) fixed_lr: Option<f64>,
}

const DEFAULT: Facts = Facts {
    is_topk_like: false,
    minimizes_fvu: false,
    frees_decoder_norm: false,
    has_ghost_gradients: false,
    trains_end_to_end: false,
    free_initial_norm: 0.1,
    fixed_lr: None,
};

/// The facts about an architecture.
pub(crate) const fn facts(kind: ArchitectureKind) -> Facts {
    const TOPK_LIKE: Facts = Facts {
        is_topk_like: true,
        minimizes_fvu: true,
        ..DEFAULT
    };
    match kind {
        ArchitectureKind::TopK | ArchitectureKind::BatchTopK => Facts {
            trains_end_to_end: true,
            ..TOPK_LIKE
        },
        ArchitectureKind::Matryoshka => TOPK_LIKE,
        ArchitectureKind::Standard => Facts {
            frees_decoder_norm: true,
            has_ghost_gradients: true,
            trains_end_to_end: true,
            fixed_lr: Some(3e-4),
            ..DEFAULT
        },
        ArchitectureKind::JumpRelu => Facts {
            has_ghost_gradients: true,
            trains_end_to_end: true,
            ..DEFAULT
        },
        ArchitectureKind::MatchingPursuit => Facts {
            minimizes_fvu: true,
            frees_decoder_norm: true,
            free_initial_norm: 1.0,
            ..DEFAULT
        },
        _ => DEFAULT,
    }
}
