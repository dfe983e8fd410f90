//! What the guard and the server say to each other.

use super::{PageProgress, PageReport};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The first message to the server. With the socket that CRIU connects to, and the
/// digests in a file, if there are any.
#[derive(Serialize, Deserialize)]
pub(super) struct Begin {
    /// Folder of the images.
    pub(super) images: PathBuf,
}

/// What the server is told.
#[derive(Serialize, Deserialize)]
pub(super) enum ToServer {
    /// A process, with its userfaultfd and a pidfd.
    Task {
        /// As the images have it.
        pid: i32,
        /// As it is called here.
        real: u32,
    },
    /// CRIU has connected; with the connection.
    Connected,
    /// CRIU has put everything at its place.
    Restored,
    /// The restore was declared successful: the processes outlive the guard.
    Released,
    /// The processes are about to be killed: none may have another child.
    Silence,
    /// The processes have been killed: end.
    GiveUp,
}

/// What the server tells.
#[derive(Serialize, Deserialize)]
pub(super) enum FromServer {
    /// How far it is.
    Progress(PageProgress),
    /// A process forked; with the child's userfaultfd.
    Forked,
    /// All is in place.
    Done(PageReport),
    /// Why it gives up; the processes have been killed.
    Failed(String),
}
