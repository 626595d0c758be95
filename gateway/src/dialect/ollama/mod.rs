//! Ollama's API: `/api/…`.

mod answer;
mod print;
mod read;
mod tools;
mod write;

pub(crate) use self::answer::Parser;
pub(crate) use self::print::Printer;
pub(super) use self::read::{chat as read_chat, embed as read_embed, generate as read_generate};
pub(super) use self::write::{chat as write_chat, embed as write_embed, generate as write_generate};
