//! `portico pool` and `/pools`: nodes are drained, brought back and given other weights while
//! requests go on; what is kept over a reload and what is not; who may ask, and for what.

use std::net::SocketAddr;

use portico_tests::client::{Client, Response, get};
use portico_tests::gate::Gate;
use portico_tests::load::{Expected, Load};
use portico_tests::origin::Origin;
use portico_tests::portico::{Builder, Finished, HOST, Portico, run};
use portico_tests::{SOON, eventually, free_address};
use serde_json::Value;

/// Two nodes of the ingress, with the same answers, checked often.
struct Site {
    nodes: [Origin; 2],
    portico: Portico,
}

fn checked_often(nodes: &[SocketAddr]) -> Builder {
    Builder::new().ingress(nodes).with(
        "[server]\nworkers = 1\n[pools.ingress]\nslow_start = '0s'\n\
         [pools.ingress.check]\ninterval = '100ms'\ndown_interval = '100ms'",
    )
}

fn site() -> Site {
    let nodes = [Origin::echo("ingress"), Origin::echo("ingress")];
    let portico = checked_often(&[nodes[0].address(), nodes[1].address()]).start();
    Site { nodes, portico }
}

fn json(answer: &Response) -> Value {
    serde_json::from_str(&answer.text()).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

fn post(portico: &Portico, target: &str) -> Response {
    let host = portico.admin;
    let request = format!("POST {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
    Client::tcp(portico.admin).exchange(request)
}

/// Has it done by `/pools/<what>`; the answer in words.
#[track_caller]
fn change(portico: &Portico, what: &str, node: SocketAddr, more: &str) -> String {
    let answer = post(
        portico,
        &format!("/pools/{what}?pool=ingress&node={node}{more}"),
    );
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.text()
}

/// `portico pool`, which asks the administration of the configuration file.
fn command(portico: &Portico, words: &[&str]) -> Finished {
    let file = portico.config_file();
    let mut all = vec!["pool", "--config", file.to_str().expect("UTF-8")];
    all.extend(words);
    run(&all)
}

#[track_caller]
fn said(finished: &Finished, parts: &[&str]) {
    assert_eq!(finished.code, Some(0), "{finished:?}");
    for part in parts {
        assert!(
            finished.stdout.contains(part),
            "no {part:?} in {finished:?}"
        );
    }
}

/// Waits until the node has had this many requests more than now.
#[track_caller]
fn gets_more(node: &Origin) {
    let before = node.heads();
    eventually("the node gets requests", SOON, || {
        (node.heads() >= before + 5).then_some(())
    });
}

// --- what it does to requests

#[test]
fn a_node_is_taken_out_under_load_and_brought_back() {
    let site = site();
    let [first, second] = &site.nodes;
    let address = first.address();
    let load = Load::start(&site.portico, &[Expected::from("some", "ingress")]);
    for what in ["drain", "maintenance"] {
        gets_more(first);
        gets_more(second);
        let text = change(&site.portico, what, address, "");
        assert!(
            text.contains(&format!("{address}: {what}, weight 100")),
            "{text}"
        );
        assert!(!text.contains("WARNING"), "{text}");
        eventually("what was in flight has ended", SOON, || {
            (site.portico.node(address)["in_flight"] == 0).then_some(())
        });
        let drained = first.heads();
        let sessions = site.portico.node(address)["sessions"].clone();
        gets_more(second);
        load.go_on();
        assert_eq!(first.heads(), drained, "a drained node gets no new request");
        assert_eq!(site.portico.node(address)["sessions"], sessions);
        let text = change(&site.portico, "ready", address, "");
        assert!(text.contains(": ready, ") && text.contains(what), "{text}");
    }
    gets_more(first);
    load.finish();
}

#[test]
fn requests_in_flight_end_on_a_drained_node() {
    let slow = Gate::shut();
    let other = Origin::echo("other");
    let portico = checked_often(&[slow.address(), other.address()]).start();
    change(&portico, "drain", other.address(), "");
    let mut waiting = portico.tcp();
    waiting.send(get(HOST, "/"));
    slow.wait_for(1);
    change(&portico, "ready", other.address(), "");
    let text = change(&portico, "drain", slow.address(), "");
    assert!(text.ends_with("; 1 in flight may end\n"), "{text}");
    assert_eq!(portico.node(slow.address())["state"], "DRAIN");
    for _ in 0..6 {
        let answer = portico.tcp().exchange(get(HOST, "/"));
        assert!(answer.text().contains("other"), "{answer:?}");
    }
    slow.release_all();
    assert_eq!(waiting.response().status, 200);
    eventually("it has ended", SOON, || {
        (portico.node(slow.address())["in_flight"] == 0).then_some(())
    });
}

/// How many of 80 requests came to each node.
#[track_caller]
fn shares(site: &Site) -> [usize; 2] {
    let heads = || [site.nodes[0].heads(), site.nodes[1].heads()];
    let before = heads();
    let mut client = site.portico.tcp();
    for _ in 0..80 {
        assert_eq!(client.exchange(get(HOST, "/")).status, 200);
    }
    let after = heads();
    [after[0] - before[0], after[1] - before[1]]
}

#[track_caller]
fn check_shares(site: &Site, expected: [usize; 2]) {
    let found = shares(site);
    // One round begins with what is left of the one before.
    let far = found.iter().zip(expected).any(|(a, b)| a.abs_diff(b) > 3);
    assert!(!far, "{found:?} and not {expected:?}");
}

#[test]
fn weights_change_shares() {
    let site = site();
    let address = site.nodes[0].address();
    check_shares(&site, [40, 40]);
    let text = change(&site.portico, "weight", address, "&weight=300");
    assert!(
        text.contains("weight 300 (was ready, weight 100 as configured)"),
        "{text}"
    );
    check_shares(&site, [60, 20]);
    change(&site.portico, "weight", address, "&weight=0");
    assert_eq!(shares(&site), [0, 80]);
    assert_eq!(site.portico.node(address)["state"], "UP");
    change(&site.portico, "weight", address, "&weight=default");
    check_shares(&site, [40, 40]);
}

#[test]
fn maintenance_stops_checks_and_drain_does_not() {
    let site = site();
    let [first, second] = &site.nodes;
    let checks_go_on = |node: &Origin| {
        let before = node.connections();
        eventually("it is checked", SOON, || {
            (node.connections() >= before + 3).then_some(())
        });
    };
    checks_go_on(first);
    change(&site.portico, "drain", first.address(), "");
    checks_go_on(first);
    change(&site.portico, "maintenance", first.address(), "");
    // One check may be under way.
    checks_go_on(second);
    let before = first.connections();
    checks_go_on(second);
    checks_go_on(second);
    // One may not have been counted yet.
    let checks = first.connections() - before;
    assert!(checks <= 1, "{checks} checks in maintenance");
    let text = site.portico.admin_get("/pools?format=text").text();
    assert!(text.contains("not checked"), "{text}");
    change(&site.portico, "ready", first.address(), "");
    checks_go_on(first);
}

#[test]
fn the_last_node_may_go_with_a_warning() {
    let site = site();
    let [first, second] = &site.nodes;
    change(&site.portico, "drain", first.address(), "");
    let drained = command(
        &site.portico,
        &["drain", "ingress", &second.address().to_string()],
    );
    said(
        &drained,
        &["WARNING: no node of the pool is in rotation any more"],
    );
    let answer = site.portico.tcp().exchange(get(HOST, "/"));
    assert_eq!(answer.status, 503, "{answer:?}");
    let log = site.portico.stderr();
    assert!(
        log.contains(" WARN no node of the pool is in rotation any more"),
        "{log}"
    );
    let pools = json(&site.portico.admin_get("/pools"));
    assert_eq!(pools["pools"][0]["state"], "DOWN");
    assert!(pools["pools"][0]["trouble"].is_string(), "{pools}");
    assert_eq!(pools["pools"][0]["refused"]["no_node"], 1, "{pools}");
    let status = site.portico.admin_get("/status?format=text").text();
    assert!(
        status.contains(", 1 refused for want of a place\n"),
        "{status}"
    );
    let ready = command(
        &site.portico,
        &["ready", "ingress", &second.address().to_string()],
    );
    said(&ready, &["ready"]);
    assert!(!ready.stdout.contains("WARNING"), "{ready:?}");
    assert_eq!(site.portico.tcp().exchange(get(HOST, "/")).status, 200);
}

#[test]
fn only_nodes_that_are_down_are_left() {
    let alive = Origin::echo("ingress");
    let dead = free_address();
    let portico = checked_often(&[alive.address(), dead]).start();
    eventually("the dead one is down", SOON, || {
        (portico.node(dead)["state"] == "DOWN").then_some(())
    });
    let text = change(&portico, "drain", alive.address(), "");
    assert!(
        text.contains("WARNING: the nodes of the pool that are in rotation are all down"),
        "{text}"
    );
    // A node that is down and drained is told as down, and why it would not be used either.
    change(&portico, "drain", dead, "");
    let text = portico.admin_get("/pools?format=text").text();
    assert!(text.contains("DOWN (drain)"), "{text}");
}

// --- how long it lasts

#[test]
fn it_is_kept_over_a_reload_and_not_over_a_restart() {
    let mut site = site();
    let [first, second] = [site.nodes[0].address(), site.nodes[1].address()];
    change(&site.portico, "drain", first, "");
    change(&site.portico, "weight", second, "&weight=7");
    let settings = |portico: &Portico| {
        let (first, second) = (portico.node(first), portico.node(second));
        (
            first["state"].as_str().map(str::to_owned),
            second["weight"]["set"].clone(),
            second["weight"]["configured"].clone(),
        )
    };
    let by_hand = (Some("DRAIN".to_owned()), Value::from(7), Value::from(100));
    assert_eq!(settings(&site.portico), by_hand);
    let since = site.portico.node(first)["since"].clone();
    // The configured weight changes; the one by hand holds.
    site.portico.change(&format!(
        "[pools.ingress]\nmax_connections = 9\nnodes = [\"{first}\", {{ address = \"{second}\", weight = 50 }}]"
    ));
    assert!(site.portico.reload());
    let by_hand = (Some("DRAIN".to_owned()), Value::from(7), Value::from(50));
    assert_eq!(settings(&site.portico), by_hand);
    assert_eq!(site.portico.node(first)["since"], since);
    assert_eq!(site.portico.node(first)["limit"], 9);
    assert_eq!(shares(&site), [0, 80]);
    site.portico.restart();
    let fresh = (Some("UP".to_owned()), Value::Null, Value::from(50));
    assert_eq!(settings(&site.portico), fresh);
}

#[test]
fn a_node_that_was_removed_begins_afresh() {
    let mut site = site();
    let [first, second] = [site.nodes[0].address(), site.nodes[1].address()];
    change(&site.portico, "drain", first, "");
    change(&site.portico, "weight", first, "&weight=7");
    site.portico
        .change(&format!("[pools.ingress]\nnodes = [\"{second}\"]"));
    assert!(site.portico.reload());
    let gone = post(
        &site.portico,
        &format!("/pools/ready?pool=ingress&node={first}"),
    );
    assert_eq!(gone.status, 404, "{gone:?}");
    assert!(
        gone.text().contains(&format!("nodes: {second}")),
        "{gone:?}"
    );
    site.portico.change(&format!(
        "[pools.ingress]\nnodes = [\"{first}\", \"{second}\"]"
    ));
    assert!(site.portico.reload());
    let fresh = site.portico.node(first);
    assert_eq!(
        (&fresh["state"], &fresh["weight"]["set"]),
        (&Value::from("UP"), &Value::Null)
    );
    assert_eq!(fresh["sessions"], 0);
}

// --- who may ask, and for what

#[test]
fn every_change_is_in_the_log_and_none_that_is_none() {
    let site = site();
    let address = site.nodes[0].address();
    let lines = || {
        let log = site.portico.stderr();
        let lines = log
            .lines()
            .filter(|line| line.contains("a node was changed by hand"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    change(&site.portico, "ready", address, "");
    assert!(lines().is_empty(), "{:?}", lines());
    let text = change(&site.portico, "drain", address, "");
    assert!(
        text.contains("(was ready, weight 100 as configured)"),
        "{text}"
    );
    let text = change(&site.portico, "drain", address, "");
    assert!(text.contains("(as before)"), "{text}");
    change(&site.portico, "weight", address, "&weight=7");
    let lines = lines();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for part in [
        "INFO",
        "pool=ingress",
        &format!("node={address}"),
        "before=\"ready, weight 100 as configured\"",
        "now=\"drain, weight 100 as configured\"",
    ] {
        assert!(lines[0].contains(part), "no {part:?} in {}", lines[0]);
    }
    assert!(lines[1].contains("now=\"drain, weight 7\""), "{}", lines[1]);
}

#[track_caller]
fn check_refused(portico: &Portico, request: &str, status: u16, part: &str) {
    let request = request
        .replace("HOST", &portico.admin.to_string())
        .replace('\n', "\r\n");
    let answer = Client::tcp(portico.admin).exchange(&request);
    assert_eq!(answer.status, status, "{request}{answer:?}");
    assert!(answer.text().contains(part), "no {part:?} in {answer:?}");
}

#[test]
fn what_is_refused() {
    let site = site();
    let node = site.nodes[0].address();
    let portico = &site.portico;
    for what in ["drain", "ready", "maintenance", "weight"] {
        let target = format!("/pools/{what}?pool=ingress&node={node}");
        check_refused(
            portico,
            &format!("GET {target} HTTP/1.1\nHost: HOST\n\n"),
            405,
            "POST",
        );
        let foreign =
            format!("POST {target} HTTP/1.1\nHost: HOST\nOrigin: http://evil.example\n\n");
        check_refused(portico, &foreign, 403, "another site");
        let rebound = format!("POST {target} HTTP/1.1\nHost: evil.example\n\n");
        check_refused(portico, &rebound, 403, "Host");
    }
    check_refused(portico, "POST /pools HTTP/1.1\nHost: HOST\n\n", 405, "GET");
    let bad = |target: &str, status, part: &str| {
        check_refused(
            portico,
            &format!("POST /pools/{target} HTTP/1.1\nHost: HOST\n\n"),
            status,
            part,
        );
    };
    bad(
        &format!("drain?pool=ingress&nod={node}"),
        400,
        "known: pool, node",
    );
    bad(
        &format!("drain?node={node}"),
        400,
        "the parameter pool is missing",
    );
    bad("drain?pool=ingress", 400, "the parameter node is missing");
    bad(
        &format!("drain?pool=ingress&node={node}&node={node}"),
        400,
        "twice",
    );
    bad(
        &format!("drain?pool=ingress&node={node}&weight=1"),
        400,
        "weight",
    );
    bad(
        &format!("weight?pool=ingress&node={node}"),
        400,
        "the parameter weight is missing",
    );
    for weight in ["1001", "-1", "%2B1", "half", "", "99999999999999"] {
        bad(
            &format!("weight?pool=ingress&node={node}&weight={weight}"),
            400,
            "is no weight: 0 to 1000, or default",
        );
    }
    bad(
        &format!("drain?pool=ingres&node={node}"),
        404,
        "pools: ingress",
    );
    bad(
        "drain?pool=ingress&node=%1B",
        404,
        &format!("nodes: {node}, "),
    );
    let untouched = json(&portico.admin_get("/pools"));
    for node in untouched["pools"][0]["nodes"].as_array().unwrap() {
        assert_eq!(
            (&node["wish"], &node["weight"]["set"]),
            (&"ready".into(), &Value::Null)
        );
    }
}

#[test]
fn the_command_says_what_the_page_says() {
    let site = site();
    let address = site.nodes[0].address().to_string();
    let list = command(&site.portico, &[]);
    said(&list, &["POOL", "LAST CHECK", &address, "(all)"]);
    said(
        &command(&site.portico, &["maintenance", "ingress", &address]),
        &["maintenance"],
    );
    said(&command(&site.portico, &[]), &["MAINT", "not checked"]);
    said(
        &command(&site.portico, &["weight", "ingress", &address, "7"]),
        &["weight 7"],
    );
    let wrong = command(&site.portico, &["drain", "ingress", "127.0.0.1"]);
    wrong.expect(1, &["has no node", &address]);
    command(&site.portico, &["drain", "other", &address]).expect(1, &["pools: ingress"]);
    command(&site.portico, &["weight", "ingress", &address, "x"]).expect(1, &["0 to 1000"]);
    command(&site.portico, &["drain", "ingress"]).expect(2, &["<NODE>"]);
    // Who is in a hurry need not mend the file first.
    let lost = run(&["pool", "--config", "/nonexistent/portico.toml"]);
    lost.expect(2, &["cannot be read", "say --admin 127.0.0.1:9113"]);
    // By the address of the administration, as JSON.
    let admin = site.portico.admin.to_string();
    let listed = run(&["pool", "--admin", &admin, "--json"]);
    let listed: Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(listed["pools"][0]["nodes"][0]["state"], "MAINT");
    assert_eq!(listed["pools"][0]["nodes"][0]["weight"]["set"], 7);
    let ready = run(&[
        "pool", "ready", "ingress", &address, "--admin", &admin, "--json",
    ]);
    let ready: Value = serde_json::from_str(&ready.stdout).expect("JSON");
    assert_eq!(
        (&ready["changed"], &ready["warning"]),
        (&Value::from(true), &Value::Null)
    );
    assert_eq!(ready["before"]["wish"], "maintenance");
    assert_eq!(ready["now"]["wish"], "ready");
    let nobody = run(&["pool", "--admin", &free_address().to_string()]);
    nobody.expect(1, &["does it run"]);
}

#[test]
fn slow_start_is_told() {
    let alive = Origin::echo("ingress");
    let late = free_address();
    let portico = checked_often(&[alive.address(), late])
        .with("[pools.ingress]\nslow_start = '1h'")
        .start();
    eventually("it is down", SOON, || {
        (portico.node(late)["state"] == "DOWN").then_some(())
    });
    let text = portico.admin_get("/pools?format=text").text();
    assert!(text.contains("L4CON"), "{text}");
    let _late = Origin::echo_on("late", late);
    let risen = eventually("it is up", SOON, || {
        let node = portico.node(late);
        (node["state"] == "UP").then_some(node)
    });
    assert!(risen["slow_start_percent"].as_u64() <= Some(2), "{risen}");
    assert_eq!(risen["checks"]["downs"], 1);
    assert!(risen["weight"]["now"].as_f64() < Some(3.0), "{risen}");
    let text = portico.admin_get("/pools?format=text").text();
    assert!(text.contains("UP (slow start "), "{text}");
}
