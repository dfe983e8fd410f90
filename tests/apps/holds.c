/*
 * Copies once to the device, says "ready", and stays until its input ends.
 *
 *   holds BYTES
 */
#include "cuda_min.h"

int main(int count, char **arguments)
{
    size_t bytes = count > 1 ? strtoull(arguments[1], NULL, 10) : 1;
    CUdevice device;
    CUcontext context;
    CUdeviceptr address;
    cuda_open();
    if (cu.cuInit(0) || cu.cuDeviceGet(&device, 0) || cu.cuDevicePrimaryCtxRetain(&context, device) ||
        cu.cuCtxSetCurrent(context) || cu.cuMemAlloc_v2(&address, bytes) ||
        cu.cuMemcpyHtoD_v2(address, calloc(1, bytes), bytes))
        return 1;
    puts("ready");
    fflush(stdout);
    while (getchar() != EOF) {
    }
    return 0;
}
