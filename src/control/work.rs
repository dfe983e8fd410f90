//! Work that takes long, beside the control thread.

use super::protocol::{FREEZE, Request, Response, THAW, Versioned};
use super::server::Handler;
use super::socket::{Guarded, Reach, Timed, reach};
use super::{Progress, State, Thaw, frame};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Time between two words about the same phase.
const PERIOD: Duration = Duration::from_millis(100);

/// Longest time without a word.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// How long a client may take to take the answer. There is room for it in the
/// socket, so it need not be reading.
const PATIENCE: Duration = Duration::from_secs(2);

/// Virtual memory of the thread that works, as std has it.
const STACK: usize = 2 << 20;

/// Virtual memory of the thread that tells, see the control thread's.
const TELLER_STACK: usize = 256 << 10;

/// Where work says how far it is. Cheap: a word that is never sent costs a lock.
#[derive(Clone, Debug, Default)]
pub struct Reporter(Arc<Line>);

/// Between those who work and the one who tells.
#[derive(Debug, Default)]
struct Line {
    said: Mutex<Said>,
    changed: Condvar,
    is_abandoned: AtomicBool,
}

#[derive(Debug, Default)]
struct Said {
    progress: Progress,
    answer: Option<Response>,
}

impl Reporter {
    /// How far the work is, from any thread. The client hears of new phases at
    /// once, of the rest ten times a second.
    pub fn progress(&self, progress: Progress) {
        let mut said = self.0.said.lock();
        let is_new_phase = said.progress.phase != progress.phase;
        said.progress = progress;
        if is_new_phase {
            self.0.changed.notify_one();
        }
    }

    /// Whether the client has gone away, as seen within a second. What changes
    /// the process goes on all the same; who only waits may stop.
    pub fn is_abandoned(&self) -> bool {
        self.0.is_abandoned.load(Ordering::Relaxed)
    }
}

impl Line {
    fn answer(&self, response: Response) {
        self.said.lock().answer = Some(response);
        self.changed.notify_one();
    }

    /// What to tell next, after a word that was told at a time.
    fn next(&self, told: Option<(Progress, Instant)>) -> Response {
        let mut said = self.said.lock();
        loop {
            if let Some(answer) = said.answer.take() {
                return answer;
            }
            let now = Instant::now();
            let due = match told {
                Some((before, at)) if before == said.progress => at + SIGN_OF_LIFE,
                Some((before, at)) if before.phase == said.progress.phase => at + PERIOD,
                _ => now,
            };
            if due <= now {
                return Response::Progress(said.progress);
            }
            // Within a phase nobody is woken.
            self.changed.wait_until(&mut said, due.min(now + PERIOD));
        }
    }
}

/// Carries requests out, those that take long one at a time.
#[derive(Clone)]
pub(super) struct Work {
    handler: Arc<Handler>,
    current: Arc<Mutex<Current>>,
}

/// What holds between requests.
#[derive(Default)]
struct Current {
    /// What is under way.
    name: Option<&'static str>,
    /// Whether the process is frozen for a lock of the driver.
    is_for_lock: bool,
    /// The thaw after the lock, if it was asked for while something was under way.
    awaited: Option<Thaw>,
}

impl Work {
    pub(super) fn new(handler: Arc<Handler>) -> Work {
        Work {
            handler,
            current: Arc::default(),
        }
    }

    /// Carries a request out that takes no time.
    pub(super) fn answer(&self, request: Request) -> Response {
        let current = self.current.lock().name;
        let mut response = (self.handler)(request, &Reporter::default());
        // What was begun may have yet to change the state.
        if let Response::Status(report) = &mut response {
            report.state = match (current, report.state) {
                (Some(FREEZE), State::Active) => State::Freezing,
                (Some(THAW), State::Frozen) => State::Thawing,
                (_, state) => state,
            };
        }
        response
    }

    /// Begins a request that takes long. The client is spoken to from now on by
    /// another thread, unless this is refused. The new threads block the signals
    /// that the calling one blocks.
    pub(super) fn begin(
        &self,
        name: &'static str,
        request: Request,
        client: &UnixStream,
    ) -> Result<(), String> {
        let turn = Turn::take(&self.current, name)?;
        let fail = |error: io::Error| format!("{name} could not begin: {error}");
        let client = Guarded::new(client.try_clone().map_err(fail)?);
        let reporter = Reporter::default();
        let (line, own) = (reporter.0.clone(), self.clone());
        let (begin, begun) = std::sync::mpsc::channel::<()>();
        let work = move || {
            // Without somebody who tells nothing is begun.
            if begun.recv().is_ok() {
                own.carry_out(request, &reporter, turn);
            }
        };
        spawn("rewarm-work", STACK, work).map_err(fail)?;
        spawn("rewarm-tell", TELLER_STACK, move || tell(&client, &line)).map_err(fail)?;
        let _ = begin.send(());
        Ok(())
    }

    /// Thaws, if the process was frozen for a lock, or will have been when what is
    /// under way is over. Nobody waits for the end.
    pub(super) fn thaw_after_lock(&self, thaw: Thaw) -> io::Result<()> {
        let turn = {
            let mut current = self.current.lock();
            if current.name.is_some() {
                current.awaited = Some(thaw);
                return Ok(());
            }
            if !current.is_for_lock {
                return Ok(());
            }
            current.name = Some(THAW);
            Turn(self.current.clone())
        };
        let own = self.clone();
        let work = move || {
            own.carry_out(Request::ThawAfterLock(thaw), &Reporter::default(), turn);
        };
        spawn("rewarm-work", STACK, work)
    }

    fn carry_out(&self, request: Request, reporter: &Reporter, turn: Turn) {
        let is_for_lock = matches!(request, Request::FreezeForLock(_));
        let response = (self.handler)(request, reporter);
        match &response {
            Response::Frozen(_) => self.current.lock().is_for_lock = is_for_lock,
            Response::Thawed(_) => self.current.lock().is_for_lock = false,
            _ => {}
        }
        // Whoever hears the answer may ask for the next.
        drop(turn);
        reporter.0.answer(response);
        let awaited = self.current.lock().awaited.take();
        if let Some(thaw) = awaited {
            // Without a thread it stays frozen, for somebody to thaw.
            let _ = self.thaw_after_lock(thaw);
        }
    }
}

fn spawn(name: &str, stack: usize, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let builder = thread::Builder::new().name(name.into()).stack_size(stack);
    builder.spawn(body).map(drop)
}

/// The right to work. Ends when dropped.
struct Turn(Arc<Mutex<Current>>);

impl Turn {
    fn take(current: &Arc<Mutex<Current>>, name: &'static str) -> Result<Turn, String> {
        let mut held = current.lock();
        if let Some(other) = held.name {
            return Err(format!("{other} is under way: ask again when it is over"));
        }
        held.name = Some(name);
        Ok(Turn(current.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.lock().name = None;
    }
}

/// Tells the client how far the work is, and then the answer. One that does not
/// read for a while misses words, not the answer.
fn tell(client: &Guarded<UnixStream>, line: &Line) {
    let mut told = None;
    loop {
        let response = line.next(told);
        let Response::Progress(progress) = response else {
            // Whoever went away does not want it.
            let _ = send(client, response);
            return;
        };
        let is_gone = match reach(client) {
            Reach::Gone => true,
            Reach::Full => false,
            Reach::Ready => send(client, response).is_err(),
        };
        if is_gone {
            line.is_abandoned.store(true, Ordering::Relaxed);
            return;
        }
        told = Some((progress, Instant::now()));
    }
}

fn send(client: &Guarded<UnixStream>, response: Response) -> Result<(), frame::FrameError> {
    let stream = client
        .get()
        .ok_or(io::Error::from(io::ErrorKind::NotConnected))?;
    let mut timed = Timed::new(stream, PATIENCE);
    frame::write(&mut timed, &Versioned::new(response))
}
