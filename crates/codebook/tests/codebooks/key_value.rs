//! The key-value bottleneck forgets less than a linear probe, changes only what it fetched, and its
//! keys are moving averages.

use super::normal;
use burn::tensor::{Device, Tensor, TensorData};
use lapidary_codebook::{ClassIncremental, KeyValueBottleneck, KeyValueOptions};

fn options() -> KeyValueOptions {
    KeyValueOptions {
        codebooks: 3,
        keys: 5,
        d_key: 2,
        classes: 4,
        expiry: 0.0,
        ..Default::default()
    }
}

fn inputs(n: usize, seed: u64) -> Tensor<2> {
    let data = TensorData::new(normal(n * 6, seed), [n, 6]);
    Tensor::from_data(data, &Device::flex())
}

#[test]
fn values_that_were_not_fetched_keep_their_bits() {
    let mut b = KeyValueBottleneck::new(options(), 6, 1, &Device::flex()).unwrap();
    b.start_keys(&inputs(20, 2)).unwrap();
    let all = b.nearest(&inputs(40, 3)).unwrap();
    b.train_values(&all, &[0, 1, 2, 3].repeat(10));
    let before = b.values().to_vec();
    let fetched = b.nearest(&inputs(2, 4)).unwrap();
    b.train_values(&fetched, &[1, 2]);
    let rows = b.values().chunks(4).zip(before.chunks(4)).enumerate();
    for (key, (after, before)) in rows {
        assert_eq!(after != before, fetched.contains(&key), "key {key}");
    }
}

#[test]
fn keys_are_moving_averages_of_what_is_near_them() {
    let o = options();
    let mut b = KeyValueBottleneck::new(o.clone(), 6, 1, &Device::flex()).unwrap();
    b.start_keys(&inputs(20, 2)).unwrap();
    let old = b.keys().unwrap().to_vec();
    let batch = inputs(12, 3);
    let near = b.nearest(&batch).unwrap();
    let p: Vec<f32> = b.project(&batch).to_data().try_to_vec().unwrap();
    b.update_keys(&batch).unwrap();
    // By hand: all counts start at 1, all sums at the keys.
    for codebook in 0..o.codebooks {
        let count = |key: usize| {
            let n = near.iter().filter(|k| **k == key).count() as f64;
            0.95 + 0.05 * n
        };
        let own = codebook * o.keys..(codebook + 1) * o.keys;
        let total: f64 = own.clone().map(count).sum();
        for key in own {
            let smoothed = (count(key) + 1e-5) / (total + 5.0 * 1e-5) * total;
            for column in 0..o.d_key {
                let mut sum = 0.95 * old[key * o.d_key + column];
                for row in 0..12 {
                    if near[row * o.codebooks + codebook] == key {
                        let at = (row * o.codebooks + codebook) * o.d_key + column;
                        sum += 0.05 * f64::from(p[at]);
                    }
                }
                let found = b.keys().unwrap()[key * o.d_key + column];
                assert!((found - sum / smoothed).abs() < 1e-9, "key {key}");
            }
        }
    }
}

#[test]
fn keys_that_were_never_started_are_refused() {
    let b = KeyValueBottleneck::new(options(), 6, 1, &Device::flex()).unwrap();
    let error = b.nearest(&inputs(2, 4)).unwrap_err().to_string();
    assert_eq!(
        error,
        "keys: found none, expected keys that were started from inputs"
    );
}

#[test]
fn classes_learned_one_after_the_other_are_forgotten_less_than_by_a_linear_probe() {
    let text = include_str!("../../../../configs/codebook/key-value-blobs.toml");
    let mut sums = (0.0, 0.0);
    for seed in 0..2 {
        let set = [format!("seed={seed}")];
        let config = ClassIncremental::parse("blobs", text, &set).unwrap();
        let rows = config.blobs().unwrap();
        let run = || config.run(&rows, &Device::flex(), &mut |_| ()).unwrap();
        let found = run();
        println!("seed {seed}: {found:?}");
        if seed == 0 {
            assert_eq!(found, run(), "the same bits");
        }
        assert_eq!(found.retention.len(), 5);
        sums = (sums.0 + found.accuracy_dkvb, sums.1 + found.accuracy_probe);
    }
    assert!(sums.0 / 2.0 >= sums.1 / 2.0 + 0.08, "{sums:?}");
}
