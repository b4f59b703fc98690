//! The `coterie-chaos` binary: see [`coterie_chaos`].

use std::process::ExitCode;

fn main() -> ExitCode {
    coterie_chaos::main()
}
