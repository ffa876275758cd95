//! NumPy's `.npz`: a zip archive of `.npy` files, each a short header (a Python literal: type,
//! order, shape) and elements. Object arrays, which are pickles, are refused, as is every type but
//! floats and integers.

// Not by npyz: it panics on a shape whose product overflows, and hangs on nested brackets.

// Not by npyz: it panics on a shape whose product overflows, and hangs on nested brackets.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use lapidary_coder::CoderError;
use lapidary_io::tensors::{Data, Entry, Tensors};
use safetensors::tensor::Dtype;
use zip::ZipArchive;

use super::damaged;

/// Arrays that an archive may hold, and bytes that the header of one may have.
const MOST_ARRAYS: usize = 1024;
const LONGEST_HEADER: usize = 4096;
/// Above this many bytes an array may not have been compressed to less than one in so many: weights
/// are not zeros.
const MUCH: u64 = 1 << 24;
const DENSEST: u64 = 64;

/// An opened file.
pub(crate) struct NpzFile {
    path: PathBuf,
    archive: RefCell<ZipArchive<BufReader<File>>>,
    arrays: BTreeMap<String, Array>,
}

/// Where an array is, and what its header says.
struct Array {
    index: usize,
    header: Header,
    /// Bytes before the elements.
    start: usize,
}

#[derive(Debug, PartialEq)]
struct Header {
    dtype: Dtype,
    shape: Vec<usize>,
}

impl NpzFile {
    pub(crate) fn open(path: &Path) -> Result<Self, CoderError> {
        let file = File::open(path).map_err(|e| CoderError::read(path, e))?;
        let length = file
            .metadata()
            .map_err(|e| CoderError::read(path, e))?
            .len();
        let expected = "a zip archive of .npy files";
        let mut archive =
            ZipArchive::new(BufReader::new(file)).map_err(|e| damaged(path, e, expected))?;
        if archive.len() > MOST_ARRAYS {
            let found = format!("{} files", archive.len());
            return Err(damaged(path, found, &format!("at most {MOST_ARRAYS}")));
        }
        let mut arrays = BTreeMap::new();
        for index in 0..archive.len() {
            let mut entry = archive
                .by_index(index)
                .map_err(|e| damaged(path, e, expected))?;
            let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
            let wrong = |found: String, expected: &str| {
                CoderError::format(path, format!("array `{name}`"), found, expected)
            };
            let Some(short) = name.strip_suffix(".npy") else {
                return Err(wrong("another file".into(), "a name that ends in .npy"));
            };
            let size = entry.size();
            if size > MUCH && size / DENSEST > entry.compressed_size().min(length) {
                let found = format!("{size} bytes out of {}", entry.compressed_size());
                return Err(wrong(found, "what weights are compressed to"));
            }
            let text = read_header(&mut entry).map_err(|e| wrong(e, "the header of an array"))?;
            let header = parse(&text.1).map_err(|e| wrong(e, "floats or integers, C order"))?;
            let elements = header
                .shape
                .iter()
                .try_fold(1, |n: usize, d| n.checked_mul(*d));
            let bytes = elements.and_then(|n| n.checked_mul(header.dtype.bitsize() / 8));
            if bytes.and_then(|b| b.checked_add(text.0)).map(|b| b as u64) != Some(size) {
                return Err(wrong(
                    format!("shape {:?} in {size} bytes", header.shape),
                    "as many bytes as type and shape need",
                ));
            }
            let array = Array {
                index,
                header,
                start: text.0,
            };
            if arrays.insert(short.to_owned(), array).is_some() {
                return Err(wrong(
                    "another array of this name".into(),
                    "one of each name",
                ));
            }
        }
        Ok(Self {
            path: path.into(),
            archive: RefCell::new(archive),
            arrays,
        })
    }

    pub(crate) fn tensors(&self) -> Tensors<'_> {
        let entries = self.arrays.iter().map(|(name, array)| {
            let entry = Entry {
                dtype: array.header.dtype,
                shape: array.header.shape.clone(),
                data: Data::OnDemand(Box::new(|| self.elements(array))),
            };
            (name.clone(), entry)
        });
        Tensors::new(&self.path, entries.collect())
    }

    /// A compressed file can claim any size, so room grows with what arrives, up to a byte more
    /// than belongs there.
    fn elements(&self, array: &Array) -> io::Result<Vec<u8>> {
        let mut archive = self.archive.borrow_mut();
        let mut entry = archive.by_index(array.index).map_err(io::Error::other)?;
        io::copy(&mut (&mut entry).take(array.start as u64), &mut io::sink())?;
        let most = entry.size().saturating_sub(array.start as u64) + 1;
        let mut bytes = Vec::new();
        entry.by_ref().take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// The bytes before the elements, and the header's text.
fn read_header(from: &mut impl Read) -> Result<(usize, String), String> {
    let mut start = [0; 8];
    from.read_exact(&mut start).map_err(|e| e.to_string())?;
    if !start.starts_with(b"\x93NUMPY") {
        return Err("no array's first bytes".into());
    }
    let (before, length) = match start[6] {
        1 => {
            let mut length = [0; 2];
            from.read_exact(&mut length).map_err(|e| e.to_string())?;
            (10, usize::from(u16::from_le_bytes(length)))
        }
        2 | 3 => {
            let mut length = [0; 4];
            from.read_exact(&mut length).map_err(|e| e.to_string())?;
            (12, u32::from_le_bytes(length) as usize)
        }
        other => return Err(format!("version {other}")),
    };
    if length > LONGEST_HEADER {
        return Err(format!("a header of {length} bytes"));
    }
    let mut text = vec![0; length];
    from.read_exact(&mut text).map_err(|e| e.to_string())?;
    let text = String::from_utf8(text).map_err(|e| e.to_string())?;
    Ok((before + length, text))
}

/// `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`, in any order.
fn parse(text: &str) -> Result<Header, String> {
    let value = |key: &str| {
        let (_, rest) = text.split_once(&format!("'{key}':"))?;
        Some(rest.trim_start())
    };
    let found = || text.trim_end().chars().take(80).collect::<String>();
    let kind = value("descr")
        .and_then(|v| v.strip_prefix('\''))
        .and_then(|v| v.split_once('\''))
        .ok_or_else(found)?;
    let dtype = match kind.0 {
        "<f8" => Dtype::F64,
        "<f4" => Dtype::F32,
        "<f2" => Dtype::F16,
        "<i8" => Dtype::I64,
        "<i4" => Dtype::I32,
        "<i2" => Dtype::I16,
        "|u1" => Dtype::U8,
        other => return Err(format!("type {other}")),
    };
    // A single column or row is in both orders.
    if !value("fortran_order").is_some_and(|v| v.starts_with("False")) {
        return Err("Fortran order".into());
    }
    let shape = value("shape")
        .and_then(|v| v.strip_prefix('('))
        .and_then(|v| v.split_once(')'))
        .ok_or_else(found)?;
    let sizes = shape.0.split(',').map(str::trim).filter(|s| !s.is_empty());
    let shape: Result<Vec<usize>, _> = sizes.map(str::parse).collect();
    Ok(Header {
        dtype,
        shape: shape.map_err(|_| found())?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_as_numpy_writes_them_are_read() {
        let read = |text| parse(text).map(|h| (h.dtype, h.shape));
        assert_eq!(
            read("{'descr': '<f4', 'fortran_order': False, 'shape': (16384, 2304), }   \n"),
            Ok((Dtype::F32, vec![16384, 2304]))
        );
        assert_eq!(
            read("{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }\n"),
            Ok((Dtype::F64, vec![3]))
        );
        assert_eq!(
            read("{'descr': '<i8', 'fortran_order': False, 'shape': (), }\n"),
            Ok((Dtype::I64, vec![]))
        );
        for (text, why) in [
            (
                "{'descr': '|O', 'fortran_order': False, 'shape': (3,), }",
                "type |O",
            ),
            (
                "{'descr': '>f4', 'fortran_order': False, 'shape': (3,), }",
                "type >f4",
            ),
            (
                "{'descr': '<f4', 'fortran_order': True, 'shape': (3, 4), }",
                "Fortran order",
            ),
            (
                "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }",
                "{'descr': [",
            ),
            (
                "{'descr': '<f4', 'fortran_order': False, 'shape': (-3,), }",
                "{'descr': '<f4'",
            ),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(why), "{error}");
        }
    }
}
