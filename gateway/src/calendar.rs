//! Times as Ollama writes them.

use std::time::SystemTime;

use tutti_api::Timestamp;

/// RFC 3339, as Go prints a time in UTC: nanoseconds without the zeros at their end.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut text = Timestamp::from_unix(i64::try_from(since.as_secs()).unwrap_or(i64::MAX)).to_string();
    if since.subsec_nanos() > 0 {
        let fraction = format!(".{:09}", since.subsec_nanos());
        text.truncate(text.len() - 1); // its `Z`
        text.push_str(fraction.trim_end_matches('0'));
        text.push('Z');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn writes_times_as_go_does() {
        let at = |seconds, nanos| rfc3339(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_400, 120_000_000), "2000-02-29T00:00:00.12Z");
        assert_eq!(at(1_795_508_638, 123_456_789), "2026-11-24T08:23:58.123456789Z");
        assert_eq!(at(4_102_444_799, 1), "2099-12-31T23:59:59.000000001Z");
    }
}
