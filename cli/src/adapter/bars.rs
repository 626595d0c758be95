//! What is seen of something that takes its time: on a terminal a line that is drawn again, in a log a line now and then.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tutti_adapter_loader::fetch::Counts;

use crate::print::say;

/// How often the line is drawn again.
const DRAWN: Duration = Duration::from_millis(200);
/// How often a log gets a line.
const LOGGED: Duration = Duration::from_secs(10);

/// Does some work, and shows how far it is. `total` may become known on the way.
pub(super) async fn shown<T>(
    what: &str,
    total: impl Fn() -> u64,
    counts: &Arc<Counts>,
    work: impl Future<Output = T>,
) -> T {
    let (begun, terminal) = (Instant::now(), io::stderr().is_terminal());
    let mut ticks = tokio::time::interval(if terminal { DRAWN } else { LOGGED });
    ticks.tick().await; // the first comes at once, when there is nothing to show
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            outcome = &mut work => {
                if terminal {
                    erase();
                }
                return outcome;
            }
            _ = ticks.tick() => {
                let line = line(what, counts.there.load(Ordering::Relaxed), total(), begun.elapsed());
                if terminal { draw(&line) } else { say!("{line}") }
            }
        }
    }
}

/// How far something is.
fn line(what: &str, there: u64, total: u64, time: Duration) -> String {
    let rate = there as f64 / time.as_secs_f64().max(0.001);
    let share = if total == 0 { 0.0 } else { there as f64 / total as f64 * 100.0 };
    let left = (total.saturating_sub(there) as f64 / rate.max(1.0)).min(359_999.0);
    format!("{what}: {share:.0}% of {}, {}/s, {left:.0} s left", size(total), size(rate as u64))
}

/// A number of bytes, for people.
pub(super) fn size(bytes: u64) -> String {
    let (mut value, mut units) = (bytes as f64, ["B", "KiB", "MiB", "GiB", "TiB"].into_iter());
    let mut unit = units.next();
    while value >= 1024.0
        && let Some(next) = units.next()
    {
        (value, unit) = (value / 1024.0, Some(next));
    }
    let unit = unit.unwrap_or_default();
    if value >= 10.0 || unit == "B" { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") }
}

fn draw(line: &str) {
    // Back to the line's beginning, and what the last one left of it erased.
    let _ = io::stderr().write_all(format!("\r{line}\x1b[K").as_bytes());
}

fn erase() {
    let _ = io::stderr().write_all(b"\r\x1b[K");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is() {
        let second = Duration::from_secs(1);
        assert_eq!(line("x", 256 << 20, 1 << 30, second), "x: 25% of 1.0 GiB, 256 MiB/s, 3 s left");
        assert_eq!(line("x", 0, 0, Duration::ZERO), "x: 0% of 0 B, 0 B/s, 0 s left");
        assert_eq!(
            [0, 1023, 1024, 10 << 20, u64::MAX].map(size),
            ["0 B", "1023 B", "1.0 KiB", "10 MiB", "16777216 TiB"]
        );
    }
}
