//! What of a request was changed or left out on its way to the replica, for `x-tutti-adjusted`.

use std::borrow::Cow;

use http::HeaderValue;
use smallvec::SmallVec;

/// Each once, in the order in which it was met. All of it is from the configuration or from the gateway itself, never a
/// client's own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Adjusted(SmallVec<[Cow<'static, str>; 4]>);

impl Adjusted {
    /// Notes a field that was left out.
    pub(crate) fn left_out(&mut self, field: &'static str) {
        if !self.0.iter().any(|known| known == field) {
            self.0.push(Cow::Borrowed(field));
        }
    }

    /// Notes a field that has this value now.
    pub(crate) fn set(&mut self, field: &str, value: &str) {
        self.0.push(Cow::Owned(format!("{field}={value}")));
    }

    /// The header's value, with commas between them: `num_ctx=8192` for what was changed, `user` for what was left out;
    /// `None` where nothing was adjusted.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        if self.0.is_empty() { None } else { HeaderValue::try_from(self.0.join(", ")).ok() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_each_once() {
        let mut adjusted = Adjusted::default();
        assert_eq!(adjusted.header(), None);
        adjusted.left_out("user");
        adjusted.set("num_ctx", "8192");
        adjusted.left_out("user");
        assert_eq!(adjusted.header().unwrap(), "user, num_ctx=8192");
    }
}
