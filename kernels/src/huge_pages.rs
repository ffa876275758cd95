//! Large allocations in huge pages where Linux gives them on request.

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, asking for huge pages under everything large.
///
/// Weights, moments and gradients are hundreds of megabytes, touched row by row in no order. In
/// pages of 4 KiB most rows miss the processor's table of pages, and the first touch of a 75 MB
/// gradient takes longer than computing it. Most distributions leave huge pages to programs that
/// ask (`/sys/kernel/mm/transparent_hugepage/enabled` says `madvise`); elsewhere asking does
/// nothing. mimalloc 3, which asks too, is as fast and takes more memory: on a Zen 3 (AVX2, two
/// cores) three runs of `lapidary bench` in turn gave steps of 759 and 773 ms (medians; single runs
/// differ by 5 %) with peaks of 515 and 534 MB, and 860 and 944 MB resident.
///
/// A program chooses this allocator, as `lapidary` does:
///
/// ```
/// #[global_allocator]
/// static MEMORY: lapidary_kernels::HugePages = lapidary_kernels::HugePages;
/// # fn main() {}
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct HugePages;

/// From here on an allocation has whole huge pages.
const LARGE: usize = 4 << 20; // bytes

impl HugePages {
    /// Asks the system's allocator to keep some 64 MiB that were freed (of each arena), for batches
    /// and gradients that come again with every step: fresh pages are cleared first, which takes
    /// longer than filling them. For programs to call once, at their start: it does nothing once
    /// there are other threads, or where the allocator is not glibc's.
    pub fn keep_freed(self) {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        if crate::threads::this_is_the_only_one() {
            // SAFETY: these parameters exist since the first glibc, and only say when memory goes
            // back to the system; no other thread allocates while they are set.
            unsafe {
                libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
                libc::mallopt(libc::M_TRIM_THRESHOLD, 64 << 20);
            }
        }
    }
}

/// From here on an allocation begins with a cache line, so that no vector of the widest kind lies
/// across two.
const ALIGNED: usize = 64 << 10; // bytes

/// The bytes of a cache line.
const LINE: usize = 64;

/// What the system aligns to of itself: there is always room for an address between that and a
/// line's beginning.
const NATURAL: usize = 16;

/// Whether a block is shifted within a larger one of the system's, to the next line's beginning.
/// (The system's own aligned blocks do not fit into the room that their like leave behind, and are
/// cleared even where they come clear.)
fn shifted(layout: Layout) -> bool {
    layout.size() >= ALIGNED && layout.align() <= LINE
}

/// The system's block around one of `size` bytes, if there can be one.
fn around(size: usize) -> Option<Layout> {
    Layout::from_size_align(size.checked_add(LINE)?, NATURAL).ok()
}

/// Where the shifted block lies in the system's block `raw`, which it notes before itself; null
/// stays null.
///
/// # Safety
/// `raw` is null, or an allocation by [`around`].
unsafe fn shift(raw: *mut u8) -> *mut u8 {
    if raw.is_null() {
        return raw;
    }
    // SAFETY: the next line begins at most LINE bytes on, and at least NATURAL, since `raw` is
    // aligned to that: an address fits between.
    unsafe {
        let start = raw.add(LINE - raw.addr() % LINE);
        start.cast::<*mut u8>().sub(1).write(raw);
        start
    }
}

/// The system's block that [`shift`] shifted.
///
/// # Safety
/// `start` came from [`shift`], and is not null.
unsafe fn raw(start: *mut u8) -> *mut u8 {
    // SAFETY: it was noted there.
    unsafe { start.cast::<*mut u8>().sub(1).read() }
}

// SAFETY: a block is the system's, or lies in one of the system's that has room for it and for its
// address. Which, depends on the caller's layout alone, so that the system gets back what it gave.
unsafe impl GlobalAlloc for HugePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !shifted(layout) {
            // SAFETY: the caller's contract is this method's.
            return unsafe { ask(System.alloc(layout), layout.size()) };
        }
        let Some(whole) = around(layout.size()) else {
            return std::ptr::null_mut();
        };
        // SAFETY: the size is not zero, and the block around has room for the shifted one.
        unsafe { ask(shift(System.alloc(whole)), layout.size()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !shifted(layout) {
            // SAFETY: as above.
            return unsafe { ask(System.alloc_zeroed(layout), layout.size()) };
        }
        let Some(whole) = around(layout.size()) else {
            return std::ptr::null_mut();
        };
        // SAFETY: as above. The address is noted before the block.
        unsafe { ask(shift(System.alloc_zeroed(whole)), layout.size()) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's sizes are valid with the caller's alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (shifted(layout), shifted(wanted)) {
            // SAFETY: as above.
            (false, false) => unsafe { ask(System.realloc(start, layout, size), size) },
            (true, true) => {
                let (Some(before), Some(after)) = (around(layout.size()), around(size)) else {
                    return std::ptr::null_mut();
                };
                // SAFETY: the system's block moves with all that is in it; where it now lies
                // differently to the lines, what the caller has is moved on within it, as much as
                // both sizes hold.
                unsafe {
                    let from = raw(start);
                    let offset = start.offset_from_unsigned(from);
                    let moved = System.realloc(from, before, after.size());
                    if moved.is_null() {
                        return moved;
                    }
                    let there = moved.add(LINE - moved.addr() % LINE);
                    if there != moved.add(offset) {
                        there.copy_from(moved.add(offset), layout.size().min(size));
                    }
                    ask(shift(moved), size)
                }
            }
            // SAFETY: both blocks have as many bytes as are copied, and the old one is freed once
            // the new one stands.
            _ => unsafe {
                let new = self.alloc(wanted);
                if !new.is_null() {
                    new.copy_from_nonoverlapping(start, layout.size().min(size));
                    self.dealloc(start, layout);
                }
                new
            },
        }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        if !shifted(layout) {
            // SAFETY: as above.
            return unsafe { System.dealloc(start, layout) };
        }
        if let Some(whole) = around(layout.size()) {
            // SAFETY: this is the block that was allocated around it.
            unsafe { System.dealloc(raw(start), whole) }
        }
    }
}

/// Asks for huge pages under the whole ones among `size` bytes at `start`, which may be null.
///
/// # Safety
/// `start` is null, or an allocation of at least `size` bytes lies there.
#[inline]
unsafe fn ask(start: *mut u8, size: usize) -> *mut u8 {
    #[cfg(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    if size >= LARGE && !start.is_null() {
        // SAFETY: as the caller says.
        unsafe { advise(start, size) };
    }
    #[cfg(not(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64")
    )))]
    let _ = (size, LARGE);
    start
}

/// # Safety
/// An allocation of at least `size` bytes lies at `start`.
#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
#[cold]
unsafe fn advise(start: *mut u8, size: usize) {
    const HUGE_PAGE: usize = 2 << 20;
    let first = start.addr().next_multiple_of(HUGE_PAGE);
    let end = (start.addr() + size) & !(HUGE_PAGE - 1);
    if first < end {
        // SAFETY: the range lies within the caller's allocation, and the advice changes how it is
        // mapped, not what it holds. A refusal changes nothing, so the result is of no interest.
        unsafe {
            libc::madvise(
                start.with_addr(first).cast(),
                end - first,
                libc::MADV_HUGEPAGE,
            )
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills `size` bytes from `from` on with their positions, modulo a prime.
    fn fill(bytes: &mut [u8], from: usize) {
        for (at, byte) in bytes.iter_mut().enumerate().skip(from) {
            *byte = (at % 251) as u8;
        }
    }

    /// Memory that is asked for with `align` and grows and shrinks past both limits.
    fn grow_and_shrink(align: usize) {
        const SMALL: usize = 1000;
        const BIG: usize = 20 << 20;
        let layout = |size| Layout::from_size_align(size, align).unwrap();
        let check = |start: *mut u8| assert!(start.addr().is_multiple_of(LINE), "{start:?}");
        // SAFETY: sizes are not zero, each pointer is freed once with the layout it last had, and
        // slices end before that.
        unsafe {
            let start = HugePages.alloc_zeroed(layout(BIG));
            check(start);
            let bytes = std::slice::from_raw_parts_mut(start, BIG);
            assert!(bytes.iter().all(|&byte| byte == 0));
            fill(bytes, 0);
            let start = HugePages.realloc(start, layout(BIG), 2 * BIG);
            check(start);
            fill(std::slice::from_raw_parts_mut(start, 2 * BIG), BIG);
            let start = HugePages.realloc(start, layout(2 * BIG), SMALL);
            let start = HugePages.realloc(start, layout(SMALL), ALIGNED);
            check(start);
            let start = HugePages.realloc(start, layout(ALIGNED), BIG);
            check(start);
            let bytes = std::slice::from_raw_parts_mut(start, BIG);
            fill(bytes, SMALL);
            assert!((0..BIG).all(|at| bytes[at] == (at % 251) as u8));
            HugePages.dealloc(start, layout(BIG));
        }
    }

    #[test]
    fn memory_holds_what_is_written_through_growing_and_shrinking() {
        for align in [1, 8, 64, 4096] {
            grow_and_shrink(align);
        }
    }

    #[test]
    fn what_cannot_be_had_is_null() {
        let layout = Layout::from_size_align(1 << 62, 8).unwrap();
        // SAFETY: the size is not zero; nothing was allocated.
        assert!(unsafe { HugePages.alloc(layout) }.is_null());
    }
}
