//! What a search over the latents looks for, and what it finds.

use serde::Serialize;

/// How the latents that are found are sorted. Ties: the lower number first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The best match first; without a text: by number.
    #[default]
    Relevance,
    /// By number.
    Id,
    /// Those that fire most often first.
    Density,
    /// Those that fire most rarely first.
    Rarest,
    /// The highest activation first.
    MaxActivation,
    /// The best label first: that with the highest detection score.
    LabelScore,
    /// The strongest effect on a logit first.
    Logit,
}

impl Order {
    /// All orders with their names.
    pub const ALL: [(&'static str, Order); 7] = [
        ("relevance", Order::Relevance),
        ("id", Order::Id),
        ("density", Order::Density),
        ("rarest", Order::Rarest),
        ("max_activation", Order::MaxActivation),
        ("label_score", Order::LabelScore),
        ("logit", Order::Logit),
    ];
}

/// Whether latents that never fired are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dead {
    /// With the others.
    #[default]
    Show,
    /// Not at all.
    Hide,
    /// And no others.
    Only,
}

impl Dead {
    /// All choices with their names.
    pub const ALL: [(&'static str, Dead); 3] = [
        ("show", Dead::Show),
        ("hide", Dead::Hide),
        ("only", Dead::Only),
    ];
}

/// What is looked for.
///
/// The text is split at blanks into terms; `"two words"` in quotation marks are one term. A latent
/// is found if it has all terms, in any case of letters.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Query {
    /// The text; empty finds all.
    pub text: String,
    /// In which order.
    pub order: Order,
    /// Whether with latents that never fired.
    pub dead: Dead,
    /// The lowest firing density, and the lowest one that is too high.
    pub density: Option<[f64; 2]>,
}

/// How well a latent has a term; the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Match {
    /// It has the number.
    Number,
    /// A token or a word of its label is the term.
    Exact,
    /// A token or its label contains the term.
    Part,
    /// One of its contexts contains the term.
    Context,
}

/// A latent that was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// Where it is in the index.
    pub(super) place: u32,
    /// How: the worst of the terms. Nothing without a text.
    pub how: Option<Match>,
    /// Activation mass of what matches: the sum of its activations on the tokens; for a label, that
    /// on all tokens; for contexts, their number.
    pub mass: f32,
}
