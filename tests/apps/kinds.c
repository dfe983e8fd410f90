// One mapping of every kind, and a deleted file that is open.
//
//     kinds FOLDER
//
// It fills them, writes FOLDER/ready, and waits to be ended.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MIB = 1 << 20 };

// Behind it is a page of nothing: the kernel joins what lies at each other.
static char *map(size_t bytes, int flags, int fd) {
    char *at = mmap(NULL, bytes + 4096, PROT_NONE, flags, fd, 0);
    if (at == MAP_FAILED || mprotect(at, bytes, PROT_READ | PROT_WRITE))
        abort();
    return at;
}

// Every page another content, as of weights.
static void fill(char *at, size_t bytes, unsigned seed) {
    for (size_t i = 0; i < bytes; i += 4)
        *(unsigned *)(at + i) = seed += 0x9e3779b9u;
}

int main(int argc, char **argv) {
    char name[4096];
    if (argc != 2)
        return 2;
    // 40 MiB of weights, 4 MiB of zeros that were written, 4 MiB of the same page.
    fill(map(40 * MIB, MAP_PRIVATE | MAP_ANONYMOUS, -1), 40 * MIB, 1);
    memset(map(4 * MIB, MAP_PRIVATE | MAP_ANONYMOUS, -1), 0, 4 * MIB);
    memset(map(4 * MIB, MAP_PRIVATE | MAP_ANONYMOUS, -1), 7, 4 * MIB);
    fill(map(3 * MIB, MAP_SHARED | MAP_ANONYMOUS, -1), 3 * MIB, 2);
    int memfd = memfd_create("scratch", 0);
    if (ftruncate(memfd, 2 * MIB))
        return 1;
    fill(map(2 * MIB, MAP_SHARED, memfd), 2 * MIB, 3);
    snprintf(name, sizeof name, "%s/weights.bin", argv[1]);
    int file = open(name, O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, 4 * MIB))
        return 1;
    fill(map(4 * MIB, MAP_PRIVATE, file), MIB, 4);
    fill(sbrk(2 * MIB), 2 * MIB, 5);
    snprintf(name, sizeof name, "%s/ghost", argv[1]);
    int ghost = open(name, O_RDWR | O_CREAT, 0600);
    if (ghost < 0 || write(ghost, argv, 0) || ftruncate(ghost, 0) || unlink(name))
        return 1;
    for (int i = 0; i < 100; i++)
        if (write(ghost, "a line of a deleted file........", 32) != 32)
            return 1;
    snprintf(name, sizeof name, "%s/ready", argv[1]);
    close(open(name, O_WRONLY | O_CREAT, 0600));
    for (;;)
        pause();
}
