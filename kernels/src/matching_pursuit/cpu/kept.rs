//! What a pursuit in integers leaves for the next one of the same dictionary.

use std::any::Any;
use std::sync::{Arc, Mutex, Weak};

/// The integers and the Gram matrix of the last pursuit of a dictionary, for its next one: while
/// training, atoms move by less in a step than 8 bits leave of them, and all that is asked of an
/// approximation is that what it misses be known. Empty while a pursuit uses them. Clones share
/// them.
#[derive(Clone, Default)]
pub(crate) struct Kept(Arc<Slot>);

/// The [`Integers`](super::integers::Integers) of some tile.
type Slot = Mutex<Option<Box<dyn Any + Send>>>;

/// Dictionaries whose integers are kept: those that train in turn, few, since a Gram matrix takes
/// up to 128 MiB.
const MOST_KEPT: usize = 2;

/// Which slots are full, the last one filled at the end. It keeps to [`MOST_KEPT`], and whose slot
/// is whose makes no difference to it.
pub(super) struct Full(Mutex<Vec<Weak<Slot>>>);

pub(super) static FULL: Full = Full(Mutex::new(Vec::new()));

impl Full {
    /// What `kept` holds. If it holds nothing, and no more slots may be full, what the slot filled
    /// first holds: there is memory in it.
    pub fn take(&self, kept: &Kept) -> Option<Box<dyn Any + Send>> {
        let mut full = self.0.lock().ok()?;
        full.retain(|slot| slot.strong_count() > 0);
        let own = full.iter().position(|slot| kept.is(slot));
        let any = own.or_else(|| (full.len() == MOST_KEPT).then_some(0))?;
        empty(&full.remove(any))
    }

    /// Fills the slot of `kept`, and empties that filled first if these were too many.
    pub fn put(&self, kept: &Kept, integers: Box<dyn Any + Send>) {
        let Ok(mut full) = self.0.lock() else { return };
        full.retain(|slot| slot.strong_count() > 0 && !kept.is(slot));
        if full.len() == MOST_KEPT {
            drop(empty(&full.remove(0)));
        }
        if let Ok(mut slot) = kept.0.lock() {
            *slot = Some(integers);
            full.push(Arc::downgrade(&kept.0));
        }
    }
}

impl Kept {
    fn is(&self, slot: &Weak<Slot>) -> bool {
        slot.as_ptr() == Arc::as_ptr(&self.0)
    }
}

/// What the slot held.
fn empty(slot: &Weak<Slot>) -> Option<Box<dyn Any + Send>> {
    let slot = slot.upgrade()?;
    let mut held = slot.lock().ok()?;
    held.take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_two_dictionaries_keep_their_integers_while_they_live() {
        let full = Full(Mutex::new(vec![]));
        let integers = |latents: usize| -> Box<dyn Any + Send> { Box::new(latents) };
        let number = |held: &Box<dyn Any + Send>| *held.as_ref().downcast_ref::<usize>().unwrap();
        let held = |kept: &Kept| kept.0.lock().unwrap().as_ref().map(number);
        let [a, b, c] = [(); 3].map(|()| Kept::default());
        assert!(full.take(&a).is_none());
        full.put(&a, integers(10));
        full.put(&b, integers(20));
        assert_eq!((held(&a), held(&b)), (Some(10), Some(20)));
        // A clone shares them; while they are in use the slot is empty.
        let again = full.take(&a.clone()).unwrap();
        assert_eq!((number(&again), held(&a)), (10, None));
        full.put(&a, again);
        // The third gets what was filled first.
        let room = full.take(&c).unwrap();
        assert_eq!((number(&room), held(&b)), (20, None));
        full.put(&c, integers(30));
        full.put(&b, integers(20));
        assert_eq!([&a, &b, &c].map(held), [None, Some(20), Some(30)]);
        // Whoever is gone leaves room.
        drop(c);
        full.put(&a, integers(10));
        assert_eq!([&a, &b].map(held), [Some(10), Some(20)]);
    }
}
