//! The client of an object store: its address, its certificate's authorities, its bounds in time.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_config::provider_config::ProviderConfig;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, IdentityCache, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedAsyncSleep,
    StalledStreamProtectionConfig,
};
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_async::time::{SharedTimeSource, TimeSource};
use tutti_api::S3Spec;

use super::ANSWER;
use super::authorities::http;
use super::credentials::Following;
use super::web_identity::WebIdentity;
use crate::source::error::{SourceError, Trouble};
use crate::source::{Clock, key};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// A client with its credentials, and its address for errors.
pub(super) fn open(spec: &S3Spec, clock: Clock) -> Result<(Client, Following, String), SourceError> {
    if let Some(endpoint) = &spec.endpoint {
        check_endpoint(endpoint)?;
    }
    if spec.region.is_empty() || !spec.region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Err(SourceError::new(Trouble::Configuration, "adapters.s3.region", "write one as us-east-1"));
    }
    let http = http(spec.ca_file.as_deref())?;
    let (region, sleep) = (Region::new(spec.region.clone()), SharedAsyncSleep::new(TokioSleep::new()));
    let time = SharedTimeSource::new(Told(clock.clone()));
    let timeouts = TimeoutConfig::builder().connect_timeout(CONNECT).read_timeout(ANSWER).build();
    let provider = ProviderConfig::without_region()
        .with_region(Some(region.clone()))
        .with_http_client(http.clone())
        .with_time_source(time.clone())
        .with_sleep_impl(sleep.clone())
        .with_timeout_config(timeouts.clone());
    let sts = aws_sdk_sts::Config::builder()
        .behavior_version(aws_sdk_sts::config::BehaviorVersion::v2026_01_12())
        .region(region.clone())
        .http_client(http.clone())
        .sleep_impl(sleep.clone())
        .time_source(time.clone())
        .timeout_config(timeouts.clone())
        .retry_config(RetryConfig::standard());
    let credentials = Following::new(spec, provider, WebIdentity::of_environment(sts), clock);
    // The newest behaviour is pinned by its date: an update of the library must not change what is sent.
    let mut config = aws_sdk_s3::Config::builder().behavior_version(BehaviorVersion::v2026_01_12());
    config.set_endpoint_url(spec.endpoint.clone());
    let config = config
        .region(region)
        .force_path_style(spec.path_style.unwrap_or(spec.endpoint.is_some()))
        .http_client(http)
        .sleep_impl(sleep)
        .time_source(time)
        .timeout_config(timeouts)
        // `fetch` asks again by its own rules, and from where it was cut.
        .retry_config(RetryConfig::disabled())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        // Whatever came is judged by its SHA-256; stores other than AWS do not know the others.
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .identity_cache(IdentityCache::no_cache())
        .credentials_provider(credentials.clone())
        .build();
    let endpoint = spec.endpoint.clone().unwrap_or_else(|| format!("AWS in {}", spec.region));
    Ok((Client::from_conf(config), credentials, endpoint))
}

fn check_endpoint(endpoint: &str) -> Result<(), SourceError> {
    let wrong = |detail| {
        let plain = if endpoint.contains('@') { "adapters.s3.endpoint" } else { endpoint };
        Err(SourceError::new(Trouble::Configuration, key::shown(plain), detail))
    };
    let Ok(url) = endpoint.parse::<http::Uri>() else { return wrong("write https://host:port") };
    let Some(authority) = url.authority().filter(|_| matches!(url.scheme_str(), Some("http" | "https"))) else {
        return wrong("write https://host:port");
    };
    if authority.as_str().contains('@') {
        return wrong("no name or password belongs there: write them into adapters.s3.credentialsFile");
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() {
        return wrong("write https://host:port, and the bucket in adapters.from");
    }
    Ok(())
}

/// A [`Clock`] as the client wants it.
struct Told(Clock);

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Told")
    }
}

impl TimeSource for Told {
    fn now(&self) -> SystemTime {
        (self.0)()
    }
}
