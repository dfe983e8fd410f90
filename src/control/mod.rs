//! What a preloaded process says about itself, and how it is asked.
//!
//! Each process listens on a socket of its own, `<run dir>/<pid>.sock`
//! ([`Server`]); the command line asks ([`Client`]). Messages are JSON behind a
//! length ([`frame`]). A report can also be kept in a file ([`StatsFile`]).
//!
//! A freeze or thaw ([`Freeze`], [`Thaw`]) takes long: it is carried out on a thread
//! of its own, one at a time, while the control thread goes on answering
//! ([`Request::Status`]). How far it is goes from the [`Reporter`] to the client; it
//! goes on if the client goes away. The core's `freezing` module does the work.
//!
//! Only root and the user of the process are let in: the folder and the socket are
//! that user's alone, and the kernel says who connects. What they say is bounded and
//! checked all the same.

mod bypass;
mod client;
#[cfg(feature = "cli")]
mod elsewhere;
mod error;
pub mod frame;
mod freezing;
#[cfg(feature = "cli")]
mod processes;
mod protocol;
mod report;
mod server;
pub(crate) mod socket;
mod stats_file;
mod work;

pub use crate::descriptors::out_of_the_way;
pub use bypass::Bypass;
pub use client::{Client, list};
pub use error::ControlError;
pub use freezing::*;
#[cfg(feature = "cli")]
pub use processes::{CORE, Process, ProcessError};
pub use protocol::{PROTOCOL_VERSION, Request, Response};
pub use report::*;
pub use server::{Handler, Server, Tick};
pub use stats_file::StatsFile;
pub use work::Reporter;
