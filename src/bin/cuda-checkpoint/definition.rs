//! The options of `cuda-checkpoint`. Its own parser, its manual page and its
//! completions are made from this.

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgGroup, Command};

/// The command, with values that are any text.
pub(crate) fn definition() -> Command {
    let operation = |name: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue);
    let option = |name: &'static str, value| Arg::new(name).long(name).value_name(value);
    Command::new("cuda-checkpoint")
        .about("CUDA checkpoint and restore utility (rewarm)")
        .arg(
            operation("get-state")
                .help("print the state of the process: running, locked, checkpointed or failed"),
        )
        .arg(
            operation("get-restore-tid").help(
                "print the thread that must run while the process is checkpointed or restored",
            ),
        )
        .arg(
            operation("toggle").help(
                "take a running process to the state checkpointed, or a checkpointed one back",
            ),
        )
        .arg(
            option("action", "step")
                .value_parser(PossibleValuesParser::new([
                    "lock",
                    "checkpoint",
                    "restore",
                    "unlock",
                ]))
                .help("carry one step out on the process"),
        )
        .group(
            ArgGroup::new("operation")
                .args(["get-state", "get-restore-tid", "toggle", "action"])
                .required(true),
        )
        .arg(
            option("pid", "pid")
                .short('p')
                .required(true)
                .help("the process, by its pid or by the id of one of its threads"),
        )
        .arg(
            option("timeout", "ms")
                .short('t')
                .help("longest wait of a lock, in milliseconds; 0: no limit"),
        )
        .arg(option("device-map", "old>=<new").help(
            "for restore: which GPU takes the place of which, by their UUIDs; pairs go with commas",
        ))
}
