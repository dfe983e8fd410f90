/*
 * Preloaded: lets the process believe that it may use eight CPUs, so that the
 * tests have as many lanes on a machine with two as on a large one.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/syscall.h>

static long ask_kernel(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

long syscall(long number, ...)
{
    va_list list;
    long of[6];
    va_start(list, number);
    for (int i = 0; i < 6; i++) of[i] = va_arg(list, long);
    va_end(list);
    if (number == SYS_sched_getaffinity && of[1] >= 8) {
        memset((void *)of[2], 0, 8);
        *(unsigned char *)of[2] = 0xff;
        return 8;
    }
    return ask_kernel(number, of[0], of[1], of[2], of[3], of[4], of[5]);
}

/* A control group's quota would be counted too. */
int open64(const char *path, int flags, ...)
{
    va_list list;
    va_start(list, flags);
    int mode = va_arg(list, int);
    va_end(list);
    if (!strcmp(path, "/proc/self/cgroup")) {
        errno = ENOENT;
        return -1;
    }
    return (int)ask_kernel(SYS_openat, AT_FDCWD, (long)path, flags, mode, 0, 0);
}
