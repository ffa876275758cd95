//! Dictionaries in our own layout, SAELens's: what is written reads back exactly, other libraries'
//! types are read, and hostile files are one clear error each.

mod dictionary;
mod foreign;
mod written;
