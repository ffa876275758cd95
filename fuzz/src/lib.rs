//! What the fuzz targets do: each reader of files from outside, given any bytes as its file. An
//! error is right, and so is a result that can be used; a panic, endless work or endless memory is
//! not.
//!
//! A reader that wants more than one file finds good ones beside the one that is tried. They are
//! made once, by [`seeds`]' means, in a folder of this process.

mod folders;
mod readers;
pub mod seeds;

pub use readers::*;
