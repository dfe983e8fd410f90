/*
 * Every spelling of a linear copy, at sizes around every threshold.
 *
 *   sizes MIN_COPY CHUNK LARGEST      (bytes)
 *
 * Each copy is compared byte by byte, with a margin on both sides that must
 * stay as it was. The source is overwritten right after a copy to the device.
 */
#include "cuda_min.h"

#define MARGIN 64

static unsigned char *source, *expected, *back;
static CUdeviceptr device;
static CUstream stream;
static uint64_t seed;
static int copies;

enum way { PLAIN, PTDS, ASYNC, ASYNC_PTSZ, UNIFIED, UNIFIED_PTDS, UNIFIED_ASYNC, UNIFIED_ASYNC_PTSZ, WAYS };

static int to_device(enum way way, CUdeviceptr dst, const void *src, size_t bytes)
{
    CUdeviceptr from = (CUdeviceptr)src;
    switch (way) {
    case PLAIN: return cu.cuMemcpyHtoD_v2(dst, src, bytes);
    case PTDS: return cu.cuMemcpyHtoD_v2_ptds(dst, src, bytes);
    case ASYNC: return cu.cuMemcpyHtoDAsync_v2(dst, src, bytes, stream);
    case ASYNC_PTSZ: return cu.cuMemcpyHtoDAsync_v2_ptsz(dst, src, bytes, NULL);
    case UNIFIED: return cu.cuMemcpy(dst, from, bytes);
    case UNIFIED_PTDS: return cu.cuMemcpy_ptds(dst, from, bytes);
    case UNIFIED_ASYNC: return cu.cuMemcpyAsync(dst, from, bytes, stream);
    default: return cu.cuMemcpyAsync_ptsz(dst, from, bytes, NULL);
    }
}

static int to_host(enum way way, void *dst, CUdeviceptr src, size_t bytes)
{
    CUdeviceptr to = (CUdeviceptr)dst;
    switch (way) {
    case PLAIN: return cu.cuMemcpyDtoH_v2(dst, src, bytes);
    case PTDS: return cu.cuMemcpyDtoH_v2_ptds(dst, src, bytes);
    case ASYNC: return cu.cuMemcpyDtoHAsync_v2(dst, src, bytes, stream);
    case ASYNC_PTSZ: return cu.cuMemcpyDtoHAsync_v2_ptsz(dst, src, bytes, NULL);
    case UNIFIED: return cu.cuMemcpy(to, src, bytes);
    case UNIFIED_PTDS: return cu.cuMemcpy_ptds(to, src, bytes);
    case UNIFIED_ASYNC: return cu.cuMemcpyAsync(to, src, bytes, stream);
    default: return cu.cuMemcpyAsync_ptsz(to, src, bytes, NULL);
    }
}

static void same(const unsigned char *found, size_t bytes, size_t skew, enum way way, const char *what)
{
    if (!memcmp(found, expected, bytes)) return;
    size_t at = 0;
    while (found[at] == expected[at]) at++;
    printf("%s: way %d, %zu bytes, skew %zu: wrong at %zu: %02x, not %02x\n", what, way, bytes, skew, at, found[at],
           expected[at]);
    fflush(stdout);
    _exit(1);
}

static void round_trip(enum way way, size_t bytes, size_t skew)
{
    size_t whole = bytes + 2 * MARGIN;
    unsigned char *from = source + MARGIN + skew, *to = back + MARGIN + 2 * skew;
    copies++;
    memset(expected, 0x11, whole);
    pattern(expected + MARGIN, bytes, ++seed);
    OK(cu.cuMemsetD8_v2(device, 0x11, whole + skew));
    OK(cu.cuCtxSynchronize());
    memcpy(from, expected + MARGIN, bytes);
    OK(to_device(way, device + MARGIN, bytes ? from : NULL, bytes));
    memset(from, 0xee, bytes);
    OK(cu.cuCtxSynchronize());
    memset(back, 0x22, whole);
    OK(cu.cuMemcpyDtoH_v2(back, device, whole));
    same(back, whole, skew, way, "to the device");

    memset(expected, 0x33, MARGIN);
    memset(expected + MARGIN + bytes, 0x33, MARGIN);
    memset(back, 0x33, whole + 2 * skew);
    OK(to_host(way, bytes ? to : NULL, device + MARGIN, bytes));
    same(to - MARGIN, whole, skew, way, "to the host");
}

int main(int argc, char **argv)
{
    MUST(argc == 4);
    size_t least = strtoull(argv[1], NULL, 10), chunk = strtoull(argv[2], NULL, 10);
    size_t largest = strtoull(argv[3], NULL, 10);
    cuda_start();
    source = malloc(largest + 4096);
    expected = malloc(largest + 4096);
    back = malloc(largest + 4096);
    OK(cu.cuMemAlloc_v2(&device, largest + 4096));
    OK(cu.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    size_t around[] = {4096, least, chunk, 2 * chunk, 8 * chunk, 64u << 10, 256u << 10};
    for (enum way way = 0; way < WAYS; way++) {
        round_trip(way, 0, 0);
        round_trip(way, 1, 1);
        for (size_t i = 0; i < sizeof around / sizeof *around; i++)
            for (int beside = -1; beside <= 1; beside++) round_trip(way, around[i] + (size_t)beside, (i * 13 + 1) % 64);
    }
    round_trip(PLAIN, largest, 1);
    round_trip(ASYNC_PTSZ, largest, 7);
    printf("%d round trips\n", copies);
    return 0;
}
