/*
 * A program of the CUDA runtime, linked with its static or its dynamic library.
 * What it uses is declared here, so that it builds without a toolkit.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { H2D = 1, D2H = 2, DEFAULT = 4 };
typedef void *cudaStream_t;
extern int cudaGetDeviceCount(int *);
extern int cudaSetDevice(int);
extern int cudaMalloc(void **, size_t);
extern int cudaFree(void *);
extern int cudaMemcpy(void *, const void *, size_t, int);
extern int cudaMemcpy_ptds(void *, const void *, size_t, int);
extern int cudaMemcpyAsync(void *, const void *, size_t, int, cudaStream_t);
extern int cudaMemcpyAsync_ptsz(void *, const void *, size_t, int, cudaStream_t);
extern int cudaStreamCreate(cudaStream_t *);
extern int cudaStreamSynchronize(cudaStream_t);
extern int cudaStreamDestroy(cudaStream_t);
extern int cudaDeviceSynchronize(void);
extern int cudaRuntimeGetVersion(int *);
extern const char *cudaGetErrorString(int);

#define SIZE ((24u << 20) + 17)
#define OK(call)                                                                                                     \
    do {                                                                                                             \
        int code = (call);                                                                                           \
        if (code) {                                                                                                  \
            printf("%s gave %d: %s\n", #call, code, cudaGetErrorString(code));                                       \
            return 1;                                                                                                \
        }                                                                                                            \
    } while (0)

static unsigned char *host, *back;
static void *device;
static cudaStream_t stream;

static int copy(int way)
{
    for (size_t i = 0; i < SIZE; i++) host[i] = (unsigned char)(i * 7 + (i >> 12) + (size_t)way);
    memset(back, 0, SIZE);
    switch (way) {
    case 0:
        OK(cudaMemcpy(device, host, SIZE, H2D));
        OK(cudaMemcpy(back, device, SIZE, D2H));
        break;
    case 1:
        OK(cudaMemcpy(device, host, SIZE, DEFAULT));
        OK(cudaMemcpy(back, device, SIZE, DEFAULT));
        break;
    case 2:
        OK(cudaMemcpy_ptds(device, host, SIZE, H2D));
        OK(cudaMemcpy_ptds(back, device, SIZE, D2H));
        break;
    case 3:
        OK(cudaMemcpyAsync(device, host, SIZE, H2D, stream));
        OK(cudaMemcpyAsync(back, device, SIZE, D2H, stream));
        break;
    default:
        OK(cudaMemcpyAsync_ptsz(device, host, SIZE, DEFAULT, 0));
        OK(cudaMemcpyAsync_ptsz(back, device, SIZE, DEFAULT, 0));
    }
    OK(cudaDeviceSynchronize());
    if (!memcmp(host, back, SIZE)) return 0;
    printf("way %d: wrong bytes\n", way);
    return 1;
}

int main(void)
{
    int count = 0, version = 0;
    host = malloc(SIZE);
    back = malloc(SIZE);
    OK(cudaRuntimeGetVersion(&version));
    OK(cudaGetDeviceCount(&count));
    OK(cudaSetDevice(0));
    OK(cudaMalloc(&device, SIZE));
    OK(cudaStreamCreate(&stream));
    for (int way = 0; way < 5; way++)
        if (copy(way)) return 1;
    OK(cudaStreamSynchronize(stream));
    OK(cudaStreamDestroy(stream));
    OK(cudaFree(device));
    printf("runtime %d: right\n", version / 1000);
    return 0;
}
