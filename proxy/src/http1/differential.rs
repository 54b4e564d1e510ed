//! The codec against `httparse` and `hyper` on generated messages. Test code only.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::oracle::{httparse_request, hyper_request, hyper_response};
use super::request::tests::{any_head, damage, damaged};
use super::response::tests::any_head as any_answer;

/// Runs `accepted` on many messages; it says whether there was something to compare,
/// which must not be rare.
#[track_caller]
fn check<S: Strategy>(strategy: S, accepted: impl Fn(S::Value) -> bool) {
    let compared = Cell::new(0);
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 3000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let result = runner.run(&strategy, |value| {
        compared.set(compared.get() + u32::from(accepted(value)));
        Ok(())
    });
    result.unwrap();
    assert!(compared.get() > 500, "compared {} only", compared.get());
}

/// Bodies that may or may not be what the head says.
fn any_rest() -> impl Strategy<Value = Vec<u8>> {
    prop::sample::select(vec![
        &b""[..],
        b"hello",
        b"seven77",
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5;x=y\r\nhello\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n",
        b"0\r\n\r\n",
        b"5\r\nhelloo\r\n0\r\n\r\n",
    ])
    .prop_map(<[u8]>::to_vec)
}

#[test]
fn httparse_reads_the_same_requests() {
    check((any_head(), damage()), |(head, damage)| {
        httparse_request(&damaged(head, &damage))
    });
}

#[test]
fn hyper_reads_the_same_requests() {
    check(
        (any_head(), damage(), any_rest()),
        |(head, damage, rest)| hyper_request(&[&damaged(head, &damage)[..], &rest].concat()),
    );
}

#[test]
fn hyper_reads_the_same_answers() {
    let kind = prop::bool::weighted(0.2);
    check(
        (any_answer(), damage(), any_rest(), kind),
        |(head, damage, rest, is_head)| {
            hyper_response(&[&damaged(head, &damage)[..], &rest].concat(), is_head)
        },
    );
}
