/*
 * Threads that call the driver without pause by every route, and verify their
 * bytes:
 *
 *   hammer [THREADS]      of each route (default 2)
 *
 * Prints "ready PID"; answers "rounds" with how many rounds all threads have done
 * together, and "quit" (or the end of its input) with "ok" when all have ended.
 */
#include "cuda_routes.h"
#include <pthread.h>

#define MOST_BYTES (((size_t)2 << 20) + 65536)

static const char *const ROUTES[] = {
#ifdef CUDA_MIN_LINKED
    "linked",
#endif
    "dlsym", "four", "five"};
#define ROUTE_COUNT (sizeof ROUTES / sizeof *ROUTES)

static cuda_table tables[ROUTE_COUNT];
static CUcontext context;
static unsigned long long rounds;
static int stopped;

struct worker {
    pthread_t thread;
    const cuda_table *driver;
    uint64_t seed;
};

/* One allocation: written by copy and kernel, copied on the device, read, verified, freed. */
static void round_of(const cuda_table *driver, CUstream stream, CUevent event, CUfunction add, CUdeviceptr kept,
                     uint64_t *seed, unsigned char *host, unsigned char *back)
{
    /* Of a size that moves and of one that stays. */
    size_t bytes = (random_next(seed) & 3 ? 4096 : (size_t)2 << 20) + random_next(seed) % 65536;
    uint64_t words = bytes / 4, begun = random_next(seed);
    uint32_t value = (uint32_t)random_next(seed);
    CUdeviceptr memory;
    OK(driver->cuMemAlloc_v2(&memory, bytes));
    pattern(host, bytes, begun);
    if (begun & 1) OK(driver->cuMemcpyHtoDAsync_v2(memory, host, bytes, stream));
    else OK(driver->cuMemcpyHtoD_v2(memory, host, bytes));
    void *arguments[] = {&memory, &words, &value};
    OK(driver->cuLaunchKernel(add, 4, 1, 1, 64, 1, 1, 0, begun & 1 ? stream : NULL, arguments, NULL));
    if (!(begun & 1)) OK(driver->cuStreamSynchronize(NULL));
    OK(driver->cuMemcpyDtoDAsync_v2(kept, memory, bytes, stream));
    OK(driver->cuEventRecord(event, stream));
    int code;
    while ((code = driver->cuEventQuery(event)) == CUDA_ERROR_NOT_READY) sched_yield();
    OK(code);
    memset(back, 0, bytes);
    OK(driver->cuMemcpyDtoH_v2(back, kept, bytes));
    for (size_t word = 0; word + 4 <= bytes; word += 4) {
        uint32_t is, was;
        memcpy(&is, back + word, 4);
        memcpy(&was, host + word, 4);
        MUST(is == was + value);
    }
    OK(driver->cuMemFree_v2(memory));
    OK(driver->cuMemGetInfo_v2(&bytes, &bytes));
}

static void *work(void *data)
{
    const struct worker *worker = data;
    const cuda_table *driver = worker->driver;
    uint64_t seed = worker->seed;
    unsigned char *host = malloc(MOST_BYTES), *back = malloc(MOST_BYTES);
    CUstream stream;
    CUevent event;
    CUmodule module;
    CUfunction add;
    CUdeviceptr kept;
    OK(driver->cuCtxSetCurrent(context));
    OK(driver->cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    OK(driver->cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    OK(driver->cuModuleLoadData(&module, CUDA_KERNELS));
    OK(driver->cuModuleGetFunction(&add, module, "sim_add"));
    OK(driver->cuMemAlloc_v2(&kept, MOST_BYTES));
    while (!__atomic_load_n(&stopped, __ATOMIC_SEQ_CST)) {
        round_of(driver, stream, event, add, kept, &seed, host, back);
        __atomic_add_fetch(&rounds, 1, __ATOMIC_SEQ_CST);
    }
    OK(driver->cuMemFree_v2(kept));
    OK(driver->cuEventDestroy_v2(event));
    OK(driver->cuStreamDestroy_v2(stream));
    free(host);
    free(back);
    return NULL;
}

int main(int argc, char **argv)
{
    size_t count = ROUTE_COUNT * (size_t)(argc > 1 ? atoi(argv[1]) : 2);
    struct worker *workers = calloc(count, sizeof *workers);
    char line[100];
    for (size_t route = 0; route < ROUTE_COUNT; route++) cuda_take(&tables[route], ROUTES[route]);
    OK(tables[0].cuInit(0));
    OK(tables[0].cuDevicePrimaryCtxRetain(&context, 0));
    for (size_t i = 0; i < count; i++) {
        workers[i].driver = &tables[i % ROUTE_COUNT];
        workers[i].seed = i + 1;
        MUST(!pthread_create(&workers[i].thread, NULL, work, &workers[i]));
    }
    printf("ready %d\n", (int)getpid());
    fflush(stdout);
    while (fgets(line, sizeof line, stdin) && strncmp(line, "quit", 4)) {
        printf("%llu\n", __atomic_load_n(&rounds, __ATOMIC_SEQ_CST));
        fflush(stdout);
    }
    __atomic_store_n(&stopped, 1, __ATOMIC_SEQ_CST);
    for (size_t i = 0; i < count; i++) MUST(!pthread_join(workers[i].thread, NULL));
    puts("ok");
    return 0;
}
