//! Lookup, faults, journal, link, checkpoint.

mod common;
use common::Driver;
use std::ffi::{CStr, c_void};
use std::time::{Duration, Instant};

fn look_up(driver: &Driver, name: &CStr, version: i32, flags: u64) -> (u32, *mut c_void, u32) {
    let (mut found, mut status) = (std::ptr::dangling_mut::<c_void>(), 9u32);
    let result = driver.call(
        "cuGetProcAddress_v2",
        (
            name.as_ptr(),
            &raw mut found,
            version,
            flags,
            &raw mut status,
        ),
    );
    (result, found, status)
}

#[test]
fn lookup_follows_versions_and_flags() {
    let driver = Driver::open(&[]);
    let export = |name: &str| driver.address(name);
    assert_eq!(
        look_up(&driver, c"cuMemAlloc", 3020, 0),
        (0, export("cuMemAlloc_v2"), 0)
    );
    assert_eq!(
        look_up(&driver, c"cuMemcpyHtoD", 13000, 2),
        (0, export("cuMemcpyHtoD_v2_ptds"), 0)
    );
    assert_eq!(
        look_up(&driver, c"cuMemcpyHtoD", 5000, 2),
        (0, export("cuMemcpyHtoD_v2"), 0)
    );
    assert_eq!(
        look_up(&driver, c"cuCtxCreate", 11040, 0),
        (0, export("cuCtxCreate_v3"), 0)
    );
    assert_eq!(
        look_up(&driver, c"cuCtxCreate", 13000, 0),
        (0, export("cuCtxCreate_v4"), 0)
    );
    assert_eq!(
        look_up(&driver, c"cuMemcpyBatchAsync", 12080, 0),
        (0, export("cuMemcpyBatchAsync"), 0)
    );
    assert_eq!(
        look_up(&driver, c"cuMemcpyBatchAsync", 13000, 2),
        (0, export("cuMemcpyBatchAsync_v2_ptsz"), 0)
    );
    assert_eq!(
        look_up(&driver, c"cuMemcpyBatchAsync", 12000, 0),
        (0, std::ptr::null_mut(), 2)
    );
    assert_eq!(
        look_up(&driver, c"cuNothing", 13000, 0),
        (0, std::ptr::null_mut(), 1)
    );
    assert_eq!(
        look_up(&driver, c"", 13000, 0),
        (0, std::ptr::null_mut(), 1)
    );
    assert_eq!(look_up(&driver, c"cuInit", 13010, 0).0, 1);
    let mut found = std::ptr::null_mut::<c_void>();
    driver.ok(
        "cuGetProcAddress",
        (c"cuInit".as_ptr(), &raw mut found, 12000i32, 0u64),
    );
    assert_eq!(found, export("cuInit"));
    driver.ok(
        "cuGetProcAddress",
        (c"".as_ptr(), &raw mut found, 12000i32, 0u64),
    );
    assert_eq!(
        driver.call(
            "cuGetProcAddress",
            (c"cuNothing".as_ptr(), &raw mut found, 12000i32, 0u64)
        ),
        500
    );
}

#[test]
fn every_request_of_the_runtime_is_answered() {
    // Name, version and flags of each question that libcudart 13 asks at its start.
    let requests = include_str!("cudart-13-requests.txt");
    assert_eq!(requests.lines().count(), 439);
    let driver = Driver::open(&[]);
    for line in requests.lines() {
        let parts: Vec<&str> = line.split(' ').collect();
        let name = std::ffi::CString::new(parts[0]).expect("a name");
        let number = |text: &str| text.parse::<i32>().expect("a number");
        let (_, address, _) = look_up(&driver, &name, number(parts[1]), number(parts[2]) as u64);
        assert!(!address.is_null(), "{line}");
    }
}

#[test]
fn missing_names_and_another_version() {
    let settings = [
        ("SIMCUDA_MISSING", "cuMemcpyHtoD_v2,cuMemAllocManaged"),
        ("SIMCUDA_VERSION", "12040"),
    ];
    let driver = Driver::open(&settings);
    assert_eq!(
        look_up(&driver, c"cuMemcpyHtoD", 12000, 0).1,
        std::ptr::null_mut()
    );
    assert_eq!(
        look_up(&driver, c"cuMemAllocManaged", 12000, 0),
        (0, std::ptr::null_mut(), 1)
    );
    assert_eq!(
        look_up(&driver, c"cuMemcpyBatchAsync", 12040, 0),
        (0, std::ptr::null_mut(), 1)
    );
    assert_eq!(look_up(&driver, c"cuInit", 13000, 0).0, 1);
}

#[test]
fn chosen_calls_fail() {
    let driver = Driver::open(&[(
        "SIMCUDA_FAIL",
        "cuInit:1:100,cuMemAlloc_v2:2:2,cuStreamCreate:1+:999",
    )]);
    assert_eq!(driver.call("cuInit", (0u32,)), 100);
    driver.ok("cuInit", (0u32,));
    driver.make_current(0);
    let mut place = 0u64;
    driver.allocate(10);
    assert_eq!(driver.call("cuMemAlloc_v2", (&raw mut place, 10usize)), 2);
    driver.allocate(10);
    for _ in 0..3 {
        assert_eq!(driver.call("cuStreamCreate", (&raw mut place, 0u32)), 999);
    }
    driver.call("simcuda_set_fault", (c"".as_ptr(),));
    driver.stream(0);
    assert_eq!(
        driver.call("simcuda_call_count", (c"cuMemAlloc_v2".as_ptr(),)),
        3
    );
    driver.call("simcuda_set_fault", (c"*:1+:7".as_ptr(),));
    assert_eq!(driver.call("cuCtxSynchronize", ()), 7);
}

#[test]
fn the_journal_has_a_line_per_call() {
    let path = std::env::temp_dir().join(format!("simcuda-journal-{}", std::process::id()));
    let driver = Driver::start(&[("SIMCUDA_JOURNAL", path.to_str().expect("a path"))]);
    driver.allocate(77);
    let journal = std::fs::read_to_string(&path).expect("no journal");
    std::fs::remove_file(&path).expect("cannot remove it");
    assert!(
        journal
            .lines()
            .next()
            .is_some_and(|line| line.starts_with("1 ") && line.ends_with("cuInit(flags=0) = 0"))
    );
    assert!(
        journal
            .lines()
            .any(|line| line.contains("cuMemAlloc_v2(") && line.ends_with("bytes=4d) = 0"))
    );
}

#[test]
fn the_link_takes_time() {
    let driver = Driver::start(&[("SIMCUDA_LINK_GBPS", "1"), ("SIMCUDA_PAGEABLE_GBPS", "0.5")]);
    let (memory, host) = (driver.allocate(32 << 20), driver.pinned(32 << 20));
    let start = Instant::now();
    driver.ok("cuMemcpyHtoD_v2", (memory, host.as_ptr(), host.len()));
    assert!(start.elapsed() >= Duration::from_millis(33));
    let pageable = vec![1u8; 32 << 20];
    let start = Instant::now();
    driver.ok(
        "cuMemcpyHtoD_v2",
        (memory, pageable.as_ptr(), pageable.len()),
    );
    assert!(start.elapsed() >= Duration::from_millis(66));
}

#[test]
fn checkpoint_takes_memory_out_and_back_while_calls_wait() {
    let driver = Driver::start(&[]);
    let pid = std::process::id() as i32;
    let state = || {
        let mut state = 9u32;
        driver.ok("cuCheckpointProcessGetState", (pid, &raw mut state));
        state
    };
    let memory = driver.allocate(3 << 20);
    driver.ok("cuMemsetD8_v2", (memory, 0xAB, 3usize << 20));
    let nothing = std::ptr::null::<u8>();
    assert_eq!(
        driver.call("cuCheckpointProcessCheckpoint", (pid, nothing)),
        401
    );
    let stream = driver.stream(1);
    driver.spin(stream, 100_000);
    let limit = [10u32; 16];
    assert_eq!(
        driver.call("cuCheckpointProcessLock", (pid, limit.as_ptr())),
        600
    );
    assert_eq!(state(), 0);
    driver.ok("cuCheckpointProcessLock", (pid, nothing));
    assert_eq!(state(), 1);
    let (synchronize, context) = (
        driver.address("cuCtxSynchronize") as usize,
        driver.address("cuCtxSetCurrent") as usize,
    );
    let blocked = std::thread::spawn(move || {
        use common::Arguments;
        // SAFETY: signatures as in cuda.h.
        unsafe {
            (0u64,).call(context as *mut _);
            ().call(synchronize as *mut _)
        }
    });
    driver.ok("cuCheckpointProcessCheckpoint", (pid, nothing));
    assert_eq!(state(), 2);
    // SAFETY: device memory stays readable; it is gone while the process is checkpointed.
    assert_eq!(unsafe { (memory as *const u8).read_volatile() }, 0);
    assert!(!blocked.is_finished());
    let mut tid = 0u32;
    driver.ok("cuCheckpointProcessGetRestoreThreadId", (pid, &raw mut tid));
    assert_ne!(tid, 0);
    driver.ok("cuCheckpointProcessRestore", (pid, nothing));
    driver.ok("cuCheckpointProcessUnlock", (pid, nothing));
    assert_eq!(blocked.join().expect("the thread"), 201);
    assert_eq!(driver.read(memory, 3 << 20), vec![0xAB; 3 << 20]);
}

#[test]
fn another_process_can_be_locked() {
    let driver = Driver::open(&[]);
    let mut pipe = [0; 2];
    // SAFETY: a place for two descriptors.
    assert_eq!(unsafe { libc::pipe(pipe.as_mut_ptr()) }, 0);
    // SAFETY: the child uses the driver until it is killed.
    let child = unsafe { libc::fork() };
    if child == 0 {
        driver.ok("cuInit", (0u32,));
        // SAFETY: a descriptor and a byte of our own.
        unsafe {
            libc::write(pipe[1], [1u8].as_ptr().cast(), 1);
            loop {
                libc::pause();
            }
        }
    }
    let mut byte = [0u8];
    // SAFETY: a place for a byte.
    unsafe { libc::read(pipe[0], byte.as_mut_ptr().cast(), 1) };
    let nothing = std::ptr::null::<u8>();
    let mut state = 9u32;
    driver.ok("cuCheckpointProcessLock", (child, nothing));
    driver.ok("cuCheckpointProcessGetState", (child, &raw mut state));
    assert_eq!(state, 1);
    driver.ok("cuCheckpointProcessCheckpoint", (child, nothing));
    driver.ok("cuCheckpointProcessRestore", (child, nothing));
    driver.ok("cuCheckpointProcessUnlock", (child, nothing));
    // Any thread stands for its process.
    let mut thread = 0i32;
    driver.ok(
        "cuCheckpointProcessGetRestoreThreadId",
        (child, &raw mut thread),
    );
    assert_ne!(thread, child);
    driver.ok("cuCheckpointProcessLock", (thread, nothing));
    assert_eq!(
        driver.call("cuCheckpointProcessLock", (child, nothing)),
        401
    );
    driver.ok("cuCheckpointProcessUnlock", (thread, nothing));
    assert_eq!(driver.call("cuCheckpointProcessLock", (1i32, nothing)), 3);
    for nobody in [0, -1, i32::MAX] {
        assert_eq!(
            driver.call("cuCheckpointProcessLock", (nobody, nothing)),
            304
        );
    }
    // SAFETY: ending the own child.
    unsafe {
        libc::kill(child, libc::SIGKILL);
        libc::waitpid(child, std::ptr::null_mut(), 0);
    }
}
