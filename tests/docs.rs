//! What the documentation tells to type works, and what it points to is there.

mod common;

use common::pages::{Machine, all, blocks, commands, page};
use common::weights::safetensors;
use common::{criu, repository};
use std::collections::BTreeSet;
use std::path::Path;

/// Loads something and ends.
const LOAD: &str = "\
import os, sys
os.execv(sys.executable, [sys.executable, os.environ['REPOSITORY'] + '/tests/apps/clients.py', 'ctypes'])
";

/// In the place of a server that loads a model and goes on.
const VLLM: &str = "#!/bin/sh\nexec python3 serve.py \"$@\"\n";

/// Takes what podman is told of the environment, and runs a program that loads. The
/// real podman is in tests/podman.rs.
const PODMAN: &str = r#"#!/bin/sh -eu
[ "$1" = run ]
while [ "$#" -gt 1 ]; do
    case $1 in
    --env) export "$2" ;;
    -v) [ "$2" = /opt/rewarm:/opt/rewarm:ro ] ;;
    esac
    shift
done
[ "$1" = IMAGE ]
export REWARM_STATS=podman.json
python3 load.py
grep -q '"fanned_out_copies": *[1-9]' podman.json
"#;

/// Python under rewarm.
const WRAPPER: &str =
    "#!/bin/sh\nREWARM=rewarm exec \"$REPOSITORY/scripts/rewarm-python\" \"$@\"\n";

/// A machine with the programs that the pages name.
fn machine() -> Option<Machine> {
    let serve = std::fs::read(repository().join("tests/apps/serve.py")).unwrap();
    let machine = Machine::new()?
        .program("vllm", VLLM)
        .program("podman", PODMAN)
        .program("rewarm-python", WRAPPER)
        .file("load.py", LOAD)
        .file("app.py", LOAD)
        .file("serve.py", serve);
    std::fs::create_dir(machine.folder().join("models")).unwrap();
    Some(machine.file(
        "models/model.safetensors",
        safetensors(&[("a", 10_000_000), ("b", 1)]),
    ))
}

/// Waits until what was started last in the background uses CUDA.
const SETTLE: &str = "until-it-succeeds rewarm status --pid $!\n";

/// The blocks of commands of a page. What runs in the background at a block's end has
/// begun to use CUDA before the next one.
fn settled(name: &str) -> Vec<String> {
    let settle = |block: String| match block.trim_end().ends_with('&') {
        true => block + SETTLE,
        false => block,
    };
    commands(name).into_iter().map(settle).collect()
}

/// A server that was started for a page whose commands find one.
const SERVER: &str = "\
(setsid rewarm run --freezable -- python3 serve.py </dev/null >/dev/null 2>&1 & echo $! >pid)
PID=$(cat pid)
until-it-succeeds rewarm status --pid $PID
";

#[test]
fn the_commands_of_the_readme() {
    let Some(machine) = machine() else { return };
    if criu::criu_or_skip().is_none() {
        return;
    }
    // .ci/run itself runs these.
    let ci = page(".ci/run");
    assert!(ci.contains("\nscripts/demo\n") && ci.contains("scripts/test "));
    let [_, run, podman, wrapper, sleep] = &settled("README.md")[..] else {
        panic!("README.md has other commands than this test knows");
    };
    // It stays in the foreground.
    let run = format!("{} &\n{SETTLE}kill $!\n", run.trim_end());
    let sleep = sleep.replace("serve              #", "serve --detach     #");
    machine.run(&format!("{run}{podman}{wrapper}{SERVER}{sleep}"));
}

#[test]
fn the_commands_for_loading() {
    let Some(machine) = machine() else { return };
    machine.run(&settled("docs/loading.md").concat());
}

#[test]
fn the_commands_for_sleeping() {
    let Some(machine) = machine() else { return };
    machine.run(&settled("docs/sleep.md").concat());
}

#[test]
fn the_commands_for_the_state() {
    let Some(machine) = machine() else { return };
    machine.run(&format!("{SERVER}{}", settled("docs/status.md").concat()));
}

#[test]
fn the_commands_for_checkpoints() {
    let Some(machine) = machine() else { return };
    if criu::criu_or_skip().is_none() {
        return;
    }
    let images = "\
IMAGES=/srv/images
mkdir -m 700 $IMAGES
(setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >sleeper)
criu dump -t \"$(cat sleeper)\" -D $IMAGES --shell-job
";
    let script = settled("docs/checkpoint.md").concat();
    machine.run(&format!("{SERVER}{images}{script}"));
}

#[test]
fn the_commands_for_vllm() {
    let Some(machine) = machine() else { return };
    if criu::criu_or_skip().is_none() {
        return;
    }
    let wrapper = std::fs::read(repository().join("examples/vllm/warm_start.py")).unwrap();
    let machine = machine.file("warm_start.py", wrapper);
    let [serve, warm, sleeper, sleep] = &settled("docs/vllm.md")[..] else {
        panic!("docs/vllm.md has other commands than this test knows");
    };
    let (warm, _) = warm.rsplit_once(SETTLE).unwrap();
    // Once from nothing, once from the checkpoint.
    let warm = format!("{warm}until-it-succeeds grep -q first.answer log\nkill $!\n! wait $!\n");
    let warm = warm.replace("sleep-mode &", "sleep-mode >log 2>&1 &");
    let script = format!("{serve}kill $!\n{warm}! grep renew log\n{warm}{sleeper}{sleep}");
    machine.run(&script);
}

#[test]
fn the_commands_for_troubleshooting() {
    let Some(machine) = machine() else { return };
    let script = settled("docs/troubleshooting.md").concat();
    machine.run(&format!("{SERVER}{script}"));
}

/// All source of the program, with names in place of what stands for them.
fn source() -> String {
    let mut all = String::new();
    for folder in ["src", "shim"] {
        for entry in walkdir::WalkDir::new(repository().join(folder)) {
            let path = entry.unwrap().into_path();
            if path.extension().is_some_and(|ending| ending == "rs") {
                all += &std::fs::read_to_string(path).unwrap();
            }
        }
    }
    all.replace("{FRONT}", "librewarm.so")
        .replace("{CORE}", "librewarm_core.so")
}

#[test]
fn the_messages_of_troubleshooting_are_the_programs() {
    let source = source();
    let page = page("docs/troubleshooting.md");
    let mut count = 0;
    for row in page.lines().filter_map(|line| line.strip_prefix("| `")) {
        let (message, rest) = row.split_once('`').unwrap();
        if rest.starts_with(" (the dynamic linker's)") || rest.starts_with(" (CRIU's)") {
            continue;
        }
        for words in message.split('…') {
            assert!(source.contains(words.trim()), "nothing says: {message}");
        }
        count += 1;
    }
    assert!(count > 20, "the tables are not found");
}

/// Where the commands of each page are run.
const RUN_BY: &[(&str, &[&str])] = &[
    ("tests/bench_cold.rs", &["docs/benchmarks.md"]),
    (
        "tests/docs_packaging.rs",
        &["docs/install.md", "docs/kubernetes.md"],
    ),
    ("tests/inspect.rs", &["docs/inspect.md"]),
    ("tests/podman.rs", &["docs/podman.md"]),
    ("tests/runc.rs", &["docs/runc.md"]),
    (
        "tests/docs.rs",
        &[
            "README.md",
            "docs/loading.md",
            "docs/sleep.md",
            "docs/status.md",
            "docs/checkpoint.md",
            "docs/vllm.md",
            "docs/troubleshooting.md",
        ],
    ),
];

#[test]
fn every_page_with_commands_is_run_by_a_test() {
    for name in all().iter().filter(|name| !name.starts_with("examples/")) {
        if blocks(name).iter().all(|block| block.language != "sh") {
            continue;
        }
        let tests = RUN_BY
            .iter()
            .find(|(_, pages)| pages.contains(&name.as_str()));
        let (test, _) = tests.unwrap_or_else(|| panic!("nobody runs the commands of {name}"));
        assert!(
            page(test).contains(name.as_str()),
            "{test} does not name {name}"
        );
    }
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter_map(|letter| match letter {
        ' ' => Some('-'),
        letter if letter.is_alphanumeric() || "-_".contains(letter) => Some(letter),
        _ => None,
    });
    kept.collect::<String>().to_lowercase()
}

fn anchors(name: &str) -> BTreeSet<String> {
    let text = page(name);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| anchor(line.trim_start_matches('#')))
        .collect()
}

#[test]
fn every_link_leads_somewhere() {
    for name in all() {
        let text = page(&name);
        let folder = Path::new(&name).parent().unwrap();
        for link in text.split("](").skip(1) {
            let (link, _) = link.split_once(')').unwrap_or((link, ""));
            if link.contains("://") {
                continue;
            }
            let (file, section) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                name.clone()
            } else {
                folder.join(file).to_str().unwrap().to_owned()
            };
            assert!(repository().join(&target).exists(), "{name}: {link}");
            let found = section.is_empty() || anchors(&target).contains(section);
            assert!(found, "{name}: {link}: there is no such heading");
        }
    }
}

#[test]
fn every_page_is_reached_from_the_readme() {
    let readme = page("README.md");
    for name in all().iter().filter(|name| name.as_str() != "README.md") {
        let link = name.strip_suffix("/README.md").unwrap_or(name);
        assert!(
            readme.contains(&format!("({link}")),
            "{name} is not in README.md"
        );
    }
}
