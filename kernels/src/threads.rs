//! Whether the program has one thread: what belongs to the whole process, such as its environment,
//! may be changed only then.

/// Whether the calling thread is surely the only one. It is known on Linux; elsewhere, or where
/// `/proc` cannot be read, the answer is no.
pub(crate) fn this_is_the_only_one() -> bool {
    cfg!(target_os = "linux")
        && std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_second_thread_is_noticed() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let second = std::thread::spawn(move || stopped.recv());
        assert!(!super::this_is_the_only_one());
        drop(stop);
        assert!(second.join().unwrap().is_err()); // it waited until now
    }
}
