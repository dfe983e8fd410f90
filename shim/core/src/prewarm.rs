//! Prewarming, on the front's thread.

use crate::gate;
use crate::process::{self, Process};
use rewarm::driver;
use rewarm::driver::sys::CUdevice;
use std::ptr;
use std::time::Instant;

/// The device whose context is made: the first that the process sees.
const DEVICE: CUdevice = 0;

/// Initialises the driver, retains the primary context and makes the lanes. A
/// failure (no GPU, say) is the application's to find out for itself.
pub(crate) unsafe extern "C" fn run() {
    let Some(process) = process::current() else {
        return;
    };
    let Some(_inside) = gate::enter() else {
        return;
    };
    let begun = Instant::now();
    // SAFETY: what the application would do itself a little later.
    let ready = unsafe { process.driver.init(0) };
    let init = begun.elapsed().as_secs_f64();
    let retained = ready.and_then(|()| process.prewarm());
    let retain = begun.elapsed().as_secs_f64() - init;
    let failure = retained.err().map(|error| error.to_string());
    process.contexts.lock().prewarm_took(init, retain, failure);
    process.warm_lanes();
}

impl Process {
    fn prewarm(&self) -> driver::Result<()> {
        let mut device = 0;
        let mut context = ptr::null_mut();
        // Held over the call: nobody may see that the context is active before
        // it is known whose doing that is.
        let mut contexts = self.contexts.lock();
        // SAFETY: out-pointers to locals.
        unsafe {
            self.driver.device_get(&mut device, DEVICE)?;
            self.driver.primary_retain(&mut context, device)?;
        }
        contexts.prewarm(device, context);
        Ok(())
    }

    /// Makes the lanes; memory is pinned by the first copy that needs it.
    fn warm_lanes(&self) {
        if !self.settings.parallel_restore {
            return;
        }
        let Some(context) = self.contexts.lock().prewarmed_context() else {
            return;
        };
        self.with_context(context, || {
            self.devices.get(DEVICE).lanes(&self.driver, &self.plan);
        });
    }
}
