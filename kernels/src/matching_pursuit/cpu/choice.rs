//! Which approximation serves a pursuit.

use super::Pursuing;
use super::approximate::Approximate;
use super::floats::Floats;
#[cfg(target_arch = "x86_64")]
use super::integers;
#[cfg(target_arch = "x86_64")]
use crate::host::with_tile;

/// The best approximation that there is for `n` rows; None if atoms are beyond any bound.
pub(super) fn of<'a>(all: &Pursuing<'a>, n: usize) -> Option<Box<dyn Approximate + 'a>> {
    #[cfg(target_arch = "x86_64")]
    if integers::serves(n, all.d) {
        let kept = &all.state.pursuit;
        with_tile!(all.level, |tile| {
            return usable(integers::InUse::of(tile, all.atoms, all.d, kept)?);
        });
    }
    let _ = (all.state, n);
    usable(Floats::new(all.atoms, all.d)?)
}

/// None where all atoms are so small that what correlations are counted in would vanish.
fn usable<'a>(known: impl Approximate + 'a) -> Option<Box<dyn Approximate + 'a>> {
    let usable = known.bounds().most.approximate > 1e-15;
    usable.then(|| Box::new(known) as Box<dyn Approximate>)
}
