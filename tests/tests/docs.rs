//! The documents keep their word: every command in them is run, every
//! configuration in them is valid.
//!
//! A command that is not in the list below fails the test, so that none is added without
//! saying how it is run.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use portico_tests::origin::Origin;
use portico_tests::portico::{self, Builder, HOST, Portico};
use portico_tests::redis::Redis;
use portico_tests::{SOON, eventually, signal};

/// How a command of the documents is run.
enum How {
    /// In the repository.
    Repository,
    /// Where a portico.toml is, with `portico` in the PATH.
    Configured,
    /// The same; it stays in the foreground until it is told to stop.
    Foreground,
    /// Not by this test, but by this.
    Elsewhere(&'static str),
}

/// Every line of every `sh` block.
const COMMANDS: &[(&str, How)] = &[
    (
        "cargo run --release -- demo",
        How::Elsewhere("lifecycle.rs pastes all that it prints"),
    ),
    ("scripts/test", How::Elsewhere("this is it")),
    (
        "cargo build --release",
        How::Elsewhere("scripts/test builds the binary so"),
    ),
    (
        r#"install -D -m 755 target/release/portico "$ROOT/usr/bin/portico""#,
        How::Repository,
    ),
    (
        r#"install -D -m 644 systemd/portico.service "$ROOT/usr/lib/systemd/system/portico.service""#,
        How::Repository,
    ),
    (
        r#"install -D -m 644 systemd/portico.sysusers "$ROOT/usr/lib/sysusers.d/portico.conf""#,
        How::Repository,
    ),
    (
        r#"install -D -m 644 systemd/portico.tmpfiles "$ROOT/usr/lib/tmpfiles.d/portico.conf""#,
        How::Repository,
    ),
    ("portico check --config portico.toml", How::Configured),
    ("portico routes --config portico.toml", How::Configured),
    (
        "portico routes --config portico.toml --json",
        How::Configured,
    ),
    (
        "portico explain https://grid.toolforge.org/x --config portico.toml",
        How::Configured,
    ),
    (
        "portico explain https://grid.toolforge.org/x --config portico.toml --json",
        How::Configured,
    ),
    (
        "portico explain https://grid.toolforge.org/x --config portico.toml --method POST --header 'User-Agent:' --header 'Content-Length: 5'",
        How::Configured,
    ),
    ("portico run --config portico.toml", How::Foreground),
    (
        "curl --fail http://127.0.0.1:$HTTP_PORT/.well-known/healthz",
        How::Configured,
    ),
    ("curl --fail http://$ADMIN/readyz", How::Configured),
    (
        r#"curl --fail "http://$ADMIN/readyz?format=json""#,
        How::Configured,
    ),
    ("curl --fail http://$ADMIN/status", How::Configured),
    (
        r#"curl --fail "http://$ADMIN/status?format=text""#,
        How::Configured,
    ),
    (
        r#"curl --fail "http://$ADMIN/routes?tool=grid""#,
        How::Configured,
    ),
    (r#"curl --fail "http://$ADMIN/routes?bad""#, How::Configured),
    (
        r#"curl --fail "http://$ADMIN/routes?held""#,
        How::Configured,
    ),
    ("portico routes --admin $ADMIN --tool grid", How::Configured),
    ("portico routes --admin $ADMIN --bad", How::Configured),
    (
        "portico routes --config portico.toml --bad",
        How::Configured,
    ),
    ("curl --fail http://$ADMIN/routes/changes", How::Configured),
    (
        r#"curl --fail "http://$ADMIN/routes/changes?format=text""#,
        How::Configured,
    ),
    ("portico routes changes --admin $ADMIN", How::Configured),
    (
        "curl --fail-with-body --request POST http://$ADMIN/routes/keep",
        How::Configured,
    ),
    (
        "curl --fail-with-body --request POST http://$ADMIN/routes/apply",
        How::Configured,
    ),
    (
        "curl --fail-with-body --request POST http://$ADMIN/routes/refresh",
        How::Configured,
    ),
    (
        "curl --fail --output before.snapshot http://$ADMIN/snapshot",
        How::Configured,
    ),
    (
        "portico routes diff before.snapshot live --admin $ADMIN",
        How::Configured,
    ),
    ("portico routes refresh --admin $ADMIN", How::Configured),
    ("portico routes keep --admin $ADMIN", How::Configured),
    ("portico routes apply --admin $ADMIN", How::Configured),
    (r#"curl --fail http://$ADMIN/pools"#, How::Configured),
    (
        r#"curl --fail "http://$ADMIN/pools?format=text""#,
        How::Configured,
    ),
    (r#"portico pool --admin $ADMIN"#, How::Configured),
    (
        r#"curl --fail-with-body --request POST "http://$ADMIN/pools/drain?pool=ingress&node=$NODE""#,
        How::Configured,
    ),
    (
        r#"curl --fail-with-body --request POST "http://$ADMIN/pools/ready?pool=ingress&node=$NODE""#,
        How::Configured,
    ),
    (
        r#"portico pool maintenance ingress $NODE --admin $ADMIN"#,
        How::Configured,
    ),
    (
        r#"portico pool ready ingress $NODE --admin $ADMIN"#,
        How::Configured,
    ),
    (
        r#"portico pool drain ingress $NODE --admin $ADMIN"#,
        How::Configured,
    ),
    (
        r#"portico pool --admin $ADMIN | grep "$NODE""#,
        How::Configured,
    ),
    (
        r#"portico pool weight ingress $NODE 50 --admin $ADMIN"#,
        How::Configured,
    ),
    (
        r#"portico pool weight ingress $NODE default --admin $ADMIN"#,
        How::Configured,
    ),
    (r#"curl --fail http://$ADMIN/status.csv"#, How::Configured),
    ("curl --fail http://$ADMIN/config", How::Configured),
    (
        r#"curl --fail "http://$ADMIN/config?format=json""#,
        How::Configured,
    ),
    ("curl --fail http://$ADMIN/list", How::Configured),
    (
        "curl --fail-with-body --request POST http://$ADMIN/reload",
        How::Configured,
    ),
    (
        "sudo benches/install packages",
        How::Elsewhere("by hand; scripts/test installs what CI needs of it"),
    ),
    (
        "benches/install",
        How::Elsewhere("by hand: it compiles for minutes"),
    ),
    (
        "benches/compare --profile dist --markdown compare.md --json compare.json",
        How::Elsewhere("benches/smoke, smaller"),
    ),
    (
        "benches/compare --profile dist --compare-with compare.json",
        How::Elsewhere("benches/smoke, smaller"),
    ),
    (
        "benches/compare --cases h1-tls,handshake --proxies portico,nginx,haproxy",
        How::Elsewhere("benches/smoke, smaller"),
    ),
    (
        "benches/compare --system-calls",
        How::Elsewhere("by hand: it needs a kernel that allows perf"),
    ),
    (
        "benches/start --profile dist",
        How::Elsewhere("benches/smoke, smaller"),
    ),
    (
        "benches/memory --profile dist --peers",
        How::Elsewhere("benches/smoke, smaller"),
    ),
    (
        "benches/routes --profile dist",
        How::Elsewhere("benches/smoke, smaller"),
    ),
    (
        "benches/routes --patterns --sizes 1000000",
        How::Elsewhere("benches/smoke, smaller"),
    ),
    ("benches/growth", How::Elsewhere("benches/smoke, smaller")),
    (
        "benches/growth --profile dist --fresh --accept",
        How::Elsewhere("benches/smoke, smaller"),
    ),
    ("benches/instructions", How::Elsewhere("scripts/test")),
    (
        "benches/instructions --profile h2-tls",
        How::Elsewhere("by hand: the same counts as those of scripts/test, shown"),
    ),
    ("benches/smoke", How::Elsewhere("scripts/test")),
    (
        "UPDATE_DOCS=1 cargo test -p portico-config --test docs",
        How::Repository,
    ),
    (
        "systemctl reload portico",
        How::Elsewhere(
            "reload.rs sends the signal; the unit is looked at in proxy/tests/systemd.rs",
        ),
    ),
    (
        "curl --silent http://$ADMIN/metrics | grep -E '^(process_(open|max)_fds|process_resident_memory_bytes|portico_(connection|upstream)_places(_taken)?) '",
        How::Configured,
    ),
    (
        "curl --silent http://$ADMIN/metrics | grep -E '^portico_(tcp_unserved|tcp_endings|tcp_connect_failures)_total' || echo 'no TCP service'",
        How::Configured,
    ),
    (
        "portico explain https://grid.toolforge.org/ --admin $ADMIN",
        How::Configured,
    ),
    (
        "curl --silent http://$ADMIN/metrics | grep -E '^portico_failures_total.* [1-9]' || echo 'no failure'",
        How::Configured,
    ),
    (
        "curl --silent http://$ADMIN/metrics | grep '^portico_tool_requests_total' | sort --key 2 --general-numeric-sort --reverse",
        How::Configured,
    ),
    (
        "diff <(curl --silent http://$OLD_LIST/list | python3 -m json.tool --sort-keys) <(curl --silent http://$ADMIN/list | python3 -m json.tool --sort-keys) && echo 'the same tools'",
        How::Configured,
    ),
    (
        "portico routes --config portico.toml | grep '^grid'",
        How::Configured,
    ),
    (
        "curl --silent --include --insecure --connect-to ::127.0.0.1:$HTTPS_PORT https://grid.toolforge.org/",
        How::Configured,
    ),
    (
        "openssl s_client -connect 127.0.0.1:$HTTPS_PORT -servername grid.toolforge.org </dev/null | openssl x509 -noout -enddate -subject",
        How::Configured,
    ),
    (ONLY_READS, How::Elsewhere("a test of its own, below")),
    (
        "portico routes --config portico.toml | grep BAD || echo 'every route is good'",
        How::Configured,
    ),
    (COMPARE, How::Elsewhere("a test of its own, below")),
    (
        "curl --silent --fail http://127.0.0.1:$HTTP_PORT/.well-known/healthz",
        How::Configured,
    ),
    (
        "curl --silent --fail --insecure --connect-to ::$NEW https://admin.toolforge.org/healthz | grep OK",
        How::Configured,
    ),
    (
        "curl --silent --insecure --connect-to ::$NEW --write-out '%{http_code}' https://this-tool-does-not-exist.toolforge.org/ | grep --null-data 'The URL you have requested.*404'",
        How::Configured,
    ),
    (
        "curl --silent --insecure --connect-to ::$NEW --head https://grid.toolforge.org/ | grep --ignore-case 'strict-transport-security: max-age=31622400'",
        How::Configured,
    ),
    (
        "curl --silent --insecure --connect-to ::$NEW --user-agent '' https://grid.toolforge.org/ | grep 'Requests must have a user agent'",
        How::Configured,
    ),
    (
        "curl --silent --insecure --connect-to ::$NEW --output /dev/null --write-out '%{redirect_url}' 'https://tools.wmflabs.org/canon/x?y=%20z' | grep --fixed-strings 'https://canon.toolforge.org/x?y=%20z'",
        How::Configured,
    ),
];

/// Makes a user of redis that may only read.
const ONLY_READS: &str = "redis-cli -p $REDIS_PORT ACL SETUSER portico on '>a-password' '%R~prefix:*' '%R~redirect:*' -@all +ping +select +scan +exists +hgetall +dbsize '+memory|usage' '+client|tracking'";

/// Prints what two proxies answer differently.
const COMPARE: &str = r#"while read -r url; do for at in $OLD $NEW; do curl --silent --output /dev/null --insecure --max-time 30 --connect-to ::$at --write-out "%{http_code} %{redirect_url} $url\n" "$url" || true; done; done < urls.txt | uniq --count | awk '$1 != 2'"#;

const DOCUMENTS: &[&str] = &[
    "README.md",
    "CONTRIBUTING.md",
    "ARCHITECTURE.md",
    "docs/access-log.md",
    "benches/README.md",
    "docs/admin.md",
    "docs/explain.md",
    "docs/operating.md",
    "docs/migrating.md",
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The fenced blocks of `language`, without their fences and their indentation.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for line in text.lines() {
        let bare = line.trim_start();
        match (&mut open, bare.strip_prefix("```")) {
            (Some(_), Some("")) => blocks.extend(open.take().map(|(_, block)| block)),
            (None, Some(tag)) if tag == language => {
                open = Some((line.len() - bare.len(), String::new()));
            }
            (Some((indent, block)), _) => {
                block.push_str(line.get(*indent..).unwrap_or(bare));
                block.push('\n');
            }
            (None, _) => {}
        }
    }
    blocks
}

fn documents(language: &str) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    for name in DOCUMENTS {
        let text = std::fs::read_to_string(repository().join(name)).unwrap();
        found.extend(blocks(&text, language).into_iter().map(|b| (*name, b)));
    }
    found
}

#[test]
fn every_command_is_run() {
    // What it echoes holds its name, which monitoring looks for at admin's /healthz.
    let origin = Origin::echo("OK");
    let redis = Redis::start();
    redis.route("grid", ".*", &origin.url());
    redis.route("admin", ".*", &origin.url());
    redis.redirect("canon");
    // What it answers for tools that nobody has.
    let ingress = Origin::scripted("ingress", |connection| {
        while connection.read_request().is_some() {
            let text = "The URL you have requested";
            let head = format!(
                "HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n",
                text.len()
            );
            connection.send(head + text);
        }
    });
    let serving = Builder::new()
        .registry(&redis)
        .ingress(&[ingress.address()])
        .start();
    let root = tempfile::tempdir().unwrap();
    let configured = Builder::new().registry(&redis);
    let path = std::env::var("PATH").unwrap();
    let bin = root.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(portico::binary(), bin.join("portico")).unwrap();
    let config = configured.write();
    let folder = config.parent().unwrap();
    let shell = |line: &str, folder: &Path| {
        let mut command = Command::new("bash");
        command
            .args(["-euo", "pipefail", "-c", line])
            .current_dir(folder)
            .env("ROOT", root.path())
            .env("HTTP_PORT", serving.http.port().to_string())
            .env("ADMIN", serving.admin.to_string())
            .env("NODE", ingress.address().to_string())
            .env("OLD_LIST", serving.admin.to_string())
            .env("HTTPS_PORT", serving.https.port().to_string())
            .env("NEW", serving.https.to_string())
            .env("PATH", format!("{}:{path}", bin.display()));
        command
    };
    for (document, block) in documents("sh") {
        for line in block.lines().filter(|line| !line.is_empty()) {
            let line = line.split("  #").next().unwrap_or(line).trim_end();
            let known = COMMANDS.iter().find(|(known, _)| *known == line);
            let (_, how) = known.unwrap_or_else(|| panic!("{document}: who runs {line:?}?"));
            let mut command = match how {
                How::Elsewhere(where_) => {
                    eprintln!("{line}: {where_}");
                    continue;
                }
                How::Repository => shell(line, &repository()),
                How::Configured => shell(line, folder),
                How::Foreground => {
                    foreground(shell(&format!("exec {line}"), folder), &configured);
                    continue;
                }
            };
            let output = command.output().unwrap();
            assert!(
                output.status.success(),
                "{document}: {line}\n{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    assert!(root.path().join("usr/bin/portico").exists());
}

/// Starts what stays in the foreground, sees it serve, and stops it.
fn foreground(mut command: Command, configured: &Builder) {
    let mut child = portico::Running(command.spawn().unwrap());
    let address = configured.http();
    let health = portico_tests::client::get(HOST, "/.well-known/healthz");
    let status = portico_tests::eventually("it serves", portico_tests::SOON, || {
        let mut client = portico_tests::client::Client::try_tcp(address).ok()?;
        Some(client.exchange(&health).status)
    });
    assert_eq!(status, 200);
    signal(child.0.id(), "TERM");
    let status = portico::wait(&mut child.0, portico_tests::SOON).unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn every_configuration_is_valid() {
    let found = documents("toml");
    assert!(!found.is_empty());
    for (document, text) in found {
        if let Err(mistakes) = portico_config::parse(document, &text) {
            panic!("{document}:\n{mistakes}");
        }
    }
}

/// Metrics that a document names are described where all of them are.
#[test]
fn every_metric_exists() {
    let described = std::fs::read_to_string(repository().join("docs/metrics.md")).unwrap();
    let mut found = 0;
    for name in ["README.md", "docs/operating.md", "docs/migrating.md"] {
        let text = std::fs::read_to_string(repository().join(name)).unwrap();
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            // What is no metric, or the beginning of some in a pattern.
            let parts = ["_bucket", "_count", "_sum"];
            let metric = parts.iter().find_map(|part| word.strip_suffix(part));
            let metric = metric.unwrap_or(word);
            if !metric.starts_with("portico_") || metric == "portico_" {
                continue;
            }
            found += 1;
            assert!(
                described.contains(&format!("| `{metric}` |")),
                "{name}: {word}"
            );
        }
    }
    assert!(found > 20, "only {found} metrics are named");
}

/// What an administrator has to do without is what the configuration refuses.
#[test]
fn what_is_not_built_is_said_and_nothing_else() {
    let read = |name: &str| std::fs::read_to_string(repository().join(name)).unwrap();
    let source = read("config/src/unbuilt.rs");
    let refused: BTreeSet<&str> = source
        .lines()
        .filter_map(|line| Some(line.strip_prefix("    (\"")?.split_once("\", When::")?.0))
        .collect();
    assert!(!refused.is_empty());
    let document = read("docs/migrating.md");
    let (_, section) = document.split_once("## Not built yet\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let cells = section
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").nth(1));
    let said: BTreeSet<&str> = cells
        .flat_map(|keys| keys.split('`').skip(1).step_by(2))
        .collect();
    assert_eq!(said, refused);
}

/// The user that the document makes suffices, and can do nothing else.
#[test]
fn the_user_that_only_reads_suffices() {
    let (origin, redis) = (Origin::echo("grid"), Redis::start());
    redis.route("grid", ".*", &origin.url());
    let port = redis.address().port().to_string();
    let mut make = Command::new("bash");
    make.args(["-c", ONLY_READS]).env("REDIS_PORT", &port);
    let made = make.output().unwrap();
    assert_eq!(made.stdout, b"OK\n");
    let user = "redis://portico:a-password@";
    let url = redis.url().replacen("redis://", user, 1);
    let builder = Builder::new().registry(&redis);
    let portico = builder.with(&format!("[registry]\nurl = {url:?}")).start();
    let status = |tool: &str| {
        let host = format!("{tool}.toolforge.org");
        let request = portico_tests::client::get(&host, "/");
        portico.tcp().exchange(&request).status
    };
    assert_eq!(status("grid"), 200);
    redis.route("new", ".*", &origin.url());
    eventually("a change is seen", SOON, || {
        (status("new") == 200).then_some(())
    });
    let refused = Command::new("redis-cli")
        .args(["-u", &url, "SET", "prefix:grid", "x"])
        .output()
        .unwrap();
    let refused = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(refused.contains("NOPERM"), "{refused}");
}

/// Says nothing of what is the same, and shows what is not.
#[test]
fn the_comparison_of_two_proxies_shows_what_differs() {
    let origin = Origin::echo("grid");
    let old = Portico::before(&origin);
    let new = Builder::new().route("other", &origin.url()).start();
    let folder = tempfile::tempdir().unwrap();
    let urls = "https://grid.toolforge.org/\nhttps://nobody.toolforge.org/x?y\n";
    std::fs::write(folder.path().join("urls.txt"), urls).unwrap();
    let compare = |new: &Portico| {
        let mut command = Command::new("bash");
        command
            .args(["-euo", "pipefail", "-c", COMPARE])
            .current_dir(folder.path())
            .env("OLD", old.https.to_string())
            .env("NEW", new.https.to_string());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(compare(&old), "");
    let different = compare(&new);
    let words: Vec<&str> = different.split_whitespace().collect();
    let url = "https://grid.toolforge.org/";
    assert_eq!(words, ["1", "200", url, "1", "404", url]);
}

/// What a document points at is there, headings too.
#[test]
fn every_link_leads_somewhere() {
    for name in DOCUMENTS {
        let text = std::fs::read_to_string(repository().join(name)).unwrap();
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
            .filter(|link| !link.contains("://"))
        {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let document = repository().join(name);
            let target = match file {
                "" => document,
                file => document.parent().unwrap().join(file),
            };
            assert!(target.exists(), "{name}: {link}");
            if !heading.is_empty() {
                let text = std::fs::read_to_string(&target).unwrap();
                let found = text.lines().any(|line| anchor(line) == heading);
                assert!(found, "{name}: {link}");
            }
        }
    }
}

/// The name that a heading has in links; empty for other lines.
fn anchor(line: &str) -> String {
    let Some(heading) = line.strip_prefix('#') else {
        return String::new();
    };
    let kept = heading.trim_start_matches('#').trim().chars();
    kept.filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| {
            if c == ' ' {
                '-'
            } else {
                c.to_ascii_lowercase()
            }
        })
        .collect()
}
