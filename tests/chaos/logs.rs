//! What a sidekick or the agent may say. Pure.

use crate::record::Log;
use crate::spans::Ms;

/// The lines of a start and a stop.
const LIFE: usize = 15;

/// The lines that one fault may cost one of them: it is lost, it is found again, and what follows
/// from that, for two claims. Most faults hit others.
const FAULT: usize = 3;

/// What a sidekick says of each pidfd that counts.
pub const BY_KERNEL: &str = "its death is known by the kernel";

/// What it says of all containers when it can hold no pidfds.
pub const BY_EVENTS: &str = "deaths are known by the engine's events, not by the kernel";

/// Promises broken, by their number.
pub fn violations(log: &Log, faults: usize, password: &str) -> Vec<(u8, Ms, String)> {
    let mut violations = Vec::new();
    let name = &log.name;
    for line in &log.lines {
        if line.contains("panicked at") {
            violations.push((8, 0, format!("{name} panicked: {line}")));
        }
        if line.contains(password) {
            violations.push((10, 0, format!("{name} told the password: {line}")));
        }
    }
    // HAProxy's own are passed on as they come; and debug lines, of which there may be any number, are asked for.
    let is_counted = |line: &&String| !line.contains("[ALERT]") && !line.contains(" DEBUG ");
    let own = log.lines.iter().filter(is_counted);
    let (lines, most) = (own.count(), LIFE * log.starts + FAULT * faults);
    if lines > most {
        let starts = log.starts;
        let text = format!("{name} said {lines} lines, for {faults} faults and {starts} starts");
        violations.push((8, 0, text));
    }
    violations
}
