//! Stream capture and graphs.

mod common;
use common::Driver;

const GLOBAL: i32 = 0;
const THREAD_LOCAL: i32 = 1;
const RELAXED: i32 = 2;

fn end(driver: &Driver, stream: u64) -> (u32, u64) {
    let mut graph = 99u64;
    (
        driver.call("cuStreamEndCapture", (stream, &raw mut graph)),
        graph,
    )
}

#[test]
fn what_is_captured_runs_when_launched() {
    let driver = Driver::start(&[]);
    let (memory, stream, other) = (driver.allocate(4096), driver.stream(1), driver.stream(1));
    driver.ok("cuMemsetD8_v2", (memory, 0u8, 4096usize));
    driver.ok("cuCtxSynchronize", ());
    let (add, event, back) = (driver.kernel(c"sim_add"), driver.event(), driver.event());
    driver.ok("cuStreamBeginCapture_v2", (stream, GLOBAL));
    assert_eq!(
        driver.launch("cuLaunchKernel", add, stream, &[memory, 10, 3]),
        0
    );
    driver.ok("cuEventRecord", (event, stream));
    driver.ok("cuStreamWaitEvent", (other, event, 0u32));
    assert_eq!(
        driver.launch("cuLaunchKernel", add, other, &[memory, 10, 4]),
        0
    );
    assert_eq!(driver.call("cuEventQuery", (event,)), 907);
    driver.ok("cuEventRecord", (back, other));
    driver.ok("cuStreamWaitEvent", (stream, back, 0u32));
    let mut status = 0i32;
    driver.ok("cuStreamIsCapturing", (other, &raw mut status));
    assert_eq!(status, 1);
    let (result, graph) = end(&driver, stream);
    assert_eq!(result, 0);
    driver.ok("cuStreamIsCapturing", (other, &raw mut status));
    assert_eq!(status, 0);
    let mut count = 0usize;
    driver.ok(
        "cuGraphGetNodes",
        (graph, std::ptr::null::<u64>(), &raw mut count),
    );
    assert_eq!(count, 2);
    let exec = driver.get("cuGraphInstantiateWithFlags", |place| (place, graph, 0u64));
    driver.ok("cuGraphDestroy", (graph,));
    assert_eq!(driver.read(memory, 4), [0; 4]);
    driver.ok("cuGraphLaunch", (exec, stream));
    driver.ok("cuGraphLaunch", (exec, stream));
    driver.ok("cuStreamSynchronize", (stream,));
    assert_eq!(driver.read(memory, 4), [14, 0, 0, 0]);
    driver.ok("cuGraphExecDestroy", (exec,));
    assert_eq!(driver.call("cuGraphLaunch", (exec, stream)), 400);
}

#[test]
fn an_unsafe_call_fails_and_spoils_the_capture() {
    let driver = Driver::start(&[]);
    let stream = driver.stream(1);
    let mut place = 0u64;
    driver.ok("cuStreamBeginCapture_v2", (stream, THREAD_LOCAL));
    assert_eq!(driver.call("cuMemAlloc_v2", (&raw mut place, 10usize)), 900);
    let mut status = 0i32;
    driver.ok("cuStreamIsCapturing", (stream, &raw mut status));
    assert_eq!(status, 2);
    assert_eq!(end(&driver, stream), (901, 0));
    driver.ok("cuStreamBeginCapture_v2", (stream, RELAXED));
    driver.allocate(10);
    assert_eq!(end(&driver, stream).0, 0);
}

#[test]
fn the_mode_of_another_thread_matters() {
    let driver = Driver::start(&[]);
    let context = driver.get("cuCtxGetCurrent", |place| (place,));
    let stream = driver.stream(1);
    let elsewhere = |mode: i32| {
        let address = driver.address("cuMemAlloc_v2") as usize;
        let exchange = driver.address("cuThreadExchangeStreamCaptureMode") as usize;
        let current = driver.address("cuCtxSetCurrent") as usize;
        let thread = std::thread::spawn(move || {
            use common::Arguments;
            let (mut place, mut mode) = (0u64, mode);
            // SAFETY: signatures as in cuda.h.
            unsafe {
                (context,).call(current as *mut _);
                (&raw mut mode,).call(exchange as *mut _);
                ((&raw mut place), 10usize).call(address as *mut _)
            }
        });
        thread.join().expect("the thread")
    };
    driver.ok("cuStreamBeginCapture_v2", (stream, GLOBAL));
    assert_eq!(elsewhere(RELAXED), 0);
    assert_eq!(elsewhere(THREAD_LOCAL), 0);
    assert_eq!(elsewhere(GLOBAL), 900);
    assert_eq!(end(&driver, stream).0, 901);
    driver.ok("cuStreamBeginCapture_v2", (stream, THREAD_LOCAL));
    assert_eq!(elsewhere(GLOBAL), 0);
    assert_eq!(end(&driver, stream).0, 0);
}

#[test]
fn waiting_for_a_capture_is_an_error() {
    let driver = Driver::start(&[]);
    let (stream, memory) = (driver.stream(0), driver.allocate(100));
    driver.ok("cuStreamBeginCapture_v2", (stream, RELAXED));
    assert_eq!(driver.call("cuStreamSynchronize", (stream,)), 900);
    assert_eq!(end(&driver, stream).0, 901);
    driver.ok("cuStreamBeginCapture_v2", (stream, RELAXED));
    assert_eq!(
        driver.call("cuMemsetD8Async", (memory, 0u8, 10usize, 0u64)),
        906
    );
    assert_eq!(end(&driver, stream).0, 901);
    driver.ok("cuStreamBeginCapture_v2", (stream, RELAXED));
    assert_eq!(
        driver.call("cuStreamBeginCapture_v2", (stream, RELAXED)),
        401
    );
    assert_eq!(end(&driver, stream).0, 0);
    assert_eq!(end(&driver, stream).0, 401);
    assert_eq!(driver.call("cuStreamBeginCapture_v2", (0u64, RELAXED)), 900);
}

#[test]
fn captures_must_be_joined_and_do_not_mix() {
    let driver = Driver::start(&[]);
    let (one, two, memory) = (driver.stream(1), driver.stream(1), driver.allocate(100));
    let event = driver.event();
    driver.ok("cuStreamBeginCapture_v2", (one, RELAXED));
    driver.ok("cuEventRecord", (event, one));
    driver.ok("cuStreamWaitEvent", (two, event, 0u32));
    driver.ok("cuMemsetD8Async", (memory, 0u8, 10usize, two));
    assert_eq!(end(&driver, two).0, 903);
    assert_eq!(end(&driver, one).0, 904);
    let outside = driver.event();
    driver.ok("cuEventRecord", (outside, two));
    driver.ok("cuStreamBeginCapture_v2", (one, RELAXED));
    assert_eq!(driver.call("cuStreamWaitEvent", (one, outside, 0u32)), 905);
    assert_eq!(end(&driver, one).0, 901);
    driver.ok("cuStreamBeginCapture_v2", (one, RELAXED));
    driver.ok("cuStreamBeginCapture_v2", (two, RELAXED));
    driver.ok("cuEventRecord", (event, one));
    assert_eq!(driver.call("cuStreamWaitEvent", (two, event, 0u32)), 902);
}
