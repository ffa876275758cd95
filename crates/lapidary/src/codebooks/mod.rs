//! Models with codebooks: training, and what their codes do on text.

mod find;
mod predicate;
mod run;
mod steer;
mod tables;
mod text;

pub use find::{Find, find_codes, write_codes};
pub use predicate::Predicate;
pub use run::{CodebookRun, train_codebooks};
pub use steer::{OnTopic, Steer, Steered, steer};
pub use tables::write_code_tables;
pub use text::RunText;
