//! Copies and fills: who waits for what, and when the bytes move.

use crate::access::Intent;
use crate::capture::{self, submit};
use crate::codes::{Answer, ERROR_INVALID_VALUE, require};
use crate::ffi::{DevicePtr, Handle};
use crate::link::Link;
use crate::memory::Side;
use crate::staging::PIECE;
use crate::stream::{DefaultStream, Marker, Stream, resolve};
use crate::thread;
use crate::work::{Fill, Shape, Work};
use crate::world::World;
use std::collections::VecDeque;
use std::sync::Arc;

/// How many staged pieces may be on their way.
const PIECES_ON_THE_WAY: usize = 16;

/// What a spelling says about its ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Host to device.
    HtoD,
    /// Device to host.
    DtoH,
    /// Device to device.
    DtoD,
    /// Whatever the addresses are.
    Inferred,
}

/// A copy that is allowed.
struct Plan {
    shape: Shape,
    dst: Side,
    src: Side,
    link: Option<Arc<Link>>,
}

impl Plan {
    fn new(world: &World, stream: &Stream, shape: Shape, direction: Direction) -> Answer<Self> {
        let is_somewhere = shape.bytes() == 0 || (shape.dst != 0 && shape.src != 0);
        require(is_somewhere, ERROR_INVALID_VALUE)?;
        let device = stream.context()?.device;
        let (to, from) = (shape.span(shape.dst_pitch), shape.span(shape.src_pitch));
        let dst = world.memory.side(shape.dst, to, device, Intent::Write)?;
        let src = world.memory.side(shape.src, from, device, Intent::Read)?;
        let is_known = |side: Side| side != Side::Pageable;
        let allowed = match direction {
            Direction::HtoD => is_known(dst),
            Direction::DtoH => is_known(src),
            Direction::DtoD => is_known(dst) && is_known(src),
            Direction::Inferred => true,
        };
        require(allowed, ERROR_INVALID_VALUE)?;
        let link = match (dst, src) {
            (Side::Device(_), Side::Device(_)) => None,
            (Side::Device(device), _) => Some(world.devices[device].down.clone()),
            (_, Side::Device(device)) => Some(world.devices[device].up.clone()),
            _ => None,
        };
        Ok(Self {
            shape,
            dst,
            src,
            link,
        })
    }

    fn work(&self) -> Work {
        Work::Copy(self.shape, self.link.clone())
    }

    /// Whether the driver stages it.
    fn is_staged(&self) -> bool {
        self.src == Side::Pageable && self.dst != Side::Pageable
    }

    /// Whether a blocking copy returns before it is complete.
    fn may_finish_late(&self) -> bool {
        matches!((self.dst, self.src), (Side::Device(_), Side::Device(_)))
    }
}

/// A copy that blocks as far as the rules say.
pub fn blocking(
    world: &'static World,
    shape: Shape,
    direction: Direction,
    default: DefaultStream,
) -> Answer {
    // No "unsafe" call: driver 580 lets it pass beside any capture that its
    // stream is not ordered with.
    thread::context(world)?;
    let stream = resolve(world, 0, default)?;
    capture::guard_wait(world, &stream)?;
    if shape.bytes() == 0 {
        return Ok(());
    }
    let plan = Plan::new(world, &stream, shape, direction)?;
    if plan.is_staged() {
        wait_for(&stream)?;
        return stage(world, &stream, &plan);
    }
    let marker = submit(world, &stream, plan.work())?;
    if !plan.may_finish_late() {
        wait(marker);
    }
    Ok(())
}

/// A copy in a stream.
pub fn in_stream(
    world: &'static World,
    shape: Shape,
    direction: Direction,
    stream: Handle,
    default: DefaultStream,
) -> Answer {
    thread::context(world)?;
    let stream = resolve(world, stream, default)?;
    if shape.bytes() == 0 {
        return Ok(());
    }
    let plan = Plan::new(world, &stream, shape, direction)?;
    let captures = world.captures.any() && stream.capture.lock().is_some();
    if plan.is_staged() && !captures {
        return stage(world, &stream, &plan);
    }
    let marker = submit(world, &stream, plan.work())?;
    if plan.dst == Side::Pageable {
        wait(marker);
    }
    Ok(())
}

fn wait(marker: Option<Marker>) {
    if let Some(marker) = marker {
        marker.wait();
    }
}

/// Waits for everything that precedes a host wait on the stream.
pub fn wait_for(stream: &Arc<Stream>) -> Answer {
    stream
        .context()?
        .ends_of(stream)
        .iter()
        .for_each(Marker::wait);
    // What was waited for may have failed.
    stream.context().map(drop)
}

/// Reads the whole source before it returns; the last pieces reach the device later.
fn stage(world: &'static World, stream: &Arc<Stream>, plan: &Plan) -> Answer {
    let mut on_the_way = VecDeque::new();
    for (dst, src, bytes) in pieces(&plan.shape) {
        if on_the_way.len() == PIECES_ON_THE_WAY {
            wait(on_the_way.pop_front().flatten());
        }
        let staged = world.staging.stage(src, bytes);
        if let Side::Device(device) = plan.dst {
            world.devices[device].staging.pass(bytes);
        }
        on_the_way.push_back(submit(
            world,
            stream,
            Work::Staged(dst, staged, plan.link.clone()),
        )?);
    }
    Ok(())
}

/// The linear pieces of a shape: (destination, source, bytes).
fn pieces(shape: &Shape) -> Vec<(u64, u64, usize)> {
    let mut pieces = Vec::new();
    for slice in 0..shape.extent[2] {
        for row in 0..shape.extent[1] {
            let at = |pitch: [usize; 2]| (slice * pitch[1] + row * pitch[0]) as u64;
            let (dst, src) = (
                shape.dst + at(shape.dst_pitch),
                shape.src + at(shape.src_pitch),
            );
            let cut = |start: usize| {
                (
                    dst + start as u64,
                    src + start as u64,
                    PIECE.min(shape.extent[0] - start),
                )
            };
            pieces.extend((0..shape.extent[0]).step_by(PIECE).map(cut));
        }
    }
    pieces
}

/// A fill; the spelling without a stream waits only if it fills host memory.
pub fn fill(
    world: &'static World,
    fill: Fill,
    stream: Option<Handle>,
    default: DefaultStream,
) -> Answer {
    thread::context(world)?;
    let is_blocking = stream.is_none();
    let stream = resolve(world, stream.unwrap_or(0), default)?;
    if is_blocking {
        capture::guard_unsafe(world)?;
        capture::guard_wait(world, &stream)?;
    }
    if fill.width == 0 || fill.height == 0 {
        return Ok(());
    }
    let row = fill
        .width
        .checked_mul(fill.size)
        .ok_or(ERROR_INVALID_VALUE)?;
    require(fill.height == 1 || fill.pitch >= row, ERROR_INVALID_VALUE)?;
    require(
        fill.dst.is_multiple_of(fill.size as DevicePtr),
        ERROR_INVALID_VALUE,
    )?;
    let (bytes, device) = (
        (fill.height - 1) * fill.pitch + row,
        stream.context()?.device,
    );
    let side = world.memory.side(fill.dst, bytes, device, Intent::Write)?;
    require(side != Side::Pageable, ERROR_INVALID_VALUE)?;
    let marker = submit(world, &stream, Work::Fill(fill))?;
    if is_blocking && !matches!(side, Side::Device(_)) {
        wait(marker);
    }
    Ok(())
}
