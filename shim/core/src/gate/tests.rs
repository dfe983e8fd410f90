//! The gate with stand-ins for the driver's functions behind it.

use super::*;
use parking_lot::{Mutex, MutexGuard};
use rewarm_abi::Hook;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::thread;

static BEHIND: Targets = Targets::new();

/// A gate of this process's own for one test at a time.
fn gate() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock();
    TARGETS.store(ptr::from_ref(&BEHIND).cast_mut(), Ordering::Release);
    BEHIND.ungated.store(0, Ordering::SeqCst);
    STATE.store(0, Ordering::SeqCst);
    guard
}

/// A stub as the front has it, of this index, that leads to this function.
macro_rules! stub {
    ($index:expr, $target:ident: $signature:ty) => {{
        #[unsafe(naked)]
        extern "C" fn stub() {
            std::arch::naked_asm!(
                "mov r11d, {index}",
                "jmp {pass}",
                index = const $index,
                pass = sym trampoline::pass,
            )
        }
        BEHIND.functions[$index].store($target as *mut c_void, Ordering::SeqCst);
        // SAFETY: the stub calls the target with what it was called with.
        unsafe { std::mem::transmute::<extern "C" fn(), $signature>(stub) }
    }};
}

const SPARE: usize = Hook::COUNT + 7;
const ALLOC: usize = Hook::cuMemAlloc_v2 as usize;

type Eleven = extern "C" fn(u64, u64, u64, u64, u64, u64, u64, u64, u64, u64, u64) -> u64;

/// Each parameter at its own place.
extern "C" fn eleven(
    a: u64,
    b: u64,
    c: u64,
    d: u64,
    e: u64,
    f: u64,
    g: u64,
    h: u64,
    i: u64,
    j: u64,
    k: u64,
) -> u64 {
    [a, b, c, d, e, f, g, h, i, j, k]
        .iter()
        .fold(0, |sum, value| sum.wrapping_mul(31).wrapping_add(*value))
}

#[test]
fn eleven_integers_arrive() {
    let _gate = gate();
    let known = stub!(Hook::cuLaunchKernel as usize, eleven: Eleven);
    let unknown = stub!(SPARE, eleven: Eleven);
    for base in 0..100_u64 {
        let v = |n: u64| (base + n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let wanted = eleven(
            v(0),
            v(1),
            v(2),
            v(3),
            v(4),
            v(5),
            v(6),
            v(7),
            v(8),
            v(9),
            v(10),
        );
        for stub in [known, unknown] {
            let got = stub(
                v(0),
                v(1),
                v(2),
                v(3),
                v(4),
                v(5),
                v(6),
                v(7),
                v(8),
                v(9),
                v(10),
            );
            assert_eq!(got, wanted);
        }
    }
    assert_eq!(inside::count(), 0);
}

#[derive(Clone, Copy, PartialEq, Debug)]
#[repr(C)]
struct Handle([u64; 8]);

type ByValue = extern "C" fn(*mut Handle, Handle, c_int) -> c_int;

extern "C" fn by_value(out: *mut Handle, handle: Handle, flags: c_int) -> c_int {
    // SAFETY: the tests' own variable.
    unsafe { *out = handle };
    flags + 1
}

#[test]
fn a_structure_by_value_arrives() {
    let _gate = gate();
    let handle = Handle([1, 2, 3, 4, 5, 6, 7, u64::MAX]);
    for stub in [
        stub!(Hook::cuIpcOpenMemHandle_v2 as usize, by_value: ByValue),
        stub!(SPARE, by_value: ByValue),
    ] {
        let mut got = Handle([0; 8]);
        assert_eq!(stub(&mut got, handle, 41), 42);
        assert_eq!(got, handle);
    }
}

type Mixed = extern "C" fn(f32, u64, f64, u64, f32, f32, f64, f64, f64, f64, u64) -> u64;

extern "C" fn mixed(
    a: f32,
    b: u64,
    c: f64,
    d: u64,
    e: f32,
    f: f32,
    g: f64,
    h: f64,
    i: f64,
    j: f64,
    k: u64,
) -> u64 {
    let numbers = [f64::from(a), c, f64::from(e), f64::from(f), g, h, i, j];
    let sum = numbers
        .iter()
        .fold(0_u64, |sum, number| sum.rotate_left(7) ^ number.to_bits());
    sum ^ b ^ d.rotate_left(9) ^ k.rotate_left(18)
}

#[test]
fn floating_point_numbers_arrive() {
    let _gate = gate();
    let stub = stub!(Hook::cuTexRefSetMipmapLevelClamp as usize, mixed: Mixed);
    let wanted = mixed(1.5, 2, 3.25, 4, 5.5, -6.0, 7.125, 8.0, 9.0, 10.0, 11);
    assert_eq!(
        stub(1.5, 2, 3.25, 4, 5.5, -6.0, 7.125, 8.0, 9.0, 10.0, 11),
        wanted
    );
}

extern "C" fn eight_apart() -> u64 {
    let inside: u32 = inside::depth();
    u64::from(inside) << 32 | inside::count() as u64
}

#[test]
fn a_call_is_inside_while_it_runs_and_results_are_whole() {
    let _gate = gate();
    let stub = stub!(Hook::cuCtxSynchronize as usize, eight_apart: extern "C" fn() -> u64);
    assert_eq!(stub(), 1 << 32 | 1);
    let own = enter().expect("the gate is open");
    assert_eq!(stub(), 2 << 32 | 1, "a call in a call is counted once");
    drop(own);
    assert_eq!((inside::depth(), inside::count()), (0, 0));
}

extern "C" fn panics_when_called() -> c_int {
    unreachable!("a call passed the closed gate")
}

extern "C" fn answers() -> c_int {
    7
}

/// Starts a thread that calls, and waits until it sleeps at the gate.
fn caller(stub: extern "C" fn() -> c_int) -> thread::JoinHandle<(c_int, c_int)> {
    let id = std::sync::Arc::new(AtomicU64::new(0));
    let tell = id.clone();
    let thread = thread::spawn(move || {
        // SAFETY: have no requirements; `errno` is the thread's own.
        unsafe {
            *libc::__errno_location() = 77;
            tell.store(libc::gettid() as u64, Ordering::SeqCst);
            (stub(), *libc::__errno_location())
        }
    });
    let state = || {
        let id = id.load(Ordering::SeqCst);
        let text = std::fs::read_to_string(format!("/proc/self/task/{id}/syscall"));
        text.unwrap_or_default()
    };
    while !state().starts_with(&format!("{} ", libc::SYS_futex)) {
        thread::sleep(Duration::from_millis(1));
    }
    thread
}

#[test]
fn calls_wait_while_the_gate_is_closed() {
    let _gate = gate();
    let stub = stub!(ALLOC, panics_when_called: extern "C" fn() -> c_int);
    let closed = close(Duration::ZERO).expect("nothing is inside");
    assert_eq!(close(Duration::ZERO).unwrap_err(), GateError::Already);
    let callers: Vec<_> = (0..4).map(|_| caller(stub)).collect();
    BEHIND.functions[ALLOC].store(answers as *mut c_void, Ordering::SeqCst);
    drop(closed);
    for thread in callers {
        assert_eq!(thread.join().unwrap(), (7, 77), "the answer and errno");
    }
}

#[test]
fn signals_do_not_disturb_those_that_wait() {
    extern "C" fn handler(_: c_int) {
        HANDLED.fetch_add(1, Ordering::SeqCst);
    }
    static HANDLED: AtomicUsize = AtomicUsize::new(0);
    use std::os::unix::thread::JoinHandleExt;
    let _gate = gate();
    // SAFETY: a handler that only counts, without SA_RESTART.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        libc::sigaction(libc::SIGUSR1, &action, ptr::null_mut());
    }
    let stub = stub!(ALLOC, panics_when_called: extern "C" fn() -> c_int);
    let closed = close(Duration::ZERO).expect("nothing is inside");
    let thread = caller(stub);
    for sent in 1..=20 {
        // SAFETY: the thread waits at the gate.
        unsafe { libc::pthread_kill(thread.as_pthread_t() as _, libc::SIGUSR1) };
        while HANDLED.load(Ordering::SeqCst) < sent {
            thread::yield_now();
        }
    }
    assert!(!thread.is_finished());
    BEHIND.functions[ALLOC].store(answers as *mut c_void, Ordering::SeqCst);
    drop(closed);
    assert_eq!(thread.join().unwrap(), (7, 77));
}

#[test]
fn a_call_that_stays_inside_is_named_and_the_gate_opens_again() {
    static LEFT: AtomicBool = AtomicBool::new(false);
    static ENTERED: AtomicBool = AtomicBool::new(false);
    extern "C" fn long() -> c_int {
        ENTERED.store(true, Ordering::SeqCst);
        while !LEFT.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        0
    }
    let _gate = gate();
    let stub = stub!(Hook::cuStreamSynchronize as usize, long: extern "C" fn() -> c_int);
    let thread = thread::spawn(move || stub());
    while !ENTERED.load(Ordering::SeqCst) {
        thread::yield_now();
    }
    let limit = Duration::from_millis(5);
    assert_eq!(
        close(limit).unwrap_err(),
        GateError::Busy {
            calls: 1,
            example: "cuStreamSynchronize".into(),
            limit
        }
    );
    // Open: another thread gets through while the first is still inside.
    let other = stub!(ALLOC, answers: extern "C" fn() -> c_int);
    assert_eq!(thread::spawn(move || other()).join().unwrap(), 7);
    let waiting = thread::spawn(|| close(Duration::from_secs(100)).map(drop));
    LEFT.store(true, Ordering::SeqCst);
    assert_eq!(waiting.join().unwrap(), Ok(()));
    thread.join().unwrap();
}

#[test]
fn functions_past_the_gate_keep_it_open() {
    let _gate = gate();
    BEHIND.ungated.store(3, Ordering::SeqCst);
    assert_eq!(close(Duration::ZERO).unwrap_err(), GateError::Ungated(3));
    let stub = stub!(ALLOC, answers: extern "C" fn() -> c_int);
    assert_eq!(stub(), 7);
}

#[test]
fn calls_of_an_ending_process_do_not_wait() {
    let _gate = gate();
    let stub = stub!(ALLOC, panics_when_called: extern "C" fn() -> c_int);
    let closed = close(Duration::ZERO).expect("nothing is inside");
    let thread = caller(stub);
    exiting();
    assert_eq!(thread.join().unwrap(), (4, 77));
    assert_eq!(stub(), 4);
    assert!(enter().is_none());
    drop(closed);
    BEHIND.functions[ALLOC].store(answers as *mut c_void, Ordering::SeqCst);
    assert_eq!(stub(), 7);
    assert_eq!(close(Duration::ZERO).unwrap_err(), GateError::Exiting);
    assert_eq!(inside::count(), 0);
}

#[test]
fn a_forked_child_has_an_open_gate_with_only_itself_inside() {
    let _gate = gate();
    let stub = stub!(ALLOC, answers: extern "C" fn() -> c_int);
    let closed = close(Duration::ZERO).expect("nothing is inside");
    let waiting = caller(stub);
    // SAFETY: the child only calls, and leaves without unwinding.
    let child = unsafe { libc::fork() };
    if child == 0 {
        forked();
        let right = stub() == 7 && inside::count() == 0 && close(Duration::ZERO).is_ok();
        // SAFETY: ends the child.
        unsafe { libc::_exit(if right { 0 } else { 1 }) };
    }
    let mut status = -1;
    // SAFETY: this test's own child.
    unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!(status, 0);
    drop(closed);
    assert_eq!(waiting.join().unwrap(), (7, 77));
}

/// Nobody is ever inside while the gate is closed, and everybody gets on.
#[test]
fn no_call_is_inside_while_the_gate_is_closed() {
    static RUNNING: AtomicUsize = AtomicUsize::new(0);
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn works() -> c_int {
        RUNNING.fetch_add(1, Ordering::SeqCst);
        std::hint::spin_loop();
        CALLS.fetch_add(1, Ordering::Relaxed);
        RUNNING.fetch_sub(1, Ordering::SeqCst);
        0
    }
    let _gate = gate();
    let stub = stub!(Hook::cuLaunchKernel as usize, works: extern "C" fn() -> c_int);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    stub();
                }
            });
        }
        for round in 0..500 {
            let closed = close(Duration::from_secs(100)).expect("every call returns");
            let calls = CALLS.load(Ordering::SeqCst);
            assert_eq!(RUNNING.load(Ordering::SeqCst), 0, "round {round}");
            if round % 8 == 0 {
                thread::yield_now();
            }
            assert_eq!(RUNNING.load(Ordering::SeqCst), 0, "round {round}");
            assert_eq!(CALLS.load(Ordering::SeqCst), calls, "round {round}");
            drop(closed);
            while round % 16 == 0 && CALLS.load(Ordering::SeqCst) == calls {
                thread::yield_now();
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert_eq!(inside::count(), 0);
}

/// Debuggers and unwinders find the caller through the gate.
#[test]
fn a_backtrace_goes_through_the_gate() {
    #[inline(never)]
    extern "C" fn traced() -> usize {
        let trace = std::backtrace::Backtrace::force_capture().to_string();
        usize::from(trace.contains("a_backtrace_goes_through_the_gate"))
    }
    let _gate = gate();
    let known = stub!(Hook::cuTensorMapEncodeIm2colWide as usize, traced: extern "C" fn() -> usize);
    assert_eq!(known(), 1);
}
