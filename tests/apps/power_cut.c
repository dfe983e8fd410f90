/* Preloaded: records in POWER_CUT_LOG, in order, what a program does to the files in
 * the folder POWER_CUT_FOLDER, so that a test can tell what a power cut would leave.
 * A record is a line, and for a write the bytes follow. Files are told by numbers,
 * as inodes are used again. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MOST_FILES 4096

static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;
static ino_t inodes[MOST_FILES]; /* by number; 0: nobody's any more */
static int files;
static int log_fd = -1;

#define REAL(name)                                                            \
    static __typeof__(&name) real;                                            \
    if (!real)                                                                \
        real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static void fail(const char *what)
{
    fprintf(stderr, "power_cut: %s\n", what);
    _exit(97);
}

static void put(const void *bytes, size_t count)
{
    const char *at = bytes;
    while (count > 0) {
        long done = syscall(SYS_write, log_fd, at, count);
        if (done <= 0)
            fail("the log cannot be written");
        at += done;
        count -= (size_t)done;
    }
}

static void record(const char *format, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= sizeof line)
        fail("a name is too long");
    put(line, (size_t)length);
}

/* Whether `fd` is the folder. */
static int is_folder(int fd)
{
    struct stat folder, found;
    if (log_fd < 0)
        return 0;
    return stat(getenv("POWER_CUT_FOLDER"), &folder) == 0 && fstat(fd, &found) == 0
        && folder.st_dev == found.st_dev && folder.st_ino == found.st_ino;
}

/* The number of an open file in the folder, -1 for others. */
static int number_of(int fd)
{
    struct stat found;
    if (log_fd < 0 || fstat(fd, &found) != 0 || !S_ISREG(found.st_mode))
        return -1;
    for (int number = files - 1; number >= 0; number--)
        if (inodes[number] == found.st_ino)
            return number;
    return -1;
}

__attribute__((constructor)) static void begin(void)
{
    const char *log = getenv("POWER_CUT_LOG");
    if (!log || !getenv("POWER_CUT_FOLDER"))
        fail("POWER_CUT_LOG and POWER_CUT_FOLDER are needed");
    log_fd = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (log_fd < 0)
        fail("the log cannot be opened");
}

int openat(int folder, const char *name, int flags, ...)
{
    REAL(openat);
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    if (!is_folder(folder))
        return real(folder, name, flags, mode);
    pthread_mutex_lock(&order);
    struct stat found;
    int is_new = fstatat(folder, name, &found, AT_SYMLINK_NOFOLLOW) != 0;
    int fd = real(folder, name, flags, mode);
    int error = errno;
    if (fd >= 0 && fstat(fd, &found) == 0 && S_ISREG(found.st_mode)) {
        if (flags & O_TRUNC)
            fail("truncation by open is not recorded");
        int number = is_new ? -1 : number_of(fd);
        if (number < 0) {
            if (files == MOST_FILES)
                fail("too many files");
            for (int old = 0; old < files; old++)
                if (inodes[old] == found.st_ino)
                    inodes[old] = 0;
            number = files++;
            inodes[number] = found.st_ino;
            record("%s %d %s\n", is_new ? "create" : "found", number, name);
        }
    }
    pthread_mutex_unlock(&order);
    errno = error;
    return fd;
}

/* Does what is real, and records it if it was done; both before anything else. */
#define IN_ORDER(type, call, condition, ...)                                  \
    do {                                                                      \
        pthread_mutex_lock(&order);                                           \
        type result = (call);                                                 \
        int error = errno;                                                    \
        if (condition) {                                                      \
            __VA_ARGS__;                                                      \
        }                                                                     \
        pthread_mutex_unlock(&order);                                         \
        errno = error;                                                        \
        return result;                                                        \
    } while (0)

static void record_write(int fd, const void *bytes, ssize_t count, off_t offset)
{
    int number = number_of(fd);
    if (number < 0)
        return;
    record("write %d %lld %zd\n", number, (long long)offset, count);
    put(bytes, (size_t)count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset)
{
    REAL(pwrite64);
    IN_ORDER(ssize_t, real(fd, bytes, count, offset), result > 0,
             record_write(fd, bytes, result, offset));
}

ssize_t write(int fd, const void *bytes, size_t count)
{
    REAL(write);
    IN_ORDER(ssize_t, real(fd, bytes, count), result > 0 && number_of(fd) >= 0,
             record_write(fd, bytes, result, lseek(fd, 0, SEEK_CUR) - result));
}

int ftruncate64(int fd, off64_t bytes)
{
    REAL(ftruncate64);
    IN_ORDER(int, real(fd, bytes), result == 0 && number_of(fd) >= 0,
             record("truncate %d %lld\n", number_of(fd), (long long)bytes));
}

int fallocate(int fd, int mode, off_t offset, off_t bytes)
{
    REAL(fallocate);
    IN_ORDER(int, real(fd, mode, offset, bytes), result == 0 && number_of(fd) >= 0,
             record("allocate %d %lld %lld\n", number_of(fd), (long long)offset,
                    (long long)bytes));
}

int fsync(int fd)
{
    REAL(fsync);
    IN_ORDER(int, real(fd), result == 0,
             if (is_folder(fd)) record("sync folder\n");
             else if (number_of(fd) >= 0) record("sync %d\n", number_of(fd)));
}

int fdatasync(int fd)
{
    return fsync(fd);
}

int renameat(int from_folder, const char *from, int to_folder, const char *to)
{
    REAL(renameat);
    IN_ORDER(int, real(from_folder, from, to_folder, to),
             result == 0 && is_folder(from_folder), record("rename %s %s\n", from, to));
}

int unlinkat(int folder, const char *name, int flags)
{
    REAL(unlinkat);
    IN_ORDER(int, real(folder, name, flags), result == 0 && is_folder(folder),
             record("unlink %s\n", name));
}
