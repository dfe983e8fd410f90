//! Graphs, as far as captures need them.

use crate::capture::submit;
use crate::codes::{Answer, ERROR_INVALID_VALUE, require};
use crate::entry::driver_calls;
use crate::ffi::{Handle, In, Out};
use crate::graph::Graph;
use crate::stream::{DefaultStream, resolve};
use crate::thread;
use crate::work::Work;
use crate::world::World;

fn create(world: &'static World, place: Out<Handle>, flags: u32) -> Answer {
    require(place.given() && flags == 0, ERROR_INVALID_VALUE)?;
    place.put(Graph::create(world).handle)
}

fn instantiate(world: &'static World, place: Out<Handle>, graph: Handle) -> Answer {
    require(place.given(), ERROR_INVALID_VALUE)?;
    let graph = world.graphs.get(graph)?;
    place.put(graph.instantiate(world))
}

fn launch(world: &'static World, exec: Handle, stream: Handle, default: DefaultStream) -> Answer {
    thread::context(world)?;
    let exec = world.execs.get(exec)?;
    let stream = resolve(world, stream, default)?;
    submit(world, &stream, Work::Graph(exec.work.clone())).map(drop)
}

/// Without a place for nodes it counts them.
fn nodes(
    world: &World,
    graph: Handle,
    place: Out<Handle>,
    count: Out<usize>,
    only_roots: bool,
) -> Answer {
    let graph = world.graphs.get(graph)?;
    let nodes = graph.nodes.lock();
    let nodes = if only_roots {
        &nodes[..nodes.len().min(1)]
    } else {
        &nodes[..]
    };
    if !place.given() {
        return count.put(nodes.len());
    }
    let room = count.take()?;
    for (index, node) in nodes.iter().take(room).enumerate() {
        place.put_at(index, node.handle);
    }
    count.put(nodes.len().min(room))
}

/// `CUgraphNodeType`.
fn kind(world: &World, node: Handle, place: Out<u32>) -> Answer {
    let find = |graph: &std::sync::Arc<Graph>| {
        graph
            .nodes
            .lock()
            .iter()
            .find(|other| other.handle == node)
            .cloned()
    };
    let node = world
        .graphs
        .all()
        .iter()
        .find_map(find)
        .ok_or(ERROR_INVALID_VALUE)?;
    place.put(match *node.work {
        Work::Kernel(_) => 0,
        Work::Copy(..) | Work::Staged(..) => 1,
        Work::Fill(_) => 2,
        Work::Host(..) | Work::Callback(..) => 3,
        Work::Graph(_) => 4,
        Work::Nothing | Work::Stamp(_) => 5,
        Work::Free(_) => 11,
        Work::AwaitValue(..) | Work::WriteValue(..) => 12,
    })
}

/// `CUDA_GRAPH_INSTANTIATE_PARAMS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Parameters {
    flags: u64,
    upload_stream: Handle,
    error_node: Handle,
    result: u32,
}

fn instantiate_with(
    world: &'static World,
    place: Out<Handle>,
    graph: Handle,
    parameters: Out<Parameters>,
) -> Answer {
    let given = parameters.take()?;
    parameters.put(Parameters {
        error_node: 0,
        result: 0,
        ..given
    })?;
    instantiate(world, place, graph)
}

/// A child graph runs as it was when it was added.
fn add_child(world: &World, node: Out<Handle>, graph: Handle, child: Handle) -> Answer {
    let child = world.graphs.get(child)?;
    let work = child
        .nodes
        .lock()
        .iter()
        .map(|node| node.work.clone())
        .collect();
    node.put(world.graphs.get(graph)?.add(world, Work::Graph(work)))
}

fn add_empty(world: &World, node: Out<Handle>, graph: Handle) -> Answer {
    node.put(world.graphs.get(graph)?.add(world, Work::Nothing))
}

fn copy_of(world: &World, place: Out<Handle>, graph: Handle) -> Answer {
    let graph = world.graphs.get(graph)?;
    let copy = Graph::create(world);
    *copy.nodes.lock() = graph.nodes.lock().clone();
    place.put(copy.handle)
}

driver_calls! {
    /// An empty graph.
    fn cuGraphCreate(graph: Out<Handle>, flags: u32) = |world| create(world, graph, flags);
    /// Destroys a graph; what was instantiated from it stays.
    fn cuGraphDestroy(graph: Handle) = |world| world.graphs.remove(graph).map(drop);
    /// A copy.
    fn cuGraphClone(place: Out<Handle>, graph: Handle) = |world| copy_of(world, place, graph);
    /// Makes a graph runnable, the oldest way.
    fn cuGraphInstantiate(exec: Out<Handle>, graph: Handle, error_node: Out<Handle>, log: Out<u8>, room: usize) = |world| instantiate(world, exec, graph);
    /// Makes a graph runnable, the older way.
    fn cuGraphInstantiate_v2(exec: Out<Handle>, graph: Handle, error_node: Out<Handle>, log: Out<u8>, room: usize) = |world| instantiate(world, exec, graph);
    /// Makes a graph runnable.
    fn cuGraphInstantiateWithFlags(exec: Out<Handle>, graph: Handle, flags: u64) = |world| instantiate(world, exec, graph);
    /// Makes a graph runnable.
    fn cuGraphInstantiateWithParams / cuGraphInstantiateWithParams_ptsz (exec: Out<Handle>, graph: Handle, parameters: Out<Parameters>) = |world, default| {
        let _ = default;
        instantiate_with(world, exec, graph, parameters)
    };
    /// There is nothing to upload.
    fn cuGraphUpload / cuGraphUpload_ptsz (exec: Handle, stream: Handle) = |world, default| {
        resolve(world, stream, default)?;
        world.execs.get(exec).map(drop)
    };
    /// Runs a graph in a stream.
    fn cuGraphLaunch / cuGraphLaunch_ptsz (exec: Handle, stream: Handle) = |world, default| launch(world, exec, stream, default);
    /// Destroys what was instantiated.
    fn cuGraphExecDestroy(exec: Handle) = |world| world.execs.remove(exec).map(drop);
    /// Flags of an instantiated graph: none.
    fn cuGraphExecGetFlags(exec: Handle, flags: Out<u64>) = |world| { world.execs.get(exec)?; flags.put(0) };
    /// The nodes.
    fn cuGraphGetNodes(graph: Handle, place: Out<Handle>, count: Out<usize>) = |world| nodes(world, graph, place, count, false);
    /// The first node, as the graph is a line.
    fn cuGraphGetRootNodes(graph: Handle, place: Out<Handle>, count: Out<usize>) = |world| nodes(world, graph, place, count, true);
    /// What a node is.
    fn cuGraphNodeGetType(node: Handle, place: Out<u32>) = |world| kind(world, node, place);
    /// A node that does nothing.
    fn cuGraphAddEmptyNode(node: Out<Handle>, graph: Handle, dependencies: In<Handle>, count: usize) = |world| add_empty(world, node, graph);
    /// A node that is a graph.
    fn cuGraphAddChildGraphNode(node: Out<Handle>, graph: Handle, dependencies: In<Handle>, count: usize, child: Handle) = |world| add_child(world, node, graph, child);
}
