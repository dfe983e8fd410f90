// A read-only view of one folder whose reads take time: what a network file system looks like.
//
//     slow-fs SOURCE MOUNTPOINT LATENCY_US [BYTES_PER_SECOND]
//
// Every read request waits for the latency (requests overlap, as they do on a network) and for its share of the
// bandwidth. It speaks the kernel's FUSE protocol on /dev/fuse itself, so it needs no library, and root to mount.
// It prints {"mounted": ...} when the folder is there, and unmounts on SIGTERM and SIGINT.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 64, MOST_FILES = 256, PAGES = 256, READ = PAGES * 4096, REQUEST = READ + 4096 };

static int fuse, folder;
static long latency_us;
static double bytes_per_second, busy_until;
static pthread_mutex_t link_lock = PTHREAD_MUTEX_INITIALIZER;
// Node N + 2 is the file names[N]; node 1 is the folder.
static char *names[MOST_FILES];
static uint64_t files;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void sleep_until(double when) {
    struct timespec t = {(time_t)when, (long)((when - (time_t)when) * 1e9)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
    }
}

// The latency of one request, then its place on the shared link.
static void delay(size_t bytes) {
    double due = now() + latency_us / 1e6;
    if (bytes_per_second > 0) {
        pthread_mutex_lock(&link_lock);
        double begin = now();
        busy_until = (busy_until > begin ? busy_until : begin) + bytes / bytes_per_second;
        double sent = busy_until + latency_us / 1e6;
        pthread_mutex_unlock(&link_lock);
        due = sent > due ? sent : due;
    }
    sleep_until(due);
}

static void reply(uint64_t unique, int error, const void *data, size_t bytes) {
    struct fuse_out_header head = {.len = sizeof head + (error ? 0 : bytes), .error = -error, .unique = unique};
    struct iovec parts[2] = {{&head, sizeof head}, {(void *)data, error ? 0 : bytes}};
    // ENOENT: the request was interrupted and nobody waits for it any more.
    if (writev(fuse, parts, 2) < 0 && errno != ENOENT && errno != ENODEV)
        perror("slow-fs: reply");
}

static int attributes(uint64_t node, struct fuse_attr *out) {
    struct stat s;
    int failed = node == 1 ? fstat(folder, &s)
                           : node - 2 >= files ? (errno = ENOENT, -1) : fstatat(folder, names[node - 2], &s, 0);
    if (failed)
        return errno;
    *out = (struct fuse_attr){.ino = node, .size = s.st_size, .blocks = s.st_blocks, .mtime = s.st_mtime,
                              .ctime = s.st_ctime, .atime = s.st_atime, .mode = s.st_mode, .nlink = 1,
                              .uid = s.st_uid, .gid = s.st_gid, .blksize = 4096};
    return 0;
}

static void initialise(uint64_t unique, const struct fuse_init_in *in) {
    struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION,
                                .max_readahead = in->max_readahead, .max_background = 64, .congestion_threshold = 48,
                                .max_write = READ, .time_gran = 1, .max_pages = PAGES,
                                .flags = in->flags & (FUSE_ASYNC_READ | FUSE_MAX_PAGES | FUSE_BIG_WRITES)};
    reply(unique, 0, &out, sizeof out);
}

static void look_up(uint64_t unique, const char *name) {
    struct fuse_entry_out out = {.attr_valid = 3600, .entry_valid = 3600};
    for (uint64_t i = 0; i < files; i++)
        if (!strcmp(names[i], name)) {
            out.nodeid = i + 2;
            reply(unique, attributes(out.nodeid, &out.attr), &out, sizeof out);
            return;
        }
    reply(unique, ENOENT, NULL, 0);
}

static void open_node(uint64_t unique, uint64_t node, const struct fuse_open_in *in) {
    if ((in->flags & O_ACCMODE) != O_RDONLY)
        return reply(unique, EROFS, NULL, 0);
    int fd = openat(folder, names[node - 2], O_RDONLY | O_CLOEXEC);
    struct fuse_open_out out = {.fh = fd, .open_flags = FOPEN_KEEP_CACHE};
    reply(unique, fd < 0 ? errno : 0, &out, sizeof out);
}

static void read_node(uint64_t unique, const struct fuse_read_in *in, char *buffer) {
    size_t size = in->size < READ ? in->size : READ;
    delay(size);
    ssize_t got = pread((int)in->fh, buffer, size, in->offset);
    reply(unique, got < 0 ? errno : 0, buffer, got < 0 ? 0 : got);
}

static void list(uint64_t unique, const struct fuse_read_in *in, char *buffer) {
    size_t used = 0;
    for (uint64_t i = in->offset; i < files; i++) {
        size_t length = strlen(names[i]), entry = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + length);
        if (used + entry > in->size)
            break;
        struct fuse_dirent *out = (struct fuse_dirent *)(buffer + used);
        memset(out, 0, entry);
        *out = (struct fuse_dirent){.ino = i + 2, .off = i + 1, .namelen = length, .type = DT_REG};
        memcpy(out->name, names[i], length);
        used += entry;
    }
    reply(unique, 0, buffer, used);
}

static void answer(const struct fuse_in_header *in, char *buffer) {
    const void *body = in + 1;
    struct fuse_attr_out attr = {.attr_valid = 3600};
    struct fuse_open_out opened = {0};
    struct fuse_statfs_out space = {.st = {.bsize = 4096, .namelen = 255}};
    switch (in->opcode) {
    case FUSE_INIT: return initialise(in->unique, body);
    case FUSE_LOOKUP: return look_up(in->unique, body);
    case FUSE_GETATTR: return reply(in->unique, attributes(in->nodeid, &attr.attr), &attr, sizeof attr);
    case FUSE_OPEN: return open_node(in->unique, in->nodeid, body);
    case FUSE_READ: return read_node(in->unique, body, buffer);
    case FUSE_OPENDIR: return reply(in->unique, 0, &opened, sizeof opened);
    case FUSE_READDIR: return list(in->unique, body, buffer);
    case FUSE_STATFS: return reply(in->unique, 0, &space, sizeof space);
    case FUSE_RELEASE:
        close((int)((const struct fuse_release_in *)body)->fh);
        return reply(in->unique, 0, NULL, 0);
    case FUSE_RELEASEDIR:
    case FUSE_FLUSH:
    case FUSE_FSYNC:
    case FUSE_DESTROY: return reply(in->unique, 0, NULL, 0);
    case FUSE_FORGET:
    case FUSE_BATCH_FORGET:
    case FUSE_INTERRUPT: return; // no answer is expected
    default: return reply(in->unique, ENOSYS, NULL, 0);
    }
}

static void *serve(void *unused) {
    char *request = aligned_alloc(4096, REQUEST), *buffer = aligned_alloc(4096, READ);
    for (;;) {
        ssize_t got = read(fuse, request, REQUEST);
        if (got < 0 && (errno == ENODEV || errno == EBADF)) // unmounted
            return unused;
        if (got >= (ssize_t)sizeof(struct fuse_in_header))
            answer((const struct fuse_in_header *)request, buffer);
    }
}

static void fail(const char *what) {
    printf("{\"error\": \"slow-fs: %s: %s\"}\n", what, strerror(errno));
    exit(1);
}

static void list_source(const char *source) {
    DIR *opened = opendir(source);
    if (!opened)
        fail(source);
    folder = open(source, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (struct dirent *entry; files < MOST_FILES && (entry = readdir(opened));) {
        struct stat s;
        if (!fstatat(folder, entry->d_name, &s, 0) && S_ISREG(s.st_mode))
            names[files++] = strdup(entry->d_name);
    }
    closedir(opened);
}

int main(int count, char **arguments) {
    if (count < 4)
        return fprintf(stderr, "usage: slow-fs SOURCE MOUNTPOINT LATENCY_US [BYTES_PER_SECOND]\n"), 2;
    list_source(arguments[1]);
    latency_us = atol(arguments[3]);
    bytes_per_second = count > 4 ? atof(arguments[4]) : 0;
    fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fuse < 0)
        fail("/dev/fuse");
    char options[100];
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=%u,group_id=%u,allow_other,max_read=%d", fuse, getuid(),
             getgid(), READ);
    if (mount("slow-fs", arguments[2], "fuse", MS_RDONLY | MS_NOSUID | MS_NODEV, options))
        fail("mount");
    prctl(PR_SET_PDEATHSIG, SIGTERM); // whoever started this may be killed
    sigset_t ends;
    sigemptyset(&ends);
    sigaddset(&ends, SIGTERM);
    sigaddset(&ends, SIGINT);
    pthread_sigmask(SIG_BLOCK, &ends, NULL);
    pthread_t thread;
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&thread, NULL, serve, NULL))
            fail("thread");
    printf("{\"mounted\": \"%s\"}\n", arguments[2]);
    fflush(stdout);
    int signal;
    sigwait(&ends, &signal);
    umount2(arguments[2], MNT_DETACH);
    return 0;
}
