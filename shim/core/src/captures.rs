//! Which stream captures are under way. A capture that the driver's own waiting
//! calls meet is broken by them, so they have to be known before.

use parking_lot::Mutex;
use rewarm::driver::sys::*;
use std::collections::HashMap;

/// A stream that may be capturing. A default stream is another one in each thread,
/// or at least not told apart from that.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    stream: usize,
    thread: usize,
}

impl Key {
    fn of(stream: CUstream) -> Key {
        let stream = stream.addr();
        let is_default = stream <= CU_STREAM_PER_THREAD.addr();
        Key {
            stream,
            thread: match is_default {
                // SAFETY: has no requirements.
                true => unsafe { libc::pthread_self() as usize },
                false => 0,
            },
        }
    }
}

/// The captures of the process, each with the context that it began in, by address.
#[derive(Default)]
pub(crate) struct Captures(Mutex<HashMap<Key, usize>>);

impl Captures {
    /// A capture of a stream has begun, with this context current.
    pub(crate) fn begun(&self, stream: CUstream, context: CUcontext) {
        self.0.lock().insert(Key::of(stream), context.addr());
    }

    /// A stream captures no longer.
    pub(crate) fn ended(&self, stream: CUstream) {
        self.0.lock().remove(&Key::of(stream));
    }

    /// A context has ended, and its streams with it.
    pub(crate) fn context_ended(&self, context: CUcontext) {
        self.0.lock().retain(|_, owner| *owner != context.addr());
    }

    /// Whether any stream may be capturing.
    pub(crate) fn is_any(&self) -> bool {
        !self.0.lock().is_empty()
    }
}
