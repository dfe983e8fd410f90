//! The one gate through which every exported function passes.

use crate::codes::{Answer, CUresult, ERROR_NOT_INITIALIZED, SUCCESS};
use crate::world::{self, World};
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// What is known of one exported function.
pub struct Site {
    name: &'static str,
    calls: AtomicU64,
    /// The function that was first called before this one.
    next: AtomicPtr<Site>,
}

/// The functions that were called at least once, as a list without a lock: a lock that is held
/// while another thread forks would be held in the child for ever.
static CALLED: AtomicPtr<Site> = AtomicPtr::new(std::ptr::null_mut());

impl Site {
    /// A function that was not called yet.
    pub const fn new(name: &'static str) -> Self {
        let calls = AtomicU64::new(0);
        let next = AtomicPtr::new(std::ptr::null_mut());
        Self { name, calls, next }
    }

    /// Counts a call and says which one it is.
    fn count(&'static self) -> u64 {
        let nth = self.calls.fetch_add(1, Ordering::Relaxed) + 1;
        if nth == 1 {
            self.enlist();
        }
        nth
    }

    #[cold]
    fn enlist(&'static self) {
        let mut head = CALLED.load(Ordering::Acquire);
        loop {
            self.next.store(head, Ordering::Release);
            let own = std::ptr::from_ref(self).cast_mut();
            match CALLED.compare_exchange(head, own, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(newer) => head = newer,
            }
        }
    }
}

/// How often the function of that name was called; `*`: as the rules of faults count all calls.
pub fn calls_of(name: &str) -> u64 {
    if name == "*" {
        return world::existing().map_or(0, |world| world.total_calls.load(Ordering::Relaxed));
    }
    let mut at = CALLED.load(Ordering::Acquire);
    // SAFETY: the list holds statics only.
    while let Some(site) = unsafe { at.as_ref() } {
        if site.name == name {
            return site.calls.load(Ordering::Relaxed);
        }
        at = site.next.load(Ordering::Acquire);
    }
    0
}

/// What a function needs before its body may run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: also before `cuInit`, and while the process is locked.
    Nothing,
    /// An initialised driver that is not locked for a checkpoint.
    Unlocked,
}

/// Runs one call; `cuInit` itself passes the world that it is about to initialise.
pub fn pass(
    site: &'static Site,
    needs: Needs,
    arguments: impl FnOnce() -> String,
    body: impl FnOnce(Option<&'static World>) -> Answer,
) -> CUresult {
    let nth = site.count();
    let world = match needs {
        Needs::Nothing => world::current().ok().or_else(|| starting(site)),
        _ => match world::current() {
            Ok(world) => Some(world),
            Err(code) => return code,
        },
    };
    match world {
        Some(world) if world.observed.load(Ordering::Relaxed) => {
            observed(site, nth, needs, world, arguments, body)
        }
        _ => gated(needs, world, body),
    }
}

/// The world that `cuInit` is about to initialise, so that faults and journal reach it too.
fn starting(site: &Site) -> Option<&'static World> {
    if site.name == "cuInit" {
        world::create().ok()
    } else {
        None
    }
}

/// The slow path: cost, faults, journal.
#[cold]
fn observed(
    site: &'static Site,
    nth: u64,
    needs: Needs,
    world: &'static World,
    arguments: impl FnOnce() -> String,
    body: impl FnOnce(Option<&'static World>) -> Answer,
) -> CUresult {
    let cost = world.settings.call_cost;
    if !cost.is_zero() {
        spend(cost);
    }
    let result = match world.fault(site.name, nth) {
        Some(code) => code,
        None => gated(needs, Some(world), body),
    };
    if let Some(journal) = &world.journal {
        journal.write(site.name, &arguments(), result);
    }
    result
}

/// A cost of microseconds cannot be slept precisely.
fn spend(cost: std::time::Duration) {
    let start = std::time::Instant::now();
    if cost.as_micros() > 200 {
        std::thread::sleep(cost);
    }
    while start.elapsed() < cost {
        std::hint::spin_loop();
    }
}

fn gated(
    needs: Needs,
    world: Option<&'static World>,
    body: impl FnOnce(Option<&'static World>) -> Answer,
) -> CUresult {
    let _inside = match (needs, world) {
        (Needs::Unlocked, Some(world)) => Some(world.checkpoint.enter()),
        _ => None,
    };
    match body(world) {
        Ok(()) => SUCCESS,
        Err(code) => code,
    }
}

/// The world of a call that [`pass`] let through with [`Needs::Unlocked`].
pub fn the(world: Option<&'static World>) -> Answer<&'static World> {
    world.ok_or(ERROR_NOT_INITIALIZED)
}

/// Exports functions of the driver.
///
/// ```text
/// driver_calls! {
///     /// What it does.
///     fn name(argument: Type, …) = |world| answer;
///     /// The same for both default streams; the second spelling is the per-thread one.
///     fn name / name_ptsz (argument: Type, …) = |world, default| answer;
///     /// Without any need: `world` is an option.
///     free fn name(argument: Type) = |world| answer;
/// }
/// ```
macro_rules! driver_calls {
    () => {};
    ($(#[$doc:meta])* fn $name:ident($($argument:ident: $kind:ty),* $(,)?) = |$world:ident| $body:expr; $($rest:tt)*) => {
        $crate::entry::driver_calls!(@one [$(#[$doc])*] Unlocked $name ($($argument: $kind),*) |$world| {
            let $world = $crate::entry::the($world)?;
            $body
        });
        $crate::entry::driver_calls!($($rest)*);
    };
    ($(#[$doc:meta])* free fn $name:ident($($argument:ident: $kind:ty),* $(,)?) = |$world:ident| $body:expr; $($rest:tt)*) => {
        $crate::entry::driver_calls!(@one [$(#[$doc])*] Nothing $name ($($argument: $kind),*) |$world| $body);
        $crate::entry::driver_calls!($($rest)*);
    };
    ($(#[$doc:meta])* fn $name:ident / $per_thread:ident ($($argument:ident: $kind:ty),* $(,)?) = |$world:ident, $default:ident| $body:expr; $($rest:tt)*) => {
        $crate::entry::driver_calls!(@one [$(#[$doc])*] Unlocked $name ($($argument: $kind),*) |$world| {
            let ($world, $default) = ($crate::entry::the($world)?, $crate::stream::DefaultStream::Legacy);
            $body
        });
        $crate::entry::driver_calls!(@one [$(#[$doc])*] Unlocked $per_thread ($($argument: $kind),*) |$world| {
            let ($world, $default) = ($crate::entry::the($world)?, $crate::stream::DefaultStream::PerThread);
            $body
        });
        $crate::entry::driver_calls!($($rest)*);
    };
    (@one [$($doc:tt)*] $needs:ident $name:ident ($($argument:ident: $kind:ty),*) |$world:ident| $body:expr) => {
        $($doc)*
        #[unsafe(no_mangle)]
        pub extern "C" fn $name($($argument: $kind),*) -> $crate::codes::CUresult {
            static SITE: $crate::entry::Site = $crate::entry::Site::new(stringify!($name));
            let arguments = || {
                let parts: Vec<String> = vec![$(format!(concat!(stringify!($argument), "={:x?}"), $argument)),*];
                parts.join(", ")
            };
            $crate::entry::pass(&SITE, $crate::entry::Needs::$needs, arguments, |$world| $body)
        }
    };
}
pub(crate) use driver_calls;
