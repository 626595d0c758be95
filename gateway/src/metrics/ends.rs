//! How requests end, as labels say it: a bounded list, whatever replicas answer.

use std::sync::LazyLock;

use crate::errors::Code;
use crate::record::{Outcome, Record};

/// Statuses of replicas that are told apart.
const STATUSES: [u16; 16] = [400, 401, 403, 404, 405, 408, 409, 413, 422, 429, 499, 500, 501, 502, 503, 504];

const OK: usize = Code::ALL.len();
const CANCELLED: usize = OK + 1;
const REPLICA: usize = CANCELLED + 1;
const REPLICA_4XX: usize = REPLICA + STATUSES.len();
const REPLICA_5XX: usize = REPLICA_4XX + 1;
/// How many ends there are.
pub(super) const ENDS: usize = REPLICA_5XX + 1;

/// What labels say of an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) code: &'static str,
    /// Of an error.
    pub(super) status: String,
    /// OpenTelemetry's `error.type`.
    pub(super) error: String,
}

/// The end of a request, by its place in [`ALL`].
pub(super) fn end_of(record: &Record) -> usize {
    match record.outcome() {
        Outcome::Failed(code) => code as usize,
        Outcome::Ok => OK,
        Outcome::Cancelled => CANCELLED,
        Outcome::ReplicaError => replica(record.status),
    }
}

fn replica(status: u16) -> usize {
    match STATUSES.binary_search(&status) {
        Ok(at) => REPLICA + at,
        Err(_) if status < 500 => REPLICA_4XX,
        Err(_) => REPLICA_5XX,
    }
}

/// Every end, in order.
pub(super) static ALL: LazyLock<[End; ENDS]> = LazyLock::new(|| {
    std::array::from_fn(|end| match end {
        OK => End { code: "ok", status: String::new(), error: String::new() },
        CANCELLED => End { code: "cancelled", status: String::new(), error: "cancelled".to_owned() },
        REPLICA_4XX => of_replica("4xx"),
        REPLICA_5XX => of_replica("5xx"),
        REPLICA.. => of_replica(&STATUSES[end - REPLICA].to_string()),
        _ => {
            let row = Code::ALL[end].row();
            End { code: row.name, status: row.status.to_string(), error: row.name.to_owned() }
        }
    })
});

fn of_replica(status: &str) -> End {
    End { code: "replica_error", status: status.to_owned(), error: status.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_and_every_status_has_its_end() {
        assert!(STATUSES.is_sorted());
        for code in Code::ALL {
            let end = &ALL[*code as usize];
            assert_eq!((end.code, &*end.status), (code.row().name, &*code.row().status.to_string()));
        }
        for (status, said) in [(400, "400"), (418, "4xx"), (500, "500"), (503, "503"), (504, "504"), (599, "5xx")] {
            assert_eq!((ALL[replica(status)].code, &*ALL[replica(status)].status), ("replica_error", said));
        }
        assert_eq!((ALL[OK].code, &*ALL[OK].error), ("ok", ""));
    }
}
