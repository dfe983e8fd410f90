//! The prewarmed context: who uses it as what.
//!
//! Prewarming holds one reference on a device's primary context. The
//! application may come to use the same context in two ways: by retaining the
//! primary context, or by `cuCtxCreate`, which is answered with it as long as
//! the application does not use the primary context itself (a *stand-in*).
//! Neither may notice the other or the extra reference:
//!
//! - the extra reference is given back with the application's last one, so that
//!   a context dies with everything in it when the application thinks it does;
//! - destroying the stand-in while the primary context is in use frees only the
//!   memory that was allocated before the primary context was;
//! - the primary context counts as active only when the application retained it.

use rewarm::control::ContextReport;
use rewarm::driver::sys::{CUcontext, CUdevice, CUdeviceptr, c_uint};
use std::collections::{HashMap, HashSet};

/// Contexts of this process, as far as rewarm has a part in them.
#[derive(Default)]
pub(crate) struct Contexts {
    /// References that the application holds on each primary context.
    retained: HashMap<CUdevice, u32>,
    prewarmed: Option<Prewarmed>,
    times: Times,
    created: u64,
    /// Contexts that the driver created for the application and that still live.
    live: HashSet<Handle>,
}

/// A context as a key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Handle(CUcontext);

// SAFETY: a handle, only compared and passed to the driver.
unsafe impl Send for Handle {}

/// The primary context that prewarming holds a reference on.
struct Prewarmed {
    device: CUdevice,
    context: CUcontext,
    stand_in: Option<StandIn>,
}

// SAFETY: a handle.
unsafe impl Send for Prewarmed {}

/// The prewarmed context in the place of one that the application created.
struct StandIn {
    flags: c_uint,
    /// Device memory that belongs to the created context beyond doubt.
    memory: HashSet<CUdeviceptr>,
}

#[derive(Default)]
struct Times {
    ran: bool,
    init: f64,
    retain: f64,
    waited: f64,
    from_prewarmed: u64,
    failure: Option<String>,
}

/// What destroying a context comes to.
pub(crate) enum Destroy {
    /// The driver's affair.
    Plain,
    /// The last use of the prewarmed context: it goes, with all that is in it.
    Release(CUdevice),
    /// The primary context stays; this memory goes.
    Free(Vec<CUdeviceptr>),
}

/// What giving back a reference on a primary context comes to.
pub(crate) enum Release {
    /// Other references remain, or nothing of rewarm's is concerned.
    Plain,
    /// The application's last one, and rewarm holds none.
    Last,
    /// The application's last one: rewarm's goes with it.
    LastOfBoth,
    /// The application holds none: the driver would refuse.
    NotHeld,
}

impl Contexts {
    /// Prewarming has succeeded.
    pub(crate) fn prewarm(&mut self, device: CUdevice, context: CUcontext) {
        self.prewarmed = Some(Prewarmed {
            device,
            context,
            stand_in: None,
        });
    }

    /// The context that prewarming holds, if it still does.
    pub(crate) fn prewarmed_context(&self) -> Option<CUcontext> {
        self.prewarmed.as_ref().map(|warm| warm.context)
    }

    /// Seconds that prewarming took, or why it failed.
    pub(crate) fn prewarm_took(&mut self, init: f64, retain: f64, failure: Option<String>) {
        self.times.ran = true;
        self.times.init = init;
        self.times.retain = retain;
        self.times.failure = failure;
    }

    /// The application waited for something that prewarming was to save.
    pub(crate) fn waited(&mut self, nanoseconds: u64) {
        self.times.waited += nanoseconds as f64 / 1e9;
    }

    /// Whether the application has not used the prewarmed device's context yet.
    pub(crate) fn is_first_use(&self, device: CUdevice) -> bool {
        self.prewarmed
            .as_ref()
            .is_some_and(|warm| warm.device == device && warm.stand_in.is_none())
            && self.held(device) == 0
    }

    fn held(&self, device: CUdevice) -> u32 {
        self.retained.get(&device).copied().unwrap_or(0)
    }

    fn warm(&self, device: CUdevice) -> Option<&Prewarmed> {
        self.prewarmed.as_ref().filter(|warm| warm.device == device)
    }

    /// The application has retained a primary context.
    pub(crate) fn retained(&mut self, device: CUdevice) {
        *self.retained.entry(device).or_default() += 1;
    }

    /// The application gives a reference back.
    pub(crate) fn release(&mut self, device: CUdevice) -> Release {
        let stands_in = self.warm(device).map(|warm| warm.stand_in.is_some());
        let Some(held) = self.retained.get_mut(&device).filter(|held| **held > 0) else {
            return if stands_in.is_some() {
                Release::NotHeld
            } else {
                Release::Plain
            };
        };
        *held -= 1;
        match (*held, stands_in) {
            (0, None) => Release::Last,
            (0, Some(false)) => {
                self.prewarmed = None;
                Release::LastOfBoth
            }
            _ => Release::Plain,
        }
    }

    /// The application resets a primary context: whether there is anything of
    /// its own to reset, and whether rewarm's reference goes with it.
    pub(crate) fn reset(&mut self, device: CUdevice) -> Reset {
        match self.warm(device) {
            None => Reset::Plain,
            // Nothing of the application's is there, or what is there belongs
            // to the context that it created as well.
            Some(warm) if warm.stand_in.is_some() || self.held(device) == 0 => Reset::Nothing,
            Some(_) => {
                self.prewarmed = None;
                Reset::Both
            }
        }
    }

    /// Whether the driver's "active" is rewarm's doing alone.
    pub(crate) fn hides(&self, device: CUdevice) -> bool {
        self.warm(device).is_some() && self.held(device) == 0
    }

    /// The prewarmed context for a `cuCtxCreate`, if it may stand in: nobody
    /// uses it, and its flags are what was asked for. (`MAP_HOST`, 8, is always
    /// on; 0 is what a primary context has.)
    pub(crate) fn stand_in(&mut self, device: CUdevice, flags: c_uint) -> Option<CUcontext> {
        const MAP_HOST: c_uint = 8;
        if !self.is_first_use(device) || flags & !MAP_HOST != 0 {
            self.created += 1;
            return None;
        }
        let warm = self.prewarmed.as_mut()?;
        warm.stand_in = Some(StandIn {
            flags,
            memory: HashSet::new(),
        });
        self.times.from_prewarmed += 1;
        Some(warm.context)
    }

    /// The stand-in could not be made current: it does not stand in after all.
    pub(crate) fn forget_stand_in(&mut self) {
        if let Some(warm) = &mut self.prewarmed {
            warm.stand_in = None;
        }
    }

    /// The application destroys a context.
    pub(crate) fn destroy(&mut self, context: CUcontext) -> Destroy {
        let Some(warm) = self
            .prewarmed
            .as_mut()
            .filter(|warm| warm.context == context)
        else {
            return Destroy::Plain;
        };
        let Some(stand_in) = warm.stand_in.take() else {
            return Destroy::Plain;
        };
        let device = warm.device;
        if self.held(device) > 0 {
            return Destroy::Free(stand_in.memory.into_iter().collect());
        }
        self.prewarmed = None;
        Destroy::Release(device)
    }

    /// The driver has created a context.
    pub(crate) fn made(&mut self, context: CUcontext) {
        self.live.insert(Handle(context));
    }

    /// A context is about to go: whether it is one that the driver created.
    pub(crate) fn going(&mut self, context: CUcontext) -> bool {
        self.live.remove(&Handle(context))
    }

    /// The contexts that the driver created and that still live.
    pub(crate) fn live(&self) -> Vec<CUcontext> {
        self.live.iter().map(|context| context.0).collect()
    }

    /// Flags that the application gave `context`, if it is a stand-in.
    pub(crate) fn flags_of(&self, context: CUcontext) -> Option<c_uint> {
        let warm = self
            .prewarmed
            .as_ref()
            .filter(|warm| warm.context == context)?;
        warm.stand_in.as_ref().map(|stand_in| stand_in.flags)
    }

    /// Memory was allocated in `context`. It belongs to the stand-in if the
    /// primary context is not in use as well.
    pub(crate) fn allocated(&mut self, context: CUcontext, address: CUdeviceptr) {
        let Some(warm) = self
            .prewarmed
            .as_mut()
            .filter(|warm| warm.context == context)
        else {
            return;
        };
        if self.retained.get(&warm.device).copied().unwrap_or(0) == 0
            && let Some(stand_in) = &mut warm.stand_in
        {
            stand_in.memory.insert(address);
        }
    }

    /// Memory was freed.
    pub(crate) fn freed(&mut self, address: CUdeviceptr) {
        if let Some(stand_in) = self
            .prewarmed
            .as_mut()
            .and_then(|warm| warm.stand_in.as_mut())
        {
            stand_in.memory.remove(&address);
        }
    }

    /// The reported form.
    pub(crate) fn report(&self) -> ContextReport {
        let times = &self.times;
        // Without prewarming there was nothing to save.
        let waited = if times.ran { times.waited } else { 0.0 };
        ContextReport {
            prewarmed: times.ran && times.failure.is_none(),
            init_seconds: times.init,
            retain_seconds: times.retain,
            waited_seconds: waited,
            saved_seconds: (times.init + times.retain - waited).max(0.0),
            created_from_prewarmed: times.from_prewarmed,
            created_by_driver: self.created,
            failure: times.failure.clone(),
        }
    }
}

/// What resetting a primary context comes to.
pub(crate) enum Reset {
    /// The driver's affair.
    Plain,
    /// Nothing to do.
    Nothing,
    /// The driver's affair, and rewarm's reference goes.
    Both,
}
