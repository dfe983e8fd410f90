//! Manual pages and shell completions: made from what the commands go by, and fit for
//! the programs that read them.

mod common;

use common::Scratch;
use common::cli::{rewarm, text};
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What a command prints if it succeeds.
#[track_caller]
fn printed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The output of a program that may be missing here.
fn output_of(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
    {
        Ok(output) => Some(output),
        Err(error) => {
            eprintln!("SKIPPED: {program}: {error}: apt-get install {program}");
            None
        }
    }
}

fn completions(shell: &str, program: &str, scratch: &Scratch) -> String {
    let script = printed(&mut rewarm(&["completions", shell, "--for", program]));
    let path = scratch.file(&format!("{program}.{shell}"));
    fs::write(&path, script).unwrap();
    text(&path).to_owned()
}

/// What bash offers for the last of some words.
fn offered(script: &str, words: &[&str]) -> Vec<String> {
    let (program, last) = (words[0], words.len() - 1);
    let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    let run = format!(
        "source {script}\n\
         spec=$(complete -p {program}) && [[ $spec =~ -F\\ ([^ ]+) ]] || exit 1\n\
         COMP_WORDS=({words}) COMP_CWORD={last}\n\
         \"${{BASH_REMATCH[1]}}\" {program} '{current}' '{before}'\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        words = quoted.join(" "),
        current = words[last],
        before = words[last - 1],
    );
    let shown = printed(Command::new("bash").args(["--norc", "-c", &run]));
    shown.lines().map(str::to_owned).collect()
}

#[test]
fn bash_completes_commands_options_and_values() {
    let scratch = Scratch::new();
    let script = completions("bash", "rewarm", &scratch);
    assert_eq!(offered(&script, &["rewarm", "fre"]), ["freeze"]);
    assert_eq!(
        offered(&script, &["rewarm", "run", "--prew"]),
        ["--prewarm"]
    );
    let orders = offered(&script, &["rewarm", "thaw", "--order", ""]);
    assert_eq!(orders, ["largest", "smallest", "address"]);
    // Commands that are not for people.
    for word in offered(&script, &["rewarm", ""]) {
        assert!(!["man", "checkpoint-guardian"].contains(&&*word), "{word}");
    }
    let options = offered(&script, &["rewarm", "doctor", "--"]);
    assert!(options.iter().any(|option| option == "--processes"));
    assert!(options.iter().any(|option| option == "--version"));
    assert!(!options.iter().any(|option| option == "--preloaded"));
    let script = completions("bash", "cuda-checkpoint", &scratch);
    let tool = "cuda-checkpoint";
    assert_eq!(offered(&script, &[tool, "--act"]), ["--action"]);
    let steps = offered(&script, &[tool, "--action", ""]);
    assert_eq!(steps, ["lock", "checkpoint", "restore", "unlock"]);
}

#[test]
fn shells_find_no_fault_with_the_completions() {
    let scratch = Scratch::new();
    for (shell, check) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
        for program in ["rewarm", "cuda-checkpoint"] {
            let script = completions(shell, program, &scratch);
            let Some(output) = output_of(shell, &[check, &script]) else {
                continue;
            };
            assert!(output.status.success(), "{shell} {program}: {output:?}");
            assert!(output.stderr.is_empty(), "{shell} {program}: {output:?}");
        }
    }
}

/// The commands and the long options that `--help` names.
fn named_in(help: &str) -> (Vec<&str>, Vec<&str>) {
    let commands = help.split_once("\nCommands:\n").map_or("", |rest| rest.1);
    let commands = commands.split_once("\n\n").map_or("", |list| list.0);
    let commands = commands
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    let options = help.lines().map(str::trim_start);
    let options = options.filter(|line| line.starts_with('-'));
    let options = options.flat_map(str::split_whitespace);
    let is_cut = |letter: char| !letter.is_ascii_lowercase() && letter != '-';
    let options = options
        .filter(|word| word.starts_with("--"))
        .map(|word| word.split(is_cut).next().unwrap());
    (
        commands.filter(|name| *name != "help").collect(),
        options.collect(),
    )
}

#[test]
fn every_command_and_every_option_is_in_a_page() {
    let scratch = Scratch::new();
    printed(&mut rewarm(&["man", text(scratch.path())]));
    let page = |name: &str| {
        let page = fs::read_to_string(scratch.file(&format!("{name}.1"))).unwrap();
        page.replace("\\-", "-")
    };
    let help = printed(&mut rewarm(&["--help"]));
    let (commands, _) = named_in(&help);
    assert!(commands.contains(&"freeze"), "{commands:?}");
    for command in commands {
        assert!(
            page("rewarm").contains(&format!("rewarm-{command}(1)")),
            "{command}"
        );
        let help = printed(&mut rewarm(&[command, "--help"]));
        let (_, options) = named_in(&help);
        assert!(options.contains(&"--help"), "{command}: {options:?}");
        for option in options {
            let page = page(&format!("rewarm-{command}"));
            assert!(
                page.contains(option),
                "{option} is not in rewarm-{command}.1"
            );
        }
    }
    for setting in rewarm::config::SETTINGS {
        assert!(page("rewarm").contains(setting.name), "{}", setting.name);
    }
    let help = printed(Command::new(env!("CARGO_BIN_EXE_cuda-checkpoint")).arg("--help"));
    // Lines of the text after the options may begin with one, too.
    let (help, _) = help.split_once("\nWhere ").unwrap();
    let (_, options) = named_in(help);
    assert!(options.len() >= 7, "{options:?}");
    for option in options {
        assert!(page("cuda-checkpoint").contains(option), "{option}");
    }
}

#[test]
fn pages_are_set_without_a_warning() {
    let scratch = Scratch::new();
    printed(&mut rewarm(&["man", text(scratch.path())]));
    let written = fs::read_dir(scratch.path()).unwrap();
    let mut pages: Vec<_> = written.map(|entry| entry.unwrap().path()).collect();
    pages.push(common::repository().join("packaging/rewarm-python.1"));
    assert!(pages.len() > 10, "{pages:?}");
    for page in &pages {
        let options = ["-ww", "-man", "-Tutf8", "-rLL=78n", text(page)];
        let Some(output) = output_of("groff", &options) else {
            return;
        };
        assert!(output.status.success(), "{page:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{page:?}: {output:?}");
        let name = page.file_stem().and_then(|name| name.to_str()).unwrap();
        let set = String::from_utf8(output.stdout).unwrap();
        assert!(set.contains(name), "{name}: {set}");
    }
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let missing = Path::new("/nonexistent/man");
    let words = ["/nonexistent/man", "No such file"];
    common::cli::refused(&mut rewarm(&["man", text(missing)]), 1, &words);
}
