//! Training of sparse coders: the recipe, the losses, one step for every architecture, the trainer,
//! the run, and its checkpoints.
//!
//! A [`Recipe`] says what to do, a [`TrainingRun`] does it for one recipe or several on one source
//! of activations, and [`TrainingRun::finish`] gives a dictionary that explains activations as the
//! model makes them.
//!
//! ```
//! use burn::tensor::{Device, Distribution, Tensor};
//! use lapidary_activations::ActivationMatrix;
//! use lapidary_sae::{Recipe, TrainingRun};
//!
//! let device = Device::flex();
//! let rows = Tensor::<2>::random([2048, 8], Distribution::Default, &device);
//! let settings = ["coder.d_sae=32", "coder.k=4", "training.tokens=4096", "training.batch_tokens=256"];
//! let recipe = Recipe::with_defaults(&settings.map(String::from))?;
//! let source = ActivationMatrix::new(rows, 256, recipe.order_seed())?;
//! let mut run = TrainingRun::new(&[recipe], Box::new(source), &device)?;
//! run.run(&mut |_, report| println!("{}: {}", report.step, report.fvu))?;
//! let dictionary = run.finish(0)?;
//! # let _ = dictionary;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod architectures;
mod batch;
pub mod checkpoint;
mod dead_latents;
mod decoder_norm;
mod divergence;
mod encoded;
mod error;
mod firing;
#[cfg(test)]
mod gradient_tests;
mod init;
mod keys;
mod l0_control;
pub mod losses;
mod model_loss;
mod optimizer;
mod parameters;
pub mod recipe;
mod run;
pub mod schedule;
mod step;
mod trainer;

pub use batch::Batch;
pub use error::SaeError;
pub use recipe::{Recipe, ResolvedRecipe};
pub use run::{Observer, TrainingRun, hook_points};
pub use trainer::{StepReport, Trainer};
