//! What `torch.save` writes of a dictionary of tensors: a zip archive with a pickle that names them
//! and one entry for the elements of each.
//!
//! Reading is pytorch-reader's: no pickle is executed, every length is checked against the file,
//! and a tensor that something unknown would have built is refused. It knows older containers too;
//! those are refused here, as `torch.load` refuses them with `weights_only`. Writing is ours: a
//! pickle of the few opcodes that such a dictionary needs.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use lapidary_coder::CoderError;
use lapidary_io::tensors::{Data, Entry, Tensors};
use pytorch_reader::{ByteOrder, DType, PytorchReader, Tensor};
use safetensors::tensor::Dtype;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::damaged;

pub(crate) use pytorch_reader::PickleValue as Value;

/// What a module's own state dict carries beside tensors: the versions of its parts.
const METADATA: &str = "_metadata";

/// What is expected of such a file.
const EXPECTED: &str = "a zip archive by torch.save with tensors under names";

/// An opened file.
pub(crate) struct TorchFile {
    path: PathBuf,
    tensors: HashMap<String, Tensor>,
    /// Top-level values that are not tensors.
    others: HashMap<String, Value>,
}

impl TorchFile {
    pub(crate) fn open(path: &Path) -> Result<Self, CoderError> {
        let reader = PytorchReader::new(path).map_err(|e| damaged(path, e, EXPECTED))?;
        let facts = reader.metadata();
        if !facts.is_modern_format() {
            return Err(damaged(path, format!("{:?}", facts.format_type), EXPECTED));
        }
        if facts.byte_order == ByteOrder::BigEndian {
            return Err(damaged(path, "big-endian numbers", "little-endian ones"));
        }
        let top = PytorchReader::read_pickle_data(path, None);
        let Value::Dict(top) = top.map_err(|e| damaged(path, e, EXPECTED))? else {
            return Err(damaged(path, "something that is no dictionary", EXPECTED));
        };
        let tensors = reader.into_tensors();
        // A view can repeat a few elements as often as it likes; weights never do.
        let length = std::fs::metadata(path)
            .map_err(|e| CoderError::read(path, e))?
            .len();
        if let Some((name, t)) = tensors.iter().find(|(_, t)| t.byte_len() as u64 > length) {
            return Err(CoderError::format(
                path,
                format!("tensor `{name}`"),
                format!("shape {:?}, {} bytes", t.shape(), t.byte_len()),
                format!("no more than the file's {length}"),
            ));
        }
        let others = top
            .into_iter()
            .filter(|(name, _)| name != METADATA && !tensors.contains_key(name));
        Ok(Self {
            path: path.into(),
            others: others.collect(),
            tensors,
        })
    }

    pub(crate) fn tensors(&self) -> Tensors<'_> {
        let entries = self.tensors.iter().map(|(name, tensor)| {
            let entry = Entry {
                dtype: dtype(tensor.dtype()),
                shape: tensor.shape().to_vec(),
                data: Data::OnDemand(Box::new(|| tensor.read())),
            };
            (name.clone(), entry)
        });
        Tensors::new(&self.path, entries.collect())
    }

    pub(crate) fn others(&self) -> Vec<(&str, &Value)> {
        let mut others: Vec<_> = self.others.iter().map(|(n, v)| (n.as_str(), v)).collect();
        others.sort_by_key(|(name, _)| *name);
        others
    }
}

fn dtype(of: DType) -> Dtype {
    match of {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
    }
}

/// Elements of a tensor on its way into a file.
pub(crate) enum Stored {
    /// `torch.float32`.
    F32(Vec<f32>),
    /// `torch.int32`.
    I32(Vec<i32>),
}

impl Stored {
    fn len(&self) -> usize {
        match self {
            Self::F32(v) => v.len(),
            Self::I32(v) => v.len(),
        }
    }

    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::F32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::I32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }

    /// The class of its storage in `torch`.
    fn class(&self) -> &'static str {
        match self {
            Self::F32(_) => "FloatStorage",
            Self::I32(_) => "IntStorage",
        }
    }
}

/// PyTorch aligns the elements of each tensor to this many bytes, so that they can be mapped.
const ALIGNMENT: u16 = 64;

/// Writes tensors under names, in this order, to the new file `path`, and forces them to the disk.
/// A shape must hold its elements.
pub(crate) fn write(path: &Path, tensors: &[(&str, Vec<usize>, Stored)]) -> Result<(), CoderError> {
    let failed = |e: std::io::Error| CoderError::write(path, e);
    let file = File::create(path).map_err(failed)?;
    let mut zip = ZipWriter::new(file);
    let mut entry = |name: String, bytes: &[u8]| {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .large_file(u32::try_from(bytes.len()).is_err())
            .with_alignment(ALIGNMENT);
        zip.start_file(format!("archive/{name}"), options)
            .map_err(std::io::Error::other)?;
        zip.write_all(bytes)
    };
    entry("data.pkl".into(), &pickle(tensors)).map_err(failed)?;
    entry("byteorder".into(), b"little").map_err(failed)?;
    for (i, (_, _, stored)) in tensors.iter().enumerate() {
        entry(format!("data/{i}"), &stored.bytes()).map_err(failed)?;
    }
    entry("version".into(), b"3\n").map_err(failed)?;
    let file = zip.finish().map_err(|e| failed(std::io::Error::other(e)))?;
    file.sync_all().map_err(failed)
}

/// The pickle, protocol 2: a dictionary of names to calls of `torch._utils._rebuild_tensor_v2` with
/// storage, offset, size, strides, requires_grad and hooks.
fn pickle(tensors: &[(&str, Vec<usize>, Stored)]) -> Vec<u8> {
    let mut p = vec![0x80, 2, b'}', b'(']; // PROTO 2, EMPTY_DICT, MARK
    for (i, (name, shape, stored)) in tensors.iter().enumerate() {
        text(&mut p, name);
        p.extend(b"ctorch._utils\n_rebuild_tensor_v2\n"); // GLOBAL
        p.extend(b"(("); // MARK of the arguments, MARK of the persistent id
        text(&mut p, "storage");
        p.extend(b"ctorch\n");
        p.extend(stored.class().bytes());
        p.push(b'\n');
        text(&mut p, &i.to_string());
        text(&mut p, "cpu");
        number(&mut p, stored.len());
        p.extend(b"tQ"); // TUPLE, BINPERSID
        number(&mut p, 0);
        let strides = (0..shape.len()).map(|d| shape[d + 1..].iter().product());
        tuple(&mut p, shape.iter().copied());
        tuple(&mut p, strides);
        // NEWFALSE, an empty OrderedDict, TUPLE, REDUCE
        p.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    }
    p.extend(b"u."); // SETITEMS, STOP
    p
}

/// BINUNICODE.
fn text(p: &mut Vec<u8>, value: &str) {
    p.push(b'X');
    p.extend((value.len() as u32).to_le_bytes());
    p.extend(value.bytes());
}

/// BININT1, BININT2, BININT or LONG1.
fn number(p: &mut Vec<u8>, value: usize) {
    match value {
        0..=0xff => p.extend([b'K', value as u8]),
        0x100..=0xffff => {
            p.push(b'M');
            p.extend((value as u16).to_le_bytes());
        }
        0x1_0000..=0x7fff_ffff => {
            p.push(b'J');
            p.extend((value as u32).to_le_bytes());
        }
        _ => {
            p.extend([0x8a, 8]);
            p.extend((value as u64).to_le_bytes());
        }
    }
}

fn tuple(p: &mut Vec<u8>, values: impl Iterator<Item = usize>) {
    p.push(b'(');
    for value in values {
        number(p, value);
    }
    p.push(b't');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ae.pt");
        let matrix: Vec<f32> = (0..600).map(|i| i as f32 / 7.0).collect();
        let tensors = [
            ("weight", vec![20, 30], Stored::F32(matrix.clone())),
            ("k", vec![], Stored::I32(vec![-7])),
        ];
        write(&path, &tensors).unwrap();
        let file = TorchFile::open(&path).unwrap();
        let read = file.tensors();
        assert_eq!(read.f32("weight", &[20, 30]).unwrap(), matrix);
        assert_eq!(read.shape("k").unwrap(), [0; 0]);
        let below = read.whole("k").unwrap_err().to_string();
        assert!(
            below.ends_with("tensor `k`: found -7, expected whole numbers, 0 or more"),
            "{below}"
        );
        assert!(file.others().is_empty());
    }

    #[test]
    fn whole_numbers_of_every_size_are_pickled() {
        let bytes = |n: usize| {
            let mut p = vec![];
            number(&mut p, n);
            p
        };
        assert_eq!(bytes(255), [b'K', 255]);
        assert_eq!(bytes(256), [b'M', 0, 1]);
        assert_eq!(bytes(1 << 16), [b'J', 0, 0, 1, 0]);
        assert_eq!(bytes(1 << 31), [0x8a, 8, 0, 0, 0, 0x80, 0, 0, 0, 0]);
    }
}
