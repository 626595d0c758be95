//! A request on its way to replicas that do not speak its client's API.

use tutti_api::Engine;

use super::answer::Moment;
use super::openai::Wishes;
use super::refuse::untranslatable;
use super::request::{Chat, Embed, Message, Part, Prompt, Request, Role};
use super::vectors::Shape;
use super::{Printer, ollama, openai, quirks, vectors};
use crate::adjusted::Adjusted;
use crate::classify::{Api, Dialect, Pins};
use crate::errors::{Code, Failure};
use crate::json::{Node, Writer};

/// A request that was read in its client's words, to be printed in its replicas'.
#[derive(Debug)]
pub(crate) struct Crossing<'a> {
    from: Api,
    /// The API it is printed for.
    pub(crate) to: Api,
    /// What of it was left out.
    pub(crate) adjusted: Adjusted,
    request: Request<'a>,
    wishes: Wishes,
    /// The body's length. Unit: bytes.
    size: usize,
}

/// The API by which replicas of an engine are asked for what a client asks by this one, where that is another.
/// `native`: an Ollama is to be asked by its own API, whatever the client's.
pub(crate) fn other_api(api: Api, engine: Engine, native: bool) -> Option<Api> {
    match (engine, api) {
        (Engine::Openai, Api::OllamaChat | Api::OllamaGenerate) => Some(Api::OpenAiChat),
        (Engine::Openai, Api::OllamaEmbed | Api::OllamaEmbeddings) => Some(Api::OpenAiEmbeddings),
        (Engine::Ollama, Api::OpenAiChat) if native => Some(Api::OllamaChat),
        (Engine::Ollama, Api::OpenAiCompletions) if native => Some(Api::OllamaGenerate),
        (Engine::Ollama, Api::OpenAiEmbeddings) if native => Some(Api::OllamaEmbed),
        _ => None,
    }
}

/// Bytes that a request may take in memory while it is read: at most its body's length for texts that hold escapes, and
/// for each object and each value of a list what keeps it. An upper bound, for the budget of bodies.
pub(crate) fn weight(body: &[u8]) -> usize {
    let objects = memchr::memchr_iter(b'{', body).count();
    let values = memchr::memchr_iter(b',', body).count() + memchr::memchr_iter(b'[', body).count();
    // Lists grow by doubling.
    body.len() + 2 * (objects * size_of::<Message<'_>>() + values * size_of::<Part<'_>>())
}

impl<'a> Crossing<'a> {
    /// Reads a body, which was found to be one JSON object.
    ///
    /// # Errors
    /// A field that means nothing, or has no counterpart in the other API.
    pub(crate) fn read(from: Api, to: Api, body: &'a [u8]) -> Result<Self, Failure> {
        let size = body.len();
        let body = Node::object(body)
            .map_err(|malformed| Failure::new(Code::InvalidBody, format!("the body is no JSON object: {malformed}")))?;
        let (mut wishes, mut adjusted) = (Wishes::default(), Adjusted::default());
        let request = match from {
            Api::OllamaChat => Request::Chat(ollama::read_chat(body, &mut adjusted)?),
            Api::OllamaGenerate => Request::Prompt(ollama::read_generate(body, &mut adjusted)?),
            Api::OllamaEmbed | Api::OllamaEmbeddings => Request::Embed(ollama::read_embed(body, &mut adjusted)?),
            Api::OpenAiChat => Request::Chat(openai::read_chat(body, &mut wishes, &mut adjusted)?),
            Api::OpenAiCompletions => Request::Prompt(openai::read_completion(body, &mut wishes, &mut adjusted)?),
            Api::OpenAiEmbeddings => Request::Embed(openai::read_embed(body, &mut adjusted)?),
            _ => return Err(Failure::new(Code::NotSupported, "this model's replicas have no such API")),
        };
        let request = match (request, to.dialect()) {
            (Request::Prompt(prompt), Dialect::OpenAi) if from.dialect() == Dialect::Ollama => {
                Request::Chat(as_a_chat(prompt)?)
            }
            (Request::Chat(mut chat), Dialect::Ollama) => {
                quirks::chat(&mut chat);
                Request::Chat(chat)
            }
            (Request::Prompt(mut prompt), Dialect::Ollama) => {
                quirks::prompt(&mut prompt);
                Request::Prompt(prompt)
            }
            (request, _) => request,
        };
        Ok(Self { from, to, adjusted, request, wishes, size })
    }

    /// The body for a replica that knows the model by this name and whose pool pins this; and what was adjusted.
    pub(crate) fn write(&self, model: &str, pins: &Pins) -> (Vec<u8>, Adjusted) {
        let mut adjusted = self.adjusted.clone();
        if self.to.dialect() == Dialect::Ollama {
            pins.say(&mut adjusted);
        }
        (self.body(model, pins), adjusted)
    }

    fn body(&self, model: &str, pins: &Pins) -> Vec<u8> {
        let out = Writer::with_capacity(self.size + self.size / 8 + 256);
        match (&self.request, self.to.dialect()) {
            (Request::Chat(chat), Dialect::Ollama) => ollama::write_chat(chat, model, pins, out),
            (Request::Prompt(prompt), Dialect::Ollama) => ollama::write_generate(prompt, model, pins, out),
            (Request::Embed(embed), Dialect::Ollama) => ollama::write_embed(embed, model, pins, out),
            // Nothing is written in Anthropic's words: see `other_api`.
            (Request::Chat(chat), _) => openai::write_chat(chat, model, out),
            (Request::Prompt(prompt), _) => openai::write_completion(prompt, model, out),
            (Request::Embed(embed), _) => openai::write_embed(embed, model, out),
        }
    }

    /// What prints the answer under the name that the client asked for; `seed` makes its identifiers.
    pub(crate) fn printer(&self, model: &str, seed: u64) -> Printer {
        match (self.from, &self.request) {
            (Api::OllamaEmbed, Request::Embed(embed)) => vectors_of(embed, Shape::Ollama, model),
            (Api::OllamaEmbeddings, Request::Embed(embed)) => vectors_of(embed, Shape::OllamaOne, model),
            (_, Request::Embed(embed)) => vectors_of(embed, Shape::OpenAi, model),
            (Api::OllamaChat, _) => Printer::Ollama(ollama::Printer::new(true, model)),
            (Api::OllamaGenerate, _) => Printer::Ollama(ollama::Printer::new(false, model)),
            (from, _) => {
                let chat = from == Api::OpenAiChat;
                Printer::OpenAi(openai::Printer::new(chat, model, self.wishes.usage, seed))
            }
        }
    }

    /// The answer to a request of Ollama's that asks for nothing and so only loads the model. Servers of the OpenAI API
    /// have their models at hand.
    ///
    /// # Errors
    /// It asks for the model to be unloaded, which nobody can.
    pub(crate) fn loaded(&self, body: &[u8], model: &str, now: Moment) -> Result<Option<Vec<u8>>, Failure> {
        let asks_nothing = match &self.request {
            Request::Chat(chat) => chat.messages.is_empty(),
            Request::Prompt(prompt) => prompt.prompt.is_empty(),
            Request::Embed(embed) => embed.inputs.is_empty(),
        };
        if self.from.dialect() != Dialect::Ollama || !asks_nothing {
            return Ok(None);
        }
        let keep_alive = Node::object(body).ok().and_then(|body| body.get("keep_alive"));
        if keep_alive.is_some_and(is_no_time) {
            return Err(untranslatable("keep_alive", "would unload the model"));
        }
        let printed = match self.printer(model, 0) {
            Printer::Vectors { shape, .. } => vectors::print::<&str>(&[], 0, (shape, model), now),
            Printer::Ollama(printer) => printer.loaded(now),
            Printer::OpenAi(_) => return Ok(None),
        };
        Ok(Some(printed))
    }
}

/// Whether a `keep_alive` is zero: a number of seconds, or a duration as Go reads it.
fn is_no_time(value: Node<'_>) -> bool {
    let zeros = |text: &str| text.contains('0') && !text.contains(|char| matches!(char, '1'..='9'));
    value.integer() == Some(0) || value.string().is_some_and(|text| zeros(&text))
}

fn vectors_of(embed: &Embed<'_>, shape: Shape, model: &str) -> Printer {
    Printer::Vectors { shape, model: model.to_owned(), texts: embed.inputs.len(), dimensions: embed.dimensions }
}

/// A prompt is a conversation of one turn: Ollama puts it into the model's template as such, which others do only with a
/// conversation.
fn as_a_chat(prompt: Prompt<'_>) -> Result<Chat<'_>, Failure> {
    if prompt.suffix.is_some() {
        return Err(super::refuse::no_counterpart("suffix"));
    }
    let mut messages = Vec::new();
    // Whatever else it says, without a prompt it only loads the model.
    if !prompt.prompt.is_empty() {
        messages.extend(prompt.system.map(|system| Message::saying(Role::System, system)));
        let parts = prompt.images.into_iter().map(Part::Image).chain([Part::Text(prompt.prompt)]).collect();
        messages.push(Message { parts, ..Message::new(Role::User) });
    }
    Ok(Chat { messages, tools: Vec::new(), manner: prompt.manner })
}
