//! Credentials for the token of a web identity, as AWS's tools take one from the environment.
//!
//! The library's own provider refuses answers in which the role has no name, and MinIO's STS names none.

use std::path::PathBuf;
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_credential_types::provider::{Result, error::CredentialsError};
use aws_sdk_sts::Client;
use aws_sdk_sts::config::Builder;

/// What the session is called where the environment does not say.
const SESSION: &str = "tutti";

/// Who gives credentials for the token in a file.
pub(super) struct WebIdentity {
    token: PathBuf,
    role: String,
    session: String,
    client: Client,
}

impl WebIdentity {
    /// The one that the environment names: a token's file and a role, and no key, which comes first.
    pub(super) fn of_environment(config: Builder) -> Option<Self> {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if set("AWS_ACCESS_KEY_ID").is_some() {
            return None;
        }
        let (token, role) = set("AWS_WEB_IDENTITY_TOKEN_FILE").zip(set("AWS_ROLE_ARN"))?;
        let session = set("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| SESSION.to_owned());
        let mut config = config;
        config.set_endpoint_url(set("AWS_ENDPOINT_URL_STS").or_else(|| set("AWS_ENDPOINT_URL")));
        Some(Self::of(token.into(), &role, &session, config))
    }

    /// The token in this file, for this role.
    pub(super) fn of(token: PathBuf, role: &str, session: &str, config: Builder) -> Self {
        Self { token, role: role.to_owned(), session: session.to_owned(), client: Client::from_conf(config.build()) }
    }

    /// Asks for credentials, by the token that the file has now.
    pub(super) async fn ask(&self) -> Result {
        let token = std::fs::read_to_string(&self.token).map_err(CredentialsError::provider_error)?;
        let ask = self.client.assume_role_with_web_identity();
        let ask = ask.role_arn(&self.role).role_session_name(&self.session).web_identity_token(token.trim());
        let answer = ask.send().await.map_err(CredentialsError::provider_error)?;
        let given = answer.credentials().ok_or_else(|| CredentialsError::provider_error("the answer has none"))?;
        let end = SystemTime::try_from(*given.expiration()).map_err(CredentialsError::provider_error)?;
        let (id, secret) = (given.access_key_id(), given.secret_access_key());
        Ok(Credentials::new(id, secret, Some(given.session_token().to_owned()), Some(end), "WebIdentity"))
    }
}
