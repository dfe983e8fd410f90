/*
 * A driver of long ago, as libcuda.so.1: it has what a program needs for a copy,
 * and little of what rewarm looks for. Each function jumps to that of the
 * library that REAL_DRIVER names.
 */
#include <dlfcn.h>
#include <stdlib.h>

#define FUNCTIONS(F)                                                                                                 \
    F(cuInit) F(cuDriverGetVersion) F(cuDeviceGetCount) F(cuDeviceGet) F(cuDevicePrimaryCtxRetain)                  \
    F(cuCtxGetCurrent) F(cuCtxSetCurrent) F(cuCtxSynchronize) F(cuMemAlloc_v2) F(cuMemFree_v2) F(cuMemHostAlloc)    \
    F(cuMemFreeHost) F(cuMemcpyHtoD_v2) F(cuMemcpyDtoH_v2) F(cuMemsetD8_v2)

/* Through a hidden pointer each, which the constructor fills. */
#define FUNCTION(name)                                                                                               \
    __attribute__((visibility("hidden"))) void *old_##name;                                                          \
    __asm__(".text\n.globl " #name "\n.type " #name ", @function\n" #name ": jmp *old_" #name "(%rip)\n");
FUNCTIONS(FUNCTION)

__attribute__((constructor)) static void find(void)
{
    void *driver = dlopen(getenv("REAL_DRIVER"), RTLD_NOW | RTLD_LOCAL);
    if (!driver) abort();
#define FIND(name) old_##name = dlsym(driver, #name);
    FUNCTIONS(FIND)
}
