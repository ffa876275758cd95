//! The formats by name.

use std::fmt;
use std::str::FromStr;

use crate::layout::Layout;
use crate::{
    circuit_tracer, dictionary_learning, gemma_scope, llama_scope, llamascopium, openai, quantized,
    saelens, sparsify,
};

/// A format of dictionaries on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// SAELens 6: ours too.
    SaeLens,
    /// EleutherAI's sparsify.
    Sparsify,
    /// dictionary_learning (saprmarks).
    DictionaryLearning,
    /// circuit-tracer's sets of transcoders.
    CircuitTracer,
    /// Google's Gemma Scope: `params.npz`, and Gemma Scope 2's `params.safetensors`.
    GemmaScope,
    /// OpenMOSS's Llama Scope.
    LlamaScope,
    /// OpenMOSS's Llamascopium, once called Language-Model-SAEs.
    Llamascopium,
    /// OpenAI's sparse_autoencoder.
    OpenAi,
    /// Ours, of dictionaries in integers of 8 or 4 bits.
    Quantized,
}

impl Format {
    /// All there are.
    pub const ALL: [Self; 9] = [
        Self::SaeLens,
        Self::Sparsify,
        Self::DictionaryLearning,
        Self::CircuitTracer,
        Self::GemmaScope,
        Self::LlamaScope,
        Self::Llamascopium,
        Self::OpenAi,
        Self::Quantized,
    ];

    pub(crate) fn layout(self) -> &'static dyn Layout {
        match self {
            Self::SaeLens => &saelens::SaeLens,
            Self::Sparsify => &sparsify::Sparsify,
            Self::DictionaryLearning => &dictionary_learning::DictionaryLearning,
            Self::CircuitTracer => &circuit_tracer::CircuitTracer,
            Self::GemmaScope => &gemma_scope::GemmaScope,
            Self::LlamaScope => &llama_scope::LlamaScope,
            Self::Llamascopium => &llamascopium::Llamascopium,
            Self::OpenAi => &openai::OpenAi,
            Self::Quantized => &quantized::Quantized,
        }
    }

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.layout().name()
    }

    /// The files by which each is known.
    pub(crate) fn signatures() -> String {
        let each = Self::ALL.map(|f| format!("{} for {f}", f.layout().signature()));
        each.join(", ")
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|f| f.name() == text);
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name);
            let near = names
                .into_iter()
                .map(|name| (strsim::jaro_winkler(text, name), name))
                .filter(|(score, _)| *score > 0.8)
                .max_by(|a, b| a.0.total_cmp(&b.0));
            match near {
                Some((_, name)) => format!("found {text}, did you mean {name}?"),
                None => format!("found {text}, expected one of {}", names.join(", ")),
            }
        })
    }
}
