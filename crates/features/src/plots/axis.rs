//! Axes: which round numbers get a tick, how they are written, and where a value lies.

use super::Scale;
use super::scene::Label;

/// Values beyond this in size are not drawn: differences of larger ones could overflow.
pub(crate) const LARGEST: f64 = 1e100;
/// Log axes start no lower, and linear axes take less for 0.
const SMALLEST: f64 = 1e-100;
/// A log axis over a smaller ratio than this gets the ticks of a linear one.
const NARROW: f64 = 4.0;
/// Up to this many decades, a log axis has labels at 1, 2 and 5 times each decade.
const SHORT: f64 = 2.4;

/// Whether `value` can be drawn on an axis.
pub(crate) fn drawable(value: f64, log: bool) -> bool {
    value.abs() <= LARGEST && (!log || value >= SMALLEST)
}

/// Smallest and largest of the values that can be drawn.
pub(crate) fn range(values: impl IntoIterator<Item = f64>, log: bool) -> Option<(f64, f64)> {
    values
        .into_iter()
        .filter(|&value| drawable(value, log))
        .fold(None, |range, value| match range {
            None => Some((value, value)),
            Some((low, high)) => Some((value.min(low), value.max(high))),
        })
}

impl Scale {
    /// Whether the scale is logarithmic for these values.
    pub(crate) fn is_log(self, values: impl IntoIterator<Item = f64>) -> bool {
        match self {
            Self::Linear => false,
            Self::Log => true,
            Self::Auto => range(values, false)
                .is_some_and(|(low, high)| drawable(low, true) && high / low >= 10.0),
        }
    }
}

/// An axis from `low` to `high`, both of which are ticks or minor ticks.
#[derive(Debug, Clone)]
pub(crate) struct Axis {
    pub low: f64,
    pub high: f64,
    pub log: bool,
    pub ticks: Vec<(f64, Label)>,
    /// Ticks without labels.
    pub minor: Vec<f64>,
}

impl Axis {
    /// An axis over at least the range of `values`, with about `count` ticks.
    ///
    /// It is linear if `log` but none of the values is positive.
    pub(crate) fn new(range: Option<(f64, f64)>, log: bool, count: f64) -> Self {
        match (range, log) {
            (None, _) => Self::linear(0.0, 1.0, count),
            (Some((low, high)), false) => Self::linear(low, high, count),
            (Some((low, high)), true) => Self::logarithmic(low, high, count),
        }
    }

    fn linear(low: f64, high: f64, count: f64) -> Self {
        let (low, high) = widen(low, high);
        let step = Step::new((high - low) / count.max(1.0));
        let (first, last) = (step.below(low), step.above(high));
        let values = step.values(first, last);
        let ticks = values.iter().copied().zip(step.labels(&values)).collect();
        Self {
            low: step.times(first),
            high: step.times(last),
            log: false,
            ticks,
            minor: Vec::new(),
        }
    }

    fn logarithmic(low: f64, high: f64, count: f64) -> Self {
        // A single value gets the space to the neighbouring round numbers.
        let (low, high) = if high / low < 1.05 {
            (low / 1.2, high * 1.2)
        } else {
            (low, high)
        };
        if high / low < NARROW {
            let linear = Self::linear(low, high, count);
            if linear.low > 0.0 {
                return Self {
                    log: true,
                    ..linear
                };
            }
        }
        // Numbers are places on the grid 1, 2, 5, 10, …: 3 · exponent + 0, 1 or 2.
        let (first, last) = (grid_below(low), grid_above(high));
        let decades = f64::from(last - first) / 3.0;
        let short = decades <= SHORT;
        // Long axes end at decades, and have a label at every `every`th.
        let every = (decades / count.max(2.0)).ceil().max(1.0) as i32;
        let (first, last) = if short || decades <= 4.0 {
            (first, last)
        } else {
            let block = 3 * every;
            (
                first.div_euclid(block) * block,
                -(-last).div_euclid(block) * block,
            )
        };
        let plain = first >= -9 && last <= 12;
        let mut ticks = Vec::new();
        let mut minor = Vec::new();
        for place in first..=last {
            if place.rem_euclid(3 * every) == 0 || short {
                ticks.push((grid_value(place), grid_label(place, plain)));
            } else if every > 1 && place.rem_euclid(3) == 0 {
                minor.push(grid_value(place));
            }
        }
        if every == 1 {
            let (low, high) = (grid_value(first), grid_value(last));
            for exponent in first.div_euclid(3)..=last.div_euclid(3) {
                for digit in 2..=9 {
                    let value = f64::from(digit) * power(exponent);
                    let labelled = short && (digit == 2 || digit == 5);
                    if value >= low * 0.999 && value <= high * 1.001 && !labelled {
                        minor.push(value);
                    }
                }
            }
        }
        Self {
            low: grid_value(first),
            high: grid_value(last),
            log: true,
            ticks,
            minor,
        }
    }

    /// Where `value` lies: 0 at the start of the axis, 1 at its end.
    pub(crate) fn place(&self, value: f64) -> f64 {
        if self.log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }
}

/// Ten to the `exponent`, correctly rounded.
fn power(exponent: i32) -> f64 {
    format!("1e{exponent}").parse().unwrap_or(1.0)
}

/// `digits` times ten to the `exponent`, correctly rounded, so that ticks are round numbers.
fn decimal(digits: f64, exponent: i32) -> f64 {
    if exponent < 0 {
        digits / power(-exponent)
    } else {
        digits * power(exponent)
    }
}

fn grid_value(place: i32) -> f64 {
    decimal(
        [1.0, 2.0, 5.0][place.rem_euclid(3) as usize],
        place.div_euclid(3),
    )
}

fn grid_below(value: f64) -> i32 {
    let guess = 3 * value.log10().floor() as i32 + 3;
    // What sticks out by the tolerance is less than a pixel.
    (guess - 6..=guess)
        .rev()
        .find(|&at| grid_value(at) <= value * 1.005)
        .unwrap_or(guess - 6)
}

fn grid_above(value: f64) -> i32 {
    let guess = 3 * value.log10().floor() as i32 - 1;
    (guess..=guess + 7)
        .find(|&at| grid_value(at) >= value * 0.995)
        .unwrap_or(guess + 7)
}

fn grid_label(place: i32, plain: bool) -> Label {
    let (digit, exponent) = ([1, 2, 5][place.rem_euclid(3) as usize], place.div_euclid(3));
    if plain {
        let decimals = (-exponent).max(0) as usize;
        return format!("{:.decimals$}", grid_value(place)).into();
    }
    let text = if digit == 1 {
        "10".into()
    } else {
        format!("{digit}×10")
    };
    Label {
        text,
        superscript: signed(exponent),
    }
}

fn signed(exponent: i32) -> String {
    exponent.to_string().replace('-', "−")
}

/// A range with room: a range of one value grows around it.
fn widen(low: f64, high: f64) -> (f64, f64) {
    let size = low.abs().max(high.abs());
    if size < SMALLEST {
        (0.0, 1.0)
    } else if high - low < size * 1e-9 {
        (low - size * 0.1, high + size * 0.1)
    } else {
        (low, high)
    }
}

/// The distance of linear ticks: 1, 2 or 5 times a power of ten.
#[derive(Debug, Clone, Copy)]
struct Step {
    digit: f64,
    exponent: i32,
}

impl Step {
    /// The nearest step, by ratio, to `size`.
    fn new(size: f64) -> Self {
        let mut exponent = size.log10().floor() as i32;
        let share = size / power(exponent);
        let digit = match share {
            _ if share < 1.5 => 1.0,
            _ if share < 3.2 => 2.0,
            _ if share < 7.1 => 5.0,
            _ => {
                exponent += 1;
                1.0
            }
        };
        Self { digit, exponent }
    }

    fn size(self) -> f64 {
        decimal(self.digit, self.exponent)
    }

    fn times(self, count: f64) -> f64 {
        decimal(self.digit * count, self.exponent)
    }

    // The tolerances keep values that are round but for their last bits from asking for more.
    fn below(self, value: f64) -> f64 {
        (value / self.size() + 1e-6).floor()
    }

    fn above(self, value: f64) -> f64 {
        (value / self.size() - 1e-6).ceil()
    }

    fn values(self, first: f64, last: f64) -> Vec<f64> {
        let count = (last - first) as usize;
        (0..=count).map(|i| self.times(first + i as f64)).collect()
    }

    fn labels(self, values: &[f64]) -> Vec<Label> {
        let largest = values
            .iter()
            .fold(0.0, |most: f64, value| most.max(value.abs()));
        let write = |value: f64, exponent: i32, suffix: &str| {
            let decimals = (exponent - self.exponent).max(0) as usize;
            let text = format!("{:.decimals$}", decimal(value, -exponent));
            if value == 0.0 {
                "0".into()
            } else {
                text.replace('-', "−") + suffix
            }
        };
        let units = [(1e12, 12, "T"), (1e9, 9, "B"), (1e6, 6, "M"), (1e3, 3, "k")];
        let unit = units
            .iter()
            .find(|(size, ..)| largest >= *size && largest >= 1e4);
        let digits = largest.log10().floor() as i32;
        values
            .iter()
            .map(|&value| match unit {
                _ if (largest >= 1e15 || self.exponent < -4) && value != 0.0 => Label {
                    text: write(value, digits, "×10"),
                    superscript: signed(digits),
                },
                Some((_, exponent, suffix)) => write(value, *exponent, suffix).into(),
                None => write(value, 0, "").into(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(axis: &Axis) -> Vec<String> {
        let write = |label: &Label| match label.superscript.as_str() {
            "" => label.text.clone(),
            raised => format!("{}^{raised}", label.text),
        };
        axis.ticks.iter().map(|(_, label)| write(label)).collect()
    }

    #[test]
    fn linear_ticks_are_round_numbers_that_cover_the_data() {
        for (low, high) in [
            (0.0, 1.0),
            (0.3, 0.71),
            (-5.0, 17.0),
            (1e-9, 3e-9),
            (0.0, 6e5),
            (1e9, 1e9 + 3.0),
        ] {
            let axis = Axis::new(Some((low, high)), false, 5.0);
            let values: Vec<f64> = axis.ticks.iter().map(|tick| tick.0).collect();
            assert!(
                values[0] <= low && *values.last().unwrap() >= high,
                "{low} {high}: {values:?}"
            );
            assert!((3..=12).contains(&values.len()), "{values:?}");
            // The shortest decimal of a round step has one digit, 1, 2 or 5.
            let step = format!("{:e}", ((values[1] - values[0]) * 1e12).round() / 1e12);
            let step = if high < 1e-6 {
                format!("{:.0e}", values[1] - values[0])
            } else {
                step
            };
            assert!(
                ["1e", "2e", "5e"]
                    .iter()
                    .any(|start| step.starts_with(start)),
                "{step}"
            );
        }
    }

    #[test]
    fn linear_labels_are_short_and_exact() {
        let labels = |low, high| written(&Axis::new(Some((low, high)), false, 4.0));
        assert_eq!(labels(0.0, 0.3), ["0", "0.1", "0.2", "0.3"]);
        assert_eq!(labels(0.0, 6e5), ["0", "200k", "400k", "600k"]);
        assert_eq!(labels(-1.0, 1.0), ["−1.0", "−0.5", "0", "0.5", "1.0"]);
        assert_eq!(labels(0.0, 2e6), ["0", "0.5M", "1.0M", "1.5M", "2.0M"]);
        assert_eq!(labels(0.0, 3e-7), ["0", "1×10^−7", "2×10^−7", "3×10^−7"]);
    }

    #[test]
    fn long_log_axes_have_decades() {
        let axis = Axis::new(Some((3e-5, 0.7)), true, 6.0);
        assert_eq!(
            written(&axis),
            ["10^−5", "10^−4", "10^−3", "10^−2", "10^−1", "10^0"]
        );
        assert!((axis.place(1e-3) - 0.4).abs() < 1e-12);
        assert_eq!(axis.minor.len(), 5 * 8);
        let longer = Axis::new(Some((1e-30, 1.0)), true, 6.0);
        assert_eq!(written(&longer)[..2], ["10^−30", "10^−25"]);
    }

    #[test]
    fn short_log_axes_have_labels_within_decades() {
        let axis = Axis::new(Some((0.03, 0.6)), true, 6.0);
        assert_eq!(written(&axis), ["0.02", "0.05", "0.1", "0.2", "0.5", "1"]);
        let narrow = Axis::new(Some((31.0, 36.0)), true, 5.0);
        assert_eq!(written(&narrow), ["31", "32", "33", "34", "35", "36"]);
        assert!(narrow.log);
    }

    #[test]
    fn extreme_ranges_give_axes_with_few_ticks_and_finite_ends() {
        let values = [
            -LARGEST,
            -1.0,
            -SMALLEST,
            0.0,
            SMALLEST,
            1e-9,
            1.0,
            1.0 + 1e-15,
            1e15,
            LARGEST,
        ];
        for low in values {
            for high in values.into_iter().filter(|high| *high >= low) {
                for log in [false, true] {
                    if log && low < SMALLEST {
                        continue;
                    }
                    let axis = Axis::new(Some((low, high)), log, 5.0);
                    assert!(
                        axis.low < axis.high && axis.ticks.len() <= 14,
                        "{low} {high} {axis:?}"
                    );
                    // What sticks out is less than a pixel.
                    assert!(
                        axis.place(low) > -1e-3 && axis.place(high) < 1.01,
                        "{low} {high}"
                    );
                    assert!(
                        axis.place(low).is_finite() && axis.ticks.len() + axis.minor.len() >= 2
                    );
                }
            }
        }
    }
}
