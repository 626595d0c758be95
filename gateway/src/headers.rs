//! Every header that the gateway reads or gives, in one table; `docs/reference/headers.md` is printed from it, and a test
//! finds what the code uses and the table does not name.

/// Who gives a header to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Read from clients.
    In,
    /// Given to clients.
    Out,
    /// Read from clients, and given to them.
    Both,
    /// Sent to replicas by the gateway itself.
    Replica,
}

/// A header.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Its name, in lower case.
    pub name: &'static str,
    /// Who gives it.
    pub way: Way,
    /// What it looks like.
    pub form: &'static str,
    /// What it says, and what comes of it.
    pub about: &'static str,
}

macro_rules! headers {
    ($($way:ident $name:literal $form:literal $about:literal;)*) => {
        /// Every header.
        pub static ALL: &[Header] = &[$(Header { name: $name, way: Way::$way, form: $form, about: $about }),*];
    };
}

headers! {
    In "host" "`HOST` or `HOST:PORT`, once" "Who is asked. Without keys, a name that is neither an address nor local nor in `gateway.allowedHosts` is refused.";
    In "origin" "`SCHEME://HOST:PORT`" "Which page asks. One of another site is refused, unless its host is in `gateway.allowedHosts`.";
    In "x-tutti-model" "a model's name, once" "The model: it goes before the path's and the body's.";
    In "x-tutti-priority" "`interactive`, `normal` or `bulk`, once" "The class: in a queue a higher one goes first. `normal` where it is absent. Not above the key's `priority`; without keys any.";
    In "x-tutti-deadline-ms" "a number from 1 to 86400000, once" "How long after it came the request's answer is of use. What cannot have a slot in time, by what requests take now, is refused at once (`too_late`); what waits still when the time is over, then. Once it has a slot it goes on. Unit: milliseconds.";
    Both "x-request-id" "1 to 128 visible ASCII characters" "The request's name in the log, in the answer, and at the replica. Made where there is none, or another.";
    In "traceparent" "W3C Trace Context" "Sent on to the replica. The trace's id is in the log.";
    In "tracestate" "W3C Trace Context" "Sent on to the replica.";
    In "accept" "any" "Sent on to the replica. On `/metrics`, the format that is wanted.";
    In "authorization" "`Bearer KEY`" "The client's key, where the gateway wants keys; on the admin port, the admin token. Never sent on to a replica.";
    In "x-api-key" "a key" "The same, as Anthropic's clients send it, where there is no `authorization` with one.";
    In "api-key" "a key" "The same, as Azure's clients send it.";
    In "content-length" "a number" "Of the body; not with `transfer-encoding`.";
    In "transfer-encoding" "`chunked`" "Of the body; not with `content-length`.";
    In "access-control-request-method" "a method" "A browser asks what a page may (with OPTIONS).";
    In "access-control-request-headers" "names" "Which headers it wants to send; it may.";
    Both "content-encoding" "a coding" "A request's body must have none (`identity`); an answer's is the replica's.";
    Both "content-type" "a media type" "Of an answer; a request is read as JSON, whatever it says, and sent on as JSON.";
    Both "x-tutti-revision" "a name" "Which revision of the model answered, where it has one. In a request: which one shall, whatever the traffic; with keys, where the key's `pinRevisions` is set.";
    Out "x-tutti-replica" "8 hex digits" "Which replica answered: tells two apart, and nothing else.";
    Out "x-tutti-queue-ms" "a number" "How long the request waited for a slot. Unit: milliseconds.";
    Out "x-tutti-adjusted" "fields, with commas between them" "What of the request was changed on its way to the replica: `num_ctx=8192` has this value now, `keep_alive` was left out, for the replica's API has no such field.";
    Out "x-tutti-batch" "`callers=NUMBER` or `calls=NUMBER`" "Of embeddings: how many callers shared one call (then the tokens of `usage` are this caller's share by length, an estimate), or into how many calls the array was cut.";
    Out "x-tutti-instance" "16 hex digits" "On `/api/version`, `/v1/models` and a 401: which gateway this is, by which one knows itself.";
    Out "retry-after" "a number" "When to try again. Unit: seconds. The gateway's own, or the replica's.";
    Out "retry-after-ms" "a number" "The same in milliseconds, for OpenAI's clients.";
    Out "x-should-retry" "`true`, `false`" "Whether an error of the gateway's may pass, for OpenAI's clients.";
    Out "x-ratelimit-limit-requests" "a number" "Of a key with `requestsPerMinute`: that number.";
    Out "x-ratelimit-remaining-requests" "a number" "How many of them are left now.";
    Out "x-ratelimit-reset-requests" "a duration as `17ms`, `8.64s`, `6m0s`" "How long until all of them are there again.";
    Out "x-ratelimit-limit-tokens" "a number" "Of a key with `tokensPerMinute`: that number.";
    Out "x-ratelimit-remaining-tokens" "a number" "How many of them are left now: requests are charged when they are over.";
    Out "x-ratelimit-reset-tokens" "a duration as `17ms`, `8.64s`, `6m0s`" "How long until all of them are there again.";
    Out "allow" "methods" "Which methods a path takes, with a 405 and to OPTIONS.";
    Out "www-authenticate" "`Bearer`" "What a 401 wants.";
    Out "access-control-allow-origin" "an origin" "To a page that may ask: it may read the answer.";
    Out "access-control-allow-methods" "methods" "To a browser that asks first.";
    Out "access-control-allow-headers" "names" "To a browser that asks first.";
    Out "access-control-expose-headers" "names" "Which headers of the answer a page may read.";
    Out "access-control-max-age" "a number" "How long that holds. Unit: seconds.";
    Out "vary" "`Origin`" "That the answer depends on the page that asks.";
    Out "connection" "`close`" "Over HTTP/1.1, from a gateway that is about to end: send the next request on another connection.";
    Replica "host" "`HOST:PORT`" "The replica's own, never the client's.";
    Replica "authorization" "`Bearer KEY`" "The key in the endpoint's `apiKeyFile`, never the client's.";
}

/// `docs/reference/headers.md`, from the table.
pub fn reference_markdown() -> String {
    let mut page = String::from(
        "# Headers\n\n\
         What tutti reads of a request's headers, and what it gives beside those of HTTP itself (`date`, `transfer-encoding`, and\n\
         the like). A replica gets `accept`, `traceparent`, `tracestate` and `x-request-id` of a client's headers and no\n\
         other; a client gets `content-type`, `content-encoding` and `retry-after` of a replica's. This page is generated\n\
         from the table in `gateway/src/headers.rs`.\n",
    );
    for (title, ways) in [
        ("From clients", &[Way::In, Way::Both][..]),
        ("To clients", &[Way::Out, Way::Both]),
        ("To replicas", &[Way::Replica]),
    ] {
        page.push_str(&format!("\n## {title}\n\n| header | form | meaning |\n|---|---|---|\n"));
        for Header { name, form, about, .. } in ALL.iter().filter(|header| ways.contains(&header.way)) {
            page.push_str(&format!("| `{name}` | {form} | {about} |\n"));
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The sources of this crate.
    fn sources(folder: &Path, into: &mut Vec<String>) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            if entry.path().is_dir() {
                sources(&entry.path(), into);
            } else {
                into.push(fs::read_to_string(entry.path()).unwrap());
            }
        }
    }

    /// The headers that a source names: literals, and the constants of the crate `http`.
    fn named(source: &str) -> BTreeSet<String> {
        let after = |what: &str| source.split(what).skip(1).map(str::to_owned).collect::<Vec<_>>();
        let literals =
            after("HeaderName::from_static(\"").into_iter().filter_map(|rest| Some(rest.split('"').next()?.to_owned()));
        let constants = after("http::header::").into_iter().flat_map(|rest| {
            let list = match rest.strip_prefix('{') {
                Some(list) => list.split('}').next().unwrap_or_default().to_owned(),
                None => rest
                    .split(|char: char| !char.is_ascii_alphanumeric() && char != '_')
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
            };
            let words: Vec<String> = list.split(',').map(|word| word.trim().to_owned()).collect();
            words.into_iter().filter(|word| !word.is_empty() && !word.chars().any(|char| char.is_ascii_lowercase()))
        });
        literals.chain(constants.map(|word| word.to_ascii_lowercase().replace('_', "-"))).collect()
    }

    #[test]
    fn headers_are_found_in_sources() {
        let source = "use http::header::{\n    ALLOW, CONTENT_TYPE, HeaderName,\n};\nx(http::header::VARY);\nHeaderName::from_static(\"x-a\")";
        assert_eq!(named(source).into_iter().collect::<Vec<_>>(), ["allow", "content-type", "vary", "x-a"]);
    }

    #[test]
    fn every_header_in_the_code_stands_in_the_table() {
        let mut files = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
        let used: BTreeSet<String> =
            files.iter().flat_map(|source| named(source)).filter(|name| name != "x-a").collect();
        let told: BTreeSet<String> = ALL.iter().map(|header| header.name.to_owned()).collect();
        assert!(used.contains("x-tutti-model") && used.contains("retry-after"), "they are found: {used:?}");
        let untold: Vec<&String> = used.difference(&told).collect();
        assert!(untold.is_empty(), "gateway/src/headers.rs does not tell of {untold:?}");
        let unused: Vec<&String> = told.difference(&used).collect();
        assert!(unused.is_empty(), "nothing uses {unused:?}");
    }
}
