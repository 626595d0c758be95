//! What the system says of this process, under the names that Prometheus' own clients use. Only Linux says it.

use std::fs;
use std::sync::LazyLock;

/// What is known of the process.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Process {
    /// Unit: seconds.
    pub(super) cpu: f64,
    /// Unit: bytes.
    pub(super) resident: u64,
    /// When it began. Unit: seconds since 1970.
    pub(super) started: f64,
    pub(super) open_files: usize,
    pub(super) most_files: Option<u64>,
}

impl Process {
    /// As it is now.
    pub(super) fn now() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let (cpu, started, pages) = read_stat(&stat)?;
        Some(Self {
            cpu,
            resident: pages * rustix::param::page_size() as u64,
            started: *BOOT + started,
            open_files: fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1), // the folder itself
            most_files: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        })
    }
}

/// When the machine started. Unit: seconds since 1970.
static BOOT: LazyLock<f64> = LazyLock::new(|| {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|time| time.trim().parse().ok()).unwrap_or(0.0)
});

/// Processor seconds, start in seconds after boot, and resident pages, by proc(5).
fn read_stat(stat: &str) -> Option<(f64, f64, u64)> {
    // The second field is the program's name in parentheses, which may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let cpu = (number(14)? + number(15)?) as f64 / ticks;
    Some((cpu, number(22)? as f64 / ticks, number(24)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_is_read_whatever_the_program_is_called() {
        let stat =
            "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 4200 1000000 512 18446744073709551615";
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(read_stat(stat), Some((300.0 / ticks, 4200.0 / ticks, 512)));
        assert_eq!(read_stat("7 (a) S 1"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_there() {
        let process = Process::now().unwrap();
        assert!(process.resident > 1 << 20 && process.open_files >= 3, "{process:?}");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(process.started > now - 86_400.0 && process.started < now + 2.0, "{process:?}");
    }
}
