//! What each format must say of itself.

use std::path::Path;

use burn::tensor::Device;
use lapidary_coder::{CoderError, Description, Dictionary};

use crate::error::FormatError;
use crate::place::Place;
use crate::sample::SAMPLE;

/// A format.
pub(crate) trait Layout: Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// The files by which it is known, in words.
    fn signature(&self) -> &'static str;

    /// What of it lies at `place`, in words, if it does.
    fn signs(&self, place: &Place) -> Result<Option<String>, FormatError>;

    /// Reads the dictionary.
    fn read(&self, place: &Place, device: &Device) -> Result<Dictionary, FormatError>;

    /// What its files say of it, where that needs no weights; none where it does.
    fn describe(&self, _place: &Place) -> Result<Option<Description>, FormatError> {
        Ok(None)
    }

    /// What of this dictionary the format has no place for.
    fn cannot_hold(&self, _dictionary: &Dictionary) -> Option<String> {
        Some("anything written here: it is only read".into())
    }

    /// Why it cannot hold these together, each of which it can alone.
    fn cannot_join(&self, _dictionaries: &[Dictionary]) -> Option<String> {
        Some("more than one dictionary".into())
    }

    /// Writes the files of one dictionary into the folder. Asked only of what it can hold.
    fn write(&self, _dictionary: &Dictionary, _folder: &Path) -> Result<(), CoderError> {
        Ok(())
    }

    /// The file that a dictionary is, in a folder of several; none if the folder is one dictionary.
    fn file(&self, _dictionary: &Dictionary) -> Option<String> {
        None
    }

    /// The files at `place` that are a dictionary each, where it is a set of them.
    fn members(&self, _place: &Place) -> Vec<String> {
        vec![]
    }

    /// The name of the sample beside a dictionary.
    fn sample(&self, _dictionary: &Dictionary) -> String {
        SAMPLE.into()
    }
}
