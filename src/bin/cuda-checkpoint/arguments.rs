//! What is asked for, and the help.

use super::definition::definition;
use clap::error::ErrorKind;
use clap::{ArgMatches, Command, value_parser};
use rewarm::driver::Uuid;
use std::ffi::OsString;
use std::time::Duration;

/// As NVIDIA's has it. CRIU looks for `--action` in the first 2047 bytes.
const HELP: &str = "\
CUDA checkpoint and restore utility (rewarm).

Operations:
--get-state --pid <pid>
        Prints the state of the process: running, locked, checkpointed or failed

--action lock | checkpoint | restore | unlock --pid <pid> [--timeout <ms>] [--device-map <map>]
        Carries one step out on the process

--toggle --pid <pid> [--timeout <ms>] [--device-map <map>]
        Takes a running process to the state checkpointed, or a checkpointed one back

--get-restore-tid --pid <pid>
        Prints the thread that must run while the process is checkpointed or restored

Options:
--pid|-p <pid>
        The process, by its pid or by the id of one of its threads

--timeout|-t <ms>
        Longest wait of a lock, in milliseconds; 0: no limit

--device-map <old>=<new>[,<old>=<new>...]
        For restore: which GPU takes the place of which, by their UUIDs

--help|-h
        Prints this help

Where REWARM_SNAPSHOT_DIR is set for a process that was started with rewarm run
--freezable, or for this command, a lock first moves the GPU memory of the process to a
snapshot in that folder, and an unlock brings it back as soon as the process runs.
";

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Lock,
    Checkpoint,
    Restore,
    Unlock,
}

impl Action {
    const NAMES: [(&str, Action); 4] = [
        ("lock", Action::Lock),
        ("checkpoint", Action::Checkpoint),
        ("restore", Action::Restore),
        ("unlock", Action::Unlock),
    ];

    fn parse(name: &str) -> Result<Action, String> {
        let found = Action::NAMES.iter().find(|entry| entry.0 == name);
        found
            .map(|entry| entry.1)
            .ok_or_else(|| "it is lock, checkpoint, restore or unlock".to_owned())
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Action::Lock => "lock",
            Action::Checkpoint => "checkpoint",
            Action::Restore => "restore",
            Action::Unlock => "unlock",
        }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    GetState,
    GetRestoreTid,
    Toggle,
    Act(Action),
}

/// A command line that makes sense.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) operation: Operation,
    /// Of the process, or of one of its threads.
    pub(crate) pid: u32,
    /// Zero: no limit.
    pub(crate) timeout: Duration,
    /// Which GPU takes the place of which.
    pub(crate) devices: Vec<(Uuid, Uuid)>,
}

/// Why there is nothing to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Nothing {
    /// The help was asked for.
    Help(&'static str),
    /// What is wrong, in a line.
    Usage(String),
}

/// Understands the arguments, the program's name first.
pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Result<Arguments, Nothing> {
    let matches = command().try_get_matches_from(words);
    let matches = matches.map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp => Nothing::Help(HELP),
        _ => Nothing::Usage(first_line(&error)),
    })?;
    let operation = operation(&matches);
    // Agents give it to every action; it holds for a lock.
    let acts = matches!(operation, Operation::Toggle | Operation::Act(_));
    let restores = matches!(
        operation,
        Operation::Toggle | Operation::Act(Action::Restore)
    );
    let timeout = matches.get_one::<u32>("timeout");
    let devices = matches.get_one::<Vec<(Uuid, Uuid)>>("device-map");
    if timeout.is_some() && !acts {
        return Err(usage("--timeout goes with --action and --toggle"));
    }
    if devices.is_some() && !restores {
        return Err(usage(
            "--device-map goes with --action restore and --toggle",
        ));
    }
    Ok(Arguments {
        operation,
        pid: *matches
            .get_one("pid")
            .ok_or_else(|| usage("--pid is missing"))?,
        timeout: Duration::from_millis(timeout.copied().unwrap_or(0).into()),
        devices: devices.cloned().unwrap_or_default(),
    })
}

fn usage(problem: &str) -> Nothing {
    Nothing::Usage(problem.to_owned())
}

/// CRIU keeps little of what is said.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    match line.strip_prefix("error: ") {
        Some("the following required arguments were not provided:") | None => {
            "an operation and --pid are needed; see --help".to_owned()
        }
        Some(line) => line.to_owned(),
    }
}

fn command() -> Command {
    let pid = value_parser!(u32).range(1..=i64::from(i32::MAX));
    definition()
        .override_help(HELP)
        .infer_long_args(true)
        .mut_arg("action", |action| action.value_parser(Action::parse))
        .mut_arg("pid", |number| number.value_parser(pid))
        .mut_arg("timeout", |time| time.value_parser(value_parser!(u32)))
        .mut_arg("device-map", |map| map.value_parser(device_map))
}

fn operation(matches: &ArgMatches) -> Operation {
    match matches.get_one("action") {
        Some(action) => Operation::Act(*action),
        None if matches.get_flag("get-state") => Operation::GetState,
        None if matches.get_flag("get-restore-tid") => Operation::GetRestoreTid,
        None => Operation::Toggle,
    }
}

fn device_map(text: &str) -> Result<Vec<(Uuid, Uuid)>, String> {
    text.split(',').map(device_pair).collect()
}

fn device_pair(text: &str) -> Result<(Uuid, Uuid), String> {
    let pair = text.split_once('=');
    pair.and_then(|(old, new)| Some((uuid(old)?, uuid(new)?)))
        .ok_or_else(|| "it is pairs of UUIDs, GPU-...=GPU-...".to_owned())
}

/// As `nvidia-smi -L` prints it, with or without `GPU-`.
fn uuid(text: &str) -> Option<Uuid> {
    const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
    let text = text.strip_prefix("GPU-").unwrap_or(text);
    let lengths = text.split('-').map(str::len);
    if !lengths.eq(GROUPS)
        || !text
            .bytes()
            .all(|byte| byte == b'-' || byte.is_ascii_hexdigit())
    {
        return None;
    }
    let number = u128::from_str_radix(&text.replace('-', ""), 16).ok()?;
    Some(Uuid {
        bytes: number.to_be_bytes(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Arguments, Nothing> {
        let words = ["cuda-checkpoint"]
            .into_iter()
            .chain(line.split_whitespace());
        parse(words.map(OsString::from))
    }

    fn right(line: &str) -> Arguments {
        parsed(line).unwrap_or_else(|nothing| panic!("{line}: {nothing:?}"))
    }

    #[test]
    fn what_criu_says_is_understood() {
        let lock = right("--action lock --pid 12 --timeout 10000");
        assert_eq!(lock.operation, Operation::Act(Action::Lock));
        assert_eq!((lock.pid, lock.timeout), (12, Duration::from_secs(10)));
        for (name, action) in Action::NAMES {
            let asked = right(&format!("--action {name} --pid 12"));
            assert_eq!(asked.operation, Operation::Act(action));
            assert_eq!(action.name(), name);
        }
        assert_eq!(right("--get-state --pid 1").operation, Operation::GetState);
        assert_eq!(
            right("--get-restore-tid --pid 1").operation,
            Operation::GetRestoreTid
        );
    }

    #[test]
    fn options_have_the_forms_of_getopt() {
        for line in [
            "--toggle --pid=7",
            "-p 7 --toggle",
            "--toggle -p7 -t 5",
            "--tog --pi 7",
        ] {
            let asked = right(line);
            assert_eq!(
                (asked.operation, asked.pid),
                (Operation::Toggle, 7),
                "{line}"
            );
        }
    }

    #[test]
    fn what_makes_no_sense_is_a_line() {
        for line in [
            "",
            "--pid 7",
            "--toggle",
            "--toggle --get-state --pid 7",
            "--action lock --toggle --pid 7",
            "--action sing --pid 7",
            "--action --pid 7",
            "--get-state --pid 0",
            "--get-state --pid -7",
            "--get-state --pid 7x",
            "--get-state --pid 99999999999",
            "--get-state --pid 7 --pid 8",
            "--get-state --pid 7 --timeout 5",
            "--action lock --pid 7 --timeout soon",
            "--action lock --pid 7 --device-map a=b",
            "--action restore --pid 7 --device-map GPU-1=GPU-2",
            "--get-state --pid 7 more",
        ] {
            match parsed(line) {
                Err(Nothing::Usage(text)) => {
                    assert!(!text.is_empty() && !text.contains('\n'), "{line}: {text}");
                }
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_help_names_action_where_criu_looks() {
        for line in ["-h", "--help", "--get-state -h"] {
            assert_eq!(parsed(line), Err(Nothing::Help(HELP)), "{line}");
        }
        assert!(HELP[..2047.min(HELP.len())].contains("--action"));
    }

    #[test]
    fn gpus_are_named_as_nvidia_smi_does() {
        let (old, new) = (
            "GPU-00112233-4455-6677-8899-aabbccddeeff",
            "ffeeddcc-bbaa-9988-7766-554433221100",
        );
        let asked = right(&format!(
            "--toggle --pid 7 --device-map {old}={new},{new}={old}"
        ));
        assert_eq!(asked.devices.len(), 2);
        assert_eq!(asked.devices[0].0.bytes[..3], [0x00, 0x11, 0x22]);
        assert_eq!(asked.devices[0].1.bytes[15], 0x00);
        assert_eq!(asked.devices[0].0, asked.devices[1].1);
    }
}
