//! Memory: capacity, ranges, pinned and registered memory, attributes, VMM, IPC, shapes.

mod common;
use common::Driver;
use std::ffi::c_void;

const MB: usize = 1 << 20;
const INVALID: u32 = 1;

#[test]
fn capacity_is_fixed() {
    let driver = Driver::start(&[("SIMCUDA_MEMORY_MB", "64")]);
    let (mut free, mut total) = (0usize, 0usize);
    let memory = driver.allocate(40 * MB);
    let mut place = 0u64;
    assert_eq!(driver.call("cuMemAlloc_v2", (&raw mut place, 40 * MB)), 2);
    driver.ok("cuMemGetInfo_v2", (&raw mut free, &raw mut total));
    assert_eq!((free, total), (24 * MB, 64 * MB));
    driver.ok("cuMemFree_v2", (memory,));
    assert_eq!(driver.call("cuMemFree_v2", (memory,)), INVALID);
    driver.allocate(64 * MB);
}

#[test]
fn copies_stay_within_allocations() {
    let driver = Driver::start(&[]);
    let (memory, host) = (driver.allocate(1000), vec![0u8; 4000]);
    assert_eq!(
        driver.call("cuMemcpyHtoD_v2", (memory, host.as_ptr(), 1001usize)),
        INVALID
    );
    assert_eq!(
        driver.call("cuMemcpyHtoD_v2", (0u64, host.as_ptr(), 10usize)),
        INVALID
    );
    driver.ok("cuMemcpyHtoD_v2", (memory, host.as_ptr(), 0usize));
    driver.ok("cuMemcpyHtoD_v2", (memory + 900, host.as_ptr(), 100usize));
    assert_eq!(
        driver.call("cuMemsetD8_v2", (memory, 0u8, 1001usize)),
        INVALID
    );
    driver.ok("cuMemFree_v2", (memory,));
    assert_eq!(
        driver.call("cuMemcpyHtoD_v2", (memory, host.as_ptr(), 10usize)),
        INVALID
    );
}

#[test]
fn registered_memory() {
    let driver = Driver::start(&[]);
    let host = vec![1u8; 64 * 1024];
    let at = host.as_ptr() as u64;
    driver.ok("cuMemHostRegister_v2", (at, 32 * 1024usize, 0u32));
    assert_eq!(
        driver.call("cuMemHostRegister_v2", (at + 4096, 4096usize, 0u32)),
        712
    );
    driver.ok(
        "cuMemHostRegister_v2",
        (at + 32 * 1024, 32 * 1024usize, 8u32),
    );
    let mut kind = 0u32;
    driver.ok("cuPointerGetAttribute", (&raw mut kind, 2u32, at + 100));
    assert_eq!(kind, 1);
    assert_eq!(
        driver.get("cuMemHostGetDevicePointer_v2", |place| (
            place,
            at + 100,
            0u32
        )),
        at + 100
    );
    driver.ok("cuMemHostUnregister", (at,));
    assert_eq!(driver.call("cuMemHostUnregister", (at,)), 713);
    assert_eq!(
        driver.call("cuMemHostRegister_v2", (4096u64, 4096usize, 0u32)),
        INVALID
    );
}

#[test]
fn attributes_of_pointers() {
    let driver = Driver::start(&[]);
    let memory = driver.allocate(5000);
    let host = [0u8; 10];
    let mut kind = 0u32;
    assert_eq!(
        driver.call(
            "cuPointerGetAttribute",
            (&raw mut kind, 2u32, host.as_ptr())
        ),
        INVALID
    );
    let (mut kind, mut device, mut managed, mut ordinal) = (7u32, 7u64, 7u8, 7i32);
    let numbers = [2u32, 3, 8, 9];
    let mut places: [*mut c_void; 4] = [
        (&raw mut kind).cast(),
        (&raw mut device).cast(),
        (&raw mut managed).cast(),
        (&raw mut ordinal).cast(),
    ];
    driver.ok(
        "cuPointerGetAttributes",
        (4u32, numbers.as_ptr(), places.as_mut_ptr(), host.as_ptr()),
    );
    assert_eq!((kind, device, managed, ordinal), (0, 0, 0, -2));
    driver.ok(
        "cuPointerGetAttributes",
        (4u32, numbers.as_ptr(), places.as_mut_ptr(), memory + 10),
    );
    assert_eq!((kind, device, managed, ordinal), (2, memory + 10, 0, 0));
    assert_eq!(
        driver.get("cuPointerGetAttribute", |place| (place, 11u32, memory + 10)),
        memory
    );
    assert_eq!(
        driver.get("cuPointerGetAttribute", |place| (place, 12u32, memory + 10)),
        5000
    );
    let current = driver.get("cuCtxGetCurrent", |place| (place,));
    assert_eq!(
        driver.get("cuPointerGetAttribute", |place| (place, 1u32, memory)),
        current
    );
    let other = driver.allocate(10);
    let id = |address: u64| driver.get("cuPointerGetAttribute", |place| (place, 7u32, address));
    assert_ne!(id(memory), id(other));
    let shared = driver.get("cuMemAllocManaged", |place| (place, 100usize, 1u32));
    driver.ok("cuPointerGetAttribute", (&raw mut managed, 8u32, shared));
    assert_eq!(managed, 1);
    let (mut base, mut size) = (0u64, 0usize);
    driver.ok(
        "cuMemGetAddressRange_v2",
        (&raw mut base, &raw mut size, memory + 4999),
    );
    assert_eq!((base, size), (memory, 5000));
    assert_eq!(
        driver.call(
            "cuMemGetAddressRange_v2",
            (&raw mut base, &raw mut size, host.as_ptr())
        ),
        500
    );
}

/// `CUmemAllocationProp` for device 0.
const PROPERTIES: [u32; 8] = [1, 0, 1, 0, 0, 0, 0, 0];
/// `CUmemAccessDesc` for device 0.
const ACCESS: [u32; 3] = [1, 0, 3];

#[test]
fn virtual_memory() {
    let driver = Driver::start(&[]);
    let grain = driver.get("cuMemGetAllocationGranularity", |place| {
        (place, PROPERTIES.as_ptr(), 0u32)
    }) as usize;
    assert_eq!(grain, 2 * MB);
    let base = driver.get("cuMemAddressReserve", |place| {
        (place, 4 * grain, 0usize, 0u64, 0u64)
    });
    let create = |size: usize| {
        driver.get("cuMemCreate", |place| {
            (place, size, PROPERTIES.as_ptr(), 0u64)
        })
    };
    let (one, two) = (create(grain), create(grain));
    let mut place = 0u64;
    assert_eq!(
        driver.call(
            "cuMemCreate",
            (&raw mut place, 100usize, PROPERTIES.as_ptr(), 0u64)
        ),
        INVALID
    );
    driver.ok("cuMemMap", (base, grain, 0usize, one, 0u64));
    driver.ok("cuMemMap", (base + grain as u64, grain, 0usize, two, 0u64));
    let mut host = vec![3u8; 2 * grain];
    assert_eq!(
        driver.call("cuMemcpyHtoD_v2", (base, host.as_ptr(), grain)),
        INVALID,
        "no access yet"
    );
    driver.ok("cuMemSetAccess", (base, 2 * grain, ACCESS.as_ptr(), 1usize));
    assert_eq!(
        driver.read(base, grain),
        vec![0; grain],
        "fresh memory is zero"
    );
    driver.ok("cuMemcpyHtoD_v2", (base, host.as_ptr(), 2 * grain));
    assert_eq!(
        driver.call("cuMemUnmap", (base, grain / 2)),
        INVALID,
        "not a whole mapping"
    );
    driver.ok("cuMemUnmap", (base, 2 * grain));
    assert_eq!(
        driver.call("cuMemcpyDtoH_v2", (host.as_mut_ptr(), base, 1usize)),
        INVALID
    );
    driver.ok("cuMemMap", (base + grain as u64, grain, 0usize, one, 0u64));
    driver.ok(
        "cuMemSetAccess",
        (base + grain as u64, grain, ACCESS.as_ptr(), 1usize),
    );
    assert_eq!(
        driver.read(base + grain as u64, grain),
        vec![3; grain],
        "contents stay with the allocation"
    );
    assert_eq!(
        driver.call("cuMemAddressFree", (base, 4 * grain)),
        INVALID,
        "still mapped"
    );
    let mut handle = [0u64; 8];
    assert_eq!(
        driver.call(
            "cuIpcGetMemHandle",
            (handle.as_mut_ptr(), base + grain as u64)
        ),
        INVALID
    );
    driver.ok("cuMemUnmap", (base + grain as u64, grain));
    driver.ok("cuMemRelease", (one,));
    driver.ok("cuMemRelease", (two,));
    assert_eq!(driver.call("cuMemRelease", (two,)), INVALID);
    driver.ok("cuMemAddressFree", (base, 4 * grain));
    let (mut free, mut total) = (0usize, 0usize);
    driver.ok("cuMemGetInfo_v2", (&raw mut free, &raw mut total));
    assert_eq!(free, total);
}

#[test]
fn stream_ordered_memory() {
    let driver = Driver::start(&[]);
    let stream = driver.stream(0);
    let memory = driver.get("cuMemAllocAsync", |place| (place, MB, stream));
    driver.ok("cuMemsetD8Async", (memory, 1u8, MB, stream));
    driver.ok("cuMemFreeAsync", (memory, stream));
    driver.ok("cuStreamSynchronize", (stream,));
    assert_eq!(driver.call("cuMemFree_v2", (memory,)), INVALID);
    let pool = driver.get("cuDeviceGetDefaultMemPool", |place| (place, 0i32));
    let memory = driver.get("cuMemAllocFromPoolAsync", |place| (place, MB, pool, stream));
    assert_eq!(
        driver.get("cuPointerGetAttribute", |place| (place, 17u32, memory)),
        pool
    );
}

#[repr(C)]
#[derive(Default)]
struct Copy2D {
    src_x: usize,
    src_y: usize,
    src_kind: u64,
    src_host: u64,
    src_device: u64,
    src_array: u64,
    src_pitch: usize,
    dst_x: usize,
    dst_y: usize,
    dst_kind: u64,
    dst_host: u64,
    dst_device: u64,
    dst_array: u64,
    dst_pitch: usize,
    width: usize,
    height: usize,
}

#[test]
fn rows_and_batches() {
    let driver = Driver::start(&[]);
    let memory = driver.allocate(1024);
    driver.ok("cuMemsetD8_v2", (memory, 0u8, 1024usize));
    let host: Vec<u8> = (0..64).collect();
    let copy = Copy2D {
        src_kind: 1,
        src_host: host.as_ptr() as u64,
        src_pitch: 16,
        dst_kind: 2,
        dst_device: memory,
        dst_pitch: 32,
        dst_x: 4,
        width: 8,
        height: 4,
        ..Copy2D::default()
    };
    driver.ok("cuMemcpy2D_v2", (&raw const copy,));
    let read = driver.read(memory, 128);
    for row in 0..4 {
        assert_eq!(
            read[row * 32 + 4..row * 32 + 12],
            host[row * 16..row * 16 + 8]
        );
        assert_eq!(read[row * 32..row * 32 + 4], [0; 4]);
    }
    let (stream, attributes) = (driver.stream(0), [0u64; 8]);
    let (dsts, srcs, sizes, index) = (
        [memory, memory + 500],
        [host.as_ptr(); 2],
        [10usize, 20],
        [0usize],
    );
    let arguments = (
        dsts.as_ptr(),
        srcs.as_ptr(),
        sizes.as_ptr(),
        2usize,
        attributes.as_ptr(),
        index.as_ptr(),
        1usize,
        stream,
    );
    driver.ok("cuMemcpyBatchAsync_v2", arguments);
    driver.ok("cuStreamSynchronize", (stream,));
    assert_eq!(driver.read(memory + 500, 20), host[..20]);
}

#[test]
fn ipc_is_for_other_processes() {
    if let Ok(text) = std::env::var("IPC_HANDLE") {
        return ipc_child(&text);
    }
    let driver = Driver::start(&[]);
    let memory = driver.allocate(8192);
    driver.ok("cuMemsetD8_v2", (memory + 4096, 6u8, 4096usize));
    driver.ok("cuCtxSynchronize", ());
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Handle([u64; 8]);
    let mut handle = Handle([0; 8]);
    driver.ok("cuIpcGetMemHandle", (&raw mut handle, memory));
    let mut place = 0u64;
    assert_eq!(
        driver.call("cuIpcOpenMemHandle_v2", (&raw mut place, handle, 1u32)),
        201
    );
    let own = std::env::current_exe().expect("no path");
    let text = handle.0.map(|word| word.to_string()).join(",");
    let output = std::process::Command::new(own)
        .args(["--exact", "ipc_is_for_other_processes", "--nocapture"])
        .env("IPC_HANDLE", text)
        .status();
    assert!(output.expect("no child").success());
    assert_eq!(driver.read(memory, 4), [8; 4]);
}

/// The other process: the same test, started with a handle.
fn ipc_child(text: &str) {
    let words: Vec<u64> = text
        .split(',')
        .map(|word| word.parse().expect("a number"))
        .collect();
    let handle: [u64; 8] = words.try_into().expect("eight words");
    #[repr(C)]
    struct Handle([u64; 8]);
    let driver = Driver::start(&[]);
    let memory = driver.get("cuIpcOpenMemHandle_v2", |place| {
        (place, Handle(handle), 1u32)
    });
    assert_eq!(driver.read(memory + 4096, 4096), [6; 4096]);
    driver.ok("cuMemsetD8_v2", (memory, 8u8, 100usize));
    driver.ok("cuCtxSynchronize", ());
    driver.ok("cuIpcCloseMemHandle", (memory,));
    assert_eq!(driver.call("cuIpcCloseMemHandle", (memory,)), INVALID);
}
