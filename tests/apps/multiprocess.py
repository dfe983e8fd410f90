"""Workers made by multiprocessing copy to the GPU; the parent does so after them.

    multiprocess.py spawn|fork|forkserver
"""

import ctypes
import multiprocessing
import os
import sys

SIZE = 3 << 20


def copy_both_ways(seed):
    cuda = ctypes.CDLL("libcuda.so.1")
    context, device = ctypes.c_void_p(), ctypes.c_uint64()
    host = ctypes.create_string_buffer(bytes((seed + i) % 251 for i in range(1021)) * (SIZE // 1021), SIZE)
    back = ctypes.create_string_buffer(SIZE)
    size = ctypes.c_size_t(SIZE)
    codes = [
        cuda.cuInit(0),
        cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0),
        cuda.cuCtxSetCurrent(context),
        cuda.cuMemAlloc_v2(ctypes.byref(device), size),
        cuda.cuMemcpyHtoD_v2(device, host, size),
        cuda.cuMemcpyDtoH_v2(back, device, size),
    ]
    return codes, host.raw == back.raw


def main():
    method = sys.argv[1]
    context = multiprocessing.get_context(method)
    with context.Pool(3) as pool:
        print(method, pool.map(copy_both_ways, range(6)))
    worker = context.Process(target=copy_both_ways, args=(9,))
    worker.start()
    worker.join()
    print("worker", worker.exitcode)
    print("parent", copy_both_ways(7))
    if method == "fork":
        # After the parent has used CUDA itself, a forked child has none.
        child = os.fork()
        if child == 0:
            os._exit(ctypes.CDLL("libcuda.so.1").cuInit(0))
        print("child of a user", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
