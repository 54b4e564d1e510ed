//! `/status.csv`: listeners, nodes and pools in the columns of HAProxy's statistics, so that what
//! reads `/stats;csv` reads this.
//!
//! The columns are those of HAProxy 2.6, in its order. What portico does not know, or what does not
//! apply, is empty, as it is there. A listener is a FRONTEND, a pool a BACKEND; the server names
//! are addresses.

use std::sync::Arc;
use std::time::SystemTime;

use hyper::{Request, Response, StatusCode};

use super::State;
use super::answer::{Body, answer, bad_request};
use super::query::Query;
use crate::pools::counts::Counts;
use crate::pools::report::{NodeReport, PoolReport, State as NodeState, report};
use crate::process::{Process, Stage};
use crate::tcp::counts::Unserved;
use crate::telemetry::metrics::shard::Words as _;
use crate::telemetry::metrics::{TcpSums, Traffic};

/// HAProxy's columns; each stands before a comma.
const COLUMNS: &str = "pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,dresp,ereq,econ,\
eresp,wretr,wredis,status,weight,act,bck,chkfail,chkdown,lastchg,downtime,qlimit,pid,iid,sid,\
throttle,lbtot,tracked,type,rate,rate_lim,rate_max,check_status,check_code,check_duration,hrsp_1xx,\
hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,hrsp_other,hanafail,req_rate,req_rate_max,req_tot,cli_abrt,\
srv_abrt,comp_in,comp_out,comp_byp,comp_rsp,lastsess,last_chk,last_agt,qtime,ctime,rtime,ttime,\
agent_status,agent_code,agent_duration,check_desc,agent_desc,check_rise,check_fall,check_health,\
agent_rise,agent_fall,agent_health,addr,cookie,mode,algo,conn_rate,conn_rate_max,conn_tot,\
intercepted,dcon,dses,wrew,connect,reuse,cache_lookups,cache_hits,srv_icur,src_ilim,qtime_max,\
ctime_max,rtime_max,ttime_max,eint,idle_conn_cur,safe_conn_cur,used_conn_cur,need_conn_est,uweight,\
agg_server_status,agg_server_check_status,agg_check_status,-,ssl_sess,ssl_reused_sess,\
ssl_failed_handshake,h2_headers_rcvd,h2_data_rcvd,h2_settings_rcvd,h2_rst_stream_rcvd,\
h2_goaway_rcvd,h2_detected_conn_protocol_errors,h2_detected_strm_protocol_errors,\
h2_rst_stream_resp,h2_goaway_resp,h2_open_connections,h2_backend_open_streams,\
h2_total_connections,h2_backend_total_streams,h1_open_connections,h1_open_streams,\
h1_total_connections,h1_total_streams,h1_bytes_in,h1_bytes_out,h1_spliced_bytes_in,\
h1_spliced_bytes_out,";

/// The longest text of a check that is shown.
const MAX_TEXT: usize = 200;

pub(super) async fn page<B>(request: &Request<B>, state: &Arc<State>) -> Response<Body> {
    if let Err(why) = Query::parse(request, &[]) {
        return bad_request(&why);
    }
    let made = state.aside(false, |state| csv(&state.process, SystemTime::now()));
    match made.await {
        Ok(text) => answer(
            StatusCode::OK,
            "text/csv; charset=utf-8",
            Body::Whole(Some(text.into())),
        ),
        Err(response) => response,
    }
}

fn csv(process: &Process, now: SystemTime) -> String {
    let snapshot = process.snapshot.load_full();
    let mut table = Table::new();
    let listen = &snapshot.config.listen;
    if !listen.http.is_empty() {
        let traffic = process.metrics.traffic(false);
        table.push(|row| http_frontend(row, "http", process, &traffic));
    }
    if !listen.https.is_empty() {
        let traffic = process.metrics.traffic(true);
        table.push(|row| http_frontend(row, "https", process, &traffic));
    }
    let counted = process.metrics.tcp_listeners();
    for listener in &snapshot.config.tcp {
        if let Some(sums) = counted.get(&*listener.name) {
            table.push(|row| tcp_frontend(row, &listener.name, process, sums));
        }
    }
    for pool in report(&snapshot, now) {
        for (index, node) in pool.nodes.iter().enumerate() {
            table.push(|row| server(row, &pool, node, index, now));
        }
        table.push(|row| backend(row, &pool, now));
    }
    table.text
}

/// The lines so far.
struct Table {
    text: String,
    proxies: u64,
}

impl Table {
    fn new() -> Self {
        Self {
            text: format!("# {COLUMNS}\n"),
            proxies: 1,
        }
    }

    fn push(&mut self, fill: impl FnOnce(&mut Row)) {
        let mut row = Row::default();
        row.set("pid", 1);
        row.set("iid", self.proxies);
        fill(&mut row);
        if row.get("svname") == "BACKEND" || row.get("svname") == "FRONTEND" {
            self.proxies += 1;
        }
        row.write(&mut self.text);
    }
}

/// One line: column and value.
#[derive(Default)]
struct Row(Vec<(&'static str, String)>);

impl Row {
    fn set(&mut self, column: &'static str, value: impl ToString) {
        self.0.push((column, value.to_string()));
    }

    fn get(&self, column: &str) -> &str {
        let mut found = self.0.iter().rev();
        found
            .find(|(name, _)| *name == column)
            .map_or("", |(_, value)| value)
    }

    fn write(&self, out: &mut String) {
        for column in COLUMNS.trim_end_matches(',').split(',') {
            out.push_str(&cell(self.get(column)));
            out.push(',');
        }
        out.push('\n');
    }
}

/// A value that is one cell, and that no spreadsheet takes for a formula.
fn cell(text: &str) -> String {
    let plain: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX_TEXT)
        .collect();
    let number = plain.parse::<i64>().is_ok();
    let formula = !number && plain.starts_with(['=', '+', '-', '@']);
    let plain = match formula {
        true => format!("'{plain}"),
        false => plain,
    };
    match plain.contains([',', '"']) {
        true => format!("\"{}\"", plain.replace('"', "\"\"")),
        false => plain,
    }
}

fn http_frontend(row: &mut Row, name: &str, process: &Process, traffic: &Traffic) {
    row.set("pxname", name);
    row.set("svname", "FRONTEND");
    let places = &process.connections;
    row.set("status", frontend_status(process));
    row.set("type", 0);
    row.set("mode", "http");
    row.set("scur", traffic.open);
    row.set("slim", places.limit());
    row.set("stot", traffic.accepted);
    row.set("conn_tot", traffic.accepted);
    row.set("bin", traffic.received);
    row.set("bout", traffic.sent);
    let [none, answers @ ..] = traffic.classes;
    set_answers(row, &answers);
    row.set("hrsp_other", none);
    row.set("req_tot", none + answers.iter().sum::<u64>());
}

fn tcp_frontend(row: &mut Row, name: &str, process: &Process, sums: &TcpSums) {
    row.set("pxname", name);
    row.set("svname", "FRONTEND");
    row.set("status", frontend_status(process));
    row.set("type", 0);
    row.set("mode", "tcp");
    row.set("slim", process.connections.limit());
    row.set("scur", sums.open);
    row.set("stot", sums.accepted);
    row.set("conn_tot", sums.accepted);
    row.set("bin", sums.received);
    row.set("bout", sums.sent);
    let denied = sums.unserved.get(Unserved::NotAllowed.word());
    row.set("dcon", denied.copied().unwrap_or_default());
}

/// HAProxy's words for what a listener does.
fn frontend_status(process: &Process) -> &'static str {
    match process.stage() {
        Stage::Serving if process.connections.free() == 0 => "FULL",
        Stage::Starting | Stage::Serving => "OPEN",
        Stage::Draining => "STOP",
    }
}

fn set_answers(row: &mut Row, answers: &[u64; 5]) {
    let columns = ["hrsp_1xx", "hrsp_2xx", "hrsp_3xx", "hrsp_4xx", "hrsp_5xx"];
    for (column, count) in columns.into_iter().zip(answers) {
        row.set(column, count);
    }
}

fn server(row: &mut Row, pool: &PoolReport, node: &NodeReport, index: usize, now: SystemTime) {
    row.set("pxname", &pool.name);
    row.set("svname", &node.address);
    row.set("sid", index + 1);
    row.set("type", 2);
    // Whoever waits does so for any node: the queue is the pool's.
    row.set("qcur", 0);
    row.set("qmax", 0);
    row.set("scur", node.in_flight);
    row.set("smax", node.most_in_flight);
    row.set("slim", node.limit);
    set_counts(row, pool, &node.counts);
    row.set("status", node.state.as_str());
    row.set("weight", node.weight.now.ceil());
    row.set("uweight", node.weight.whole());
    row.set("act", 1);
    row.set("bck", 0);
    if let NodeState::SlowStart(percent) = node.state {
        row.set("throttle", percent);
    }
    let checks = &node.checks;
    row.set("chkfail", checks.failed);
    row.set("chkdown", checks.downs);
    row.set("lastchg", seconds_since(node.since, now));
    row.set("downtime", checks.downtime_seconds);
    row.set("check_rise", checks.rise);
    row.set("check_fall", checks.fall);
    if let Some(last) = &checks.last
        && node.state != NodeState::Maintenance
    {
        row.set("check_status", last.code.as_str());
        row.set("check_desc", last.code.in_words());
        row.set(
            "check_code",
            last.status.map_or_else(String::new, |s| s.to_string()),
        );
        row.set("check_duration", last.took.as_millis());
        row.set("last_chk", last.error.as_deref().unwrap_or_default());
    }
}

fn backend(row: &mut Row, pool: &PoolReport, now: SystemTime) {
    row.set("pxname", &pool.name);
    row.set("svname", "BACKEND");
    row.set("sid", 0);
    row.set("type", 1);
    row.set("qcur", pool.waiting);
    row.set("qmax", pool.most_waiting);
    row.set("qlimit", pool.queue_limit);
    let nodes = &pool.nodes;
    let sum =
        |of: fn(&NodeReport) -> u32| nodes.iter().map(|node| u64::from(of(node))).sum::<u64>();
    row.set("scur", sum(|node| node.in_flight));
    // Of all nodes together nobody counts: it was at most so many.
    row.set("smax", sum(|node| node.most_in_flight));
    row.set("slim", sum(|node| node.limit));
    let mut counts = pool.totals();
    // As HAProxy has it: those that no server can be blamed for, too.
    counts.connect_errors += pool.refused.sum();
    set_counts(row, pool, &counts);
    row.set("status", pool.state.as_str());
    row.set(
        "weight",
        nodes.iter().map(|n| n.weight.now.ceil()).sum::<f64>(),
    );
    row.set("uweight", sum(|node| node.weight.whole()));
    let active = nodes.iter().filter(|node| node.up && node.weight.now > 0.0);
    row.set("act", active.count());
    row.set("bck", 0);
    row.set("algo", pool.balance);
    let youngest = nodes.iter().map(|node| node.since).max();
    row.set("lastchg", seconds_since(youngest.unwrap_or(now), now));
}

fn set_counts(row: &mut Row, pool: &PoolReport, counts: &Counts) {
    row.set("stot", counts.sessions);
    row.set("lbtot", counts.sessions);
    row.set("bin", counts.bytes_in);
    row.set("bout", counts.bytes_out);
    row.set("econ", counts.connect_errors);
    row.set("eresp", counts.response_errors);
    row.set("wretr", counts.retries);
    row.set("wredis", counts.redispatches);
    if pool.ingress_percent.is_none() && !pool.tcp.is_empty() {
        row.set("mode", "tcp");
        return;
    }
    row.set("mode", "http");
    set_answers(row, &counts.answers);
    row.set("hrsp_other", 0);
}

fn seconds_since(time: SystemTime, now: SystemTime) -> u64 {
    now.duration_since(time).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pools::report::tests::sample;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(cell(text), expected);
    }

    #[test]
    fn cells() {
        check("192.0.2.1:80", "192.0.2.1:80");
        check("[2001:db8::1]:80", "[2001:db8::1]:80");
        check("-1", "-1");
        check("", "");
        check("a,b", "\"a,b\"");
        check("said \"no\"", "\"said \"\"no\"\"\"");
        check("a\r\nb,FRONTEND\n", "\"a  b,FRONTEND \"");
        check("=HYPERLINK(\"x\")", "\"'=HYPERLINK(\"\"x\"\")\"");
        check("-1+1", "'-1+1");
        check("@SUM(1)", "'@SUM(1)");
        assert_eq!(cell(&"a".repeat(1000)).len(), MAX_TEXT);
    }

    #[test]
    fn the_columns_are_haproxys() {
        let stored = include_str!("../../../tests/data/haproxy-2.6-header.csv");
        assert_eq!(format!("# {COLUMNS}\n"), stored);
    }

    /// Fields that scripts read, of every kind of row.
    #[test]
    fn rows() {
        let mut pool = sample();
        // Numbers that differ, so that columns cannot be mixed up.
        let first = &mut pool.nodes[0];
        first.most_in_flight = 21;
        first.counts = Counts {
            sessions: 22,
            bytes_in: 23,
            bytes_out: 24,
            connect_errors: 25,
            response_errors: 26,
            retries: 27,
            redispatches: 28,
            answers: [31, 32, 33, 34, 35],
        };
        (first.checks.failed, first.checks.downs) = (41, 42);
        first.checks.downtime_seconds = 43;
        let mut table = Table::new();
        let now = pool.nodes[0].since + Duration::from_secs(7);
        for (index, node) in pool.nodes.iter().enumerate() {
            table.push(|row| server(row, &pool, node, index, now));
        }
        table.push(|row| backend(row, &pool, now));
        let mut lines = table.text.lines();
        let columns: Vec<&str> = lines.next().unwrap()[2..].split(',').collect();
        let rows: Vec<Vec<&str>> = lines.map(|line| line.split(',').collect()).collect();
        let column = |name: &str| {
            let at = columns.iter().position(|column| *column == name).unwrap();
            rows.iter().map(|row| row[at]).collect::<Vec<_>>()
        };
        for row in &rows {
            assert_eq!(row.len(), columns.len(), "{row:?}");
        }
        assert_eq!(
            column("status"),
            ["UP", "UP", "DOWN", "DOWN", "MAINT", "UP"]
        );
        assert_eq!(column("throttle"), ["", "35", "", "", "", ""]);
        assert_eq!(column("weight"), ["100", "36", "0", "0", "0", "136"]);
        assert_eq!(column("uweight"), ["100", "100", "100", "100", "7", "407"]);
        assert_eq!(column("act"), ["1", "1", "1", "1", "1", "2"]);
        assert_eq!(column("qcur"), ["0", "0", "0", "0", "0", "3"]);
        let econ: Vec<u64> = column("econ").iter().map(|n| n.parse().unwrap()).collect();
        assert_eq!(econ[5], econ[..5].iter().sum::<u64>() + 42);
        assert_eq!(column("qlimit"), ["", "", "", "", "", "512"]);
        let checks = ["L7OK", "L7OK", "L4CON", "L4CON", "", ""];
        assert_eq!(column("check_status"), checks);
        for (name, value) in [
            ("scur", "12"),
            ("smax", "21"),
            ("stot", "22"),
            ("lbtot", "22"),
            ("bin", "23"),
            ("bout", "24"),
            ("econ", "25"),
            ("eresp", "26"),
            ("wretr", "27"),
            ("wredis", "28"),
            ("hrsp_1xx", "31"),
            ("hrsp_2xx", "32"),
            ("hrsp_3xx", "33"),
            ("hrsp_4xx", "34"),
            ("hrsp_5xx", "35"),
            ("chkfail", "41"),
            ("chkdown", "42"),
            ("downtime", "43"),
            ("lastchg", "7"),
        ] {
            assert_eq!(column(name)[0], value, "{name}");
        }
        assert_eq!(column("iid"), ["1"; 6]);
        assert_eq!(column("sid"), ["1", "2", "3", "4", "5", "0"]);
        // Every column that is set exists: a slip of the pen would be lost.
        let mut row = Row::default();
        server(&mut row, &pool, &pool.nodes[1], 1, now);
        backend(&mut row, &pool, now);
        for (name, _) in &row.0 {
            assert!(columns.contains(name), "{name}");
        }
    }
}
