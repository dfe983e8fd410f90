//! `rewarm_pages.so`: has CRIU start rewarm's page server.
//!
//! CRIU opens every `*.so` of its `libdir` and looks for `CR_PLUGIN_DESC`
//! (`criu/include/criu-plugin.h`, `criu/plugin.c`). At the start of a restore it calls
//! `init`, before it connects to `lazy-pages.socket`: that is when the server has to be
//! there. Then CRIU is told to leave the pages to it. Where they cannot come later, the
//! images are read into the page cache ahead of CRIU instead. If CRIU asks for no pages,
//! the server ends with it.

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
        Ok(started) => {
            criu::log(Level::Info, &started.said);
            if started.listens
                && let Err(why) = criu::restore_lazily()
            {
                let advice = "give it the option lazy-pages, for restores alone";
                criu::log(Level::Warning, &format!("this CRIU: {why}: {advice}"));
            }
            0
        }
        Err(why) => {
            criu::log(Level::Error, &why);
            -1
        }
    }
}
