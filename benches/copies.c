// Copies between host and device, timed one by one.
//   copies large --dir h2d|d2h --sizes A,B --reps R [--full]    one copy and a synchronisation; bytes checked
//   copies mid   --dir h2d|d2h --sizes A,B --budget-ms T        back to back from one buffer, then one synchronisation
//   copies sweep --dir both --kind pageable|pinned --sizes A,B --budget-ms T    each call by itself, as the caller waits
// Built twice: over the driver API (-DDRIVER), and over libcudart (static or dynamic).
#ifdef DRIVER
#include "driver.h"
typedef CUdeviceptr Device;
static void api_open(void) { driver_open(); }
static Device api_alloc(size_t n) { Device d; CK(cuMemAlloc(&d, n)); return d; }
static void *api_pinned(size_t n) { void *p; CK(cuMemHostAlloc(&p, n, 0)); return p; }
static inline void api_h2d(Device d, const void *s, size_t n) { CK(cuMemcpyHtoD(d, s, n)); }
static inline void api_d2h(void *d, Device s, size_t n) { CK(cuMemcpyDtoH(d, s, n)); }
static void api_set(Device d, int v, size_t n) { CK(cuMemsetD8(d, (unsigned char)v, n)); CK(cuCtxSynchronize()); }
static void api_sync(void) { CK(cuCtxSynchronize()); }
#else
#include "common.h"
#include <cuda_runtime_api.h>
typedef char *Device;
static void check(cudaError_t e, const char *what) { if (e != cudaSuccess) die("%s: %d %s", what, (int)e, cudaGetErrorName(e)); }
#define CK(call) check((call), #call)
static void api_open(void) { CK(cudaSetDevice(0)); CK(cudaFree(NULL)); }
static Device api_alloc(size_t n) { void *d; CK(cudaMalloc(&d, n)); return d; }
static void *api_pinned(size_t n) { void *p; CK(cudaHostAlloc(&p, n, cudaHostAllocDefault)); return p; }
static inline void api_h2d(Device d, const void *s, size_t n) { CK(cudaMemcpy(d, s, n, cudaMemcpyHostToDevice)); }
static inline void api_d2h(void *d, Device s, size_t n) { CK(cudaMemcpy(d, s, n, cudaMemcpyDeviceToHost)); }
static void api_set(Device d, int v, size_t n) { CK(cudaMemset(d, v, n)); CK(cudaDeviceSynchronize()); }
static void api_sync(void) { CK(cudaDeviceSynchronize()); }
#endif

#define SEED 20261121
#define BOUNCE (32 * MIB)
static char *bounce;   // pinned: reads the device back by a path that is not under test
static int to_device;

static void read_back(Device d, size_t at, size_t n) {
    api_d2h(bounce, d + at, n);
    api_sync();
    size_t wrong = chore(CHECK, bounce, n, at, SEED);
    if (wrong) die("WRONG BYTES on the device at offset %zu", at + wrong - 1);
}

// Offsets to look at: both ends, and places spread over the whole.
static size_t sample(size_t i, size_t count, size_t bytes, size_t window) {
    if (bytes <= window || i == 0) return 0;
    if (i == 1) return (bytes - window) & ~(size_t)7;
    return (size_t)(pattern(i, bytes + count) % (bytes - window)) & ~(size_t)7;
}

#define WINDOW ((size_t)4096)
#define SAMPLES 64

static const char *verify(Device d, char *host, size_t bytes, int full) {
    if (to_device && full)
        for (size_t at = 0; at < bytes; at += BOUNCE) read_back(d, at, bytes - at < BOUNCE ? bytes - at : BOUNCE);
    else if (to_device)
        for (size_t i = 0; i < SAMPLES; i++) {
            size_t n = bytes < WINDOW ? bytes : WINDOW;
            read_back(d, sample(i, SAMPLES, bytes, WINDOW), n);
        }
    else if (full) {
        size_t wrong = chore(CHECK, host, bytes, 0, SEED);
        if (wrong) die("WRONG BYTES in host memory at offset %zu", wrong - 1);
    } else
        for (size_t i = 0; i < SAMPLES; i++) {
            size_t at = sample(i, SAMPLES, bytes, WINDOW), n = bytes < WINDOW ? bytes : WINDOW;
            size_t wrong = chore(CHECK, host + at, n, at, SEED);
            if (wrong) die("WRONG BYTES in host memory at offset %zu", at + wrong - 1);
        }
    return full ? "full" : "sample";
}

// What an earlier copy left behind must not pass for this one's work.
static void forget(Device d, char *host, size_t bytes, int full) {
    if (to_device)
        api_set(d, 0xEE, bytes);
    else if (full)
        chore(POISON, host, bytes, 0, 0);
    else
        for (size_t i = 0; i < SAMPLES; i++)
            memset(host + sample(i, SAMPLES, bytes, WINDOW), 0xEE, bytes < WINDOW ? bytes : WINDOW);
}

static inline void copy(Device d, char *host, size_t n) {
    if (to_device)
        api_h2d(d, host, n);
    else
        api_d2h(host, d, n);
}

int main(int argc, char **argv) {
    if (argc < 2) die("usage: copies large|mid|sweep ...");
    const char *mode = argv[1], *kind = option(argc, argv, "--kind", "pageable");
    int large = !strcmp(mode, "large"), mid = !strcmp(mode, "mid"), full = flag(argc, argv, "--full");
    int pinned = !strcmp(kind, "pinned");
    const char *dir = option(argc, argv, "--dir", "h2d");
    int both = !large && !mid && !strcmp(dir, "both");
    to_device = both || !strcmp(dir, "h2d");
    size_t list[64], count = sizes(option(argc, argv, "--sizes", "1073741824"), list, 64), most = 0;
    for (size_t i = 0; i < count; i++)
        if (list[i] > most) most = list[i];
    size_t reps = strtoull(option(argc, argv, "--reps", "3"), NULL, 0);
    double budget = strtod(option(argc, argv, "--budget-ms", "50"), NULL) * 1e6;

    api_open();
    Device device = api_alloc(most);
    bounce = api_pinned(BOUNCE);
    char *host = pinned ? api_pinned(most) : map_anonymous(most);
    chore(FILL, host, most, 0, SEED);
    if (!to_device) { // by the pinned path: not the one under test
        for (size_t at = 0; at < most; at += BOUNCE) {
            size_t n = most - at < BOUNCE ? most - at : BOUNCE;
            memcpy(bounce, host + at, n);
            api_h2d(device + at, bounce, n);
            api_sync();
        }
    }
    Times times = {0};
    for (size_t s = 0; s < count * (both ? 2 : 1); s++) {
        size_t bytes = list[s % count];
        if (both) to_device = s < count;
        const char *verified = "no";
        if (large) {
            for (size_t r = 0; r < reps; r++) {
                int last = full && r + 1 == reps;
                forget(device, host, bytes, last);
                double t = now_ns();
                copy(device, host, bytes);
                api_sync();
                times_add(&times, now_ns() - t);
                verified = verify(device, host, bytes, last);
            }
        } else if (mid) {
            copy(device, host, bytes);
            api_sync();
            double t = now_ns();
            copy(device, host, bytes);
            api_sync();
            double one = now_ns() - t;
            size_t batches = 5, each = (size_t)(budget / (double)batches / one) + 1;
            for (size_t b = 0; b < batches; b++) {
                t = now_ns();
                for (size_t i = 0; i < each; i++) copy(device, host, bytes);
                api_sync();
                times_add(&times, (now_ns() - t) / (double)each);
            }
            forget(device, host, bytes, full);
            copy(device, host, bytes);
            api_sync();
            verified = verify(device, host, bytes, full);
        } else {
            size_t warm = bytes <= MIB ? 20 : 1;
            for (size_t i = 0; i < warm; i++) copy(device, host, bytes);
            api_sync();
            double end = now_ns() + budget;
            size_t least = bytes >= 256 * MIB ? reps : 10;
            while (times.n < least || (now_ns() < end && times.n < 20000)) {
                double t = now_ns();
                copy(device, host, bytes);
                times_add(&times, now_ns() - t);
            }
            api_sync();
        }
        printf("{\"bench\": \"%s\", \"dir\": \"%s\", \"kind\": \"%s\", \"bytes\": %zu, \"verified\": \"%s\", ", mode, to_device ? "h2d" : "d2h",
               kind, bytes, verified);
        times_print(&times);
        printf("}\n");
        fflush(stdout);
    }
    return 0;
}
