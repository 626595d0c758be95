//! Every metric there is, in one table: the page is printed by it, and `docs/reference/metrics.md` from it.

/// What a metric counts or measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises; its samples end in `_total`.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Values by size; its samples end in `_bucket`, `_sum` and `_count`.
    Histogram,
    /// Says something in its labels; its samples end in `_info`, and are 1.
    Info,
}

/// A metric.
#[derive(Debug)]
pub struct Metric {
    /// Its name, without what its kind adds.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it counts in; empty where it counts requests or the like.
    pub unit: &'static str,
    /// The names of its labels, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// What it says, and to whom it matters.
    pub help: &'static str,
}

impl Metric {
    /// The name that its samples have, or, of a histogram, begin with.
    pub fn sample(&self) -> String {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        [self.name, suffix].concat()
    }
}

macro_rules! metrics {
    ($($id:ident $kind:ident $name:literal $unit:literal [$($label:literal)*] $help:literal;)*) => {
        $(pub(crate) static $id: Metric = Metric {
            name: $name, kind: Kind::$kind, unit: $unit, labels: &[$($label),*], help: $help,
        };)*

        /// Every metric.
        pub static ALL: &[&Metric] = &[$(&$id),*];
    };
}

metrics! {
    REQUESTS Counter "tutti_requests" "" ["model" "revision" "pool" "api" "tenant" "code" "status"]
        "Requests that are over, by how they ended. code: ok, cancelled (the client left), replica_error (the replica's own error status), or a code of the error table. status: of an error, in the table or the replica's own";
    CANCELLED Counter "tutti_requests_cancelled" "" ["model" "revision" "pool" "api" "tenant" "phase"]
        "Requests whose client left before the end. phase: reading (the body was arriving), queued, waiting (the replica had not answered), answering";
    RETRIES Counter "tutti_retries" "" ["model" "revision" "pool" "api" "tenant"]
        "Requests sent again after a replica could not be reached or was busy";
    INPUT_TOKENS Counter "tutti_input_tokens" "tokens" ["model" "revision" "pool" "api" "tenant"]
        "Tokens of prompts, as the replicas counted them; 0 where a stream does not say";
    CACHED_TOKENS Counter "tutti_cached_input_tokens" "tokens" ["model" "revision" "pool" "api" "tenant"]
        "Tokens of prompts that the replica had in memory from before, where it says so (Ollama does not); they are among the input's";
    OUTPUT_TOKENS Counter "tutti_output_tokens" "tokens" ["model" "revision" "pool" "api" "tenant"]
        "Tokens of answers, as the replicas counted them; an event a token where a stream does not say";
    QUEUE_TIME Histogram "tutti_queue_time_seconds" "seconds" ["model" "revision" "pool" "operation"]
        "Time waited for a slot, also by those that got none";
    DURATION Histogram "gen_ai_server_request_duration_seconds" "seconds"
        ["gen_ai_operation_name" "gen_ai_provider_name" "gen_ai_request_model" "revision" "pool" "error_type"]
        "From the head of a request to its settlement. error_type: as code of tutti_requests, but a replica's own error status is itself; absent of what ended well";
    FIRST_TOKEN Histogram "gen_ai_server_time_to_first_token_seconds" "seconds"
        ["gen_ai_operation_name" "gen_ai_provider_name" "gen_ai_request_model" "revision" "pool"]
        "From the head of a request to the first byte of its stream, where a replica answered it well; other answers have none";
    PER_TOKEN Histogram "gen_ai_server_time_per_output_token_seconds" "seconds"
        ["gen_ai_operation_name" "gen_ai_provider_name" "gen_ai_request_model" "revision" "pool"]
        "Time after a stream's first byte, over the tokens after the first; of whole streams of two tokens or more";
    TOKENS Histogram "gen_ai_client_token_usage" ""
        ["gen_ai_operation_name" "gen_ai_provider_name" "gen_ai_request_model" "revision" "pool" "gen_ai_token_type"]
        "Tokens of a request's prompt (input) and answer (output), where the replica counted them; of the answer, an event a token where a stream does not say";
    QUEUED Gauge "tutti_requests_queued" "" ["pool"]
        "Requests that wait for a slot";
    IN_FLIGHT Gauge "tutti_requests_in_flight" "" ["pool" "replica"]
        "Requests that a replica works on";
    REACHABLE Gauge "tutti_replica_reachable" "" ["pool" "replica"]
        "1 where the replica could be reached the last time";
    EJECTED Gauge "tutti_replica_ejected" "" ["pool" "replica"]
        "1 where the whole replica is ejected, so that others go before it";
    MODELS_EJECTED Gauge "tutti_replica_ejected_models" "" ["pool" "replica"]
        "Models that are ejected on the replica, each by itself";
    DRAINED Gauge "tutti_replica_drained" "" ["pool" "replica"]
        "1 where the replica was taken out of service by hand: it gets nothing new";
    EJECTIONS Counter "tutti_ejections" "" ["pool" "cause"]
        "How often a replica, or one model on it, was ejected, so that others go before it. cause: busy (503 or 429), closed, silent (for too long), probe (no token for the gateway's own request), error (another 5xx, as of a model that does not load), missing (404), denied (it does not take the gateway's key, 401)";
    PROBES Counter "tutti_probes" "" ["pool" "outcome"]
        "Requests of the gateway's own for one token of a replica that was silent. outcome: answered, silent, failed, skipped (nothing to ask for is in its memory, or no slot is free)";
    RETRIES_REFUSED Counter "tutti_retry_budget_exhausted" "" ["pool"]
        "Requests that were not sent again because the pool's retries.budget was used up";
    LOADS Counter "tutti_weights_loads" "" ["pool" "outcome"]
        "Loads of weights that replicas were asked for on behalf of those who waited, where several groups share a runner. outcome: loaded, failed";
    LOAD_SECONDS Counter "tutti_weights_load_seconds" "seconds" ["pool"]
        "Time that replicas took to load weights that they were asked for";
    DISCOVERED Gauge "tutti_discovery_endpoints" "" ["kind" "name"]
        "Addresses of a name (kind dns) or replicas in a file (kind file) that are known. Of a name that a url holds: where its one replica may be reached";
    DISCOVERY_FAILING Gauge "tutti_discovery_failing" "" ["kind" "name"]
        "1 where the name could not be asked for, or the file not be read, the last time: what was known stays";
    DISCOVERY_FAILURES Counter "tutti_discovery_failures" "" ["kind" "name"]
        "How often that happened";
    DISCOVERY_AT Gauge "tutti_discovery_last_success_timestamp_seconds" "seconds" ["kind" "name"]
        "When the name was last answered for, or the file last taken up, in Unix time; 0 before the first time";
    READY Gauge "tutti_ready" "" []
        "1 while new work should come: what /readyz says";
    CONNECTIONS Gauge "tutti_connections" "" []
        "Connections of clients that are open";
    HEADS_REFUSED Counter "tutti_heads_refused" "" []
        "Heads of requests that were no HTTP or longer than gateway.limits.header; no request, so neither in the log nor in tutti_requests";
    HANDSHAKES_FAILED Counter "tutti_tls_handshakes_failed" "" []
        "TLS handshakes of clients that came to nothing";
    CERTIFICATE_EXPIRY Gauge "tutti_tls_certificate_expiry_timestamp_seconds" "seconds" []
        "When the first certificate of the chain in force expires, in Unix time; absent without TLS";
    CERTIFICATE_OK Gauge "tutti_tls_last_reload_successful" "" []
        "1 where the last change of the certificate's files was taken up; absent without TLS";
    CERTIFICATE_AT Gauge "tutti_tls_last_reload_timestamp_seconds" "seconds" []
        "When the certificate's files last changed or were refused, in Unix time; absent without TLS";
    BODY_BYTES Gauge "tutti_buffered_body_bytes" "bytes" []
        "Bytes of request bodies and of whole answers in memory";
    LIMIT_HITS Counter "tutti_limit_hits" "" ["limit"]
        "Who ran into a limit, by the limit (below)";
    LOG_DROPPED Counter "tutti_log_lines_dropped" "" []
        "Log lines that could not be written in time, or at all";
    GENERATION Gauge "tutti_config_generation" "" []
        "The generation of the table in force";
    RELOAD_OK Gauge "tutti_config_last_reload_successful" "" []
        "1 where the last change of the configuration was taken up";
    RELOAD_AT Gauge "tutti_config_last_reload_timestamp_seconds" "seconds" []
        "When the configuration last changed or was refused, in Unix time";
    KEYS Gauge "tutti_keys" "" ["state"]
        "Keys in the keys file; absent without one. state: active, expired, revoked";
    KEYS_OK Gauge "tutti_keys_last_reload_successful" "" []
        "1 where the last change of the keys file was taken up; absent without one";
    KEYS_AT Gauge "tutti_keys_last_reload_timestamp_seconds" "seconds" []
        "When the keys file last changed or was refused, in Unix time; absent without one";
    BUILD Info "tutti_build" "" ["version"]
        "Which tutti this is";
    CPU Counter "process_cpu_seconds" "seconds" []
        "Time on processors, the kernel's for the process included";
    RESIDENT Gauge "process_resident_memory_bytes" "bytes" []
        "Memory of the process that is in RAM";
    OPEN_FILES Gauge "process_open_fds" "" []
        "Files, sockets among them, that the process has open";
    MOST_FILES Gauge "process_max_fds" "" []
        "Files that it may have open";
    STARTED Gauge "process_start_time_seconds" "seconds" []
        "When the process began, in Unix time";
}
