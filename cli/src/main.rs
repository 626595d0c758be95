//! The binary tutti and its subcommands.

fn main() {}
