//! Large allocations in huge pages where Linux gives them on request.

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, asking for huge pages under everything large.
///
/// Weights, moments and gradients are hundreds of megabytes, touched row by row in no order. In pages of 4 KiB most rows
/// miss the processor's table of pages, and the first touch of a 75 MB gradient takes longer than computing it. Most
/// distributions leave huge pages to programs that ask (`/sys/kernel/mm/transparent_hugepage/enabled` says `madvise`);
/// elsewhere asking does nothing. A program chooses it, as `lapidary` does:
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
    /// Asks the system's allocator to keep some 64 MiB that were freed (of each arena), for batches and gradients that come again with every
    /// step: fresh pages are cleared first, which takes longer than filling them. For programs to call once, at their start.
    /// Does nothing where the allocator is not glibc's.
    pub fn keep_freed(self) {
        #[cfg(all(target_os = "linux", target_env = "gnu"))]
        {
            use std::ffi::c_int;
            unsafe extern "C" {
                fn mallopt(parameter: c_int, value: c_int) -> c_int;
            }
            const M_TRIM_THRESHOLD: c_int = -1;
            const M_MMAP_THRESHOLD: c_int = -3;
            // SAFETY: these parameters exist since the first glibc, and only say when memory goes back to the system.
            unsafe {
                mallopt(M_MMAP_THRESHOLD, 32 << 20);
                mallopt(M_TRIM_THRESHOLD, 64 << 20);
            }
        }
    }
}

/// From here on an allocation begins with a cache line, so that no vector of the widest kind lies across two.
const ALIGNED: usize = 64 << 10; // bytes

/// The bytes of a cache line.
const LINE: usize = 64;

/// What is asked of the system for `layout`: the same, aligned to cache lines if it is large.
fn aligned(layout: Layout) -> Layout {
    if layout.size() < ALIGNED {
        return layout;
    }
    layout.align_to(LINE).unwrap_or(layout)
}

// SAFETY: every method hands its arguments to the system's allocator and returns what that returned. The layout that it hands
// over depends on the caller's alone, so that the system gets back the layout that it was asked for.
unsafe impl GlobalAlloc for HugePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is this method's.
        ask(unsafe { System.alloc(aligned(layout)) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        let start = unsafe { System.alloc_zeroed(aligned(layout)) };
        ask(start, layout.size())
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's sizes are valid with the caller's alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        let (before, wanted) = (aligned(layout), aligned(wanted));
        if before.align() == wanted.align() {
            // SAFETY: as above.
            return ask(unsafe { System.realloc(start, before, size) }, size);
        }
        // SAFETY: both blocks have as many bytes as are copied, and the old one is freed with its layout, once the new one stands.
        unsafe {
            let new = ask(System.alloc(wanted), size);
            if !new.is_null() {
                new.copy_from_nonoverlapping(start, before.size().min(size));
                System.dealloc(start, before);
            }
            new
        }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(start, aligned(layout)) }
    }
}

/// Asks for huge pages under the whole ones among `size` bytes at `start`, which may be null.
#[inline]
fn ask(start: *mut u8, size: usize) -> *mut u8 {
    #[cfg(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    if size >= LARGE && !start.is_null() {
        advise(start, size);
    }
    #[cfg(not(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64")
    )))]
    let _ = (size, LARGE);
    start
}

#[cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
#[cold]
fn advise(start: *mut u8, size: usize) {
    use std::ffi::{c_int, c_void};
    const HUGE_PAGE: usize = 2 << 20;
    const MADV_HUGEPAGE: c_int = 14;
    unsafe extern "C" {
        fn madvise(start: *mut c_void, length: usize, advice: c_int) -> c_int;
    }
    let first = start.addr().next_multiple_of(HUGE_PAGE);
    let end = (start.addr() + size) & !(HUGE_PAGE - 1);
    if first < end {
        // SAFETY: the range lies within one allocation, and the advice changes how it is mapped, not what it holds. A
        // refusal changes nothing, so the result is of no interest.
        unsafe { madvise(start.with_addr(first).cast(), end - first, MADV_HUGEPAGE) };
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
        // SAFETY: sizes are not zero, each pointer is freed once with the layout it last had, and slices end before that.
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
