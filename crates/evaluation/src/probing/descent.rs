//! Coordinate descent on a quadratic approximation with an absolute penalty: the inner part of
//! Newton's method in [`super::logistic`] (Yuan, Ho, Lin 2012).

use super::rows::Rows;

/// Passes over the columns in one of Newton's steps with an absolute penalty, at most.
const DESCENT: usize = 300;

/// Of each column the rows and values of its entries that are not 0, then a column of ones for the
/// bias.
pub(super) fn columns_of(x: &Rows) -> Vec<Vec<(u32, f64)>> {
    let mut columns = vec![Vec::new(); x.columns()];
    for i in 0..x.len() {
        for (j, v) in x.row(i) {
            columns[*j as usize].push((i as u32, f64::from(*v)));
        }
    }
    columns.push((0..x.len() as u32).map(|i| (i, 1.0)).collect());
    columns
}

/// The slope that is left at a weight when the penalty takes its side against the gradient.
pub(super) fn steepness(w: f64, gradient: f64, penalty: f64) -> f64 {
    if w == 0.0 {
        gradient.signum() * (gradient.abs() - penalty).max(0.0)
    } else {
        gradient + w.signum() * penalty
    }
}

/// The step to the least of the loss's quadratic approximation at `w` plus the penalty, by
/// coordinate descent. It ends when no slope is steeper than `accuracy`.
pub(super) fn descend(
    columns: &[Vec<(u32, f64)>],
    w: &[f64],
    gradient: &[f64],
    curvature: &[f64],
    penalty: f64,
    accuracy: f64,
) -> Vec<f64> {
    let p = w.len() - 1;
    let mut step = vec![0.0; p + 1];
    // Of each row the change of its score times its curvature.
    let mut pull = vec![0.0; curvature.len()];
    let diagonal = columns.iter().map(|column| {
        let each = column.iter().map(|(i, v)| curvature[*i as usize] * v * v);
        1e-12 + each.sum::<f64>()
    });
    let diagonal: Vec<f64> = diagonal.collect();
    let mut active: Vec<usize> = (0..=p).collect();
    for _ in 0..DESCENT {
        let mut worst = 0.0f64;
        let is_whole = active.len() == p + 1;
        let mut moving = Vec::with_capacity(active.len());
        for &j in &active {
            let penalty = if j < p { penalty } else { 0.0 };
            let each = columns[j].iter().map(|(i, v)| pull[*i as usize] * v);
            let slope = gradient[j] + each.sum::<f64>() + 1e-12 * step[j];
            let at = w[j] + step[j];
            worst = worst.max(steepness(at, slope, penalty).abs());
            let free = at - slope / diagonal[j];
            let next = free.signum() * (free.abs() - penalty / diagonal[j]).max(0.0);
            let change = next - at;
            if change != 0.0 {
                step[j] += change;
                for (i, v) in &columns[j] {
                    pull[*i as usize] += curvature[*i as usize] * v * change;
                }
            }
            if next != 0.0 || change != 0.0 || j == p {
                moving.push(j);
            }
        }
        if worst <= accuracy {
            if is_whole {
                break;
            }
            // Columns at rest may have begun to move.
            active = (0..=p).collect();
        } else {
            active = moving;
        }
    }
    step
}
