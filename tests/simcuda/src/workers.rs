//! The threads that run streams: as many as streams have work at the same time.

use crate::stream::Stream;
use crate::world::World;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;

#[derive(Default)]
struct State {
    ready: VecDeque<Arc<Stream>>,
    idle: usize,
}

/// The threads, made on demand and kept.
#[derive(Default)]
pub struct Workers {
    state: Mutex<State>,
    wake: Condvar,
}

impl Workers {
    /// Gives a stream with work to a thread. Every ready stream gets one, as it may have to
    /// wait for a stream that is ready too.
    pub fn hand_over(&'static self, world: &'static World, stream: Arc<Stream>) {
        let mut state = self.state.lock();
        state.ready.push_back(stream);
        if state.idle >= state.ready.len() {
            drop(state);
            self.wake.notify_one();
            return;
        }
        drop(state);
        let builder = std::thread::Builder::new()
            .name("simcuda".into())
            .stack_size(256 * 1024);
        let spawned = builder.spawn(move || self.work(world));
        // Without a thread the stream would never finish; stopping here says why.
        spawned.expect("the software driver cannot start a thread");
    }

    fn work(&'static self, world: &'static World) {
        loop {
            let stream = {
                let mut state = self.state.lock();
                loop {
                    if let Some(stream) = state.ready.pop_front() {
                        break stream;
                    }
                    state.idle += 1;
                    self.wake.wait(&mut state);
                    state.idle -= 1;
                }
            };
            stream.drain(world);
        }
    }
}
