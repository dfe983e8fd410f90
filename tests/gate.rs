//! In a freezable process every function of the driver leads through the gate, and
//! nothing else is different: each stub ends at its own function, functions that are
//! too new for the table are found, and programs run as ever.
//!
//! The gate itself, open and closed, is tested in the core (`shim/core/src/gate`).

mod common;

use common::{Link, Outcome, Run, Scratch, app, libraries, repository, shared_library_as};
use rewarm_abi::{Hook, SPARES, is_open};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::process::Command;

/// Dynamic symbols that a library defines, with their offsets.
fn symbols(library: &str) -> BTreeMap<String, u64> {
    let output = Command::new("nm")
        .args(["-D", "--defined-only", "--format=posix"])
        .arg(libraries().join(library))
        .output()
        .expect("the tests need nm: install binutils");
    let lines = String::from_utf8(output.stdout).expect("symbols are ASCII");
    lines
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (name, _, offset) = (words.next()?, words.next()?, words.next()?);
            Some((name.to_owned(), u64::from_str_radix(offset, 16).ok()?))
        })
        .collect()
}

/// Names that the numbered driver writes itself.
const ITS_OWN: [&str; 3] = ["cuInit", "cuGetProcAddress", "cuGetProcAddress_v2"];

/// A driver whose functions return numbers, in a folder of its own.
struct Numbered {
    scratch: Scratch,
    functions: Vec<String>,
}

impl Numbered {
    /// It has what the table has and what the software driver has.
    fn new() -> Numbered {
        let table = Hook::ALL
            .iter()
            .map(|hook| hook.name().to_str().expect("names are ASCII").to_owned());
        let functions: BTreeSet<String> = symbols("sim/libcuda.so.1")
            .into_keys()
            .filter(|name| rewarm_abi::is_driver_name(&CString::new(name.as_str()).unwrap()))
            .chain(table)
            .filter(|name| !ITS_OWN.contains(&name.as_str()))
            .collect();
        let list: String = functions.iter().map(|name| format!("F({name}) ")).collect();
        let scratch = Scratch::new();
        shared_library_as(
            &scratch.file("libcuda.so.1"),
            "numbered_driver",
            &[
                "-Wl,-soname,libcuda.so.1",
                "-Wl,-Bsymbolic",
                &format!("-DFUNCTIONS(F)={list}"),
            ],
        );
        Numbered {
            scratch,
            functions: functions.into_iter().collect(),
        }
    }

    fn run(&self, freezable: bool, arguments: &[&str]) -> Outcome {
        let run = Run::rewarmed(app("gate", Link::Dlopen))
            .args(arguments)
            .without_driver()
            .also_search(self.scratch.path());
        if freezable {
            run.env("REWARM_FREEZABLE", "1").finish().ok()
        } else {
            run.finish().ok()
        }
    }

    /// What the program has to print of `name`.
    fn line(&self, name: &str, from: &str) -> String {
        let number = self.functions.iter().position(|own| own == name);
        let number = number.expect("it has all functions") + 1001;
        format!("{name} {number} {from}\n")
    }
}

#[test]
fn every_stub_ends_at_its_own_function() {
    let driver = Numbered::new();
    let stubs = symbols("librewarm.so");
    let (mut list, mut wanted) = (String::new(), String::new());
    for (name, offset) in &stubs {
        if name != "dlsym" && !ITS_OWN.contains(&name.as_str()) {
            list += &format!("{name} {offset:x}\n");
            wanted += &driver.line(name, "stub");
        }
    }
    assert!(stubs.len() > 600, "{} stubs", stubs.len());
    let path = driver.scratch.file("list");
    std::fs::write(&path, list).expect("the scratch folder is writable");
    let path = path.to_str().expect("paths of tests are UTF-8");
    for freezable in [true, false] {
        let outcome = driver.run(freezable, &["stubs", "librewarm.so", path]);
        outcome.must(outcome.stdout == wanted, &format!("freezable {freezable}"));
    }
}

/// In a freezable process everything but the questions that are never gated comes as
/// a stub; elsewhere what has a hook.
#[test]
fn every_function_of_the_driver_is_given_as_a_stub() {
    let driver = Numbered::new();
    let list: String = driver
        .functions
        .iter()
        .map(|name| format!("{name} 0\n"))
        .collect();
    let path = driver.scratch.file("list");
    std::fs::write(&path, list).expect("the scratch folder is writable");
    let path = path.to_str().expect("paths of tests are UTF-8");
    for freezable in [true, false] {
        let from = |name: &String| {
            let name = CString::new(name.as_str()).unwrap();
            let is_stub = match Hook::find(&name) {
                Some(hook) => freezable || hook.is_hooked(),
                None => freezable && !is_open(&name),
            };
            if is_stub { "stub" } else { "own" }
        };
        let lines = driver
            .functions
            .iter()
            .map(|name| driver.line(name, from(name)));
        let wanted: String = lines.collect();
        for route in ["dlsym", "lookup"] {
            let outcome = driver.run(freezable, &[route, path]);
            outcome.must(
                outcome.stdout == wanted,
                &format!("{route}, freezable {freezable}"),
            );
        }
    }
}

#[test]
fn functions_that_no_table_has_get_spare_stubs_while_there_are_any() {
    let driver = Numbered::new();
    for (freezable, spares) in [(true, SPARES), (false, 0)] {
        let outcome = driver.run(freezable, &["unknown", "300"]);
        let mut wanted: String = (0..300)
            .map(|number| {
                let from = if number < spares { "stub" } else { "own" };
                format!("cuFuture{number:03}_v2 {} {from}\n", 65535 + number)
            })
            .collect();
        wanted += "cuCoredumpFuture 1 own\n";
        outcome.must(outcome.stdout == wanted, &format!("wanted:\n{wanted}"));
    }
}

/// The words that lie on the stack, against the numbers of parameters in `cuda.h`:
/// integers, floating-point numbers, and words of structures that go by memory.
#[test]
fn the_stack_words_are_those_of_the_header() {
    let path = repository().join("tests/golden/parameters.txt");
    let golden = std::fs::read_to_string(path).expect("the golden list is in the repository");
    let mut known = BTreeSet::new();
    for line in golden.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let &[name, integers, floats, memory] = words.as_slice() else {
            panic!("not four words: {line}");
        };
        let number = |text: &str| text.parse::<usize>().expect("a number");
        assert!(number(floats) <= 2, "{name}: the front keeps two");
        let Some(hook) = Hook::find(&CString::new(name).unwrap()) else {
            continue;
        };
        known.insert(name);
        let stack = number(integers).saturating_sub(6) + number(memory);
        assert_eq!(hook.stack_words(), Some(stack), "{name}");
    }
    assert!(known.len() > 550, "{} functions", known.len());
}

#[test]
fn programs_run_in_a_freezable_process_as_in_any_other() {
    let programs: [(&str, Link, &[&str]); 9] = [
        ("routes", Link::Cuda, &[]),
        ("routes", Link::Dlopen, &["dlsym"]),
        ("routes", Link::Dlopen, &["default"]),
        ("routes", Link::Dlopen, &["four"]),
        ("routes", Link::Dlopen, &["five"]),
        ("routes", Link::Dlopen, &["questions"]),
        ("copies", Link::Dlopen, &["plain"]),
        ("copies", Link::Dlopen, &["pinned"]),
        ("random_programs", Link::Dlopen, &["1", "100"]),
    ];
    for (name, link, arguments) in programs {
        let run = |rewarmed| {
            Run::either(app(name, link.clone()), rewarmed)
                .args(arguments)
                .env("REWARM_FREEZABLE", "1")
                .env("SIMCUDA_DELAY_US", "50")
                .small_copies_too()
                .finish()
                .ok()
        };
        run(true).must_be_like(&run(false));
    }
}
