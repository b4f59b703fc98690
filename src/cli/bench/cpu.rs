//! Processor time of other processes.

use std::time::Duration;

/// The unit of the times in `/proc/PID/stat`: `USER_HZ` is 100 on every Linux that we run on.
const TICK: Duration = Duration::from_millis(10);

/// User and system time of all these processes since their start; none where the system does not
/// tell, or for no process.
#[must_use]
pub fn of_all(processes: &[u32]) -> Option<Duration> {
    if processes.is_empty() {
        return None;
    }
    processes.iter().map(|&process| of(process)).sum()
}

fn of(process: u32) -> Option<Duration> {
    parse(&std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?)
}

/// Fields 14 and 15. The second field is the program's name, in brackets, and may hold anything.
fn parse(stat: &str) -> Option<Duration> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some(TICK * user.saturating_add(system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_times_are_found_behind_any_name() {
        let stat = "42 (a b) c) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 9 9 9";
        assert_eq!(parse(stat), Some(Duration::from_secs(2)));
        assert_eq!(parse("nonsense"), None);
        assert_eq!(of_all(&[]), None);
    }
}
