//! Seeded changes to files of PyTorch and NumPy, most of them inside the archive with sums that
//! fit: an error or a dictionary, never a panic.

use std::fs;
use std::io::{Cursor, Read, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::folder::{fixture, opened};

/// Files tried; `fuzz/` tries more.
const TRIED: usize = 1500;

/// xorshift64
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        for (left, by) in [(true, 13), (false, 7), (true, 17)] {
            self.0 ^= if left { self.0 << by } else { self.0 >> by };
        }
        (self.0 % n.max(1) as u64) as usize
    }
}

pub fn bend(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        let to = (at + random.below(16)).min(bytes.len());
        match random.below(6) {
            0 => bytes[at] = random.below(256) as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..to)),
            4 => {
                let copied = bytes[at..to].to_vec();
                let place = random.below(bytes.len());
                bytes.splice(place..place, copied);
            }
            _ => {
                let opcodes = b"K\x8aMJtQR}(ucX\x85\x86\x87q\x94\x93\x81b\x90e]a0 12.h";
                bytes[at] = opcodes[random.below(opcodes.len())];
            }
        }
    }
}

fn inside(archive: &[u8], random: &mut Random) -> Vec<u8> {
    let mut from = ZipArchive::new(Cursor::new(archive)).unwrap();
    let mut to = ZipWriter::new(Cursor::new(Vec::new()));
    let chosen = random.below(from.len());
    for i in 0..from.len() {
        let mut file = from.by_index(i).unwrap();
        let name = String::from_utf8_lossy(file.name_raw()).into_owned();
        let mut content = vec![];
        file.read_to_end(&mut content).unwrap();
        if i == chosen || name.ends_with(".pkl") {
            bend(&mut content, random);
        }
        let method = match random.below(4) {
            0 => CompressionMethod::Deflated,
            _ => CompressionMethod::Stored,
        };
        let options = SimpleFileOptions::default().compression_method(method);
        to.start_file(name, options).unwrap();
        to.write_all(&content).unwrap();
    }
    to.finish().unwrap().into_inner()
}

#[test]
fn a_changed_file_is_an_error_or_a_dictionary() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let dir = tempfile::tempdir().unwrap();
    let seeds = [
        "topk.pt",
        "jumprelu.pt",
        "groups.pt",
        "openai_relu.pt",
        "gemma_scope.npz",
        "compressed.npz",
    ];
    let seeds = seeds.map(|name| (name, fs::read(fixture(name)).unwrap()));
    let mut refused = 0;
    for _ in 0..TRIED {
        let (name, bytes) = &seeds[random.below(seeds.len())];
        let bytes = match random.below(3) {
            0 => {
                let mut bytes = bytes.clone();
                bend(&mut bytes, &mut random);
                bytes
            }
            _ => inside(bytes, &mut random),
        };
        let ending = name.rsplit('.').next().unwrap();
        let path = dir.path().join(format!("changed.{ending}"));
        fs::write(&path, bytes).unwrap();
        refused += usize::from(opened(&path, None).is_err());
    }
    assert!(
        (TRIED / 2..TRIED).contains(&refused),
        "{refused} of {TRIED} refused"
    );
}
