//! `scripts/bench cold` and the machine it runs on: what it ends, what it empties, what
//! it takes from NVIDIA's tools.

mod common;

use common::bench::{BUSY, can_measure, cold, cold_command, in_benches, left_by, results};
use common::cli::text;
use common::packages::{files_below, stand_in};
use common::{Scratch, libraries};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::process::Stdio;

#[test]
fn only_what_the_benchmark_started_is_ended() {
    let said = in_benches(
        "import json, os, subprocess, tempfile\n\
         from started import Started, boot, start_time\n\
         with tempfile.TemporaryDirectory() as folder:\n\
         \x20   ours, others = (subprocess.Popen(['sleep', '60']) for _ in range(2))\n\
         \x20   record = Started(folder + '/started.json')\n\
         \x20   record.add(ours.pid)\n\
         \x20   record.processes.add((others.pid, start_time(others.pid) - 1))  # its pid, taken by another since\n\
         \x20   record.write()\n\
         \x20   assert Started(record.path).end_leftovers() == 1\n\
         \x20   assert others.poll() is None\n\
         \x20   again = subprocess.Popen(['sleep', '60'])\n\
         \x20   for boots, processes in (('another', [[again.pid, start_time(again.pid)]]), (boot(), 'x'), (boot(), [[1, start_time(1)]])):\n\
         \x20       open(record.path, 'w').write(json.dumps({'boot': boots, 'processes': processes}))\n\
         \x20       assert Started(record.path).end_leftovers() == 0\n\
         \x20   assert again.poll() is None\n\
         \x20   for one in (others, again):\n\
         \x20       one.kill(); one.wait()\n\
         \x20   print('ok', end='')",
    );
    assert_eq!(said, "ok");
}

#[test]
fn what_a_killed_benchmark_left_is_ended_by_the_next() {
    let Some((criu, scratch)) = can_measure() else {
        return;
    };
    let out = scratch.file("out");
    let endless = "--bytes 4194304 --settle 0 --variants rewarm --iterations 1000 --accept";
    let mut arguments: Vec<_> = endless.split(' ').collect();
    arguments.push(BUSY);
    let mut command = cold_command(criu, &out, &arguments);
    let mut killed = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("scripts/bench starts");
    let said = BufReader::new(killed.stderr.take().unwrap()).lines();
    let is_first = |line: &String| line.contains("1/1000 rewarm");
    assert!(said.map(Result::unwrap).any(|line| is_first(&line)));
    // A restore, or the process that came back.
    while left_by(&out).is_empty() {
        std::thread::yield_now();
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(fs::read_dir(&out).unwrap().count() > 4, "no checkpoint");

    let again = "--bytes 4194304 --settle 0 --variants cold --iterations 1 --accept";
    let mut arguments: Vec<_> = again.split(' ').collect();
    arguments.push(BUSY);
    let output = cold(criu, &out, &arguments);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(left_by(&out), [""; 0]);
    let files = ["report.html", "results.csv", "results.json", "started.json"];
    assert_eq!(files_below(&out), files);
}

/// Says what its caches hold when it starts, fills them, and puts links there that lead
/// out of them.
const FILLS_CACHES: &str = r#"
for cache in "$CUDA_CACHE_PATH" "$TRITON_CACHE_DIR" "$TORCHINDUCTOR_CACHE_DIR" "$VLLM_CACHE_ROOT" my-cache; do
    echo "$(ls -A "$cache" | wc -l) in $cache" >>log
    mkdir -p "$cache/kernels/deep"
    echo compiled >"$cache/kernels/deep/one"
    ln -sfn "$PWD/decoy" "$cache/link"
    ln -sf "$PWD/decoy/kept" "$cache/kernels/link"
done
# The cache itself becomes a link, in the second run that counts.
if [ "$(grep -c my-cache log)" = "$LINKED_AT" ]; then
    rm -r my-cache
    ln -s decoy my-cache
fi
echo it is ready
exec sleep 1000
"#;

#[test]
fn caches_are_emptied_and_nothing_else() {
    let Some((criu, scratch)) = can_measure() else {
        return;
    };
    let fresh = |at: &str| {
        for folder in ["decoy", "my-cache", "home/.triton/cache"] {
            fs::create_dir_all(scratch.file(folder)).unwrap();
            fs::write(scratch.file(folder).join("kept"), "mine").unwrap();
        }
        fs::write(
            scratch.file("program"),
            FILLS_CACHES.replace("$LINKED_AT", at),
        )
        .unwrap();
        let _ = fs::remove_file(scratch.file("log"));
    };
    let cache = scratch.file("my-cache");
    let run = || {
        let mut arguments = vec!["--program", "sh program", "--ready", "is ready"];
        arguments.extend(["--variants", "cold", "--iterations", "3", "--settle", "0"]);
        arguments.extend(["--accept", BUSY, "--clear-caches"]);
        arguments.extend(["--clear-caches-at", text(&cache)]);
        let out = scratch.file("out");
        let mut command = cold_command(criu, &out, &arguments);
        command
            .current_dir(scratch.path())
            .env("HOME", scratch.file("home"))
            .output()
            .expect("scripts/bench starts")
    };
    fresh("never");
    let output = run();
    assert!(output.status.success(), "{output:?}");
    let log = fs::read_to_string(scratch.file("log")).unwrap();
    let lines: Vec<_> = log.lines().collect();
    // One start that is not counted, which finds the cache as it was, and three runs.
    assert_eq!(lines.len(), 4 * 5, "{log}");
    assert_eq!(lines[4], "1 in my-cache");
    for line in lines.iter().filter(|line| **line != lines[4]) {
        assert!(line.starts_with("0 in "), "{line}: {log}");
    }
    let kept = |folder: &str| assert_eq!(files_below(&scratch.file(folder)), ["kept"], "{folder}");
    kept("decoy");
    kept("home/.triton/cache");

    // In the place of the cache is a link now: what it leads to is not emptied.
    fresh("2");
    let output = run();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("my-cache: cannot be emptied") && !said.contains("Traceback"),
        "{said}"
    );
    kept("decoy");
    fs::remove_file(&cache).unwrap();
    symlink("decoy", &cache).unwrap();
    let said = String::from_utf8(run().stderr).unwrap();
    assert!(said.contains("my-cache is no folder"), "{said}");
    kept("decoy");
    assert_eq!(left_by(&scratch.file("out")), [""; 0]);
}

#[test]
fn the_stock_restore_uses_nvidias_cuda_checkpoint() {
    let Some((criu, scratch)) = can_measure() else {
        return;
    };
    let out = scratch.file("out");
    // The drop-in takes the same options; elsewhere than beside rewarm's library it is
    // a stranger's.
    let log = scratch.file("calls");
    let tool = libraries().canonicalize().unwrap().join("cuda-checkpoint");
    let calls = format!("echo \"$*\" >>{}\nexec {} \"$@\"", text(&log), text(&tool));
    stand_in(&scratch.file("bin"), "cuda-checkpoint", &calls);
    let theirs = scratch.file("bin/cuda-checkpoint");
    let mut arguments = vec![
        "--bytes",
        "4194304",
        "--variants",
        "stock",
        "--iterations",
        "1",
    ];
    arguments.extend(["--settle", "0", "--accept", BUSY, "--cuda-checkpoint"]);
    let ours = cold(criu, &out, &[&arguments[..], &[text(&tool)]].concat());
    let said = String::from_utf8_lossy(&ours.stderr);
    assert!(
        !ours.status.success() && said.contains("rewarm's, not NVIDIA's"),
        "{said}"
    );

    arguments.push(text(&theirs));
    let output = cold(criu, &out, &arguments);
    let found = results(&out, &output);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(found["variants"][0]["counted"], 1, "{output:?}");
    assert_eq!(found["settings"]["stock_driver_tool"], text(&theirs));
    let calls = fs::read_to_string(&log).unwrap();
    let steps: Vec<_> = calls
        .lines()
        .map(|line| line.split(' ').nth(1).unwrap())
        .collect();
    assert_eq!(
        steps,
        ["lock", "checkpoint", "restore", "unlock"],
        "{calls}"
    );
}

/// What nvidia-smi prints of GPUs, and what has to be made of it before a run and right
/// after the reply.
const PRINTED: &[(&str, &str, &str, &str)] = &[
    // (what, its lines, kinds of marks before, after)
    (
        "idle",
        "0, NVIDIA H200, 0, 1, 345, 1980, 0x0000000000000001, P0",
        "",
        "",
    ),
    (
        "idle without saying so",
        "0, NVIDIA H200, 0, 529, 345, 1980, 0x0000000000000000, P0",
        "",
        "",
    ),
    (
        "idle and capped",
        "0, NVIDIA RTX A4000, 0, 1, 210, 2100, 0x0000000000000005, P8",
        "",
        "",
    ),
    (
        "computes",
        "0, NVIDIA H200, 97, 30500, 1980, 1980, 0x0000000000000000, P0",
        "gpu_busy gpu_busy",
        "",
    ),
    (
        "computes slowly",
        "0, NVIDIA H200, 97, 900, 1000, 1980, 0x0000000000000000, P0",
        "gpu_busy",
        "clocks",
    ),
    (
        "computes, capped",
        "0, NVIDIA H200, 97, 900, 1900, 1980, 0x0000000000000004, P0",
        "gpu_busy",
        "clocks",
    ),
    (
        "hot",
        "0, NVIDIA H200, 0, 1, 345, 1980, 0x0000000000000021, P0",
        "clocks",
        "clocks",
    ),
    (
        "MIG",
        "0, NVIDIA H200, [N/A], 88, 1980, 1980, 0x0000000000000000, P0",
        "",
        "",
    ),
    (
        "old",
        "0, Tesla P4, 0, 2, [Not Supported], [N/A], [Not Supported], P8",
        "",
        "",
    ),
    (
        "two, one of them busy",
        "0, NVIDIA H200, 0, 1, 345, 1980, 0x0000000000000001, P0\n\
         1, NVIDIA H200, 50, 1, 1980, 1980, 0x0000000000000000, P0",
        "gpu_busy",
        "",
    ),
    (
        "a warning",
        "0, NVIDIA H200, 0, 1, 345, 1980, 0x0000000000000001, P0\n\
         WARNING: infoROM is corrupted at gpu 0000:3B:00.0",
        "",
        "",
    ),
    (
        "lost",
        "0, [Unknown Error], [GPU is lost], [GPU is lost], [N/A], [N/A], [N/A], [N/A]",
        "gpu_unknown",
        "gpu_unknown",
    ),
    (
        "none",
        "No devices were found",
        "gpu_unknown",
        "gpu_unknown",
    ),
];

#[test]
fn what_nvidia_smi_prints_is_understood() {
    let scratch = Scratch::new();
    // The old name of the reasons is not known to it; -i chooses.
    let smi = format!(
        "folder={}\necho \"$*\" >>$folder/asked\ncase $* in\n\
         *clocks_throttle_reasons*) echo 'Field \"clocks_throttle_reasons.active\" is not a valid field to query.'; exit 2 ;;\n\
         *compute-apps*) ;;\n*) cat $folder/says ;;\nesac",
        text(scratch.path())
    );
    stand_in(&scratch.file("bin"), "nvidia-smi", &smi);
    let lines: Vec<_> = PRINTED.iter().map(|case| case.1).collect();
    let lines = serde_json::to_string(&lines).unwrap();
    fs::write(scratch.file("lines"), lines).unwrap();
    let script = "import disturbance, json\n\
        gpu = disturbance.Gpu('FOLDER/bin/nvidia-smi', False)\n\
        def kinds(lines):\n\
        \x20   open('FOLDER/says', 'w').write(lines + '\\n')\n\
        \x20   looks = [gpu.look(disturbance.Limits(), idle)[1] for idle in (True, False)]\n\
        \x20   return [' '.join(mark['kind'] for mark in marks) for marks in looks]\n\
        print(json.dumps([kinds(lines) for lines in json.load(open('FOLDER/lines'))]))";
    let said = in_benches(&script.replace("FOLDER", text(scratch.path())));
    let said: Value = serde_json::from_str(&said).unwrap();
    for (at, (what, _, before, after)) in PRINTED.iter().enumerate() {
        assert_eq!([&said[at][0], &said[at][1]], [before, after], "{what}");
    }
    // What others do on GPUs that the program does not see is no matter.
    let chosen = in_benches(
        "import disturbance\n\
         print([disturbance.visible(one) for one in ('', '1', '0, GPU-5f3a', 'MIG-1', '-1')], end='')",
    );
    assert_eq!(chosen, "[[], ['-i', '1'], ['-i', '0,GPU-5f3a'], [], []]");
}
