//! When the next request may be sent: a limit per minute, and pauses that the server asks for.

use super::POLL;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The pace of all threads together.
#[derive(Debug)]
pub(super) struct Pace {
    /// Between two requests.
    interval: Option<Duration>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When the next request may be sent by the limit.
    next: Instant,
    /// Before which none may be sent.
    paused_until: Instant,
}

impl Pace {
    pub(super) fn new(max_per_minute: Option<u32>) -> Self {
        let now = Instant::now();
        Pace {
            interval: max_per_minute.map(|most| Duration::from_secs(60) / most.max(1)),
            state: Mutex::new(State {
                next: now,
                paused_until: now,
            }),
        }
    }

    /// Lets no request begin for a while.
    pub(super) fn pause(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.paused_until = state.paused_until.max(until);
    }

    /// Waits until a request may be sent; `false` if `stop` says so first.
    pub(super) fn wait_for_turn(&self, stop: &dyn Fn() -> bool) -> bool {
        if stop() {
            return false;
        }
        loop {
            let turn = {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                let now = Instant::now();
                let turn = state.next.max(state.paused_until);
                if turn <= now {
                    if let Some(interval) = self.interval {
                        state.next = now + interval;
                    }
                    return true;
                }
                turn
            };
            // Another thread may be first then, or be told to pause meanwhile.
            if !sleep_until(turn, stop) {
                return false;
            }
        }
    }
}

/// Sleeps; `false` if `stop` says so first. It is asked at least once.
pub(super) fn sleep_until(until: Instant, stop: &dyn Fn() -> bool) -> bool {
    loop {
        if stop() {
            return false;
        }
        let rest = until.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return true;
        }
        std::thread::sleep(rest.min(POLL));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_spread_over_the_minute() {
        let pace = Pace::new(Some(1200)); // one per 50 ms
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..5 {
                scope.spawn(|| assert!(pace.wait_for_turn(&|| false)));
            }
        });
        assert!(start.elapsed() >= Duration::from_millis(200));
        assert!(start.elapsed() < Duration::from_secs(2));
    }

    #[test]
    fn a_pause_holds_for_all_threads() {
        let pace = Pace::new(None);
        assert!(pace.wait_for_turn(&|| false));
        pace.pause(Duration::from_millis(150));
        pace.pause(Duration::ZERO);
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| assert!(pace.wait_for_turn(&|| false)));
            }
        });
        assert!(start.elapsed() >= Duration::from_millis(140));
    }
}
