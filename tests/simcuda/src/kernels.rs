//! Built-in kernels, by name: enough to see in which order things happen.

use crate::access::{Actor, Intent};
use crate::codes::{
    Answer, ERROR_ILLEGAL_ADDRESS, ERROR_INVALID_HANDLE, ERROR_INVALID_IMAGE, ERROR_INVALID_VALUE,
    ERROR_NOT_FOUND, require,
};
use crate::ffi::{Handle, In};
use crate::world::World;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Handles of functions: this, plus the index of the kernel in [`KERNELS`] times 64.
const FUNCTIONS: Handle = 0x5400_0000_0000_0000;

/// Names and the sizes of the arguments.
pub const KERNELS: [(&str, &[usize]); 5] = [
    ("sim_fill", &[8, 8, 4]),
    ("sim_add", &[8, 8, 4]),
    ("sim_copy", &[8, 8, 8]),
    ("sim_check", &[8, 8, 4, 8]),
    ("sim_spin", &[8]),
];

/// A loaded module or library; all of them offer the same kernels.
pub struct Module;

/// Whether an image is one that this driver takes: its own, PTX, a fat binary or a cubin.
pub fn check_image(image: *const c_void) -> Answer {
    require(!image.is_null(), ERROR_INVALID_VALUE)?;
    let image = In::<[u8; 4]>::from_raw(image.cast());
    let start = image.get()?;
    let known = [
        *b"simc",
        *b".ver",
        *b"\x7fELF",
        [0x50, 0xED, 0x55, 0xBA],
        [0xB1, 0x43, 0x62, 0x46],
    ];
    let is_text = start.starts_with(b"//") || start.starts_with(b"\n") || start.starts_with(b"/*");
    require(is_text || known.contains(&start), ERROR_INVALID_IMAGE)
}

/// The function of that name.
pub fn by_name(name: &str) -> Answer<Handle> {
    let index = KERNELS
        .iter()
        .position(|(known, _)| *known == name)
        .ok_or(ERROR_NOT_FOUND)?;
    Ok(FUNCTIONS + 64 * index as u64)
}

/// The index in [`KERNELS`] of a function.
pub fn index_of(function: Handle) -> Answer<usize> {
    let index = function
        .checked_sub(FUNCTIONS)
        .ok_or(ERROR_INVALID_HANDLE)?
        / 64;
    require(
        function.is_multiple_of(64) && index < KERNELS.len() as u64,
        ERROR_INVALID_HANDLE,
    )?;
    Ok(index as usize)
}

/// A kernel with its arguments.
#[derive(Clone, Copy, Debug)]
pub struct Launch {
    kernel: usize,
    arguments: [u64; 4],
    actor: Actor,
}

impl Launch {
    /// Reads the arguments, as the driver does before a launch returns.
    pub fn new(
        function: Handle,
        parameters: In<*const c_void>,
        extra: In<usize>,
        actor: Actor,
    ) -> Answer<Self> {
        let kernel = index_of(function)?;
        let mut arguments = [0u64; 4];
        let buffer = if parameters.given() {
            None
        } else {
            Some(buffer_of(extra)?)
        };
        let mut offset = 0usize;
        for (index, &size) in KERNELS[kernel].1.iter().enumerate() {
            let from = match buffer {
                Some(start) => {
                    offset = offset.next_multiple_of(size);
                    start + offset
                }
                None => parameters.at(index)? as usize,
            };
            arguments[index] = match size {
                4 => u64::from(In::<u32>::from_raw(from as *const u32).get()?),
                _ => In::<u64>::from_raw(from as *const u64).get()?,
            };
            offset += size;
        }
        Ok(Self {
            kernel,
            arguments,
            actor,
        })
    }

    /// Runs it; touching memory that is not there for its device spoils its context.
    pub fn run(&self, world: &World) {
        let reaches = |(start, bytes, intent)| self.actor.reaches(world, start, bytes, intent);
        if self.ranges().into_iter().all(reaches) {
            self.compute();
        } else if let Some(context) = world.contexts.find(self.actor.context) {
            context.spoil(ERROR_ILLEGAL_ADDRESS);
        }
    }

    /// What it touches: start, bytes, and how.
    fn ranges(&self) -> Vec<(u64, u64, Intent)> {
        let [first, second, third, fourth] = self.arguments;
        let words = second.saturating_mul(4);
        match KERNELS[self.kernel].0 {
            "sim_fill" | "sim_add" => vec![(first, words, Intent::Write)],
            "sim_copy" => vec![(first, third, Intent::Write), (second, third, Intent::Read)],
            "sim_check" => vec![(first, words, Intent::Read), (fourth, 4, Intent::Write)],
            _ => Vec::new(),
        }
    }

    fn compute(&self) {
        let [first, second, third, fourth] = self.arguments;
        match KERNELS[self.kernel].0 {
            "sim_fill" => {
                words(first, second).for_each(|word| word.store(third as u32, Ordering::Relaxed))
            }
            "sim_add" => words(first, second).for_each(|word| {
                word.fetch_add(third as u32, Ordering::Relaxed);
            }),
            "sim_copy" => crate::work::move_bytes(first, second, third as usize),
            "sim_check" => {
                let wrong = |word: &&AtomicU32| word.load(Ordering::Relaxed) != third as u32;
                let count = words(first, second).filter(wrong).count();
                words(fourth, 1).for_each(|word| {
                    word.fetch_add(count as u32, Ordering::Relaxed);
                });
            }
            _ => std::thread::sleep(Duration::from_micros(first)),
        }
    }
}

/// The buffer of the `extra` form: pairs of a key and a value, ended by 0.
fn buffer_of(extra: In<usize>) -> Answer<usize> {
    const BUFFER_POINTER: usize = 1;
    for pair in 0..4 {
        match extra.at(2 * pair)? {
            0 => break,
            BUFFER_POINTER => return extra.at(2 * pair + 1),
            _ => {}
        }
    }
    Err(ERROR_INVALID_VALUE)
}

fn words(start: u64, count: u64) -> impl Iterator<Item = &'static AtomicU32> {
    // SAFETY: the range was looked up just before; who frees it meanwhile crashes.
    (0..count).map(move |index| unsafe { &*((start + 4 * index) as *const AtomicU32) })
}
