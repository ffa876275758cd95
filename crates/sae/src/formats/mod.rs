//! Dictionaries on disk, one file a layout.

pub(crate) mod saelens;
