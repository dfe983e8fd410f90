/*
 * What a program can observe of its device memory. Everything that is printed is
 * the same whoever made the memory: no addresses, no handles.
 */
#include "cuda_min.h"
#include <pthread.h>

typedef unsigned long long Handle;
typedef struct {
    int kind, handle_types, location_kind, location;
    void *windows;
    unsigned char compression, rdma;
    unsigned short usage;
    unsigned char reserved[4];
} Properties;
typedef struct {
    int location_kind, location, flags;
} Access;
typedef struct {
    char reserved[64];
} IpcHandle;

#define MORE_FUNCTIONS(F)                                                                                            \
    F(cuMemGetAddressRange_v2, (CUdeviceptr * base, size_t *bytes, CUdeviceptr address))                             \
    F(cuPointerGetAttributes, (unsigned count, int *attributes, void **values, CUdeviceptr address))                 \
    F(cuPointerSetAttribute, (const void *value, int attribute, CUdeviceptr address))                                \
    F(cuMemCreate, (Handle * handle, size_t bytes, const Properties *properties, unsigned long long flags))          \
    F(cuMemRelease, (Handle handle))                                                                                 \
    F(cuMemAddressReserve, (CUdeviceptr * address, size_t bytes, size_t alignment, CUdeviceptr wish, unsigned long long flags)) \
    F(cuMemAddressFree, (CUdeviceptr address, size_t bytes))                                                         \
    F(cuMemMap, (CUdeviceptr address, size_t bytes, size_t offset, Handle handle, unsigned long long flags))         \
    F(cuMemUnmap, (CUdeviceptr address, size_t bytes))                                                               \
    F(cuMemSetAccess, (CUdeviceptr address, size_t bytes, const Access *accesses, size_t count))                     \
    F(cuMemRetainAllocationHandle, (Handle * handle, void *address))                                                 \
    F(cuMemGetAllocationPropertiesFromHandle, (Properties * properties, Handle handle))                              \
    F(cuMemFreeAsync, (CUdeviceptr address, CUstream stream))                                                        \
    F(cuMemAllocAsync, (CUdeviceptr * address, size_t bytes, CUstream stream))                                       \
    F(cuCtxEnablePeerAccess, (CUcontext peer, unsigned flags))                                                       \
    F(cuCtxDisablePeerAccess, (CUcontext peer))                                                                      \
    F(cuIpcGetMemHandle, (IpcHandle * handle, CUdeviceptr address))

#define MEMBER(name, arguments) static CUresult(*name) arguments;
MORE_FUNCTIONS(MEMBER)

enum { MIB = 1 << 20 };
static CUcontext primary;

#define SAY(call) printf("%s = %d\n", #call, (call))

static size_t used_mib(void)
{
    size_t free = 0, total = 0;
    OK(cu.cuMemGetInfo_v2(&free, &total));
    return (total - free) / MIB;
}

/* Attributes that are not ids and not known to differ: 7 and 20 are ids, 10 says
   that memory which can leave has no legacy handle, 18 is the driver's rounding. */
static int is_compared(int attribute) { return attribute != 7 && attribute != 10 && attribute != 18 && attribute != 20; }

static void print_value(int attribute, uint64_t value, CUdeviceptr base, CUcontext owner)
{
    if (attribute == 1) printf(" %d:%s", attribute, value == (uint64_t)owner ? "owner" : value ? "other" : "none");
    else if (attribute == 3 || attribute == 11 || attribute == 19) printf(" %d:%s%llu", attribute, value ? "+" : "null", value ? (unsigned long long)(value - base) : 0);
    else printf(" %d:%llx", attribute, (unsigned long long)value);
}

static void describe(const char *what, CUdeviceptr base, size_t offset, CUcontext owner)
{
    CUdeviceptr start = 0, address = base + offset;
    size_t bytes = 0;
    int code = cuMemGetAddressRange_v2(&start, &bytes, address);
    printf("%s+%zu: range %d", what, offset, code);
    if (!code) printf(" -%llu %zu", (unsigned long long)(address - start), bytes);
    int numbers[32], count = 0;
    uint64_t values[32] = {0};
    void *places[32];
    for (int i = 1; i <= 21; i++) {
        uint64_t value = 0;
        if (!is_compared(i) || i == 5) continue;
        code = cu.cuPointerGetAttribute(&value, i, address);
        if (code) printf(" %d!%d", i, code);
        else print_value(i, value, base, owner);
        places[count] = &values[count];
        numbers[count++] = i;
    }
    printf("\n  together %d", cuPointerGetAttributes(count, numbers, places, address));
    for (int i = 0; i < count; i++) print_value(numbers[i], values[i], base, owner);
    printf(" none %d\n", cu.cuPointerGetAttribute(NULL, 12, address));
}

/* Writes and reads the first and the last bytes. */
static void use(CUdeviceptr address, size_t bytes)
{
    char out[64], in[64];
    size_t part = bytes < sizeof in ? bytes : sizeof in;
    pattern(in, sizeof in, address ^ bytes);
    memcpy(out, in, sizeof out);
    OK(cu.cuMemcpyHtoD_v2(address, in, part));
    OK(cu.cuMemcpyHtoD_v2(address + bytes - part, in, part));
    memset(out, 0, sizeof out);
    OK(cu.cuMemcpyDtoH_v2(out, address + bytes - part, part));
    MUST(!memcmp(in, out, part));
}

static void sizes(void)
{
    static const size_t all[] = {1, 4096, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 5 * MIB, 64 * MIB + 3};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        CUdeviceptr a = 0;
        OK(cu.cuMemAlloc_v2(&a, all[i]));
        describe("allocation", a, 0, primary);
        describe("allocation", a, all[i] / 2, primary);
        describe("allocation", a, all[i] - 1, primary);
        if (all[i] > 2 * MIB) describe("allocation", a, all[i], primary);
        use(a, all[i]);
        OK(cu.cuMemFree_v2(a));
        describe("freed", a, 0, primary);
    }
}

static void refusals(void)
{
    CUdeviceptr a = 0, b = 0;
    SAY(cu.cuMemAlloc_v2(&a, 0));
    SAY(cu.cuMemAlloc_v2(NULL, 8 * MIB));
    SAY(cu.cuMemAlloc_v2(&a, (size_t)1 << 45));
    SAY(cu.cuMemAlloc_v2(&a, SIZE_MAX));
    SAY(cu.cuMemAlloc_v2(&a, SIZE_MAX - 2 * MIB));
    MUST(a == 0);
    SAY(cu.cuMemFree_v2(0));
    SAY(cu.cuMemFree_v2(0x1234000));
    OK(cu.cuMemAlloc_v2(&a, 8 * MIB));
    OK(cu.cuMemAlloc_v2(&b, 8 * MIB));
    SAY(cu.cuMemFree_v2(a + 512));
    SAY(cu.cuMemFree_v2(a + 2 * MIB));
    SAY(cuMemUnmap(a, 8 * MIB));
    Handle handle = 7;
    SAY(cuMemRetainAllocationHandle(&handle, (void *)(uintptr_t)a));
    MUST(handle == 7);
    OK(cu.cuMemFree_v2(a));
    SAY(cu.cuMemFree_v2(a));
    int on = 1;
    SAY(cuPointerSetAttribute(&on, 6, b));
    describe("synchronous", b, 0, primary);
    on = 0;
    SAY(cuPointerSetAttribute(&on, 6, b));
    SAY(cuPointerSetAttribute(&on, 1, b));
    SAY(cuPointerSetAttribute(NULL, 6, b));
    describe("asynchronous", b, 0, primary);
    OK(cu.cuCtxSetCurrent(NULL));
    SAY(cu.cuMemAlloc_v2(&a, 8 * MIB));
    SAY(cu.cuMemFree_v2(0x1234000));
    OK(cu.cuCtxSetCurrent(primary));
    OK(cu.cuMemFree_v2(b));
}

static void exhaustion(void)
{
    static CUdeviceptr all[4096];
    size_t before = used_mib();
    for (int round = 0; round < 2; round++) {
        int count = 0, code = 0;
        while (!(code = cu.cuMemAlloc_v2(&all[count], 256 * MIB))) count++;
        printf("%d allocations, then %d, %zu MiB\n", count, code, used_mib() - before);
        while (count) OK(cu.cuMemFree_v2(all[--count]));
        printf("%zu MiB\n", used_mib() - before);
    }
    CUdeviceptr a = 0;
    OK(cu.cuMemAlloc_v2(&a, 100 * MIB));
    printf("%zu MiB\n", used_mib() - before);
    OK(cu.cuMemFree_v2(a));
    printf("%zu MiB\n", used_mib() - before);
}

static void rows(void)
{
    static const size_t widths[] = {1, 500, 4096, 5000, 3 * MIB};
    for (size_t i = 0; i < 5; i++)
        for (unsigned element = 4; element <= 16; element *= 2)
            for (size_t height = 1; height <= 4096; height *= 16) {
                CUdeviceptr a = 0;
                size_t pitch = 0;
                if (widths[i] * height > 512 * MIB) continue;
                OK(cu.cuMemAllocPitch_v2(&a, &pitch, widths[i], height, element));
                printf("%zu x %zu, %u: %zu\n", widths[i], height, element, pitch);
                describe("rows", a, 0, primary);
                use(a, pitch * height);
                OK(cu.cuMemFree_v2(a));
            }
    CUdeviceptr a = 0;
    size_t pitch = 0;
    SAY(cu.cuMemAllocPitch_v2(&a, &pitch, 0, 8192, 4));
    SAY(cu.cuMemAllocPitch_v2(&a, &pitch, 8192, 0, 4));
    SAY(cu.cuMemAllocPitch_v2(&a, &pitch, 8192, 8192, 5));
    SAY(cu.cuMemAllocPitch_v2(&a, &pitch, SIZE_MAX / 2, 8192, 4));
    SAY(cu.cuMemAllocPitch_v2(NULL, &pitch, 8192, 8192, 4));
    SAY(cu.cuMemAllocPitch_v2(&a, NULL, 8192, 8192, 4));
}

static void contexts(void)
{
    CUcontext made = NULL, popped = NULL;
    CUdeviceptr a = 0, b = 0, c = 0;
    size_t before = used_mib();
    OK(cu.cuMemAlloc_v2(&a, 8 * MIB));
    OK(cu.cuCtxCreate_v2(&made, 0, 0));
    OK(cu.cuMemAlloc_v2(&b, 16 * MIB));
    describe("in the other", b, 0, made);
    OK(cu.cuCtxPopCurrent_v2(&popped));
    describe("of the other", b, 0, made);
    printf("%zu MiB\n", used_mib() - before);
    OK(cu.cuMemFree_v2(b));
    OK(cu.cuCtxSetCurrent(made));
    OK(cu.cuMemAlloc_v2(&b, 16 * MIB));
    OK(cu.cuMemFree_v2(a));
    OK(cu.cuCtxSetCurrent(primary));
    OK(cu.cuMemAlloc_v2(&a, 4 * MIB));
    OK(cu.cuCtxDestroy_v2(made));
    describe("lost", b, 0, made);
    SAY(cu.cuMemFree_v2(b));
    printf("%zu MiB\n", used_mib() - before);
    use(a, 4 * MIB);
    OK(cu.cuDevicePrimaryCtxReset_v2(0));
    describe("reset", a, 0, primary);
    OK(cu.cuDevicePrimaryCtxRelease_v2(0));
    OK(cu.cuDevicePrimaryCtxRetain(&primary, 0));
    OK(cu.cuCtxSetCurrent(primary));
    OK(cu.cuMemAlloc_v2(&c, 8 * MIB));
    printf("%zu MiB\n", used_mib() - before);
    OK(cu.cuDevicePrimaryCtxRelease_v2(0));
    SAY(cu.cuPointerGetAttribute(&before, 12, c));
    OK(cu.cuDevicePrimaryCtxRetain(&primary, 0));
    OK(cu.cuCtxSetCurrent(primary));
    printf("%zu MiB\n", used_mib());
}

static void captures(void)
{
    CUstream stream = NULL;
    OK(cu.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    for (int mode = CAPTURE_GLOBAL; mode <= CAPTURE_RELAXED; mode++)
        for (int own = CAPTURE_GLOBAL; own <= CAPTURE_RELAXED; own++)
            for (int what = 0; what < 2; what++) {
                CUdeviceptr a = 0;
                CUgraph graph = NULL;
                int before = own;
                if (what) OK(cu.cuMemAlloc_v2(&a, 8 * MIB));
                OK(cu.cuThreadExchangeStreamCaptureMode(&before));
                OK(cu.cuStreamBeginCapture_v2(stream, mode));
                int code = what ? cu.cuMemFree_v2(a) : cu.cuMemAlloc_v2(&a, 8 * MIB);
                int end = cu.cuStreamEndCapture(stream, &graph);
                OK(cu.cuThreadExchangeStreamCaptureMode(&before));
                printf("mode %d, own %d, %s: %d, %d\n", mode, own, what ? "free" : "allocate", code, end);
                if (!code == !what) {
                    describe("captured", a, 0, primary);
                    OK(cu.cuMemFree_v2(a));
                }
                if (graph) OK(cu.cuGraphDestroy(graph));
            }
    OK(cu.cuStreamDestroy_v2(stream));
}

/* Memory is not taken away from work that uses it. */
static void busy(void)
{
    CUmodule module = NULL;
    CUfunction fill = NULL;
    CUstream stream = NULL;
    CUdeviceptr a = 0;
    OK(cu.cuModuleLoadData(&module, CUDA_KERNELS));
    OK(cu.cuModuleGetFunction(&fill, module, "sim_fill"));
    OK(cu.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    for (int i = 0; i < 40; i++) {
        uint64_t words = 4 * MIB;
        unsigned value = (unsigned)i;
        void *arguments[] = {&a, &words, &value};
        OK(cu.cuMemAlloc_v2(&a, 4 * words));
        for (int k = 0; k < 3; k++) OK(cu.cuLaunchKernel(fill, 64, 1, 1, 256, 1, 1, 0, stream, arguments, NULL));
        if (i % 2) OK(cuMemFreeAsync(a, stream));
        else OK(cu.cuMemFree_v2(a));
    }
    OK(cu.cuCtxSynchronize());
    printf("done\n");
}

static void peers(void)
{
    CUcontext second = NULL;
    CUdeviceptr a = 0, b = 0, c = 0;
    OK(cu.cuDevicePrimaryCtxRetain(&second, 1));
    OK(cu.cuMemAlloc_v2(&a, 8 * MIB));
    OK(cu.cuCtxSetCurrent(second));
    OK(cu.cuMemAlloc_v2(&b, 8 * MIB));
    describe("second", b, 0, second);
    SAY(cuCtxEnablePeerAccess(primary, 0));
    SAY(cuCtxEnablePeerAccess(primary, 0));
    OK(cu.cuMemcpyDtoD_v2(b, a, 8 * MIB));
    OK(cu.cuCtxSetCurrent(primary));
    OK(cu.cuMemAlloc_v2(&c, 8 * MIB));
    OK(cu.cuCtxSetCurrent(second));
    OK(cu.cuMemcpyDtoD_v2(b, c, 8 * MIB));
    describe("first's", c, 0, primary);
    SAY(cuCtxDisablePeerAccess(primary));
    SAY(cuCtxDisablePeerAccess(primary));
    OK(cu.cuCtxSetCurrent(primary));
    use(a, 8 * MIB);
    use(c, 8 * MIB);
    OK(cu.cuMemFree_v2(b));
    OK(cu.cuMemFree_v2(a));
    OK(cu.cuMemFree_v2(c));
}

/* The application's own physical memory. */
static void mappings(void)
{
    Properties properties = {1, 0, 1, 0, NULL, 0, 0, 0, {0}}, back;
    Access access = {1, 0, 3};
    Handle handle = 0, again = 0;
    CUdeviceptr a = 0;
    size_t before = used_mib();
    OK(cuMemCreate(&handle, 8 * MIB, &properties, 0));
    OK(cuMemAddressReserve(&a, 32 * MIB, 0, 0, 0));
    SAY(cuMemMap(a, 8 * MIB, 4 * MIB, handle, 0));
    OK(cuMemMap(a, 4 * MIB, 4 * MIB, handle, 0));
    OK(cuMemMap(a + 4 * MIB, 8 * MIB, 0, handle, 0));
    SAY(cuMemMap(a, 4 * MIB, 0, handle, 0));
    SAY(cuMemSetAccess(a, 16 * MIB, &access, 1));
    OK(cuMemSetAccess(a, 12 * MIB, &access, 1));
    describe("mapping", a, 0, NULL);
    describe("mapping", a, 5 * MIB, NULL);
    use(a, 12 * MIB);
    memset(&back, 0, sizeof back);
    OK(cuMemGetAllocationPropertiesFromHandle(&back, handle));
    printf("properties %d %d %d %d\n", back.kind, back.handle_types, back.location_kind, back.location);
    OK(cuMemRetainAllocationHandle(&again, (void *)(uintptr_t)(a + 5 * MIB)));
    printf("the same handle: %d\n", handle == again);
    OK(cuMemRelease(again));
    OK(cuMemRelease(handle));
    SAY(cuMemRelease(handle));
    SAY(cuMemMap(a + 12 * MIB, 8 * MIB, 0, handle, 0));
    OK(cuMemRetainAllocationHandle(&again, (void *)(uintptr_t)a));
    OK(cuMemMap(a + 12 * MIB, 8 * MIB, 0, again, 0));
    SAY(cuMemUnmap(a, 6 * MIB));
    SAY(cuMemUnmap(a, 32 * MIB));
    OK(cuMemUnmap(a, 20 * MIB));
    printf("%zu MiB\n", used_mib() - before);
    SAY(cuMemUnmap(a, 4 * MIB));
    OK(cuMemRelease(again));
    SAY(cuMemRelease(again));
    SAY(cuMemGetAllocationPropertiesFromHandle(&back, again));
    SAY(cuMemRetainAllocationHandle(&again, (void *)(uintptr_t)a));
    printf("%zu MiB\n", used_mib() - before);
    OK(cuMemAddressFree(a, 32 * MIB));
    properties.location = 99;
    SAY(cuMemCreate(&handle, 8 * MIB, &properties, 0));
    SAY(cuMemCreate(&handle, 8 * MIB, NULL, 0));
}

/* Legacy handles: what was made before has none, what is made later has. */
static void shares(void)
{
    IpcHandle handle;
    CUdeviceptr small = 0, before = 0, after = 0;
    OK(cu.cuMemAlloc_v2(&small, 4096));
    OK(cuIpcGetMemHandle(&handle, small));
    OK(cu.cuMemAlloc_v2(&before, 8 * MIB));
    SAY(cuIpcGetMemHandle(&handle, before));
    OK(cu.cuMemAlloc_v2(&after, 8 * MIB));
    SAY(cuIpcGetMemHandle(&handle, after));
    use(before, 8 * MIB);
    use(after, 8 * MIB);
    OK(cu.cuMemFree_v2(before));
    OK(cu.cuMemFree_v2(after));
}

/* Allocations come and go at random; each holds what was written to it. */
enum { SLOTS = 24 };
struct slot {
    CUdeviceptr at;
    size_t bytes;
    unsigned value;
};

static void check(const struct slot *s)
{
    static unsigned char back[64];
    size_t part = s->bytes < sizeof back ? s->bytes : sizeof back;
    OK(cu.cuMemcpyDtoH_v2(back, s->at + s->bytes - part, part));
    for (size_t i = 0; i < part; i++) MUST(back[i] == (unsigned char)s->value);
}

static void random_program(uint64_t seed)
{
    struct slot slots[SLOTS] = {{0, 0, 0}};
    uint64_t random = seed;
    size_t before = used_mib();
    for (int i = 0; i < 200; i++) {
        struct slot *s = &slots[random_next(&random) % SLOTS];
        uint64_t dice = random_next(&random);
        if (!s->at) {
            size_t most = dice % 3 ? 12 * MIB : 3 * MIB, height = 0, pitch = 0;
            s->bytes = 1 + random_next(&random) % most;
            s->value = (unsigned)random_next(&random);
            int code;
            if (dice % 7 == 0) {
                height = 1 + random_next(&random) % 900;
                code = cu.cuMemAllocPitch_v2(&s->at, &pitch, 1 + s->bytes / height, height, 4u << dice % 3);
                s->bytes = pitch * height;
            } else if (dice % 7 == 1) {
                code = cuMemAllocAsync(&s->at, s->bytes, NULL);
            } else {
                code = cu.cuMemAlloc_v2(&s->at, s->bytes);
            }
            printf("%d: %d %zu\n", i, code, s->bytes);
            OK(cu.cuMemsetD8_v2(s->at, (unsigned char)s->value, s->bytes));
        } else if (dice % 4 == 0) {
            if (dice % 7 != 1) describe("slot", s->at, random_next(&random) % s->bytes, primary);
        } else if (dice % 4 == 1) {
            struct slot *other = &slots[random_next(&random) % SLOTS];
            size_t bytes = s->bytes < other->bytes ? s->bytes : other->bytes;
            if (other == s || !other->at) continue;
            check(s);
            OK(cu.cuMemcpyDtoD_v2(s->at, other->at, bytes));
            OK(cu.cuMemsetD8_v2(s->at, (unsigned char)s->value, s->bytes));
            printf("%d: copied\n", i);
        } else {
            check(s);
            CUdeviceptr at = s->at;
            s->at = 0;
            int code = dice % 5 ? cu.cuMemFree_v2(at) : cuMemFreeAsync(at, NULL);
            if (dice % 5 == 0) OK(cu.cuCtxSynchronize());
            printf("%d: freed %d, again %d\n", i, code, cu.cuMemFree_v2(at));
        }
    }
    for (int i = 0; i < SLOTS; i++)
        if (slots[i].at) {
            check(&slots[i]);
            OK(cu.cuMemFree_v2(slots[i].at));
        }
    printf("seed %llu: %zu MiB\n", (unsigned long long)seed, used_mib() - before);
}

/* Threads that allocate and free at the same time, with attributes asked. */
static void *run_thread(void *data)
{
    uint64_t random = (uint64_t)data;
    OK(cu.cuCtxSetCurrent(primary));
    for (int i = 0; i < 300; i++) {
        CUdeviceptr a = 0;
        size_t bytes = 1 + random_next(&random) % (6 * MIB), size = 0;
        CUcontext owner = NULL;
        OK(cu.cuMemAlloc_v2(&a, bytes));
        OK(cu.cuPointerGetAttribute(&size, 12, a + bytes - 1));
        OK(cu.cuPointerGetAttribute(&owner, 1, a));
        MUST(size == bytes && owner == primary);
        use(a, bytes);
        OK(cu.cuMemFree_v2(a));
    }
    return NULL;
}

static void threads(void)
{
    pthread_t all[4];
    size_t before = used_mib();
    for (uint64_t i = 0; i < 4; i++) MUST(!pthread_create(&all[i], NULL, run_thread, (void *)(i + 1)));
    for (int i = 0; i < 4; i++) pthread_join(all[i], NULL);
    printf("%zu MiB\n", used_mib() - before);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } scenes[] = {{"sizes", sizes},       {"refusals", refusals}, {"exhaustion", exhaustion}, {"rows", rows},
                  {"contexts", contexts}, {"captures", captures}, {"busy", busy},             {"peers", peers},
                  {"mappings", mappings}, {"shares", shares},     {"threads", threads}};
    MUST(argc >= 2);
    setvbuf(stdout, NULL, _IOLBF, 0);
    primary = cuda_start();
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
#define ASK(name, arguments) MUST(name = (CUresult(*) arguments)dlsym(driver, #name));
    MORE_FUNCTIONS(ASK)
    if (!strcmp(argv[1], "random")) {
        MUST(argc == 4);
        uint64_t first = strtoull(argv[2], NULL, 10), count = strtoull(argv[3], NULL, 10);
        for (uint64_t seed = first; seed < first + count; seed++) random_program(seed);
        return 0;
    }
    for (size_t i = 0; i < sizeof scenes / sizeof *scenes; i++)
        if (!strcmp(argv[1], scenes[i].name)) {
            scenes[i].run();
            return 0;
        }
    printf("no scene %s\n", argv[1]);
    return 2;
}
