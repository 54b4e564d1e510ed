//! One lazily re-armed timer that bounds each wait of a connection.
//!
//! A connection waits for one thing at a time (a head, an answer, a client that takes bytes), each
//! with a limit of its own. A timer for each wait would cost a trip through the timer wheel for
//! each read. This one stays armed where it is as long as it fires no later than the new deadline;
//! when it fires early it is armed again for the rest. In the steady state of a busy connection the
//! wheel is touched once per idle period, not once per request.
//!
//! Invariants: a wait ends neither later nor earlier than its own deadline (to the wheel's
//! millisecond), and a wait that is ready at once neither reads the clock nor touches the timer. Nor
//! does the first one after somebody else has read it: see [`Deadline::begins_at`].

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep, sleep_until};

/// The wait took longer than its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the time for this wait is over")]
pub struct Elapsed;

/// A timer that is reused for every wait of one direction of a connection.
#[derive(Debug)]
pub struct Deadline {
    sleep: Pin<Box<Sleep>>,
    /// When the next wait begins, if it is known.
    next: Option<Instant>,
    /// Who is woken when the timer fires, once it was asked for.
    wakes: Option<Waker>,
}

impl Deadline {
    /// A timer that is armed `limit` from now; each wait brings its own limit.
    pub fn new(limit: Duration) -> Self {
        Self {
            sleep: Box::pin(sleep_until(Instant::now() + limit)),
            next: None,
            wakes: None,
        }
    }

    /// Says when the next wait begins, as somebody has just read the clock for a reason of his own.
    /// Forgotten with the first wait that is not ready at once. Whoever lets time pass before that
    /// without waiting here says so: [`Deadline::forget_begin`].
    pub fn begins_at(&mut self, now: std::time::Instant) {
        self.next = Some(now.into());
    }

    /// Forgets what [`Deadline::begins_at`] said: time has passed that was not waited for here.
    pub fn forget_begin(&mut self) {
        self.next = None;
    }

    /// Makes ready for another task.
    pub fn reset(&mut self) {
        self.next = None;
        self.wakes = None;
    }

    /// Waits for `future`, for at most `limit` from the moment when it first has to wait.
    ///
    /// # Errors
    /// [`Elapsed`] when the limit passed first; the future is dropped.
    pub fn within<F: Future>(
        &mut self,
        limit: Duration,
        future: F,
    ) -> impl Future<Output = Result<F::Output, Elapsed>> {
        self.wait(None, limit, future)
    }

    /// Waits for `future` until `at`: for limits that span several waits, such as
    /// a whole request head.
    ///
    /// # Errors
    /// [`Elapsed`] when `at` passed first; the future is dropped.
    pub fn until<F: Future>(
        &mut self,
        at: Instant,
        future: F,
    ) -> impl Future<Output = Result<F::Output, Elapsed>> {
        self.wait(Some(at), Duration::ZERO, future)
    }

    /// Ready once `at` has passed; else the task is woken then, or earlier.
    pub fn poll_until(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        self.arm(at);
        self.poll_timer(cx, at)
    }

    async fn wait<F: Future>(
        &mut self,
        mut at: Option<Instant>,
        limit: Duration,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        let mut armed = false;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            let begin = self.next.take();
            let deadline = *at.get_or_insert_with(|| begin.unwrap_or_else(Instant::now) + limit);
            if !armed {
                armed = true;
                self.arm(deadline);
            }
            self.poll_timer(cx, deadline).map(|()| Err(Elapsed))
        })
        .await
    }

    /// Has the timer fire no later than `at`.
    fn arm(&mut self, at: Instant) {
        if at < self.sleep.deadline() {
            self.sleep.as_mut().reset(at);
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        // Asking for what was asked for already would cost two locks of memory and a clone.
        let is_woken = |own: &Waker| own.will_wake(cx.waker());
        if !self.sleep.is_elapsed() && self.wakes.as_ref().is_some_and(is_woken) {
            return Poll::Pending;
        }
        loop {
            // Without budget the timer would not take the waker.
            let takes = has_budget_remaining();
            if self.sleep.as_mut().poll(cx).is_pending() {
                self.wakes = takes.then(|| cx.waker().clone());
                return Poll::Pending;
            }
            if Instant::now() >= at {
                return Poll::Ready(());
            }
            self.sleep.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    use tokio::task::coop::consume_budget;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
    }

    #[test]
    fn a_ready_future_needs_no_time() {
        runtime().block_on(async {
            let mut deadline = Deadline::new(Duration::from_secs(1));
            let got = deadline.within(Duration::ZERO, ready(7)).await;
            assert_eq!(got, Ok(7));
        });
    }

    #[test]
    fn each_wait_has_its_own_limit() {
        runtime().block_on(async {
            let mut deadline = Deadline::new(Duration::from_secs(65));
            for secs in [65, 10, 3600, 1, 60] {
                let start = Instant::now();
                let got = deadline
                    .within(Duration::from_secs(secs), pending::<()>())
                    .await;
                assert_eq!(got, Err(Elapsed));
                assert_eq!(start.elapsed().as_secs(), secs);
            }
        });
    }

    /// Waits polled by hand, several at a time: seconds after the start, and the one that ends.
    #[track_caller]
    fn check_until(ends: &[u64], armed: u64, expected: u64) {
        runtime().block_on(async {
            let mut deadline = Deadline::new(Duration::from_secs(armed));
            let start = Instant::now();
            std::future::poll_fn(|cx| {
                let polled = ends.iter().map(|end| {
                    let at = start + Duration::from_secs(*end);
                    (*end, deadline.poll_until(cx, at).is_ready())
                });
                let over: Vec<_> = polled.filter(|(_, over)| *over).collect();
                match over.first() {
                    Some((end, _)) => {
                        assert_eq!(*end, expected);
                        Poll::Ready(())
                    }
                    None => Poll::Pending,
                }
            })
            .await;
            assert_eq!(start.elapsed().as_secs(), expected, "{ends:?} {armed}");
        });
    }

    #[test]
    fn of_several_waits_the_first_to_end_ends_in_time() {
        for ends in [[60, 10, 30], [10, 30, 60], [30, 60, 10]] {
            for armed in [5, 10, 20, 3600] {
                check_until(&ends, armed, 10);
            }
        }
    }

    #[test]
    fn a_wait_begins_when_the_clock_was_read_and_the_next_one_by_itself() {
        runtime().block_on(async {
            let mut deadline = Deadline::new(Duration::from_secs(65));
            let start = Instant::now();
            let limit = Duration::from_secs(10);
            deadline.begins_at(start.into_std());
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert_eq!(deadline.within(limit, ready(7)).await, Ok(7));
            for ends in [10, 20] {
                let got = deadline.within(limit, pending::<()>()).await;
                assert_eq!((got, start.elapsed().as_secs()), (Err(Elapsed), ends));
            }
            deadline.begins_at(start.into_std());
            deadline.forget_begin();
            let got = deadline.within(limit, pending::<()>()).await;
            assert_eq!((got, start.elapsed().as_secs()), (Err(Elapsed), 30));
        });
    }

    #[test]
    fn a_task_that_has_used_up_its_turn_is_woken_all_the_same() {
        runtime().block_on(async {
            let mut deadline = Deadline::new(Duration::from_secs(65));
            let start = Instant::now();
            let mut waiting = pin!(deadline.within(Duration::from_secs(10), pending::<()>()));
            let mut first = true;
            let polled = std::future::poll_fn(|cx| {
                if std::mem::take(&mut first) {
                    while pin!(consume_budget()).poll(cx).is_ready() {}
                }
                waiting.as_mut().poll(cx)
            });
            let got = tokio::time::timeout(Duration::from_secs(60), polled).await;
            assert_eq!(got, Ok(Err(Elapsed)));
            assert_eq!(start.elapsed().as_secs(), 10);
        });
    }

    #[test]
    fn another_task_is_woken_when_it_waits_with_the_same_timer() {
        runtime().block_on(async {
            let local = tokio::task::LocalSet::new();
            let start = Instant::now();
            let mut deadline = Deadline::new(Duration::from_secs(65));
            let limit = Duration::from_secs(10);
            for (reset, ends) in [(true, 11), (false, 22)] {
                let waited = deadline.within(limit, tokio::time::sleep(Duration::from_secs(1)));
                assert_eq!(waited.await, Ok(()));
                if reset {
                    deadline.reset();
                }
                let task = local.spawn_local(async move {
                    let got = deadline.within(limit, pending::<()>()).await;
                    (deadline, got)
                });
                let (back, got) = local.run_until(task).await.unwrap();
                deadline = back;
                assert_eq!((got, start.elapsed().as_secs()), (Err(Elapsed), ends));
            }
        });
    }

    #[test]
    fn a_total_deadline_spans_waits() {
        runtime().block_on(async {
            let mut deadline = Deadline::new(Duration::from_secs(65));
            let start = Instant::now();
            let at = start + Duration::from_secs(10);
            let mut reads = 0;
            while deadline
                .until(at, tokio::time::sleep(Duration::from_secs(3)))
                .await
                .is_ok()
            {
                reads += 1;
            }
            assert_eq!((reads, start.elapsed().as_secs()), (3, 10));
        });
    }

    #[test]
    fn the_timer_is_not_rearmed_while_it_fires_early_enough() {
        runtime().block_on(async {
            let mut deadline = Deadline::new(Duration::from_secs(5));
            let armed = deadline.sleep.deadline();
            for _ in 0..4 {
                let wait = tokio::time::sleep(Duration::from_secs(1));
                assert!(deadline.within(Duration::from_secs(60), wait).await.is_ok());
                assert_eq!(deadline.sleep.deadline(), armed);
            }
        });
    }
}
