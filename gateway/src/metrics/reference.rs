//! `docs/reference/metrics.md`, from the table.

use super::family::{ALL, Kind, Metric};
use super::sets::SHOWN;
use crate::limits;

/// The page.
pub fn reference_markdown() -> String {
    let mut page = format!(
        "# Metrics\n\n\
         `GET /metrics` on the ops port (`gateway.ops`), without a token. A scraper that asks for it gets OpenMetrics\n\
         1.0.0, any other the plain text format 0.0.4. This page is generated from the table in\n\
         `gateway/src/metrics/family.rs`.\n\n\
         - What begins with `gen_ai_` follows OpenTelemetry's conventions for generative AI, in their Prometheus form:\n\
         \u{20} `gen_ai.server.request.duration` in seconds is `gen_ai_server_request_duration_seconds`, with the buckets that\n\
         \u{20} they advise. `gen_ai.response.model` and `server.address` are left out: `revision` and the scraper's `instance`\n\
         \u{20} say it.\n\
         - A label is a configured or discovered name, an API or a code, never what a client wrote. A label without a value\n\
         \u{20} is absent. Beyond `gateway.limits.labelValues` tenants, and as many models that only replicas name, the rest are\n\
         \u{20} counted together under `(other)`.\n\
         - What names a model, pool or tenant that is gone is shown for {} minutes more. Counters begin at 0 when tutti\n\
         \u{20} starts, and where a name comes back later than that.\n\n\
         | metric | type | unit | labels | what it says |\n|---|---|---|---|---|\n",
        SHOWN.as_secs() / 60
    );
    for metric in ALL {
        page.push_str(&row(metric));
    }
    page.push_str(
        "\n## Limits\n\nThe label `limit` of `tutti_limit_hits_total`.\n\n| limit | who is counted |\n|---|---|\n",
    );
    for (name, about) in limits::ALL {
        page.push_str(&format!("| `{name}` | {about} |\n"));
    }
    page
}

fn row(metric: &Metric) -> String {
    let kind = match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
        Kind::Info => "info",
    };
    let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
    format!("| `{}` | {kind} | {} | {} | {} |\n", metric.sample(), metric.unit, labels.join(", "), metric.help)
}
