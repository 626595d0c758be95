//! The binary `tutti`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tutti::main()
}
