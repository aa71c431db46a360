//! Windows of staging memory that are used in turn: the bus reads some while the host fills another.

/// Most windows of a ring.
const WINDOWS: usize = 4;

/// Windows, each with the event after which what was put there last has been read. They are made when first needed.
pub(super) struct Ring<W, E> {
    windows: Vec<(W, Option<E>)>,
    next: usize,
}

impl<W, E> Default for Ring<W, E> {
    fn default() -> Self {
        Self { windows: Vec::new(), next: 0 }
    }
}

impl<W, E> Ring<W, E> {
    /// The window to be filled now, once `wait` has waited for what reads it. If that fails, it waits again next time.
    pub(super) fn free<F>(
        &mut self,
        make: impl FnOnce() -> Result<W, F>,
        wait: impl FnOnce(&E) -> Result<(), F>,
    ) -> Result<&W, F> {
        if self.windows.len() == self.next {
            self.windows.push((make()?, None));
        }
        let (window, read) = &mut self.windows[self.next];
        if let Some(event) = read {
            wait(event)?;
            *read = None;
        }
        Ok(window)
    }

    /// The window that was free is being read until `event`; the next one is another.
    pub(super) fn fill(&mut self, event: E) {
        self.windows[self.next].1 = Some(event);
        self.next = (self.next + 1) % WINDOWS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_filled_again_only_when_it_has_been_read() {
        let (mut ring, mut made, mut waited) = (Ring::<usize, usize>::default(), 0, Vec::new());
        let mut order = Vec::new();
        for copy in 0..10 {
            let make = || {
                made += 1;
                Ok::<_, ()>(made)
            };
            let wait = |event: &usize| {
                waited.push(*event);
                Ok(())
            };
            order.push(*ring.free(make, wait).unwrap());
            ring.fill(copy);
        }
        assert_eq!(order, [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]);
        assert_eq!(waited, [0, 1, 2, 3, 4, 5], "each waits for the copy before it in the same window");
    }

    #[test]
    fn what_could_not_be_waited_for_is_waited_for_again() {
        let mut ring = Ring::<(), usize>::default();
        for copy in 0..WINDOWS {
            ring.free(|| Ok::<_, ()>(()), |_| Ok(())).unwrap();
            ring.fill(copy);
        }
        assert!(ring.free(|| Ok(()), |_| Err("lost")).is_err());
        let mut waited = false;
        let wait = |_: &usize| {
            waited = true;
            Ok::<_, ()>(())
        };
        ring.free(|| Ok(()), wait).unwrap();
        assert!(waited);
        // One that was not filled after all, and nobody reads, is free at once.
        ring.free(|| Ok(()), |_| Err("nothing reads it")).unwrap();
    }
}
