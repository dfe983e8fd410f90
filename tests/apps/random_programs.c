/*
 * Random CUDA programs without data races.
 *
 *   random_programs FIRST COUNT
 *
 * Each seed is one program: up to four threads, each with its own buffers and
 * all four kinds of stream, and perhaps a thread that captures graphs. Whatever
 * touches a buffer is ordered behind what touched it before, by one of the ways
 * that CUDA offers, so every program has exactly one right result. It is worked
 * out beside the real one ("model") and compared at the end; a line
 * `seed digest` says what the memory held.
 *
 * It runs on the software driver and on a real one.
 */
#include "cuda_min.h"
#include <malloc.h>
#include <pthread.h>

enum { LEGACY, PER_THREAD, BLOCKING, NON_BLOCKING, STREAMS };
enum kind { DEVICE, PAGEABLE, PINNED };
enum { DEVICE_BUFFERS = 3, HOST_BUFFERS = 3, BUFFERS = DEVICE_BUFFERS + HOST_BUFFERS, EVENTS = 4, MOST_STEPS = 24 };

struct buffer {
    enum kind kind;
    size_t bytes;
    uint64_t at;
    unsigned char *model;
    int writer;       /* stream with an unfinished write, or -1 */
    unsigned readers; /* streams with unfinished reads since that write */
};

/* What a host function writes when its stream gets to it. */
struct note {
    void *at;
    size_t bytes;
    uint64_t seed;
};

struct worker {
    uint64_t seed, random, digest;
    int index, steps, events_used, notes_used;
    size_t largest;
    CUstream streams[STREAMS];
    CUevent events[EVENTS];
    struct buffer buffers[BUFFERS];
    struct note notes[MOST_STEPS];
};

static CUcontext context;
static CUfunction fill_kernel, add_kernel, copy_kernel;

static uint64_t below(struct worker *w, uint64_t bound) { return random_next(&w->random) % bound; }
static int chance(struct worker *w, unsigned one_in) { return below(w, one_in) == 0; }

/* ---- streams: either spelling, with the handle that means this stream to it ---- */

static int per_thread_spelling(struct worker *w, int s, CUstream *handle)
{
    int spelling = (int)below(w, 2);
    *handle = w->streams[s];
    if (s == LEGACY) *handle = spelling || chance(w, 2) ? CU_STREAM_LEGACY : NULL;
    if (s == PER_THREAD) *handle = !spelling || chance(w, 2) ? CU_STREAM_PER_THREAD : NULL;
    return spelling;
}

#define ON(w, s, name, ...)                                                                                          \
    do {                                                                                                             \
        CUstream handle;                                                                                             \
        if (per_thread_spelling(w, s, &handle)) OK(cu.name##_ptsz(__VA_ARGS__));                                     \
        else OK(cu.name(__VA_ARGS__));                                                                               \
    } while (0)

static void settled(struct worker *w, int s)
{
    for (struct buffer *b = w->buffers; b < w->buffers + BUFFERS; b++) {
        if (b->writer == s) b->writer = -1;
        b->readers &= ~(1u << s);
    }
}

static void wait_on_host(struct worker *w, int s)
{
    if (chance(w, 2)) {
        ON(w, s, cuStreamSynchronize, handle);
    } else {
        CUevent event = w->events[w->events_used++ % EVENTS];
        ON(w, s, cuEventRecord, event, handle);
        int code = cu.cuEventQuery(event);
        MUST(code == CUDA_SUCCESS || code == CUDA_ERROR_NOT_READY);
        if (code) OK(cu.cuEventSynchronize(event));
    }
    settled(w, s);
}

/* Puts what comes next on `s` behind what is on `t`. */
static void order(struct worker *w, int s, int t, int may_be_implicit)
{
    if (s == t) return;
    int implicit = may_be_implicit && ((s == LEGACY && t != NON_BLOCKING) || (t == LEGACY && s != NON_BLOCKING));
    if (implicit && chance(w, 2)) return;
    if (chance(w, 3)) {
        wait_on_host(w, t);
        return;
    }
    CUevent event = w->events[w->events_used++ % EVENTS];
    ON(w, t, cuEventRecord, event, handle);
    ON(w, s, cuStreamWaitEvent, handle, event, 0);
}

/* ---- buffers ---- */

/* Before a stream touches a buffer. */
static void ready(struct worker *w, int s, struct buffer *b, int writes)
{
    int implicit = b->kind == DEVICE;
    if (b->writer >= 0) order(w, s, b->writer, implicit);
    for (int t = 0; writes && t < STREAMS; t++)
        if (b->readers & (1u << t)) order(w, s, t, implicit);
}

/* Before the host touches it. */
static void ready_on_host(struct worker *w, struct buffer *b)
{
    if (b->writer >= 0) wait_on_host(w, b->writer);
    for (int t = 0; t < STREAMS; t++)
        if (b->readers & (1u << t)) wait_on_host(w, t);
}

static void reads(struct buffer *b, int s) { b->readers |= 1u << s; }

static void writes(struct buffer *b, int s)
{
    b->writer = s;
    b->readers = 0;
}

static void write_by_host(struct worker *w, struct buffer *b)
{
    ready_on_host(w, b);
    uint64_t seed = random_next(&w->random);
    pattern(b->model, b->bytes, seed);
    memcpy((void *)b->at, b->model, b->bytes);
}

static void allocate(struct worker *w, struct buffer *b, enum kind kind)
{
    b->kind = kind;
    b->bytes = 65536 + below(w, w->largest - 65536);
    b->writer = -1;
    b->readers = 0;
    b->model = malloc(b->bytes);
    uint64_t seed = random_next(&w->random);
    pattern(b->model, b->bytes, seed);
    void *host = NULL;
    CUdeviceptr device = 0;
    if (kind == DEVICE) {
        OK(cu.cuMemAlloc_v2(&device, b->bytes));
        OK(cu.cuMemcpyHtoD_v2(device, b->model, b->bytes));
        b->at = device;
        writes(b, LEGACY);
        return;
    }
    if (kind == PINNED) OK(cu.cuMemHostAlloc(&host, b->bytes, 0));
    else host = malloc(b->bytes);
    MUST(host && b->model);
    memcpy(host, b->model, b->bytes);
    b->at = (uint64_t)host;
}

static void release(struct worker *w, struct buffer *b)
{
    ready_on_host(w, b);
    free(b->model);
    if (b->kind == DEVICE) OK(cu.cuMemFree_v2(b->at));
    else if (b->kind == PINNED) OK(cu.cuMemFreeHost((void *)b->at));
    else free((void *)b->at);
}

static struct buffer *device_buffer(struct worker *w) { return &w->buffers[below(w, DEVICE_BUFFERS)]; }
static struct buffer *host_buffer(struct worker *w) { return &w->buffers[DEVICE_BUFFERS + below(w, HOST_BUFFERS)]; }

/* A range that fits both buffers: mostly large enough to be fanned out, at odd places. */
static size_t range(struct worker *w, struct buffer *a, struct buffer *b, size_t *in_a, size_t *in_b)
{
    size_t most = a->bytes < b->bytes ? a->bytes : b->bytes, bytes = most;
    switch (below(w, 8)) {
    case 0: bytes = below(w, 4097); break;
    case 1: bytes = below(w, 65536); break;
    case 2: break;
    default: bytes = 65536 + below(w, most - 65536 + 1);
    }
    *in_a = below(w, a->bytes - bytes + 1);
    *in_b = below(w, b->bytes - bytes + 1);
    return bytes;
}

/* ---- steps ---- */

static void to_device(struct worker *w)
{
    struct buffer *d = device_buffer(w), *h = host_buffer(w);
    int synchronous = chance(w, 2), unified = chance(w, 3);
    int s = (int)below(w, synchronous ? PER_THREAD + 1 : STREAMS);
    size_t to, from, bytes = range(w, d, h, &to, &from);
    CUdeviceptr dst = d->at + to;
    const void *src = (const void *)(h->at + from);
    /* A pageable source of an asynchronous copy may be read as soon as the call is made. */
    if (h->kind == PAGEABLE && !synchronous) ready_on_host(w, h);
    else ready(w, s, h, 0);
    ready(w, s, d, 1);
    if (!synchronous) {
        if (unified) ON(w, s, cuMemcpyAsync, dst, (CUdeviceptr)src, bytes, handle);
        else ON(w, s, cuMemcpyHtoDAsync_v2, dst, src, bytes, handle);
    } else if (unified) {
        OK((s == LEGACY ? cu.cuMemcpy : cu.cuMemcpy_ptds)(dst, (CUdeviceptr)src, bytes));
    } else {
        OK((s == LEGACY ? cu.cuMemcpyHtoD_v2 : cu.cuMemcpyHtoD_v2_ptds)(dst, src, bytes));
    }
    writes(d, s);
    if (h->kind == PINNED && !synchronous) reads(h, s);
    memcpy(d->model + to, h->model + from, bytes);
    /* The source is the caller's again: overwritten, or even returned. */
    if (h->kind == PAGEABLE && chance(w, 8)) {
        release(w, h);
        allocate(w, h, PAGEABLE);
    } else if (h->kind == PAGEABLE && chance(w, 2)) {
        write_by_host(w, h);
    }
}

static void to_host(struct worker *w)
{
    struct buffer *d = device_buffer(w), *h = host_buffer(w);
    int synchronous = chance(w, 2), unified = chance(w, 3);
    int s = (int)below(w, synchronous ? PER_THREAD + 1 : STREAMS);
    size_t to, from, bytes = range(w, h, d, &to, &from);
    void *dst = (void *)(h->at + to);
    CUdeviceptr src = d->at + from;
    if (h->kind == PAGEABLE && !synchronous) ready_on_host(w, h);
    else ready(w, s, h, 1);
    ready(w, s, d, 0);
    if (!synchronous) {
        if (unified) ON(w, s, cuMemcpyAsync, (CUdeviceptr)dst, src, bytes, handle);
        else ON(w, s, cuMemcpyDtoHAsync_v2, dst, src, bytes, handle);
    } else if (unified) {
        OK((s == LEGACY ? cu.cuMemcpy : cu.cuMemcpy_ptds)((CUdeviceptr)dst, src, bytes));
    } else {
        OK((s == LEGACY ? cu.cuMemcpyDtoH_v2 : cu.cuMemcpyDtoH_v2_ptds)(dst, src, bytes));
    }
    if (h->kind == PINNED && !synchronous) {
        reads(d, s);
        writes(h, s);
    } else {
        h->writer = -1;
        h->readers = 0;
    }
    memcpy(h->model + to, d->model + from, bytes);
}

static void device_to_device(struct worker *w)
{
    int a = (int)below(w, DEVICE_BUFFERS), b = (a + 1 + (int)below(w, DEVICE_BUFFERS - 1)) % DEVICE_BUFFERS;
    struct buffer *d = &w->buffers[a], *e = &w->buffers[b];
    int s = (int)below(w, STREAMS);
    size_t to, from, bytes = range(w, d, e, &to, &from);
    ready(w, s, d, 1);
    ready(w, s, e, 0);
    if (chance(w, 2)) {
        uint64_t dst = d->at + to, src = e->at + from;
        void *arguments[] = {&dst, &src, &bytes};
        ON(w, s, cuLaunchKernel, copy_kernel, 64, 1, 1, 256, 1, 1, 0, handle, arguments, NULL);
    } else {
        ON(w, s, cuMemcpyDtoDAsync_v2, d->at + to, e->at + from, bytes, handle);
    }
    writes(d, s);
    reads(e, s);
    memcpy(d->model + to, e->model + from, bytes);
}

static void compute(struct worker *w)
{
    struct buffer *d = device_buffer(w);
    int s = (int)below(w, STREAMS), what = (int)below(w, 4);
    uint64_t skip = below(w, d->bytes / 8), words = below(w, d->bytes / 4 - skip + 1);
    uint64_t dst = d->at + 4 * skip;
    unsigned value = (unsigned)random_next(&w->random);
    void *arguments[] = {&dst, &words, &value};
    uint32_t *model = (uint32_t *)d->model + skip;
    ready(w, s, d, 1);
    switch (what) {
    case 0: ON(w, s, cuMemsetD8Async, dst, (unsigned char)value, 4 * words, handle); break;
    case 1: ON(w, s, cuMemsetD32Async, dst, value, words, handle); break;
    case 2: ON(w, s, cuLaunchKernel, fill_kernel, 16, 1, 1, 256, 1, 1, 0, handle, arguments, NULL); break;
    default: ON(w, s, cuLaunchKernel, add_kernel, 16, 1, 1, 256, 1, 1, 0, handle, arguments, NULL);
    }
    writes(d, s);
    if (what == 0) memset(model, (unsigned char)value, 4 * words);
    for (uint64_t i = 0; what && i < words; i++) model[i] = value + (what == 3 ? model[i] : 0);
}

static void write_note(void *data)
{
    struct note *note = data;
    pattern(note->at, note->bytes, note->seed);
}

static void host_function(struct worker *w)
{
    struct buffer *h = host_buffer(w);
    int s = (int)below(w, STREAMS);
    struct note *note = &w->notes[w->notes_used++];
    *note = (struct note){(void *)h->at, h->bytes, random_next(&w->random)};
    ready(w, s, h, 1);
    ON(w, s, cuLaunchHostFunc, handle, write_note, note);
    writes(h, s);
    pattern(h->model, h->bytes, note->seed);
}

static void replace(struct worker *w)
{
    struct buffer *b = &w->buffers[below(w, BUFFERS)];
    enum kind kind = b->kind;
    release(w, b);
    allocate(w, b, kind);
}

static void step(struct worker *w)
{
    unsigned dice = (unsigned)below(w, 20);
    if (dice < 8) to_device(w);
    else if (dice < 11) to_host(w);
    else if (dice < 13) device_to_device(w);
    else if (dice < 16) compute(w);
    else if (dice < 18) host_function(w);
    else if (dice < 19) write_by_host(w, host_buffer(w));
    else replace(w);
}

/* ---- programs ---- */

static uint64_t digest(uint64_t h, const unsigned char *at, size_t bytes)
{
    for (uint64_t word; bytes; at += 8) {
        word = 0;
        size_t n = bytes < 8 ? bytes : 8;
        memcpy(&word, at, n);
        h = (h ^ word) * 0x9e3779b97f4a7c15ull;
        h ^= h >> 32;
        bytes -= n;
    }
    return h;
}

static void compare(struct worker *w, int number)
{
    struct buffer *b = &w->buffers[number];
    unsigned char *now = (unsigned char *)b->at;
    ready_on_host(w, b);
    if (b->kind == DEVICE) {
        now = malloc(b->bytes);
        OK(cu.cuMemcpyDtoH_v2(now, b->at, b->bytes));
    }
    w->digest = digest(w->digest, now, b->bytes);
    size_t at = 0;
    if (memcmp(now, b->model, b->bytes)) {
        while (now[at] == b->model[at]) at++;
        printf("MISMATCH seed %llu thread %d buffer %d (kind %d, %zu bytes) at %zu: %02x, not %02x\n",
               (unsigned long long)w->seed, w->index, number, b->kind, b->bytes, at, now[at], b->model[at]);
        fflush(stdout);
        _exit(1);
    }
    if (b->kind == DEVICE) free(now);
}

static void *run_worker(void *data)
{
    struct worker *w = data;
    OK(cu.cuCtxSetCurrent(context));
    OK(cu.cuStreamCreate(&w->streams[BLOCKING], CU_STREAM_DEFAULT));
    OK(cu.cuStreamCreate(&w->streams[NON_BLOCKING], CU_STREAM_NON_BLOCKING));
    for (int i = 0; i < EVENTS; i++) OK(cu.cuEventCreate(&w->events[i], CU_EVENT_DISABLE_TIMING));
    for (int i = 0; i < BUFFERS; i++)
        allocate(w, &w->buffers[i], i < DEVICE_BUFFERS ? DEVICE : chance(w, 3) ? PINNED : PAGEABLE);
    for (int i = 0; i < w->steps; i++) step(w);
    for (int i = 0; i < BUFFERS; i++) compare(w, i);
    for (int i = 0; i < BUFFERS; i++) release(w, &w->buffers[i]);
    for (int i = 0; i < EVENTS; i++) OK(cu.cuEventDestroy_v2(w->events[i]));
    OK(cu.cuStreamDestroy_v2(w->streams[BLOCKING]));
    OK(cu.cuStreamDestroy_v2(w->streams[NON_BLOCKING]));
    return NULL;
}

/* Captures graphs while others copy, and checks that they come out whole. */
static void *run_capture(void *data)
{
    struct worker *w = data;
    OK(cu.cuCtxSetCurrent(context));
    CUstream stream = NULL;
    uint64_t words = 20000;
    CUdeviceptr device = 0;
    uint32_t *host = NULL;
    OK(cu.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    OK(cu.cuMemAlloc_v2(&device, 4 * words));
    OK(cu.cuMemHostAlloc((void **)&host, 4 * words, 0));
    for (int round = 0; round < 3; round++) {
        CUgraph graph = NULL;
        CUgraphExec exec = NULL;
        unsigned value = (unsigned)random_next(&w->random), launches = 1 + (unsigned)below(w, 3);
        void *arguments[] = {&device, &words, &value};
        OK(cu.cuStreamBeginCapture_v2(stream, chance(w, 2) ? CAPTURE_THREAD_LOCAL : CAPTURE_RELAXED));
        OK(cu.cuMemsetD32Async(device, value, words, stream));
        if (chance(w, 2)) usleep(200); /* let the others' copies fall into the capture */
        OK(cu.cuLaunchKernel(add_kernel, 16, 1, 1, 256, 1, 1, 0, stream, arguments, NULL));
        OK(cu.cuMemcpyDtoHAsync_v2(host, device, 4 * words, stream));
        OK(cu.cuStreamEndCapture(stream, &graph));
        OK(cu.cuGraphInstantiateWithFlags(&exec, graph, 0));
        for (unsigned i = 0; i < launches; i++) OK(cu.cuGraphLaunch(exec, stream));
        OK(cu.cuStreamSynchronize(stream));
        for (uint64_t i = 0; i < words; i++) MUST(host[i] == 2 * value);
        w->digest = digest(w->digest, (unsigned char *)host, 4 * words);
        OK(cu.cuGraphExecDestroy(exec));
        OK(cu.cuGraphDestroy(graph));
    }
    OK(cu.cuMemFreeHost(host));
    OK(cu.cuMemFree_v2(device));
    OK(cu.cuStreamDestroy_v2(stream));
    return NULL;
}

static uint64_t run_program(uint64_t seed)
{
    static struct worker workers[5];
    pthread_t threads[5];
    uint64_t random = seed ^ 0x5eed;
    unsigned dice = (unsigned)(random_next(&random) % 16);
    int copying = dice < 6 ? 1 : dice < 11 ? 2 : dice < 14 ? 3 : 4, capturing = random_next(&random) % 4 == 0;
    /* Some programs are large enough for several chunks a lane, and so for slots to be used again. */
    size_t largest = random_next(&random) % 32 == 0 ? 5u << 20 : 400u << 10;
    memset(workers, 0, sizeof workers);
    for (int i = 0; i < copying + capturing; i++) {
        struct worker *w = &workers[i];
        w->seed = seed;
        w->index = i;
        w->random = random_next(&random);
        w->largest = largest;
        w->steps = 6 + (int)below(w, MOST_STEPS - 6);
        if (i == 0) continue; /* the first program thread is the main one */
        MUST(!pthread_create(&threads[i], NULL, i < copying ? run_worker : run_capture, w));
    }
    run_worker(&workers[0]);
    uint64_t all = workers[0].digest;
    for (int i = 1; i < copying + capturing; i++) {
        pthread_join(threads[i], NULL);
        all = digest(all, (unsigned char *)&workers[i].digest, 8);
    }
    return all;
}

/* Loads what the kernels need before anything is captured. */
static void load_kernels(void)
{
    CUmodule module = NULL;
    CUdeviceptr device = 0;
    uint64_t none = 0;
    unsigned value = 0;
    OK(cu.cuModuleLoadData(&module, CUDA_KERNELS));
    OK(cu.cuModuleGetFunction(&fill_kernel, module, "sim_fill"));
    OK(cu.cuModuleGetFunction(&add_kernel, module, "sim_add"));
    OK(cu.cuModuleGetFunction(&copy_kernel, module, "sim_copy"));
    OK(cu.cuMemAlloc_v2(&device, 64));
    void *words[] = {&device, &none, &value}, *bytes[] = {&device, &device, &none};
    OK(cu.cuLaunchKernel(fill_kernel, 1, 1, 1, 32, 1, 1, 0, NULL, words, NULL));
    OK(cu.cuLaunchKernel(add_kernel, 1, 1, 1, 32, 1, 1, 0, NULL, words, NULL));
    OK(cu.cuLaunchKernel(copy_kernel, 1, 1, 1, 32, 1, 1, 0, NULL, bytes, NULL));
    OK(cu.cuCtxSynchronize());
    OK(cu.cuMemFree_v2(device));
}

int main(int argc, char **argv)
{
    MUST(argc == 3);
    uint64_t first = strtoull(argv[1], NULL, 10), count = strtoull(argv[2], NULL, 10);
    /* Buffers come from the heap again and again instead of being mapped and faulted in each time. */
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, 512 << 20);
    setvbuf(stdout, NULL, _IOLBF, 0);
    context = cuda_start();
    load_kernels();
    for (uint64_t seed = first; seed < first + count; seed++)
        printf("%llu %016llx\n", (unsigned long long)seed, (unsigned long long)run_program(seed));
    return 0;
}
