//! The page server: fills the memory of processes that CRIU restores with lazy
//! pages, in place of `criu lazy-pages`, with many reads at once.
//!
//! `criu restore --lazy-pages` connects to `lazy-pages.socket` and hands over a
//! userfaultfd for each process, while it leaves their memory empty. A thread that
//! touches a page which is not there waits until the owner of that descriptor
//! fills it. If nobody owns it any more, the page **silently becomes zero**. So
//! two processes own each of them, and each kills the restored processes when the
//! other dies too early:
//!
//! - the *guard* is the process that restores (`guard.rs`): it takes the
//!   descriptors from CRIU, keeps duplicates, and knows the processes by pidfd;
//! - the *server* is a child of it (`server.rs`): workers (`fill.rs`) claim blocks
//!   of 1 MiB of the files of pages (`queue.rs`), those first that a thread waits
//!   for, read them as [`crate::pages`] does, verify their digests, and copy them
//!   to where they belong (`task.rs`).
//!
//! Processes run meanwhile, and change their address spaces: `events.rs` reads what
//! they say, and `layout.rs` follows it. Two rules keep that right. The system
//! refuses to fill anything between a change and the reading of its event; and
//! events are read with a lock held that every copy needs, so that none is made
//! between the reading of an event and what it means.
//!
//! Whoever is killed is stopped first, and nobody reads events then: a fork that is
//! under way waits for that, so no child is made that nobody knows.
//!
//! # Limits
//! What is not seen, by CRIU's own server neither, or cannot be closed:
//!
//! - one thread's munmap(2) that races with another's mremap(2) to the same place may
//!   be told in the wrong order, and a child that is forked while another thread of
//!   its parent moves memory may have been made before or after that. Pages that were
//!   still missing there are zero then;
//! - a change of `MADV_WIPEONFORK` after the restore, while pages are missing: the
//!   images say where children find zeros;
//! - if guard and server are killed at the same moment, as by the end of their control
//!   group, nobody is left to kill the restored processes, whose missing pages are
//!   zero from then on: they belong into the same control group;
//! - if the guard is killed in the microseconds between accepting CRIU's connection
//!   and handing it on, CRIU fails, and kills its processes, unless it had said its
//!   last word by then. If the server is killed between reading of a fork and handing
//!   on the child's descriptor, the child can run until the guard has killed it;
//! - a read that storage never answers is waited for, and so are the threads that need
//!   its page. A fork or other change of an address space that takes longer than a minute
//!   fails the restore.

mod ahead;
mod digests;
mod error;
mod events;
mod fill;
mod guard;
mod layout;
mod link;
mod protocol;
mod queue;
mod server;
mod socket;
mod task;
mod totals;
mod uffd;
mod victims;

pub use ahead::why_not_beside_criu;
pub use digests::{PageDigests, digest_pages, page_files};
pub use error::PagesError;
pub use guard::{PageServer, PageServerOptions, SERVE};
pub use server::serve;
use totals::Totals;
pub use totals::{PageProgress, PageReport};
pub use uffd::can_serve;

#[cfg(test)]
mod tests;
