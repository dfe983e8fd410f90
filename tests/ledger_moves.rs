//! Device memory leaves and comes back at the same addresses: the ledger itself, on
//! the software driver.

mod common;

#[allow(dead_code, unused_imports, reason = "the preloaded core uses the rest")]
#[path = "../shim/core/src/ledger/mod.rs"]
mod ledger;

use ledger::Block;
use ledger::{Kind, Ledger};
use rewarm::driver::sys::*;
use rewarm::driver::{Driver, MemoryDriver};
use std::ffi::{CStr, CString};
use std::ops::Range;
use std::ptr;
use std::sync::{Mutex, MutexGuard};

const MIB: usize = 1 << 20;

/// The driver, a context that is current, and a ledger. One at a time.
struct Machine {
    driver: Driver,
    memory: MemoryDriver,
    ledger: Ledger,
    library: *mut c_void,
    _alone: MutexGuard<'static, ()>,
}

impl Machine {
    fn new() -> Machine {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(|broken| broken.into_inner());
        let path = common::libraries().join("sim/libcuda.so.1");
        let path = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the software driver; its functions have these signatures.
        unsafe {
            let library = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
            assert!(!library.is_null());
            let lookup = |name: &'static CStr| libc::dlsym(library, name.as_ptr()).cast_const();
            let (driver, memory) = (
                Driver::load(lookup).unwrap(),
                MemoryDriver::load(lookup).unwrap(),
            );
            let mut context = ptr::null_mut();
            driver.init(0).unwrap();
            driver.primary_retain(&mut context, 0).unwrap();
            driver.set_current_context(context).unwrap();
            Machine {
                driver,
                memory,
                ledger: Ledger::new(driver, memory),
                library,
                _alone: alone,
            }
        }
    }

    fn used(&self) -> usize {
        let (mut free, mut total) = (0, 0);
        // SAFETY: out-pointers to locals.
        unsafe { self.memory.info(&mut free, &mut total).unwrap() };
        total - free
    }

    /// Makes the `nth` call of a function from now fail once with this code.
    fn fail(&self, name: &str, nth: u64, code: i32) {
        let name_c = CString::new(name).unwrap();
        // SAFETY: the software driver's function of this signature.
        let calls = unsafe {
            let count = libc::dlsym(self.library, c"simcuda_call_count".as_ptr());
            let count: extern "C" fn(*const c_char) -> u64 = std::mem::transmute(count);
            count(name_c.as_ptr())
        };
        self.fault(&format!("{name}:{}:{code}", calls + nth));
    }

    fn fault(&self, rule: &str) {
        let rule = CString::new(rule).unwrap();
        // SAFETY: the software driver's function of this signature.
        unsafe {
            let set = libc::dlsym(self.library, c"simcuda_set_fault".as_ptr());
            let set: extern "C" fn(*const c_char) = std::mem::transmute(set);
            set(rule.as_ptr());
        }
    }

    fn write(&self, address: u64, bytes: &[u8]) {
        // SAFETY: memory of the test's, and its own buffer.
        unsafe {
            self.driver
                .copy_to_device(address, bytes.as_ptr().cast(), bytes.len(), ptr::null_mut())
                .unwrap();
            self.driver.stream_synchronize(ptr::null_mut()).unwrap();
        }
    }

    fn read(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        // SAFETY: memory of the test's, and its own buffer.
        unsafe {
            self.driver
                .copy_to_host(bytes.as_mut_ptr().cast(), address, length, ptr::null_mut())
                .unwrap();
            self.driver.stream_synchronize(ptr::null_mut()).unwrap();
        }
        bytes
    }

    /// `cuMemCreate` as the hook has it.
    fn create(&self, size: usize) -> u64 {
        let properties = CUmemAllocationProp {
            kind: CU_MEM_ALLOCATION_TYPE_PINNED,
            requested_handle_types: 1,
            location: CUmemLocation {
                kind: CU_MEM_LOCATION_TYPE_DEVICE,
                id: 0,
            },
            win32_handle_meta_data: ptr::null_mut(),
            compression_type: 0,
            gpu_direct_rdma_capable: 0,
            usage: 0,
            reserved: [0; 4],
        };
        let mut handle = 0;
        // SAFETY: an out-pointer to a local.
        unsafe {
            self.memory
                .create(&mut handle, size, &properties, 0)
                .unwrap()
        };
        self.ledger.created(handle, size, properties, 0)
    }

    /// `cuMemMap` at fresh addresses as the hook has it.
    fn map(&self, token: u64, size: usize, offset: usize, flags: Option<c_int>) -> u64 {
        let mut address = 0;
        let real = self.ledger.translate(token).unwrap();
        // SAFETY: an out-pointer to a local; fresh addresses.
        unsafe {
            self.memory.reserve(&mut address, size, 0, 0, 0).unwrap();
            self.memory.map(address, size, offset, real, 0).unwrap();
        }
        self.ledger.mapped(address, size, offset, token);
        if let Some(flags) = flags {
            let right = CUmemAccessDesc {
                location: CUmemLocation {
                    kind: CU_MEM_LOCATION_TYPE_DEVICE,
                    id: 0,
                },
                flags,
            };
            // SAFETY: a whole mapping; one descriptor.
            unsafe { self.memory.set_access(address, size, &right, 1).unwrap() };
            self.ledger.access_set(address, size, &[right]);
        }
        address
    }

    fn release(&self, token: u64) {
        let result = self.ledger.release_handle(token, |real| {
            // SAFETY: a reference that the ledger gives up.
            match unsafe { self.memory.release(real) } {
                Ok(()) => CUresult::SUCCESS,
                Err(error) => error.code,
            }
        });
        assert!(result.is_ok());
    }
}

/// Memory of every sort that can leave, with what is in it.
struct Program {
    /// Addresses and sizes of what can be read, and what is at the end of it.
    contents: Vec<(u64, usize, Vec<u8>)>,
    /// Mapped twice without access, and released.
    hidden: [u64; 2],
    unmapped: u64,
    kept: u64,
}

impl Program {
    fn start(machine: &Machine) -> Program {
        let ledger = &machine.ledger;
        let mut contents = Vec::new();
        for bytes in [2 * MIB, 5 * MIB, 9 * MIB + 7] {
            contents.push((ledger.allocate(bytes).unwrap(), bytes, random(bytes)));
        }
        // The application's own, as torch has it: the handle is kept.
        let kept = machine.create(4 * MIB);
        contents.push((
            machine.map(kept, 4 * MIB, 0, Some(CU_MEM_ACCESS_FLAGS_PROT_READWRITE)),
            4 * MIB,
            random(4 * MIB),
        ));
        // Seen through two windows, the handle given up.
        let given_up = machine.create(8 * MIB);
        for offset in [0, 4 * MIB] {
            contents.push((
                machine.map(
                    given_up,
                    4 * MIB,
                    offset,
                    Some(CU_MEM_ACCESS_FLAGS_PROT_READWRITE),
                ),
                4 * MIB,
                random(4 * MIB),
            ));
        }
        machine.release(given_up);
        let hidden = machine.create(2 * MIB);
        let hidden_at = [(); 2].map(|()| machine.map(hidden, 2 * MIB, 0, None));
        machine.release(hidden);
        let unmapped = machine.create(2 * MIB);
        for (address, size, bytes) in &contents {
            machine.write(address + (size - bytes.len()) as u64, bytes);
        }
        Program {
            contents,
            hidden: hidden_at,
            unmapped,
            kept,
        }
    }

    fn check(&self, machine: &Machine) {
        for (address, size, bytes) in &self.contents {
            let at = address + (size - bytes.len()) as u64;
            assert!(
                machine.read(at, bytes.len()) == *bytes,
                "{address:#x} has changed"
            );
        }
        for address in self.hidden {
            let mut byte = 0u8;
            // SAFETY: a local; the driver refuses to read.
            let read = unsafe {
                machine
                    .driver
                    .copy_to_host((&raw mut byte).cast(), address, 1, ptr::null_mut())
            };
            assert!(read.is_err(), "{address:#x} can be read");
        }
        assert!(machine.ledger.translate(self.unmapped).is_some());
    }

    /// Everything is given back.
    fn end(self, machine: &Machine, before: usize) {
        for (address, size, _) in self.contents {
            if machine.ledger.free(address).is_none() {
                Program::unmap(machine, address, size);
            }
        }
        for address in self.hidden {
            Program::unmap(machine, address, 2 * MIB);
        }
        machine.release(self.unmapped);
        machine.release(self.kept);
        assert_eq!(machine.used(), before, "memory was lost");
    }

    fn unmap(machine: &Machine, address: u64, size: usize) {
        let result = machine.ledger.unmap(address, size, || {
            // SAFETY: a mapping of the test's.
            match unsafe { machine.memory.unmap(address, size) } {
                Ok(()) => CUresult::SUCCESS,
                Err(error) => error.code,
            }
        });
        assert!(result.is_ok());
    }
}

fn random(seed: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed as u64);
    let mut content = vec![0; 4096];
    random.fill(&mut content);
    content
}

/// Reads every block, as a freeze does.
fn take(machine: &Machine, blocks: &[Block]) -> Vec<(Block, Vec<u8>)> {
    blocks
        .iter()
        .map(|block| (*block, machine.read(block.address, block.bytes as usize)))
        .collect()
}

/// Writes every block back, as a thaw does.
fn put(machine: &Machine, taken: &[(Block, Vec<u8>)]) {
    for (block, bytes) in taken {
        machine.write(block.address, bytes);
    }
}

#[test]
fn memory_leaves_and_comes_back_at_the_same_addresses() {
    let machine = Machine::new();
    let ledger = &machine.ledger;
    let before = machine.used();
    let program = Program::start(&machine);
    let full = machine.used();
    for _ in 0..3 {
        let blocks = ledger.open().unwrap();
        assert_eq!(blocks.len(), 7);
        let bytes: u64 = blocks.iter().map(|block| block.bytes).sum();
        assert_eq!(bytes, ledger.report().leaves.bytes);
        let taken = take(&machine, &blocks);
        let released = ledger.release();
        assert_eq!((released.bytes, released.resident.len()), (bytes, 0));
        assert_eq!(machine.used(), before, "physical memory is still held");
        ledger.restore().unwrap();
        // Nothing of what was there came back by itself.
        assert!(
            machine
                .read(blocks[0].address, 4096)
                .iter()
                .all(|byte| *byte == 0)
        );
        put(&machine, &taken);
        ledger.settle().unwrap();
        program.check(&machine);
        assert_eq!(machine.used(), full);
    }
    program.end(&machine, before);
}

#[test]
fn a_freeze_that_is_given_up_changes_nothing() {
    let machine = Machine::new();
    let before = machine.used();
    let program = Program::start(&machine);
    let blocks = machine.ledger.open().unwrap();
    assert_eq!(machine.ledger.open().unwrap(), blocks, "opened once");
    machine.ledger.settle().unwrap();
    program.check(&machine);
    program.end(&machine, before);
}

#[test]
fn a_settling_that_failed_half_way_is_no_end() {
    let machine = Machine::new();
    let before = machine.used();
    let program = Program::start(&machine);
    for call in ["cuMemAddressFree", "cuMemUnmap"] {
        let opened = machine.ledger.open().unwrap();
        let taken = take(&machine, &opened);
        machine.fail(call, 1, 999);
        machine.ledger.settle().unwrap_err();
        let again = machine.ledger.open().unwrap();
        assert_eq!(again.len(), opened.len());
        for ((block, bytes), (_, old)) in take(&machine, &again).iter().zip(&taken) {
            assert!(bytes == old, "{:#x} has changed", block.address);
        }
        machine.ledger.settle().unwrap();
        program.check(&machine);
    }
    program.end(&machine, before);
}

#[test]
fn a_thaw_without_enough_memory_can_be_tried_again() {
    let machine = Machine::new();
    let ledger = &machine.ledger;
    let before = machine.used();
    let program = Program::start(&machine);
    let taken = take(&machine, &ledger.open().unwrap());
    ledger.release();
    let mut others = Vec::new();
    for nth in 1..=7 {
        let mut address = 0;
        machine.fail("cuMemCreate", nth, 2);
        let error = ledger.restore().unwrap_err();
        assert_eq!(error.code, CUresult::OUT_OF_MEMORY);
        machine.fault("");
        assert_eq!(
            machine.used(),
            before + others.len() * MIB,
            "memory was not given back"
        );
        // SAFETY: an out-pointer to a local.
        unsafe { machine.memory.alloc(&mut address, MIB).unwrap() };
        others.push(address);
    }
    ledger.restore().unwrap();
    put(&machine, &taken);
    ledger.settle().unwrap();
    program.check(&machine);
    for address in others {
        // SAFETY: allocated above.
        unsafe { machine.driver.mem_free(address).unwrap() };
    }
    program.end(&machine, before);
}

/// Every driver call of a freeze and thaw fails once, in turn. What fails is tried
/// again; nothing is lost.
#[test]
fn every_call_may_fail() {
    let machine = Machine::new();
    let ledger = &machine.ledger;
    for call in [
        "cuMemCreate",
        "cuMemRelease",
        "cuMemMap",
        "cuMemUnmap",
        "cuMemSetAccess",
        "cuMemAddressReserve",
        "cuMemAddressFree",
        "cuMemRetainAllocationHandle",
    ] {
        let mut failed = 0;
        for nth in 1.. {
            let before = machine.used();
            let program = Program::start(&machine);
            machine.fail(call, nth, 999);
            let mut failures = 0;
            let mut noticed = |failed: bool| failures += u32::from(failed);
            let blocks = ledger.open().unwrap_or_else(|_| {
                noticed(true);
                program.check(&machine);
                ledger.open().unwrap()
            });
            let taken = take(&machine, &blocks);
            noticed(!ledger.release().resident.is_empty());
            if ledger.restore().is_err() {
                noticed(true);
                ledger.restore().unwrap();
            }
            put(&machine, &taken);
            if ledger.settle().is_err() {
                noticed(true);
                ledger.settle().unwrap();
            }
            machine.fault("");
            program.check(&machine);
            program.end(&machine, before);
            assert!(
                failures <= 1,
                "{call}: one failure, noticed {failures} times"
            );
            if failures == 0 {
                break;
            }
            failed += 1;
        }
        assert!(failed > 0, "{call} is never called");
    }
}

#[test]
fn what_stands_in_the_way_is_named() {
    let machine = Machine::new();
    let ledger = &machine.ledger;
    assert_eq!(ledger.obstacles(), []);
    ledger.note(0x1000_0000, 3 * MIB, Kind::Managed);
    ledger.note(0x2000_0000, MIB, Kind::Managed);
    ledger.note(0x3000_0000, MIB, Kind::Pool);
    ledger.note_plain(0x4000_0000, 4096);
    let obstacles = ledger.obstacles();
    assert_eq!(obstacles.len(), 1);
    assert_eq!(obstacles[0].address, 0x1000_0000);
    assert_eq!(
        obstacles[0].to_string(),
        "2 allocations of managed memory, 4.0 MiB"
    );
    assert_eq!(ledger.left_bytes(), 5 * MIB as u64 + 4096);
    for address in [0x1000_0000, 0x2000_0000] {
        assert!(ledger.forget(address, || CUresult::SUCCESS).is_ok());
    }
    assert_eq!(ledger.obstacles(), []);
    let import = 0x5555_0000_1000;
    ledger.imported_handle(import);
    assert_eq!(
        ledger.obstacles()[0].to_string(),
        "1 allocation of memory of another process, 0.0 MiB"
    );
    ledger.mapped(0x6000_0000, 2 * MIB, 0, import);
    assert!(ledger.release_handle(import, |_| CUresult::SUCCESS).is_ok());
    assert_eq!(ledger.obstacles().len(), 1, "still mapped");
    assert!(
        ledger
            .unmap(0x6000_0000, 2 * MIB, || CUresult::SUCCESS)
            .is_ok()
    );
    assert_eq!(ledger.obstacles(), []);
}

#[test]
fn what_is_exported_stays() {
    let machine = Machine::new();
    let ledger = &machine.ledger;
    let before = machine.used();
    let token = machine.create(4 * MIB);
    let address = machine.map(token, 4 * MIB, 0, Some(CU_MEM_ACCESS_FLAGS_PROT_READWRITE));
    let own = ledger.allocate(4 * MIB).unwrap();
    ledger.exported(token);
    ledger.range_exported(own + MIB as u64, MIB);
    assert_eq!(ledger.open().unwrap(), []);
    assert_eq!(ledger.left_bytes(), 8 * MIB as u64);
    assert!(ledger.discard(address, 4096, true).is_err());
    assert!(ledger.free(own).unwrap().is_ok());
    Program::unmap(&machine, address, 4 * MIB);
    machine.release(token);
    assert_eq!(machine.used(), before);
}

/// Random ranges, against a model of one flag a page.
#[test]
fn discarded_ranges_are_those_that_were_discarded() {
    let seed = common::number("REWARM_SEED", fastrand::u64(..));
    println!("REWARM_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let machine = Machine::new();
    let ledger = &machine.ledger;
    const PAGE: u64 = 4096;
    for _ in 0..30 {
        let address = ledger.allocate(4 * MIB).unwrap();
        let block = ledger.open().unwrap()[0].id;
        ledger.settle().unwrap();
        let mut model = [false; 4 * MIB / PAGE as usize];
        for _ in 0..60 {
            let start = random.usize(..model.len());
            let end = random.usize(start..=model.len());
            let discard = random.bool();
            ledger
                .discard(
                    address + start as u64 * PAGE,
                    (end - start) as u64 * PAGE,
                    discard,
                )
                .unwrap();
            model[start..end].fill(discard);
            assert_eq!(ledger.discarded(block), ranges(&model, PAGE));
        }
        assert!(ledger.discard(address, 4 * MIB as u64 + 1, true).is_err());
        assert!(ledger.discard(u64::MAX, 2, true).is_err());
        assert!(ledger.free(address).unwrap().is_ok());
        assert_eq!(ledger.discarded(block), []);
    }
}

fn ranges(model: &[bool], page: u64) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for (index, _) in model.iter().enumerate().filter(|(_, set)| **set) {
        let (start, end) = (index as u64 * page, (index as u64 + 1) * page);
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => ranges.push(start..end),
        }
    }
    ranges
}
