//! `cuCheckpointProcess*`: locking, device memory that leaves and returns.

use crate::codes::{
    Answer, ERROR_ILLEGAL_STATE, ERROR_NOT_READY, ERROR_OUT_OF_MEMORY, fail, require,
};
use crate::memory::Kind;
use crate::world::World;
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// `CU_PROCESS_STATE_RUNNING`.
pub const RUNNING: u32 = 0;
/// `CU_PROCESS_STATE_LOCKED`.
pub const LOCKED: u32 = 1;
/// `CU_PROCESS_STATE_CHECKPOINTED`.
pub const CHECKPOINTED: u32 = 2;
/// `CU_PROCESS_STATE_FAILED`.
pub const FAILED: u32 = 3;

/// A piece of a file of device memory while it is away.
struct Saved {
    file: i32,
    offset: u64,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct State {
    state: u32,
    saved: Vec<Saved>,
}

/// The state of checkpointing.
#[derive(Default)]
pub struct Checkpoint {
    locked: AtomicBool,
    inside: AtomicUsize,
    state: Mutex<State>,
    unlocked: Condvar,
    /// The thread that answers other processes.
    pub restore_thread: AtomicI32,
}

/// A call that is inside the driver.
pub struct Inside<'a>(&'a AtomicUsize);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Checkpoint {
    /// Enters the driver; blocks while the process is locked.
    pub fn enter(&self) -> Inside<'_> {
        loop {
            self.inside.fetch_add(1, Ordering::SeqCst);
            if !self.locked.load(Ordering::SeqCst) {
                return Inside(&self.inside);
            }
            self.inside.fetch_sub(1, Ordering::SeqCst);
            let mut state = self.state.lock();
            while self.locked.load(Ordering::SeqCst) {
                self.unlocked.wait(&mut state);
            }
        }
    }

    /// The state.
    pub fn state(&self) -> u32 {
        self.state.lock().state
    }

    fn release(&self) {
        // Under the lock, or a caller between its check and its sleep would miss it.
        let _state = self.state.lock();
        self.locked.store(false, Ordering::SeqCst);
        self.unlocked.notify_all();
    }

    /// Blocks further calls and waits for those inside and for all work; 0 waits without limit.
    pub fn lock(&self, world: &'static World, timeout_ms: u32) -> Answer {
        let mut state = self.state.lock();
        require(state.state == RUNNING, ERROR_ILLEGAL_STATE)?;
        self.locked.store(true, Ordering::SeqCst);
        let deadline =
            (timeout_ms > 0).then(|| Instant::now() + Duration::from_millis(timeout_ms.into()));
        while !self.is_quiet(world) {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                drop(state);
                self.release();
                return fail(ERROR_NOT_READY);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        state.state = LOCKED;
        Ok(())
    }

    fn is_quiet(&self, world: &World) -> bool {
        let done = || {
            world
                .contexts
                .all()
                .iter()
                .all(|context| context.all_ends().iter().all(|end| end.is_done()))
        };
        self.inside.load(Ordering::SeqCst) == 0 && done()
    }

    /// Takes the contents of all device memory into host memory and gives the device's back.
    pub fn checkpoint(&self, world: &World) -> Answer {
        let mut state = self.state.lock();
        require(state.state == LOCKED, ERROR_ILLEGAL_STATE)?;
        for (file, offset, size) in parts_in_use(world) {
            let mut bytes = vec![0u8; size as usize];
            transfer(file, offset, &mut bytes, READ);
            // What is read back as zero needs no copy.
            if bytes.iter().any(|byte| *byte != 0) {
                state.saved.push(Saved {
                    file,
                    offset,
                    bytes,
                });
            }
        }
        for device in &world.devices {
            // Everything is saved, so all of the file may go, the unused parts too.
            let end = device.capacity.saturating_mul(4) + 4 * crate::device::PAGE;
            device.punch(0, end);
            device.leave();
        }
        world.staging.clear();
        state.state = CHECKPOINTED;
        Ok(())
    }

    /// Brings the contents back. Where there is no room for them, the process is lost.
    pub fn restore(&self, world: &World) -> Answer {
        let mut state = self.state.lock();
        require(state.state == CHECKPOINTED, ERROR_ILLEGAL_STATE)?;
        if world.devices.iter().any(|device| !device.enter_again()) {
            state.state = FAILED;
            return fail(ERROR_OUT_OF_MEMORY);
        }
        for mut saved in state.saved.drain(..) {
            transfer(saved.file, saved.offset, &mut saved.bytes, WRITE);
        }
        state.state = LOCKED;
        Ok(())
    }

    /// Lets calls go on.
    pub fn unlock(&self) -> Answer {
        let mut state = self.state.lock();
        require(state.state == LOCKED, ERROR_ILLEGAL_STATE)?;
        state.state = RUNNING;
        drop(state);
        self.release();
        Ok(())
    }
}

type Transfer = fn(i32, *mut libc::c_void, usize, i64) -> isize;

// SAFETY: the caller passes a buffer of `count` bytes.
const READ: Transfer =
    |file, bytes, count, offset| unsafe { libc::pread(file, bytes, count, offset) };
// SAFETY: as above.
const WRITE: Transfer =
    |file, bytes, count, offset| unsafe { libc::pwrite(file, bytes, count, offset) };

/// Moves a part of a file in as many calls as the kernel wants.
fn transfer(file: i32, offset: u64, bytes: &mut [u8], step: Transfer) {
    let mut done = 0;
    while done < bytes.len() {
        let rest = &mut bytes[done..];
        let count = step(
            file,
            rest.as_mut_ptr().cast(),
            rest.len(),
            (offset + done as u64) as i64,
        );
        assert!(count > 0, "the software driver cannot reach its own memory");
        done += count as usize;
    }
}

/// The parts of files that hold something: (file, offset, bytes).
fn parts_in_use(world: &World) -> Vec<(i32, u64, u64)> {
    let regions = world.memory.all();
    let linear = regions.iter().filter(|region| region.kind == Kind::Linear);
    let linear = linear.map(|region| {
        let device = &world.devices[region.device];
        (device.file, region.base - device.base, region.size)
    });
    let physical = world
        .vmm
        .all()
        .into_iter()
        .map(|physical| (physical.file(world), physical.offset, physical.size));
    linear.chain(physical).collect()
}
