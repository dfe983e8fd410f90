//! Physical memory of the application's own making: `cuMemCreate` and its like.
//!
//! The application gets tokens for handles, which are translated in every call that
//! takes one. A handle that the ledger has never seen is passed on as it is; a token
//! that is no longer valid must not be: the driver follows what it takes for an
//! address.

use super::Ledger;
use super::books::{Mapping, Physical, Stay, is_token, set_access};
use rewarm::driver::sys::*;
use rewarm::driver::{CudaError, check};

/// Handle of an application's call, as the driver knows it.
pub(crate) type Handle = CUmemGenericAllocationHandle;

impl Ledger {
    /// The application has made physical memory: the handle that it gets.
    pub(crate) fn created(
        &self,
        handle: Handle,
        size: usize,
        properties: CUmemAllocationProp,
        flags: u64,
    ) -> Handle {
        let mut books = self.books.write();
        let can_move = properties.location.kind == CU_MEM_LOCATION_TYPE_DEVICE
            && properties.kind == CU_MEM_ALLOCATION_TYPE_PINNED
            && properties.usage & CU_MEM_CREATE_USAGE_TILE_POOL == 0;
        if !can_move {
            books.fixed.insert(handle, (size, 1));
            return handle;
        }
        let token = books.new_token();
        books
            .physical
            .insert(token, Physical::new(size, properties, flags, handle));
        token
    }

    /// The driver's handle for a call that takes one; `None` if the token is not valid.
    pub(crate) fn translate(&self, handle: Handle) -> Option<Handle> {
        if !is_token(handle) {
            return Some(handle);
        }
        self.books.read().physical.get(&handle)?.handle
    }

    /// `cuMemRelease`.
    pub(crate) fn release_handle(
        &self,
        handle: Handle,
        driver: impl FnOnce(Handle) -> CUresult,
    ) -> CUresult {
        if !is_token(handle) {
            return self.release_foreign(handle, driver);
        }
        let last = {
            let mut books = self.books.write();
            let Some(physical) = books
                .physical
                .get_mut(&handle)
                .filter(|physical| physical.references > 0)
            else {
                return CUresult::INVALID_VALUE;
            };
            physical.references -= 1;
            match physical.references {
                0 => physical.handle.take(),
                _ => None,
            }
        };
        let Some(real) = last else {
            return CUresult::SUCCESS;
        };
        let result = driver(real);
        let mut books = self.books.write();
        if result.is_ok() {
            books.purge(handle);
        } else if let Some(physical) = books.physical.get_mut(&handle) {
            physical.references = 1;
            physical.handle = Some(real);
        }
        result
    }

    /// A handle that is passed on: imported, not of a device, or unknown. Forgotten
    /// first, as the driver may give the same one out again.
    fn release_foreign(&self, handle: Handle, driver: impl FnOnce(Handle) -> CUresult) -> CUresult {
        self.count_foreign(handle, -1);
        let result = driver(handle);
        if !result.is_ok() {
            self.count_foreign(handle, 1);
        }
        result
    }

    fn count_foreign(&self, handle: Handle, change: i32) {
        let mut books = self.books.write();
        if let Some(import) = books.imports.get_mut(&handle) {
            import.references = import.references.saturating_add_signed(change);
        }
        if let Some((_, references)) = books.fixed.get_mut(&handle) {
            *references = references.saturating_add_signed(change);
        }
        books
            .imports
            .retain(|_, import| import.references > 0 || !import.mappings.is_empty());
    }

    /// `cuMemRetainAllocationHandle`: `Err` with what the application gets without
    /// the driver, or `Ok(None)` if the address is none of the ledger's.
    pub(crate) fn retain_handle(&self, address: CUdeviceptr) -> Result<Option<Handle>, CudaError> {
        let refused = || check("cuMemRetainAllocationHandle", CUresult::INVALID_VALUE);
        let token = {
            let mut books = self.books.write();
            let Some((_, mapping)) = books.mapping_at(address) else {
                return Ok(None);
            };
            if mapping.own.is_some() {
                return refused().map(|()| None);
            }
            let token = mapping.token;
            if let Some(physical) = books.physical.get_mut(&token)
                && physical.handle.is_some()
            {
                physical.references += 1;
                return Ok(Some(token));
            }
            token
        };
        let mut real = 0;
        // SAFETY: an out-pointer to a local; the driver checks the address.
        unsafe { self.memory.retain(&mut real, address as *mut c_void)? };
        let surplus = {
            let mut books = self.books.write();
            let physical = books.physical.get_mut(&token);
            match physical {
                Some(physical) => {
                    physical.references += 1;
                    // Another thread may have retained it meanwhile.
                    match physical.handle {
                        Some(_) => Some(real),
                        None => {
                            physical.handle = Some(real);
                            None
                        }
                    }
                }
                None => return Ok(Some(real)),
            }
        };
        if let Some(real) = surplus {
            // SAFETY: retained above.
            unsafe { self.memory.release(real)? };
        }
        Ok(Some(token))
    }

    /// A handle that the driver has retained for the application.
    pub(crate) fn retained_foreign(&self, handle: Handle) {
        self.count_foreign(handle, 1);
    }

    /// The application has mapped a handle.
    pub(crate) fn mapped(&self, address: CUdeviceptr, size: usize, offset: usize, handle: Handle) {
        let mut books = self.books.write();
        if is_token(handle) {
            let mapping = Mapping {
                size,
                token: handle,
                offset,
                access: Vec::new(),
                mapped: true,
                own: None,
            };
            books.insert_mapping(address, mapping);
            self.widen(address, size);
        } else if let Some(import) = books.imports.get_mut(&handle) {
            import.mappings.insert(address, size);
        }
    }

    /// `cuMemUnmap`.
    pub(crate) fn unmap(
        &self,
        address: CUdeviceptr,
        size: usize,
        driver: impl FnOnce() -> CUresult,
    ) -> CUresult {
        let end = address.saturating_add(size as u64);
        let mut taken = Vec::new();
        let mut foreign = Vec::new();
        {
            let mut books = self.books.write();
            let bases = books.bases(address, size);
            // An allocation of the ledger's is nothing that the application mapped.
            if bases.iter().any(|base| books.own(*base).is_some()) {
                return CUresult::INVALID_VALUE;
            }
            for base in bases {
                taken.extend(books.remove_mapping(base).map(|mapping| (base, mapping)));
            }
            for (handle, import) in &mut books.imports {
                let inside: Vec<_> = import.mappings.range(address..end).collect();
                foreign.extend(
                    inside
                        .iter()
                        .map(|(base, bytes)| (*handle, **base, **bytes)),
                );
                import
                    .mappings
                    .retain(|base, _| !(address..end).contains(base));
            }
        }
        let result = driver();
        let mut books = self.books.write();
        for (base, mapping) in taken {
            let token = mapping.token;
            if result.is_ok() {
                books.purge(token);
            } else {
                books.insert_mapping(base, mapping);
            }
        }
        if !result.is_ok() {
            for (handle, base, bytes) in foreign {
                books
                    .imports
                    .entry(handle)
                    .or_default()
                    .mappings
                    .insert(base, bytes);
            }
        }
        books
            .imports
            .retain(|_, import| import.references > 0 || !import.mappings.is_empty());
        result
    }

    /// The application has set access rights.
    pub(crate) fn access_set(&self, address: CUdeviceptr, size: usize, rights: &[CUmemAccessDesc]) {
        let mut books = self.books.write();
        for base in books.bases(address, size) {
            if let Some(mapping) = books.mappings.get_mut(&base) {
                set_access(&mut mapping.access, rights);
            }
        }
    }

    /// Others may hold the physical memory of a handle from now on.
    pub(crate) fn exported(&self, handle: Handle) {
        self.keep(handle, Stay::Exported);
    }

    /// The physical memory of a handle is a part of something else from now on.
    pub(crate) fn bound(&self, handle: Handle) {
        self.keep(handle, Stay::Bound);
    }

    /// Others may hold the memory at a range of addresses from now on.
    pub(crate) fn range_exported(&self, address: CUdeviceptr, bytes: usize) {
        self.keep_range(address, bytes, Stay::Exported);
    }

    /// The memory at a range of addresses is a part of something else from now on.
    pub(crate) fn range_bound(&self, address: CUdeviceptr, bytes: usize) {
        self.keep_range(address, bytes, Stay::Bound);
    }

    fn keep_range(&self, address: CUdeviceptr, bytes: usize, stay: Stay) {
        let tokens: Vec<_> = {
            let books = self.books.read();
            let touched = books.touched(address, bytes);
            touched
                .iter()
                .filter_map(|base| Some(books.mappings.get(base)?.token))
                .collect()
        };
        for token in tokens {
            self.keep(token, stay);
        }
    }

    fn keep(&self, handle: Handle, stay: Stay) {
        if let Some(physical) = self.books.write().physical.get_mut(&handle) {
            physical.stays = Some(stay);
        }
    }

    /// The application has opened physical memory of another process.
    pub(crate) fn imported_handle(&self, handle: Handle) {
        self.books
            .write()
            .imports
            .entry(handle)
            .or_default()
            .references += 1;
    }
}
