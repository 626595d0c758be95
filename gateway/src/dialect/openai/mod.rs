//! OpenAI's API: `/v1/…`.

mod answer;
mod message;
mod print;
mod read;
mod write;

pub(crate) use self::answer::Parser;
pub(super) use self::answer::message_of;
pub(crate) use self::print::Printer;
pub(super) use self::read::{Wishes, chat as read_chat, completion as read_completion, embed as read_embed};
pub(super) use self::write::{chat as write_chat, completion as write_completion, embed as write_embed};
