//! What an object store's answers mean.

use std::error::Error;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::source::error::{SourceError, Trouble};

/// Longest error's name that is passed on. Unit: characters.
const MAX_CODE: usize = 64;

/// What an error means. Of what the store said only the error's one-word name is kept: its sentences may hold anything.
pub(super) fn error<E>(error: &SdkError<E, HttpResponse>, place: String, endpoint: &str) -> SourceError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let known = |trouble, detail: String| SourceError::new(trouble, place.clone(), detail);
    if let Some(why) = no_credentials(error) {
        return known(Trouble::Credentials, why);
    }
    match error {
        SdkError::TimeoutError(_) => known(Trouble::Unreachable, format!("{endpoint} does not answer in time")),
        SdkError::DispatchFailure(failure) if failure.is_timeout() => {
            known(Trouble::Unreachable, format!("{endpoint} does not answer in time"))
        }
        SdkError::DispatchFailure(failure) => {
            let why = failure.as_connector_error().map_or_else(|| "no connection".to_owned(), |error| root(error));
            known(Trouble::Unreachable, format!("{endpoint}: {why}"))
        }
        SdkError::ResponseError(_) => known(Trouble::Cut, format!("{endpoint} sent what is no answer")),
        SdkError::ServiceError(service) => {
            let (status, headers) = (service.raw().status().as_u16(), service.raw().headers());
            let code = word(service.err().code().unwrap_or_default());
            let trouble = trouble(status, &code);
            let date = headers.get("date").filter(|_| trouble == Trouble::ClockSkew);
            let region = headers.get("x-amz-bucket-region").filter(|_| trouble == Trouble::Region);
            let more = date.map(|date| format!(", its clock says {}", plain(date)));
            let more = more.or_else(|| region.map(|region| format!(", it is in {}", plain(region))));
            let code = if code.is_empty() { String::new() } else { format!(" {code}") };
            known(trouble, format!("{endpoint} answers {status}{code}{}", more.unwrap_or_default()))
        }
        _ => known(Trouble::Other, "the question cannot be asked".to_owned()),
    }
}

/// What a status and an error's name mean.
pub(super) fn trouble(status: u16, code: &str) -> Trouble {
    match code {
        "NoSuchBucket" => Trouble::NoBucket,
        "NoSuchKey" | "NoSuchVersion" => Trouble::NotFound,
        "PreconditionFailed" | "ConditionalRequestConflict" => Trouble::Replaced,
        "InvalidRange" => Trouble::Replaced,
        "RequestTimeTooSkewed" => Trouble::ClockSkew,
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => Trouble::Expired,
        "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "InvalidToken"
        | "InvalidTokenId"
        | "InvalidSecurity"
        | "AuthFailure"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "XMinioInvalidAccessKey" => Trouble::Credentials,
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => Trouble::Region,
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "ServiceUnavailable"
        | "InternalError"
        | "RequestTimeout"
        | "OperationTimedOut"
        | "ThrottlingException"
        | "XMinioServerNotInitialized" => Trouble::Busy,
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" => Trouble::Forbidden,
        _ => match status {
            301 | 307 | 308 => Trouble::Region,
            401 | 403 => Trouble::Forbidden,
            404 => Trouble::NotFound,
            409 | 412 => Trouble::Replaced,
            408 | 429 | 500..=599 => Trouble::Busy,
            _ => Trouble::Other,
        },
    }
}

/// Why there are no credentials, where that is what went wrong.
fn no_credentials(error: &(dyn Error + 'static)) -> Option<String> {
    let own = causes(error).find_map(|error| error.downcast_ref::<CredentialsError>())?;
    Some(match own {
        CredentialsError::CredentialsNotLoaded(_) => "none were found".to_owned(),
        CredentialsError::ProviderTimedOut(_) => "whoever gives them out does not answer".to_owned(),
        CredentialsError::InvalidConfiguration(_) => "the file they are in, or what names it, is not right".to_owned(),
        _ => "whoever gives them out refuses, or the file they are in cannot be read".to_owned(),
    })
}

/// The innermost cause: the sentences around it say that something failed, and this one says what.
pub(super) fn root(error: &(dyn Error + 'static)) -> String {
    let innermost = causes(error).last();
    innermost.map(|error| plain(&error.to_string())).unwrap_or_default()
}

/// An error, what it came of, and so on.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// A text without what a terminal would obey, cut.
fn plain(text: &str) -> String {
    const SHOWN: usize = 200;
    text.chars().filter(|char| !char.is_control()).take(SHOWN).collect()
}

/// An error's name: a word, or nothing.
fn word(code: &str) -> String {
    let is_word = code.len() <= MAX_CODE && code.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
    if is_word { code.to_owned() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_name_goes_by_its_status() {
        assert_eq!(trouble(503, "SlowDown"), Trouble::Busy);
        assert_eq!(trouble(503, ""), Trouble::Busy);
        assert_eq!(trouble(404, "NoSuchBucket"), Trouble::NoBucket);
        assert_eq!(trouble(404, ""), Trouble::NotFound);
        assert_eq!(trouble(412, ""), Trouble::Replaced);
        assert_eq!(trouble(403, "RequestTimeTooSkewed"), Trouble::ClockSkew);
        assert_eq!(trouble(418, "Teapot"), Trouble::Other);
    }

    #[test]
    fn only_a_word_is_passed_on() {
        assert_eq!(word("NoSuchKey"), "NoSuchKey");
        assert_eq!(word("AKIA secret"), "");
        assert_eq!(word(&"a".repeat(65)), "");
        assert_eq!(plain("a\u{1b}[2Jb"), "a[2Jb");
    }
}
