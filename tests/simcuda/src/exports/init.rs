//! `cuInit`, versions, error texts, and what tests steer this driver with.

use crate::codes::{
    self, Answer, CUresult, ERROR_INVALID_VALUE, ERROR_NO_DEVICE, ERROR_NOT_INITIALIZED, fail,
    require,
};
use crate::entry::{calls_of, driver_calls};
use crate::ffi::{In, Out, Text};
use crate::settings;
use crate::world::{self, World};
use std::ffi::{c_char, c_void};

/// The second and later calls have nothing to do. In a child of an initialised process this
/// fails, as with the real driver.
fn initialise(world: Option<&'static World>, flags: u32) -> Answer {
    let world = world.ok_or(ERROR_NOT_INITIALIZED)?;
    require(flags == 0, ERROR_INVALID_VALUE)?;
    require(!world.devices.is_empty(), ERROR_NO_DEVICE)?;
    world::initialise_once(|| {
        std::thread::sleep(world.settings.init_cost);
        super::checkpoint::serve(world);
    });
    Ok(())
}

fn put_static(place: Out<*const c_char>, text: Option<&'static str>) -> Answer {
    let Some(text) = text else {
        place.put(std::ptr::null())?;
        return fail(ERROR_INVALID_VALUE);
    };
    place.put(text.as_ptr().cast())
}

/// The id of a private table, which the journal shows in full.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct TableId(In<[u8; 16]>);

impl std::fmt::Debug for TableId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes = self.0.get().unwrap_or_default();
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn export_table(table: Out<*const c_void>, id: TableId) -> Answer {
    id.0.get()?;
    table.put(std::ptr::null())?;
    fail(codes::ERROR_NOT_FOUND)
}

driver_calls! {
    /// Initialises the driver.
    free fn cuInit(flags: u32) = |world| initialise(world, flags);
    /// The version; works before `cuInit`.
    free fn cuDriverGetVersion(version: Out<i32>) = |_world| version.put(settings::version());
    /// The name of a code.
    free fn cuGetErrorName(code: CUresult, name: Out<*const c_char>) = |_world| put_static(name, codes::name(code));
    /// A sentence about a code.
    free fn cuGetErrorString(code: CUresult, text: Out<*const c_char>) = |_world| put_static(text, codes::sentence(code));
    /// Private tables of the real driver: none is known.
    free fn cuGetExportTable(table: Out<*const c_void>, id: TableId) = |_world| export_table(table, id);
    /// Profiling: nothing to start.
    fn cuProfilerStart() = |_world| Ok(());
    /// Profiling: nothing to stop.
    fn cuProfilerStop() = |_world| Ok(());
}

/// Replaces the faults by `specification`, as `SIMCUDA_FAIL` has them.
#[unsafe(no_mangle)]
pub extern "C" fn simcuda_set_fault(specification: Text) {
    world::set_faults(&specification.get().unwrap_or_default());
}

/// Replaces the seed of streams that are made from now on.
#[unsafe(no_mangle)]
pub extern "C" fn simcuda_set_seed(seed: u64) {
    world::set_seed(seed);
}

/// How often the exported function of that name was called in this process.
#[unsafe(no_mangle)]
pub extern "C" fn simcuda_call_count(name: Text) -> u64 {
    name.get().map_or(0, |name| calls_of(&name))
}
