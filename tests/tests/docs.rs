//! The documents keep their word: every command in them is run, every
//! configuration in them is valid.
//!
//! A command that is not in the list below fails the test, so that none is added without
//! saying how it is run.

use std::path::{Path, PathBuf};
use std::process::Command;

use portico_tests::origin::Origin;
use portico_tests::portico::{self, Builder, HOST, Portico};
use portico_tests::signal;

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
        "curl --fail http://$ADMIN/readyz?format=json",
        How::Configured,
    ),
    ("curl --fail http://$ADMIN/status", How::Configured),
    (
        "curl --fail http://$ADMIN/status?format=text",
        How::Configured,
    ),
    (
        r#"curl --fail "http://$ADMIN/routes?tool=grid""#,
        How::Configured,
    ),
    (r#"curl --fail "http://$ADMIN/routes?bad""#, How::Configured),
    ("curl --fail http://$ADMIN/config", How::Configured),
    (
        "curl --fail http://$ADMIN/config?format=json",
        How::Configured,
    ),
    ("curl --fail http://$ADMIN/list", How::Configured),
    (
        "curl --fail-with-body --request POST http://$ADMIN/reload",
        How::Configured,
    ),
    (
        "apt-get install python3 openssl redis-server wrk nghttp2-client nginx haproxy",
        How::Elsewhere("scripts/test installs what CI needs of these"),
    ),
    (
        "benches/memory --peers",
        How::Elsewhere("benches/smoke, smaller"),
    ),
    ("benches/compare", How::Elsewhere("benches/smoke, smaller")),
    (
        "benches/compare --system-calls",
        How::Elsewhere("by hand: it needs a kernel that allows perf"),
    ),
    ("benches/smoke", How::Elsewhere("scripts/test")),
    (
        "UPDATE_DOCS=1 cargo test -p portico-config --test docs",
        How::Repository,
    ),
];

const DOCUMENTS: &[&str] = &[
    "README.md",
    "CONTRIBUTING.md",
    "ARCHITECTURE.md",
    "docs/access-log.md",
    "benches/README.md",
    "docs/admin.md",
    "docs/explain.md",
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The fenced blocks of `language`, without their fences.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (Some(_), Some("")) => blocks.extend(open.take()),
            (None, Some(tag)) if tag == language => open = Some(String::new()),
            (Some(block), _) => {
                block.push_str(line);
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
    let origin = Origin::echo("grid");
    let serving = Portico::before(&origin);
    let root = tempfile::tempdir().unwrap();
    let configured = Builder::new().route("grid", &origin.url());
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

/// What a document points at is there.
#[test]
fn every_link_leads_somewhere() {
    for name in DOCUMENTS {
        let text = std::fs::read_to_string(repository().join(name)).unwrap();
        for link in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            let local = !link.contains("://") && !link.starts_with('#');
            let folder = repository().join(name);
            let folder = folder.parent().unwrap();
            assert!(!local || folder.join(link).exists(), "{name}: {link}");
        }
    }
}
