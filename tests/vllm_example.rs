//! The wrapper of examples/vllm with a small server in vLLM's place.

mod common;

use common::pages::Machine;
use common::{criu, repository};

/// Commands of the scripts below; `answers`: what the server says.
const COMMANDS: &str = r#"
start() {
    python3 "$REPOSITORY/examples/vllm/warm_start.py" --checkpoint /srv/checkpoints/c "$@" >log 2>&1 &
}
answers() {
    python3 -c "
import urllib.request as r
print(r.urlopen('http://127.0.0.1:8000/v1/completions', b'{}').read().decode())"
}
serving() { until-it-succeeds grep -q "first answer" log; }
"#;

fn machine() -> Option<Machine> {
    criu::criu_or_skip()?;
    let serve = std::fs::read(repository().join("tests/apps/serve.py")).unwrap();
    Some(Machine::new()?.file("serve.py", serve))
}

#[test]
fn later_starts_give_the_same_answers_without_the_cache_on_disk() {
    let Some(machine) = machine() else { return };
    let told = machine.run(&format!(
        "{COMMANDS}
        for turn in 1 2 3; do
            # Most of its memory is cache.
            start -- python3 serve.py serve m --cache-mib 48
            serving
            answers
            kill $!
            status=0; wait $! || status=$?
            echo \"status $status\"
        done
        echo \"snapshot $(du -sm /srv/checkpoints/c/gpu | cut -f1)\"
        echo \"images $(du -sm /srv/checkpoints/c/images | cut -f1)\"
        "
    ));
    let answers: Vec<_> = told
        .lines()
        .filter(|line| line.contains("model "))
        .collect();
    assert_eq!(answers.len(), 3, "{told}");
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{told}");
    assert_eq!(told.matches("status 143").count(), 3, "{told}");
    for what in ["snapshot ", "images "] {
        let line = told.lines().find_map(|line| line.strip_prefix(what));
        let mib: u64 = line.unwrap().parse().unwrap();
        assert!(mib < 48, "{what}{mib}: the cache is in it\n{told}");
    }
}

#[test]
fn with_the_cache_if_that_is_wanted() {
    let Some(machine) = machine() else { return };
    let told = machine.run(&format!(
        "{COMMANDS}
        start --keep-cache -- python3 serve.py serve m --cache-mib 48
        serving
        echo \"snapshot $(du -sm /srv/checkpoints/c/gpu | cut -f1)\"
        cat log
        "
    ));
    let line = told.lines().find_map(|line| line.strip_prefix("snapshot "));
    let mib: u64 = line.unwrap().parse().unwrap();
    assert!(mib >= 48 + 16, "{told}");
    assert!(told.contains("first answer after"), "{told}");
}

#[test]
fn what_goes_wrong_is_told() {
    let Some(machine) = machine() else { return };
    let told = machine.run(&format!(
        "{COMMANDS}
        failed() {{ status=0; wait $! || status=$?; echo \"$1: status $status\"; tail -n 3 log; }}
        start -- sh -c 'exit 5'
        failed ends
        start --ready 1 -- python3 -c 'import time; time.sleep(1000)'
        failed silent
        rewarm run -- python3 serve.py & until-it-succeeds rewarm status --pid $!
        server=$!
        start -- python3 serve.py
        failed taken
        kill $server
        mkdir /srv/checkpoints/c
        echo nonsense >/srv/checkpoints/c/checkpoint.json
        start -- python3 serve.py
        failed broken
        ! pgrep -f serve.py
        "
    ));
    for words in [
        "ends: status 1",
        "the server ended with status 5 before it answered",
        "silent: status 1",
        "did not answer at http://127.0.0.1:8000 within 1 s",
        "taken: status 1",
        "something answers at http://127.0.0.1:8000 already",
        "broken: status 1",
        "--renew",
    ] {
        assert!(told.contains(words), "{words} is not in:\n{told}");
    }
}
