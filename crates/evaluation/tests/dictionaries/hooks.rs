//! The hook points of a dictionary, as a model knows them, and what is said of a dictionary that
//! does not name them.

use burn::tensor::{Device, Tensor};
use lapidary_coder::{AnyCoder, Architecture, Dictionary, Provenance, Sites, SparseCoder, Weights};
use lapidary_evaluation::Hooks;
use lapidary_model::HookPoint;

const FROM: &str = "blocks.0.ln2.hook_normalized";
const TO: &str = "blocks.0.hook_mlp_out";

fn dictionary(sites: Sites) -> Dictionary {
    let device = Device::flex();
    let matrix = Tensor::<2>::zeros([3, 4], &device);
    Dictionary {
        coder: AnyCoder::Sparse(SparseCoder {
            architecture: Architecture::Standard,
            apply_b_dec_to_input: false,
            weights: Weights::new([
                ("w_enc", matrix.clone().into()),
                ("b_enc", Tensor::<1>::zeros([3], &device).into()),
                ("w_dec", matrix.into()),
                ("b_dec", Tensor::<1>::zeros([4], &device).into()),
            ]),
        }),
        provenance: Provenance {
            sites,
            ..Provenance::default()
        },
    }
}

fn parsed(names: &[&str]) -> Vec<HookPoint> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

#[test]
fn hook_points_are_those_that_the_dictionary_reads_and_reconstructs() {
    let both = || vec![FROM.to_owned(), TO.to_owned()];
    for (sites, sources, targets) in [
        (Sites::autoencoder(TO), &[TO][..], &[TO][..]),
        (Sites::transcoder(FROM, TO), &[FROM], &[TO]),
        (Sites::Crosscoder { at: both() }, &[FROM, TO], &[FROM, TO]),
        (
            Sites::CrossLayer {
                from: vec![FROM.to_owned(), "blocks.1.hook_mlp_in".to_owned()],
                to: vec![TO.to_owned(), "blocks.1.hook_mlp_out".to_owned()],
            },
            &[FROM, "blocks.1.hook_mlp_in"],
            &[TO, "blocks.1.hook_mlp_out"],
        ),
    ] {
        let (sources, targets) = (parsed(sources), parsed(targets));
        let hooks = Hooks::of(&dictionary(sites)).unwrap();
        assert_eq!(hooks, Hooks { sources, targets });
    }
}

#[test]
fn a_dictionary_that_does_not_say_its_hook_points_is_refused_by_the_field() {
    let nowhere = dictionary(Sites::default());
    let error = Hooks::of(&nowhere).unwrap_err().to_string();
    assert!(error.contains("metadata.hook_name"), "{error}");
    // A transcoder that does not say where it writes is none that writes where it reads.
    let from = Some(FROM.to_owned());
    let half = dictionary(Sites::Transcoder { from, to: None });
    assert_eq!(Hooks::sources(&half).unwrap(), parsed(&[FROM]));
    let error = Hooks::targets(&half).unwrap_err().to_string();
    assert!(error.contains("hook_name_out"), "{error}");
    let error = Hooks::of(&dictionary(Sites::autoencoder("nowhere")));
    assert!(error.unwrap_err().to_string().contains("nowhere"));
}

#[test]
fn a_crosscoder_of_two_models_has_hook_points_in_each_and_none_in_one() {
    let crosscoder = dictionary(Sites::TwoModels {
        at: FROM.to_owned(),
        second_model: "tuned".to_owned(),
        second_at: TO.to_owned(),
    });
    let [first, second] = Hooks::sources_of_both(&crosscoder).unwrap();
    assert_eq!((first, second), (parsed(&[FROM]), parsed(&[TO])));
    let error = Hooks::of(&crosscoder).unwrap_err().to_string();
    assert!(error.contains("(second model: `tuned`)"), "{error}");
}
