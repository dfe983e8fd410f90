//! The command line of rewarm.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
