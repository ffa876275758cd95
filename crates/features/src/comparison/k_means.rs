//! Lloyd's k-means with the seeding of k-means++ (Arthur and Vassilvitskii 2007).

use rayon::prelude::*;

use super::random::Random;

const MAX_ROUNDS: usize = 300;

/// A grouping of points.
pub(crate) struct Groups {
    /// The group of each point.
    pub(crate) group: Vec<usize>, // [points]
    /// Sum of squared distances of the points to the means of their groups.
    pub(crate) inertia: f64,
}

/// The best of `restarts` runs on `points` `[n, d]`; ties: the first run. There are at least
/// `groups` points, and `groups` and `restarts` are at least 1.
pub(crate) fn k_means(
    points: &[f64],
    d: usize,
    groups: usize,
    restarts: usize,
    seed: u64,
) -> Groups {
    let mut random = Random::new(seed);
    let mut best = run(points, d, groups, &mut random);
    for _ in 1..restarts {
        let next = run(points, d, groups, &mut random);
        if next.inertia < best.inertia {
            best = next;
        }
    }
    best
}

fn run(points: &[f64], d: usize, groups: usize, random: &mut Random) -> Groups {
    let mut means = plus_plus(points, d, groups, random);
    let mut group: Vec<usize> = Vec::new();
    for _ in 0..MAX_ROUNDS {
        let nearest: Vec<(usize, f64)> = points
            .par_chunks(d)
            .map(|point| nearest_mean(point, &means, d))
            .collect();
        let next: Vec<usize> = nearest.iter().map(|&(group, _)| group).collect();
        if next == group {
            break;
        }
        group = next;
        update_means(points, d, &nearest, &mut means);
    }
    let inertia = points
        .chunks(d)
        .zip(&group)
        .map(|(point, &group)| distance(point, &means[group * d..(group + 1) * d]));
    Groups {
        inertia: inertia.sum(),
        group,
    }
}

/// Means that start far apart: each next one is a point drawn in proportion to its squared distance
/// to the nearest mean so far.
fn plus_plus(points: &[f64], d: usize, groups: usize, random: &mut Random) -> Vec<f64> {
    let n = points.len() / d;
    let point = |at: usize| &points[at * d..(at + 1) * d];
    let mut means = point(random.below(n)).to_vec();
    let mut distances = vec![f64::INFINITY; n];
    while means.len() < groups * d {
        let last = &means[means.len() - d..];
        distances
            .par_iter_mut()
            .enumerate()
            .for_each(|(at, least)| {
                *least = least.min(distance(point(at), last));
            });
        let mut rest = random.uniform() * distances.iter().sum::<f64>();
        // The last point with a distance, if rounding leaves a rest; point 0, if all are equal.
        let mut chosen = 0;
        for (at, &share) in distances
            .iter()
            .enumerate()
            .filter(|&(_, &share)| share > 0.0)
        {
            chosen = at;
            rest -= share;
            if rest < 0.0 {
                break;
            }
        }
        means.extend_from_slice(point(chosen));
    }
    means
}

/// The nearest mean and its squared distance; ties: the lower group.
fn nearest_mean(point: &[f64], means: &[f64], d: usize) -> (usize, f64) {
    let mut best = (0, f64::INFINITY);
    for (group, mean) in means.chunks(d).enumerate() {
        let squared = distance(point, mean);
        if squared < best.1 {
            best = (group, squared);
        }
    }
    best
}

/// A group without points gets the point that is furthest from its mean.
fn update_means(points: &[f64], d: usize, nearest: &[(usize, f64)], means: &mut [f64]) {
    let mut counts = vec![0usize; means.len() / d];
    means.fill(0.0);
    for (point, &(group, _)) in points.chunks(d).zip(nearest) {
        counts[group] += 1;
        for (mean, x) in means[group * d..(group + 1) * d].iter_mut().zip(point) {
            *mean += x;
        }
    }
    let mut furthest: Vec<usize> = Vec::new();
    for (mean, &count) in means.chunks_mut(d).zip(&counts) {
        if count > 0 {
            mean.iter_mut().for_each(|x| *x /= count as f64);
            continue;
        }
        if furthest.is_empty() {
            furthest = (0..nearest.len()).collect();
            furthest.sort_by(|&i, &j| nearest[i].1.total_cmp(&nearest[j].1)); // popped from the end
        }
        if let Some(at) = furthest.pop() {
            mean.copy_from_slice(&points[at * d..(at + 1) * d]);
        }
    }
}

fn distance(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| (x - y).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grouping_of_few_points_equals_the_best_of_all_groupings() {
        let mut random = Random::new(3);
        let points: Vec<f64> = (0..18).map(|_| random.uniform()).collect(); // 9 points in 2d
        let got = k_means(&points, 2, 3, 20, 1);
        let inertia = |group: &dyn Fn(usize) -> usize| -> f64 {
            (0..3)
                .map(|g| {
                    let of: Vec<&[f64]> = (0..9)
                        .filter(|&i| group(i) == g)
                        .map(|i| &points[2 * i..2 * i + 2])
                        .collect();
                    let n = of.len().max(1) as f64;
                    let mean = [0, 1].map(|at| of.iter().map(|p| p[at]).sum::<f64>() / n);
                    of.iter().map(|p| distance(p, &mean)).sum::<f64>()
                })
                .sum()
        };
        let all = (0..3usize.pow(9)).map(|code| inertia(&|i| code / 3usize.pow(i as u32) % 3));
        let best = all.fold(f64::INFINITY, f64::min);
        assert!((got.inertia - best).abs() < 1e-12);
        assert!((inertia(&|i| got.group[i]) - got.inertia).abs() < 1e-12);
    }

    #[test]
    fn the_second_mean_is_drawn_in_proportion_to_squared_distances() {
        // From 0, the points 1 and 3 have squared distances 1 and 9.
        let draws = (0..3000).map(|seed| plus_plus(&[0.0, 1.0, 3.0], 1, 2, &mut Random::new(seed)));
        let seconds: Vec<f64> = draws.filter(|m| m[0] == 0.0).map(|m| m[1]).collect();
        let far = seconds.iter().filter(|&&second| second == 3.0).count();
        // About 1000 draws: four standard errors are 0.038.
        assert!((far as f64 / seconds.len() as f64 - 0.9).abs() < 0.04);
        assert!(!seconds.contains(&0.0));
    }

    #[test]
    fn equal_points_do_not_disturb() {
        let got = k_means(&[1.0; 12], 2, 3, 2, 0);
        assert_eq!(got.inertia, 0.0);
        assert_eq!(got.group, [0; 6]);
    }
}
