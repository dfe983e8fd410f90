//! Copies and fills, all spellings.

use crate::codes::{Answer, ERROR_INVALID_VALUE, ERROR_NOT_SUPPORTED, fail, require};
use crate::copy::{Direction, blocking, fill, in_stream};
use crate::entry::driver_calls;
use crate::ffi::{DevicePtr, Handle, In, Out};
use crate::stream::DefaultStream;
use crate::work::{Fill, Shape};
use crate::world::World;
use std::ffi::c_void;

/// One end of `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct End2D {
    x: usize,
    y: usize,
    kind: u32,
    host: u64,
    device: DevicePtr,
    array: Handle,
    pitch: usize,
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Copy2D {
    src: End2D,
    dst: End2D,
    width: usize,
    height: usize,
}

/// One end of `CUDA_MEMCPY3D` and, with a context in place of `reserved`, of `CUDA_MEMCPY3D_PEER`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct End3D {
    x: usize,
    y: usize,
    z: usize,
    lod: usize,
    kind: u32,
    host: u64,
    device: DevicePtr,
    array: Handle,
    reserved: u64,
    pitch: usize,
    height: usize,
}

/// `CUDA_MEMCPY3D`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Copy3D {
    src: End3D,
    dst: End3D,
    width: usize,
    height: usize,
    depth: usize,
}

/// The address that an end means: host 1, device 2, unified 4. Arrays are not simulated.
fn address(kind: u32, host: u64, device: DevicePtr) -> Answer<u64> {
    match kind {
        1 => Ok(host),
        2 | 4 => Ok(device),
        3 => fail(ERROR_NOT_SUPPORTED),
        _ => fail(ERROR_INVALID_VALUE),
    }
}

impl End2D {
    fn start(&self, width: usize, height: usize) -> Answer<(u64, usize)> {
        let pitch = if self.pitch == 0 { width } else { self.pitch };
        require(pitch >= width || height <= 1, ERROR_INVALID_VALUE)?;
        let base = address(self.kind, self.host, self.device)?;
        Ok((base + (self.y * pitch + self.x) as u64, pitch))
    }
}

impl End3D {
    fn start(&self, width: usize, height: usize) -> Answer<(u64, [usize; 2])> {
        let pitch = if self.pitch == 0 { width } else { self.pitch };
        let rows = if self.height == 0 {
            height
        } else {
            self.height
        };
        require(pitch >= width && rows >= height, ERROR_INVALID_VALUE)?;
        let base = address(self.kind, self.host, self.device)?;
        let offset = (self.z * rows + self.y) * pitch + self.x;
        Ok((base + offset as u64, [pitch, rows * pitch]))
    }
}

fn shape_2d(copy: In<Copy2D>) -> Answer<Shape> {
    let copy = copy.get()?;
    let (dst, dst_pitch) = copy.dst.start(copy.width, copy.height)?;
    let (src, src_pitch) = copy.src.start(copy.width, copy.height)?;
    let extent = [copy.width, copy.height, 1];
    Ok(Shape {
        dst,
        src,
        extent,
        dst_pitch: [dst_pitch, 0],
        src_pitch: [src_pitch, 0],
    })
}

fn shape_3d(copy: In<Copy3D>) -> Answer<Shape> {
    let copy = copy.get()?;
    let (dst, dst_pitch) = copy.dst.start(copy.width, copy.height)?;
    let (src, src_pitch) = copy.src.start(copy.width, copy.height)?;
    let extent = [copy.width, copy.height, copy.depth];
    Ok(Shape {
        dst,
        src,
        extent,
        dst_pitch,
        src_pitch,
    })
}

/// Addresses and sizes of `cuMemcpyBatchAsync`.
struct Batch {
    dsts: In<DevicePtr>,
    srcs: In<DevicePtr>,
    sizes: In<usize>,
    count: usize,
    attributes: usize,
}

/// The copies of a batch have no order among themselves; any one is right, also that of the list.
fn batch(
    world: &'static World,
    batch: &Batch,
    failed: Out<usize>,
    stream: Handle,
    default: DefaultStream,
) -> Answer {
    require(
        batch.count > 0 && batch.attributes > 0 && batch.attributes <= batch.count,
        ERROR_INVALID_VALUE,
    )?;
    // A batch takes created streams only.
    require(stream > 2, crate::codes::ERROR_INVALID_HANDLE)?;
    failed.put_if_given(usize::MAX);
    for index in 0..batch.count {
        let shape = Shape::linear(
            batch.dsts.at(index)?,
            batch.srcs.at(index)?,
            batch.sizes.at(index)?,
        );
        let result = in_stream(world, shape, Direction::Inferred, stream, default);
        if result.is_err() {
            failed.put_if_given(index);
        }
        result?;
    }
    Ok(())
}

/// The contexts that a copy between devices names must be live.
fn live(world: &World, contexts: [Handle; 2]) -> Answer {
    let is_live = |context: &Handle| world.contexts.find(*context).is_some();
    require(
        contexts.iter().all(is_live),
        crate::codes::ERROR_INVALID_CONTEXT,
    )
}

/// A fill of one row.
fn row(dst: DevicePtr, value: u32, size: usize, width: usize) -> Fill {
    Fill {
        dst,
        pitch: 0,
        value,
        size,
        width,
        height: 1,
    }
}

/// A fill of rows.
fn rows(dst: DevicePtr, pitch: usize, value: u32, size: usize, extent: [usize; 2]) -> Fill {
    Fill {
        dst,
        pitch,
        value,
        size,
        width: extent[0],
        height: extent[1],
    }
}

driver_calls! {
    /// Host to device.
    fn cuMemcpyHtoD_v2 / cuMemcpyHtoD_v2_ptds (dst: DevicePtr, src: u64, bytes: usize) = |world, default| blocking(world, Shape::linear(dst, src, bytes), Direction::HtoD, default);
    /// Device to host.
    fn cuMemcpyDtoH_v2 / cuMemcpyDtoH_v2_ptds (dst: u64, src: DevicePtr, bytes: usize) = |world, default| blocking(world, Shape::linear(dst, src, bytes), Direction::DtoH, default);
    /// Device to device.
    fn cuMemcpyDtoD_v2 / cuMemcpyDtoD_v2_ptds (dst: DevicePtr, src: DevicePtr, bytes: usize) = |world, default| blocking(world, Shape::linear(dst, src, bytes), Direction::DtoD, default);
    /// Anything to anything.
    fn cuMemcpy / cuMemcpy_ptds (dst: DevicePtr, src: DevicePtr, bytes: usize) = |world, default| blocking(world, Shape::linear(dst, src, bytes), Direction::Inferred, default);
    /// Between devices.
    fn cuMemcpyPeer / cuMemcpyPeer_ptds (dst: DevicePtr, dst_context: Handle, src: DevicePtr, src_context: Handle, bytes: usize) = |world, default| {
        live(world, [dst_context, src_context])?;
        blocking(world, Shape::linear(dst, src, bytes), Direction::DtoD, default)
    };
    /// Host to device.
    fn cuMemcpyHtoDAsync_v2 / cuMemcpyHtoDAsync_v2_ptsz (dst: DevicePtr, src: u64, bytes: usize, stream: Handle) = |world, default| in_stream(world, Shape::linear(dst, src, bytes), Direction::HtoD, stream, default);
    /// Device to host.
    fn cuMemcpyDtoHAsync_v2 / cuMemcpyDtoHAsync_v2_ptsz (dst: u64, src: DevicePtr, bytes: usize, stream: Handle) = |world, default| in_stream(world, Shape::linear(dst, src, bytes), Direction::DtoH, stream, default);
    /// Device to device.
    fn cuMemcpyDtoDAsync_v2 / cuMemcpyDtoDAsync_v2_ptsz (dst: DevicePtr, src: DevicePtr, bytes: usize, stream: Handle) = |world, default| in_stream(world, Shape::linear(dst, src, bytes), Direction::DtoD, stream, default);
    /// Anything to anything.
    fn cuMemcpyAsync / cuMemcpyAsync_ptsz (dst: DevicePtr, src: DevicePtr, bytes: usize, stream: Handle) = |world, default| in_stream(world, Shape::linear(dst, src, bytes), Direction::Inferred, stream, default);
    /// Between devices.
    fn cuMemcpyPeerAsync / cuMemcpyPeerAsync_ptsz (dst: DevicePtr, dst_context: Handle, src: DevicePtr, src_context: Handle, bytes: usize, stream: Handle) = |world, default| {
        live(world, [dst_context, src_context])?;
        in_stream(world, Shape::linear(dst, src, bytes), Direction::DtoD, stream, default)
    };

    /// Rows.
    fn cuMemcpy2D_v2 / cuMemcpy2D_v2_ptds (copy: In<Copy2D>) = |world, default| blocking(world, shape_2d(copy)?, Direction::Inferred, default);
    /// Rows of any pitch.
    fn cuMemcpy2DUnaligned_v2 / cuMemcpy2DUnaligned_v2_ptds (copy: In<Copy2D>) = |world, default| blocking(world, shape_2d(copy)?, Direction::Inferred, default);
    /// Rows.
    fn cuMemcpy2DAsync_v2 / cuMemcpy2DAsync_v2_ptsz (copy: In<Copy2D>, stream: Handle) = |world, default| in_stream(world, shape_2d(copy)?, Direction::Inferred, stream, default);
    /// Slices.
    fn cuMemcpy3D_v2 / cuMemcpy3D_v2_ptds (copy: In<Copy3D>) = |world, default| blocking(world, shape_3d(copy)?, Direction::Inferred, default);
    /// Slices.
    fn cuMemcpy3DAsync_v2 / cuMemcpy3DAsync_v2_ptsz (copy: In<Copy3D>, stream: Handle) = |world, default| in_stream(world, shape_3d(copy)?, Direction::Inferred, stream, default);
    /// Slices between devices.
    fn cuMemcpy3DPeer / cuMemcpy3DPeer_ptds (copy: In<Copy3D>) = |world, default| blocking(world, shape_3d(copy)?, Direction::Inferred, default);
    /// Slices between devices.
    fn cuMemcpy3DPeerAsync / cuMemcpy3DPeerAsync_ptsz (copy: In<Copy3D>, stream: Handle) = |world, default| in_stream(world, shape_3d(copy)?, Direction::Inferred, stream, default);
    /// Many linear copies.
    fn cuMemcpyBatchAsync / cuMemcpyBatchAsync_ptsz (dsts: In<DevicePtr>, srcs: In<DevicePtr>, sizes: In<usize>, count: usize, kinds: *mut c_void, indices: In<usize>, attributes: usize, failed: Out<usize>, stream: Handle) = |world, default| batch(world, &Batch { dsts, srcs, sizes, count, attributes }, failed, stream, default);
    /// Many linear copies.
    fn cuMemcpyBatchAsync_v2 / cuMemcpyBatchAsync_v2_ptsz (dsts: In<DevicePtr>, srcs: In<DevicePtr>, sizes: In<usize>, count: usize, kinds: *mut c_void, indices: In<usize>, attributes: usize, stream: Handle) = |world, default| batch(world, &Batch { dsts, srcs, sizes, count, attributes }, Out::from_raw(std::ptr::null_mut()), stream, default);

    /// Fills bytes.
    fn cuMemsetD8_v2 / cuMemsetD8_v2_ptds (dst: DevicePtr, value: u8, count: usize) = |world, default| fill(world, row(dst, value.into(), 1, count), None, default);
    /// Fills 16-bit words.
    fn cuMemsetD16_v2 / cuMemsetD16_v2_ptds (dst: DevicePtr, value: u16, count: usize) = |world, default| fill(world, row(dst, value.into(), 2, count), None, default);
    /// Fills 32-bit words.
    fn cuMemsetD32_v2 / cuMemsetD32_v2_ptds (dst: DevicePtr, value: u32, count: usize) = |world, default| fill(world, row(dst, value, 4, count), None, default);
    /// Fills rows of bytes.
    fn cuMemsetD2D8_v2 / cuMemsetD2D8_v2_ptds (dst: DevicePtr, pitch: usize, value: u8, width: usize, height: usize) = |world, default| fill(world, rows(dst, pitch, value.into(), 1, [width, height]), None, default);
    /// Fills rows of 16-bit words.
    fn cuMemsetD2D16_v2 / cuMemsetD2D16_v2_ptds (dst: DevicePtr, pitch: usize, value: u16, width: usize, height: usize) = |world, default| fill(world, rows(dst, pitch, value.into(), 2, [width, height]), None, default);
    /// Fills rows of 32-bit words.
    fn cuMemsetD2D32_v2 / cuMemsetD2D32_v2_ptds (dst: DevicePtr, pitch: usize, value: u32, width: usize, height: usize) = |world, default| fill(world, rows(dst, pitch, value, 4, [width, height]), None, default);
    /// Fills bytes.
    fn cuMemsetD8Async / cuMemsetD8Async_ptsz (dst: DevicePtr, value: u8, count: usize, stream: Handle) = |world, default| fill(world, row(dst, value.into(), 1, count), Some(stream), default);
    /// Fills 16-bit words.
    fn cuMemsetD16Async / cuMemsetD16Async_ptsz (dst: DevicePtr, value: u16, count: usize, stream: Handle) = |world, default| fill(world, row(dst, value.into(), 2, count), Some(stream), default);
    /// Fills 32-bit words.
    fn cuMemsetD32Async / cuMemsetD32Async_ptsz (dst: DevicePtr, value: u32, count: usize, stream: Handle) = |world, default| fill(world, row(dst, value, 4, count), Some(stream), default);
    /// Fills rows of bytes.
    fn cuMemsetD2D8Async / cuMemsetD2D8Async_ptsz (dst: DevicePtr, pitch: usize, value: u8, width: usize, height: usize, stream: Handle) = |world, default| fill(world, rows(dst, pitch, value.into(), 1, [width, height]), Some(stream), default);
    /// Fills rows of 16-bit words.
    fn cuMemsetD2D16Async / cuMemsetD2D16Async_ptsz (dst: DevicePtr, pitch: usize, value: u16, width: usize, height: usize, stream: Handle) = |world, default| fill(world, rows(dst, pitch, value.into(), 2, [width, height]), Some(stream), default);
    /// Fills rows of 32-bit words.
    fn cuMemsetD2D32Async / cuMemsetD2D32Async_ptsz (dst: DevicePtr, pitch: usize, value: u32, width: usize, height: usize, stream: Handle) = |world, default| fill(world, rows(dst, pitch, value, 4, [width, height]), Some(stream), default);
}
