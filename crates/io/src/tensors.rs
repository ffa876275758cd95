//! Named tensors in a file, read as if an enemy had written it: every shape is checked against what
//! the caller expects before anything is allocated, and an error names file, tensor, what was found
//! and what was expected. Our own files are safetensors; a reader of another container hands over
//! what it lists.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::IoError;
use crate::file::write_file;
use crate::header::safetensors_header;

/// What the bytes of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bytes {
    /// Whole numbers from −128 to 127, in two's complement.
    Signed,
    /// Whole numbers from 0 to 255, or what several numbers were packed into.
    Unsigned,
}

impl Bytes {
    const fn dtype(self) -> Dtype {
        match self {
            Self::Signed => Dtype::I8,
            Self::Unsigned => Dtype::U8,
        }
    }
}

/// Bytes of a header that safetensors reads, at most.
const MOST_HEADER: usize = 100_000_000;

/// A tensor on its way into a file.
struct Outgoing<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Cow<'a, [u8]>,
}

/// Tensors to be written, as bytes.
#[derive(Default)]
pub struct TensorWriter<'a> {
    tensors: Vec<Outgoing<'a>>,
}

impl<'a> TensorWriter<'a> {
    /// Adds numbers with a shape.
    pub fn f32(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.push(name, Dtype::F32, shape, bytes);
    }

    /// Adds numbers with a shape. They are not copied (on big-endian machines, they are).
    pub fn borrowed_f32(&mut self, name: &str, shape: &[usize], values: &'a [f32]) {
        match cfg!(target_endian = "little") {
            true => {
                let bytes = Cow::Borrowed(bytemuck::cast_slice(values));
                self.push(name, Dtype::F32, shape, bytes);
            }
            false => self.f32(name, shape, values),
        }
    }

    /// Adds numbers with a shape as f16, rounded to nearest even.
    pub fn f16(&mut self, name: &str, shape: &[usize], values: &[f32]) {
        let values = values.iter().map(|v| f16::from_f32(*v));
        let bytes = values.flat_map(f16::to_le_bytes).collect();
        self.push(name, Dtype::F16, shape, bytes);
    }

    /// Adds f64 numbers.
    pub fn f64(&mut self, name: &str, values: &[f64]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.push(name, Dtype::F64, &[values.len()], bytes);
    }

    /// Adds whole numbers.
    pub fn u64(&mut self, name: &str, values: &[u64]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.push(name, Dtype::U64, &[values.len()], bytes);
    }

    /// Adds small whole numbers with a shape.
    pub fn i32(&mut self, name: &str, shape: &[usize], values: &[i32]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.push(name, Dtype::I32, shape, bytes);
    }

    /// Adds bytes that are whole numbers from −128 to 127, or that mean something else.
    pub fn bytes(&mut self, name: &str, shape: &[usize], kind: Bytes, bytes: &[u8]) {
        self.push(name, kind.dtype(), shape, Cow::Owned(bytes.to_vec()));
    }

    /// Adds whole numbers that may be negative.
    pub fn i64(&mut self, name: &str, values: &[i64]) {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.push(name, Dtype::I64, &[values.len()], bytes);
    }

    fn push(&mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: Cow<'a, [u8]>) {
        self.tensors.push(Outgoing {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            bytes,
        });
    }

    /// Writes the file `path` in a folder that nobody else uses yet, and forces it to the disk. A
    /// file of this name is lost; after an error, a part of the new file may be there.
    ///
    /// # Errors
    /// It cannot be written, or a shape does not hold its values.
    pub fn write(
        &self,
        path: &Path,
        metadata: Option<HashMap<String, String>>,
    ) -> Result<(), IoError> {
        let (tensors, header) = self.header(path, metadata)?;
        let written = File::create(path).and_then(|mut file| {
            write_all(&mut file, &tensors, &header)?;
            file.sync_all()
        });
        written.map_err(IoError::write(path))
    }

    /// Writes a file that appears whole or not at all ([`write_file`]).
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn write_atomically(
        &self,
        path: &Path,
        metadata: Option<HashMap<String, String>>,
    ) -> Result<(), IoError> {
        let (tensors, header) = self.header(path, metadata)?;
        write_file(path, |file| {
            write_all(file, &tensors, &header).map_err(IoError::write(path))
        })
    }

    /// The tensors in the order of [`safetensors::serialize`], which would need memory for the
    /// whole file, and the header that it gives them.
    fn header(
        &self,
        path: &Path,
        metadata: Option<HashMap<String, String>>,
    ) -> Result<(Vec<&Outgoing<'a>>, Vec<u8>), IoError> {
        let mut tensors: Vec<&Outgoing<'_>> = self.tensors.iter().collect();
        tensors.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
        let mut names = BTreeSet::new();
        for Outgoing {
            name,
            dtype,
            shape,
            bytes,
        } in &tensors
        {
            let wrong = |found: String, expected: String| {
                Err(IoError::format(
                    path,
                    format!("tensor `{name}`"),
                    found,
                    expected,
                ))
            };
            if !names.insert(name) {
                return wrong("two of this name".into(), "one".into());
            }
            let numbers = shape.iter().try_fold(1, |n: usize, d| n.checked_mul(*d));
            let bits = numbers.and_then(|n| n.checked_mul(dtype.bitsize()));
            if bits != bytes.len().checked_mul(8) {
                let found = format!("{} bytes", bytes.len());
                return wrong(found, format!("those of {dtype:?} {shape:?}"));
            }
        }
        let mut end = 0;
        let located = tensors.iter().map(|tensor| {
            let start = end;
            end += tensor.bytes.len();
            let info = TensorInfo {
                dtype: tensor.dtype,
                shape: tensor.shape.clone(),
                data_offsets: (start, end),
            };
            (tensor.name.clone(), info)
        });
        let located: Vec<_> = located.collect();
        let header = Metadata::new(metadata, located).map_err(io::Error::other);
        let header = header.and_then(|header| Ok(serde_json::to_vec(&header)?));
        let mut header = header.map_err(IoError::write(path))?;
        header.resize(header.len().next_multiple_of(8), b' ');
        if header.len() > MOST_HEADER {
            let found = format!("{} bytes", header.len());
            let expected = format!("at most {MOST_HEADER}: fewer tensors, or shorter names");
            return Err(IoError::format(path, "header", found, expected));
        }
        Ok((tensors, header))
    }
}

fn write_all(file: &mut File, tensors: &[&Outgoing<'_>], header: &[u8]) -> io::Result<()> {
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header)?;
    tensors
        .iter()
        .try_for_each(|tensor| file.write_all(&tensor.bytes))
}

/// The tensors of a file.
pub struct Tensors<'a> {
    path: &'a Path,
    entries: BTreeMap<String, Entry<'a>>,
}

/// A tensor as a file lists it.
pub struct Entry<'a> {
    /// Type of an element.
    pub dtype: Dtype,
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Its elements, little-endian, the last index running fastest.
    pub data: Data<'a>,
}

/// The elements of an [`Entry`].
pub enum Data<'a> {
    /// They are in memory.
    InMemory(&'a [u8]),
    /// They are read when they are asked for.
    OnDemand(Box<dyn Fn() -> io::Result<Vec<u8>> + 'a>),
}

impl<'a> Tensors<'a> {
    /// The tensors of a safetensors file, whose header is checked against its length. `bytes` are
    /// those of the file `path`, best mapped into memory: a tensor that nobody asks for is not
    /// read.
    ///
    /// # Errors
    /// It is no safetensors file.
    pub fn parse(path: &'a Path, bytes: &'a [u8]) -> Result<Self, IoError> {
        let tensors = safetensors_header(bytes).map_err(|e| {
            IoError::format(
                path,
                "header",
                e.to_string(),
                "a safetensors file whose header matches its length",
            )
        })?;
        let entries = tensors.into_iter().map(|(name, located)| {
            let entry = Entry {
                dtype: located.dtype,
                shape: located.shape,
                data: Data::InMemory(&bytes[located.bytes]),
            };
            (name, entry)
        });
        Ok(Self::new(path, entries.collect()))
    }

    /// The tensors that the file `path` lists.
    #[must_use]
    pub fn new(path: &'a Path, entries: BTreeMap<String, Entry<'a>>) -> Self {
        Self { path, entries }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.path
    }

    /// Their names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Their names, sorted, each with its type and sizes.
    pub fn described(&self) -> impl Iterator<Item = (&str, String, &[usize])> {
        let each = self.entries.iter();
        each.map(|(name, e)| (name.as_str(), format!("{:?}", e.dtype), &e.shape[..]))
    }

    /// Refuses a tensor that is not among `known`: what it would change is not known.
    ///
    /// # Errors
    /// When there is one.
    pub fn only(&self, known: &[&str]) -> Result<(), IoError> {
        let foreign = self.names().find(|name| !known.contains(name));
        match foreign {
            None => Ok(()),
            Some(name) => Err(IoError::format(
                self.path,
                format!("tensor `{name}`"),
                "a tensor that means nothing here",
                format!("only [{}]", known.join(", ")),
            )),
        }
    }

    fn entry(&self, name: &str, shape: &[usize]) -> Result<&Entry<'a>, IoError> {
        let entry = self.entries.get(name).ok_or_else(|| {
            let names: Vec<&str> = self.names().take(12).collect();
            IoError::format(
                self.path,
                format!("tensor `{name}`"),
                format!("only [{}]", names.join(", ")),
                format!("{name} {shape:?}"),
            )
        })?;
        if entry.shape != shape {
            let turned = entry.shape.iter().rev().eq(shape);
            let note = if turned {
                " (this one lies transposed)"
            } else {
                ""
            };
            return Err(IoError::format(
                self.path,
                format!("tensor `{name}`"),
                format!("shape {:?}", entry.shape),
                format!("shape {shape:?}{note}"),
            ));
        }
        Ok(entry)
    }

    /// The bytes of a tensor, as many as its type and shape need.
    fn bytes(&self, name: &str, entry: &Entry<'a>) -> Result<Cow<'_, [u8]>, IoError> {
        let wrong = |found: String, expected: String| {
            IoError::format(self.path, format!("tensor `{name}`"), found, expected)
        };
        let count = entry
            .shape
            .iter()
            .try_fold(1, |n: usize, d| n.checked_mul(*d));
        let size = count.and_then(|n| n.checked_mul(entry.dtype.bitsize()));
        let size = size.map(|bits| bits / 8).ok_or_else(|| {
            wrong(
                format!("shape {:?}", entry.shape),
                "one that fits memory".into(),
            )
        })?;
        let bytes = match &entry.data {
            Data::InMemory(bytes) => Cow::Borrowed(*bytes),
            Data::OnDemand(read) => {
                let read = read().map_err(|e| wrong(e.to_string(), "its elements".into()))?;
                Cow::Owned(read)
            }
        };
        if bytes.len() == size {
            Ok(bytes)
        } else {
            Err(wrong(format!("{} bytes", bytes.len()), format!("{size}")))
        }
    }

    /// Checks that there is a tensor of this name and shape.
    ///
    /// # Errors
    /// When there is none, or it has another shape.
    pub fn check(&self, name: &str, shape: &[usize]) -> Result<(), IoError> {
        self.entry(name, shape).map(|_| ())
    }

    /// Whether there is a tensor of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The shape of a tensor, if it is there.
    #[must_use]
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.entries.get(name).map(|e| e.shape.clone())
    }

    /// Finite numbers of a tensor of exactly this shape; stored as F32, F16, BF16 or F64.
    ///
    /// # Errors
    /// When there is none, or it has another shape or type, or a value is not finite.
    pub fn f32(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, IoError> {
        let values = self.numbers(name, shape)?;
        self.refuse(name, &values, "finite numbers", |v| v.is_finite())?;
        Ok(values)
    }

    /// As [`Tensors::f32`], but infinity is a value too.
    ///
    /// # Errors
    /// As there.
    pub fn f32_or_infinite(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, IoError> {
        let values = self.numbers(name, shape)?;
        self.refuse(name, &values, "numbers", |v| !v.is_nan())?;
        Ok(values)
    }

    fn refuse(
        &self,
        name: &str,
        values: &[f32],
        expected: &str,
        good: impl Fn(f32) -> bool,
    ) -> Result<(), IoError> {
        match values.iter().position(|v| !good(*v)) {
            None => Ok(()),
            Some(at) => Err(IoError::format(
                self.path,
                format!("tensor `{name}`"),
                format!("{} at element {at}", values[at]),
                expected,
            )),
        }
    }

    fn numbers(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, IoError> {
        let entry = self.entry(name, shape)?;
        if !matches!(
            entry.dtype,
            Dtype::F32 | Dtype::F16 | Dtype::BF16 | Dtype::F64
        ) {
            return Err(IoError::format(
                self.path,
                format!("tensor `{name}`"),
                format!("type {:?}", entry.dtype),
                "F32, F16, BF16 or F64",
            ));
        }
        let data = &*self.bytes(name, entry)?;
        Ok(match entry.dtype {
            Dtype::F16 => chunks(data)
                .map(|b| f16::from_le_bytes(b).to_f32())
                .collect(),
            Dtype::BF16 => chunks(data)
                .map(|b| bf16::from_le_bytes(b).to_f32())
                .collect(),
            Dtype::F64 => chunks(data).map(|b| f64::from_le_bytes(b) as f32).collect(),
            _ => chunks(data).map(f32::from_le_bytes).collect(),
        })
    }

    /// The one whole number of a tensor `[]` or `[1]` of any integer type.
    ///
    /// # Errors
    /// When there is none, or several, or it is below 0.
    pub fn whole(&self, name: &str) -> Result<u64, IoError> {
        let shape = self.shape(name).unwrap_or_default();
        let expected = match shape.iter().all(|d| *d == 1) {
            true => &shape[..],
            false => &[],
        };
        Ok(self.integers(name, expected)?[0])
    }

    /// The whole numbers of a vector of any integer type, `most` at most.
    ///
    /// # Errors
    /// When it is no such vector, or a number is below 0.
    pub fn wholes(&self, name: &str, most: usize) -> Result<Vec<u64>, IoError> {
        let shape = self.shape(name).unwrap_or_default();
        let expected = match shape[..] {
            [n] => n.min(most),
            _ => most,
        };
        self.integers(name, &[expected])
    }

    fn integers(&self, name: &str, shape: &[usize]) -> Result<Vec<u64>, IoError> {
        let entry = self.entry(name, shape)?;
        let wrong = |found: String| {
            let expected = "whole numbers, 0 or more";
            IoError::format(self.path, format!("tensor `{name}`"), found, expected)
        };
        let data = self.bytes(name, entry)?;
        let values: Vec<i64> = match entry.dtype {
            Dtype::I64 => chunks(&data).map(i64::from_le_bytes).collect(),
            Dtype::I32 => chunks(&data)
                .map(|b| i32::from_le_bytes(b).into())
                .collect(),
            Dtype::I16 => chunks(&data)
                .map(|b| i16::from_le_bytes(b).into())
                .collect(),
            Dtype::U8 => data.iter().map(|b| (*b).into()).collect(),
            other => return Err(wrong(format!("type {other:?}"))),
        };
        let each = values.into_iter();
        each.map(|v| u64::try_from(v).map_err(|_| wrong(v.to_string())))
            .collect()
    }

    /// f64 numbers, exactly as stored.
    pub fn f64(&self, name: &str, count: usize) -> Result<Vec<f64>, IoError> {
        let data = self.typed(name, &[count], Dtype::F64)?;
        Ok(chunks(&data).map(f64::from_le_bytes).collect())
    }

    /// Whole numbers; `count` of them if given.
    ///
    /// # Errors
    /// When it is no such vector.
    pub fn u64(&self, name: &str, count: usize) -> Result<Vec<u64>, IoError> {
        let data = self.typed(name, &[count], Dtype::U64)?;
        Ok(chunks(&data).map(u64::from_le_bytes).collect())
    }

    /// The bytes of a tensor of exactly this shape, a byte per element.
    ///
    /// # Errors
    /// When there is none, or it has another shape or type.
    pub fn bytes_of(&self, name: &str, shape: &[usize], kind: Bytes) -> Result<Vec<u8>, IoError> {
        let data = self.typed(name, shape, kind.dtype())?;
        Ok(data.into_owned())
    }

    fn typed(&self, name: &str, shape: &[usize], dtype: Dtype) -> Result<Cow<'_, [u8]>, IoError> {
        let entry = self.entry(name, shape)?;
        if entry.dtype != dtype {
            return Err(IoError::format(
                self.path,
                format!("tensor `{name}`"),
                format!("type {:?}", entry.dtype),
                format!("{dtype:?}"),
            ));
        }
        self.bytes(name, entry)
    }
}

/// Little-endian elements of `N` bytes.
fn chunks<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    data.as_chunks::<N>().0.iter().copied()
}

/// `[rows, columns]` to `[columns, rows]`.
#[must_use]
pub fn transpose(data: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; data.len()];
    // Tiles keep both sides in cache.
    const TILE: usize = 32;
    for r0 in (0..rows).step_by(TILE) {
        for c0 in (0..columns).step_by(TILE) {
            for r in r0..(r0 + TILE).min(rows) {
                for c in c0..(c0 + TILE).min(columns) {
                    out[c * rows + r] = data[r * columns + c];
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;

    /// Of several types and lengths, small tensors beside larger ones, one of them empty.
    #[test]
    fn a_file_has_the_bytes_that_the_crate_safetensors_gives_it() {
        let numbers = [1.5_f32, -2.0, 0.25, 3.0, 7.0, -0.0];
        let mut writer = TensorWriter::default();
        writer.borrowed_f32("w", &[2, 3], &numbers);
        writer.f32("a", &[3], &numbers[..3]);
        writer.f16("half", &[1], &[0.1]);
        writer.u64("n", &[5, 6]);
        writer.i64("z", &[-1]);
        writer.f64("d", &[0.1]);
        writer.i32("i", &[0], &[]);
        writer.bytes("b", &[3], Bytes::Signed, &[1, 255, 3]);
        let metadata = HashMap::from([("key".to_owned(), "value \u{e9}".to_owned())]);
        let of = |tensor: &Outgoing<'_>| {
            let bytes = tensor.bytes.to_vec();
            (
                tensor.name.clone(),
                tensor.dtype,
                tensor.shape.clone(),
                bytes,
            )
        };
        let tensors: Vec<_> = writer.tensors.iter().map(of).collect();
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            let view = TensorView::new(*dtype, shape.clone(), bytes).unwrap();
            (name.as_str(), view)
        });
        let expected = safetensors::serialize(views, Some(metadata.clone())).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let [plain, whole] = ["plain", "whole"].map(|name| folder.path().join(name));
        writer.write(&plain, Some(metadata.clone())).unwrap();
        writer.write_atomically(&whole, Some(metadata)).unwrap();
        assert_eq!(std::fs::read(plain).unwrap(), expected);
        assert_eq!(std::fs::read(whole).unwrap(), expected);
    }

    #[test]
    fn a_shape_that_does_not_hold_its_values_and_a_second_name_are_refused() {
        let mut writer = TensorWriter::default();
        writer.f32("w", &[2, 2], &[1.0, 2.0, 3.0]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let twice = || {
            let mut writer = TensorWriter::default();
            writer.u64("w", &[1]);
            writer.f32("w", &[1], &[1.0]);
            writer
        };
        for (writer, part) in [
            (writer, "12 bytes, expected those of F32 [2, 2]"),
            (twice(), "two of this name"),
        ] {
            for error in [
                writer.write(&path, None),
                writer.write_atomically(&path, None),
            ] {
                let error = error.unwrap_err().to_string();
                let parts = ["x.safetensors", "tensor `w`", part];
                assert!(parts.iter().all(|part| error.contains(part)), "{error}");
                assert!(!path.exists());
            }
        }
    }
}
