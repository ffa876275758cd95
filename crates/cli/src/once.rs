//! Lists of options whose values must differ.

use anyhow::{Result, bail};
use std::fmt::Display;

/// Refuses a value that an option was given twice.
pub fn each_once<T: Display + PartialEq>(option: &str, values: &[T]) -> Result<()> {
    let again = (1..values.len()).find(|i| values[..*i].contains(&values[*i]));
    match again {
        Some(i) => bail!("{option}: found {} twice, expected each once", values[i]),
        None => Ok(()),
    }
}
