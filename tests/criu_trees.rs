//! Processes that CRIU dumps and restores: plain ones, those under rewarm, and trees
//! with everything that programs hold.

mod common;

use common::criu;

/// Prints in any case, so that tests of whole processes are never skipped silently.
#[test]
fn it_is_told_whether_whole_processes_are_tested() {
    match criu::can_checkpoint() {
        Ok(criu) => println!("tests of whole processes use {}", criu.display()),
        Err(why) => println!("SKIPPED: all tests that checkpoint whole processes: {why}"),
    }
}
