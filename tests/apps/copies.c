/*
 * One situation a copy can be in, chosen by name:
 *
 *   copies SITUATION [COUNT]
 *
 * Every situation checks its bytes; what it prints must be the same plain and
 * under rewarm.
 */
#include "cuda_min.h"
#include <pthread.h>
#include <sys/mman.h>

#define SIZE (3u << 20)

static CUcontext context;
static unsigned char *host, *back;
static CUdeviceptr device;
static CUfunction fill_kernel, copy_kernel;

static void *memory(size_t bytes)
{
    void *at = malloc(bytes);
    MUST(at);
    return at;
}

static void start(void)
{
    context = cuda_start();
    host = memory(SIZE);
    back = memory(SIZE);
    pattern(host, SIZE, 1);
    OK(cu.cuMemAlloc_v2(&device, SIZE));
    OK(cu.cuMemsetD8_v2(device, 0, SIZE));
    OK(cu.cuCtxSynchronize());
}

/* The device holds what the host does; looked at through pinned memory, which no copy of ours touches. */
static void must_hold(CUdeviceptr at, const void *wanted, size_t bytes)
{
    void *pinned = NULL;
    OK(cu.cuCtxSynchronize());
    OK(cu.cuMemHostAlloc(&pinned, bytes, 0));
    OK(cu.cuMemcpyDtoH_v2(pinned, at, bytes));
    MUST(!memcmp(pinned, wanted, bytes));
    OK(cu.cuMemFreeHost(pinned));
}

static void load_kernels(void)
{
    CUmodule module = NULL;
    OK(cu.cuModuleLoadData(&module, CUDA_KERNELS));
    OK(cu.cuModuleGetFunction(&fill_kernel, module, "sim_fill"));
    OK(cu.cuModuleGetFunction(&copy_kernel, module, "sim_copy"));
}

/* ---- what is fanned out, and what is not ---- */

static void plain(int count)
{
    for (int i = 0; i < count; i++) {
        pattern(host, SIZE, (uint64_t)i);
        OK(cu.cuMemcpyHtoD_v2(device, host, SIZE));
        OK(cu.cuMemcpyDtoH_v2(back, device, SIZE));
        MUST(!memcmp(host, back, SIZE));
    }
}

static void small(int count)
{
    for (int i = 0; i < count; i++) OK(cu.cuMemcpyHtoD_v2(device, host, 4096));
    OK(cu.cuMemcpyDtoH_v2(back, device, 4096));
    MUST(!memcmp(host, back, 4096));
}

static void pinned(int count)
{
    unsigned char *at = NULL;
    OK(cu.cuMemHostAlloc((void **)&at, SIZE, 0));
    pattern(at, SIZE, 2);
    for (int i = 0; i < count; i++) OK(cu.cuMemcpyHtoD_v2(device, at, SIZE));
    must_hold(device, at, SIZE);
}

static void registered(int count)
{
    OK(cu.cuMemHostRegister_v2(host, SIZE, 0));
    for (int i = 0; i < count; i++) OK(cu.cuMemcpyHtoDAsync_v2(device, host, SIZE, NULL));
    must_hold(device, host, SIZE);
    OK(cu.cuMemHostUnregister(host));
    OK(cu.cuMemcpyHtoD_v2(device, host, SIZE)); /* pageable again */
}

static void managed(int count)
{
    CUdeviceptr at = 0;
    OK(cu.cuMemAllocManaged(&at, SIZE, CU_MEM_ATTACH_GLOBAL));
    pattern((void *)at, SIZE, 3);
    for (int i = 0; i < count; i++) OK(cu.cuMemcpyHtoD_v2(device, (void *)at, SIZE));
    must_hold(device, (void *)at, SIZE);
    OK(cu.cuMemcpyHtoD_v2(at, host, SIZE)); /* managed as the destination */
    OK(cu.cuCtxSynchronize());
    MUST(!memcmp((void *)at, host, SIZE));
}

static void device_to_device(int count)
{
    CUdeviceptr other = 0;
    OK(cu.cuMemAlloc_v2(&other, SIZE));
    OK(cu.cuMemcpyHtoD_v2(other, host, SIZE));
    for (int i = 0; i < count; i++) OK(cu.cuMemcpy(device, other, SIZE));
    must_hold(device, host, SIZE);
}

static void rows(int count)
{
    CUDA_MEMCPY2D copy = {.srcMemoryType = CU_MEMORYTYPE_HOST, .srcHost = host, .srcPitch = 4096,
                          .dstMemoryType = CU_MEMORYTYPE_DEVICE, .dstDevice = device, .dstPitch = 4096,
                          .WidthInBytes = 4096, .Height = SIZE / 4096};
    for (int i = 0; i < count; i++) OK(cu.cuMemcpy2D_v2(&copy));
    must_hold(device, host, SIZE);
}

static void boxes(int count)
{
    CUDA_MEMCPY3D copy = {.srcMemoryType = CU_MEMORYTYPE_HOST, .srcHost = host, .srcPitch = 4096, .srcHeight = 16,
                          .dstMemoryType = CU_MEMORYTYPE_DEVICE, .dstDevice = device, .dstPitch = 4096,
                          .dstHeight = 16, .WidthInBytes = 4096, .Height = 16, .Depth = SIZE / 65536};
    for (int i = 0; i < count; i++) OK(cu.cuMemcpy3D_v2(&copy));
    must_hold(device, host, SIZE);
}

static void batch(int count)
{
    CUdeviceptr dsts[] = {device, device + SIZE / 2}, srcs[] = {(CUdeviceptr)host, (CUdeviceptr)host + SIZE / 2};
    size_t sizes[] = {SIZE / 2, SIZE / 2}, first = 0;
    CUmemcpyAttributes attributes = {.srcAccessOrder = 1}; /* CU_MEMCPY_SRC_ACCESS_ORDER_STREAM */
    CUstream stream = NULL;
    OK(cu.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    for (int i = 0; i < count; i++) OK(cu.cuMemcpyBatchAsync_v2(dsts, srcs, sizes, 2, &attributes, &first, 1, stream));
    must_hold(device, host, SIZE);
}

static void in_another_context(int count)
{
    CUcontext other = NULL;
    CUdeviceptr there = 0;
    OK(cu.cuCtxCreate_v2(&other, 0, 0));
    OK(cu.cuMemAlloc_v2(&there, SIZE));
    for (int i = 0; i < count; i++) OK(cu.cuMemcpyHtoD_v2(there, host, SIZE));
    must_hold(there, host, SIZE);
    OK(cu.cuCtxSetCurrent(context));
    OK(cu.cuMemcpyHtoD_v2(there, host, SIZE)); /* its memory, from this context */
    OK(cu.cuCtxSynchronize());
    OK(cu.cuCtxDestroy_v2(other));
}

/* The lanes are in the primary context. */
static void foreign(int count)
{
    plain(1);
    in_another_context(count);
    plain(1);
}

/* The lanes are in the created one, and have to move when it goes. */
static void created_first(int count)
{
    in_another_context(count);
    OK(cu.cuCtxSetCurrent(context));
    plain(1);
}

/* Weights as loaders map them; large enough to be registered where they lie. */
static void mapped(int count, int shared)
{
    size_t bytes = (130u << 20) + 4099;
    char path[] = "mapped-XXXXXX";
    CUdeviceptr there = 0;
    void *weights = memory(bytes);
    int file = mkstemp(path);
    MUST(file >= 0 && !unlink(path));
    pattern(weights, bytes, 5);
    for (size_t done = 0; done < bytes;) {
        ssize_t wrote = write(file, (char *)weights + done, bytes - done);
        MUST(wrote > 0);
        done += (size_t)wrote;
    }
    char *at = mmap(NULL, bytes, shared ? PROT_READ : PROT_READ | PROT_WRITE, shared ? MAP_SHARED : MAP_PRIVATE, file, 0);
    MUST(at != MAP_FAILED);
    OK(cu.cuMemAlloc_v2(&there, bytes));
    for (int i = 0; i < count; i++) {
        size_t skip = (size_t)i * 17;
        OK(cu.cuMemsetD8_v2(there, 0, bytes));
        OK(cu.cuMemcpyHtoD_v2(there + skip, at + skip, bytes - skip));
        must_hold(there + skip, (char *)weights + skip, bytes - skip);
    }
    MUST(!munmap(at, bytes));
}

static void mapped_shared(int count) { mapped(count, 1); }
static void mapped_private(int count) { mapped(count, 0); }

/* The copy becomes a part of the graph and runs when that is launched. */
static void capturing(int count)
{
    CUstream stream = NULL;
    CUgraph graph = NULL;
    CUgraphExec exec = NULL;
    OK(cu.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    OK(cu.cuStreamBeginCapture_v2(stream, CAPTURE_THREAD_LOCAL));
    for (int i = 0; i < count; i++) OK(cu.cuMemcpyHtoDAsync_v2(device, host, SIZE, stream));
    OK(cu.cuStreamEndCapture(stream, &graph));
    OK(cu.cuGraphInstantiateWithFlags(&exec, graph, 0));
    pattern(host, SIZE, 4);
    OK(cu.cuGraphLaunch(exec, stream));
    must_hold(device, host, SIZE);
}

/* A capture that would notice any unsafe call of another thread. */
static void *capture_globally(void *data)
{
    CUstream stream = NULL;
    CUgraph graph = NULL;
    (void)data;
    OK(cu.cuCtxSetCurrent(context));
    OK(cu.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    OK(cu.cuStreamBeginCapture_v2(stream, CAPTURE_GLOBAL));
    OK(cu.cuMemsetD32Async(device, 7, 16, stream));
    usleep(100000);
    OK(cu.cuStreamEndCapture(stream, &graph));
    OK(cu.cuGraphDestroy(graph));
    return NULL;
}

static void beside_a_capture(int count)
{
    pthread_t thread;
    CUstream stream = NULL;
    CUdeviceptr other = 0;
    OK(cu.cuMemAlloc_v2(&other, SIZE));
    OK(cu.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    MUST(!pthread_create(&thread, NULL, capture_globally, NULL));
    usleep(20000);
    for (int i = 0; i < count; i++) OK(cu.cuMemcpyHtoDAsync_v2(other, host, SIZE, stream));
    MUST(!pthread_join(thread, NULL));
    must_hold(other, host, SIZE);
}

/* ---- order ---- */

static CUstream streams[] = {NULL, CU_STREAM_LEGACY, CU_STREAM_PER_THREAD, NULL, NULL};

static void launch(CUfunction kernel, uint64_t first, uint64_t second, uint64_t third, CUstream stream)
{
    void *arguments[] = {&first, &second, &third};
    OK(cu.cuLaunchKernel(kernel, 64, 1, 1, 256, 1, 1, 0, stream, arguments, NULL));
}

/* before: what the buffer held, copied by a kernel just before; after: what a kernel just after finds. */
static void order(int count)
{
    CUdeviceptr before = 0, after = 0;
    load_kernels();
    OK(cu.cuMemAlloc_v2(&before, SIZE));
    OK(cu.cuMemAlloc_v2(&after, SIZE));
    OK(cu.cuStreamCreate(&streams[3], CU_STREAM_DEFAULT));
    OK(cu.cuStreamCreate(&streams[4], CU_STREAM_NON_BLOCKING));
    unsigned char *old = memory(SIZE), *new = memory(SIZE);
    for (int i = 0; i < count * 10; i++) {
        CUstream stream = streams[i % 5];
        int synchronous = i % 5 < 2 && i / 5 % 2;
        pattern(old, SIZE, 2 * (uint64_t)i);
        pattern(new, SIZE, 2 * (uint64_t)i + 1);
        memcpy(host, new, SIZE);
        OK(cu.cuMemcpyHtoD_v2(device, old, SIZE));
        OK(cu.cuCtxSynchronize());
        launch(copy_kernel, before, device, SIZE, stream);
        if (synchronous) OK(cu.cuMemcpyHtoD_v2(device, host, SIZE));
        else OK(cu.cuMemcpyHtoDAsync_v2(device, host, SIZE, stream));
        memset(host, 0xee, SIZE); /* the source is the caller's again */
        launch(copy_kernel, after, device, SIZE, stream);
        launch(fill_kernel, device, SIZE / 4, 5, stream);
        OK(cu.cuMemcpyDtoHAsync_v2(back, device, SIZE, stream));
        for (size_t at = 0; at < SIZE; at += 4) MUST(*(uint32_t *)(back + at) == 5);
        must_hold(before, old, SIZE);
        must_hold(after, new, SIZE);
    }
}

static void write_source(void *seed) { pattern(host, SIZE, (uint64_t)seed); }

/* A host function writes the source; a synchronous copy on that stream comes after it. */
static void source_written_by_the_stream(int count)
{
    for (uint64_t i = 1; i <= (uint64_t)count; i++) {
        OK(cu.cuLaunchHostFunc(NULL, write_source, (void *)i));
        OK(cu.cuMemcpyHtoD_v2(device, host, SIZE));
        pattern(back, SIZE, i);
        memset(host, 0, SIZE);
        must_hold(device, back, SIZE);
    }
}

struct copier {
    pthread_t thread;
    int number, count;
};

static void *copy_in_thread(void *data)
{
    struct copier *copier = data;
    CUdeviceptr own = 0;
    unsigned char *from = memory(SIZE), *to = memory(SIZE);
    OK(cu.cuCtxSetCurrent(context));
    OK(cu.cuMemAlloc_v2(&own, SIZE));
    for (int i = 0; i < copier->count; i++) {
        size_t bytes = SIZE - (size_t)(i * 4099 + copier->number);
        pattern(from, bytes, (uint64_t)(100 * i + copier->number));
        OK(cu.cuMemcpyHtoD_v2_ptds(own, from, bytes));
        OK(cu.cuMemcpyDtoH_v2_ptds(to, own, bytes));
        MUST(!memcmp(from, to, bytes));
    }
    OK(cu.cuMemFree_v2(own));
    return NULL;
}

static void threads(int count)
{
    struct copier copiers[8];
    for (int i = 0; i < 8; i++) {
        copiers[i] = (struct copier){.number = i, .count = count};
        MUST(!pthread_create(&copiers[i].thread, NULL, copy_in_thread, &copiers[i]));
    }
    for (int i = 0; i < 8; i++) MUST(!pthread_join(copiers[i].thread, NULL));
}

/* ---- the driver's own errors ---- */

#define SAY(call) printf("%s: %d\n", #call, call)

static void errors(int count)
{
    (void)count;
    CUcontext other = NULL, none = NULL;
    CUdeviceptr freed = 0, there = 0;
    OK(cu.cuMemAlloc_v2(&freed, SIZE));
    OK(cu.cuMemFree_v2(freed));
    SAY(cu.cuMemcpyHtoD_v2(device + SIZE / 2, host, SIZE));
    SAY(cu.cuMemcpyHtoDAsync_v2(device + SIZE / 2, host, SIZE, NULL));
    SAY(cu.cuMemcpyDtoH_v2(back, device + SIZE / 2, SIZE));
    SAY(cu.cuMemcpyHtoD_v2(freed, host, SIZE));
    SAY(cu.cuMemcpyDtoH_v2(back, freed, SIZE));
    SAY(cu.cuMemcpyHtoD_v2(0, host, SIZE));
    SAY(cu.cuMemcpyHtoD_v2(device, NULL, SIZE));
    SAY(cu.cuMemcpyHtoD_v2(device, host, 0));
    OK(cu.cuCtxCreate_v2(&other, 0, 0));
    OK(cu.cuMemAlloc_v2(&there, SIZE));
    OK(cu.cuCtxDestroy_v2(other));
    SAY(cu.cuMemcpyHtoD_v2(there, host, SIZE));
    OK(cu.cuCtxSetCurrent(none));
    SAY(cu.cuMemcpyHtoD_v2(device, host, SIZE));
    SAY(cu.cuMemcpyDtoHAsync_v2(back, device, SIZE, NULL));
    SAY(cu.cuMemcpy(device, (CUdeviceptr)host, SIZE));
    OK(cu.cuCtxSetCurrent(context));
    OK(cu.cuMemcpyHtoD_v2(device, host, SIZE));
    must_hold(device, host, SIZE);
}

/* Real drivers may crash on such a handle, so this is for the software driver only. */
static void dead_stream(int count)
{
    (void)count;
    CUstream dead = NULL;
    OK(cu.cuStreamCreate(&dead, 0));
    OK(cu.cuStreamDestroy_v2(dead));
    SAY(cu.cuMemcpyHtoDAsync_v2(device, host, SIZE, dead));
    SAY(cu.cuMemcpyDtoHAsync_v2(back, device, SIZE, dead));
    SAY(cu.cuMemcpyAsync(device, (CUdeviceptr)host, SIZE, dead));
    SAY(cu.cuMemcpyAsync_ptsz((CUdeviceptr)back, device, SIZE, dead));
}

/* The lanes' context goes away under them, and copies go on in a new one. */
static void lose_context(int count, CUresult (*lose)(CUdevice))
{
    for (int i = 0; i < count; i++) {
        OK(cu.cuMemcpyHtoD_v2(device, host, SIZE));
        must_hold(device, host, SIZE);
        OK(lose(0));
        SAY(cu.cuMemcpyHtoD_v2(device, host, SIZE));
        OK(cu.cuDevicePrimaryCtxRetain(&context, 0));
        OK(cu.cuCtxSetCurrent(context));
        OK(cu.cuMemAlloc_v2(&device, SIZE));
    }
}

static void reset(int count) { lose_context(count, cu.cuDevicePrimaryCtxReset_v2); }

static void release(int count) { lose_context(count, cu.cuDevicePrimaryCtxRelease_v2); }

static const struct {
    const char *name;
    void (*run)(int);
} SITUATIONS[] = {
    {"plain", plain}, {"small", small}, {"pinned", pinned}, {"registered", registered}, {"managed", managed},
    {"device_to_device", device_to_device}, {"rows", rows}, {"boxes", boxes}, {"batch", batch},
    {"foreign", foreign}, {"created_first", created_first}, {"capturing", capturing},
    {"mapped_shared", mapped_shared}, {"mapped_private", mapped_private}, {"beside_a_capture", beside_a_capture}, {"order", order},
    {"source_written_by_the_stream", source_written_by_the_stream}, {"threads", threads}, {"errors", errors}, {"dead_stream", dead_stream},
    {"reset", reset}, {"release", release},
};

int main(int argc, char **argv)
{
    MUST(argc >= 2);
    for (size_t i = 0; i < sizeof SITUATIONS / sizeof *SITUATIONS; i++) {
        if (strcmp(argv[1], SITUATIONS[i].name)) continue;
        start();
        SITUATIONS[i].run(argc > 2 ? atoi(argv[2]) : 1);
        OK(cu.cuCtxSynchronize());
        printf("%s: right\n", argv[1]);
        return 0;
    }
    printf("no situation %s\n", argv[1]);
    return 2;
}
