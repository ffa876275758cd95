//! Whatever rules atoms out, the choice is that of scoring all.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

struct Case {
    x: Vec<f32>,
    atoms: Vec<f32>,
    d: usize,
    k: usize,
    state: EncoderState,
}

fn normal(rng: &mut ChaCha8Rng) -> f32 {
    (0..12).map(|_| rng.random::<f32>()).sum::<f32>() - 6.0
}

impl Case {
    /// `n` rows and `latents` atoms of width `d`, all in random directions, atoms of norm 1.
    fn draw(seed: u64, [n, d, latents, k]: [usize; 4]) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let x = (0..n * d).map(|_| normal(&mut rng)).collect();
        let mut atoms: Vec<f32> = (0..latents * d).map(|_| normal(&mut rng)).collect();
        for atom in atoms.chunks_mut(d) {
            let norm = atom.iter().map(|v| v * v).sum::<f32>().sqrt();
            atom.iter_mut().for_each(|v| *v /= norm);
        }
        let state = EncoderState::default();
        Self {
            x,
            atoms,
            d,
            k,
            state,
        }
    }

    /// Every level and way gives the bits of scoring all atoms.
    #[track_caller]
    fn holds(&self, what: &str) {
        let plain = Pursuit::PLAIN;
        let ways = [
            plain,
            Pursuit {
                signed: true,
                ..plain
            },
            Pursuit {
                refit: true,
                ..plain
            },
            Pursuit {
                residual_threshold: 1.0,
                stop_on_duplicate_support: true,
                ..plain
            },
        ];
        for how in ways {
            let at = |level| Pursuing {
                atoms: &self.atoms,
                d: self.d,
                k: self.k,
                how,
                level,
                state: &self.state,
            };
            let expected = bits(at(Level::Portable).run(&self.x, Way::Exact));
            for level in Level::available() {
                for way in [Way::Gram, Way::Anew] {
                    let found = bits(at(level).run(&self.x, way));
                    assert!(found == expected, "{what}: {how:?}, {level:?}, {way:?}");
                }
            }
        }
    }
}

/// All that a pursuit returns, by bits.
fn bits((taken, values, residual): (Vec<i32>, Vec<f32>, Vec<f32>)) -> [Vec<u32>; 3] {
    let of = |v: Vec<f32>| v.into_iter().map(f32::to_bits).collect();
    let taken = taken.into_iter().map(|latent| latent as u32).collect();
    [taken, of(values), of(residual)]
}

#[test]
fn random_rows_and_sums_of_atoms() {
    Case::draw(1, [70, 48, 500, 12]).holds("random");
    Case::draw(2, [33, 67, 131, 9]).holds("shapes that are no multiples");
    for d in [29, 31, 63] {
        Case::draw(d as u64, [40, d, 300, 20]).holds("widths whose padding is of note");
    }
    let mut case = Case::draw(3, [64, 64, 700, 16]);
    let (d, mut rng) = (case.d, ChaCha8Rng::seed_from_u64(4));
    for x in case.x.chunks_exact_mut(d) {
        x.iter_mut().for_each(|x| *x *= 0.01);
        for _ in 0..8 {
            let atom = rng.random_range(0..700);
            let size = 0.5 + rng.random::<f32>();
            for (x, a) in x.iter_mut().zip(&case.atoms[atom * d..]) {
                *x += size * a;
            }
        }
    }
    case.holds("sums of atoms");
}

#[test]
fn near_ties_and_copies() {
    let mut case = Case::draw(5, [40, 32, 300, 10]);
    let d = case.d;
    for latent in 1..300 {
        // Of three, two are copies and one differs in a last bit.
        if latent % 3 != 0 {
            case.atoms
                .copy_within((latent - 1) * d..latent * d, latent * d);
        }
        if latent % 3 == 2 {
            let number = &mut case.atoms[latent * d + latent % d];
            *number = f32::from_bits(number.to_bits() + 1);
        }
    }
    case.holds("near ties");
    for (row, x) in case.x.chunks_exact_mut(d).enumerate() {
        x.copy_from_slice(&case.atoms[row * d..][..d]);
    }
    case.holds("rows that are atoms");
}

#[test]
fn sizes_from_the_smallest_to_the_largest() {
    let mut case = Case::draw(6, [48, 32, 200, 6]);
    let d = case.d;
    for (row, x) in case.x.chunks_exact_mut(d).enumerate() {
        let size = 10f32.powi(row as i32 * 2 - 45); // denormal to 1e37
        x.iter_mut().for_each(|x| *x *= size);
    }
    case.holds("rows of all sizes");
    for (latent, atom) in case.atoms.chunks_exact_mut(d).enumerate() {
        let size = 10f32.powi(latent as i32 % 30 - 15);
        atom.iter_mut().for_each(|a| *a *= size);
    }
    case.holds("rows and atoms of all sizes");
    // One atom that nothing is like, so large that what it is counted in leaves nothing of the
    // others.
    let mut lonely = Case::draw(12, [40, 32, 200, 6]);
    for x in lonely.x.chunks_exact_mut(d) {
        x[0] = -1e15;
    }
    lonely.atoms[..d].fill(0.0);
    lonely.atoms[0] = 1e15;
    lonely.holds("an atom beyond all others");
    case.x[5 * d] = f32::NAN;
    case.x[7 * d + 3] = f32::INFINITY;
    case.holds("rows that are no numbers");
    case.atoms[11 * d] = f32::NAN;
    case.holds("atoms that are no numbers");
}

/// Where the product of the scales of row and atom is subnormal.
#[test]
fn scales_whose_product_is_subnormal() {
    let d = 16;
    let mut case = Case::draw(23, [32, d, 2, 1]);
    case.x.fill(1e-23);
    for (atom, size) in case.atoms.chunks_exact_mut(d).zip([0.3e-14, 0.9e-14]) {
        atom.fill(size);
    }
    case.holds("subnormal products of scales");
}

#[test]
fn one_number_that_dwarfs_its_row() {
    let mut case = Case::draw(7, [40, 64, 400, 8]);
    let d = case.d;
    for (latent, atom) in case.atoms.chunks_exact_mut(d).enumerate() {
        atom[latent % d] = 30.0; // 8 bits leave nothing of the others
        let norm = atom.iter().map(|v| v * v).sum::<f32>().sqrt();
        atom.iter_mut().for_each(|v| *v /= norm);
    }
    for x in case.x.chunks_exact_mut(d) {
        x[3] = 1e3;
    }
    case.holds("outliers");
}

#[test]
fn few_atoms_are_scored() {
    use std::sync::atomic::Ordering::Relaxed;
    let case = Case::draw(8, [64, 256, 2000, 16]);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .use_current_thread();
    let pool = pool.build().unwrap();
    for level in Level::available() {
        let all = Pursuing {
            atoms: &case.atoms,
            d: case.d,
            k: case.k,
            how: Pursuit::PLAIN,
            level,
            state: &case.state,
        };
        row::SCORED.with(|scored| scored.store(0, Relaxed));
        pool.install(|| all.run(&case.x, Way::Gram));
        let steps = (64 * case.k) as f64;
        let scored = row::SCORED.with(|scored| scored.load(Relaxed)) as f64 / steps;
        println!("{level:?}: {scored} atoms scored a step");
        assert!((1.0..4.0).contains(&scored), "{level:?}: {scored} a step");
    }
}

#[test]
fn atoms_that_moved_since_the_integers_were_made() {
    let mut case = Case::draw(9, [64, 95, 900, 12]);
    let d = case.d;
    for step in 0..6 {
        // Far less than 8 bits leave, then more, then all of it.
        let size = [1e-4, 1e-3, 3e-3, 1e-2, 0.1, 1.0][step];
        let mut rng = ChaCha8Rng::seed_from_u64(step as u64);
        for atom in case.atoms.chunks_exact_mut(d) {
            atom.iter_mut()
                .for_each(|a| *a += size * normal(&mut rng) / 10.0);
        }
        case.holds("moved atoms");
    }
}

#[test]
fn one_state_for_other_atoms_and_sizes_changes_no_result() {
    let shapes = [
        [40, 48, 300, 8],
        [40, 48, 300, 8],
        [40, 96, 150, 8],
        [33, 48, 200, 12],
    ];
    let state = EncoderState::default();
    let mut cases: Vec<Case> = (20..)
        .zip(shapes)
        .map(|(seed, shape)| Case::draw(seed, shape))
        .collect();
    for round in 0..2 {
        for (number, case) in cases.iter_mut().enumerate() {
            case.state = state.clone();
            case.holds(&format!("case {number}, round {round}"));
        }
    }
}

#[test]
fn of_equal_atoms_the_first_is_taken() {
    let mut case = Case::draw(10, [33, 32, 400, 1]);
    let d = case.d;
    // What is the best of every row stands at three places: far apart, and in one lane of a block.
    for (row, places) in (0..33).map(|row| (row, [5 + 4 * row, 170 + 4 * row, 186 + 4 * row])) {
        let x = case.x[row * d..][..d].to_vec();
        let norm = x.iter().map(|v| v * v).sum::<f32>().sqrt();
        for place in places {
            let atom = &mut case.atoms[place * d..][..d];
            atom.iter_mut().zip(&x).for_each(|(a, x)| *a = x / norm);
        }
    }
    case.holds("pairs");
    for level in Level::available() {
        for way in [Way::Exact, Way::Gram, Way::Anew] {
            let all = Pursuing {
                atoms: &case.atoms,
                d,
                k: 1,
                how: Pursuit::PLAIN,
                level,
                state: &case.state,
            };
            let (taken, ..) = all.run(&case.x, way);
            for (row, taken) in taken.iter().enumerate() {
                // Whichever row's direction it is, of its places the first.
                assert_eq!(*taken as usize, 5 + 4 * row, "{level:?}, {way:?}");
            }
        }
    }
}
