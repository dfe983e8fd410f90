//! The driver as a C program sees it: a library that is opened at run time.
#![allow(dead_code, reason = "each test uses its part")]

use std::ffi::{CString, c_void};
use std::path::PathBuf;

/// An opened driver.
pub struct Driver(*mut c_void);

// SAFETY: a handle of the loader, which any thread may use.
unsafe impl Sync for Driver {}

/// Arguments of a C function.
pub trait Arguments {
    /// Calls the function at `address`.
    ///
    /// # Safety
    /// The function takes these arguments and returns a `CUresult`.
    unsafe fn call(self, address: *mut c_void) -> u32;
}

macro_rules! arguments {
    ($($kind:ident),*) => {
        impl<$($kind),*> Arguments for ($($kind,)*) {
            #[allow(non_snake_case, reason = "one name for a type and its value")]
            unsafe fn call(self, address: *mut c_void) -> u32 {
                let ($($kind,)*) = self;
                // SAFETY: the caller says that the signature is right.
                let function: extern "C" fn($($kind),*) -> u32 = unsafe { std::mem::transmute(address) };
                function($($kind),*)
            }
        }
    };
}
arguments!();
arguments!(A);
arguments!(A, B);
arguments!(A, B, C);
arguments!(A, B, C, D);
arguments!(A, B, C, D, E);
arguments!(A, B, C, D, E, F);
arguments!(A, B, C, D, E, F, G);
arguments!(A, B, C, D, E, F, G, H);
arguments!(A, B, C, D, E, F, G, H, I);
arguments!(A, B, C, D, E, F, G, H, I, J);
arguments!(A, B, C, D, E, F, G, H, I, J, K);

/// Where cargo puts the library that it builds for the tests: beside them.
pub fn library() -> PathBuf {
    let own = std::env::current_exe().expect("no path of the test");
    own.with_file_name("libsimcuda.so")
}

impl Driver {
    /// Opens the driver with settings. Each test is a process of its own under nextest.
    pub fn open(settings: &[(&str, &str)]) -> Self {
        for (name, value) in settings {
            // SAFETY: the test has no other thread yet.
            unsafe { std::env::set_var(name, value) };
        }
        let path = CString::new(library().to_str().expect("a path in UTF-8")).expect("a path");
        // SAFETY: loading the library under test.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
        assert!(!handle.is_null(), "cannot open {path:?}");
        Self(handle)
    }

    /// Opens it, initialises it and makes the primary context of device 0 current.
    pub fn start(settings: &[(&str, &str)]) -> Self {
        let driver = Self::open(settings);
        driver.ok("cuInit", (0u32,));
        driver.make_current(0);
        driver
    }

    /// Retains the primary context of a device and makes it current.
    pub fn make_current(&self, device: i32) -> u64 {
        let context = self.get("cuDevicePrimaryCtxRetain", |place| (place, device));
        self.ok("cuCtxSetCurrent", (context,));
        context
    }

    /// The address of an export.
    pub fn address(&self, name: &str) -> *mut c_void {
        let name = CString::new(name).expect("a name");
        // SAFETY: the handle is open.
        unsafe { libc::dlsym(self.0, name.as_ptr()) }
    }

    /// Calls an export.
    pub fn call(&self, name: &str, arguments: impl Arguments) -> u32 {
        let address = self.address(name);
        assert!(!address.is_null(), "{name} is not exported");
        // SAFETY: the tests pass what cuda.h says.
        unsafe { arguments.call(address) }
    }

    /// Calls an export that must succeed.
    pub fn ok(&self, name: &str, arguments: impl Arguments) {
        assert_eq!(self.call(name, arguments), 0, "{name}");
    }

    /// Calls an export that must succeed and writes 64 bits.
    pub fn get<A: Arguments>(&self, name: &str, arguments: impl FnOnce(*mut u64) -> A) -> u64 {
        let mut place = 0;
        self.ok(name, arguments(&raw mut place));
        place
    }

    /// Allocates device memory.
    pub fn allocate(&self, bytes: usize) -> u64 {
        self.get("cuMemAlloc_v2", |place| (place, bytes))
    }

    /// A stream.
    pub fn stream(&self, flags: u32) -> u64 {
        self.get("cuStreamCreate", |place| (place, flags))
    }

    /// An event.
    pub fn event(&self) -> u64 {
        self.get("cuEventCreate", |place| (place, 0u32))
    }

    /// Pinned memory.
    pub fn pinned(&self, bytes: usize) -> &'static mut [u8] {
        let address = self.get("cuMemHostAlloc", |place| (place, bytes, 0u32));
        // SAFETY: fresh memory of that size, which the tests never free while they use it.
        unsafe { std::slice::from_raw_parts_mut(address as *mut u8, bytes) }
    }

    /// What device memory holds.
    pub fn read(&self, address: u64, bytes: usize) -> Vec<u8> {
        let mut read = vec![0u8; bytes];
        self.ok("cuMemcpyDtoH_v2", (read.as_mut_ptr(), address, bytes));
        read
    }

    /// A built-in kernel.
    pub fn kernel(&self, name: &std::ffi::CStr) -> u64 {
        let module = self.get("cuModuleLoadData", |place| (place, c"simcuda".as_ptr()));
        self.get("cuModuleGetFunction", |place| {
            (place, module, name.as_ptr())
        })
    }

    /// Launches a kernel in a stream; all arguments as 64 bits, of which a kernel takes its part.
    pub fn launch(&self, name: &str, kernel: u64, stream: u64, arguments: &[u64]) -> u32 {
        let pointers: Vec<*const u64> = arguments.iter().map(|value| &raw const *value).collect();
        // The grid and block are 1; eleven arguments, so by hand.
        let none: *const c_void = std::ptr::null();
        self.call(
            name,
            (
                kernel,
                1u32,
                1u32,
                1u32,
                1u32,
                1u32,
                1u32,
                0u32,
                stream,
                pointers.as_ptr(),
                none,
            ),
        )
    }

    /// Lets a stream be busy for that long.
    pub fn spin(&self, stream: u64, micros: u64) {
        let kernel = self.kernel(c"sim_spin");
        assert_eq!(self.launch("cuLaunchKernel", kernel, stream, &[micros]), 0);
    }
}
