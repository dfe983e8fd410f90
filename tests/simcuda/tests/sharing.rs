//! Memory that several devices or processes use, and what a whole context waits for.

mod common;
use common::Driver;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

const MB: usize = 1 << 20;
const PAGE: usize = 2 * MB;
const INVALID: u32 = 1;
const ILLEGAL_ADDRESS: u32 = 700;

/// `CUmemAllocationProp` for a device, that may be exported as a file descriptor or not.
fn properties(device: u32, shared: bool) -> [u32; 8] {
    [1, u32::from(shared), 1, device, 0, 0, 0, 0]
}

/// A page of a device that is mapped but not accessible, and its handle.
fn mapped(driver: &Driver, properties: &[u32; 8]) -> (u64, u64) {
    let base = driver.get("cuMemAddressReserve", |place| {
        (place, PAGE, 0usize, 0u64, 0u64)
    });
    let handle = driver.get("cuMemCreate", |place| {
        (place, PAGE, properties.as_ptr(), 0u64)
    });
    driver.ok("cuMemMap", (base, PAGE, 0usize, handle, 0u64));
    (base, handle)
}

fn give_access(driver: &Driver, base: u64, device: u32, flags: u32) {
    let access = [1, device, flags];
    driver.ok("cuMemSetAccess", (base, PAGE, access.as_ptr(), 1usize));
}

fn access_of(driver: &Driver, base: u64, device: u32) -> u64 {
    let location = [1, device];
    driver.get("cuMemGetAccess", |place| (place, location.as_ptr(), base))
}

fn fill(driver: &Driver, address: u64, words: u64, value: u64) -> u32 {
    let kernel = driver.kernel(c"sim_fill");
    driver.launch("cuLaunchKernel", kernel, 0, &[address, words, value])
}

fn fill_all(driver: &Driver, address: u64, bytes: usize, value: u8) {
    driver.ok("cuMemsetD8_v2", (address, value, bytes));
    driver.ok("cuCtxSynchronize", ());
}

#[test]
fn access_is_a_matter_of_each_device() {
    let driver = Driver::start(&[("SIMCUDA_DEVICES", "2")]);
    let (base, _) = mapped(&driver, &properties(0, false));
    give_access(&driver, base, 0, 1);
    give_access(&driver, base, 1, 3);
    assert_eq!(access_of(&driver, base, 0), 1);
    assert_eq!(access_of(&driver, base, 1), 3);
    assert_eq!(driver.read(base, 4), [0; 4]);
    assert_eq!(
        driver.call("cuMemsetD8_v2", (base, 7u8, PAGE)),
        INVALID,
        "only to be read here"
    );
    driver.make_current(1);
    fill_all(&driver, base, PAGE, 7);
    give_access(&driver, base, 1, 0);
    assert_eq!(access_of(&driver, base, 1), 0);
    let mut byte = 0u8;
    assert_eq!(
        driver.call("cuMemcpyDtoH_v2", (&raw mut byte, base, 1usize)),
        INVALID
    );
    driver.make_current(0);
    assert_eq!(driver.read(base, 4), [7; 4]);
}

#[test]
fn a_kernel_that_may_not_touch_its_memory_spoils_its_context() {
    let driver = Driver::start(&[("SIMCUDA_DEVICES", "2")]);
    let (base, _) = mapped(&driver, &properties(0, false));
    give_access(&driver, base, 0, 1);
    driver.make_current(1);
    let own = driver.allocate(MB);
    driver.make_current(0);
    assert_eq!(fill(&driver, base, 4, 1), 0, "a launch does not look");
    assert_eq!(driver.call("cuCtxSynchronize", ()), ILLEGAL_ADDRESS);
    let mut place = 0u64;
    assert_eq!(
        driver.call("cuMemAlloc_v2", (&raw mut place, MB)),
        ILLEGAL_ADDRESS,
        "it stays spoiled"
    );
    driver.make_current(1);
    fill_all(&driver, own, MB, 2);
    driver.ok("cuDevicePrimaryCtxReset_v2", (0i32,));
    driver.make_current(0);
    let memory = driver.allocate(MB);
    assert_eq!(fill(&driver, memory, 4, 1), 0);
    driver.ok("cuCtxSynchronize", ());
}

#[test]
fn peers_reach_plain_memory_once_they_are_enabled() {
    let driver = Driver::start(&[("SIMCUDA_DEVICES", "2")]);
    let memory = driver.allocate(MB);
    let zero = driver.get("cuCtxGetCurrent", |place| (place,));
    driver.make_current(1);
    driver.ok("cuCtxEnablePeerAccess", (zero, 0u32));
    assert_eq!(driver.call("cuCtxEnablePeerAccess", (zero, 0u32)), 704);
    assert_eq!(fill(&driver, memory, 4, 1), 0);
    driver.ok("cuCtxSynchronize", ());
    // A peer's rights on plain memory are none on mapped memory.
    let (base, _) = mapped(&driver, &properties(0, false));
    give_access(&driver, base, 0, 3);
    let mut byte = 0u8;
    assert_eq!(
        driver.call("cuMemcpyDtoH_v2", (&raw mut byte, base, 1usize)),
        INVALID
    );
    driver.ok("cuCtxDisablePeerAccess", (zero,));
    assert_eq!(driver.call("cuCtxDisablePeerAccess", (zero,)), 705);
    assert_eq!(fill(&driver, memory, 4, 2), 0);
    assert_eq!(driver.call("cuCtxSynchronize", ()), ILLEGAL_ADDRESS);
}

#[test]
fn mapped_memory_belongs_to_no_context() {
    let driver = Driver::start(&[]);
    let (base, _) = mapped(&driver, &properties(0, true));
    give_access(&driver, base, 0, 3);
    let plain = driver.allocate(MB);
    let current = driver.get("cuCtxGetCurrent", |place| (place,));
    let about = |number: u32, address: u64| {
        driver.get("cuPointerGetAttribute", |place| (place, number, address))
    };
    let is = |number: u32, address: u64| about(number, address) & 0xFF;
    assert_eq!((about(1, base), about(1, plain)), (0, current));
    // IS_LEGACY_CUDA_IPC_CAPABLE and ALLOWED_HANDLE_TYPES.
    assert_eq!((is(10, base), is(10, plain)), (0, 1));
    assert_eq!((about(14, base), about(14, plain)), (1, 0));
}

#[test]
fn a_context_records_and_waits_as_a_whole() {
    let driver = Driver::start(&[]);
    let context = driver.get("cuCtxGetCurrent", |place| (place,));
    let (one, two) = (driver.stream(1), driver.stream(1));
    let event = driver.event();
    driver.spin(one, 50_000);
    driver.ok("cuCtxRecordEvent", (context, event));
    assert_eq!(driver.call("cuEventQuery", (event,)), 600);
    driver.ok("cuCtxWaitEvent", (context, event));
    let memory = driver.allocate(MB);
    driver.ok("cuMemsetD8Async", (memory, 1u8, MB, two));
    assert_eq!(driver.call("cuStreamQuery", (two,)), 600);
    driver.ok("cuStreamSynchronize", (two,));
    driver.ok("cuEventQuery", (event,));

    let other = driver.get("cuCtxCreate_v2", |place| (place, 0u32, 0i32));
    assert_eq!(driver.call("cuCtxRecordEvent", (other, event)), 400);
    driver.ok("cuCtxSetCurrent", (context,));
    driver.ok("cuStreamBeginCapture_v2", (one, 2u32));
    driver.ok("cuMemsetD8Async", (memory, 2u8, MB, one));
    assert_eq!(driver.call("cuCtxRecordEvent", (context, event)), 900);
    let mut graph = 0u64;
    assert_eq!(
        driver.call("cuStreamEndCapture", (one, &raw mut graph)),
        901
    );
    driver.ok("cuCtxRecordEvent", (context, event));
}

/// What another process is told by its environment.
fn told(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn other_process(test: &str, name: &str, value: &str) -> std::process::Command {
    let mut command = std::process::Command::new(std::env::current_exe().expect("no path"));
    command
        .args(["--exact", test, "--nocapture"])
        .env(name, value);
    command
}

#[test]
fn physical_memory_is_shared_by_its_descriptor() {
    if let Some(text) = told("SHARED_FILE") {
        return importing_process(text.parse().expect("a number"));
    }
    let driver = Driver::start(&[]);
    let (base, handle) = mapped(&driver, &properties(0, true));
    give_access(&driver, base, 0, 3);
    fill_all(&driver, base, PAGE, 6);
    let file = export(&driver, handle);
    let free_before = free(&driver);

    // The same process: the same memory, and no more of it.
    let imported = import(&driver, file.as_raw_fd());
    let again = driver.get("cuMemAddressReserve", |place| {
        (place, PAGE, 0usize, 0u64, 0u64)
    });
    driver.ok("cuMemMap", (again, PAGE, 0usize, imported, 0u64));
    give_access(&driver, again, 0, 3);
    assert_eq!(driver.read(again, 4), [6; 4]);
    fill_all(&driver, again, 2, 5);
    assert_eq!(driver.read(base, 4), [5, 5, 6, 6]);
    assert_eq!(free(&driver), free_before);

    // SAFETY: an own descriptor, which the other process is to have.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) };
    let test = "physical_memory_is_shared_by_its_descriptor";
    let text = file.as_raw_fd().to_string();
    let status = other_process(test, "SHARED_FILE", &text).status();
    assert!(status.expect("no process").success());
    assert_eq!(driver.read(base, 4), [9; 4]);

    let (_, alone) = mapped(&driver, &properties(0, false));
    let mut place = 0i32;
    let arguments = (&raw mut place, alone, 1u32, 0u64);
    assert_eq!(
        driver.call("cuMemExportToShareableHandle", arguments),
        INVALID
    );
    let nothing = std::fs::File::open("/dev/null").expect("there is one");
    let mut place = 0u64;
    let arguments = (&raw mut place, nothing.as_raw_fd() as u64, 1u32);
    assert_eq!(
        driver.call("cuMemImportFromShareableHandle", arguments),
        INVALID
    );
}

fn importing_process(file: i32) {
    let driver = Driver::start(&[]);
    let handle = import(&driver, file);
    let base = driver.get("cuMemAddressReserve", |place| {
        (place, PAGE, 0usize, 0u64, 0u64)
    });
    driver.ok("cuMemMap", (base, PAGE, 0usize, handle, 0u64));
    give_access(&driver, base, 0, 3);
    assert_eq!(driver.read(base, 4), [5, 5, 6, 6]);
    fill_all(&driver, base, PAGE, 9);
    driver.ok("cuMemUnmap", (base, PAGE));
    driver.ok("cuMemRelease", (handle,));
}

fn export(driver: &Driver, handle: u64) -> OwnedFd {
    use std::os::fd::FromRawFd;
    let mut file = -1i32;
    driver.ok(
        "cuMemExportToShareableHandle",
        (&raw mut file, handle, 1u32, 0u64),
    );
    // SAFETY: a fresh descriptor.
    unsafe { OwnedFd::from_raw_fd(file) }
}

fn import(driver: &Driver, file: i32) -> u64 {
    driver.get("cuMemImportFromShareableHandle", |place| {
        (place, file as u64, 1u32)
    })
}

fn free(driver: &Driver) -> usize {
    let (mut free, mut total) = (0usize, 0usize);
    driver.ok("cuMemGetInfo_v2", (&raw mut free, &raw mut total));
    free
}

#[test]
fn processes_share_the_devices_of_a_machine() {
    let memory = ("SIMCUDA_MEMORY_MB", "64");
    if told("SIMCUDA_MACHINE").is_some() {
        let driver = Driver::start(&[memory]);
        assert_eq!(free(&driver), 24 * MB);
        let mut place = 0u64;
        assert_eq!(driver.call("cuMemAlloc_v2", (&raw mut place, 25 * MB)), 2);
        driver.allocate(20 * MB);
        // Dies with it.
        return;
    }
    let name = format!("simcuda-machine-{}", std::process::id());
    let machine: PathBuf = std::env::temp_dir().join(name);
    let folder = machine.to_str().expect("a path in UTF-8");
    let driver = Driver::start(&[memory, ("SIMCUDA_MACHINE", folder)]);
    let block = driver.allocate(40 * MB);
    let test = "processes_share_the_devices_of_a_machine";
    let status = other_process(test, "SIMCUDA_MACHINE", folder).status();
    assert!(status.expect("no process").success());
    assert_eq!(free(&driver), 24 * MB, "the other one is gone");

    let own = machine.join(std::process::id().to_string());
    let used = std::fs::read_to_string(own).expect("it says what it uses");
    assert_eq!(used.trim().parse(), Ok(40 * MB));
    std::fs::write(machine.join("scarce"), (60 * MB).to_string()).expect("it is our folder");
    assert_eq!(free(&driver), 0);
    driver.ok("cuMemFree_v2", (block,));
    assert_eq!(free(&driver), 4 * MB);
    std::fs::remove_file(machine.join("scarce")).expect("it is there");
    driver.allocate(64 * MB);
    std::fs::remove_dir_all(&machine).expect("it is our folder");
}
