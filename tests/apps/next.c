/*
 * Preloaded beside rewarm: stands before `malloc` and `cuMemcpyHtoD_v2` and
 * finds what is behind it with RTLD_NEXT, as tracers and allocators do.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

static int copies;
static __thread int inside;

int next_counted(void) { return copies; }

void *malloc(size_t bytes)
{
    static void *(*real)(size_t);
    static char early[1 << 16];
    static size_t used;
    if (!real) {
        if (inside) { /* dlsym may allocate */
            used += (bytes + 15) & ~(size_t)15;
            return used <= sizeof early ? early + used - ((bytes + 15) & ~(size_t)15) : NULL;
        }
        inside = 1;
        real = (void *(*)(size_t))dlsym(RTLD_NEXT, "malloc");
        inside = 0;
    }
    return real(bytes);
}

int cuMemcpyHtoD_v2(unsigned long long dst, const void *src, size_t bytes)
{
    static int (*real)(unsigned long long, const void *, size_t);
    if (!real) real = (int (*)(unsigned long long, const void *, size_t))dlsym(RTLD_NEXT, "cuMemcpyHtoD_v2");
    copies++;
    return real ? real(dst, src, bytes) : 500;
}
