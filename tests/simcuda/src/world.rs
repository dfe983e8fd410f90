//! Everything that one `cuInit` makes.

use crate::capture::Captures;
use crate::checkpoint::Checkpoint;
use crate::codes::{
    Answer, CUresult, ERROR_INVALID_DEVICE, ERROR_INVALID_HANDLE, ERROR_NOT_INITIALIZED,
};
use crate::context::Context;
use crate::device::Device;
use crate::event::Event;
use crate::faults::Faults;
use crate::ffi::Handle;
use crate::graph::{Exec, Graph};
use crate::journal::Journal;
use crate::kernels::Module;
use crate::machine::Machine;
use crate::memory::Memory;
use crate::settings::Settings;
use crate::staging::Staging;
use crate::stream::Stream;
use crate::vmm::Vmm;
use crate::workers::Workers;
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU64, Ordering};

/// The one world of this process, NULL before the first `cuInit`.
static WORLD: AtomicPtr<World> = AtomicPtr::new(std::ptr::null_mut());
/// The process that initialised it, 0 before. A child made by `fork` differs from it.
static OWNER: AtomicI32 = AtomicI32::new(0);
/// Guards the creation of the world.
static CREATION: Mutex<()> = Mutex::new(());
/// Settings that a test made by calls before the first `cuInit`; they win over the environment.
static EARLY_FAULTS: Mutex<Option<String>> = Mutex::new(None);
static EARLY_SEED: AtomicU64 = AtomicU64::new(0);

/// Objects of one kind by their handles.
pub struct Table<T>(RwLock<HashMap<Handle, Arc<T>>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(RwLock::new(HashMap::new()))
    }
}

impl<T> Table<T> {
    /// The object, or `INVALID_HANDLE`.
    pub fn get(&self, handle: Handle) -> Answer<Arc<T>> {
        self.find(handle).ok_or(ERROR_INVALID_HANDLE)
    }

    /// The object, if there is one.
    pub fn find(&self, handle: Handle) -> Option<Arc<T>> {
        self.0.read().get(&handle).cloned()
    }

    /// Adds an object.
    pub fn add(&self, handle: Handle, object: Arc<T>) {
        self.0.write().insert(handle, object);
    }

    /// Takes an object out, or says `INVALID_HANDLE`.
    pub fn remove(&self, handle: Handle) -> Answer<Arc<T>> {
        self.0.write().remove(&handle).ok_or(ERROR_INVALID_HANDLE)
    }

    /// Forgets the objects for which `keep` is false.
    pub fn retain(&self, keep: impl Fn(&T) -> bool) {
        self.0.write().retain(|_, object| keep(object));
    }

    /// All objects.
    pub fn all(&self) -> Vec<Arc<T>> {
        self.0.read().values().cloned().collect()
    }
}

/// Everything that one `cuInit` makes. It is never freed: threads of the driver use it to the end.
pub struct World {
    /// The settings that it was made with.
    pub settings: Settings,
    /// The devices by ordinal.
    pub devices: Vec<Device>,
    /// Live contexts.
    pub contexts: Table<Context>,
    /// Created streams (default streams belong to their context).
    pub streams: Table<Stream>,
    /// Events.
    pub events: Table<Event>,
    /// Graphs.
    pub graphs: Table<Graph>,
    /// Instantiated graphs.
    pub execs: Table<Exec>,
    /// Modules and libraries.
    pub modules: Table<Module>,
    /// All memory known to CUDA.
    pub memory: Memory,
    /// Address ranges and physical allocations of the virtual memory calls.
    pub vmm: Vmm,
    /// Captures in progress.
    pub captures: Captures,
    /// Buffers for staged bytes.
    pub staging: Staging,
    /// The threads that run streams.
    pub workers: Workers,
    /// The state of checkpointing.
    pub checkpoint: Checkpoint,
    /// The journal, if one is kept.
    pub journal: Option<Journal>,
    /// Pool handles that are live, beside the default ones.
    pub pools: Mutex<HashMap<Handle, usize>>,
    /// Pairs (context, peer context) with peer access.
    pub peers: Mutex<HashSet<(Handle, Handle)>>,
    /// Whether a call must take the slow path (journal, faults, cost).
    pub observed: AtomicBool,
    /// Calls so far while observed.
    pub total_calls: AtomicU64,
    faults: RwLock<Faults>,
    seed: AtomicU64,
    handles: AtomicU64,
}

impl World {
    fn new(settings: Settings) -> Option<Self> {
        let join = |folder: &String| Machine::join(folder, settings.devices);
        let machine = settings.machine.as_ref().map(join).transpose().ok()?;
        let machine = machine.map(Arc::new);
        let devices = (0..settings.devices)
            .map(|ordinal| Device::new(ordinal, &settings, machine.clone()))
            .collect::<Option<Vec<_>>>()?;
        let specification = EARLY_FAULTS.lock().clone();
        let faults = Faults::parse(specification.as_deref().unwrap_or(&settings.fail));
        let journal = settings.journal.as_deref().and_then(Journal::open);
        let observed = journal.is_some() || !faults.is_empty() || !settings.call_cost.is_zero();
        let seed = match EARLY_SEED.load(Ordering::Relaxed) {
            0 => settings.seed,
            seed => seed,
        };
        Some(Self {
            devices,
            contexts: Table::default(),
            streams: Table::default(),
            events: Table::default(),
            graphs: Table::default(),
            execs: Table::default(),
            modules: Table::default(),
            memory: Memory::default(),
            vmm: Vmm::default(),
            captures: Captures::default(),
            staging: Staging::default(),
            workers: Workers::default(),
            checkpoint: Checkpoint::default(),
            journal,
            pools: Mutex::default(),
            peers: Mutex::default(),
            observed: AtomicBool::new(observed),
            total_calls: AtomicU64::new(0),
            faults: RwLock::new(faults),
            seed: AtomicU64::new(seed),
            // Far from anything that is mapped: a handle used as a pointer must crash.
            handles: AtomicU64::new(0x5300_0000_0000_0000),
            settings,
        })
    }

    /// A handle that was never used before.
    pub fn new_handle(&self) -> Handle {
        self.handles.fetch_add(0x40, Ordering::Relaxed)
    }

    /// The seed of the delays of streams made from now on.
    pub fn seed(&self) -> u64 {
        self.seed.load(Ordering::Relaxed)
    }

    /// The code with which this call is to fail.
    pub fn fault(&self, name: &str, nth: u64) -> Option<CUresult> {
        let total = self.total_calls.fetch_add(1, Ordering::Relaxed) + 1;
        self.faults.read().verdict(name, nth, total)
    }

    /// The device of that ordinal.
    pub fn device(&self, ordinal: i32) -> Answer<&Device> {
        let index = usize::try_from(ordinal).map_err(|_| ERROR_INVALID_DEVICE)?;
        self.devices.get(index).ok_or(ERROR_INVALID_DEVICE)
    }
}

/// The world if this very process initialised the driver.
pub fn current() -> Answer<&'static World> {
    let owner = OWNER.load(Ordering::Acquire);
    // SAFETY: getpid has no preconditions.
    if owner == 0 || owner != unsafe { libc::getpid() } {
        return Err(ERROR_NOT_INITIALIZED);
    }
    existing().ok_or(ERROR_NOT_INITIALIZED)
}

/// The world that exists, initialised or not, of this process or of its parent.
pub fn existing() -> Option<&'static World> {
    // SAFETY: the pointer is NULL or a leaked box.
    unsafe { WORLD.load(Ordering::Acquire).as_ref() }
}

/// The world to initialise: made on first use; an initialised parent's is no use to a child.
pub fn create() -> Answer<&'static World> {
    let owner = OWNER.load(Ordering::Acquire);
    // SAFETY: getpid has no preconditions.
    if owner != 0 && owner != unsafe { libc::getpid() } {
        return Err(ERROR_NOT_INITIALIZED);
    }
    let _creation = CREATION.lock();
    if let Some(world) = existing() {
        return Ok(world);
    }
    let world =
        World::new(Settings::from_environment()).ok_or(crate::codes::ERROR_OUT_OF_MEMORY)?;
    let world = Box::leak(Box::new(world));
    WORLD.store(world, Ordering::Release);
    Ok(world)
}

/// Initialises the driver once; who comes meanwhile waits until that is done.
pub fn initialise_once(initialise: impl FnOnce()) {
    let _creation = CREATION.lock();
    if OWNER.load(Ordering::Acquire) == 0 {
        initialise();
        // SAFETY: getpid has no preconditions.
        OWNER.store(unsafe { libc::getpid() }, Ordering::Release);
    }
}

/// Replaces the faults, now or for the first `cuInit`.
pub fn set_faults(specification: &str) {
    *EARLY_FAULTS.lock() = Some(specification.to_owned());
    if let Some(world) = existing() {
        let faults = Faults::parse(specification);
        let observed =
            world.journal.is_some() || !faults.is_empty() || !world.settings.call_cost.is_zero();
        *world.faults.write() = faults;
        world.observed.store(observed, Ordering::Release);
    }
}

/// Replaces the seed, now or for the first `cuInit`.
pub fn set_seed(seed: u64) {
    EARLY_SEED.store(seed, Ordering::Relaxed);
    if let Some(world) = existing() {
        world.seed.store(seed, Ordering::Relaxed);
    }
}
