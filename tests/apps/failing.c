/*
 * Copies while something fails.
 *
 *   failing CODE [stay]
 *
 * A driver call may return 0, and then has done what it should, or CODE. With
 * `stay`, the context is still there when the program ends.
 */
#include "cuda_min.h"
#include <pthread.h>

#define SIZE ((5u << 20) + 4099)

static int code, errors;

/* Whether a call succeeded; anything but success and the code is a failure of the test. */
static int good(int result, const char *call)
{
    if (result && result != code) {
        printf("%s gave %d, not %d\n", call, result, code);
        fflush(stdout);
        _exit(1);
    }
    errors += result != 0;
    return !result;
}
#define GOOD(call) good(call, #call)

static void *host_memory(void)
{
    void *at = malloc(SIZE);
    MUST(at);
    return at;
}

static void copies(CUdeviceptr device, int seed)
{
    unsigned char *host = host_memory(), *wanted = host_memory(), *back = host_memory();
    CUstream stream = NULL;
    GOOD(cu.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    for (int round = 0; round < 3; round++) {
        pattern(wanted, SIZE, (uint64_t)(10 * seed + round));
        memcpy(host, wanted, SIZE);
        int there = round == 1 ? GOOD(cu.cuMemcpyHtoDAsync_v2(device, host, SIZE, stream))
                               : GOOD(cu.cuMemcpyHtoD_v2_ptds(device, host, SIZE));
        memset(host, 0xee, SIZE);
        if (!there || (round == 1 && !GOOD(cu.cuStreamSynchronize(stream)))) continue;
        memset(back, 0, SIZE);
        if (!GOOD(cu.cuMemcpyDtoH_v2_ptds(back, device, SIZE))) continue;
        MUST(!memcmp(back, wanted, SIZE));
    }
    if (stream) GOOD(cu.cuStreamDestroy_v2(stream));
    free(host);
    free(wanted);
    free(back);
}

static CUcontext context;

static void *other_thread(void *data)
{
    if (GOOD(cu.cuCtxSetCurrent(context))) copies(*(CUdeviceptr *)data, 2);
    return NULL;
}

int main(int argc, char **argv)
{
    MUST(argc >= 2);
    code = atoi(argv[1]);
    CUdeviceptr first = 0, second = 0;
    pthread_t thread;
    cuda_open();
    if (GOOD(cu.cuInit(0)) && GOOD(cu.cuDevicePrimaryCtxRetain(&context, 0)) && GOOD(cu.cuCtxSetCurrent(context)) &&
        GOOD(cu.cuMemAlloc_v2(&first, SIZE)) && GOOD(cu.cuMemAlloc_v2(&second, SIZE))) {
        MUST(!pthread_create(&thread, NULL, other_thread, &second));
        copies(first, 1);
        MUST(!pthread_join(thread, NULL));
        GOOD(cu.cuMemFree_v2(first));
        GOOD(cu.cuMemFree_v2(second));
        if (argc == 2) GOOD(cu.cuDevicePrimaryCtxRelease_v2(0));
    }
    printf("%d errors\n", errors);
    return 0;
}
