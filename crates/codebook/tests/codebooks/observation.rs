//! The codes that a pass chooses and their cosines, against a count by hand.

use super::normal;
use burn::tensor::{Device, Tensor, TensorData};
use lapidary_codebook::{Assignment, Codebook, CodebookOptions, Codebooks, Place, Placed};
use lapidary_model::{HookPoint, HookedRun, LanguageModel};

const FIXTURE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/fixtures/models/repeats"
);

/// Activations `[n, width]` at a hook point, without codebooks.
fn activations(model: &LanguageModel, tokens: &[u32], at: HookPoint) -> (Vec<f32>, usize) {
    let run = HookedRun {
        capture: &[at],
        ..Default::default()
    };
    let output = model.run(model.tokens(&[tokens]).unwrap(), &run).unwrap();
    let value = output.captured[&at].clone();
    let width = value.dims()[2];
    (value.into_data().iter::<f32>().collect(), width)
}

#[test]
fn cosines_of_chosen_codes_are_those_computed_by_hand() {
    let model = LanguageModel::load(FIXTURE, &Device::flex()).unwrap();
    let (layer, n_codes, k) = (0, 12, 3);
    let tokens = [1, 5, 3, 7, 2, 5, 3];
    for (place, assignment) in [
        (Place::AttnPreproj, Assignment::Cosine),
        (Place::AttnPreproj, Assignment::Euclidean),
        (Place::ResidPost, Assignment::Euclidean),
    ] {
        let (groups, d) = place.shape(model.config());
        let codes = normal(groups * n_codes * d, 3);
        let tensor = TensorData::new(codes.clone(), [groups * n_codes, d]);
        let tensor = Tensor::from_data(tensor, &Device::flex());
        let options = CodebookOptions {
            n_codes,
            k,
            assignment,
            ..Default::default()
        };
        let placed = vec![
            Placed {
                at: place.hook_point(layer),
                codebook: Codebook::new(options.clone(), groups, tensor.clone()).unwrap(),
            },
            Placed {
                at: place.hook_point(layer + 1),
                codebook: Codebook::new(options, groups, tensor).unwrap(),
            },
        ];
        let codebooks = Codebooks::new(placed).unwrap();
        let batch = || model.tokens(&[&tokens]).unwrap();
        let observed = codebooks.observe(&model, batch(), None).unwrap();
        // The same codes as a run's, at both hook points.
        let (_, chosen) = codebooks.run(&model, batch(), &[]).unwrap();
        assert_eq!(observed.len(), 2 * groups);
        for o in &observed {
            assert_eq!(o.codes, chosen[o.codebook][o.group], "{place:?}");
        }
        // At the first hook point, the activations are those of the model alone.
        let (rows, width) = activations(&model, &tokens, place.hook_point(layer));
        for o in observed.iter().filter(|o| o.codebook == 0) {
            let of_rows = o.codes.chunks(k).zip(o.cosines.chunks(k));
            for (row, (chosen, cosines)) in of_rows.enumerate() {
                let a = &rows[row * width + o.group * d..][..d];
                let dot = |x: &[f32], y: &[f32]| -> f64 {
                    let products = x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y));
                    products.sum()
                };
                let own = |code: usize| &codes[(o.group * n_codes + code) * d..][..d];
                let score = |code: usize| {
                    let c = own(code);
                    match assignment {
                        Assignment::Cosine => dot(a, c) / dot(c, c).sqrt(),
                        Assignment::Euclidean => dot(a, c) - dot(c, c) / 2.0,
                    }
                };
                let mut order: Vec<usize> = (0..n_codes).collect();
                order.sort_by(|x, y| score(*y).total_cmp(&score(*x)));
                for (i, (code, cosine)) in chosen.iter().zip(cosines).enumerate() {
                    assert_eq!(
                        *code as usize, order[i],
                        "{place:?} {assignment:?} row {row}"
                    );
                    let c = own(*code as usize);
                    let expected = dot(a, c) / (dot(a, a) * dot(c, c)).sqrt();
                    assert!(
                        (f64::from(*cosine) - expected).abs() < 1e-5,
                        "{cosine} {expected}"
                    );
                }
            }
        }
    }
}
