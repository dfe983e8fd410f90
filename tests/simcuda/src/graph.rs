//! Graphs: lists of work in the order of their capture.

use crate::ffi::Handle;
use crate::work::Work;
use crate::world::World;
use parking_lot::Mutex;
use std::sync::Arc;

/// A node.
#[derive(Clone)]
pub struct Node {
    /// Its handle.
    pub handle: Handle,
    /// What it does.
    pub work: Arc<Work>,
}

/// A graph. The order of its nodes is one of the orders that its edges allow.
pub struct Graph {
    /// Its handle.
    pub handle: Handle,
    /// Its nodes.
    pub nodes: Mutex<Vec<Node>>,
}

impl Graph {
    /// An empty graph, made known.
    pub fn create(world: &World) -> Arc<Self> {
        let handle = world.new_handle();
        let graph = Arc::new(Self {
            handle,
            nodes: Mutex::default(),
        });
        world.graphs.add(handle, graph.clone());
        graph
    }

    /// Appends a node.
    pub fn add(&self, world: &World, work: Work) -> Handle {
        let handle = world.new_handle();
        self.nodes.lock().push(Node {
            handle,
            work: Arc::new(work),
        });
        handle
    }

    /// Makes it runnable.
    pub fn instantiate(&self, world: &World) -> Handle {
        let handle = world.new_handle();
        let work = self
            .nodes
            .lock()
            .iter()
            .map(|node| node.work.clone())
            .collect();
        world.execs.add(handle, Arc::new(Exec { work }));
        handle
    }
}

/// An instantiated graph.
pub struct Exec {
    /// What it does, in order.
    pub work: Vec<Arc<Work>>,
}
