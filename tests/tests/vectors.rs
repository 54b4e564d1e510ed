//! Every case of `vectors.toml` over HTTP/1.1 and, where it can say it, over HTTP/2, against a real
//! redis and real echo origins.
//!
//! Cases named in `expected-failures.toml` belong to features that are not built yet; they must
//! fail, so that the list cannot go stale.

use std::collections::BTreeMap;

use portico_tests::client::{Client, Response};
use portico_tests::http2::{Outcome, code};
use portico_tests::origin::{Origin, Received};
use portico_tests::portico::{Builder, HOST, Portico};
use portico_tests::redis::Redis;
use portico_tests::tls::Authority;
use portico_tests::vectors::{self, Vector};
use portico_tests::{SOON, eventually, free_address};
use serde::Deserialize;

/// The world that the vectors speak of; see the head of `vectors.toml`.
struct Fixture {
    portico: Portico,
    origins: [(&'static str, Origin); 3],
    _redis: Redis,
}

impl Fixture {
    fn start() -> Fixture {
        let redis = Redis::start();
        let origins = ["gridA", "gridB", "ingress"].map(|name| (name, Origin::echo(name)));
        let [a, b, ingress] = [0, 1, 2].map(|index: usize| &origins[index].1);
        seed(&redis, a, b);
        let portico = Builder::new()
            .registry(&redis)
            .ingress(&[ingress.address()])
            .with(
                "[listen]\nredirect = true\n[domains]\nrename = { ru_monuments = 'ru-monuments' }",
            )
            .start();
        Fixture {
            portico,
            origins,
            _redis: redis,
        }
    }

    fn client(&self, vector: &Vector) -> Client {
        match vector.request.scheme.as_str() {
            "https" => self.portico.tls(),
            "http" => self.portico.tcp(),
            other => panic!("{}: unknown scheme {other}", vector.id),
        }
    }

    /// What went wrong with this vector over HTTP/1.1, if anything.
    fn run(&self, vector: &Vector) -> Result<(), String> {
        let mut client = self.client(vector);
        client.send(vector.request.bytes());
        let answer = client.try_response(vector.request.method == "HEAD");
        let answer = answer.map_err(|error| format!("no proper answer: {error}"))?;
        let answer = answer.ok_or("closed instead of answering")?;
        self.judge(vector, &answer)
    }

    /// What went wrong with this vector over HTTP/2, if anything.
    fn run_http2(&self, vector: &Vector) -> Result<(), String> {
        let mut client = self.portico.http2();
        let (head, body) = vector.request.http2();
        let stream = client.request(&head, body.is_empty());
        if !body.is_empty() {
            let _ = client.try_send_body(stream, body.as_bytes(), true);
        }
        let outcome = client.outcome(stream);
        let forbidden = vectors::forbidden_in_http2(&head);
        let refused = match &outcome {
            // The connection may end with it (5.4.1).
            Outcome::Reset(code) | Outcome::Goaway(code) => *code == code::PROTOCOL_ERROR,
            Outcome::Answer(answer) => answer.status == 400,
            Outcome::Closed | Outcome::Alive => false,
        };
        match outcome {
            _ if forbidden && refused => {
                let seen = self.seen();
                let none = seen.is_empty().then_some(());
                none.ok_or(format!("forbidden, but an origin saw {seen:?}"))
            }
            Outcome::Answer(answer) if !forbidden => {
                let answer = Response {
                    status: answer.status,
                    fields: answer.fields,
                    body: answer.body,
                    ..Response::default()
                };
                self.judge(vector, &answer)
            }
            other => Err(format!("{other:?}")),
        }
    }

    fn judge(&self, vector: &Vector, answer: &Response) -> Result<(), String> {
        let mut seen = self.seen();
        let wrong = wrong_answer(vector, answer).or_else(|| wrong_request(vector, &mut seen));
        match wrong {
            None => Ok(()),
            Some(wrong) => Err(format!(
                "{wrong}\n    answer: {answer:?}\n    origins saw: {seen:?}"
            )),
        }
    }

    /// Takes what the origins got. The answer is here, so what caused it arrived before.
    fn seen(&self) -> Vec<(&'static str, Received)> {
        let named = |(name, origin): &(&'static str, Origin)| {
            let name = *name;
            origin
                .take()
                .into_iter()
                .map(move |request| (name, request))
                .collect::<Vec<_>>()
        };
        self.origins.iter().flat_map(named).collect()
    }
}

fn seed(redis: &Redis, a: &Origin, b: &Origin) {
    let (url_a, url_b) = (a.url(), b.url());
    redis.route("grid", ".*", &url_a);
    redis.route("canon", ".*", &url_a);
    redis.redirect("canon");
    redis.route("toolforge", ".*", &url_b);
    redis.route("127", ".*", &url_b);
    redis.route("sub", "^/api/.*", &url_a);
    redis.route("multi", ".*", &url_a);
    redis.route("multi", "^/api/.*", &url_b);
    redis.route("multi", "^/api/v2/.*", &url_a);
    redis.route("dead", ".*", &format!("http://{}", free_address()));
    redis.route("badre", "(", &url_a);
    redis.route("badre", ".*", &url_b);
    redis.command(&["SET", "prefix:wrong", "not a hash"]);
    redis.route("bare", ".*", &a.address().to_string());
    redis.route("slash", ".*", &format!("{url_a}/"));
    redis.route("base", ".*", &format!("{url_a}/base"));
    redis.redirect("moved");
}

fn wrong_answer(vector: &Vector, answer: &Response) -> Option<String> {
    let expect = &vector.expect;
    if answer.status != expect.status {
        return Some(format!(
            "status {} instead of {}",
            answer.status, expect.status
        ));
    }
    if let Some(location) = &expect.location
        && answer.field("location") != Some(location)
    {
        return Some(format!("Location is not {location}"));
    }
    for (name, part) in &expect.response {
        let value = answer.field(name).unwrap_or_default().to_ascii_lowercase();
        if !value.contains(&part.to_ascii_lowercase()) {
            return Some(format!("{name} does not contain {part:?}"));
        }
        if name != "vary" && answer.count(name) != 1 {
            return Some(format!("{name} is there {} times", answer.count(name)));
        }
    }
    if let Some(name) = expect
        .response_lacks
        .iter()
        .find(|name| answer.field(name).is_some())
    {
        return Some(format!("the answer has {name}"));
    }
    if let Some(part) = &expect.body
        && !answer.text().contains(part)
    {
        return Some(format!("the body does not contain {part:?}"));
    }
    None
}

fn wrong_request(vector: &Vector, seen: &mut [(&'static str, Received)]) -> Option<String> {
    let expect = &vector.expect;
    let backend = expect.backend.as_deref()?;
    if backend == "none" {
        return (!seen.is_empty()).then(|| "an origin saw the request".to_owned());
    }
    let [(name, request)] = seen else {
        return Some(format!("{} requests at the origins", seen.len()));
    };
    if *name != backend {
        return Some(format!("went to {name} instead of {backend}"));
    }
    if let Some(target) = &expect.target
        && request.target != *target
    {
        return Some(format!("target {} instead of {target}", request.target));
    }
    if let Some(host) = &expect.host
        && request.field("host") != Some(host)
    {
        return Some(format!("Host is not {host}"));
    }
    if let Some(name) = expect.has.iter().find(|name| request.field(name).is_none()) {
        return Some(format!("the origin did not get {name}"));
    }
    let lacks = expect
        .lacks
        .iter()
        .find(|name| request.field(name).is_some());
    lacks.map(|name| format!("the origin got {name}"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedFailures {
    /// Vector id -> which feature it waits for.
    failures: BTreeMap<String, String>,
}

#[test]
fn all_vectors_over_http_1_1() {
    all("h1", |_| true, Fixture::run);
}

#[test]
fn all_vectors_over_http_2() {
    let fits = |vector: &Vector| vector.only.is_none() && vector.request.scheme == "https";
    all("h2", fits, Fixture::run_http2);
}

fn all(
    version: &str,
    fits: impl Fn(&Vector) -> bool,
    run: impl Fn(&Fixture, &Vector) -> Result<(), String>,
) {
    let vectors = vectors::parse(include_str!("../vectors.toml"));
    let expected: ExpectedFailures =
        toml::from_str(include_str!("../expected-failures.toml")).unwrap();
    let mut expected = expected.failures;
    let fixture = Fixture::start();
    let mut report = Vec::new();
    for vector in vectors.iter().filter(|vector| fits(vector)) {
        let id = &vector.id;
        match (run(&fixture, vector), expected.remove(id)) {
            (Ok(()), None) | (Err(_), Some(_)) => {}
            (Err(wrong), None) => report.push(format!("{id}: {wrong}")),
            (Ok(()), Some(_)) => {
                report.push(format!("{id}: passes, take it off expected-failures.toml"));
            }
        }
    }
    report.extend(
        expected
            .keys()
            .map(|id| format!("{id}: expected to fail, but no such vector")),
    );
    assert!(
        report.is_empty(),
        "{version}, {} of {} vectors:\n{}",
        report.len(),
        vectors.len(),
        report.join("\n")
    );
}

/// The trap for a harness that trusts any certificate: the vectors' client must
/// refuse a stranger's.
#[test]
fn the_client_verifies_the_certificate() {
    let origin = Origin::echo("grid");
    let portico = Portico::before(&origin);
    let stranger = Authority::new().client_config(rustls::ALL_VERSIONS);
    let mut client = Client::tls(portico.https, &stranger, HOST);
    eventually("the handshake fails", SOON, || {
        client.wire.send(b"GET / HTTP/1.1\r\n").err()
    });
}
