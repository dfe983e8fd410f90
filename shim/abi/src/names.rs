//! The symbols of the table by index and by name.
//!
//! Nothing here is a pointer: the names are one text, and what leads into it are
//! offsets, so that a process which never uses CUDA relocates nothing of it.

use core::ffi::CStr;

macro_rules! declare_hooks {
    ($($name:ident;)*) => {
        /// Index of a symbol in every table that has one entry a symbol: first
        /// those with a hook, then those that are gated only.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        #[allow(non_camel_case_types, missing_docs)]
        pub enum Hook { $($name),* }

        impl Hook {
            /// Number of symbols.
            pub const COUNT: usize = [$(Hook::$name),*].len();

            /// Every symbol, in the order of the table.
            pub const ALL: [Hook; Hook::COUNT] = [$(Hook::$name),*];
        }

        /// All names, each with the NUL that ends it.
        static TEXT: &[u8] = concat!($(stringify!($name), "\0"),*).as_bytes();
    };
}

macro_rules! declare_all {
    ($($policy:ident $name:ident ( $($argument:tt)* );)*) => {
        const HOOKED: usize = [$(stringify!($name)),*].len();
        crate::for_each_gated!(declare_hooks $($name)*);
    };
}
crate::for_each_hook!(declare_all);

/// Where each name begins in [`TEXT`], and where the last one ends.
static STARTS: [u16; Hook::COUNT + 1] = {
    let mut starts = [0; Hook::COUNT + 1];
    let (mut at, mut count) = (0, 0);
    while at < TEXT.len() {
        if TEXT[at] == 0 {
            count += 1;
            starts[count] = (at + 1) as u16;
        }
        at += 1;
    }
    assert!(count == Hook::COUNT && TEXT.len() <= u16::MAX as usize);
    starts
};

/// At most a third of the buckets are in use.
const BUCKETS: usize = (Hook::COUNT * 3).next_power_of_two();

/// A hash table of names: index of the symbol and 1, or 0. A name is in the
/// first free bucket from that of its hash on.
static BY_NAME: [u16; BUCKETS] = {
    let mut buckets = [0; BUCKETS];
    let mut index = 0;
    while index < Hook::COUNT {
        let mut hash = Fnv::new();
        let mut at = STARTS[index] as usize;
        while TEXT[at] != 0 {
            hash = hash.and(TEXT[at]);
            at += 1;
        }
        let mut bucket = hash.bucket();
        while buckets[bucket] != 0 {
            bucket = (bucket + 1) % BUCKETS;
        }
        index += 1;
        buckets[bucket] = index as u16;
    }
    buckets
};

/// The hash of Fowler, Noll and Vo, 1a, 32 bits.
#[derive(Clone, Copy)]
struct Fnv(u32);

impl Fnv {
    const fn new() -> Fnv {
        Fnv(0x811c_9dc5)
    }

    const fn and(self, byte: u8) -> Fnv {
        Fnv((self.0 ^ byte as u32).wrapping_mul(0x0100_0193))
    }

    const fn bucket(self) -> usize {
        (self.0 ^ self.0 >> 16) as usize % BUCKETS
    }
}

impl Hook {
    /// The symbol's exact name, as the driver exports it.
    pub fn name(self) -> &'static CStr {
        let index = self as usize;
        let (start, end) = (STARTS[index] as usize, STARTS[index + 1] as usize);
        CStr::from_bytes_with_nul(&TEXT[start..end]).unwrap_or_default()
    }

    /// The symbol of that exact name.
    pub fn find(name: &CStr) -> Option<Hook> {
        let hash = name
            .to_bytes()
            .iter()
            .fold(Fnv::new(), |hash, &byte| hash.and(byte));
        let mut bucket = hash.bucket();
        while BY_NAME[bucket] != 0 {
            let hook = Hook::ALL[BY_NAME[bucket] as usize - 1];
            if hook.name() == name {
                return Some(hook);
            }
            bucket = (bucket + 1) % BUCKETS;
        }
        None
    }

    /// Whether the symbol has a hook, or is the front's to answer; the others
    /// are of interest in freezable processes alone.
    pub const fn is_hooked(self) -> bool {
        (self as usize) < HOOKED
    }
}
