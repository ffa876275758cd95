//! What a dictionary is: a coder with its weights, where it reads and what it reconstructs, and its
//! provenance. No trainer, no recipe, and no file layout.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use lapidary_coder::{Architecture, Coder, SparseCoder, Weights};
//!
//! let device = Device::flex();
//! let coder = SparseCoder {
//!     architecture: Architecture::TopK { k: 1 },
//!     apply_b_dec_to_input: false,
//!     weights: Weights::new([
//!         ("w_enc", Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 1.0]], &device).into()),
//!         ("b_enc", Tensor::<1>::zeros([2], &device).into()),
//!         ("w_dec", Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 1.0]], &device).into()),
//!         ("b_dec", Tensor::<1>::zeros([2], &device).into()),
//!     ]),
//! };
//! let x = Tensor::<2>::from_floats([[3.0, 1.0]], &device);
//! let codes = coder.encode(x.clone());
//! let reconstruction: Vec<f32> = coder.reconstruct(codes, x).to_data().iter().collect();
//! assert_eq!(reconstruction, [3.0, 0.0]);
//! ```

mod architectures;
mod coder;
mod dictionary;
mod error;
mod fold;
mod host;
mod model_loading;
mod penalty;
mod provenance;
mod pursuit_codes;
mod scaling;
mod sites;
mod weights;

pub use architectures::{Architecture, ArchitectureKind};
pub use coder::{
    AnyCoder, Coder, CrossLayerTranscoder, MOST_LAYERS, SparseCoder, add_last, join_codes,
};
pub use dictionary::{Description, Dictionary};
pub use error::CoderError;
pub use host::{host, host_int, matrix, read_tensor, vector, write_tensor};
pub use lapidary_kernels::Pursuit;
pub use model_loading::{LoadingPlan, ModelLoading};
pub use penalty::{Penalty, Shape};
pub use provenance::Provenance;
pub use pursuit_codes::codes as pursuit_codes;
pub use scaling::{Affine, Scaling};
pub use sites::{SECOND_MODEL, SiteKeys, Sites};
pub use weights::{SKIP, Weight, WeightKey, Weights};
