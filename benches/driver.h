// The driver API as an application that opens libcuda.so.1 by name sees it. Nothing of a CUDA toolkit is needed.
#ifndef REWARM_BENCH_DRIVER_H
#define REWARM_BENCH_DRIVER_H
#include "common.h"
#include <dlfcn.h>

typedef unsigned long long CUdeviceptr;
typedef void *CUhandle;

#define DRIVER_CALLS(X)                                                                                                \
    X(int, cuInit, cuInit, (unsigned))                                                                                 \
    X(int, cuDeviceGet, cuDeviceGet, (int *, int))                                                                     \
    X(int, cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, (CUhandle *, int))                                      \
    X(int, cuCtxSetCurrent, cuCtxSetCurrent, (CUhandle))                                                               \
    X(int, cuCtxGetCurrent, cuCtxGetCurrent, (CUhandle *))                                                             \
    X(int, cuCtxSynchronize, cuCtxSynchronize, (void))                                                                 \
    X(int, cuMemAlloc, cuMemAlloc_v2, (CUdeviceptr *, size_t))                                                         \
    X(int, cuMemFree, cuMemFree_v2, (CUdeviceptr))                                                                     \
    X(int, cuMemHostAlloc, cuMemHostAlloc, (void **, size_t, unsigned))                                                \
    X(int, cuMemFreeHost, cuMemFreeHost, (void *))                                                                     \
    X(int, cuMemcpyHtoD, cuMemcpyHtoD_v2, (CUdeviceptr, const void *, size_t))                                         \
    X(int, cuMemcpyDtoH, cuMemcpyDtoH_v2, (void *, CUdeviceptr, size_t))                                               \
    X(int, cuMemcpyHtoDAsync, cuMemcpyHtoDAsync_v2, (CUdeviceptr, const void *, size_t, CUhandle))                     \
    X(int, cuMemsetD8, cuMemsetD8_v2, (CUdeviceptr, unsigned char, size_t))                                            \
    X(int, cuPointerGetAttribute, cuPointerGetAttribute, (void *, int, CUdeviceptr))                                   \
    X(int, cuStreamCreate, cuStreamCreate, (CUhandle *, unsigned))                                                     \
    X(int, cuStreamSynchronize, cuStreamSynchronize, (CUhandle))                                                       \
    X(int, cuStreamQuery, cuStreamQuery, (CUhandle))                                                                   \
    X(int, cuEventCreate, cuEventCreate, (CUhandle *, unsigned))                                                       \
    X(int, cuEventRecord, cuEventRecord, (CUhandle, CUhandle))                                                         \
    X(int, cuEventQuery, cuEventQuery, (CUhandle))                                                                     \
    X(int, cuModuleLoadData, cuModuleLoadData, (CUhandle *, const void *))                                             \
    X(int, cuModuleGetFunction, cuModuleGetFunction, (CUhandle *, CUhandle, const char *))                             \
    X(int, cuLaunchKernel, cuLaunchKernel,                                                                             \
      (CUhandle, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUhandle, void **, void **))    \
    X(int, cuGetErrorName, cuGetErrorName, (int, const char **))

#define DECLARE(result, name, symbol, arguments) static result(*name) arguments;
DRIVER_CALLS(DECLARE)
#undef DECLARE

static inline void check(int code, const char *what) {
    if (!code) return;
    const char *name = NULL;
    if (cuGetErrorName) cuGetErrorName(code, &name);
    die("%s: %d %s", what, code, name ? name : "");
}
#define CK(call) check((call), #call)

// Opens the driver, initialises it and makes device 0's primary context current.
static inline void driver_open(void) {
    void *lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    if (!lib) die("%s", dlerror());
#define FIND(result, name, symbol, arguments)                                                                          \
    *(void **)&name = dlsym(lib, #symbol);                                                                             \
    if (!name) die("libcuda.so.1 has no %s", #symbol);
    DRIVER_CALLS(FIND)
#undef FIND
    int device;
    CUhandle context;
    CK(cuInit(0));
    CK(cuDeviceGet(&device, 0));
    CK(cuDevicePrimaryCtxRetain(&context, device));
    CK(cuCtxSetCurrent(context));
}
#endif
