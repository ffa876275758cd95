//! All that a machine with a card runs, in one program: the kernels' tests, a training run beside
//! the CPU's, and the benchmarks. `scripts/check_gpu.sh` packs it and runs it there. The
//! environment says what to do:
//!
//! - `LAPIDARY_TEST_DEVICE` (`cpu`, `wgpu`, `cuda`): the device of the tests and of the benchmark.
//! - `LAPIDARY_BENCH_SIZES` (`d,F,k,tokens`), `LAPIDARY_BENCH_ROUNDS`, `LAPIDARY_BENCH_PATIENCE`
//!   (seconds), `LAPIDARY_BENCH_RESULT` (a file for the JSON), and `LAPIDARY_BENCH_PEERS` (the
//!   folder with bench_peers.py): the test `benchmark`, which is ignored otherwise.

#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Tensor, TensorData};
use commands::peers::Peers;
use commands::sizes::Sizes;
use commands::timing::{Findings, Rounds};
use lapidary_activations::ActivationMatrix;
use lapidary_kernels::device;
use lapidary_sae::{Recipe, StepReport, TrainingRun};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::env;
use std::time::Duration;

#[allow(dead_code)] // Some of it only prints.
#[path = "../crates/cli/src/commands"]
mod commands {
    pub mod peers;
    pub mod sizes;
    pub mod step_parts;
    pub mod timing;
}

/// Those of kernels/tests/, in which `crate::reference` is this one. Without a card they run where
/// they live.
macro_rules! kernel_tests {
    ($($name:ident $path:literal)*) => {
        $(
            #[cfg(feature = "cuda")]
            #[path = $path]
            mod $name;
        )*
        const KERNEL_TESTS: &[&str] = &[$(stringify!($name)),*];
    };
}

kernel_tests! {
    adam_step "../kernels/tests/kernels/adam_step.rs"
    decode_sparse "../kernels/tests/kernels/decode_sparse.rs"
    encode_batch_topk "../kernels/tests/kernels/encode_batch_topk.rs"
    encode_threshold "../kernels/tests/kernels/encode_threshold.rs"
    encode_topk "../kernels/tests/kernels/encode_topk.rs"
    forward_pass "../kernels/tests/kernels/forward_pass.rs"
    matching_pursuit "../kernels/tests/kernels/matching_pursuit.rs"
    reference "../kernels/tests/kernels/reference.rs"
    sparse_training "../kernels/tests/kernels/sparse_training.rs"
    storage "../kernels/tests/kernels/storage.rs"
    weighted_sum "../kernels/tests/kernels/weighted_sum.rs"
}

#[test]
fn every_kernel_test_is_here() {
    let all = include_str!("../kernels/tests/kernels/main.rs");
    let modules: Vec<&str> = all
        .lines()
        .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'))
        .collect();
    assert_eq!(modules, KERNEL_TESTS);
}

/// The device that the environment names; the CPU if it names none.
fn chosen_device() -> Device {
    let name = env::var("LAPIDARY_TEST_DEVICE").unwrap_or_else(|_| "cpu".into());
    device::open(name.parse().unwrap()).unwrap()
}

#[test]
#[ignore = "prints what check_gpu.sh asks for"]
fn devices() {
    for found in device::list() {
        println!("device {} {}", found.choice, found.name);
    }
    let name = chosen_device()
        .identity()
        .map_or_else(|| "CPU".into(), |identity| identity.name);
    println!("chosen {name}");
}

/// The last report of a few steps on activations that are the same on every device.
fn trained(architecture: &str, device: &Device) -> StepReport {
    const ROWS: usize = 512;
    const D: usize = 32;
    let mut random = ChaCha8Rng::seed_from_u64(5);
    let numbers: Vec<f32> = (0..ROWS * D)
        .map(|_| random.random_range(-1.0..1.0))
        .collect();
    let x = Tensor::<2>::from_data(TensorData::new(numbers, [ROWS, D]), device);
    let recipe = format!(
        "[coder]\narchitecture = '{architecture}'\nd_sae = 200\nk = 8\n\
         [training]\nbatch_tokens = 128\ntokens = 2560\nlr = 3e-3\nlr_warmup_steps = 0\n"
    );
    let config = Recipe::parse("card", &recipe, &[]).unwrap();
    let source = ActivationMatrix::new(x, 128, 0).unwrap();
    let mut run = TrainingRun::new(&[config], Box::new(source), device).unwrap();
    let mut last = None;
    for _ in 0..20 {
        last = run.step().unwrap().into_iter().flatten().last().or(last);
    }
    last.unwrap()
}

#[test]
fn training_on_the_device_ends_where_it_ends_on_the_cpu() {
    let device = chosen_device();
    for architecture in ["topk", "batchtopk", "jumprelu", "matching_pursuit"] {
        let (found, expected) = (
            trained(architecture, &device),
            trained(architecture, &Device::flex()),
        );
        println!(
            "{architecture}: fvu {} on {device:?}, {} on the CPU",
            found.fvu, expected.fvu
        );
        assert_eq!(found.step, 20);
        // Sums run in another order, and a latent chosen otherwise once changes all that follows.
        assert!(
            (found.fvu - expected.fvu).abs() < 0.01 * expected.fvu,
            "{architecture}: {found:?} against {expected:?}"
        );
        assert!(
            (found.l0 - expected.l0).abs() <= 0.02 * expected.l0,
            "{architecture}: {found:?} against {expected:?}"
        );
    }
}

#[test]
fn a_benchmark_of_small_sizes_gives_figures() {
    let sizes = Sizes {
        d_in: 16,
        d_sae: 64,
        k: 4,
        batch_tokens: 32,
    };
    let device = chosen_device();
    let rounds = Rounds {
        most: 2,
        patience: Duration::MAX,
    };
    let found = Findings::measure(sizes, &device, "small".into(), rounds, None).unwrap();
    for seconds in [
        found.start_seconds,
        found.step_seconds,
        found.step_in_a_row_seconds,
        found.encode_seconds,
        found.product_seconds,
        found.adam_seconds,
    ] {
        assert!(seconds.is_finite() && seconds > 0.0, "{seconds}");
    }
    assert!(found.in_turn.is_empty());
}

#[test]
#[ignore = "a benchmark: scripts/check_gpu.sh runs it"]
fn benchmark() {
    let setting = |name: &str| env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
    let sizes: Vec<usize> = setting("LAPIDARY_BENCH_SIZES")
        .split(',')
        .map(|number| number.parse().unwrap())
        .collect();
    let [d_in, d_sae, k, batch_tokens] = sizes[..] else {
        panic!("LAPIDARY_BENCH_SIZES: found {sizes:?}, expected d,F,k,tokens");
    };
    let sizes = Sizes {
        d_in,
        d_sae,
        k,
        batch_tokens,
    };
    let device = chosen_device();
    let peers = env::var_os("LAPIDARY_BENCH_PEERS").map(|scripts| {
        Peers::start(
            scripts.as_ref(),
            "bench_peers.py",
            &sizes.arguments(),
            &device,
        )
        .unwrap()
    });
    let name = device
        .identity()
        .map_or_else(|| "CPU".into(), |identity| identity.name);
    let rounds = Rounds {
        most: setting("LAPIDARY_BENCH_ROUNDS").parse().unwrap(),
        patience: Duration::from_secs(setting("LAPIDARY_BENCH_PATIENCE").parse().unwrap()),
    };
    let findings = Findings::measure(sizes, &device, name, rounds, peers).unwrap();
    let json = serde_json::to_string_pretty(&findings).unwrap();
    std::fs::write(setting("LAPIDARY_BENCH_RESULT"), json + "\n").unwrap();
}
