//! Cuts language-model activations into interpretable features: from a recipe, or from a matrix of
//! activations, to a dictionary with its metrics, feature tables and report.
//!
//! [`train`] does what the command `lapidary train` does. [`Opened`] is a dictionary with its
//! model, [`measure`] evaluates it, [`Tables`] are its tables and report. The crates below are
//! re-exported under short names.
//!
//! ```no_run
//! use lapidary::{NamedRecipe, Silent, TrainOptions, kernels::device, train};
//!
//! let device = device::open("auto".parse()?)?;
//! let settings = vec!["coder.k=16".to_owned()];
//! let recipe = NamedRecipe::read("mine".into(), "settings", "", settings)?;
//! let report = train(vec![recipe], "out".as_ref(), false, TrainOptions::default(), &device, &Silent)?;
//! println!("{}", report.display());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod clamping;
mod class_incremental;
pub mod codebooks;
mod comparison;
mod continuation;
mod course;
pub mod device;
mod dictionary_folder;
pub mod dictionary_model;
mod document_ids;
mod error;
mod export;
mod firing;
pub mod first_batch;
mod label_saving;
mod label_table;
mod label_writer;
mod labelled;
mod labelling;
pub mod measures;
mod neurons;
mod opened;
mod plotting;
mod progress;
mod provenance;
mod quantize_dictionary;
mod quantize_effect;
mod recipes;
mod report;
pub mod run_folder;
mod sae_probes;
mod selection;
mod serve;
pub mod summary;
mod tables;
mod texts;
mod train;

pub use lapidary_activations as activations;
pub use lapidary_circuits as circuits;
pub use lapidary_codebook as codebook;
pub use lapidary_coder as coder;
pub use lapidary_evaluation as evaluation;
pub use lapidary_features as features;
pub use lapidary_formats as formats;
pub use lapidary_io as io;
pub use lapidary_kernels as kernels;
pub use lapidary_model as model;
pub use lapidary_quantize as quantize;
pub use lapidary_sae as sae;

pub use clamping::ClampOptions;
pub use class_incremental::run_class_incremental;
pub use codebooks::{CodebookRun, train_codebooks};
pub use comparison::{CompareOptions, Comparison, ComparisonSummary, compare};
pub use continuation::{Prompt, highest_activations, steer_by};
pub use dictionary_folder::check_replacement;
pub use document_ids::document_ids;
pub use error::{Error, Result};
pub use export::{Viewer, export};
pub use firing::{Firing, FiringToken, fire, fire_with};
pub use label_saving::{check_labels, save_labels};
pub use label_writer::LabelWriter;
pub use labelled::{LabelledPassages, LabelledTexts, Passage};
pub use labelling::{LabelOptions, Labelled, MethodScores, label};
pub use neurons::{NeuronOptions, NeuronWeights, Neurons, decode_neurons};
pub use opened::{
    DictionaryOptions, Opened, SignedMetrics, TextOptions, measure, open_dictionary,
    open_transcoders, read_blocks,
};
pub use plotting::{COLUMNS, CURVES, Plot, plot};
pub use progress::{Progress, Silent, StageDisplay, count};
pub use provenance::{reconstructs, widths};
pub use quantize_dictionary::{Cosines, QuantizationReport, QuantizeOptions, quantize_dictionary};
pub use quantize_effect::Effect;
pub use recipes::{NamedRecipe, Sweep, read_all};
pub use report::rewrite_report;
pub use sae_probes::{SaeProbesOptions, probe_data_sets};
pub use selection::{SelectOptions, Selection, select};
pub use serve::{ServeOptions, Server};
pub use tables::Tables;
pub use train::{TrainOptions, train};
