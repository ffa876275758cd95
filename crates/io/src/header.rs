//! The header of a safetensors file: which tensors the file has, and where. Everything that reads
//! such a file, a model's weights or a dictionary, reads its header here.

use std::collections::BTreeMap;
use std::ops::Range;

use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors};

/// Bytes of the header's length, which come first.
const LENGTH: usize = 8;

/// A tensor as the header lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Type of an element.
    pub dtype: Dtype,
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Where its elements are in the file, as many bytes as type and sizes need.
    pub bytes: Range<usize>,
}

/// The tensors of a safetensors file by name. `file` is all of its bytes, best mapped into memory:
/// only the header is read.
///
/// # Errors
/// When the header is no such header, or does not match the file: tensors lie without gaps and
/// overlaps up to the end of the file, each in as many bytes as its type and sizes need.
pub fn safetensors_header(file: &[u8]) -> Result<BTreeMap<String, Located>, SafeTensorError> {
    let (length, metadata) = SafeTensors::read_metadata(file)?;
    let data = LENGTH + length;
    let tensors = metadata.tensors().into_iter();
    let located = tensors.map(|(name, info)| {
        let (start, end) = info.data_offsets;
        let located = Located {
            dtype: info.dtype,
            shape: info.shape.clone(),
            bytes: data + start..data + end,
        };
        (name, located)
    });
    Ok(located.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let length = (header.len() as u64).to_le_bytes();
        [&length, header.as_bytes(), data].concat()
    }

    #[test]
    fn each_tensor_lies_where_it_was_written() {
        let (a, b) = ([1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11, 12, 13, 14]);
        let written = safetensors::serialize(
            [
                ("a", TensorView::new(Dtype::F32, vec![2, 1], &a).unwrap()),
                ("b", TensorView::new(Dtype::BF16, vec![3], &b).unwrap()),
                ("none", TensorView::new(Dtype::F64, vec![0], &[]).unwrap()),
            ],
            None,
        )
        .unwrap();
        let located = safetensors_header(&written).unwrap();
        let found = |name: &str| {
            let tensor = &located[name];
            let bytes = &written[tensor.bytes.clone()];
            (tensor.dtype, tensor.shape.as_slice(), bytes)
        };
        assert_eq!(located.len(), 3);
        assert_eq!(found("a"), (Dtype::F32, &[2, 1][..], &a[..]));
        assert_eq!(found("b"), (Dtype::BF16, &[3][..], &b[..]));
        assert_eq!(found("none"), (Dtype::F64, &[0][..], &[][..]));
        for length in 0..written.len() {
            assert!(safetensors_header(&written[..length]).is_err(), "{length}");
        }
        assert!(safetensors_header(&[&written[..], &[0]].concat()).is_err());
    }

    #[test]
    fn a_header_that_does_not_match_the_file_is_refused() {
        let tensor = |dtype: &str, shape: &str, offsets: &str| {
            format!(r#"{{"dtype":"{dtype}","shape":[{shape}],"data_offsets":[{offsets}]}}"#)
        };
        let one = |tensor: String| file(&format!(r#"{{"x":{tensor}}}"#), &[0; 8]);
        let two = |first: &str, second: &str| {
            let header = format!(
                r#"{{"x":{},"y":{}}}"#,
                tensor("F32", "1", first),
                tensor("F32", "1", second)
            );
            file(&header, &[0; 8])
        };
        assert!(safetensors_header(&one(tensor("F32", "2", "0,8"))).is_ok());
        assert!(safetensors_header(&two("0,4", "4,8")).is_ok());
        for (what, bytes) in [
            ("another size than its type", one(tensor("F16", "2", "0,8"))),
            (
                "another size than its shape",
                one(tensor("F32", "3", "0,8")),
            ),
            ("an end before its start", one(tensor("F32", "2", "8,0"))),
            ("an end behind the file's", one(tensor("F32", "3", "0,12"))),
            (
                "bytes that belong to nothing",
                one(tensor("F32", "1", "0,4")),
            ),
            (
                "a size that overflows",
                one(tensor("F32", "9223372036854775807,4", "0,8")),
            ),
            ("a negative size", one(tensor("F32", "-1", "0,8"))),
            ("an unknown type", one(tensor("F33", "2", "0,8"))),
            ("an overlap", two("0,4", "0,4")),
            ("a gap", two("0,4", "5,9")),
            ("no JSON", file("x", &[])),
            ("no length", vec![0; 7]),
            ("a huge length", vec![0xff; 16]),
        ] {
            assert!(safetensors_header(&bytes).is_err(), "{what}");
        }
    }
}
