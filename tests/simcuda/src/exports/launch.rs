//! Modules, libraries, functions and launches of the built-in kernels.

use crate::access::Actor;
use crate::capture::submit;
use crate::codes::{
    Answer, ERROR_FILE_NOT_FOUND, ERROR_INVALID_VALUE, ERROR_NOT_FOUND, fail, require,
};
use crate::entry::driver_calls;
use crate::ffi::{DevicePtr, Handle, In, Out, Text};
use crate::kernels::{KERNELS, Launch, Module, by_name, check_image, index_of};
use crate::stream::{DefaultStream, resolve};
use crate::thread;
use crate::work::Work;
use crate::world::World;
use std::ffi::{c_char, c_void};
use std::sync::Arc;

fn load(world: &'static World, place: Out<Handle>, image: *const c_void) -> Answer {
    thread::context(world)?;
    load_library(world, place, image)
}

/// Libraries need no context.
fn load_library(world: &'static World, place: Out<Handle>, image: *const c_void) -> Answer {
    require(place.given(), ERROR_INVALID_VALUE)?;
    check_image(image)?;
    let handle = world.new_handle();
    world.modules.add(handle, Arc::new(Module));
    place.put(handle)
}

fn load_file(world: &'static World, place: Out<Handle>, path: Text) -> Answer {
    let mut image = std::fs::read(path.get()?).map_err(|_| ERROR_FILE_NOT_FOUND)?;
    // An image is looked at without its length.
    image.extend([0; 8]);
    load_library(world, place, image.as_ptr().cast())
}

fn function(world: &World, place: Out<Handle>, module: Handle, name: Text) -> Answer {
    world.modules.get(module)?;
    place.put(by_name(&name.get()?)?)
}

/// The names with their terminating NUL, for callers that keep the pointer.
fn name(place: Out<*const c_char>, function: Handle) -> Answer {
    const NAMES: [&str; KERNELS.len()] = [
        "sim_fill\0",
        "sim_add\0",
        "sim_copy\0",
        "sim_check\0",
        "sim_spin\0",
    ];
    place.put(NAMES[index_of(function)?].as_ptr().cast())
}

fn parameter(function: Handle, index: usize, offset: Out<usize>, size: Out<usize>) -> Answer {
    let sizes = KERNELS[index_of(function)?].1;
    let own = *sizes.get(index).ok_or(ERROR_INVALID_VALUE)?;
    let after = |at: usize, size: &usize| at.next_multiple_of(*size) + size;
    offset.put(sizes[..index].iter().fold(0, after).next_multiple_of(own))?;
    size.put_if_given(own);
    Ok(())
}

/// `CUfunction_attribute`: most are 0 for code that is not there.
fn attribute(place: Out<i32>, number: u32, function: Handle) -> Answer {
    index_of(function)?;
    place.put(match number {
        0 => 1024,
        4 => 16,
        5 | 6 => 90,
        _ => 0,
    })
}

/// Where and with what a kernel is launched; the grid does not matter to a built-in kernel.
struct Request {
    function: Handle,
    stream: Handle,
    grid: [u32; 6],
    parameters: In<*const c_void>,
    extra: In<usize>,
}

fn launch(world: &'static World, default: DefaultStream, request: &Request) -> Answer {
    thread::context(world)?;
    require(
        request.grid.iter().all(|size| *size > 0),
        ERROR_INVALID_VALUE,
    )?;
    let stream = resolve(world, request.stream, default)?;
    let context = stream.context()?;
    let actor = Actor {
        context: context.handle,
        device: context.device,
    };
    let launch = Launch::new(request.function, request.parameters, request.extra, actor)?;
    submit(world, &stream, Work::Kernel(launch)).map(drop)
}

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Config {
    grid: [u32; 6],
    shared: u32,
    stream: Handle,
    attributes: u64,
    attribute_count: u32,
}

fn occupancy(blocks: Out<i32>, function: Handle) -> Answer {
    index_of(function)?;
    blocks.put(2)
}

driver_calls! {
    /// Loads a module.
    fn cuModuleLoad(module: Out<Handle>, path: Text) = |world| { thread::context(world)?; load_file(world, module, path) };
    /// Loads a module.
    fn cuModuleLoadData(module: Out<Handle>, image: *const c_void) = |world| load(world, module, image);
    /// Loads a module.
    fn cuModuleLoadDataEx(module: Out<Handle>, image: *const c_void, count: u32, options: *mut u32, values: *mut c_void) = |world| load(world, module, image);
    /// Loads a module.
    fn cuModuleLoadFatBinary(module: Out<Handle>, image: *const c_void) = |world| load(world, module, image);
    /// Unloads a module.
    fn cuModuleUnload(module: Handle) = |world| world.modules.remove(module).map(drop);
    /// Modules are loaded at once.
    fn cuModuleGetLoadingMode(mode: Out<u32>) = |_world| mode.put(1);
    /// A kernel of a module.
    fn cuModuleGetFunction(place: Out<Handle>, module: Handle, name: Text) = |world| function(world, place, module, name);
    /// How many kernels a module has.
    fn cuModuleGetFunctionCount(count: Out<u32>, module: Handle) = |world| { world.modules.get(module)?; count.put(KERNELS.len() as u32) };
    /// Modules have no variables.
    fn cuModuleGetGlobal_v2(address: Out<DevicePtr>, bytes: Out<usize>, module: Handle, name: Text) = |world| { world.modules.get(module)?; fail(ERROR_NOT_FOUND) };
    /// Loads a library.
    fn cuLibraryLoadData(library: Out<Handle>, image: *const c_void, jit: *mut u32, jit_values: *mut c_void, jit_count: u32, options: *mut u32, values: *mut c_void, count: u32) = |world| load_library(world, library, image);
    /// Loads a library.
    fn cuLibraryLoadFromFile(library: Out<Handle>, path: Text, jit: *mut u32, jit_values: *mut c_void, jit_count: u32, options: *mut u32, values: *mut c_void, count: u32) = |world| load_file(world, library, path);
    /// Unloads a library.
    fn cuLibraryUnload(library: Handle) = |world| world.modules.remove(library).map(drop);
    /// A library as a module.
    fn cuLibraryGetModule(module: Out<Handle>, library: Handle) = |world| { world.modules.get(library)?; module.put(library) };
    /// A kernel of a library.
    fn cuLibraryGetKernel(place: Out<Handle>, library: Handle, name: Text) = |world| function(world, place, library, name);
    /// How many kernels a library has.
    fn cuLibraryGetKernelCount(count: Out<u32>, library: Handle) = |world| { world.modules.get(library)?; count.put(KERNELS.len() as u32) };
    /// Libraries have no variables.
    fn cuLibraryGetGlobal(address: Out<DevicePtr>, bytes: Out<usize>, library: Handle, name: Text) = |world| { world.modules.get(library)?; fail(ERROR_NOT_FOUND) };
    /// Libraries have no variables.
    fn cuLibraryGetManaged(address: Out<DevicePtr>, bytes: Out<usize>, library: Handle, name: Text) = |world| { world.modules.get(library)?; fail(ERROR_NOT_FOUND) };
    /// A kernel and its function are the same.
    fn cuKernelGetFunction(place: Out<Handle>, kernel: Handle) = |_world| { index_of(kernel)?; place.put(kernel) };
    /// The name of a kernel.
    fn cuKernelGetName(place: Out<*const c_char>, kernel: Handle) = |_world| name(place, kernel);
    /// The name of a function.
    fn cuFuncGetName(place: Out<*const c_char>, kernel: Handle) = |_world| name(place, kernel);
    /// A parameter of a kernel.
    fn cuKernelGetParamInfo(kernel: Handle, index: usize, offset: Out<usize>, size: Out<usize>) = |_world| parameter(kernel, index, offset, size);
    /// A parameter of a function.
    fn cuFuncGetParamInfo(kernel: Handle, index: usize, offset: Out<usize>, size: Out<usize>) = |_world| parameter(kernel, index, offset, size);
    /// An attribute of a kernel.
    fn cuKernelGetAttribute(value: Out<i32>, number: u32, kernel: Handle, device: i32) = |_world| attribute(value, number, kernel);
    /// An attribute of a function.
    fn cuFuncGetAttribute(value: Out<i32>, number: u32, kernel: Handle) = |_world| attribute(value, number, kernel);
    /// Has no effect.
    fn cuKernelSetAttribute(number: u32, value: i32, kernel: Handle, device: i32) = |_world| index_of(kernel).map(drop);
    /// Has no effect.
    fn cuFuncSetAttribute(kernel: Handle, number: u32, value: i32) = |_world| index_of(kernel).map(drop);
    /// Has no effect.
    fn cuFuncSetCacheConfig(kernel: Handle, config: u32) = |_world| index_of(kernel).map(drop);
    /// Has no effect.
    fn cuKernelSetCacheConfig(kernel: Handle, config: u32, device: i32) = |_world| index_of(kernel).map(drop);
    /// Has no effect.
    fn cuFuncSetSharedMemConfig(kernel: Handle, config: u32) = |_world| index_of(kernel).map(drop);
    /// Functions are loaded.
    fn cuFuncIsLoaded(state: Out<u32>, kernel: Handle) = |_world| { index_of(kernel)?; state.put(1) };
    /// Functions are loaded.
    fn cuFuncLoad(kernel: Handle) = |_world| index_of(kernel).map(drop);
    /// Launches a kernel.
    fn cuLaunchKernel / cuLaunchKernel_ptsz (kernel: Handle, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32, shared: u32, stream: Handle, parameters: In<*const c_void>, extra: In<usize>) = |world, default| launch(world, default, &Request { function: kernel, stream, grid: [grid_x, grid_y, grid_z, block_x, block_y, block_z], parameters, extra });
    /// Launches a kernel whose blocks run together.
    fn cuLaunchCooperativeKernel / cuLaunchCooperativeKernel_ptsz (kernel: Handle, grid_x: u32, grid_y: u32, grid_z: u32, block_x: u32, block_y: u32, block_z: u32, shared: u32, stream: Handle, parameters: In<*const c_void>) = |world, default| launch(world, default, &Request { function: kernel, stream, grid: [grid_x, grid_y, grid_z, block_x, block_y, block_z], parameters, extra: In::from_raw(std::ptr::null()) });
    /// Launches a kernel; attributes have no effect.
    fn cuLaunchKernelEx / cuLaunchKernelEx_ptsz (config: In<Config>, kernel: Handle, parameters: In<*const c_void>, extra: In<usize>) = |world, default| {
        let config = config.get()?;
        launch(world, default, &Request { function: kernel, stream: config.stream, grid: config.grid, parameters, extra })
    };
    /// How many blocks fit: two.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: Out<i32>, kernel: Handle, size: i32, shared: usize) = |_world| occupancy(blocks, kernel);
    /// How many blocks fit: two.
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks: Out<i32>, kernel: Handle, size: i32, shared: usize, flags: u32) = |_world| occupancy(blocks, kernel);
    /// Shared memory that a block may have.
    fn cuOccupancyAvailableDynamicSMemPerBlock(bytes: Out<usize>, kernel: Handle, blocks: i32, size: i32) = |_world| { index_of(kernel)?; bytes.put(48 * 1024) };
}
