//! What a preloaded process says about itself, and how it is asked.
//!
//! Each process listens on a socket of its own, `<run dir>/<pid>.sock`
//! ([`Server`]); the command line asks ([`Client`]). Messages are JSON behind a
//! length ([`frame`]). What takes long is told as it goes ([`Reporter`]). A report can also be kept in a file ([`StatsFile`]).

mod bypass;
mod client;
mod error;
pub mod frame;
mod freezing;
mod protocol;
mod report;
mod server;
mod socket;
mod stats_file;
mod work;

pub use crate::descriptors::out_of_the_way;
pub use bypass::Bypass;
pub use client::{Client, list};
pub use error::ControlError;
pub use freezing::*;
pub use protocol::{PROTOCOL_VERSION, Request, Response};
pub use report::*;
pub use server::{Handler, Server, Tick};
pub use stats_file::StatsFile;
pub use work::Reporter;
