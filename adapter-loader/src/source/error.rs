//! What can be wrong with a source, in words for people and for programs. Never a credential: nothing that the other side
//! said is passed on but its error's one-word name.

use std::fmt;

use tutti_api::Reason;

/// What went wrong with a source, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceError {
    pub(crate) trouble: Trouble,
    /// What was being reached: `s3://bucket/key` or a path.
    pub(crate) place: String,
    /// What is known beyond that, in words; may be empty.
    pub(crate) detail: String,
}

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// Nobody answers at the address, or not in time, or not who should.
    Unreachable,
    /// It answers that it cannot just now.
    Busy,
    /// An answer broke off.
    Cut,
    /// There are no credentials, or they are not taken.
    Credentials,
    /// The credentials are over.
    Expired,
    /// Who has the credentials may not do this.
    Forbidden,
    /// This machine's clock and the store's are too far apart.
    ClockSkew,
    /// There is no such bucket, or folder.
    NoBucket,
    /// The bucket is in another region.
    Region,
    /// There is nothing at this place.
    NotFound,
    /// What is there is not what was listed any more.
    Replaced,
    /// There is already something at this place.
    Exists,
    /// A key that no plain file can have.
    OddKey,
    /// More objects than are looked at.
    TooMany,
    /// More bytes than are read.
    TooLarge,
    /// What the configuration says of the source is not right.
    Configuration,
    /// Anything else.
    Other,
}

impl SourceError {
    pub(crate) fn new(trouble: Trouble, place: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { trouble, place: place.into(), detail: detail.into() }
    }

    /// What went wrong.
    pub fn trouble(&self) -> Trouble {
        self.trouble
    }

    /// Whether the same question may well be answered a moment later.
    pub fn is_passing(&self) -> bool {
        // A clock's distance is known once a question was refused for it; what is expired is fetched anew.
        matches!(
            self.trouble,
            Trouble::Unreachable | Trouble::Busy | Trouble::Cut | Trouble::ClockSkew | Trouble::Expired
        )
    }

    /// The reason of an adapter that this keeps from serving.
    pub fn reason(&self) -> Reason {
        match self.trouble {
            Trouble::NotFound => Reason::NotFound,
            Trouble::OddKey | Trouble::TooMany | Trouble::TooLarge => Reason::InvalidFile,
            _ => Reason::SourceUnavailable,
        }
    }
}

impl Trouble {
    /// What it means, and what to do.
    fn says(self) -> (&'static str, &'static str) {
        match self {
            Trouble::Unreachable => ("it cannot be reached", "check the endpoint and that it runs; it is tried again"),
            Trouble::Busy => ("it answers that it cannot now", "it is tried again"),
            Trouble::Cut => ("the answer broke off", "it is tried again from there"),
            Trouble::Credentials => (
                "there are no credentials that it takes",
                "check adapters.s3.credentialsFile, ~/.aws or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            ),
            Trouble::Expired => ("the credentials have expired", "renew them; they are read again with each question"),
            Trouble::Forbidden => (
                "these credentials may not do that",
                "allow them s3:ListBucket on the bucket and s3:GetObject (to push: s3:PutObject) below the prefix",
            ),
            Trouble::ClockSkew => ("this machine's clock and the object store's differ too much", "set both by NTP"),
            Trouble::NoBucket => ("there is no such bucket or folder", "check adapters.from, or make it"),
            Trouble::Region => ("the bucket is in another region", "check adapters.s3.region"),
            Trouble::NotFound => ("there is nothing", "check the path; a manifest is uploaded last"),
            Trouble::Replaced => {
                ("it is not what was listed any more", "it is listed again; a new version belongs under a new path")
            }
            Trouble::Exists => ("there is something else already", "a new version belongs under a new path"),
            Trouble::OddKey => ("an object has a name that is not taken", "rename it, or put it elsewhere"),
            Trouble::TooMany => ("there are too many objects", "an adapter is a manifest and a few files"),
            Trouble::TooLarge => ("it is larger than is read", "check what was uploaded"),
            Trouble::Configuration => ("what the configuration says of it is not right", "mend it"),
            Trouble::Other => ("it answers with an error", "see what the object store logs"),
        }
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (says, advice) = self.trouble.says();
        write!(f, "{}: {says}", self.place)?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        write!(f, ": {advice}")
    }
}

impl std::error::Error for SourceError {}
