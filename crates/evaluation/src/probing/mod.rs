//! What can be read off latents: k-sparse probes (Gurnee et al. 2023; as in SAEBench), feature
//! absorption (Chanin et al. 2024), and how much of a representation each of several known features
//! takes (Lampinen et al. 2024).

mod absorption;
mod descent;
mod first_letter;
mod logistic;
mod rows;
pub mod sae_probes;
mod shares;
mod sparse;
mod texts;

pub use absorption::{
    Absorption, AbsorptionConfig, Evidence, LetterAbsorption, WordAbsorption, absorption_of,
};
pub use first_letter::{FirstLetter, first_letter_task};
pub use logistic::{Balance, Logistic};
pub use rows::Rows;
pub use shares::feature_shares;
pub use sparse::{ProbeConfig, ProbeResult, Task, TopK, sparse_probing};
pub use texts::{Reading, Represented, represent};
