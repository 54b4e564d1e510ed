use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use super::*;

#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Black-box tests cannot see this: today the `h2` crate wakes the task too when a stream ends.
#[test]
fn the_last_stream_wakes_its_connection() {
    let streams = Rc::<Streams>::default();
    let wakes = Arc::new(Counter::default());
    let waker = Waker::from(Arc::clone(&wakes));
    // Nobody looks yet.
    drop(Streams::enter(&streams));
    let (one, two) = (Streams::enter(&streams), Streams::enter(&streams));
    streams.watch(&Context::from_waker(&waker));
    drop(one);
    assert_eq!((streams.count(), wakes.0.load(Ordering::SeqCst)), (1, 0));
    drop(two);
    assert_eq!((streams.count(), wakes.0.load(Ordering::SeqCst)), (0, 1));
}
