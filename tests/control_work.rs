//! Freezing and thawing over the control socket: what takes long, told as it goes.

mod common;

use common::standin::RunDir;
use rewarm::control::{
    Client, ControlError, Discard, Freeze, FreezeReport, Order, Phase, Prepare, PrepareReport,
    ProcessReport, Progress, Reporter, Request, Response, Server, Thaw, ThawReport, frame,
};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

fn serve(
    run_dir: &RunDir,
    handler: impl Fn(Request, &Reporter) -> Response + Send + Sync + 'static,
) -> Server {
    Server::start(std::slice::from_ref(&run_dir.0), Arc::new(handler), None).unwrap()
}

fn connect(run_dir: &RunDir) -> Client {
    Client::connect(std::slice::from_ref(&run_dir.0), process::id()).unwrap()
}

fn freeze_to(folder: &str) -> Freeze {
    Freeze {
        to: folder.into(),
        drain_seconds: 1.0,
        budget_bytes: Some(7),
    }
}

fn thaw() -> Thaw {
    Thaw {
        from: Some("/moved".into()),
        keep_snapshot: true,
        verify: false,
        wait_seconds: Thaw::MAX_WAIT_SECONDS,
        order: Order::Address,
    }
}

fn frozen() -> FreezeReport {
    FreezeReport {
        snapshot: "/x".into(),
        bytes: 5,
        ..FreezeReport::default()
    }
}

fn at(phase: Phase, done: u64) -> Progress {
    Progress {
        phase,
        done,
        total: 100,
    }
}

fn ignore(_: Progress) {}

/// A handler that works until it is told to end.
fn gated() -> (
    impl Fn(Request, &Reporter) -> Response + Send + Sync,
    Sender<()>,
) {
    let (end, ended) = channel();
    let ended: Mutex<Receiver<()>> = Mutex::new(ended);
    let handler = move |request: Request, _: &Reporter| match request {
        Request::Status => Response::Status(Box::default()),
        _ => {
            ended.lock().unwrap().recv().unwrap();
            Response::Frozen(frozen())
        }
    };
    (handler, end)
}

/// Frames until the server hangs up.
fn frames(stream: &mut UnixStream) -> Vec<Value> {
    std::iter::from_fn(|| frame::read(stream).ok()).collect()
}

fn send(server: &Server, request: &Value) -> UnixStream {
    let mut stream = UnixStream::connect(server.path()).unwrap();
    frame::write(&mut stream, request).unwrap();
    stream
}

#[test]
fn requests_and_reports_arrive_as_they_were_sent() {
    let run_dir = RunDir::new();
    let _server = serve(&run_dir, |request, _| match request {
        Request::Prepare(prepare) => Response::Prepared(PrepareReport {
            snapshot: prepare.to,
            bytes: 3,
            seconds: 0.5,
        }),
        Request::Freeze(freeze) if freeze == freeze_to("/x") => Response::Frozen(frozen()),
        Request::Thaw(request) if request == thaw() => Response::Thawed(ThawReport {
            kept: true,
            ..ThawReport::default()
        }),
        Request::Discard(range) if range.discard => Response::Discarded,
        other => Response::Error(format!("{other:?}")),
    });
    let to = "/y".into();
    let room = connect(&run_dir).prepare(Prepare { to }, &mut ignore);
    assert_eq!(room.unwrap().bytes, 3);
    let report = connect(&run_dir).freeze(freeze_to("/x"), &mut ignore);
    assert_eq!(report.unwrap(), frozen());
    assert!(connect(&run_dir).thaw(thaw(), &mut ignore).unwrap().kept);
    let range = Discard {
        address: u64::MAX - 8,
        bytes: 8,
        discard: true,
    };
    connect(&run_dir).discard(range).unwrap();
    let error = connect(&run_dir).freeze(freeze_to("/z"), &mut ignore);
    let error = error.unwrap_err();
    assert!(
        matches!(&error, ControlError::Refused { message, .. } if message.contains("/z")),
        "{error}"
    );
}

#[test]
fn each_phase_is_told_and_the_last_word_before_the_answer() {
    let run_dir = RunDir::new();
    let (heard, hears) = channel();
    let hears = Mutex::new(hears);
    let wait_for = move |said: Progress| {
        let hears = hears.lock().unwrap();
        while hears.recv().unwrap() != said {}
    };
    let _server = serve(&run_dir, move |_, reporter| {
        for said in [
            at(Phase::Draining, 0),
            at(Phase::Storing, 0),
            at(Phase::Storing, 60),
            at(Phase::Committing, 100),
        ] {
            // From another thread, as the lanes do.
            let reporter = reporter.clone();
            thread::spawn(move || reporter.progress(said))
                .join()
                .unwrap();
            wait_for(said);
        }
        Response::Frozen(frozen())
    });
    let mut told = Vec::new();
    let report = connect(&run_dir).freeze(freeze_to("/x"), &mut |progress| {
        told.push(progress);
        heard.send(progress).unwrap();
    });
    assert_eq!(report.unwrap(), frozen());
    assert!(told.contains(&at(Phase::Storing, 60)), "{told:?}");
    assert_eq!(told.last(), Some(&at(Phase::Committing, 100)));
}

#[test]
fn one_that_has_nothing_to_say_gives_signs_of_life() {
    let run_dir = RunDir::new();
    let (handler, end) = gated();
    let _server = serve(&run_dir, handler);
    let mut signs = 0;
    let report = connect(&run_dir).freeze(freeze_to("/x"), &mut |_| {
        signs += 1;
        if signs == 3 {
            end.send(()).unwrap();
        }
    });
    assert_eq!(report.unwrap(), frozen());
}

#[test]
fn one_that_falls_silent_is_given_up() {
    let run_dir = RunDir::new();
    let _listener = UnixListener::bind(run_dir.socket(process::id())).unwrap();
    let client = connect(&run_dir).give_up_after(Duration::from_millis(100));
    let error = client.freeze(freeze_to("/x"), &mut ignore).unwrap_err();
    assert!(matches!(error, ControlError::Silent { .. }), "{error}");
    assert!(error.to_string().contains("may be stopped"), "{error}");
}

#[test]
fn status_is_answered_meanwhile_and_a_second_freeze_refused() {
    let run_dir = RunDir::new();
    let (handler, end) = gated();
    let _server = serve(&run_dir, handler);
    let others = || {
        assert_eq!(
            connect(&run_dir).status().unwrap(),
            ProcessReport::default()
        );
        for error in [
            connect(&run_dir).freeze(freeze_to("/y"), &mut ignore).err(),
            connect(&run_dir).thaw(thaw(), &mut ignore).err(),
        ] {
            let error = error.unwrap().to_string();
            assert!(error.contains("a freeze is under way"), "{error}");
        }
        end.send(()).unwrap();
    };
    let mut is_first = true;
    let report = connect(&run_dir).freeze(freeze_to("/x"), &mut |_| {
        if std::mem::take(&mut is_first) {
            others();
        }
    });
    assert_eq!(report.unwrap(), frozen());
    // Whoever has the answer may ask for the next at once.
    for _ in 0..200 {
        end.send(()).unwrap();
        let report = connect(&run_dir).freeze(freeze_to("/x"), &mut ignore);
        assert_eq!(report.unwrap(), frozen());
    }
}

#[test]
fn a_client_that_goes_away_stops_nothing() {
    let run_dir = RunDir::new();
    let (done, is_done) = channel();
    let done = Mutex::new(done);
    let server = serve(&run_dir, move |request, reporter| match request {
        Request::Thaw(_) => Response::Error("the next".into()),
        _ => {
            while !reporter.is_abandoned() {
                thread::sleep(Duration::from_millis(1));
            }
            done.lock().unwrap().send(()).unwrap();
            Response::Frozen(frozen())
        }
    });
    let request = json!({"version": 1, "request": "freeze", "to": "/x", "drain_seconds": 0.0});
    let mut stream = send(&server, &request);
    let first: Value = frame::read(&mut stream).unwrap();
    assert_eq!(first["response"], "progress");
    drop(stream);
    is_done.recv().unwrap();
    // Its turn may take a moment to end.
    loop {
        let error = connect(&run_dir).thaw(thaw(), &mut ignore).unwrap_err();
        match error.to_string() {
            text if text.contains("the next") => break,
            text => assert!(text.contains("under way"), "{text}"),
        }
    }
}

#[test]
fn a_client_that_does_not_read_gets_the_answer_in_the_end() {
    let run_dir = RunDir::new();
    let (done, is_done) = channel();
    let done = Mutex::new(done);
    let server = serve(&run_dir, move |_, reporter| {
        for number in 0..4000 {
            let phase = [Phase::Storing, Phase::Scanning][number as usize % 2];
            reporter.progress(at(phase, number));
            thread::sleep(Duration::from_micros(100));
        }
        done.lock().unwrap().send(()).unwrap();
        Response::Frozen(frozen())
    });
    let request = json!({"version": 1, "request": "freeze", "to": "/x", "drain_seconds": 0.0});
    let mut stream = send(&server, &request);
    is_done.recv().unwrap();
    // The one who tells has to notice, too.
    while connect(&run_dir)
        .thaw(thaw(), &mut ignore)
        .is_err_and(|error| error.to_string().contains("under way"))
    {}
    let told = frames(&mut stream);
    assert!(told.len() < 4000, "what is not read is left out");
    assert_eq!(told.last().unwrap()["response"], "frozen");
}

#[test]
fn hostile_requests_reach_nobody() {
    let run_dir = RunDir::new();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let server = serve(&run_dir, move |_, _| {
        counted.fetch_add(1, Ordering::Relaxed);
        Response::Frozen(frozen())
    });
    let long = format!("/{}", "x".repeat(1 << 16));
    let bad = [
        json!({"request": "freeze", "to": "relative", "drain_seconds": 1}),
        json!({"request": "freeze", "to": "/a\u{0}b", "drain_seconds": 1}),
        json!({"request": "freeze", "to": long, "drain_seconds": 1}),
        json!({"request": "freeze", "to": "/x", "drain_seconds": -1}),
        json!({"request": "freeze", "to": "/x", "drain_seconds": 1e300}),
        json!({"request": "freeze", "to": "/x", "drain_seconds": "1"}),
        json!({"request": "freeze", "to": "/x", "drain_seconds": 1, "budget_bytes": -1}),
        json!({"request": "freeze", "to": ["/x"], "drain_seconds": 1}),
        json!({"request": "freeze"}),
        json!({"request": "prepare", "to": ""}),
        json!({"request": "thaw", "keep_snapshot": true, "verify": true, "wait_seconds": 2e9, "order": "largest"}),
        json!({"request": "thaw", "keep_snapshot": true, "verify": true, "wait_seconds": 0, "order": "random"}),
        json!({"request": "thaw", "from": "x", "keep_snapshot": true, "verify": true, "wait_seconds": 0, "order": "largest"}),
        json!({"request": "discard", "address": 1, "bytes": 0, "discard": true}),
        json!({"request": "discard", "address": u64::MAX, "bytes": 2, "discard": true}),
        json!({"request": "discard", "address": -1, "bytes": 2, "discard": true}),
        json!({"request": ["freeze"]}),
        json!({"request": null}),
    ];
    for mut request in bad {
        request["version"] = json!(1);
        let answers = frames(&mut send(&server, &request));
        assert_eq!(answers.len(), 1, "{request}");
        assert_eq!(answers[0]["response"], "error", "{request}");
    }
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    let good = json!({"version": 1, "request": "freeze", "to": "/x", "drain_seconds": 0});
    let answers = frames(&mut send(&server, &good));
    assert_eq!(answers.last().unwrap()["response"], "frozen");
}

#[test]
fn random_bytes_are_survived() {
    let run_dir = RunDir::new();
    let server = serve(&run_dir, |_, _| Response::Status(Box::default()));
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let good =
        br#"{"version":1,"request":"freeze","to":"/x","drain_seconds":1.5,"budget_bytes":7}"#;
    for _ in 0..300 {
        let mut bytes = good.to_vec();
        for _ in 0..random.usize(1..4) {
            let place = random.usize(..bytes.len());
            bytes[place] = random.u8(..);
        }
        let mut stream = UnixStream::connect(server.path()).unwrap();
        stream
            .write_all(&(bytes.len() as u32).to_le_bytes())
            .unwrap();
        stream.write_all(&bytes).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.len() > 4, "{}", String::from_utf8_lossy(&bytes));
    }
    assert_eq!(
        connect(&run_dir).status().unwrap(),
        ProcessReport::default()
    );
}

#[test]
fn the_application_s_signals_go_elsewhere() {
    let run_dir = RunDir::new();
    let _server = serve(&run_dir, |_, _| {
        Response::Error(std::fs::read_to_string("/proc/thread-self/status").unwrap())
    });
    let error = connect(&run_dir).freeze(freeze_to("/x"), &mut ignore);
    let status = error.unwrap_err().to_string();
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
    let blocked = u64::from_str_radix(blocked.unwrap().trim(), 16).unwrap();
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGUSR1, libc::SIGPIPE] {
        assert!(blocked & (1 << (signal - 1)) != 0, "{signal}: {blocked:x}");
    }
}
