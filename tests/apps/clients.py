"""Real Python clients of CUDA: each copies to the GPU and back and checks.

    clients.py ctypes|torch|torch_workers|cupy|numba|jax

Exit status 77: the client is not installed here, and the last line says so.
"""

import os
import sys

SIZE = 96 << 20


def absent(why):
    print(f"not here: {why}")
    sys.exit(77)


def import_or_leave(name):
    try:
        return __import__(name)
    except Exception as error:  # a package may be there and still not load
        absent(f"{type(error).__name__}: {error}")


def numbers(size=SIZE):
    numpy = import_or_leave("numpy")
    return numpy, numpy.arange(size // 4, dtype=numpy.int32)


def with_ctypes():
    import ctypes

    cuda = ctypes.CDLL("libcuda.so.1")
    context, device, size = ctypes.c_void_p(), ctypes.c_uint64(), ctypes.c_size_t(SIZE)
    host = ctypes.create_string_buffer(os.urandom(4096) * (SIZE // 4096), SIZE)
    back = ctypes.create_string_buffer(SIZE)
    for name, *arguments in [
        ("cuInit", 0),
        ("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0),
        ("cuCtxSetCurrent", context),
        ("cuMemAlloc_v2", ctypes.byref(device), size),
        ("cuMemcpyHtoD_v2", device, host, size),
        ("cuMemcpyDtoH_v2", back, device, size),
    ]:
        code = getattr(cuda, name)(*arguments)
        assert code == 0, f"{name} gave {code}"
    assert host.raw == back.raw


def with_torch():
    torch = import_or_leave("torch")
    if not torch.cuda.is_available():
        absent("torch has no CUDA here")
    for kind in (torch.float16, torch.int32, torch.uint8):
        source = torch.randint(0, 100, (SIZE // 4,)).to(kind)
        assert torch.equal(source.to("cuda").cpu(), source)
        assert torch.equal(source.pin_memory().to("cuda", non_blocking=True).cpu(), source)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        moved = source.to("cuda", non_blocking=True) + 1
        source.zero_()  # pageable memory is the caller's again
    stream.synchronize()
    assert int(moved.min()) >= 1
    graph, still = torch.cuda.CUDAGraph(), torch.ones(1 << 20, device="cuda")
    with torch.cuda.graph(graph):
        doubled = still * 2
    still.copy_(torch.full((1 << 20,), 21.0))
    graph.replay()
    assert float(doubled.mean()) == 42.0


def torch_worker(seed):
    import torch

    source = torch.full((SIZE // 4,), seed, dtype=torch.int32)
    return int(source.to("cuda").sum()) == seed * (SIZE // 4)


def with_torch_workers():
    torch = import_or_leave("torch")
    import multiprocessing

    for method in ("fork", "spawn"):
        # The parent has not used CUDA: forked children may.
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(torch_worker, [1, 2, 3]) == [True] * 3, method
    assert torch_worker(4)


def with_cupy():
    cupy = import_or_leave("cupy")
    numpy, source = numbers()
    assert numpy.array_equal(cupy.asnumpy(cupy.asarray(source)), source)


def with_numba():
    import_or_leave("numba")
    try:
        from numba import cuda
    except ImportError as error:
        absent(error)
    if not cuda.is_available():
        absent("numba has no CUDA here")
    numpy, source = numbers()
    assert numpy.array_equal(cuda.to_device(source).copy_to_host(), source)


def with_jax():
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax = import_or_leave("jax")
    try:
        device = jax.devices("gpu")[0]
    except RuntimeError as error:
        absent(error)
    # Smaller arrays do not reach the driver as copies of pageable memory.
    numpy, source = numbers(1 << 30)
    assert numpy.array_equal(numpy.asarray(jax.device_put(source, device)), source)


if __name__ == "__main__":
    globals()[f"with_{sys.argv[1]}"]()
    print(f"{sys.argv[1]}: right")
