//! The line search of L-BFGS-B: a step that meets the strong Wolfe conditions (Moré, Thuente
//! 1994), with the constants that Zhu, Byrd, Lu and Nocedal (1997) use.

/// The loss falls by at least this share of what its first slope promises.
const DECREASE: f64 = 1e-3;

/// The slope shrinks to at most this share of the first.
const CURVATURE: f64 = 0.9;

/// An interval this short, compared with its end, is not divided further.
const WIDTH: f64 = 0.1;

/// The longest step.
const LONGEST: f64 = 1e10;

/// A step, the loss there and its slope.
#[derive(Clone, Copy, Debug)]
struct Point {
    step: f64,
    loss: f64,
    slope: f64,
}

/// What to do after a step was tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Next {
    /// The step is good, or none better can be found.
    Accept,
    /// Try this one.
    Try(f64),
}

/// A search along one direction.
pub(crate) struct LineSearch {
    start: Point,
    /// The end of the interval with the lowest loss so far.
    best: Point,
    /// The other end.
    other: Point,
    /// Whether the interval holds a good step for certain.
    is_bracketed: bool,
    /// Whether the search still looks at the loss less its promised fall.
    is_first_stage: bool,
    low: f64,
    high: f64,
    width: f64,
    earlier_width: f64,
}

impl LineSearch {
    /// `loss` and `slope` (below 0) at step 0, and the first step to be tried.
    pub(crate) fn new(loss: f64, slope: f64, first: f64) -> Self {
        let start = Point {
            step: 0.0,
            loss,
            slope,
        };
        Self {
            start,
            best: start,
            other: start,
            is_bracketed: false,
            is_first_stage: true,
            low: 0.0,
            high: 5.0 * first,
            width: LONGEST,
            earlier_width: 2.0 * LONGEST,
        }
    }

    /// Takes the loss and the slope at the step tried last.
    pub(crate) fn next(&mut self, step: f64, loss: f64, slope: f64) -> Next {
        let promised = DECREASE * self.start.slope;
        let target = self.start.loss + step * promised;
        if self.is_first_stage && loss <= target && slope >= 0.0 {
            self.is_first_stage = false;
        }
        let is_outside = step <= self.low || step >= self.high;
        if self.is_bracketed && (is_outside || self.is_narrow())
            || step == LONGEST && loss <= target && slope <= promised
            || step == 0.0 && (loss > target || slope >= promised)
            || loss <= target && slope.abs() <= -CURVATURE * self.start.slope
        {
            return Next::Accept;
        }
        let tried = Point { step, loss, slope };
        let step = if self.is_first_stage && loss <= self.best.loss && loss > target {
            let without = |p: Point, sign: f64| Point {
                step: p.step,
                loss: p.loss - sign * p.step * promised,
                slope: p.slope - sign * promised,
            };
            self.best = without(self.best, 1.0);
            self.other = without(self.other, 1.0);
            let step = self.narrow(without(tried, 1.0));
            self.best = without(self.best, -1.0);
            self.other = without(self.other, -1.0);
            step
        } else {
            self.narrow(tried)
        };
        self.choose(step)
    }

    fn is_narrow(&self) -> bool {
        self.high - self.low <= WIDTH * self.high
    }

    /// Keeps the step within bounds that shrink fast enough.
    fn choose(&mut self, mut step: f64) -> Next {
        let (best, other) = (self.best.step, self.other.step);
        if self.is_bracketed {
            let width = (other - best).abs();
            if width >= 0.66 * self.earlier_width {
                step = best + 0.5 * (other - best);
            }
            self.earlier_width = self.width;
            self.width = width;
            (self.low, self.high) = (best.min(other), best.max(other));
        } else {
            self.low = step + 1.1 * (step - best);
            self.high = step + 4.0 * (step - best);
        }
        let step = step.clamp(0.0, LONGEST);
        let is_outside = step <= self.low || step >= self.high;
        if self.is_bracketed && (is_outside || self.is_narrow()) {
            return Next::Try(best);
        }
        Next::Try(step)
    }

    /// Puts the tried point into the interval and interpolates the next step: from a cubic through
    /// both losses and slopes, and a quadratic or secant step for safety.
    fn narrow(&mut self, tried: Point) -> f64 {
        let (best, other) = (self.best, self.other);
        let is_opposed = tried.slope * (best.slope / best.slope.abs()) < 0.0;
        // The step to the least of the cubic through two points, as a share of `from` to `to`.
        let cubic = |from: Point, to: Point, past: f64, clip: bool| {
            let theta = 3.0 * (from.loss - to.loss) / (to.step - from.step) + from.slope + to.slope;
            let scale = theta.abs().max(from.slope.abs()).max(to.slope.abs());
            let square = (theta / scale).powi(2) - (from.slope / scale) * (to.slope / scale);
            let square = if clip { square.max(0.0) } else { square };
            let gamma = past * scale * square.sqrt();
            (theta, gamma)
        };
        let secant =
            tried.step + tried.slope / (tried.slope - best.slope) * (best.step - tried.step);
        let step;
        if tried.loss > best.loss {
            // The least lies between.
            let past = if tried.step < best.step { -1.0 } else { 1.0 };
            let (theta, gamma) = cubic(best, tried, past, false);
            let share = (gamma - best.slope + theta) / (gamma - best.slope + gamma + tried.slope);
            let by_cubic = best.step + share * (tried.step - best.step);
            let fall = (best.loss - tried.loss) / (tried.step - best.step) + best.slope;
            let by_quadratic = best.step + best.slope / fall / 2.0 * (tried.step - best.step);
            let is_nearer = (by_cubic - best.step).abs() < (by_quadratic - best.step).abs();
            step = if is_nearer {
                by_cubic
            } else {
                by_cubic + (by_quadratic - by_cubic) / 2.0
            };
            self.is_bracketed = true;
        } else if is_opposed {
            // The slope has changed its sign.
            let past = if tried.step > best.step { -1.0 } else { 1.0 };
            let (theta, gamma) = cubic(best, tried, past, false);
            let share = (gamma - tried.slope + theta) / (gamma - tried.slope + gamma + best.slope);
            let by_cubic = tried.step + share * (best.step - tried.step);
            let is_farther = (by_cubic - tried.step).abs() > (secant - tried.step).abs();
            step = if is_farther { by_cubic } else { secant };
            self.is_bracketed = true;
        } else if tried.slope.abs() < best.slope.abs() {
            // The slope has the same sign and is smaller.
            let past = if tried.step > best.step { -1.0 } else { 1.0 };
            let (theta, gamma) = cubic(best, tried, past, true);
            let share =
                (gamma - tried.slope + theta) / (gamma + (best.slope - tried.slope) + gamma);
            let by_cubic = if share < 0.0 && gamma != 0.0 {
                tried.step + share * (best.step - tried.step)
            } else if tried.step > best.step {
                self.high
            } else {
                self.low
            };
            let is_nearer = (by_cubic - tried.step).abs() < (secant - tried.step).abs();
            if self.is_bracketed {
                let chosen = if is_nearer { by_cubic } else { secant };
                let limit = tried.step + 0.66 * (other.step - tried.step);
                step = if tried.step > best.step {
                    chosen.min(limit)
                } else {
                    chosen.max(limit)
                };
            } else {
                let chosen = if is_nearer { secant } else { by_cubic };
                step = chosen.clamp(self.low.min(self.high), self.high.max(self.low));
            }
        } else if self.is_bracketed {
            // The slope has the same sign and is no smaller.
            let past = if tried.step > other.step { -1.0 } else { 1.0 };
            let (theta, gamma) = cubic(other, tried, past, false);
            let share = (gamma - tried.slope + theta) / (gamma - tried.slope + gamma + other.slope);
            step = tried.step + share * (other.step - tried.step);
        } else if tried.step > best.step {
            step = self.high;
        } else {
            step = self.low;
        }
        if tried.loss > best.loss {
            self.other = tried;
        } else {
            if is_opposed {
                self.other = best;
            }
            self.best = tried;
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps that scipy 1.17.1 tries (`scipy.optimize._dcsrch`, the same constants) on two of
    /// Moré and Thuente's test functions.
    #[test]
    fn steps_are_those_of_scipy() {
        type Function = fn(f64) -> f64;
        let first: (Function, Function) = (
            |a| -a / (a * a + 2.0),
            |a| (a * a - 2.0) / (a * a + 2.0).powi(2),
        );
        let second: (Function, Function) = (
            |a| (a + 0.004).powi(5) - 2.0 * (a + 0.004).powi(4),
            |a| 5.0 * (a + 0.004).powi(4) - 8.0 * (a + 0.004).powi(3),
        );
        let expected: [((Function, Function), &[f64]); 8] = [
            (first, &[0.001, 0.005, 0.021, 0.085, 0.341]),
            (first, &[1.0]),
            (first, &[1000.0, 332.835370947, 110.783827648, 36.887606964]),
            (second, &FROM_SMALL),
            (second, &FROM_TENTH),
            (second, &FROM_ONE),
            (second, &FROM_TEN),
            (second, &FROM_LARGE),
        ];
        for ((loss, slope), steps) in expected {
            let mut search = LineSearch::new(loss(0.0), slope(0.0), steps[0]);
            let mut tried = vec![steps[0]];
            let mut step = steps[0];
            while let Next::Try(next) = search.next(step, loss(step), slope(step)) {
                step = next;
                tried.push(step);
                assert!(tried.len() <= steps.len(), "{tried:?} {steps:?}");
            }
            assert_eq!(tried.len(), steps.len());
            for (a, b) in tried.iter().zip(steps) {
                assert!((a - b).abs() < 1e-8 * b, "{tried:?} {steps:?}");
            }
        }
    }

    const FROM_SMALL: [f64; 11] = [
        0.001,
        0.005,
        0.021,
        0.085,
        0.341,
        1.365,
        5.461,
        2.10702476688,
        1.55169263448,
        1.5975830449,
        1.5975830449,
    ];

    const FROM_TENTH: [f64; 7] = [
        0.1,
        0.5,
        2.1,
        1.13223751877,
        1.60240852668,
        1.58473828343,
        1.60240852668,
    ];

    const FROM_ONE: [f64; 7] = [
        1.0,
        5.0,
        1.81144835905,
        1.25865274702,
        1.59157673186,
        1.59612959892,
        1.59612959892,
    ];

    const FROM_TEN: [f64; 6] = [
        10.0,
        2.30698995804,
        0.687286712788,
        1.56614135362,
        1.61237380594,
        1.61237380594,
    ];

    const FROM_LARGE: [f64; 10] = [
        1000.0,
        222.295654846,
        49.4728164904,
        11.0693521447,
        2.54336855603,
        0.720115341559,
        1.62965131667,
        1.35122297979,
        1.59504027603,
        1.59504027603,
    ];
}
