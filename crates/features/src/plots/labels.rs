//! Places the names of points: beside each point, clear of markers and other names, and across
//! lines only if there is no better place.

use super::font;
use super::frame::Area;
use super::legend::SLACK;
use super::scene::Anchor;

type Spot = (f64, f64);

/// Half the side of the square that a marker takes.
const MARKER: f64 = 6.0;
/// Distances of a name from its point. Beyond the first, a line leads to it.
const DISTANCES: [f64; 9] = [13.0, 24.0, 36.0, 48.0, 62.0, 78.0, 96.0, 118.0, 144.0];
/// A name across a line is as bad as this much more distance; a leader across a line, and a leader
/// across a marker.
const CROSSING: f64 = 60.0;
const LEADER_CROSSING: f64 = 8.0;
const HIDDEN_MARKER: f64 = 50.0;

/// Where a point's name goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Placed {
    /// Baseline of the text, at `anchor`.
    pub at: Spot,
    pub anchor: Anchor,
    /// The line from the point, if the name is not beside it.
    pub leader: Option<[Spot; 2]>,
    area: Area,
}

/// Gives each name of a point a place within `within`, or none if all places are taken.
pub(crate) fn place(
    names: &[String],
    size: f64,
    points: &[Spot],
    lines: &[[Spot; 2]],
    within: Area,
) -> Vec<Option<Placed>> {
    let markers: Vec<Area> = points
        .iter()
        .map(|&point| around(point, MARKER, MARKER))
        .collect();
    let mut placed: Vec<Option<Placed>> = Vec::new();
    for (name, &point) in names.iter().zip(points) {
        if name.trim().is_empty() {
            placed.push(None);
            continue;
        }
        let width = font::width(name, size) * SLACK + 2.0;
        let mut best: Option<(f64, Placed)> = None;
        for (candidate, distance) in candidates(point, width, size) {
            let area = candidate.area;
            let inside = area.left >= within.left
                && area.right <= within.right
                && area.top >= within.top
                && area.bottom <= within.bottom;
            let clear = |other: &Placed| {
                !overlap(area, other.area)
                    && !other.leader.is_some_and(|leader| crosses(leader, area))
                    && !candidate
                        .leader
                        .is_some_and(|leader| crosses(leader, other.area))
            };
            let free = inside
                && !markers.iter().any(|marker| overlap(area, *marker))
                && placed.iter().flatten().all(clear);
            let crossed = lines.iter().filter(|line| crosses(**line, area)).count();
            let mut cost = distance + CROSSING * crossed as f64;
            if let Some(leader) = candidate.leader {
                // A leader starts in its own marker, and in those that hide it.
                let other = |marker: &&Area| !holds(**marker, point) && crosses(leader, **marker);
                let apart = |line: &&[Spot; 2]| !line.contains(&point) && meet(leader, **line);
                cost += HIDDEN_MARKER * markers.iter().filter(other).count() as f64
                    + LEADER_CROSSING * lines.iter().filter(apart).count() as f64;
            }
            if free && best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, candidate));
            }
        }
        placed.push(best.map(|(_, candidate)| candidate));
    }
    placed
}

/// Places for a name: right, left, above, below and at the corners of its point, then farther away.
fn candidates((x, y): Spot, width: f64, size: f64) -> Vec<(Placed, f64)> {
    let mut all = Vec::new();
    for (ring, &distance) in DISTANCES.iter().enumerate() {
        let side = distance - 5.0;
        for (right, down) in [
            (1, 0),
            (-1, 0),
            (1, -1),
            (1, 1),
            (-1, -1),
            (-1, 1),
            (0, -1),
            (0, 1),
        ] {
            let middle = y + f64::from(down) * distance;
            let edge = if down == 0 {
                side
            } else {
                side.min(6.0 + side / 3.0)
            };
            let start = x + f64::from(right) * edge;
            let (left, anchor) = match right {
                1 => (start, Anchor::Start),
                -1 => (start - width, Anchor::End),
                _ => (x - width / 2.0, Anchor::Middle),
            };
            let (top, bottom) = (middle - 0.55 * size, middle + 0.55 * size);
            let area = Area {
                left,
                right: left + width,
                top,
                bottom,
            };
            let end = match down {
                0 => (start - f64::from(right) * 2.0, middle),
                _ => (
                    start.clamp(left + 2.0, left + width - 2.0),
                    middle - f64::from(down) * 0.6 * size,
                ),
            };
            let leader = (ring > 0).then_some([(x, y), end]);
            let at = (start, middle + 0.35 * size);
            // Later directions are a little worse.
            let cost = distance + 0.1 * all.len() as f64;
            all.push((
                Placed {
                    at,
                    anchor,
                    leader,
                    area,
                },
                cost,
            ));
        }
    }
    all
}

fn around((x, y): Spot, half_width: f64, half_height: f64) -> Area {
    Area {
        left: x - half_width,
        right: x + half_width,
        top: y - half_height,
        bottom: y + half_height,
    }
}

fn overlap(a: Area, b: Area) -> bool {
    a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom
}

fn holds(area: Area, (x, y): Spot) -> bool {
    (area.left..=area.right).contains(&x) && (area.top..=area.bottom).contains(&y)
}

/// Whether a line touches the inside of an area: Liang & Barsky (1984).
fn crosses([(x, y), (to_x, to_y)]: [Spot; 2], area: Area) -> bool {
    let (dx, dy) = (to_x - x, to_y - y);
    let (mut enter, mut leave) = (0.0f64, 1.0f64);
    for (step, room) in [
        (-dx, x - area.left),
        (dx, area.right - x),
        (-dy, y - area.top),
        (dy, area.bottom - y),
    ] {
        if step == 0.0 {
            if room <= 0.0 {
                return false;
            }
        } else if step < 0.0 {
            enter = enter.max(room / step);
        } else {
            leave = leave.min(room / step);
        }
    }
    enter < leave
}

/// Whether two lines cross: the ends of each lie on both sides of the other.
fn meet(a: [Spot; 2], b: [Spot; 2]) -> bool {
    let side = |[from, to]: [Spot; 2], at: Spot| {
        (to.0 - from.0) * (at.1 - from.1) - (to.1 - from.1) * (at.0 - from.0)
    };
    side(a, b[0]) * side(a, b[1]) < 0.0 && side(b, a[0]) * side(b, a[1]) < 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLOT: Area = Area {
        left: 0.0,
        right: 600.0,
        top: 0.0,
        bottom: 400.0,
    };

    #[test]
    fn names_never_overlap_each_other_or_a_marker() {
        // 40 points on a spiral, close in its middle.
        let points: Vec<Spot> = (0..40)
            .map(f64::from)
            .map(|i| {
                (
                    300.0 + 5.0 * i * (0.9 * i).cos(),
                    200.0 + 4.0 * i * (0.9 * i).sin(),
                )
            })
            .collect();
        let names: Vec<String> = (0..40).map(|i| format!("run-{i}-of-forty")).collect();
        let placed = place(&names, 11.0, &points, &[], PLOT);
        let areas: Vec<Area> = placed.iter().flatten().map(|label| label.area).collect();
        assert!(areas.len() >= 30, "{} names", areas.len());
        for (i, &area) in areas.iter().enumerate() {
            assert!(areas[..i].iter().all(|other| !overlap(area, *other)));
            assert!(
                points
                    .iter()
                    .all(|&point| !overlap(area, around(point, 5.9, 5.9)))
            );
        }
    }

    #[test]
    fn a_lone_name_is_to_the_right_unless_a_line_is_there() {
        let names = ["run".to_owned()];
        let place = |lines: &[[Spot; 2]]| place(&names, 11.0, &[(300.0, 200.0)], lines, PLOT)[0];
        let free = place(&[]).unwrap();
        assert!(free.at.0 > 300.0 && free.anchor == Anchor::Start && free.leader.is_none());
        let beside = place(&[[(300.0, 200.0), (600.0, 200.0)]]).unwrap();
        assert!(beside.at.0 < 300.0 && beside.leader.is_none());
    }

    #[test]
    fn a_name_without_any_place_is_left_out() {
        let small = Area {
            left: 0.0,
            right: 20.0,
            top: 0.0,
            bottom: 20.0,
        };
        assert!(place(&["run".into()], 11.0, &[(10.0, 10.0)], &[], small)[0].is_none());
    }
}
