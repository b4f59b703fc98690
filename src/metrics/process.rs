//! What the kernel knows of this process, under the names that every Prometheus client uses.

use super::page::Page;

/// The unit of the times in `/proc/self/stat`: `USER_HZ` is 100 on every Linux that we run on.
const TICKS_A_SECOND: f64 = 100.0;

/// What is read of `/proc/self`.
#[derive(Debug, PartialEq)]
struct Reading {
    cpu_seconds: f64,
    threads: u64,
    resident_bytes: u64,
}

/// Writes processor time, memory, threads and file descriptors; nothing where there is no
/// `/proc`.
pub fn process(page: &mut Page) {
    let reading = std::fs::read_to_string("/proc/self/stat").ok();
    if let Some(reading) = reading.and_then(|stat| parse(&stat)) {
        let cpu = "Processor time that this process has used, user and system, in seconds.";
        page.counter("process_cpu_seconds_total", cpu, reading.cpu_seconds);
        let memory = "Memory that this process holds, in bytes.";
        page.gauge("process_resident_memory_bytes", memory, reading.resident_bytes);
        page.gauge("process_threads", "Threads of this process.", reading.threads);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        page.gauge("process_open_fds", "Open file descriptors of this process.", open.count());
    }
}

/// Fields 14, 15, 20 and 24. The second field is the program's name, in brackets, and may hold
/// anything.
fn parse(stat: &str) -> Option<Reading> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = behind_name.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(Reading {
        cpu_seconds: (number(14)? + number(15)?) as f64 / TICKS_A_SECOND,
        threads: number(20)?,
        resident_bytes: number(24)? * rustix::param::page_size() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "42 (a b) c) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 7 0 9 9 3 9";
        let page = rustix::param::page_size() as u64;
        let reading = Reading { cpu_seconds: 2.0, threads: 7, resident_bytes: 3 * page };
        assert_eq!(parse(stat), Some(reading));
        assert_eq!(parse("nonsense"), None);
    }
}
