/* Preloaded: rewarm's core takes a while to open, as from a slow disk. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>
#include <unistd.h>

void *dlopen(const char *path, int flags)
{
    void *(*real)(const char *, int) = (void *(*)(const char *, int))dlsym(RTLD_NEXT, "dlopen");
    if (path && strstr(path, "librewarm_core")) usleep(200000);
    return real(path, flags);
}
