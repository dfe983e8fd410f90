//! The page server.

use serde::{Deserialize, Serialize};

/// Digests of pages.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PageDigests {}
