//! Questions about devices.

use crate::codes::{Answer, ERROR_INVALID_DEVICE, ERROR_INVALID_VALUE, fail, require};
use crate::device::Device;
use crate::entry::driver_calls;
use crate::ffi::{Out, Text, put_text};
use crate::thread;
use crate::world::World;

/// What of `CUdevice_attribute` is not 0 (values like those of an H100).
const ATTRIBUTES: &[(u32, i32)] = &[
    (1, 1024),        // MAX_THREADS_PER_BLOCK
    (2, 1024),        // MAX_BLOCK_DIM_X
    (3, 1024),        // MAX_BLOCK_DIM_Y
    (4, 64),          // MAX_BLOCK_DIM_Z
    (5, i32::MAX),    // MAX_GRID_DIM_X
    (6, 65535),       // MAX_GRID_DIM_Y
    (7, 65535),       // MAX_GRID_DIM_Z
    (8, 49152),       // MAX_SHARED_MEMORY_PER_BLOCK
    (9, 65536),       // TOTAL_CONSTANT_MEMORY
    (10, 32),         // WARP_SIZE
    (11, i32::MAX),   // MAX_PITCH
    (12, 65536),      // MAX_REGISTERS_PER_BLOCK
    (13, 1_980_000),  // CLOCK_RATE
    (14, 512),        // TEXTURE_ALIGNMENT
    (15, 1),          // GPU_OVERLAP
    (16, 132),        // MULTIPROCESSOR_COUNT
    (19, 1),          // CAN_MAP_HOST_MEMORY
    (31, 1),          // CONCURRENT_KERNELS
    (36, 2_619_000),  // MEMORY_CLOCK_RATE
    (37, 5120),       // GLOBAL_MEMORY_BUS_WIDTH
    (38, 50 << 20),   // L2_CACHE_SIZE
    (39, 2048),       // MAX_THREADS_PER_MULTIPROCESSOR
    (40, 3),          // ASYNC_ENGINE_COUNT
    (41, 1),          // UNIFIED_ADDRESSING
    (51, 32),         // TEXTURE_PITCH_ALIGNMENT
    (75, 9),          // COMPUTE_CAPABILITY_MAJOR
    (78, 1),          // STREAM_PRIORITIES_SUPPORTED
    (79, 1),          // GLOBAL_L1_CACHE_SUPPORTED
    (80, 1),          // LOCAL_L1_CACHE_SUPPORTED
    (81, 233_472),    // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
    (82, 65536),      // MAX_REGISTERS_PER_MULTIPROCESSOR
    (83, 1),          // MANAGED_MEMORY
    (89, 1),          // CONCURRENT_MANAGED_ACCESS
    (90, 1),          // COMPUTE_PREEMPTION_SUPPORTED
    (91, 1),          // CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM
    (95, 1),          // COOPERATIVE_LAUNCH
    (97, 232_448),    // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    (99, 1),          // HOST_REGISTER_SUPPORTED
    (102, 1),         // VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
    (106, 32),        // MAX_BLOCKS_PER_MULTIPROCESSOR
    (108, 32 << 20),  // MAX_PERSISTING_L2_CACHE_SIZE
    (109, 128 << 20), // MAX_ACCESS_POLICY_WINDOW_SIZE
    (111, 1024),      // RESERVED_SHARED_MEMORY_PER_BLOCK
    (113, 1),         // READ_ONLY_HOST_REGISTER_SUPPORTED
    (114, 1),         // TIMELINE_SEMAPHORE_INTEROP_SUPPORTED
    (115, 1),         // MEMORY_POOLS_SUPPORTED
];

/// `CU_DEVICE_ATTRIBUTE_MAX`, about: later numbers are no attributes.
const ATTRIBUTES_END: u32 = 150;

/// Attributes that the tables above cannot tell: they differ by device or by setting.
fn attribute(world: &World, attribute: u32, device: i32) -> Answer<i32> {
    let device = world.device(device)?;
    require(
        (1..ATTRIBUTES_END).contains(&attribute),
        ERROR_INVALID_VALUE,
    )?;
    Ok(match attribute {
        33 => pci_bus(device),
        _ => ATTRIBUTES
            .iter()
            .find(|(known, _)| *known == attribute)
            .map_or(0, |(_, value)| *value),
    })
}

fn pci_bus(device: &Device) -> i32 {
    0x10 + device.ordinal as i32
}

fn pci_name(device: &Device) -> String {
    format!("0000:{:02X}:00.0", pci_bus(device))
}

fn uuid(device: &Device) -> [u8; 16] {
    let mut uuid = *b"simcuda device 0";
    uuid[15] += device.ordinal as u8;
    uuid
}

fn by_pci_name(world: &World, place: Out<i32>, name: Text) -> Answer {
    let name = name.get()?;
    let short = |full: &str| full.trim_start_matches("0000:").to_ascii_uppercase();
    let found = world
        .devices
        .iter()
        .find(|device| short(&pci_name(device)) == short(&name));
    place.put(found.ok_or(ERROR_INVALID_DEVICE)?.ordinal as i32)
}

fn can_access_peer(world: &World, place: Out<i32>, device: i32, peer: i32) -> Answer {
    world.device(device)?;
    world.device(peer)?;
    place.put(i32::from(device != peer))
}

/// `CUdevice_P2PAttribute`: rank 1, access 2, atomics 3, arrays 4.
fn peer_attribute(
    world: &World,
    place: Out<i32>,
    attribute: u32,
    device: i32,
    peer: i32,
) -> Answer {
    world.device(device)?;
    world.device(peer)?;
    require(device != peer, ERROR_INVALID_DEVICE)?;
    match attribute {
        1 => place.put(0),
        2 | 3 => place.put(1),
        4 => place.put(0),
        _ => fail(ERROR_INVALID_VALUE),
    }
}

fn memory_info(world: &'static World, free: Out<usize>, total: Out<usize>) -> Answer {
    let device = &world.devices[thread::context(world)?.device];
    free.put(device.free() as usize)?;
    total.put(device.capacity as usize)
}

/// The old `CUdevprop`, in its order.
fn properties(world: &World, place: Out<[i32; 18]>, device: i32) -> Answer {
    let get = |number| attribute(world, number, device);
    let mut values = [0; 18];
    let numbers = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14];
    for (value, number) in values.iter_mut().zip(numbers) {
        *value = get(number)?;
    }
    place.put(values)
}

driver_calls! {
    /// How many devices there are.
    fn cuDeviceGetCount(count: Out<i32>) = |world| count.put(world.devices.len() as i32);
    /// A device by ordinal.
    fn cuDeviceGet(device: Out<i32>, ordinal: i32) = |world| {
        world.device(ordinal)?;
        device.put(ordinal)
    };
    /// Its name.
    fn cuDeviceGetName(name: Out<u8>, room: i32, device: i32) = |world| {
        world.device(device)?;
        put_text(name, room, "Software GPU")
    };
    /// Its UUID.
    fn cuDeviceGetUuid(id: Out<[u8; 16]>, device: i32) = |world| id.put(uuid(world.device(device)?));
    /// Its UUID, or that of its partition.
    fn cuDeviceGetUuid_v2(id: Out<[u8; 16]>, device: i32) = |world| id.put(uuid(world.device(device)?));
    /// Its LUID, which exists only on Windows.
    fn cuDeviceGetLuid(id: Out<[u8; 8]>, mask: Out<u32>, device: i32) = |world| {
        world.device(device)?;
        let _ = (id, mask);
        fail(crate::codes::ERROR_NOT_SUPPORTED)
    };
    /// Its memory.
    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) = |world| bytes.put(world.device(device)?.capacity as usize);
    /// Its memory, in 32 bits.
    fn cuDeviceTotalMem(bytes: Out<u32>, device: i32) = |world| {
        let capacity = world.device(device)?.capacity;
        bytes.put(capacity.min(u64::from(u32::MAX)) as u32)
    };
    /// An attribute.
    fn cuDeviceGetAttribute(value: Out<i32>, number: u32, device: i32) = |world| value.put(attribute(world, number, device)?);
    /// Some attributes at once.
    fn cuDeviceGetProperties(place: Out<[i32; 18]>, device: i32) = |world| properties(world, place, device);
    /// The compute capability.
    fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: i32) = |world| {
        world.device(device)?;
        major.put(9)?;
        minor.put(0)
    };
    /// A device by its place on the bus.
    fn cuDeviceGetByPCIBusId(device: Out<i32>, name: Text) = |world| by_pci_name(world, device, name);
    /// The place of a device on the bus.
    fn cuDeviceGetPCIBusId(name: Out<u8>, room: i32, device: i32) = |world| put_text(name, room, &pci_name(world.device(device)?));
    /// Whether two devices can see each other's memory: all can.
    fn cuDeviceCanAccessPeer(value: Out<i32>, device: i32, peer: i32) = |world| can_access_peer(world, value, device, peer);
    /// How two devices reach each other.
    fn cuDeviceGetP2PAttribute(value: Out<i32>, number: u32, device: i32, peer: i32) = |world| peer_attribute(world, value, number, device, peer);
    /// Texture limits.
    fn cuDeviceGetTexture1DLinearMaxWidth(width: Out<usize>, format: u32, channels: u32, device: i32) = |world| {
        let _ = (format, channels, world.device(device)?);
        width.put(1 << 27)
    };
    /// Whether execution affinity can be set: no.
    fn cuDeviceGetExecAffinitySupport(value: Out<i32>, kind: u32, device: i32) = |world| {
        let _ = (kind, world.device(device)?);
        value.put(0)
    };
    /// Free and total memory of the current device.
    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) = |world| memory_info(world, free, total);
}
