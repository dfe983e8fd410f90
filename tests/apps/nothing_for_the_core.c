/*
 * Preloaded: refuses rewarm's core what REFUSED names (threads, mappings,
 * pages) after GRANTED times, and nobody else.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CALLER __builtin_return_address(0)

static int granted;

static int refused(void *caller, const char *what)
{
    Dl_info from;
    const char *name = getenv("REFUSED"), *most = getenv("GRANTED");
    return name && !strcmp(name, what) && dladdr(caller, &from) && strstr(from.dli_fname, "librewarm_core") &&
           __sync_fetch_and_add(&granted, 1) >= (most ? atoi(most) : 0);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *data)
{
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    if (refused(CALLER, "threads")) return EAGAIN;
    real = (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))dlsym(RTLD_NEXT, "pthread_create");
    return real(thread, attributes, start, data);
}

static void *map(void *caller, void *at, size_t bytes, int protection, int flags, int file, long offset)
{
    /* The core's small mappings (stacks of signal handlers and the like) are not meant. */
    if (bytes > 1 << 20 && refused(caller, "mappings")) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return (void *)syscall(SYS_mmap, at, bytes, protection, flags, file, offset);
}

void *mmap(void *at, size_t bytes, int protection, int flags, int file, off_t offset)
{
    return map(CALLER, at, bytes, protection, flags, file, offset);
}

void *mmap64(void *at, size_t bytes, int protection, int flags, int file, off64_t offset)
{
    return map(CALLER, at, bytes, protection, flags, file, offset);
}

int madvise(void *at, size_t bytes, int advice)
{
    if (advice == MADV_POPULATE_WRITE && refused(CALLER, "pages")) {
        errno = ENOMEM;
        return -1;
    }
    return (int)syscall(SYS_madvise, at, bytes, advice);
}
