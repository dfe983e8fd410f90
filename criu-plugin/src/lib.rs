//! `rewarm_pages.so`: has CRIU start rewarm's page server.
//!
//! CRIU opens every `*.so` of its `libdir` and looks for `CR_PLUGIN_DESC`
//! (`criu/include/criu-plugin.h`, `criu/plugin.c`). At the start of a restore it calls
//! `init`, before it connects to `lazy-pages.socket`: that is when the server has to be
//! there. If CRIU asks for no pages, the server ends with it.

mod criu;
mod server;

use criu::{Description, Level, Stage};
use std::ffi::c_int;

/// What CRIU looks for.
#[unsafe(no_mangle)]
pub static CR_PLUGIN_DESC: Description = Description::new(c"rewarm_pages", init);

/// 0, or -1, which ends what CRIU is about to do.
extern "C" fn init(stage: c_int) -> c_int {
    if stage != Stage::RESTORE {
        return 0;
    }
    match server::start() {
        Ok(said) => {
            criu::log(Level::Info, &said);
            0
        }
        Err(why) => {
            criu::log(Level::Error, &why);
            -1
        }
    }
}
