//! The commands described for people: `docs/reference/cli.md`.

use std::fmt::Write;

use clap::{Arg, Command, CommandFactory};

use crate::Cli;

/// What holds for every command.
const HEAD: &str = "\
# Commands

One binary, `tutti`. `tutti COMMAND --help` says what stands here.

| exit code | |
|---|---|
| 0 | done; of a command that serves, ended by a signal |
| 1 | not done: standard error says why |
| 2 | the arguments, the configuration or the keys file are wrong: standard error says each thing, and where |

| environment | |
|---|---|
| `TUTTI_CONFIG` | the configuration file, where `--config` names none |
| `TUTTI__GATEWAY__LISTEN`, … | a field of the configuration ([how](config.md)) |
| `TUTTI_LOG` | what a gateway says of itself on standard error: `info` where nothing is set; written as the filter of `tutti log-level` |
| `OLLAMA_HOST` | the Ollama of this machine, where the configuration lists no pools: as Ollama's own clients read it |
| `XDG_CONFIG_HOME`, `XDG_STATE_HOME`, `HOME` | where the configuration is looked for, and where the admin token is kept |

This page is generated from the commands in `cli/src`.
";

/// The page.
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    let mut tutti = Cli::command();
    tutti.build();
    for command in tutti.get_subcommands_mut() {
        section(&mut page, command);
    }
    page
}

/// A command, and the commands below it.
fn section(page: &mut String, command: &mut Command) {
    if command.get_name() == "help" {
        return;
    }
    let name = command.get_bin_name().unwrap_or_default().to_owned();
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let usage = command.render_usage().to_string();
    let _ = write!(page, "\n## `{name}`\n\n{}\n", sentences(&about));
    if !command.has_subcommands() {
        let _ = write!(page, "\n```\n{}\n```\n", usage.trim_start_matches("Usage: "));
    }
    let mut arguments = command.get_arguments().filter(|argument| argument.get_id() != "help").peekable();
    if arguments.peek().is_some() {
        page.push_str("\n| argument | |\n|---|---|\n");
    }
    for argument in arguments {
        let _ = writeln!(page, "| `{}` | {} |", shape(argument), meaning(argument).replace('|', "\\|"));
    }
    command.get_subcommands_mut().for_each(|below| section(page, below));
}

/// Each paragraph with the full stop that clap takes from the end of a summary.
fn sentences(about: &str) -> String {
    let whole = |paragraph: &str| format!("{}.", paragraph.trim().trim_end_matches('.'));
    about.split("\n\n").map(whole).collect::<Vec<_>>().join("\n\n")
}

/// An argument as it is written.
fn shape(argument: &Arg) -> String {
    let values = argument.get_value_names().into_iter().flatten().map(|name| format!("<{name}>"));
    let values: Vec<String> = values.filter(|_| argument.get_action().takes_values()).collect();
    let flag = argument.get_long().map(|long| format!("--{long}"));
    flag.into_iter().chain(values).collect::<Vec<_>>().join(" ")
}

/// What an argument says, with what may be given and what holds where nothing is.
fn meaning(argument: &Arg) -> String {
    let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut text = help.replace("\n\n", " ");
    if !argument.get_action().takes_values() {
        return text;
    }
    let possible = argument.get_possible_values();
    if !possible.is_empty() {
        let words: Vec<String> = possible.iter().map(|value| format!("`{}`", value.get_name())).collect();
        let _ = write!(text, ": {}", words.join(", "));
    }
    for default in argument.get_default_values() {
        let _ = write!(text, "; else `{}`", default.display());
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use clap::error::ErrorKind;

    use super::*;

    /// What is written in the page about a command.
    fn part<'p>(page: &'p str, name: &str) -> &'p str {
        let after = page.split(&format!("\n## `{name}`\n")).nth(1).unwrap_or_else(|| panic!("no {name}"));
        after.split("\n## ").next().unwrap_or_default()
    }

    #[test]
    fn every_command_has_its_place_with_all_its_arguments() {
        let page = markdown();
        for (name, wanted) in [
            ("tutti up", "its answers say that they are simulated |"),
            ("tutti gateway", "```\ntutti gateway [OPTIONS]\n```"),
            ("tutti check", "found what will not work, and 1 where there is none or it cannot be read.\n"),
            ("tutti drain", "| `<REPLICA>` | The replica, as http://HOST:PORT |"),
            ("tutti key new", "class its requests may have: `interactive`, `normal`, `bulk`; else `normal` |"),
            ("tutti key new", "tutti key new [OPTIONS] --name <NAME> --tenant <TENANT>"),
            ("tutti key revoke", "| `--keys-file <FILE>` |"),
            ("tutti log-level", "| `<FILTER>` | off, error, warn"),
        ] {
            assert!(part(&page, name).contains(wanted), "{name}: {}", part(&page, name));
        }
        assert!(!page.contains("help` |") && !page.contains("`tutti help`"), "{page}");
    }

    /// The words of a line as a shell makes them of simple lines; what it would fill in stays as it stands.
    fn words(line: &str) -> Vec<String> {
        let line = line.split(" #").next().unwrap_or_default();
        let end = [" > ", " | ", " &"].iter().filter_map(|end| line.find(end)).min().unwrap_or(line.len());
        line[..end].split_whitespace().map(|word| word.trim_matches(['\'', '"']).to_owned()).collect()
    }

    /// The commands in a text: what stands in backquotes, in blocks of shell, and indented in comments.
    fn commands(text: &str) -> Vec<Vec<String>> {
        let quoted =
            text.split('`').skip(1).step_by(2).filter(|part| part.starts_with("tutti ") && !part.contains('\n'));
        let blocks = text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).flat_map(str::lines);
        let comments = text.lines().filter_map(|line| line.strip_prefix("#   "));
        let begins = |line: &'_ str| Some(line[line.find("tutti ")?..].trim_end_matches(')').to_owned());
        let start =
            |line: &&str| line.starts_with("tutti ") || line.contains("(tutti ") || line.contains("=/var/lib tutti ");
        let lines = blocks.chain(comments).filter(start).filter_map(begins);
        quoted.map(str::to_owned).chain(lines).map(|line| words(&line)).collect()
    }

    /// The guides, and what to deploy with, show commands that there are, with arguments that they have.
    #[test]
    fn commands_that_are_shown_are_commands_that_there_are() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut files =
            ["README.md", "CONTRIBUTING.md", "deploy/systemd/tutti.service"].map(|file| root.join(file)).to_vec();
        let docs = std::fs::read_dir(root.join("docs")).unwrap().flatten().map(|entry| entry.path());
        // The quickstart is run whole by tests/e2e/quickstart.rs.
        files.extend(docs.filter(|path| path.is_file() && !path.ends_with("quickstart.md")));
        let mut seen = 0;
        for file in files {
            for words in commands(&std::fs::read_to_string(&file).unwrap()) {
                let error = Cli::try_parse_from(&words).err().map(|error| error.kind());
                // A sentence may name a command without all that it wants.
                let named = [
                    ErrorKind::MissingRequiredArgument,
                    ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
                    ErrorKind::DisplayVersion,
                    ErrorKind::DisplayHelp,
                ];
                assert!(error.is_none_or(|kind| named.contains(&kind)), "{}: {words:?}: {error:?}", file.display());
                seen += 1;
            }
        }
        assert!(seen > 20, "only {seen} commands were found");
    }
}
