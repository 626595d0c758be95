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
    QUEUE_TIME Histogram "tutti_queue_time_seconds" "seconds" ["model" "revision" "pool" "operation" "class"]
        "Time waited for a slot, also by those that got none. class: interactive, normal, bulk";
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
    LOADER_UP Gauge "tutti_replica_loader_up" "" ["pool" "replica"]
        "1 where the loader beside the replica answered the last time; absent where none is named. While it is 0, what was ready serves on";
    ADAPTERS Gauge "tutti_replica_adapters" "" ["pool" "replica" "phase"]
        "Adapters on the replica by how far they are, as its loader last told this gateway. phase: Pending, Fetching, Verifying, Converting, Registering, Probing, Ready, Quarantined, Retiring; those in which there are none are left out";
    PROOFS Counter "tutti_adapter_probes" "" ["pool" "outcome"]
        "Probes of adapters that this gateway ran on replicas that serve, within adapters.probeShare. outcome: answered, failed (the replica refused, or did not answer; the loader has heard), no_turn (requests could not be held back for so long), unwanted (the loader waits for it no more, or does not answer)";
    RETRIES_REFUSED Counter "tutti_retry_budget_exhausted" "" ["pool"]
        "Requests that were not sent again because the pool's retries.budget was used up";
    LOADS Counter "tutti_weights_loads" "" ["pool" "outcome"]
        "Loads of weights that replicas were asked for on behalf of those who waited, where several groups share a runner. outcome: loaded, failed; unasked, one that no gateway had asked for: a request had waited for weights that were taken to be there, as an Ollama tells by its own API";
    LOAD_SECONDS Counter "tutti_weights_load_seconds" "seconds" ["pool"]
        "Time that replicas took to load weights, asked for or not";
    FORWARDED Counter "tutti_forwarded_requests" "" ["direction" "outcome"]
        "Requests between gateways; each is counted in tutti_requests by the one that holds its client, and there alone. direction: out, offered to the gateway that schedules the pool; in, offered by another. outcome: dispatched (it got a slot and was sent), moved (the pool is another's by now, so it was offered anew), unknown (the other does not know the model, so it was scheduled where its client is), refused (it ended with an error before it had a slot), unreached (the other was not reached, or was lost before that: offered anew), misdirected (scheduled by a gateway that did not hold the pool, for it had come round too far). Absent in a lone gateway";
    PEERS Gauge "tutti_peers" "" ["reach"]
        "Other gateways that are there. reach: direct, or through_another, which this one does not reach itself. Absent in a lone gateway";
    POOL_OWNED Gauge "tutti_pool_owned" "" ["pool"]
        "1 where this gateway schedules the pool. Absent in a lone gateway, and of pools that every gateway schedules for itself";
    POOL_EPOCH Gauge "tutti_pool_epoch" "" ["pool"]
        "The number of the ownership of the pool that this gateway last heard of: higher with each change";
    POOL_CONFLICTS Counter "tutti_pool_conflicts" "" []
        "How often this gateway found that it and another schedule a pool, as after a split: one of them yields. Absent in a lone gateway";
    PEER_CERTIFICATE_EXPIRY Gauge "tutti_peer_certificate_expiry_timestamp_seconds" "seconds" []
        "When the first certificate of the chain that this gateway shows to others expires, in Unix time; absent in a lone gateway";
    PEER_CERTIFICATE_OK Gauge "tutti_peer_certificate_last_reload_successful" "" []
        "1 where the last change of the files for other gateways was taken up; absent in a lone gateway";
    BATCH_SIZE Histogram "tutti_batch_size" "" ["pool"]
        "Texts in a call for embeddings that replicas answered well; of a call for several callers, of all of them";
    BATCH_SHARED Counter "tutti_batch_shared_requests" "" ["pool"]
        "Requests for embeddings that left in one call with others";
    BATCH_PIECES Counter "tutti_batch_pieces" "" ["pool"]
        "Calls that arrays for embeddings were cut into";
    BATCH_HALVED Counter "tutti_batch_halved" "" ["pool"]
        "Calls for several callers that failed and were made again for each half of them";
    LOADS_AVOIDED Counter "tutti_weights_loads_avoided" "" ["pool"]
        "Requests that needed no load of their own: one before them had brought the weights";
    LATE_GROUPS Counter "tutti_late_groups" "" ["pool"]
        "Groups that had waited for longer than batching.maxWait when they were loaded";
    TOO_LATE Counter "tutti_requests_too_late" "" ["pool"]
        "Requests that were refused because they would have come too late";
    BATCH Histogram "tutti_load_batch_size" "" ["pool"]
        "Requests that a load of weights has served, once others had their turn";
    REVISION_WEIGHT Gauge "tutti_revision_weight" "" ["model" "revision" "pool"]
        "The share of a model's requests that a revision gets, from 0 to 1, as this gateway goes by it; of models with several revisions. What it got is in tutti_requests, by revision";
    MIRRORED Counter "tutti_mirrored_requests" "" ["model" "revision" "pool" "outcome"]
        "Copies of requests for the revision that is mirrored to; each is counted by the gateway that schedules its pool. outcome: sent (the replica has answered, well or not), cut (it was sent, and somebody came to want its slot), busy (dropped: no slot that nobody wants), no_room (dropped: gateway.limits.bufferedBodies), unreached (dropped: the gateway that schedules the pool did not take it), unheard (sent to that gateway, whose word of it was lost: where it has taken it, it is counted there too)";
    TRAFFIC_GENERATION Gauge "tutti_traffic_generation" "" ["model"]
        "The generation of the driver's word that this gateway goes by; 0: by its configuration. Lower than tutti_release_generation: it has not heard the last one";
    TRAFFIC_OVERRIDDEN Gauge "tutti_traffic_overridden" "" ["model"]
        "1 where a model's traffic is not as its stanza has it: somebody, or an analysis, decided otherwise";
    RELEASE_GENERATION Gauge "tutti_release_generation" "" ["model"]
        "The generation of what was last decided of a model's traffic; of the driver: a lone gateway, or scaler-metrics with --drive";
    RELEASE_STEP Gauge "tutti_release_step" "" ["model" "candidate"]
        "How far a change is, of the driver: the number of the canary's step, from 1, and one more than there are while analysis goes on; of blue-green, 1 while the candidate is prepared, 2 while it is looked at. Absent while there is no change";
    RELEASE_PAUSED Gauge "tutti_release_paused" "" ["model"]
        "1 where a change is at a pause, waits for somebody to decide, has no replica left or is frozen; of the driver";
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
