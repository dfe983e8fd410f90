// Calls that are hooked or could be, and pass through: ns per call.
//   calls --calls N [--only name,name]
// Timed in batches small enough for the launch queue, with an untimed synchronisation between them, so that the
// GPU's own pace does not cover the host's.
#include "driver.h"

static const char *const PTX[] = {
    ".version 8.0\n.target sm_75\n.address_size 64\n.visible .entry empty(.param .u64 unused) { ret; }\n",
    ".version 7.0\n.target sm_50\n.address_size 64\n.visible .entry empty(.param .u64 unused) { ret; }\n",
};

static CUdeviceptr device, device_page;
static CUhandle stream, function, context, event;
static int value = 42, attribute;
static unsigned memory_type;

static inline int launch(void) {
    unsigned long long unused = 0;
    void *arguments[] = {&unused};
    return cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, arguments, NULL);
}
static inline int pointer_device(void) { return cuPointerGetAttribute(&memory_type, 2, device); }
static inline int get_current(void) { return cuCtxGetCurrent(&context); }
static inline int query(void) { return cuStreamQuery(NULL); }
static inline int query_event(void) { return cuEventQuery(event); }
static inline int copy_sync(void) { return cuMemcpyHtoD(device, &value, 4); }
static inline int copy_async(void) { return cuMemcpyHtoDAsync(device, &value, 4, stream); }
static inline int read_sync(void) { return cuMemcpyDtoH(&value, device, 4); }
static inline int allocate(void) {
    CUdeviceptr p;
    int code = cuMemAlloc(&p, 512); // from a page that is already mapped
    return code ? code : cuMemFree(p);
}

typedef struct {
    const char *name;
    int (*call)(void);
    size_t batch, weight; // calls between two synchronisations; share of --calls, one in so many
} Kind;

static const Kind KINDS[] = {
    {"cuLaunchKernel", launch, 500, 1},
    {"cuCtxGetCurrent", get_current, 10000, 1},
    {"cuPointerGetAttribute", pointer_device, 10000, 1},
    {"cuStreamQuery", query, 10000, 1},
    {"cuEventQuery", query_event, 10000, 1},
    {"cuMemcpyHtoD 4 B", copy_sync, 200, 1},
    {"cuMemcpyHtoDAsync 4 B", copy_async, 200, 1},
    {"cuMemcpyDtoH 4 B", read_sync, 200, 4},
    {"cuMemAlloc + cuMemFree 512 B", allocate, 200, 4},
};

int main(int argc, char **argv) {
    size_t calls = strtoull(option(argc, argv, "--calls", "200000"), NULL, 0);
    const char *only = option(argc, argv, "--only", "");
    driver_open();
    CK(cuMemAlloc(&device, 4 * MIB)); // of the size that --freezable makes movable
    CK(cuMemAlloc(&device_page, 512));
    CK(cuStreamCreate(&stream, 1));
    CK(cuEventCreate(&event, 2));
    CK(cuEventRecord(event, stream));
    CUhandle module = NULL;
    int code = 1;
    for (size_t i = 0; i < sizeof PTX / sizeof *PTX && code; i++) code = cuModuleLoadData(&module, PTX[i]);
    if (!code) code = cuModuleGetFunction(&function, module, "empty");
    if (code && module) code = cuModuleGetFunction(&function, module, "sim_spin"); // the software driver's own
    attribute = code;

    enum { COUNT = sizeof KINDS / sizeof *KINDS, ROUNDS = 10 };
    Times times[COUNT] = {{0}};
    // Round after round over all kinds: a slow moment of the machine falls on all of them.
    for (size_t round = 0; round < ROUNDS; round++)
        for (size_t k = 0; k < COUNT; k++) {
            const Kind *kind = &KINDS[k];
            if (*only && !strstr(only, kind->name)) continue;
            if (kind->call == launch && attribute) continue;
            for (size_t i = 0; round == 0 && i < 100; i++) check(kind->call(), kind->name);
            CK(cuCtxSynchronize());
            size_t share = calls / kind->weight / ROUNDS, batches = (share + kind->batch - 1) / kind->batch;
            for (size_t b = 0; b < batches; b++) {
                double t = now_ns();
                for (size_t i = 0; i < kind->batch; i++)
                    if ((code = kind->call())) check(code, kind->name);
                times_add(&times[k], (now_ns() - t) / (double)kind->batch);
                CK(cuCtxSynchronize());
            }
        }
    for (size_t k = 0; k < COUNT; k++) {
        if (KINDS[k].call == launch && attribute && (!*only || strstr(only, KINDS[k].name))) {
            printf("{\"bench\": \"calls\", \"call\": \"cuLaunchKernel\", \"skipped\": \"the driver took no kernel: %d\"}\n", attribute);
            continue;
        }
        if (!times[k].n) continue;
        printf("{\"bench\": \"calls\", \"call\": \"%s\", \"batch\": %zu, ", KINDS[k].name, KINDS[k].batch);
        times_print(&times[k]);
        printf("}\n");
    }
    return 0;
}
