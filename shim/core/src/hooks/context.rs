//! Life and death of contexts.
//!
//! Lanes live in a context of the application's and must be gone before it is.

use super::memory::free;
use crate::contexts::{Contexts, Destroy, Release, Reset};
use crate::process::{self, Process};
use crate::real;
use rewarm::driver::sys::*;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Whether a stand-in exists, so that allocations have to be noted.
pub(super) static STANDS_IN: AtomicBool = AtomicBool::new(false);

impl Process {
    /// The application's first use of the prewarmed context: how long it still
    /// has to wait.
    fn timed(&self, device: CUdevice, call: impl FnOnce() -> CUresult) -> CUresult {
        if !self.contexts.lock().is_first_use(device) {
            return call();
        }
        let begun = Instant::now();
        let result = call();
        self.contexts
            .lock()
            .waited(begun.elapsed().as_nanos() as u64);
        result
    }

    /// The primary context of a device, if it exists.
    pub(crate) fn primary(&self, device: CUdevice) -> Option<CUcontext> {
        let (mut flags, mut active) = (0, 0);
        let mut context = ptr::null_mut();
        // SAFETY: out-pointers to locals; the reference is given back at once.
        unsafe {
            self.driver
                .primary_state(device, &mut flags, &mut active)
                .ok()?;
            if active == 0 {
                return None;
            }
            self.driver.primary_retain(&mut context, device).ok()?;
            self.driver.primary_release(device).ok()?;
        }
        Some(context)
    }

    /// Gives back every lane that lives in `context`, which is about to go.
    fn leave_context(&self, context: CUcontext) {
        self.fills.leave_context(context);
        for lanes in self.devices.take_lanes(context) {
            self.with_context(context, || lanes.release());
        }
    }

    /// Makes a call that may end a device's primary context, having left it. What
    /// was allocated there ends with it.
    fn end_primary_by(&self, device: CUdevice, end: impl FnOnce() -> CUresult) -> CUresult {
        let Some(context) = self.primary(device) else {
            return end();
        };
        self.leave_context(context);
        let result = end();
        if result.is_ok() && self.primary(device).is_none() {
            self.context_ended(context);
        }
        result
    }

    /// A context has ended, and with it what was allocated in it.
    fn context_ended(&self, context: CUcontext) {
        self.captures.context_ended(context);
        if let Some(ledger) = &self.ledger {
            ledger.context_ended(context);
        }
    }

    /// The application ends its use of the prewarmed context, and so does rewarm.
    fn end_primary(&self, device: CUdevice, plain: impl FnOnce() -> CUresult) -> CUresult {
        self.end_primary_by(device, || {
            let result = plain();
            self.release_own(device);
            result
        })
    }

    /// Gives rewarm's own reference back.
    fn release_own(&self, device: CUdevice) {
        // SAFETY: prewarming took it.
        if let Err(error) = unsafe { self.driver.primary_release(device) } {
            tracing::warn!(%error, "the prewarmed context was not released");
        }
    }
}

pub(super) unsafe extern "C" fn cuDevicePrimaryCtxRetain(
    context: *mut CUcontext,
    device: CUdevice,
) -> CUresult {
    // SAFETY: the application's own call.
    let plain = || unsafe { real::cuDevicePrimaryCtxRetain(context, device) };
    let Some(process) = process::current() else {
        return plain();
    };
    let result = process.timed(device, plain);
    if result.is_ok() {
        process.contexts.lock().retained(device);
    }
    result
}

fn release(device: CUdevice, plain: impl FnOnce() -> CUresult) -> CUresult {
    let Some(process) = process::current() else {
        return plain();
    };
    let comes_to = process.contexts.lock().release(device);
    match comes_to {
        Release::NotHeld => CUresult::INVALID_CONTEXT,
        Release::Plain => plain(),
        Release::Last => process.end_primary_by(device, plain),
        Release::LastOfBoth => process.end_primary(device, plain),
    }
}

fn reset(device: CUdevice, plain: impl FnOnce() -> CUresult) -> CUresult {
    let Some(process) = process::current() else {
        return plain();
    };
    let comes_to = process.contexts.lock().reset(device);
    match comes_to {
        Reset::Nothing => CUresult::SUCCESS,
        Reset::Plain => process.end_primary_by(device, plain),
        Reset::Both => process.end_primary(device, plain),
    }
}

macro_rules! by_device {
    ($($name:ident => $rule:ident;)*) => {$(
        pub(super) unsafe extern "C" fn $name(device: CUdevice) -> CUresult {
            // SAFETY: the application's own call.
            $rule(device, || unsafe { real::$name(device) })
        }
    )*};
}

by_device! {
    cuDevicePrimaryCtxRelease => release;
    cuDevicePrimaryCtxRelease_v2 => release;
    cuDevicePrimaryCtxReset => reset;
    cuDevicePrimaryCtxReset_v2 => reset;
}

pub(super) unsafe extern "C" fn cuDevicePrimaryCtxGetState(
    device: CUdevice,
    flags: *mut c_uint,
    active: *mut c_int,
) -> CUresult {
    // SAFETY: the application's own call.
    let result = unsafe { real::cuDevicePrimaryCtxGetState(device, flags, active) };
    if result.is_ok()
        && !active.is_null()
        && process::current().is_some_and(|process| process.contexts.lock().hides(device))
    {
        // SAFETY: the driver has just written there.
        unsafe { *active = 0 };
    }
    result
}

/// Notes the context that a successful call has written to `context`.
unsafe fn made(context: *mut CUcontext, result: CUresult) -> CUresult {
    if result.is_ok()
        && let Some(process) = process::current()
    {
        // SAFETY: the driver has just written there.
        process.contexts.lock().made(unsafe { *context });
    }
    result
}

fn create(
    context: *mut CUcontext,
    flags: c_uint,
    device: CUdevice,
    plain: impl FnOnce() -> CUresult,
) -> CUresult {
    let Some(process) = process::current().filter(|_| !context.is_null()) else {
        return plain();
    };
    let Some(stand_in) = process.contexts.lock().stand_in(device, flags) else {
        // SAFETY: passed on.
        return unsafe { made(context, plain()) };
    };
    // SAFETY: a context that prewarming holds; the out-pointer is the caller's.
    unsafe {
        if let Err(error) = process.driver.push_context(stand_in) {
            process.contexts.lock().forget_stand_in();
            return error.code;
        }
        *context = stand_in;
    }
    STANDS_IN.store(true, Ordering::Release);
    CUresult::SUCCESS
}

macro_rules! create_by_flags {
    ($($name:ident;)*) => {$(
        pub(super) unsafe extern "C" fn $name(
            context: *mut CUcontext,
            flags: c_uint,
            device: CUdevice,
        ) -> CUresult {
            // SAFETY: the application's own call.
            create(context, flags, device, || unsafe { real::$name(context, flags, device) })
        }
    )*};
}

create_by_flags! {
    cuCtxCreate;
    cuCtxCreate_v2;
}

pub(super) unsafe extern "C" fn cuCtxCreate_v3(
    context: *mut CUcontext,
    parameters: *mut c_void,
    count: c_int,
    flags: c_uint,
    device: CUdevice,
) -> CUresult {
    // SAFETY: the application's own call.
    let plain = || unsafe { real::cuCtxCreate_v3(context, parameters, count, flags, device) };
    if count == 0 && parameters.is_null() {
        create(context, flags, device, plain)
    } else {
        // SAFETY: passed on.
        unsafe { made(context, plain()) }
    }
}

pub(super) unsafe extern "C" fn cuCtxCreate_v4(
    context: *mut CUcontext,
    parameters: *mut c_void,
    flags: c_uint,
    device: CUdevice,
) -> CUresult {
    // SAFETY: the application's own call.
    let plain = || unsafe { real::cuCtxCreate_v4(context, parameters, flags, device) };
    if parameters.is_null() {
        create(context, flags, device, plain)
    } else {
        // SAFETY: passed on.
        unsafe { made(context, plain()) }
    }
}

fn destroy(context: CUcontext, plain: impl FnOnce() -> CUresult) -> CUresult {
    let Some(process) = process::current() else {
        return plain();
    };
    let comes_to = process.contexts.lock().destroy(context);
    match comes_to {
        Destroy::Plain => {
            let was_live = process.contexts.lock().going(context);
            process.leave_context(context);
            let result = plain();
            if result.is_ok() {
                process.context_ended(context);
            } else if was_live {
                process.contexts.lock().made(context);
            }
            result
        }
        Destroy::Release(device) => {
            process.leave_stand_in(context);
            process.leave_context(context);
            process.release_own(device);
            process.context_ended(context);
            CUresult::SUCCESS
        }
        Destroy::Free(memory) => {
            process.free(context, memory);
            process.leave_stand_in(context);
            CUresult::SUCCESS
        }
    }
}

impl Process {
    /// A destroyed context is no longer current in the calling thread.
    fn leave_stand_in(&self, context: CUcontext) {
        STANDS_IN.store(false, Ordering::Release);
        if self.current_context() == context {
            self.pop_context();
        }
    }

    fn free(&self, context: CUcontext, memory: Vec<CUdeviceptr>) {
        self.with_context(context, || {
            for address in memory {
                // Allocated in this context by the application, which has just given
                // up all of it.
                let _ = free(address);
            }
        });
    }
}

macro_rules! by_context {
    ($($name:ident;)*) => {$(
        pub(super) unsafe extern "C" fn $name(context: CUcontext) -> CUresult {
            // SAFETY: the application's own call.
            destroy(context, || unsafe { real::$name(context) })
        }
    )*};
}

by_context! {
    cuCtxDestroy;
    cuCtxDestroy_v2;
}

pub(super) unsafe extern "C" fn cuCtxGetFlags(flags: *mut c_uint) -> CUresult {
    // SAFETY: the application's own call.
    let result = unsafe { real::cuCtxGetFlags(flags) };
    if result.is_ok()
        && STANDS_IN.load(Ordering::Acquire)
        && let Some(process) = process::current()
        && let Some(asked) = Contexts::flags_of(&process.contexts.lock(), process.current_context())
    {
        // SAFETY: the driver has just written there.
        unsafe { *flags = asked };
    }
    result
}
