//! `cuda-checkpoint`: NVIDIA's tool of that name, with freezing.
//!
//! CRIU's CUDA plugin, podman and other agents call it and parse what it prints; the
//! plugin reads both streams through one pipe, and the first 127 bytes of it. So an
//! answer is all that is ever printed, or one line that says what is wrong.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | the process does not use CUDA, or is gone |
//! | 2 | the command line is wrong; of a restore also: the GPU has too little memory |
//! | other | the driver's error code, modulo 256; 46 and 47: there is no driver, or an old one |

#[path = "cuda-checkpoint/arguments.rs"]
mod arguments;
#[path = "cuda-checkpoint/definition.rs"]
mod definition;
#[path = "cuda-checkpoint/freezing.rs"]
mod freezing;
#[path = "cuda-checkpoint/steps.rs"]
mod steps;

use arguments::{Arguments, Nothing, Operation};
use rewarm::driver::may_use_cuda;
use std::env;
use std::fs;
use std::io::{self, Write};
use std::os::unix::process::parent_id;
use std::process::ExitCode;
use steps::Failure;

/// The command line is wrong.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let arguments = match arguments::parse(env::args_os()) {
        Ok(arguments) => arguments,
        Err(Nothing::Help(text)) => return print(text),
        Err(Nothing::Usage(problem)) => return complain(&problem, USAGE),
    };
    // The driver is wanted plain.
    if let Err(error) = rewarm::preload::start_again_without_rewarm(&[]) {
        let problem = format!("cannot start again without rewarm preloaded: {error}");
        return complain(&problem, Failure::UNKNOWN);
    }
    match steps::carry_out(&arguments) {
        Ok(answer) => print(&answer),
        Err(failure) if is_misread(&arguments, &failure) => complain(&failure.to_string(), 0),
        Err(failure) => complain(&failure.to_string(), failure.code()),
    }
}

fn print(text: &str) -> ExitCode {
    let mut out = io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => Failure::UNKNOWN.into(),
    }
}

/// One line. If nobody reads it, there is nothing to be done.
fn complain(problem: &str, code: u8) -> ExitCode {
    let line = problem.replace('\n', " ") + "\n";
    let _ = io::stderr().write_all(line.as_bytes());
    code.into()
}

/// Whether the caller would take the failure for "not a CUDA process". CRIU's plugin
/// takes every exit code but 0 so when it asks for the restore thread, and would leave
/// the process's GPU out of the image. A text in place of a number stops it.
fn is_misread(arguments: &Arguments, failure: &Failure) -> bool {
    arguments.operation == Operation::GetRestoreTid
        && !failure.is_not_cuda()
        && is_criu(parent_id())
        && may_use_cuda(arguments.pid)
}

/// Whether a process has CRIU's CUDA plugin in it.
fn is_criu(pid: u32) -> bool {
    let maps = fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
    String::from_utf8_lossy(&maps).contains("/cuda_plugin.so")
}
