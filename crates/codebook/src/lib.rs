//! Vector-quantized bottlenecks in a transformer: codebook features (Tamkin, Taufeeque, Goodman
//! 2023).
//!
//! A [`Codebook`] replaces an activation by the sum of its few nearest codes, so that what a layer
//! passes on is a short list of integers. [`nearest_codes`] chooses them.
//!
//! ```
//! use burn::tensor::{Device, Tensor};
//! use lapidary_codebook::{Codebook, CodebookOptions};
//!
//! let device = Device::flex();
//! let codes = Tensor::<2>::from_floats([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]], &device);
//! let options = CodebookOptions { n_codes: 3, k: 1, ..Default::default() };
//! let codebook = Codebook::new(options, 1, codes)?;
//! let snapped = codebook.apply(&Tensor::from_floats([[0.3, 0.9], [-4.0, 1.0]], &device));
//! let chosen: Vec<i32> = snapped.codes[0].to_data().try_to_vec()?;
//! assert_eq!(chosen, [1, 2]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod class_incremental;
mod code_search;
mod codebook;
mod config;
mod data;
mod error;
mod evaluation;
mod init;
mod inputs;
mod key_value;
mod memory;
mod observation;
mod patching;
mod placement;
mod state_codes;
mod state_counts;
mod storage;
mod tokfsm;
mod training;
mod usage;

pub use class_incremental::{ClassData, ClassIncremental, ClassRows, Incremental};
pub use code_search::{CodeSearch, FoundCode};
pub use codebook::{
    Assignment, CodeLoss, Codebook, CodebookOptions, Combination, Snapped, nearest_codes,
};
pub use config::{CodebookConfig, DataOptions, Initialization, ModelOptions, Schedule};
pub use data::{Data, Text};
pub use error::CodebookError;
pub use evaluation::{CodebookMetrics, Metrics, evaluate};
pub use init::{k_means, normal_codes, rows_as_codes};
pub use key_value::{KeyValueBottleneck, KeyValueOptions};
pub use observation::Observed;
pub use patching::{Patched, patch_state};
pub use placement::{ChosenCodes, CodeEdit, Codebooks, HookFunction, Place, Placed, interventions};
pub use state_codes::{StateCode, neuron_precisions, state_codes};
pub use storage::{
    CODES, DESCRIPTION, has_checkpoint, is_checkpoint_file, load_checkpoint, load_codebooks,
    save_checkpoint, save_codebooks,
};
pub use tokfsm::{TokFsm, TokFsmOptions};
pub use training::{CodebookStep, CodebookTrainer};
pub use usage::{CodeUsage, replace_dead};
