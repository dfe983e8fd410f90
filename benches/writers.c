// What files take without a GPU: threads that write memory to fresh files, a file each.
//   writers DIR BYTES [--threads 8]
// Each writes its share in pieces of 4 MiB out of a ring of 16 MiB. Prints {"bytes", "seconds"}; the files are removed.
#include "common.h"
#include <fcntl.h>

#define PIECE (4 * MIB)
#define RING (4 * PIECE)

typedef struct {
    char path[4096], *ring;
    size_t bytes;
    pthread_barrier_t *start;
    double end;
    int failed;
} Writer;

static void *write_all(void *raw) {
    Writer *one = raw;
    int file = open(one->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    one->failed = file < 0;
    pthread_barrier_wait(one->start);
    for (size_t at = 0; at < one->bytes && !one->failed;) {
        size_t left = one->bytes - at, into = at % RING, length = PIECE - into % PIECE;
        ssize_t done = pwrite(file, one->ring + into, length < left ? length : left, (off_t)at);
        if (done <= 0) one->failed = 1;
        at += (size_t)(done > 0 ? done : 0);
    }
    one->end = now_ns();
    if (file >= 0) close(file);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc < 3) die("writers DIR BYTES [--threads N]");
    size_t bytes = strtoull(argv[2], NULL, 0), threads = strtoull(option(argc, argv, "--threads", "8"), NULL, 0);
    if (threads < 1 || threads > 64) die("1 to 64 threads");
    static Writer writer[64];
    pthread_t thread[64];
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, (unsigned)threads + 1);
    for (size_t i = 0; i < threads; i++) {
        Writer *one = &writer[i];
        if (snprintf(one->path, sizeof one->path, "%s/writer-%d-%zu", argv[1], getpid(), i) >= (int)sizeof one->path)
            die("the name of the folder is too long");
        one->bytes = bytes / threads;
        one->start = &start;
        one->ring = map_anonymous(RING);
        chore(FILL, one->ring, RING, 0, i + 1);
        if (pthread_create(&thread[i], NULL, write_all, one)) die("no thread");
    }
    pthread_barrier_wait(&start);
    double begin = now_ns(), end = begin;
    int failed = 0;
    for (size_t i = 0; i < threads; i++) {
        pthread_join(thread[i], NULL);
        if (writer[i].end > end) end = writer[i].end;
        failed |= writer[i].failed;
    }
    for (size_t i = 0; i < threads; i++) unlink(writer[i].path);
    if (failed) die("cannot write %zu bytes to %s", bytes, argv[1]);
    printf("{\"bytes\": %zu, \"seconds\": %.6f}\n", bytes / threads * threads, (end - begin) / 1e9);
    return 0;
}
