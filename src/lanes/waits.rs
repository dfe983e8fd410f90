//! The waits that make a fan-out correct, by name.
//!
//! In a build with the feature `drop-waits` (tests only, never installed) the
//! environment variable `REWARM_DROP_WAIT` leaves one of them out, so that a
//! test can show that the ordering tests notice.

/// One of the four waits; see the module documentation of [`super`].
pub(super) struct Wait(#[cfg_attr(not(feature = "drop-waits"), allow(dead_code))] &'static str);

pub(super) const START: Wait = Wait("start");
pub(super) const SLOT: Wait = Wait("slot");
pub(super) const STAGED: Wait = Wait("staged");
pub(super) const JOIN: Wait = Wait("join");

impl Wait {
    #[cfg(not(feature = "drop-waits"))]
    pub(super) const fn is_kept(&self) -> bool {
        true
    }

    #[cfg(feature = "drop-waits")]
    pub(super) fn is_kept(&self) -> bool {
        static DROPPED: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
        DROPPED
            .get_or_init(|| std::env::var("REWARM_DROP_WAIT").ok())
            .as_deref()
            != Some(self.0)
    }
}
