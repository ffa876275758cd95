//! What is written is read again, what cannot be held is refused, and a sample shows what was read
//! wrong.

use std::fs;

use burn::tensor::{Device, Tensor, TensorData};
use lapidary_coder::{Architecture, Coder, Dictionary, Penalty, Pursuit, Shape, Sites};
use lapidary_formats::{Format, SAMPLE, detect, open, save};

use crate::folder::{D, F, dictionary, host, numbers, opened, sparse, sparse_mut};

const TOP_2: Architecture = Architecture::TopK { k: 2 };

const WRITTEN: [Format; 3] = [
    Format::SaeLens,
    Format::Sparsify,
    Format::DictionaryLearning,
];

fn codes(coder: &dyn Coder) -> Vec<f32> {
    let x = Tensor::<2>::from_data(TensorData::new(numbers(9 * D, 8), [9, D]), &Device::flex());
    let codes = coder.encode(x);
    let back = host(&coder.decode(codes.clone()));
    host(&codes.values).into_iter().chain(back).collect()
}

#[test]
fn each_coder_goes_through_each_format_that_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut trips = 0;
    for architecture in [
        Architecture::Standard,
        TOP_2,
        Architecture::JumpRelu,
        Architecture::Gated,
    ] {
        for subtracts in [true, false] {
            let before = dictionary(architecture, subtracts);
            for format in WRITTEN {
                let to = dir
                    .path()
                    .join(format!("{architecture}-{subtracts}-{format}"));
                if format == Format::Sparsify && architecture != TOP_2 {
                    let error = save(&before, &to, format).unwrap_err().to_string();
                    assert!(
                        error.contains(&format!(
                            "the format sparsify cannot hold a {architecture} coder"
                        )),
                        "{error}"
                    );
                    assert!(!to.exists());
                    continue;
                }
                save(&before, &to, format).unwrap();
                assert_eq!(detect(&to).unwrap(), format);
                let after = open(&to, None, &Device::flex()).unwrap();
                assert_eq!(after.coder.architecture(), architecture);
                assert_eq!(after.provenance, before.provenance, "{format}");
                for (a, b) in codes(&after.coder).iter().zip(codes(&before.coder)) {
                    assert!(
                        (a - b).abs() < 1e-4 * b.abs().max(1.0),
                        "{architecture} in {format}: {a} for {b}"
                    );
                }
                trips += 1;
            }
        }
    }
    assert_eq!(trips, 18);
}

#[test]
fn what_a_format_has_no_place_for_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |d: &Dictionary, format| {
        let to = dir.path().join("d");
        let error = save(d, &to, format).unwrap_err().to_string();
        assert!(!to.exists());
        error.replace(&to.display().to_string(), "DIR")
    };
    let mut pursuit = dictionary(TOP_2, true);
    sparse_mut(&mut pursuit).architecture = Architecture::MatchingPursuit {
        steps: 2,
        pursuit: Pursuit {
            residual_threshold: 0.0,
            stop_on_duplicate_support: false,
            signed: false,
            refit: false,
        },
    };
    assert_eq!(
        refused(&pursuit, Format::DictionaryLearning),
        "DIR: the format dictionary_learning cannot hold a matching_pursuit coder: its classes are ReLU, TopK, JumpReLU and gated"
    );
    let penalty = Penalty {
        shape: Shape::Scad,
        weight: 0.5,
        shape_param: 3.0,
    };
    let proximal = dictionary(Architecture::Proximal(penalty), true);
    assert!(
        refused(&proximal, Format::Sparsify).ends_with("a proximal coder: its coders are TopK")
    );
    let mut across = dictionary(TOP_2, true);
    across.provenance.sites = Sites::Crosscoder {
        at: vec!["blocks.0.hook_resid_post".into(); 2],
    };
    for format in [Format::Sparsify, Format::DictionaryLearning] {
        assert!(
            refused(&across, format)
                .ends_with("cannot hold a crosscoder: its coders have one place")
        );
    }
    assert_eq!(
        refused(&dictionary(TOP_2, true), Format::Quantized),
        "DIR: the format quantized cannot hold numbers in f32: the command quantize writes it"
    );
    let batch = dictionary(Architecture::BatchTopK { k: 2 }, true);
    assert!(refused(&batch, Format::SaeLens).contains("stored as the JumpReLU that it becomes"));
    for format in Format::ALL {
        let others = [Format::CircuitTracer, Format::Quantized];
        if !WRITTEN.contains(&format) && !others.contains(&format) {
            assert!(refused(&dictionary(TOP_2, true), format).ends_with("it is only read"));
        }
    }
}

#[test]
fn a_sample_tells_weights_that_were_read_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("d");
    save(&dictionary(TOP_2, true), &to, Format::Sparsify).unwrap();
    assert!(to.join(SAMPLE).is_file());
    assert!(opened(&to, None).is_ok());
    // Another k in the configuration, as if it had been read wrong.
    let cfg = fs::read_to_string(to.join("cfg.json")).unwrap();
    fs::write(to.join("cfg.json"), cfg.replace("\"k\": 2", "\"k\": 3")).unwrap();
    let error = opened(&to, None).map(|_| ()).unwrap_err();
    assert!(
        error.starts_with("DIR/lapidary_sample.safetensors: indices: ")
            && error.contains("latents differ between the sample and the dictionary"),
        "{error}"
    );
    assert!(error.contains("remove this file"), "{error}");
    fs::remove_file(to.join(SAMPLE)).unwrap();
    let coder = opened(&to, None).unwrap().coder;
    assert_eq!(coder.architecture(), Architecture::TopK { k: 3 });

    // The encoder's bias, a little.
    save(
        &dictionary(Architecture::Standard, true),
        &to,
        Format::SaeLens,
    )
    .unwrap();
    let sample = fs::read(to.join(SAMPLE)).unwrap();
    let mut other = dictionary(Architecture::Standard, true);
    let b_enc = sparse(&other).b_enc() + 1.0;
    let coder = sparse_mut(&mut other);
    coder.weights = coder.weights.clone().with("b_enc", b_enc);
    save(&other, &to, Format::SaeLens).unwrap();
    fs::write(to.join(SAMPLE), sample).unwrap();
    let error = opened(&to, None).map(|_| ()).unwrap_err();
    assert!(error.contains("lapidary_sample.safetensors: "), "{error}");
}

#[test]
fn saving_never_replaces_what_is_no_dictionary() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
    let d = dictionary(TOP_2, true);
    for format in WRITTEN {
        let error = save(&d, dir.path(), format).unwrap_err().to_string();
        assert!(
            error.contains("found something that is not a dictionary"),
            "{error}"
        );
    }
    assert!(dir.path().join("thesis.tex").exists());
    // A dictionary of another format is one, though.
    let to = dir.path().join("d");
    for format in WRITTEN {
        save(&d, &to, format).unwrap();
        assert_eq!(detect(&to).unwrap(), format);
    }
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "no temporary folder stays");
    assert_eq!(F, d.coder.d_sae());
}
