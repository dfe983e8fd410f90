//! Why a copy is left to the driver.

macro_rules! bypasses {
    ($($(#[doc = $doc:literal])* $variant:ident $name:literal,)*) => {
        /// Reasons why a copy is left to the driver, counted per device and
        /// direction. What is not understood passes through untouched under one
        /// of these names.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Bypass { $($(#[doc = $doc])* $variant),* }

        impl Bypass {
            /// Every reason.
            pub const ALL: [Bypass; [$(Bypass::$variant),*].len()] = [$(Bypass::$variant),*];

            /// Name in reports.
            pub const fn name(self) -> &'static str {
                match self { $(Bypass::$variant => $name),* }
            }
        }
    };
}

bypasses! {
    /// Smaller than a fan-out is worth.
    BelowThreshold "below_threshold",
    /// Switched off by `CRIU_CUDA_PARALLEL_RESTORE=0`.
    Disabled "disabled",
    /// Too few CPUs for this direction or size.
    TooFewCpus "too_few_cpus",
    /// No context is current: the driver has its own error for that.
    NoContext "no_context",
    /// The stream, or one that it is ordered with, is being captured.
    Capturing "capturing",
    /// The host memory is pinned or registered: the driver is as fast.
    PinnedHost "pinned_host",
    /// Managed memory on either side.
    Managed "managed",
    /// Device memory on both sides.
    DeviceToDevice "device_to_device",
    /// Host memory on both sides.
    HostToHost "host_to_host",
    /// The host address is null: the driver knows what to say.
    NullHost "null_host",
    /// Not plain device memory: the driver knows what to say.
    NotDeviceMemory "not_device_memory",
    /// Memory of another device than the current one.
    ForeignDevice "foreign_device",
    /// Memory or lanes of another context than the current one.
    ForeignContext "foreign_context",
    /// The stream is busy, and the driver would return without waiting for it.
    StreamBusy "stream_busy",
    /// The lanes could not be made.
    LanesUnavailable "lanes_unavailable",
    /// The lanes failed in the middle; the driver repeated the copy.
    LaneFailed "lane_failed",
    /// The file behind the source could not be read; the driver repeated the copy
    /// from memory.
    FileUnreadable "file_unreadable",
    /// A 2D copy.
    TwoDimensional "two_dimensional",
    /// A 3D copy.
    ThreeDimensional "three_dimensional",
    /// A batch of copies.
    Batch "batch",
}
