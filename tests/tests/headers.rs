//! What the configuration says about headers and domains.

use portico_tests::client::get;
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, HOST, Portico};

fn with(toml: &str) -> (Origin, Portico) {
    let origin = Origin::echo("grid");
    let portico = Builder::new()
        .route("grid", &origin.url())
        .route("other", &origin.url())
        .with(toml)
        .start();
    (origin, portico)
}

/// The X-Forwarded-For that a tool gets when the client sent one of its own.
#[track_caller]
fn forwarded_for(toml: &str, host: &str) -> Option<String> {
    let (origin, portico) = with(toml);
    let request = get(host, "/").replace(
        "\r\n\r\n",
        "\r\nX-Forwarded-For: 1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\n\r\n",
    );
    assert_eq!(portico.tls().exchange(request).status, 200);
    let arrived = origin.take_one();
    assert!(
        arrived.count("x-forwarded-for") <= 1 && arrived.field("x-real-ip").is_none(),
        "{:?}",
        arrived.fields
    );
    arrived.field("x-forwarded-for").map(str::to_owned)
}

#[test]
fn the_clients_address_is_given_only_where_configured() {
    let own = Some("127.0.0.1".to_owned());
    assert_eq!(forwarded_for("", HOST), None);
    assert_eq!(
        forwarded_for("[headers]\nclient_address = 'forwarded'", HOST),
        own
    );
    let some = "[headers]\nclient_address_for = ['grid']";
    assert_eq!(forwarded_for(some, HOST), own);
    assert_eq!(forwarded_for(some, "other.toolforge.org"), None);
}

#[test]
fn headers_are_hidden_and_set() {
    let (_origin, portico) = with(
        "[headers]\nhide = ['X-Mine', 'service-worker-allowed']\n[headers.set]\nX-Site = 'at {host}'\nSet-Cookie = 'site=1'",
    );
    let answer = portico.tls().exchange(get(HOST, "/hdrs"));
    assert_eq!(answer.status, 200);
    assert_eq!(
        (
            answer.field("x-mine"),
            answer.field("service-worker-allowed")
        ),
        (None, None),
        "{answer:?}"
    );
    assert_eq!(answer.field("x-site"), Some("at grid.toolforge.org"));
    assert_eq!(
        (answer.field("set-cookie"), answer.count("set-cookie")),
        (Some("site=1"), 1)
    );
    // On portico's own answers too; a host in capitals is the same host.
    let own = portico.tls().exchange(get("NOWHERE.example:443", "/"));
    assert_eq!(
        (own.status, own.field("x-site")),
        (404, Some("at nowhere.example"))
    );
}

#[test]
fn via_may_be_named_or_left_out() {
    for (via, arrives) in [("gate", Some("1.1 gate")), ("", None)] {
        let (origin, portico) = with(&format!("[headers]\nvia = {via:?}"));
        assert_eq!(portico.tcp().exchange(get(HOST, "/")).status, 200);
        assert_eq!(origin.take_one().field("via"), arrives);
    }
    let (_origin, portico) = with("[headers]\nvia = 'gate'");
    let request =
        |via: &str| get(HOST, "/").replace("\r\n\r\n", &format!("\r\nVia: 1.1 {via}\r\n\r\n"));
    assert_eq!(portico.tcp().exchange(request("gate")).status, 508);
    assert_eq!(portico.tcp().exchange(request("portico")).status, 200);
}

#[test]
fn domains_do_what_the_configuration_says() {
    let ingress = Origin::echo("ingress");
    let origin = Origin::echo("grid");
    let portico = Builder::new()
        .route("grid", &origin.url())
        .ingress(&[ingress.address()])
        .with("[domains]\napex = 'https://elsewhere.example/start'\nreserved = ['login']\nlegacy = []\nrename = { old_name = 'grid' }")
        .start();
    let mut client = portico.tls();
    let apex = client.exchange(get("toolforge.org", "/x?y"));
    assert_eq!(
        (apex.status, apex.field("location")),
        (302, Some("https://elsewhere.example/start"))
    );
    assert_eq!(client.exchange(get("login.toolforge.org", "/")).status, 200);
    assert_eq!(
        (origin.take().len(), ingress.take().len()),
        (0, 1),
        "a reserved label is no tool"
    );
    let renamed = client.exchange(get("old_name.toolforge.org", "/a?b"));
    assert_eq!(
        (renamed.status, renamed.field("location")),
        (301, Some("https://grid.toolforge.org/a?b"))
    );
    assert_eq!(
        client.exchange(get("tools.wmflabs.org", "/grid/")).status,
        404,
        "no legacy domain here"
    );
}

#[test]
fn the_plain_listener_redirects_all_but_health_checks() {
    let (origin, portico) = with("[listen]\nredirect = true");
    let mut client = portico.tcp();
    assert_eq!(
        client
            .exchange(get(HOST, "/.well-known/healthz"))
            .text()
            .trim(),
        "proxy ok!"
    );
    for (host, target, location) in [
        (HOST, "/a?b=%20", Some("https://grid.toolforge.org/a?b=%20")),
        (
            "GRID.toolforge.org:80",
            "/",
            Some("https://grid.toolforge.org/"),
        ),
        (
            "tools.wmflabs.org",
            "/grid/x",
            Some("https://tools.wmflabs.org/grid/x"),
        ),
    ] {
        let answer = client.exchange(get(host, target));
        assert_eq!(
            (answer.status, answer.field("location")),
            (301, location),
            "{host}{target}"
        );
        assert_eq!(
            answer.field("strict-transport-security"),
            None,
            "RFC 6797, 7.2"
        );
    }
    // Not an open redirect: nobody asked us to send people to foreign hosts.
    let foreign = client.exchange(get("evil.example", "/"));
    assert!(
        foreign.status == 404 || foreign.field("location") == Some("https://evil.example/"),
        "{foreign:?}"
    );
    // A POST gets its 301 and its body is not read as a request.
    let inner = get(HOST, "/smuggled");
    client.send(portico_tests::client::post(HOST, "/p", &inner));
    assert_eq!(client.response().status, 301);
    assert_eq!(origin.heads(), 0);
}

#[test]
fn listeners_may_be_ipv6() {
    let (http, https) = (portico_tests::free_port(), portico_tests::free_port());
    let origin = Origin::echo("grid");
    let builder = Builder::new();
    let (own_http, own_https) = (builder.http(), builder.https());
    let portico = builder
        .route("grid", &origin.url())
        .with(&format!("[listen]\nhttp = ['{own_http}', '[::1]:{http}']\nhttps = ['{own_https}', '[::1]:{https}']"))
        .start();
    let address = format!("[::1]:{http}").parse().unwrap();
    let mut client = portico_tests::client::Client::tcp(address);
    assert_eq!(client.exchange(get(HOST, "/")).status, 200);
    drop(portico);
}
