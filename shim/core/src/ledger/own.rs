//! Allocations that the ledger makes in the driver's place.
//!
//! What the application sees of them is what it sees of the driver's. Measured on
//! an H200: `cuMemFree` waits for all work of the context, even for an allocation of
//! one byte, while `cuMemUnmap` waits for nothing; and `cuMemFree` of an address
//! that is none asks first whether a capture forbids it (0.9 us, no waiting), while
//! `cuMemCreate` and `cuMemUnmap` are allowed in any capture. `cuCtxSynchronize`
//! would break captures of other threads.

use super::books::{Mapping, Own, Owner, Physical, access, on_device};
use super::{LEAST, Ledger, NOWHERE};
use rewarm::driver::sys::*;
use rewarm::driver::{CudaError, check};
use std::sync::atomic::Ordering;

/// How allocations on a device are made.
#[derive(Clone, Copy)]
pub(super) struct Model {
    properties: super::books::Properties,
    granularity: usize,
}

impl Ledger {
    /// Allocates, if the ledger can: otherwise the driver's own answer is the right
    /// one, whatever it is.
    pub(crate) fn allocate(&self, bytes: usize) -> Option<CUdeviceptr> {
        if bytes < LEAST || self.shares.load(Ordering::Acquire) {
            return None;
        }
        self.verdict().ok()?;
        let context = self.current_context();
        let mut device = 0;
        // SAFETY: an out-pointer to a local; fails without a context.
        unsafe { self.driver.current_device(&mut device).ok()? };
        let model = self.model(device)?;
        let size = bytes.checked_next_multiple_of(model.granularity)?;
        self.make(model, device, Owner(context), bytes, size)
            .inspect_err(|error| tracing::debug!(%error, bytes, "the driver allocates"))
            .ok()
    }

    /// Allocates rows, if the ledger can. Returns the address and the bytes from row
    /// to row, which are the driver's.
    pub(crate) fn allocate_rows(
        &self,
        width: usize,
        height: usize,
        element: c_uint,
    ) -> Option<(CUdeviceptr, usize)> {
        if width.checked_next_multiple_of(LEAST)?.checked_mul(height)? < LEAST {
            return None;
        }
        self.verdict().ok()?;
        let pitch = self.pitch(width, element)?;
        let address = self.allocate(pitch.checked_mul(height)?)?;
        Some((address, pitch))
    }

    /// The driver's pitch, learnt once from one row.
    fn pitch(&self, width: usize, element: c_uint) -> Option<usize> {
        let (mut device, mut address, mut pitch) = (0, 0, 0);
        // SAFETY: out-pointers to locals; the row is freed at once.
        unsafe {
            self.driver.current_device(&mut device).ok()?;
            if let Some(pitch) = self.pitches.lock().get(&(device, width, element)) {
                return Some(*pitch);
            }
            self.memory
                .alloc_pitch(&mut address, &mut pitch, width, 1, element)
                .ok()?;
            self.driver.mem_free(address).ok()?;
        }
        self.pitches.lock().insert((device, width, element), pitch);
        Some(pitch)
    }

    /// Frees what was allocated at `address`; `None` if it is not the ledger's.
    pub(crate) fn free(&self, address: CUdeviceptr) -> Option<CUresult> {
        let owner = self.books.read().own(address)?.1.context;
        let freed = self.free_own(address, owner);
        match freed {
            Ok(true) => Some(CUresult::SUCCESS),
            // Another thread was faster: the driver says so.
            Ok(false) => None,
            Err(error) => Some(error.code),
        }
    }

    /// Frees after all work of a stream, which the calling thread waits for.
    pub(crate) fn free_after(&self, address: CUdeviceptr, stream: CUstream) -> Option<CUresult> {
        self.books.read().own(address)?;
        let mut capturing = 0;
        // SAFETY: an out-pointer to a local; the driver checks the stream.
        let waited = unsafe {
            self.driver
                .stream_is_capturing(stream, &mut capturing)
                .and_then(|()| match capturing {
                    0 => self.driver.stream_synchronize(stream),
                    // As the driver has it for memory that no graph allocated.
                    _ => check("cuMemFreeAsync", CUresult::INVALID_VALUE),
                })
        };
        match waited {
            Ok(()) => self.free(address),
            Err(error) => Some(error.code),
        }
    }

    fn free_own(&self, address: CUdeviceptr, owner: Owner) -> Result<bool, CudaError> {
        self.verdict()?;
        self.inside(owner.0, || self.wait_as_free_does())?;
        let Some((size, handle)) = self.take_own(address) else {
            return Ok(false);
        };
        self.dispose(address, size, handle);
        Ok(true)
    }

    /// Whether the driver would allocate and free now: a capture may forbid it.
    fn verdict(&self) -> Result<(), CudaError> {
        // SAFETY: nothing is freed.
        match unsafe { self.driver.mem_free(NOWHERE) } {
            Err(error) if error.code != CUresult::INVALID_VALUE => Err(error),
            _ => Ok(()),
        }
    }

    /// Waits for the work of the current context, as the driver does before it frees.
    fn wait_as_free_does(&self) -> Result<(), CudaError> {
        let mut address = 0;
        // SAFETY: an out-pointer to a local; one byte, freed at once.
        unsafe {
            match self.memory.alloc(&mut address, 1) {
                Ok(()) => self.driver.mem_free(address),
                Err(error) if error.code == CUresult::OUT_OF_MEMORY => {
                    self.memory.context_synchronize()
                }
                Err(error) => Err(error),
            }
        }
    }

    /// Forgets an allocation: its size and handle.
    fn take_own(&self, address: CUdeviceptr) -> Option<(usize, CUmemGenericAllocationHandle)> {
        let mut books = self.books.write();
        books.own(address)?;
        let mapping = books.remove_mapping(address)?;
        let physical = books.physical.remove(&mapping.token)?;
        Some((mapping.size, physical.handle?))
    }

    /// Gives memory and addresses back. What the driver refuses is lost, and said.
    fn dispose(&self, address: CUdeviceptr, size: usize, handle: CUmemGenericAllocationHandle) {
        // SAFETY: taken out of the books by this thread; no work uses it any more.
        let gone = unsafe {
            self.memory
                .unmap(address, size)
                .and(self.memory.release(handle))
                .and(self.memory.unreserve(address, size))
        };
        if let Err(error) = gone {
            tracing::warn!(%error, address, size, "freed memory was not given back");
        }
    }

    /// A context has ended, and with it what was allocated in it.
    pub(crate) fn context_ended(&self, context: CUcontext) {
        let owner = Owner(context);
        let ended: Vec<_> = {
            let mut books = self.books.write();
            books
                .others
                .retain(|_, other| other.context != owner || other.kind == super::Kind::Pool);
            books
                .peers
                .retain(|(accessor, peer), _| *accessor != owner && *peer != owner);
            books
                .mappings
                .iter()
                .filter(|(_, mapping)| mapping.own.is_some_and(|own| own.context == owner))
                .map(|(base, _)| *base)
                .collect()
        };
        for address in ended {
            if let Some((size, handle)) = self.take_own(address) {
                self.dispose(address, size, handle);
            }
        }
    }

    /// How allocations on a device are made; `None` where they cannot be.
    fn model(&self, device: CUdevice) -> Option<Model> {
        if let Some(model) = self.models.lock().get(&device) {
            return *model;
        }
        let model = self
            .find_model(device)
            .inspect_err(|error| tracing::warn!(%error, device, "its memory cannot be frozen"))
            .ok();
        *self.models.lock().entry(device).or_insert(model)
    }

    /// Tries what the driver's own allocations have: they serve GPUDirect RDMA and,
    /// on some devices, decompression.
    fn find_model(&self, device: CUdevice) -> Result<Model, CudaError> {
        let mut rdma = 0;
        // SAFETY: an out-pointer to a local; devices that do not know it have none.
        let _ = unsafe {
            self.memory.device_attribute(
                &mut rdma,
                CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED,
                device,
            )
        };
        let with_usage = |usage| CUmemAllocationProp {
            kind: CU_MEM_ALLOCATION_TYPE_PINNED,
            requested_handle_types: 0,
            location: on_device(device),
            win32_handle_meta_data: std::ptr::null_mut(),
            compression_type: 0,
            gpu_direct_rdma_capable: (rdma != 0).into(),
            usage,
            reserved: [0; 4],
        };
        self.try_model(with_usage(CU_MEM_CREATE_USAGE_HW_DECOMPRESS))
            .or_else(|_| self.try_model(with_usage(0)))
    }

    fn try_model(&self, properties: CUmemAllocationProp) -> Result<Model, CudaError> {
        let (mut granularity, mut handle) = (0, 0);
        // SAFETY: out-pointers to locals; what is made is given back.
        unsafe {
            self.memory.granularity(
                &mut granularity,
                &properties,
                CU_MEM_ALLOC_GRANULARITY_MINIMUM,
            )?;
            self.memory
                .create(&mut handle, granularity, &properties, 0)?;
            self.memory.release(handle)?;
        }
        Ok(Model {
            properties: super::books::Properties(properties),
            granularity: granularity.max(1),
        })
    }

    /// Makes physical memory at addresses of its own, and enters it.
    fn make(
        &self,
        model: Model,
        device: CUdevice,
        context: Owner,
        bytes: usize,
        size: usize,
    ) -> Result<CUdeviceptr, CudaError> {
        let mut handle = 0;
        // SAFETY: an out-pointer to a local.
        unsafe {
            self.memory
                .create(&mut handle, size, &model.properties.0, 0)?;
        }
        let physical = Physical::new(size, model.properties.0, 0, handle);
        let own = Own {
            bytes,
            context,
            sync_memops: None,
        };
        let address = self.map_anywhere(handle, size).inspect_err(|_| {
            // SAFETY: made above, mapped nowhere.
            let _ = unsafe { self.memory.release(handle) };
        })?;
        self.enter(address, device, physical, own)
            .inspect_err(|_| self.dispose(address, size, handle))?;
        Ok(address)
    }

    /// Maps whole physical memory at fresh addresses. Nobody may access it yet.
    pub(super) fn map_anywhere(
        &self,
        handle: CUmemGenericAllocationHandle,
        size: usize,
    ) -> Result<CUdeviceptr, CudaError> {
        let mut address = 0;
        // SAFETY: an out-pointer to a local; mapped where nothing else is.
        unsafe {
            self.memory.reserve(&mut address, size, 0, 0, 0)?;
            self.memory
                .map(address, size, 0, handle, 0)
                .inspect_err(|_| {
                    let _ = self.memory.unreserve(address, size);
                })?;
        }
        Ok(address)
    }

    /// Gives access to a new allocation and enters it. A peer that is enabled
    /// meanwhile is either seen here, or sees the entry.
    fn enter(
        &self,
        address: CUdeviceptr,
        device: CUdevice,
        physical: Physical,
        own: Own,
    ) -> Result<(), CudaError> {
        let size = physical.size;
        loop {
            let accessors = self.books.read().accessors(device);
            let rights: Vec<_> = accessors
                .iter()
                .map(|&device| access(device, CU_MEM_ACCESS_FLAGS_PROT_READWRITE))
                .collect();
            // SAFETY: a mapping of this thread's; as many descriptors as said.
            unsafe {
                self.memory
                    .set_access(address, size, rights.as_ptr(), rights.len())?;
            }
            let mut books = self.books.write();
            if books.accessors(device) != accessors {
                continue;
            }
            let token = books.new_token();
            books.physical.insert(token, physical);
            books.insert_mapping(
                address,
                Mapping {
                    size,
                    token,
                    offset: 0,
                    access: rights,
                    mapped: true,
                    own: Some(own),
                },
            );
            self.widen(address, size);
            return Ok(());
        }
    }
}
