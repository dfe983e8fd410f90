/*
 * Copies while 64 streams of the program wait for a value that only the host
 * will write: nothing of rewarm's may get stuck behind them.
 */
#include "cuda_min.h"
#include <pthread.h>

#define SIZE (40u << 20)
enum { STREAMS = 64 };

static CUcontext context;
static CUdeviceptr flag;
static volatile unsigned *host_flag;

static void *copy(void *data)
{
    CUstream stream = data;
    CUdeviceptr device = 0;
    char *host = malloc(SIZE), *back = malloc(SIZE);
    OK(cu.cuCtxSetCurrent(context));
    OK(cu.cuMemAlloc_v2(&device, SIZE));
    for (int i = 0; i < 5; i++) {
        pattern(host, SIZE, (uint64_t)i);
        OK(cu.cuMemcpyHtoDAsync_v2(device, host, SIZE, stream));
        OK(cu.cuMemcpyDtoHAsync_v2(back, device, SIZE, stream));
        OK(cu.cuStreamSynchronize(stream));
        MUST(!memcmp(host, back, SIZE));
    }
    return NULL;
}

int main(void)
{
    CUstream streams[STREAMS], own = NULL;
    pthread_t thread;
    void *memory = NULL;
    context = cuda_start();
    /* Pinned memory has the same address on the device (unified addressing). */
    OK(cu.cuMemHostAlloc(&memory, 4096, 0));
    host_flag = memory;
    flag = (CUdeviceptr)memory;
    *host_flag = 0;
    OK(cu.cuStreamCreate(&own, CU_STREAM_NON_BLOCKING));
    for (int i = 0; i < STREAMS; i++) {
        OK(cu.cuStreamCreate(&streams[i], CU_STREAM_NON_BLOCKING));
        OK(cu.cuStreamWaitValue32_v2(streams[i], flag, 1, CU_STREAM_WAIT_VALUE_EQ));
    }
    MUST(!pthread_create(&thread, NULL, copy, own));
    MUST(!pthread_join(thread, NULL));
    printf("copied\n");
    *host_flag = 1;
    for (int i = 0; i < STREAMS; i++) OK(cu.cuStreamSynchronize(streams[i]));
    printf("right\n");
    return 0;
}
