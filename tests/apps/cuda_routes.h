/*
 * The routes that lead to the driver, each as a table of its functions:
 *
 *   linked   the symbols that the loader binds (only with CUDA_MIN_LINKED)
 *   dlsym    dlsym on a handle of dlopen
 *   four     cuGetProcAddress with four arguments
 *   five     cuGetProcAddress with five arguments
 *
 * and the part of the driver API that programs of device memory use besides.
 */
#ifndef CUDA_ROUTES_H
#define CUDA_ROUTES_H

#include "cuda_min.h"

typedef unsigned long long CUmemGenericAllocationHandle;
typedef struct {
    char reserved[64];
} CUipcMemHandle;
typedef struct {
    int type, id;
} CUmemLocation;
typedef struct {
    int type, requestedHandleTypes;
    CUmemLocation location;
    void *win32HandleMetaData;
    unsigned char compressionType, gpuDirectRDMACapable;
    unsigned short usage;
    unsigned char reserved[4];
} CUmemAllocationProp;
typedef struct {
    CUmemLocation location;
    int flags;
} CUmemAccessDesc;

enum {
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901,
    CU_MEM_ALLOCATION_TYPE_PINNED = 1,
    CU_MEM_LOCATION_TYPE_DEVICE = 1,
    CU_MEM_ACCESS_READ = 1,
    CU_MEM_ACCESS_READWRITE = 3,
    CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS = 1
};

#define CUDA_MEMORY_FUNCTIONS(F)                                                                                     \
    F(cuCtxEnablePeerAccess, (CUcontext peer, unsigned flags))                                                       \
    F(cuMemGetAddressRange_v2, (CUdeviceptr * base, size_t *bytes, CUdeviceptr address))                             \
    F(cuMemAddressReserve, (CUdeviceptr * address, size_t bytes, size_t alignment, CUdeviceptr wish,                 \
                            unsigned long long flags))                                                               \
    F(cuMemAddressFree, (CUdeviceptr address, size_t bytes))                                                         \
    F(cuMemCreate, (CUmemGenericAllocationHandle * handle, size_t bytes, const CUmemAllocationProp *properties,      \
                    unsigned long long flags))                                                                       \
    F(cuMemRelease, (CUmemGenericAllocationHandle handle))                                                           \
    F(cuMemMap, (CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,              \
                 unsigned long long flags))                                                                          \
    F(cuMemUnmap, (CUdeviceptr address, size_t bytes))                                                               \
    F(cuMemSetAccess, (CUdeviceptr address, size_t bytes, const CUmemAccessDesc *accesses, size_t count))            \
    F(cuMemGetAccess, (unsigned long long *flags, const CUmemLocation *location, CUdeviceptr address))               \
    F(cuMemAllocAsync, (CUdeviceptr * address, size_t bytes, CUstream stream))                                       \
    F(cuMemFreeAsync, (CUdeviceptr address, CUstream stream))                                                        \
    F(cuIpcGetMemHandle, (CUipcMemHandle * handle, CUdeviceptr address))                                             \
    F(cuIpcOpenMemHandle_v2, (CUdeviceptr * address, CUipcMemHandle handle, unsigned flags))

#define CUDA_TABLE_MEMBER(name, arguments) CUresult(*name) arguments;
typedef struct {
    CUDA_FUNCTIONS(CUDA_TABLE_MEMBER)
    CUDA_MEMORY_FUNCTIONS(CUDA_TABLE_MEMBER)
} cuda_table;

#ifdef CUDA_MIN_LINKED
CUDA_MEMORY_FUNCTIONS(CUDA_DECLARE)
#endif

static inline void *cuda_handle(void)
{
    static void *handle;
    if (!handle) handle = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (!handle) {
        printf("no driver: %s\n", dlerror());
        exit(77);
    }
    return handle;
}

/* The base name that cuGetProcAddress takes, and whether the per-thread spelling is meant. */
static inline uint64_t cuda_base_of(const char *symbol, char *base)
{
    strcpy(base, symbol);
    char *suffix = strstr(base, "_pt");
    uint64_t flags = suffix ? 2 : 1;
    if (suffix) *suffix = 0;
    if ((suffix = strstr(base, "_v"))) *suffix = 0;
    return flags;
}

/* A version in which the plain name means this spelling. */
static inline int cuda_version_of(const char *symbol) { return strcmp(symbol, "cuCtxCreate_v2") ? 12040 : 11030; }

static inline void *cuda_by_dlsym(const char *name) { return dlsym(cuda_handle(), name); }

static inline void *cuda_by_four(const char *name)
{
    char base[64];
    void *found = NULL;
    CUresult (*ask)(const char *, void **, int, uint64_t) = dlsym(cuda_handle(), "cuGetProcAddress");
    uint64_t flags = cuda_base_of(name, base);
    return ask(base, &found, cuda_version_of(name), flags) ? NULL : found;
}

static inline void *cuda_by_five(const char *name)
{
    char base[64];
    void *found = NULL;
    int status = -1;
    CUresult (*ask)(const char *, void **, int, uint64_t, int *) = dlsym(cuda_handle(), "cuGetProcAddress_v2");
    uint64_t flags = cuda_base_of(name, base);
    return ask(base, &found, cuda_version_of(name), flags, &status) ? NULL : found;
}

/* Fills a table by a route; a route that this program does not have ends it. */
static inline void cuda_take(cuda_table *table, const char *route)
{
#ifdef CUDA_MIN_LINKED
    if (!strcmp(route, "linked")) {
#define CUDA_TAKE_LINKED(name, arguments) table->name = name;
        CUDA_FUNCTIONS(CUDA_TAKE_LINKED)
        CUDA_MEMORY_FUNCTIONS(CUDA_TAKE_LINKED)
        return;
    }
#endif
    void *(*ask)(const char *) = !strcmp(route, "dlsym")  ? cuda_by_dlsym
                                 : !strcmp(route, "four") ? cuda_by_four
                                 : !strcmp(route, "five") ? cuda_by_five
                                                          : NULL;
    MUST(ask);
#define CUDA_TAKE(name, arguments) table->name = (CUresult(*) arguments)ask(#name);
    CUDA_FUNCTIONS(CUDA_TAKE)
    CUDA_MEMORY_FUNCTIONS(CUDA_TAKE)
}

#endif
