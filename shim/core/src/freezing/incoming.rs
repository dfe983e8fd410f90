//! What comes back: the chunks of the snapshot, and the blocks that they go to.

use super::{FreezeError, Freezer, at, watched};
use crate::ledger::Block;
use parking_lot::Mutex;
use rewarm::config::cpus;
use rewarm::control::{Order, Phase};
use rewarm::digest::{Digest, Digester, GpuDigestError, GpuDigests, Span, of_zeros};
use rewarm::driver::sys::CUdevice;
use rewarm::lanes::{LaneSet, Load, LoadOptions, Part, Take};
use rewarm::pages::{FileRange, Store, Strategy};
use rewarm::snapshot::{Chunk, Piece, Snapshot, Stored};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;
use std::{mem, ptr, thread};

/// The chunks of a snapshot on their way to the blocks.
pub(super) struct Incoming<'a> {
    snapshot: &'a Snapshot,
    /// In the order in which they come.
    pieces: Vec<Arriving>,
}

/// A chunk and where it goes.
#[derive(Clone, Copy)]
struct Arriving {
    device: CUdevice,
    address: u64,
    piece: Piece,
}

/// How a device's memory came back.
pub(super) struct Brought {
    pub(super) load_seconds: f64,
    pub(super) verify_seconds: f64,
    /// `gpu`, `cpu` or `no`.
    pub(super) verified_by: &'static str,
}

impl Arriving {
    fn stored(&self) -> Option<Stored> {
        match self.piece.chunk {
            Chunk::Stored(stored) => Some(stored),
            Chunk::Zero | Chunk::Discarded => None,
        }
    }

    /// What its bytes must come to, if they matter.
    fn digest(&self) -> Option<Digest> {
        match self.piece.chunk {
            Chunk::Stored(stored) => Some(stored.digest),
            Chunk::Zero => Some(of_zeros(self.piece.bytes as usize)),
            Chunk::Discarded => None,
        }
    }
}

impl Incoming<'_> {
    /// Finds the block of each allocation. Blocks and manifest are of the same
    /// freeze, so they fit, or something is badly wrong.
    pub(super) fn new<'a>(
        snapshot: &'a Snapshot,
        blocks: &[Block],
        order: Order,
    ) -> Result<Incoming<'a>, FreezeError> {
        let manifest = snapshot.manifest();
        let by_id: HashMap<_, _> = blocks.iter().map(|block| (block.id, block)).collect();
        let mut ordered: Vec<(&Block, usize)> = Vec::with_capacity(blocks.len());
        for (number, allocation) in manifest.allocations.iter().enumerate() {
            let block = by_id.get(&allocation.id).filter(|block| {
                block.bytes == allocation.bytes && block.device as u32 == allocation.device
            });
            let Some(block) = block else {
                return Err(FreezeError::Foreign {
                    path: snapshot.path().to_owned(),
                    what: "its allocations are not those that were frozen",
                });
            };
            ordered.push((block, number));
        }
        if ordered.len() != blocks.len() {
            return Err(FreezeError::Foreign {
                path: snapshot.path().to_owned(),
                what: "it lacks allocations that were frozen",
            });
        }
        match order {
            Order::Largest => ordered.sort_by_key(|(block, _)| u64::MAX - block.bytes),
            Order::Smallest => ordered.sort_by_key(|(block, _)| block.bytes),
            Order::Address => ordered.sort_by_key(|(block, _)| block.address),
        }
        let mut of_allocation = vec![Vec::new(); manifest.allocations.len()];
        for piece in manifest.pieces() {
            of_allocation[piece.allocation].push(piece);
        }
        let mut pieces = Vec::with_capacity(manifest.chunks.len());
        for (block, number) in &ordered {
            pieces.extend(of_allocation[*number].iter().map(|piece| Arriving {
                device: block.device,
                address: block.address + piece.offset,
                piece: *piece,
            }));
        }
        Ok(Incoming { snapshot, pieces })
    }

    /// Bytes that are read.
    pub(super) fn stored_bytes(&self) -> u64 {
        let stored = self.pieces.iter().filter(|one| one.stored().is_some());
        stored.map(|one| one.piece.bytes).sum()
    }

    fn of(&self, device: CUdevice) -> impl Iterator<Item = &Arriving> {
        self.pieces.iter().filter(move |one| one.device == device)
    }

    /// What is read for a device; what lies side by side at once.
    fn loads(&self, device: CUdevice) -> Vec<Load> {
        let mut loads: Vec<Load> = Vec::new();
        for one in self.of(device) {
            let Some(stored) = one.stored() else { continue };
            let file = self.snapshot.file(stored.file);
            if let Some(last) = loads.last_mut()
                && Arc::ptr_eq(&last.range.file, file)
                && last.range.offset + last.range.bytes == stored.offset
                && last.device + last.range.bytes == one.address
            {
                last.range.bytes += one.piece.bytes;
                continue;
            }
            loads.push(Load {
                range: FileRange {
                    file: file.clone(),
                    offset: stored.offset,
                    bytes: one.piece.bytes,
                },
                device: one.address,
            });
        }
        loads
    }

    /// A chunk whose bytes are not what they were.
    fn corrupt(&self, one: &Arriving) -> FreezeError {
        let allocation = &self.snapshot.manifest().allocations[one.piece.allocation];
        let at = format!(
            "{} bytes at {:#x} of the allocation of {} bytes at {:#x}",
            one.piece.bytes, one.piece.offset, allocation.bytes, allocation.address
        );
        match one.stored() {
            Some(stored) => FreezeError::Corrupt {
                path: self.snapshot.file(stored.file).path().to_owned(),
                what: format!(
                    "the chunk at offset {} ({at}) does not have its checksum",
                    stored.offset
                ),
            },
            None => FreezeError::Corrupt {
                path: self.snapshot.path().to_owned(),
                what: format!("{at} should be zero and are not"),
            },
        }
    }
}

impl Freezer<'_> {
    /// Brings a device's chunks into its memory, and makes sure that they are right.
    /// A context of the device is current.
    pub(super) fn bring_back(
        &self,
        device: CUdevice,
        incoming: &Incoming<'_>,
        verify: bool,
    ) -> Result<Brought, FreezeError> {
        let context = self.process.current_context().expose_provenance();
        let inside = |action: &mut dyn FnMut()| {
            let context = ptr::with_exposed_provenance_mut(context);
            self.process.with_context(context, action);
        };
        let get_ready = || {
            let mut gpu = None;
            inside(&mut || gpu = Some(self.gpu_digests()));
            gpu
        };
        let begun = Instant::now();
        let plan = self.process.plan.reading(cpus());
        let lanes = LaneSet::new(self.process.driver, &plan)?;
        let (loaded, gpu) = thread::scope(|scope| {
            // While the bytes come.
            let builder = thread::Builder::new().name("rewarm-verify".into());
            let getting_ready = verify.then(|| builder.spawn_scoped(scope, get_ready));
            let loaded = self.load(&lanes, device, incoming);
            let ready = getting_ready.and_then(Result::ok);
            (
                loaded,
                ready.and_then(|thread| thread.join().ok()).flatten(),
            )
        });
        if let Err(error) = loaded {
            if let Some(Ok(gpu)) = gpu {
                gpu.release();
            }
            lanes.release();
            return Err(error);
        }
        let load_seconds = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        let lanes = Mutex::new(Some(lanes));
        let release = || {
            if let Some(lanes) = lanes.lock().take() {
                lanes.release();
            }
        };
        let verified = thread::scope(|scope| {
            // While the GPU looks.
            let builder = thread::Builder::new().name("rewarm-release".into());
            let _ = builder.spawn_scoped(scope, || inside(&mut || release()));
            match verify {
                true => self.verify(device, incoming, gpu.unwrap_or_else(|| self.gpu_digests())),
                false => Ok("no"),
            }
        });
        // If there was no thread for it.
        release();
        Ok(Brought {
            load_seconds,
            verified_by: verified?,
            verify_seconds: begun.elapsed().as_secs_f64(),
        })
    }

    /// Reads a device's chunks into its memory.
    fn load(
        &self,
        lanes: &LaneSet,
        device: CUdevice,
        incoming: &Incoming<'_>,
    ) -> Result<(), FreezeError> {
        let loads = incoming.loads(device);
        let total = loads.iter().map(|load| load.range.bytes).sum();
        let progress = Arc::new(AtomicU64::new(0));
        let options = LoadOptions {
            strategy: self.reading_strategy(&loads, lanes.lanes()),
            keep_cached: false,
            progress: Some(progress.clone()),
        };
        // SAFETY: the memory was just made, and nothing else knows that it is there.
        let load = || unsafe { lanes.load(&loads, &options) };
        watched(self.reporter, Phase::Loading, &progress, total, load)?;
        Ok(())
    }

    /// What was just written to memory is best copied from a mapping, if there are
    /// CPUs for that.
    fn reading_strategy(&self, loads: &[Load], lanes: usize) -> Strategy {
        const LANES_FOR_MAPPINGS: usize = 8;
        let is_memory = |load: &Load| load.range.file.store() == Store::Memory;
        match self.process.plan.read_strategy {
            Strategy::Auto if lanes >= LANES_FOR_MAPPINGS && loads.iter().all(is_memory) => {
                Strategy::Mapped
            }
            asked => asked,
        }
    }

    /// Compares all digests of a device's memory. Says what did it.
    fn verify(
        &self,
        device: CUdevice,
        incoming: &Incoming<'_>,
        gpu: Result<GpuDigests, GpuDigestError>,
    ) -> Result<&'static str, FreezeError> {
        self.reporter.progress(at(Phase::Verifying));
        let matters: Vec<_> = incoming
            .of(device)
            .filter(|one| one.digest().is_some())
            .collect();
        let spans: Vec<_> = matters
            .iter()
            .map(|one| Span {
                device: one.address,
                bytes: one.piece.bytes,
            })
            .collect();
        let mut wrong = None;
        let by_gpu = self.digests_by_gpu(gpu, &spans, &mut |number, digest| {
            if matters[number].digest() != Some(digest) {
                wrong.get_or_insert(number);
            }
        });
        if !by_gpu {
            wrong = self.verify_over_lanes(&matters)?;
        }
        match wrong {
            Some(number) => Err(incoming.corrupt(matters[number])),
            None if by_gpu => Ok("gpu"),
            None => Ok("cpu"),
        }
    }

    /// Brings the chunks to the host again; the number of one that is wrong.
    fn verify_over_lanes(&self, matters: &[&Arriving]) -> Result<Option<usize>, FreezeError> {
        let parts = matters.iter().map(|one| Part {
            device: one.address,
            bytes: one.piece.bytes as usize,
        });
        let parts: Vec<_> = parts.collect();
        let parts_bytes: Vec<_> = parts.iter().map(|part| part.bytes).collect();
        let expected: Vec<_> = matters.iter().filter_map(|one| one.digest()).collect();
        let plan = self.process.plan.writing(cpus());
        let lanes = LaneSet::new(self.process.driver, &plan)?;
        let wrong = Arc::new(Mutex::new(None));
        let found = wrong.clone();
        let digesters: Vec<_> = (0..plan.lanes)
            .map(|_| Mutex::<Digester>::default())
            .collect();
        let take: Arc<Take> = Arc::new(move |brought| {
            let mut digester = digesters[brought.lane].lock();
            digester.update(brought.bytes);
            if brought.offset + brought.bytes.len() == parts_bytes[brought.part]
                && mem::take(&mut *digester).finish() != expected[brought.part]
            {
                found.lock().get_or_insert(brought.part);
            }
            Ok(())
        });
        // SAFETY: all memory is there, and no work is under way.
        let unloaded = unsafe { lanes.unload(parts, take) };
        lanes.release();
        unloaded?;
        let wrong = *wrong.lock();
        Ok(wrong)
    }
}
