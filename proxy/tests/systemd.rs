//! The files in `systemd/`: systemd accepts them, and they allow what the defaults of the
//! configuration need. Capacity lost in such a file once took the old proxy down
//! unnoticed (T143637).

// Clippy does not see that the functions here are only called by tests.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../systemd")
        .join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(file(name)).unwrap()
}

/// The value of a key that stands in the unit once.
#[track_caller]
fn unit(key: &str) -> String {
    let unit = text("portico.service");
    let mut values = unit
        .lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let value = values.next().unwrap_or_else(|| panic!("no {key}="));
    assert_eq!(values.next(), None, "{key}= stands twice");
    value.to_owned()
}

/// The lines of a sysusers or tmpfiles file, in words.
fn lines(name: &str) -> Vec<Vec<String>> {
    text(name)
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect()
}

fn defaults() -> portico_config::Config {
    let text = r#"
        [listen]
        https = []
        [domains]
        canonical = "example.org"
        apex = "https://www.example.org/"
        [registry]
        url = "redis://127.0.0.1:6379/0"
        [fallback]
    "#;
    portico_config::parse("defaults.toml", text)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"))
        .config
}

#[test]
fn descriptors_suffice_for_the_default_limits() {
    let descriptors: usize = unit("LimitNOFILE").parse().unwrap();
    // One to the client and one to the backend for each connection, and everything else.
    assert!(descriptors >= 2 * defaults().limits.connections + 4096);
}

#[test]
fn stopping_waits_longer_than_the_default_drain() {
    let stop = unit("TimeoutStopSec");
    let stop: u64 = stop.strip_suffix('s').unwrap().parse().unwrap();
    assert!(Duration::from_secs(stop) > defaults().server.drain);
    assert_eq!(unit("KillSignal"), "SIGTERM");
}

#[test]
fn the_snapshot_lies_in_the_state_directory() {
    let state = Path::new("/var/lib").join(unit("StateDirectory"));
    assert!(defaults().registry.unwrap().snapshot.starts_with(state));
}

/// logrotate accepts the file, and rotates what lies where the unit lets portico write.
#[test]
fn logrotate_rotates_the_access_log() {
    let log = format!("/var/log/{}/access.log", unit("LogsDirectory"));
    let rules = text("portico.logrotate");
    assert!(rules.contains(&format!("\n{log} {{\n")));
    assert!(unit("ExecStart").starts_with("/usr/bin/portico "));
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let here = at("access.log").display().to_string();
    // A tag in place of the signal: no service runs here.
    let told = at("told").display().to_string();
    let rules = rules.replace(&log, &here).replace(
        "systemctl kill --kill-whom=main --signal=USR1 portico.service",
        &format!("touch {told}"),
    );
    assert!(rules.contains(&told));
    std::fs::write(at("rules"), rules).unwrap();
    std::fs::set_permissions(at("rules"), PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(&here, "a line\n").unwrap();
    let Ok(output) = Command::new("logrotate")
        .args(["--force", "--state"])
        .arg(at("state"))
        .arg(at("rules"))
        .output()
    else {
        eprintln!("not tested: logrotate is not installed");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
    assert!(at("told").exists() && !at("access.log").exists());
    let files = std::fs::read_dir(directory.path()).unwrap();
    let name = |file: std::io::Result<std::fs::DirEntry>| file.unwrap().file_name();
    let kept = files
        .map(name)
        .filter(|name| name.to_string_lossy().starts_with("access.log-"));
    assert_eq!(kept.count(), 1);
}

#[test]
fn user_and_paths_agree() {
    let user = unit("User");
    let users = lines("portico.sysusers");
    assert_eq!(users.len(), 1);
    assert_eq!(users[0][..2], ["u".to_owned(), user]);
    let group = unit("Group");
    let configuration = "/etc/portico/portico.toml";
    for command in ["ExecStartPre", "ExecStart"] {
        assert!(unit(command).ends_with(&format!(" --config {configuration}")));
    }
    let directories = lines("portico.tmpfiles");
    assert!(directories.iter().any(|line| line[1] == configuration));
    for line in directories {
        // Root's, for the group to read, for others nothing.
        assert_eq!(line[3..5], ["root".to_owned(), group.clone()]);
        assert!(line[2].ends_with('0'), "{line:?}");
    }
}

#[test]
fn systemd_accepts_the_unit() {
    let directory = tempfile::tempdir().unwrap();
    let unit = directory.path().join("portico.service");
    // It also looks whether the program is there.
    std::fs::write(
        &unit,
        text("portico.service").replace("/usr/bin/portico", "/bin/true"),
    )
    .unwrap();
    let Ok(output) = Command::new("systemd-analyze")
        .arg("verify")
        .arg(&unit)
        .output()
    else {
        eprintln!("not tested: systemd-analyze is not installed");
        return;
    };
    // Unknown keys and bad values are warnings to it, with status 0; a machine's other units may
    // have their own.
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    assert!(!told.contains("portico.service"), "{told}");
}
