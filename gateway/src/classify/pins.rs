//! Ollama's options that a pool pins, and the edits that pin them.
//!
//! Ollama decodes `options` into a Go map: unlike the fields around it, its keys keep their case, and one that only folds
//! to an option's name does nothing; of equal ones the last counts; null is as if it were not there (seen on 0.11.4).

use std::time::Duration;

use bytes::Bytes;
use tutti_api::{KeepAlive, PoolSpec};

use super::Edits;
use crate::adjusted::Adjusted;
use crate::errors::{Code, Failure};
use crate::json::{self, Kind, Member};

/// What a pool pins for all its clients (`pools[].runner` and `pools[].keepAlive`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pins {
    options: Vec<Pin>,
    keep_alive: Option<Pin>,
}

/// A field and its value.
#[derive(Clone, Debug, PartialEq)]
struct Pin {
    name: &'static str,
    value: Value,
    /// The value in JSON.
    json: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    Number(i64),
    Bool(bool),
    Stay(Duration),
}

impl Pin {
    fn new(name: &'static str, value: Value) -> Self {
        let json = match value {
            Value::Number(number) => number.to_string(),
            Value::Bool(bool) => bool.to_string(),
            Value::Stay(duration) => format!("\"{}\"", go_duration(duration)),
        };
        Self { name, value, json }
    }

    /// Whether a client's value is this one to Ollama, which cuts fractions off, and reads a number as seconds where it
    /// reads durations.
    fn is(&self, text: &[u8], kind: Kind) -> bool {
        let text = std::str::from_utf8(text).unwrap_or_default();
        let number = || text.parse::<f64>().ok().filter(|_| kind == Kind::Number).map(f64::trunc);
        match self.value {
            Value::Number(wanted) => number() == Some(wanted as f64),
            Value::Bool(wanted) => kind == if wanted { Kind::True } else { Kind::False },
            Value::Stay(wanted) if kind == Kind::String => nanos(text.trim_matches('"')) == Some(wanted.as_nanos()),
            Value::Stay(wanted) => number().is_some_and(|seconds| seconds * 1e9 == wanted.as_nanos() as f64),
        }
    }

    /// Says that it is in force now.
    fn say(&self, adjusted: &mut Adjusted) {
        adjusted.set(self.name, self.json.trim_matches('"'));
    }
}

impl Pins {
    /// Those of a pool.
    pub fn of(pool: &PoolSpec) -> Self {
        let mut options = Vec::new();
        if let Some(runner) = &pool.runner {
            let numbers = [
                ("num_ctx", runner.num_ctx.map(i64::from)),
                ("num_batch", runner.num_batch.map(i64::from)),
                ("num_gpu", runner.num_gpu.map(i64::from)),
                ("main_gpu", runner.main_gpu.map(i64::from)),
                ("num_thread", runner.num_thread.map(i64::from)),
            ];
            let pinned = numbers.into_iter().filter_map(|(name, number)| Some((name, Value::Number(number?))));
            options.extend(pinned.chain(runner.use_mmap.map(|map| ("use_mmap", Value::Bool(map)))));
        }
        let stay = match pool.keep_alive {
            KeepAlive::Client => None,
            KeepAlive::For(duration) => Some(Value::Stay(duration.get())),
        };
        Self {
            options: options.into_iter().map(|(name, value)| Pin::new(name, value)).collect(),
            keep_alive: stay.map(|stay| Pin::new("keep_alive", stay)),
        }
    }

    /// Whether nothing is pinned.
    pub fn is_empty(&self) -> bool {
        self.options.is_empty() && self.keep_alive.is_none()
    }

    /// The pinned members of `options`: names, and values in JSON.
    pub fn options(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.options.iter().map(|pin| (pin.name, &*pin.json))
    }

    /// Whether a client's `options` say something that makes Ollama load a model anew, is not pinned, and is not shown of
    /// a model that is loaded (as `num_ctx` is).
    pub(super) fn leave_strange(&self, options: &[u8]) -> bool {
        const UNSEEN: [&[u8]; 5] = [b"num_batch", b"num_gpu", b"main_gpu", b"use_mmap", b"num_thread"];
        let mut strange = false;
        // It is well formed: the body around it was read already. What is no object has no members.
        let _ = json::members(options, |member| {
            let raw = &options[member.key];
            let key = if raw.contains(&b'\\') { json::unescape(raw) } else { None };
            let key = key.as_deref().map_or(raw, str::as_bytes);
            strange |= UNSEEN.contains(&key) && !self.options.iter().any(|pin| pin.name.as_bytes() == key);
        });
        strange
    }

    /// The pinned `keep_alive` in JSON.
    pub fn keep_alive(&self) -> Option<&str> {
        self.keep_alive.as_ref().map(|pin| &*pin.json)
    }

    /// The same for a request that only loads: nothing where it is zero, for Ollama then unloads.
    pub(crate) fn keep_alive_of_load(&self) -> Option<&str> {
        let stays = |pin: &&Pin| pin.value != Value::Stay(Duration::ZERO);
        self.keep_alive.as_ref().filter(stays).map(|pin| &*pin.json)
    }

    /// Says that all of them are in force, in a body that says nothing else of them.
    pub(crate) fn say(&self, adjusted: &mut Adjusted) {
        self.options.iter().chain(&self.keep_alive).for_each(|pin| pin.say(adjusted));
    }

    /// Pins what a body of Ollama's says. What the body lacks altogether goes to `missing`, each member with a comma.
    ///
    /// # Errors
    /// `options` is no object, or says a pinned option twice.
    pub(super) fn edit(
        &self,
        body: &[u8],
        options: Option<&Member>,
        keep_alive: Option<&Member>,
        (edits, missing): (&mut Edits, &mut String),
        adjusted: &mut Adjusted,
    ) -> Result<(), Failure> {
        if !self.options.is_empty() {
            self.edit_options(body, options, (edits, missing), adjusted)?;
        }
        if let Some(pin) = &self.keep_alive {
            match keep_alive {
                Some(member) if pin.is(&body[member.value.clone()], member.kind) => return Ok(()),
                Some(member) => edits.replace(member.value.clone(), Bytes::from(pin.json.clone())),
                None => insert(missing, pin.name, &pin.json),
            }
            pin.say(adjusted);
        }
        Ok(())
    }

    fn edit_options(
        &self,
        body: &[u8],
        options: Option<&Member>,
        (edits, missing): (&mut Edits, &mut String),
        adjusted: &mut Adjusted,
    ) -> Result<(), Failure> {
        let mut lacking = String::new();
        let within = match options {
            Some(member) if member.kind == Kind::Object => Some(member.value.clone()),
            Some(member) if member.kind != Kind::Null => {
                return Err(Failure::of("options", "`options` must be an object"));
            }
            _ => None,
        };
        let (found, empty) = self.found(within.as_ref().map_or(b"{}", |within| &body[within.clone()]))?;
        for (pin, found) in self.options.iter().zip(found) {
            let start = within.as_ref().map_or(0, |within| within.start);
            match found.map(|member| (start + member.value.start..start + member.value.end, member.kind)) {
                Some((value, kind)) if pin.is(&body[value.clone()], kind) => continue,
                Some((value, _)) => edits.replace(value, Bytes::from(pin.json.clone())),
                None => insert(&mut lacking, pin.name, &pin.json),
            }
            pin.say(adjusted);
        }
        if empty || within.is_none() {
            lacking.pop(); // its last comma
        }
        match (within, options) {
            _ if lacking.is_empty() => {}
            (Some(within), _) => edits.replace(within.start + 1..within.start + 1, lacking.into()),
            (None, Some(null)) => edits.replace(null.value.clone(), format!("{{{lacking}}}").into()),
            (None, None) => insert(missing, "options", &format!("{{{lacking}}}")),
        }
        Ok(())
    }

    /// Where each pinned option stands in an object, and whether nothing does.
    fn found(&self, object: &[u8]) -> Result<(Vec<Option<Member>>, bool), Failure> {
        let mut found = vec![None; self.options.len()];
        let (mut empty, mut twice) = (true, None);
        // The object is well formed: the body around it was read already.
        let _ = json::members(object, |member| {
            empty = false;
            let raw = &object[member.key.clone()];
            let key = if raw.contains(&b'\\') { json::unescape(raw) } else { None };
            let key = key.as_deref().map_or(raw, str::as_bytes);
            let Some(at) = self.options.iter().position(|pin| pin.name.as_bytes() == key) else { return };
            if found[at].replace(member).is_some() {
                twice = Some(self.options[at].name);
            }
        });
        match twice {
            Some(name) => Err(Failure::new(Code::InvalidBody, format!("`{name}` stands twice in `options`"))),
            None => Ok((found, empty)),
        }
    }
}

/// Adds a member and a comma.
pub(super) fn insert(members: &mut String, key: &str, value: &str) {
    members.extend(["\"", key, "\":", value, ","]);
}

/// A duration as Go prints it: `5m0s`, `1h0m0s`, `250ms`. Unit of what is told apart: milliseconds.
fn go_duration(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    if seconds == 0 && millis > 0 {
        return format!("{millis}ms");
    }
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let fraction = format!(".{millis:03}");
    let last = format!("{}{}s", seconds % 60, fraction.trim_end_matches('0').trim_end_matches('.'));
    match (hours, minutes) {
        (0, 0) => last,
        (0, minutes) => format!("{minutes}m{last}"),
        (hours, minutes) => format!("{hours}h{minutes}m{last}"),
    }
}

/// The nanoseconds of a Go duration that is not negative, such as `1h30m`, `300ms`, `+1.5s`; `None` of all else.
fn nanos(text: &str) -> Option<u128> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(0);
    }
    let mut sum = None;
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|char: char| !char.is_ascii_digit() && char != '.')?);
        let (unit, tail) =
            tail.split_at(tail.find(|char: char| char.is_ascii_digit() || char == '.').unwrap_or(tail.len()));
        let scale: u128 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || whole.len() > 19 || fraction.contains('.') {
            return None;
        }
        let fraction = &fraction[..fraction.len().min(12)]; // further digits are no nanoseconds, of whatever unit
        let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u128>().ok() };
        let parts = digits(fraction)? * scale / 10u128.pow(u32::try_from(fraction.len()).ok()?);
        sum = Some(sum.unwrap_or(0) + digits(whole)? * scale + parts);
        rest = tail;
    }
    sum
}

#[cfg(test)]
mod tests {
    use tutti_api::{HumanDuration, RunnerSpec};

    use super::*;

    fn pins(runner: RunnerSpec, keep_alive: KeepAlive) -> Pins {
        Pins::of(&PoolSpec { runner: Some(runner), keep_alive, ..PoolSpec::default() })
    }

    #[test]
    fn nothing_is_pinned_that_nobody_wrote() {
        assert!(Pins::of(&PoolSpec::default()).is_empty());
        assert!(pins(RunnerSpec::default(), KeepAlive::Client).is_empty());
        let runner =
            RunnerSpec { num_ctx: Some(8192), num_gpu: Some(-1), use_mmap: Some(false), ..RunnerSpec::default() };
        let pins = pins(runner, KeepAlive::For(HumanDuration::from_secs(300)));
        assert_eq!(pins.options().collect::<Vec<_>>(), [("num_ctx", "8192"), ("num_gpu", "-1"), ("use_mmap", "false")]);
        assert_eq!((pins.keep_alive(), pins.keep_alive_of_load()), (Some("\"5m0s\""), Some("\"5m0s\"")));
    }

    #[test]
    fn a_load_is_told_of_no_stay_that_would_unload() {
        let stay = |stay| pins(RunnerSpec::default(), stay);
        let none = stay(KeepAlive::For(HumanDuration::from_secs(0)));
        assert_eq!((none.keep_alive(), none.keep_alive_of_load()), (Some("\"0s\""), None));
        assert_eq!(stay(KeepAlive::Client).keep_alive_of_load(), None);
    }

    #[test]
    fn durations_are_written_as_go_writes_them_and_read_as_it_reads_them() {
        for (millis, text) in [
            (0, "0s"),
            (250, "250ms"),
            (1_500, "1.5s"),
            (90_010, "1m30.01s"),
            (300_000, "5m0s"),
            (3_600_000, "1h0m0s"),
            (360_061_000, "100h1m1s"),
        ] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
            assert_eq!(nanos(text), Some(u128::from(millis) * 1_000_000), "{text}");
        }
        for (text, expected) in
            [("1.5m", 90_000_000_000), ("1h1m", 3_660_000_000_000), (".5s", 500_000_000), ("+1us", 1_000)]
        {
            assert_eq!(nanos(text), Some(expected), "{text}");
        }
        for text in ["", "5", "-5m", "5 m", "m", ".s", "1..5s", "5x", "99999999999999999999s", "1m2"] {
            assert_eq!(nanos(text), None, "{text}");
        }
    }

    #[test]
    fn a_value_that_is_the_pinned_one_is_left() {
        let is = |value, text: &str, kind| Pin::new("x", value).is(text.as_bytes(), kind);
        for text in ["8192", "8192.9", "8.192e3"] {
            assert!(is(Value::Number(8192), text, Kind::Number), "{text}");
        }
        assert!(!is(Value::Number(8192), "8193", Kind::Number));
        assert!(!is(Value::Number(8192), "\"8192\"", Kind::String));
        assert!(!is(Value::Number(0), "null", Kind::Null));
        assert!(is(Value::Bool(true), "true", Kind::True) && !is(Value::Bool(true), "false", Kind::False));
        let five = Value::Stay(Duration::from_secs(300));
        for (text, kind) in
            [("300", Kind::Number), ("300.7", Kind::Number), ("\"5m\"", Kind::String), ("\"300s\"", Kind::String)]
        {
            assert!(is(five, text, kind), "{text}");
        }
        for (text, kind) in
            [("-1", Kind::Number), ("\"300\"", Kind::String), ("null", Kind::Null), ("301", Kind::Number)]
        {
            assert!(!is(five, text, kind), "{text}");
        }
    }
}
