/*
 * Copies pageable memory to the GPU and back, and prints how fast.
 *
 *   copy MIB [stay]
 *
 * Knows nothing of rewarm: it opens the CUDA driver and calls it. Prints
 *   first_use SECONDS    from the first call until a small copy has arrived
 *   to_device GB/s       the fastest of three copies
 *   to_host GB/s         the same, backwards
 * and fails if the bytes that come back differ. With "stay" it then waits until its
 * input ends, and looks again.
 */
#define _POSIX_C_SOURCE 200809L
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { REPEATS = 3, STARTUP_MS = 400 };

static int (*cuInit)(unsigned);
static int (*cuDeviceGet)(int *, int);
static int (*cuDevicePrimaryCtxRetain)(void **, int);
static int (*cuCtxSetCurrent)(void *);
static int (*cuMemAlloc)(uint64_t *, size_t);
static int (*cuMemcpyHtoD)(uint64_t, const void *, size_t);
static int (*cuMemcpyDtoH)(void *, uint64_t, size_t);
static int (*cuCtxSynchronize)(void);

static void *find(void *driver, const char *name)
{
    void *function = dlsym(driver, name);
    if (!function) {
        fprintf(stderr, "copy: %s\n", dlerror());
        exit(1);
    }
    return function;
}

static void open_driver(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver) {
        fprintf(stderr, "copy: %s\n", dlerror());
        exit(1);
    }
    *(void **)&cuInit = find(driver, "cuInit");
    *(void **)&cuDeviceGet = find(driver, "cuDeviceGet");
    *(void **)&cuDevicePrimaryCtxRetain = find(driver, "cuDevicePrimaryCtxRetain");
    *(void **)&cuCtxSetCurrent = find(driver, "cuCtxSetCurrent");
    *(void **)&cuMemAlloc = find(driver, "cuMemAlloc_v2");
    *(void **)&cuMemcpyHtoD = find(driver, "cuMemcpyHtoD_v2");
    *(void **)&cuMemcpyDtoH = find(driver, "cuMemcpyDtoH_v2");
    *(void **)&cuCtxSynchronize = find(driver, "cuCtxSynchronize");
}

static void check(int error, const char *what)
{
    if (error) {
        fprintf(stderr, "copy: %s returned CUDA error %d\n", what, error);
        exit(1);
    }
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* Stands for what a real program does first, such as importing modules. */
static void start_up(void)
{
    struct timespec time = {STARTUP_MS / 1000, STARTUP_MS % 1000 * 1000000L};
    nanosleep(&time, NULL);
}

static uint64_t use_cuda(size_t bytes)
{
    int device;
    void *context;
    uint64_t address;
    check(cuInit(0), "cuInit");
    check(cuDeviceGet(&device, 0), "cuDeviceGet");
    check(cuDevicePrimaryCtxRetain(&context, device), "cuDevicePrimaryCtxRetain");
    check(cuCtxSetCurrent(context), "cuCtxSetCurrent");
    check(cuMemAlloc(&address, bytes), "cuMemAlloc");
    check(cuMemcpyHtoD(address, "hello", 5), "cuMemcpyHtoD");
    check(cuCtxSynchronize(), "cuCtxSynchronize");
    return address;
}

static void compare(const void *source, const void *back, size_t bytes)
{
    if (memcmp(source, back, bytes)) {
        fprintf(stderr, "copy: the bytes that came back differ\n");
        exit(1);
    }
}

static double best(double a, double b) { return a > b ? a : b; }

int main(int count, char **arguments)
{
    size_t bytes = (size_t)(count > 1 ? atoi(arguments[1]) : 256) << 20;
    uint32_t *source = malloc(bytes), *back = malloc(bytes);
    if (!bytes || !source || !back) {
        fprintf(stderr, "usage: copy MIB [stay]\n");
        return 2;
    }
    for (size_t at = 0; at < bytes / 4; at++) source[at] = (uint32_t)(at * 2654435761u);
    memset(back, 0, bytes);
    open_driver();
    start_up();

    double start = now();
    uint64_t address = use_cuda(bytes);
    printf("first_use %.4f\n", now() - start);

    double to_device = 0, to_host = 0;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        start = now();
        check(cuMemcpyHtoD(address, source, bytes), "cuMemcpyHtoD");
        check(cuCtxSynchronize(), "cuCtxSynchronize");
        to_device = best(to_device, (double)bytes / (now() - start) / 1e9);
        start = now();
        check(cuMemcpyDtoH(back, address, bytes), "cuMemcpyDtoH");
        to_host = best(to_host, (double)bytes / (now() - start) / 1e9);
    }
    printf("to_device %.2f\nto_host %.2f\n", to_device, to_host);
    compare(source, back, bytes);
    if (count > 2) {
        fflush(stdout);
        while (getchar() != EOF) {
        }
        check(cuMemcpyDtoH(back, address, bytes), "cuMemcpyDtoH");
        compare(source, back, bytes);
    }
    return 0;
}
