//! What streams order, and what they do not.

mod common;
use common::Driver;

const DELAYS: &[(&str, &str)] = &[("SIMCUDA_DELAY_US", "300"), ("SIMCUDA_SEED", "7")];

#[test]
fn a_pageable_copy_waits_stages_and_finishes_late() {
    let driver = Driver::start(&[]);
    let memory = driver.allocate(1024);
    let stream = driver.stream(1);
    driver.ok("cuMemsetD8_v2", (memory, 0u8, 1024usize));
    driver.ok("cuCtxSynchronize", ());
    driver.spin(stream, 50_000);
    let mut source = vec![5u8; 1024];
    // Staged at once, though the stream is busy.
    driver.ok(
        "cuMemcpyHtoDAsync_v2",
        (memory, source.as_ptr(), 1024usize, stream),
    );
    source.fill(9);
    assert_eq!(driver.call("cuStreamQuery", (stream,)), 600);
    driver.ok("cuStreamSynchronize", (stream,));
    assert_eq!(driver.read(memory, 1024), [5; 1024]);
}

#[test]
fn a_blocking_pageable_copy_waits_for_the_stream_before_it_reads() {
    let driver = Driver::start(&[]);
    let (memory, source) = (driver.allocate(8), Box::leak(Box::new(1u64)));
    extern "C" fn write(place: *mut u64) {
        // SAFETY: the test passes a place that lives for ever.
        unsafe { place.write_volatile(2) };
    }
    let place = &raw mut *source;
    driver.spin(0, 20_000);
    driver.ok(
        "cuLaunchHostFunc",
        (0u64, write as extern "C" fn(*mut u64), place),
    );
    driver.ok("cuMemcpyHtoD_v2", (memory, place, 8usize));
    assert_eq!(driver.read(memory, 8), 2u64.to_ne_bytes());
}

#[test]
fn an_asynchronous_pinned_copy_reads_its_source_late() {
    let driver = Driver::start(&[]);
    let (memory, source) = (driver.allocate(64), driver.pinned(64));
    let stream = driver.stream(1);
    source.fill(1);
    driver.spin(stream, 30_000);
    driver.ok(
        "cuMemcpyHtoDAsync_v2",
        (memory, source.as_ptr(), 64usize, stream),
    );
    source.fill(2);
    driver.ok("cuStreamSynchronize", (stream,));
    assert_eq!(driver.read(memory, 64), [2; 64]);
}

#[test]
fn the_legacy_stream_and_blocking_streams_wait_for_each_other() {
    let driver = Driver::start(DELAYS);
    let fill = driver.kernel(c"sim_fill");
    let check = driver.kernel(c"sim_check");
    let (memory, result) = (driver.allocate(4096), driver.allocate(4));
    driver.ok("cuMemsetD32_v2", (result, 0u32, 1usize));
    let streams: Vec<u64> = (0..4).map(|_| driver.stream(0)).collect();
    for round in 1..40u64 {
        let by = streams[round as usize % 4];
        let (first, second) = if round % 2 == 0 { (by, 0) } else { (0, by) };
        assert_eq!(
            driver.launch("cuLaunchKernel", fill, first, &[memory, 1024, round]),
            0
        );
        assert_eq!(
            driver.launch(
                "cuLaunchKernel",
                check,
                second,
                &[memory, 1024, round, result]
            ),
            0
        );
        // The next round uses other streams and must not overtake this one.
        driver.ok("cuStreamSynchronize", (second,));
    }
    driver.ok("cuCtxSynchronize", ());
    assert_eq!(driver.read(result, 4), [0; 4]);
}

#[test]
fn per_thread_streams_obey_the_legacy_stream_and_non_blocking_ones_do_not() {
    let driver = Driver::start(&[]);
    let free = driver.stream(1);
    driver.spin(0, 60_000);
    driver.ok("cuMemsetD8Async", (driver.allocate(8), 0u8, 8usize, free));
    driver.ok("cuStreamSynchronize", (free,));
    assert_eq!(driver.call("cuStreamQuery", (0u64,)), 600);
    let memory = driver.allocate(8);
    driver.ok("cuMemsetD8Async_ptsz", (memory, 0u8, 8usize, 0u64));
    assert_eq!(driver.call("cuStreamQuery_ptsz", (0u64,)), 600);
    driver.ok("cuStreamSynchronize_ptsz", (0u64,));
    assert_eq!(driver.call("cuStreamQuery", (1u64,)), 0);
    assert_eq!(driver.call("cuStreamQuery", (2u64,)), 0);
}

#[test]
fn events_order_streams() {
    let driver = Driver::start(DELAYS);
    let (fill, check) = (driver.kernel(c"sim_fill"), driver.kernel(c"sim_check"));
    let (memory, result) = (driver.allocate(4096), driver.allocate(4));
    driver.ok("cuMemsetD32_v2", (result, 0u32, 1usize));
    driver.ok("cuCtxSynchronize", ());
    let (one, two) = (driver.stream(1), driver.stream(1));
    let (there, back) = (driver.event(), driver.event());
    for round in 0..50u64 {
        assert_eq!(
            driver.launch("cuLaunchKernel", fill, one, &[memory, 1024, round]),
            0
        );
        driver.ok("cuEventRecord", (there, one));
        driver.ok("cuStreamWaitEvent", (two, there, 0u32));
        assert_eq!(
            driver.launch("cuLaunchKernel", check, two, &[memory, 1024, round, result]),
            0
        );
        driver.ok("cuEventRecord", (back, two));
        driver.ok("cuStreamWaitEvent", (one, back, 0u32));
    }
    driver.ok("cuCtxSynchronize", ());
    assert_eq!(driver.read(result, 4), [0; 4]);
}

#[test]
fn without_order_the_delays_show() {
    let driver = Driver::start(&[("SIMCUDA_DELAY_US", "2000")]);
    let (fill, check) = (driver.kernel(c"sim_fill"), driver.kernel(c"sim_check"));
    let (memory, result) = (driver.allocate(4096), driver.allocate(4));
    driver.ok("cuMemsetD32_v2", (result, 0u32, 1usize));
    driver.ok("cuCtxSynchronize", ());
    let (one, two) = (driver.stream(1), driver.stream(1));
    for round in 1..30u64 {
        assert_eq!(
            driver.launch("cuLaunchKernel", fill, one, &[memory, 1024, round]),
            0
        );
        assert_eq!(
            driver.launch("cuLaunchKernel", check, two, &[memory, 1024, round, result]),
            0
        );
    }
    driver.ok("cuCtxSynchronize", ());
    assert_ne!(driver.read(result, 4), [0; 4]);
}

#[test]
fn events_know_their_context_and_their_time() {
    let driver = Driver::start(&[]);
    let (never, start, end) = (driver.event(), driver.event(), driver.event());
    driver.ok("cuEventQuery", (never,));
    driver.ok("cuEventSynchronize", (never,));
    let stream = driver.stream(0);
    driver.ok("cuEventRecord", (start, stream));
    driver.spin(stream, 20_000);
    driver.ok("cuEventRecord", (end, stream));
    let mut time = 0f32;
    assert_eq!(
        driver.call("cuEventElapsedTime", (&raw mut time, start, never)),
        400
    );
    assert_eq!(
        driver.call("cuEventElapsedTime", (&raw mut time, start, end)),
        600
    );
    assert_eq!(driver.call("cuEventQuery", (end,)), 600);
    driver.ok("cuEventSynchronize", (end,));
    driver.ok("cuEventElapsedTime_v2", (&raw mut time, start, end));
    assert!(time >= 20.0);
    driver.get("cuCtxCreate_v2", |place| (place, 0u32, 0i32));
    let elsewhere = driver.stream(0);
    assert_eq!(driver.call("cuEventRecord", (start, elsewhere)), 400);
    driver.ok("cuStreamWaitEvent", (elsewhere, end, 0u32));
    driver.ok("cuEventDestroy_v2", (start,));
    assert_eq!(driver.call("cuEventQuery", (start,)), 400);
}

#[test]
fn values_in_memory_order_streams() {
    let driver = Driver::start(DELAYS);
    let flag = driver.allocate(8);
    driver.ok("cuMemsetD8_v2", (flag, 0u8, 8usize));
    driver.ok("cuCtxSynchronize", ());
    let (one, two) = (driver.stream(1), driver.stream(1));
    driver.ok("cuStreamWaitValue32_v2", (one, flag, 3u32, 0u32));
    assert_eq!(driver.call("cuStreamQuery", (one,)), 600);
    driver.ok("cuStreamWriteValue32_v2", (two, flag, 3u32, 0u32));
    driver.ok("cuStreamSynchronize", (one,));
}

#[test]
fn destroyed_streams_finish_their_work() {
    let driver = Driver::start(&[]);
    let (memory, stream) = (driver.allocate(8), driver.stream(0));
    driver.spin(stream, 20_000);
    driver.ok("cuMemsetD8Async", (memory, 4u8, 8usize, stream));
    driver.ok("cuStreamDestroy_v2", (stream,));
    assert_eq!(driver.call("cuStreamQuery", (stream,)), 400);
    // The legacy stream still waits for it.
    assert_eq!(driver.read(memory, 8), [4; 8]);
}

#[test]
fn many_threads_at_once() {
    let driver = Driver::start(&[]);
    let context = driver.get("cuCtxGetCurrent", |place| (place,));
    std::thread::scope(|scope| {
        for thread in 0..4u8 {
            let driver = &driver;
            scope.spawn(move || {
                driver.ok("cuCtxSetCurrent", (context,));
                let (stream, event, memory) =
                    (driver.stream(1), driver.event(), driver.allocate(5000));
                for round in 0..300usize {
                    let source =
                        vec![thread.wrapping_mul(50).wrapping_add(round as u8); 1 + round * 13];
                    driver.ok(
                        "cuMemcpyHtoDAsync_v2",
                        (memory, source.as_ptr(), source.len(), stream),
                    );
                    driver.ok("cuEventRecord", (event, stream));
                    driver.ok("cuStreamWaitEvent", (0u64, event, 0u32));
                    assert_eq!(driver.read(memory, source.len()), source);
                }
                driver.ok("cuEventDestroy_v2", (event,));
                driver.ok("cuStreamDestroy_v2", (stream,));
                driver.ok("cuMemFree_v2", (memory,));
            });
        }
    });
}
