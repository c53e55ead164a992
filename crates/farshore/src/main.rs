//! Farshore: disaster recovery for people who run their own regions. All of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    farshore::cli::main()
}
