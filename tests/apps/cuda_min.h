/*
 * The part of the CUDA driver API that the test programs use, declared here so
 * that neither a toolkit nor its headers are needed to build them.
 *
 * Every function is in one list. Programs that open the driver themselves call
 * `cuda_open()` and then `cu.cuInit(0)`; programs that are linked with -lcuda
 * define CUDA_MIN_LINKED first and call `cuInit(0)`.
 */
#ifndef CUDA_MIN_H
#define CUDA_MIN_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef void *CUcontext, *CUstream, *CUevent, *CUmodule, *CUfunction, *CUgraph, *CUgraphExec, *CUarray;
typedef void (*CUhostFn)(void *);

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_NOT_INITIALIZED = 3,
    CUDA_ERROR_NOT_READY = 600,
    CU_STREAM_DEFAULT = 0,
    CU_STREAM_NON_BLOCKING = 1,
    CU_EVENT_DISABLE_TIMING = 2,
    CAPTURE_GLOBAL = 0,
    CAPTURE_THREAD_LOCAL = 1,
    CAPTURE_RELAXED = 2,
    CU_MEM_ATTACH_GLOBAL = 1,
    CU_CTX_SCHED_BLOCKING_SYNC = 4,
    CU_CTX_MAP_HOST = 8,
    CU_MEMORYTYPE_HOST = 1,
    CU_MEMORYTYPE_DEVICE = 2,
    CU_STREAM_WAIT_VALUE_EQ = 1
};
#define CU_STREAM_LEGACY ((CUstream)1)
#define CU_STREAM_PER_THREAD ((CUstream)2)

typedef struct {
    size_t srcXInBytes, srcY;
    unsigned srcMemoryType;
    const void *srcHost;
    CUdeviceptr srcDevice;
    CUarray srcArray;
    size_t srcPitch;
    size_t dstXInBytes, dstY;
    unsigned dstMemoryType;
    void *dstHost;
    CUdeviceptr dstDevice;
    CUarray dstArray;
    size_t dstPitch, WidthInBytes, Height;
} CUDA_MEMCPY2D;

typedef struct {
    size_t srcXInBytes, srcY, srcZ, srcLOD;
    unsigned srcMemoryType;
    const void *srcHost;
    CUdeviceptr srcDevice;
    CUarray srcArray;
    void *reserved0;
    size_t srcPitch, srcHeight;
    size_t dstXInBytes, dstY, dstZ, dstLOD;
    unsigned dstMemoryType;
    void *dstHost;
    CUdeviceptr dstDevice;
    CUarray dstArray;
    void *reserved1;
    size_t dstPitch, dstHeight, WidthInBytes, Height, Depth;
} CUDA_MEMCPY3D;

/* CUmemcpyAttributes with its two CUmemLocation hints. */
typedef struct {
    int srcAccessOrder;
    int srcHintType, srcHintId;
    int dstHintType, dstHintId;
    unsigned flags;
} CUmemcpyAttributes;

#define CUDA_FUNCTIONS(F)                                                                                            \
    F(cuInit, (unsigned flags))                                                                                      \
    F(cuDriverGetVersion, (int *version))                                                                            \
    F(cuDeviceGetCount, (int *count))                                                                                \
    F(cuDeviceGet, (CUdevice * device, int ordinal))                                                                 \
    F(cuDeviceGetName, (char *name, int length, CUdevice device))                                                    \
    F(cuDevicePrimaryCtxRetain, (CUcontext * context, CUdevice device))                                              \
    F(cuDevicePrimaryCtxRelease_v2, (CUdevice device))                                                               \
    F(cuDevicePrimaryCtxReset_v2, (CUdevice device))                                                                 \
    F(cuDevicePrimaryCtxGetState, (CUdevice device, unsigned *flags, int *active))                                   \
    F(cuDevicePrimaryCtxSetFlags_v2, (CUdevice device, unsigned flags))                                              \
    F(cuCtxCreate_v2, (CUcontext * context, unsigned flags, CUdevice device))                                        \
    F(cuCtxCreate_v4, (CUcontext * context, void *parameters, unsigned flags, CUdevice device))                      \
    F(cuCtxDestroy_v2, (CUcontext context))                                                                          \
    F(cuCtxGetCurrent, (CUcontext * context))                                                                        \
    F(cuCtxSetCurrent, (CUcontext context))                                                                          \
    F(cuCtxPushCurrent_v2, (CUcontext context))                                                                      \
    F(cuCtxPopCurrent_v2, (CUcontext * context))                                                                     \
    F(cuCtxGetFlags, (unsigned *flags))                                                                              \
    F(cuCtxGetDevice, (CUdevice * device))                                                                           \
    F(cuCtxSynchronize, (void))                                                                                      \
    F(cuMemGetInfo_v2, (size_t * free, size_t *total))                                                               \
    F(cuMemAlloc_v2, (CUdeviceptr * address, size_t bytes))                                                          \
    F(cuMemAllocPitch_v2, (CUdeviceptr * address, size_t *pitch, size_t width, size_t height, unsigned element))     \
    F(cuMemFree_v2, (CUdeviceptr address))                                                                           \
    F(cuMemHostAlloc, (void **address, size_t bytes, unsigned flags))                                                \
    F(cuMemFreeHost, (void *address))                                                                                \
    F(cuMemHostRegister_v2, (void *address, size_t bytes, unsigned flags))                                           \
    F(cuMemHostUnregister, (void *address))                                                                          \
    F(cuMemAllocManaged, (CUdeviceptr * address, size_t bytes, unsigned flags))                                      \
    F(cuMemcpyHtoD_v2, (CUdeviceptr dst, const void *src, size_t bytes))                                             \
    F(cuMemcpyHtoD_v2_ptds, (CUdeviceptr dst, const void *src, size_t bytes))                                        \
    F(cuMemcpyHtoDAsync_v2, (CUdeviceptr dst, const void *src, size_t bytes, CUstream stream))                       \
    F(cuMemcpyHtoDAsync_v2_ptsz, (CUdeviceptr dst, const void *src, size_t bytes, CUstream stream))                  \
    F(cuMemcpyDtoH_v2, (void *dst, CUdeviceptr src, size_t bytes))                                                   \
    F(cuMemcpyDtoH_v2_ptds, (void *dst, CUdeviceptr src, size_t bytes))                                              \
    F(cuMemcpyDtoHAsync_v2, (void *dst, CUdeviceptr src, size_t bytes, CUstream stream))                             \
    F(cuMemcpyDtoHAsync_v2_ptsz, (void *dst, CUdeviceptr src, size_t bytes, CUstream stream))                        \
    F(cuMemcpyDtoD_v2, (CUdeviceptr dst, CUdeviceptr src, size_t bytes))                                             \
    F(cuMemcpyDtoD_v2_ptds, (CUdeviceptr dst, CUdeviceptr src, size_t bytes))                                        \
    F(cuMemcpyDtoDAsync_v2, (CUdeviceptr dst, CUdeviceptr src, size_t bytes, CUstream stream))                       \
    F(cuMemcpyDtoDAsync_v2_ptsz, (CUdeviceptr dst, CUdeviceptr src, size_t bytes, CUstream stream))                  \
    F(cuMemcpy, (CUdeviceptr dst, CUdeviceptr src, size_t bytes))                                                    \
    F(cuMemcpy_ptds, (CUdeviceptr dst, CUdeviceptr src, size_t bytes))                                               \
    F(cuMemcpyAsync, (CUdeviceptr dst, CUdeviceptr src, size_t bytes, CUstream stream))                              \
    F(cuMemcpyAsync_ptsz, (CUdeviceptr dst, CUdeviceptr src, size_t bytes, CUstream stream))                         \
    F(cuMemcpy2D_v2, (const CUDA_MEMCPY2D *copy))                                                                    \
    F(cuMemcpy2DAsync_v2, (const CUDA_MEMCPY2D *copy, CUstream stream))                                              \
    F(cuMemcpy3D_v2, (const CUDA_MEMCPY3D *copy))                                                                    \
    F(cuMemcpyBatchAsync_v2, (CUdeviceptr * dsts, CUdeviceptr *srcs, size_t *sizes, size_t count,                    \
                              CUmemcpyAttributes *attributes, size_t *indices, size_t attribute_count,               \
                              CUstream stream))                                                                      \
    F(cuMemsetD8_v2, (CUdeviceptr dst, unsigned char value, size_t count))                                           \
    F(cuMemsetD8_v2_ptds, (CUdeviceptr dst, unsigned char value, size_t count))                                      \
    F(cuMemsetD8Async, (CUdeviceptr dst, unsigned char value, size_t count, CUstream stream))                        \
    F(cuMemsetD8Async_ptsz, (CUdeviceptr dst, unsigned char value, size_t count, CUstream stream))                   \
    F(cuMemsetD32Async, (CUdeviceptr dst, unsigned value, size_t count, CUstream stream))                            \
    F(cuMemsetD32Async_ptsz, (CUdeviceptr dst, unsigned value, size_t count, CUstream stream))                       \
    F(cuStreamCreate, (CUstream * stream, unsigned flags))                                                           \
    F(cuStreamDestroy_v2, (CUstream stream))                                                                         \
    F(cuStreamSynchronize, (CUstream stream))                                                                        \
    F(cuStreamSynchronize_ptsz, (CUstream stream))                                                                   \
    F(cuStreamQuery, (CUstream stream))                                                                              \
    F(cuStreamWaitEvent, (CUstream stream, CUevent event, unsigned flags))                                           \
    F(cuStreamWaitEvent_ptsz, (CUstream stream, CUevent event, unsigned flags))                                      \
    F(cuStreamWaitValue32_v2, (CUstream stream, CUdeviceptr address, unsigned value, unsigned flags))                \
    F(cuStreamBeginCapture_v2, (CUstream stream, int mode))                                                          \
    F(cuStreamEndCapture, (CUstream stream, CUgraph *graph))                                                         \
    F(cuStreamBeginCapture_v2_ptsz, (CUstream stream, int mode))                                                     \
    F(cuStreamEndCapture_ptsz, (CUstream stream, CUgraph *graph))                                                    \
    F(cuStreamIsCapturing, (CUstream stream, int *status))                                                           \
    F(cuThreadExchangeStreamCaptureMode, (int *mode))                                                                \
    F(cuGraphInstantiateWithFlags, (CUgraphExec * exec, CUgraph graph, unsigned long long flags))                    \
    F(cuGraphLaunch, (CUgraphExec exec, CUstream stream))                                                            \
    F(cuGraphExecDestroy, (CUgraphExec exec))                                                                        \
    F(cuGraphDestroy, (CUgraph graph))                                                                               \
    F(cuEventCreate, (CUevent * event, unsigned flags))                                                              \
    F(cuEventDestroy_v2, (CUevent event))                                                                            \
    F(cuEventRecord, (CUevent event, CUstream stream))                                                               \
    F(cuEventRecord_ptsz, (CUevent event, CUstream stream))                                                          \
    F(cuEventQuery, (CUevent event))                                                                                 \
    F(cuEventSynchronize, (CUevent event))                                                                           \
    F(cuLaunchHostFunc, (CUstream stream, CUhostFn function, void *data))                                            \
    F(cuLaunchHostFunc_ptsz, (CUstream stream, CUhostFn function, void *data))                                       \
    F(cuModuleLoadData, (CUmodule * module, const void *image))                                                      \
    F(cuModuleGetFunction, (CUfunction * function, CUmodule module, const char *name))                               \
    F(cuLaunchKernel, (CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,         \
                       unsigned bz, unsigned shared, CUstream stream, void **parameters, void **extra))              \
    F(cuLaunchKernel_ptsz, (CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,    \
                            unsigned bz, unsigned shared, CUstream stream, void **parameters, void **extra))         \
    F(cuPointerGetAttribute, (void *data, int attribute, CUdeviceptr address))

#ifdef CUDA_MIN_LINKED
#define CUDA_DECLARE(name, arguments) extern CUresult name arguments;
CUDA_FUNCTIONS(CUDA_DECLARE)
#else
#define CUDA_MEMBER(name, arguments) CUresult(*name) arguments;
static struct {
    CUDA_FUNCTIONS(CUDA_MEMBER)
} cu;

/* Asks `handle` for every function; one that is not there stays null. */
static inline void cuda_fill(void *handle)
{
#define CUDA_ASK(name, arguments) cu.name = (CUresult(*) arguments)dlsym(handle, #name);
    CUDA_FUNCTIONS(CUDA_ASK)
}

static inline void *cuda_open(void)
{
    void *handle = dlopen("libcuda.so.1", RTLD_NOW);
    if (!handle) {
        printf("no driver: %s\n", dlerror());
        exit(77);
    }
    cuda_fill(handle);
    return handle;
}

/* Opens the driver, initialises it and makes the primary context of device 0 current. */
static inline CUcontext cuda_start(void)
{
    CUcontext context = NULL;
    cuda_open();
    int code = cu.cuInit(0);
    if (!code) code = cu.cuDevicePrimaryCtxRetain(&context, 0);
    if (!code) code = cu.cuCtxSetCurrent(context);
    if (code) {
        printf("the driver does not start: %d\n", code);
        exit(78);
    }
    return context;
}
#endif

/* A call that must succeed. */
#define OK(call)                                                                                                     \
    do {                                                                                                             \
        int ok_code = (call);                                                                                        \
        if (ok_code) {                                                                                               \
            printf("%s:%d: %s gave %d\n", __FILE__, __LINE__, #call, ok_code);                                       \
            fflush(stdout);                                                                                          \
            _exit(1);                                                                                                \
        }                                                                                                            \
    } while (0)

/* A condition that must hold. */
#define MUST(condition)                                                                                              \
    do {                                                                                                             \
        if (!(condition)) {                                                                                          \
            printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                                           \
            fflush(stdout);                                                                                          \
            _exit(1);                                                                                                \
        }                                                                                                            \
    } while (0)

/* splitmix64: the programs' only source of randomness. */
static inline uint64_t random_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* Bytes that depend on the seed and on their place, so that a chunk in the wrong place shows. */
static inline void pattern(void *memory, size_t bytes, uint64_t seed)
{
    unsigned char *at = memory;
    uint64_t state = seed * 0x2545f4914f6cdd1dull + 1;
    for (; bytes >= 8; bytes -= 8, at += 8) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        memcpy(at, &state, 8);
    }
    state ^= state >> 29;
    memcpy(at, &state, bytes);
}

/*
 * The kernels. A real driver compiles this text; the software driver has
 * functions of these names built in.
 *   sim_fill(u64 dst, u64 words, u32 value)    dst[i] = value
 *   sim_add(u64 dst, u64 words, u32 value)     dst[i] += value
 *   sim_copy(u64 dst, u64 src, u64 bytes)
 */
#define PTX_BEGIN                                                                                                    \
    "  .reg .pred %p;\n  .reg .u32 %t<5>;\n  .reg .u64 %i, %n, %step, %d, %s, %a, %b;\n"                             \
    "  mov.u32 %t0, %ctaid.x;\n  mov.u32 %t1, %ntid.x;\n  mov.u32 %t2, %tid.x;\n"                                    \
    "  mad.lo.u32 %t3, %t0, %t1, %t2;\n  cvt.u64.u32 %i, %t3;\n"                                                     \
    "  mov.u32 %t0, %nctaid.x;\n  mul.lo.u32 %t0, %t0, %t1;\n  cvt.u64.u32 %step, %t0;\n"
#define PTX_LOOP "LOOP:\n  setp.ge.u64 %p, %i, %n;\n  @%p bra DONE;\n"
#define PTX_END "  add.u64 %i, %i, %step;\n  bra LOOP;\nDONE:\n  ret;\n}\n"

static const char CUDA_KERNELS[] =
    ".version 7.0\n.target sm_75\n.address_size 64\n"
    ".visible .entry sim_fill(.param .u64 dst, .param .u64 words, .param .u32 value)\n{\n" PTX_BEGIN
    "  ld.param.u64 %d, [dst];\n  ld.param.u64 %n, [words];\n  ld.param.u32 %t4, [value];\n" PTX_LOOP
    "  shl.b64 %a, %i, 2;\n  add.u64 %a, %a, %d;\n  st.global.u32 [%a], %t4;\n" PTX_END
    ".visible .entry sim_add(.param .u64 dst, .param .u64 words, .param .u32 value)\n{\n" PTX_BEGIN
    "  ld.param.u64 %d, [dst];\n  ld.param.u64 %n, [words];\n  ld.param.u32 %t4, [value];\n" PTX_LOOP
    "  shl.b64 %a, %i, 2;\n  add.u64 %a, %a, %d;\n  ld.global.u32 %t0, [%a];\n  add.u32 %t0, %t0, %t4;\n"
    "  st.global.u32 [%a], %t0;\n" PTX_END
    ".visible .entry sim_copy(.param .u64 dst, .param .u64 src, .param .u64 bytes)\n{\n" PTX_BEGIN
    "  ld.param.u64 %d, [dst];\n  ld.param.u64 %s, [src];\n  ld.param.u64 %n, [bytes];\n" PTX_LOOP
    "  add.u64 %a, %s, %i;\n  add.u64 %b, %d, %i;\n  ld.global.u8 %t0, [%a];\n  st.global.u8 [%b], %t0;\n" PTX_END;

#endif
