/*
 * Preloaded: files whose name ends in FAULTY_NAME are faulty, in the way of
 * FAULTY_DO.
 *   eio     reads fail that cover the byte at FAULTY_AT
 *   hang    reads never end that cover the byte at FAULTY_AT
 *   late    every read takes 2 ms more
 *   change  the byte at FAULTY_AT is another one from its second reading on
 *   vanish  the file or folder is removed just before it is opened
 *   refuse  it cannot be opened
 *   nolock  no memory can be locked, whatever the file
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_mode(const char *mode)
{
    const char *set = getenv("FAULTY_DO");
    return set && !strcmp(set, mode);
}

static int is_faulty(const char *path)
{
    const char *name = getenv("FAULTY_NAME");
    size_t length = strlen(path), end = name ? strlen(name) : 0;
    return end && length >= end && !strcmp(path + length - end, name);
}

/* Whether the file may be opened: 0, or -1 with errno. */
static int prepare_open(const char *path)
{
    if (!is_faulty(path)) return 0;
    if (is_mode("vanish")) remove(path);
    if (!is_mode("refuse")) return 0;
    errno = EACCES;
    return -1;
}

int open64(const char *path, int flags, ...)
{
    static int (*real)(const char *, int, ...);
    va_list list;
    va_start(list, flags);
    int mode = va_arg(list, int);
    va_end(list);
    if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
    return prepare_open(path) ? -1 : real(path, flags, mode);
}

DIR *opendir(const char *path)
{
    static DIR *(*real)(const char *);
    if (!real) real = (DIR * (*)(const char *)) dlsym(RTLD_NEXT, "opendir");
    return prepare_open(path) ? NULL : real(path);
}

ssize_t pread64(int fd, void *to, size_t bytes, off64_t offset)
{
    static ssize_t (*real)(int, void *, size_t, off64_t);
    static atomic_int readings;
    char link[64], path[4096];
    if (!real) real = (ssize_t(*)(int, void *, size_t, off64_t))dlsym(RTLD_NEXT, "pread64");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    const char *at_text = getenv("FAULTY_AT");
    off64_t at = at_text ? atoll(at_text) : 0;
    if (is_mode("late") && is_faulty(path)) usleep(2000);
    int covers = at >= offset && at < offset + (off64_t)bytes;
    if (!covers || !is_faulty(path)) return real(fd, to, bytes, offset);
    if (is_mode("eio")) {
        errno = EIO;
        return -1;
    }
    while (is_mode("hang")) pause();
    ssize_t got = real(fd, to, bytes, offset);
    if (is_mode("change") && got > at - offset && atomic_fetch_add(&readings, 1) > 0)
        ((unsigned char *)to)[at - offset] ^= 0x55;
    return got;
}

int mlock2(const void *address, size_t bytes, unsigned flags)
{
    static int (*real)(const void *, size_t, unsigned);
    if (!real) real = (int (*)(const void *, size_t, unsigned))dlsym(RTLD_NEXT, "mlock2");
    if (!is_mode("nolock")) return real(address, bytes, flags);
    errno = ENOMEM;
    return -1;
}
