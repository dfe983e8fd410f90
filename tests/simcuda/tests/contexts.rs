//! Initialisation, contexts, the stack, fork.

mod common;
use common::Driver;

const INVALID_CONTEXT: u32 = 201;
const DESTROYED: u32 = 709;

#[test]
fn nothing_works_before_init_but_versions_and_names() {
    let driver = Driver::open(&[]);
    let mut count = 0i32;
    assert_eq!(driver.call("cuDeviceGetCount", (&raw mut count,)), 3);
    driver.ok("cuDriverGetVersion", (&raw mut count,));
    assert_eq!(count, 13000);
    driver.get("cuGetErrorName", |place| (709u32, place));
    driver.ok("cuInit", (0u32,));
    driver.ok("cuInit", (0u32,));
    assert_eq!(driver.call("cuInit", (1u32,)), 1);
    driver.ok("cuDeviceGetCount", (&raw mut count,));
    assert_eq!(count, 1);
}

#[test]
fn primary_context_counts_and_dies_with_the_last_release() {
    let driver = Driver::start(&[]);
    driver.get("cuDevicePrimaryCtxRetain", |place| (place, 0i32));
    let memory = driver.allocate(100);
    let stream = driver.stream(0);
    let state = || {
        let (mut flags, mut active) = (0u32, 0i32);
        driver.ok(
            "cuDevicePrimaryCtxGetState",
            (0i32, &raw mut flags, &raw mut active),
        );
        active
    };
    driver.ok("cuDevicePrimaryCtxRelease_v2", (0i32,));
    assert_eq!(state(), 1);
    driver.ok("cuDevicePrimaryCtxRelease_v2", (0i32,));
    assert_eq!(state(), 0);
    assert_eq!(
        driver.call("cuDevicePrimaryCtxRelease_v2", (0i32,)),
        INVALID_CONTEXT
    );
    assert_eq!(driver.call("cuMemFree_v2", (memory,)), DESTROYED);
    assert_eq!(driver.call("cuStreamSynchronize", (stream,)), 400);
    driver.make_current(0);
    assert_eq!(driver.call("cuMemFree_v2", (memory,)), 1);
}

#[test]
fn reset_destroys_and_flags_may_change_while_active() {
    let driver = Driver::start(&[]);
    driver.ok("cuDevicePrimaryCtxSetFlags_v2", (0i32, 4u32));
    let stream = driver.stream(0);
    driver.ok("cuDevicePrimaryCtxReset_v2", (0i32,));
    let mut free = 0usize;
    assert_eq!(
        driver.call("cuMemGetInfo_v2", (&raw mut free, &raw mut free)),
        DESTROYED
    );
    assert_eq!(driver.call("cuStreamQuery", (stream,)), 400);
}

#[test]
fn created_contexts_push_and_pop() {
    let driver = Driver::open(&[]);
    driver.ok("cuInit", (0u32,));
    let mut free = 0usize;
    assert_eq!(
        driver.call("cuMemGetInfo_v2", (&raw mut free, &raw mut free)),
        INVALID_CONTEXT
    );
    let first = driver.get("cuCtxCreate_v2", |place| (place, 0u32, 0i32));
    let second = driver.get("cuCtxCreate_v4", |place| {
        (place, std::ptr::null::<u8>(), 0u32, 0i32)
    });
    let current = || driver.get("cuCtxGetCurrent", |place| (place,));
    assert_eq!(current(), second);
    driver.ok("cuCtxDestroy_v2", (second,));
    assert_eq!(current(), first);
    driver.ok("cuCtxPushCurrent_v2", (first,));
    driver.ok("cuCtxDestroy_v2", (first,));
    assert_eq!(
        driver.call("cuMemGetInfo_v2", (&raw mut free, &raw mut free)),
        DESTROYED
    );
    assert_eq!(driver.call("cuCtxSetCurrent", (second,)), INVALID_CONTEXT);
    assert_eq!(driver.call("cuCtxDestroy_v2", (second,)), INVALID_CONTEXT);
}

#[test]
fn a_forked_child_of_an_initialised_process_gets_not_initialised() {
    let driver = Driver::start(&[]);
    // SAFETY: the child only calls the driver and leaves.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let mut place = 0u64;
        let all = [
            driver.call("cuInit", (0u32,)),
            driver.call("cuDeviceGetCount", (&raw mut place,)),
            driver.call("cuMemAlloc_v2", (&raw mut place, 10usize)),
        ];
        // SAFETY: leaving without the parent's exit handlers.
        unsafe { libc::_exit(i32::from(all != [3, 3, 3])) };
    }
    let mut status = 0;
    // SAFETY: waiting for the own child.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0);
}

#[test]
fn a_child_of_a_process_that_did_not_initialise_works() {
    let driver = Driver::open(&[]);
    // SAFETY: the child only calls the driver and leaves.
    let child = unsafe { libc::fork() };
    if child == 0 {
        driver.ok("cuInit", (0u32,));
        driver.make_current(0);
        driver.read(driver.allocate(10), 10);
        // SAFETY: leaving without the parent's exit handlers.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: waiting for the own child.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0);
}

/// The writable segments of the library without what the loader made read-only: (start, bytes).
fn data_segments() -> Vec<(usize, usize)> {
    extern "C" fn look(
        info: *mut libc::dl_phdr_info,
        _size: usize,
        found: *mut std::ffi::c_void,
    ) -> i32 {
        // SAFETY: the loader passes a library, and the place is the vector of the caller.
        let (info, found) = unsafe { (&*info, &mut *found.cast::<Vec<(usize, usize)>>()) };
        // SAFETY: names and headers as the loader gives them.
        let (name, headers) = unsafe {
            let headers = std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into());
            (std::ffi::CStr::from_ptr(info.dlpi_name), headers)
        };
        if !name.to_bytes().ends_with(b"libsimcuda.so") {
            return 0;
        }
        let relro = headers
            .iter()
            .find(|header| header.p_type == libc::PT_GNU_RELRO);
        let protected = relro.map_or(0, |relro| {
            (relro.p_vaddr + relro.p_memsz).next_multiple_of(4096)
        });
        for header in headers
            .iter()
            .filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W != 0)
        {
            let start = header.p_vaddr.max(protected);
            let end = header.p_vaddr + header.p_memsz;
            if start < end {
                found.push(((info.dlpi_addr + start) as usize, (end - start) as usize));
            }
        }
        1
    }
    let mut found: Vec<(usize, usize)> = Vec::new();
    // SAFETY: the callback only reads what it is given.
    unsafe { libc::dl_iterate_phdr(Some(look_as_c(look)), (&raw mut found).cast()) };
    found
}

/// The type that libc wants.
type Look = unsafe extern "C" fn(*mut libc::dl_phdr_info, usize, *mut std::ffi::c_void) -> i32;

fn look_as_c(
    look: extern "C" fn(*mut libc::dl_phdr_info, usize, *mut std::ffi::c_void) -> i32,
) -> Look {
    look
}

#[test]
fn a_child_whose_data_segments_are_put_back_can_initialise_again() {
    let driver = Driver::open(&[]);
    let segments = data_segments();
    assert!(!segments.is_empty());
    let copy = |&(start, bytes): &(usize, usize)| {
        // SAFETY: the ranges are mapped and readable.
        unsafe { std::slice::from_raw_parts(start as *const u8, bytes) }.to_vec()
    };
    let snapshot: Vec<Vec<u8>> = segments.iter().map(copy).collect();
    driver.ok("cuInit", (0u32,));
    driver.make_current(0);
    let stream = driver.stream(0);
    driver.spin(stream, 1000);
    // SAFETY: the child puts the driver's data back, uses the driver and leaves.
    let child = unsafe { libc::fork() };
    if child == 0 {
        for ((start, bytes), saved) in segments.iter().zip(&snapshot) {
            // SAFETY: the same ranges, writable; this is the only thread.
            unsafe { std::ptr::copy_nonoverlapping(saved.as_ptr(), *start as *mut u8, *bytes) };
        }
        driver.ok("cuInit", (0u32,));
        driver.make_current(0);
        let memory = driver.allocate(4096);
        driver.ok("cuMemcpyHtoD_v2", (memory, [7u8; 64].as_ptr(), 64usize));
        let stream = driver.stream(0);
        driver.spin(stream, 100);
        driver.ok("cuCtxSynchronize", ());
        let same = driver.read(memory, 64) == [7; 64];
        // SAFETY: leaving without the parent's exit handlers.
        unsafe { libc::_exit(i32::from(!same)) };
    }
    let mut status = 0;
    // SAFETY: waiting for the own child.
    unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(status, 0);
}

#[test]
fn peers_can_be_enabled_once() {
    let driver = Driver::open(&[("SIMCUDA_DEVICES", "2")]);
    driver.ok("cuInit", (0u32,));
    let second = driver.make_current(1);
    let first = driver.make_current(0);
    assert_eq!(driver.call("cuCtxEnablePeerAccess", (first, 0u32)), 217);
    driver.ok("cuCtxEnablePeerAccess", (second, 0u32));
    assert_eq!(driver.call("cuCtxEnablePeerAccess", (second, 0u32)), 704);
    driver.ok("cuCtxDisablePeerAccess", (second,));
    assert_eq!(driver.call("cuCtxDisablePeerAccess", (second,)), 705);
}

#[test]
fn limits() {
    let driver = Driver::start(&[]);
    driver.ok("cuCtxSetLimit", (0u32, 4096usize));
    assert_eq!(driver.get("cuCtxGetLimit", |place| (place, 0u32)), 4096);
    assert_eq!(driver.call("cuCtxSetLimit", (99u32, 1usize)), 215);
}
