//! What the kernel knows of the process, under the names that all exporters use.
//!
//! What cannot be read is left out.

use std::fs;

use rustix::process::{Resource, getrlimit};

/// As of now.
#[derive(Debug, Default)]
pub(super) struct System {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) open_fds: Option<f64>,
    pub(super) max_fds: Option<f64>,
    pub(super) resident_bytes: Option<f64>,
    pub(super) virtual_bytes: Option<f64>,
    pub(super) threads: Option<f64>,
    pub(super) start_time: Option<f64>,
}

impl System {
    /// Asks the kernel.
    pub(super) fn now() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The name of the program is in brackets and may hold anything: what follows is counted
        // from the last one. The first field there is the third of proc_pid_stat(5).
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map_or("", |(_, rest)| rest)
            .split_ascii_whitespace()
            .collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let page = rustix::param::page_size() as f64;
        let limit = getrlimit(Resource::Nofile).current;
        Self {
            cpu_seconds: field(14)
                .zip(field(15))
                .map(|(user, system)| (user + system) / ticks),
            open_fds: open_fds(),
            max_fds: limit.map(|limit| limit as f64),
            resident_bytes: field(24).map(|pages| pages * page),
            virtual_bytes: field(23),
            threads: field(20),
            start_time: field(22)
                .zip(boot_time())
                .map(|(since_boot, boot)| boot + since_boot / ticks),
        }
    }
}

/// Since Linux 6.2 the size of the folder is the number of descriptors; before, they are counted.
fn open_fds() -> Option<f64> {
    let folder = "/proc/self/fd";
    match fs::metadata(folder).map(|folder| folder.len()) {
        Ok(open @ 1..) => Some(open as f64),
        // Without the one that the listing itself needs.
        _ => Some(fs::read_dir(folder).ok()?.count().saturating_sub(1) as f64),
    }
}

fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{SystemTime, UNIX_EPOCH};

    #[test]
    fn the_kernel_tells() {
        // Other tests open and close files, too, but not so many between all readings.
        let more_files = (0..100).any(|_| {
            let before = System::now();
            let files = [(); 20].map(|()| fs::File::open("/dev/null").unwrap());
            let with_files = System::now();
            drop(files);
            with_files.open_fds.unwrap() >= before.open_fds.unwrap() + 10.0
        });
        assert!(more_files, "open files are counted");
        let system = System::now();
        assert!(system.max_fds.unwrap() >= system.open_fds.unwrap());
        assert!(system.resident_bytes.unwrap() > 1e6);
        assert!(system.virtual_bytes.unwrap() > system.resident_bytes.unwrap());
        assert!(system.threads.unwrap() >= 1.0);
        assert!(system.cpu_seconds.unwrap() < 1e5);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - system.start_time.unwrap();
        assert!((-5.0..7200.0).contains(&age), "started {age} s ago");
    }
}
