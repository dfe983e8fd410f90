// Brings files into the page cache as vmtouch does: maps each, asks for read-ahead and touches every page.
//
//     touch FILE...
#include "common.h"

#include <fcntl.h>
#include <sys/stat.h>

static uint64_t touch(const char *name, size_t *bytes) {
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    struct stat s;
    if (fd < 0 || fstat(fd, &s)) die("%s cannot be opened", name);
    const volatile char *map = mmap(NULL, s.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) die("%s cannot be mapped", name);
    madvise((void *)map, s.st_size, MADV_WILLNEED);
    uint64_t sum = 0;
    for (off_t at = 0; at < s.st_size; at += 4096) sum += map[at];
    *bytes += s.st_size;
    munmap((void *)map, s.st_size);
    close(fd);
    return sum;
}

int main(int count, char **files) {
    uint64_t sum = 0;
    size_t bytes = 0;
    double begin = now_ns();
    for (int i = 1; i < count; i++) sum += touch(files[i], &bytes);
    printf("{\"bytes\": %zu, \"seconds\": %.6f, \"sum\": %lu}\n", bytes, (now_ns() - begin) / 1e9, sum);
    return 0;
}
