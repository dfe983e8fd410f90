//! What a stream can be asked to do.

use crate::event::Stamp;
use crate::ffi::{DevicePtr, Foreign, Handle};
use crate::kernels::Launch;
use crate::link::Link;
use crate::staging::Staged;
use crate::world::World;
use std::ffi::c_void;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A box of bytes to move: rows in slices.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// First byte written.
    pub dst: u64,
    /// First byte read.
    pub src: u64,
    /// Bytes of a row, rows of a slice, slices.
    pub extent: [usize; 3],
    /// Bytes from row to row and from slice to slice at the destination.
    pub dst_pitch: [usize; 2],
    /// The same at the source.
    pub src_pitch: [usize; 2],
}

impl Shape {
    /// Bytes in one piece.
    pub fn linear(dst: u64, src: u64, bytes: usize) -> Self {
        Self {
            dst,
            src,
            extent: [bytes, 1, 1],
            dst_pitch: [bytes; 2],
            src_pitch: [bytes; 2],
        }
    }

    /// All bytes that it moves.
    pub fn bytes(&self) -> usize {
        self.extent.iter().product()
    }

    /// From the first to the last byte touched, for a pitch pair.
    pub fn span(&self, pitch: [usize; 2]) -> usize {
        if self.bytes() == 0 {
            return 0;
        }
        (self.extent[2] - 1) * pitch[1] + (self.extent[1] - 1) * pitch[0] + self.extent[0]
    }

    /// Moves the bytes.
    pub fn run(&self) {
        for slice in 0..self.extent[2] {
            for row in 0..self.extent[1] {
                let at = |base: u64, pitch: [usize; 2]| {
                    base + (slice * pitch[1] + row * pitch[0]) as u64
                };
                move_bytes(
                    at(self.dst, self.dst_pitch),
                    at(self.src, self.src_pitch),
                    self.extent[0],
                );
            }
        }
    }
}

/// Moves bytes between addresses that the driver has checked or the application vouches for.
pub fn move_bytes(dst: u64, src: u64, bytes: usize) {
    // SAFETY: device ranges were checked when the work was enqueued; host ranges are the
    // application's, which must keep them until the work is done. Races are the application's
    // too, as on hardware; memmove keeps overlap harmless.
    unsafe { libc::memmove(dst as *mut c_void, src as *const c_void, bytes) };
}

/// A fill of rows with one value.
#[derive(Clone, Copy, Debug)]
pub struct Fill {
    /// First byte written.
    pub dst: DevicePtr,
    /// Bytes from row to row.
    pub pitch: usize,
    /// The value, of which the lowest `size` bytes count.
    pub value: u32,
    /// 1, 2 or 4 bytes.
    pub size: usize,
    /// Elements of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl Fill {
    fn run(&self) {
        let pattern = self.value.to_ne_bytes();
        for row in 0..self.height {
            let start = self.dst + (row * self.pitch) as u64;
            // SAFETY: the range was checked when the work was enqueued.
            let bytes =
                unsafe { std::slice::from_raw_parts_mut(start as *mut u8, self.width * self.size) };
            for element in bytes.chunks_exact_mut(self.size) {
                element.copy_from_slice(&pattern[..self.size]);
            }
        }
    }
}

/// A callback of `cuLaunchHostFunc`.
pub type HostFunction = extern "C" fn(*mut c_void);
/// A callback of `cuStreamAddCallback`.
pub type StreamCallback = extern "C" fn(Handle, u32, *mut c_void);

/// What a stream can be asked to do.
pub enum Work {
    /// Nothing: a point to wait for.
    Nothing,
    /// Notes the time, for an event.
    Stamp(Stamp),
    /// Moves bytes, over a link if one is named.
    Copy(Shape, Option<Arc<Link>>),
    /// Moves staged bytes to a device.
    Staged(DevicePtr, Staged, Option<Arc<Link>>),
    /// Fills memory.
    Fill(Fill),
    /// Runs a built-in kernel.
    Kernel(Launch),
    /// Calls the application.
    Host(HostFunction, Foreign),
    /// Calls the application, the older way.
    Callback(StreamCallback, Handle, Foreign),
    /// Waits until a value in memory compares (address, value, bytes, comparison).
    AwaitValue(DevicePtr, u64, usize, u32),
    /// Writes a value (address, value, bytes).
    WriteValue(DevicePtr, u64, usize),
    /// Frees stream-ordered memory.
    Free(DevicePtr),
    /// All of a graph.
    Graph(Vec<Arc<Work>>),
}

impl Work {
    /// Whether it neither takes time nor can be observed.
    pub fn is_instant(&self) -> bool {
        matches!(self, Work::Nothing | Work::Stamp(_))
    }

    /// Does it.
    pub fn run(&self, world: &'static World) {
        match self {
            Work::Nothing => {}
            Work::Stamp(stamp) => {
                stamp.get_or_init(Instant::now);
            }
            Work::Copy(shape, link) => {
                pass(link, shape.bytes());
                shape.run();
            }
            Work::Staged(dst, staged, link) => {
                let bytes = staged.bytes();
                pass(link, bytes.len());
                move_bytes(*dst, bytes.as_ptr() as u64, bytes.len());
            }
            Work::Fill(fill) => fill.run(),
            Work::Kernel(launch) => launch.run(world),
            Work::Host(function, data) => function(data.0),
            Work::Callback(function, stream, data) => function(*stream, 0, data.0),
            Work::AwaitValue(address, value, size, comparison) => {
                while !compares(read_value(*address, *size), *value, *comparison, *size) {
                    std::thread::sleep(Duration::from_micros(50));
                }
            }
            Work::WriteValue(address, value, size) => {
                move_bytes(*address, std::ptr::from_ref(value) as u64, *size);
            }
            Work::Free(address) => {
                // Checked when it was enqueued; a second free in between has already answered.
                let _ = world.memory.free_device(world, *address);
            }
            Work::Graph(nodes) => nodes.iter().for_each(|node| node.run(world)),
        }
    }
}

fn pass(link: &Option<Arc<Link>>, bytes: usize) {
    if let Some(link) = link {
        link.pass(bytes);
    }
}

fn read_value(address: DevicePtr, size: usize) -> u64 {
    let mut value = 0u64;
    move_bytes(std::ptr::from_mut(&mut value) as u64, address, size);
    value
}

/// `CUstreamWaitValue_flags`: 0 at least (cyclic), 1 equal, 2 and, 3 nor.
fn compares(found: u64, value: u64, comparison: u32, size: usize) -> bool {
    match comparison & 3 {
        0 if size == 4 => (found as u32).wrapping_sub(value as u32) as i32 >= 0,
        0 => found.wrapping_sub(value) as i64 >= 0,
        1 => found == value,
        2 => found & value != 0,
        _ => !(found | value) != 0,
    }
}
