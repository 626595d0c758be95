//! What a client asks for, apart from how its API says it: all that both APIs can say, and nothing else.
//!
//! Texts are slices of the body that was read, wherever they hold no escapes. Numbers stay as they were written, and so
//! do schemas and arguments, which are JSON in both APIs.

use std::borrow::Cow;

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Request<'a> {
    /// The next turn of a conversation.
    Chat(Chat<'a>),
    /// What follows one prompt, which the replica puts into the model's template.
    Prompt(Prompt<'a>),
    /// A vector for each text.
    Embed(Embed<'a>),
}

/// A conversation, and how its next turn shall be.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Chat<'a> {
    pub(crate) messages: Vec<Message<'a>>,
    /// The tools that the model may call, each the object that both APIs have below `function`.
    pub(crate) tools: Vec<&'a str>,
    pub(crate) manner: Manner<'a>,
}

/// One prompt, and how the answer shall be.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Prompt<'a> {
    pub(crate) prompt: Cow<'a, str>,
    /// What stands behind the text that is wanted.
    pub(crate) suffix: Option<Cow<'a, str>>,
    pub(crate) system: Option<Cow<'a, str>>,
    pub(crate) images: Vec<Image<'a>>,
    pub(crate) manner: Manner<'a>,
}

/// Texts that shall become vectors.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Embed<'a> {
    pub(crate) inputs: Vec<Cow<'a, str>>,
    /// The vectors' length, where it shall not be the model's own.
    pub(crate) dimensions: Option<u32>,
}

/// How an answer shall be. What is absent is the replica's choice.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Manner<'a> {
    pub(crate) temperature: Option<&'a str>,
    pub(crate) top_p: Option<&'a str>,
    pub(crate) presence_penalty: Option<&'a str>,
    pub(crate) frequency_penalty: Option<&'a str>,
    pub(crate) seed: Option<&'a str>,
    /// Longest answer. Unit: tokens.
    pub(crate) max_tokens: Option<u32>,
    pub(crate) stop: Vec<Cow<'a, str>>,
    pub(crate) format: Option<Format<'a>>,
    pub(crate) think: Option<Think>,
    pub(crate) stream: bool,
}

/// What the answer's text shall be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Format<'a> {
    /// Any JSON.
    Json,
    /// JSON of this schema.
    Schema(&'a str),
}

/// Whether, and how much, the model shall think before it answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Think {
    Off,
    /// As much as it sees fit.
    On,
    Low,
    Medium,
    High,
}

/// Who says something in a conversation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Role {
    System,
    /// OpenAI's newer word for the system.
    Developer,
    User,
    Assistant,
    Tool,
}

impl Role {
    /// Its name, which is one in both APIs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::Developer => "developer",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }

    /// The role of this name, in whatever case.
    pub(crate) fn of(name: &str) -> Option<Self> {
        let all = [Role::System, Role::Developer, Role::User, Role::Assistant, Role::Tool];
        all.into_iter().find(|role| role.name().eq_ignore_ascii_case(name))
    }
}

/// A turn of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message<'a> {
    pub(crate) role: Role,
    /// What is said, in order.
    pub(crate) parts: Vec<Part<'a>>,
    /// What the model thought before it said that.
    pub(crate) thinking: Option<Cow<'a, str>>,
    /// The tools that the model called.
    pub(crate) calls: Vec<Call<'a>>,
    /// The call that a tool answers.
    pub(crate) answers: Option<Answered<'a>>,
}

impl<'a> Message<'a> {
    /// One in which nothing is said.
    pub(crate) fn new(role: Role) -> Self {
        Self { role, parts: Vec::new(), thinking: None, calls: Vec::new(), answers: None }
    }

    /// One that says a text.
    pub(crate) fn saying(role: Role, text: Cow<'a, str>) -> Self {
        Self { parts: vec![Part::Text(text)], ..Self::new(role) }
    }
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Part<'a> {
    Text(Cow<'a, str>),
    Image(Image<'a>),
}

/// An image.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Image<'a> {
    /// What it is, as in `image/png`.
    pub(crate) subtype: &'static str,
    /// Its bytes, in base64.
    pub(crate) base64: Cow<'a, str>,
}

impl<'a> Image<'a> {
    /// An image that is known by its first bytes (those of PNG, JPEG, WebP and GIF); `None` for anything else.
    pub(crate) fn of(base64: Cow<'a, str>) -> Option<Self> {
        // Base64 of the first bytes: 89 'P' 'N' 'G', ff d8 ff, 'R' 'I' 'F' 'F', 'G' 'I' 'F'.
        let known = [("iVBORw0KG", "png"), ("/9j/", "jpeg"), ("UklGR", "webp"), ("R0lGOD", "gif")];
        let (_, subtype) = known.into_iter().find(|(first, _)| base64.starts_with(first))?;
        let coded = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
        // No early exit: this way the compiler makes vector instructions of it.
        base64.bytes().fold(true, |all, byte| all & coded(byte)).then_some(Self { subtype, base64 })
    }
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Call<'a> {
    /// What its result will name it by.
    pub(crate) id: Cow<'a, str>,
    pub(crate) name: Cow<'a, str>,
    /// A JSON object.
    pub(crate) arguments: Cow<'a, str>,
}

/// Which call a tool's result belongs to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answered<'a> {
    pub(crate) id: Cow<'a, str>,
    /// The tool's name; empty where nobody knows it.
    pub(crate) name: Cow<'a, str>,
}
