// Memory of many kinds, and a tree of processes and threads that use it at once when the file `go` is there.
//
//     pages MODE MIB
//
// It runs in an empty folder, writes `ready` when all is in place, and a line for each process to `result`: `ok NAME`
// or `bad ...`. Then it waits for the file `end`.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, THREADS = 4, STACK = 96 };

static char *wiped, *plain, *huge, *parts, *sparse, *moved, *dropped, *freed, *heap;
static size_t bytes;
static int threads_ok;

static void wait_for(const char *name) {
    while (access(name, F_OK))
        usleep(500);
}

static void say(const char *text) {
    int fd = open("result", O_WRONLY | O_APPEND | O_CREAT, 0600);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        abort();
    close(fd);
}

static void bad(const char *what, size_t page, uint64_t found, uint64_t wanted) {
    char line[200];
    snprintf(line, sizeof line, "bad %s page %zu: %016lx instead of %016lx\n", what, page, found, wanted);
    say(line);
    _exit(1);
}

static uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint64_t word(uint64_t kind, size_t page, size_t index) {
    return mix((kind << 48) + page * 512 + index + 1);
}

static void fill(char *base, uint64_t kind, size_t page) {
    uint64_t *at = (uint64_t *)(base + page * PAGE);
    for (size_t i = 0; i < PAGE / 8; i++)
        at[i] = word(kind, page, i);
}

static void check_at(const char *what, const char *address, uint64_t kind, size_t page) {
    const uint64_t *at = (const uint64_t *)address;
    for (size_t i = 0; i < PAGE / 8; i++)
        if (at[i] != word(kind, page, i))
            bad(what, page, at[i], word(kind, page, i));
}

static void check(const char *what, const char *base, uint64_t kind, size_t page) {
    check_at(what, base + page * PAGE, kind, page);
}

static void check_zero(const char *what, const char *base, size_t page) {
    const uint64_t *at = (const uint64_t *)(base + page * PAGE);
    for (size_t i = 0; i < PAGE / 8; i++)
        if (at[i])
            bad(what, page, at[i], 0);
}

static char *map(size_t length) {
    char *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        abort();
    return at;
}

static size_t pages(void) {
    return bytes / PAGE;
}

static void prepare(void) {
    plain = map(bytes), huge = map(bytes), parts = map(bytes), sparse = map(bytes);
    moved = map(bytes), dropped = map(bytes), freed = map(bytes), heap = malloc(bytes);
    madvise(huge, bytes, MADV_HUGEPAGE);
    wiped = map(16 * PAGE);
    madvise(wiped, 16 * PAGE, MADV_WIPEONFORK);
    for (size_t i = 0; i < 16; i++)
        fill(wiped, 10, i);
    heap += PAGE - (uintptr_t)heap % PAGE;
    for (size_t i = 0; i < pages(); i++) {
        fill(plain, 1, i), fill(huge, 2, i), fill(parts, 3, i);
        fill(moved, 5, i), fill(dropped, 6, i), fill(freed, 7, i);
        if (i % 3 == 0)
            fill(sparse, 4, i);
        if (i + 1 < pages())
            fill(heap, 8, i);
    }
    for (size_t i = 0; i + 32 <= pages(); i += 32) {
        mprotect(parts + i * PAGE, 8 * PAGE, PROT_READ);
        mprotect(parts + (i + 8) * PAGE, 8 * PAGE, PROT_NONE);
    }
}

// From a place of its own on, in steps that fit no block.
static void check_plain(size_t from) {
    size_t step = 7919;
    for (size_t i = 0, page = from % pages(); i < pages(); i++, page = (page + step) % pages())
        check("plain", plain, 1, page);
    for (size_t i = 0; i < pages(); i++)
        check("huge", huge, 2, i);
    for (size_t i = 0; i < pages(); i++)
        i % 3 ? check_zero("sparse", sparse, i) : check("sparse", sparse, 4, i);
    for (size_t i = 0; i + 1 < pages(); i++)
        check("heap", heap, 8, i);
}

static void check_parts(void) {
    for (size_t i = 0; i + 32 <= pages(); i += 32) {
        mprotect(parts + (i + 8) * PAGE, 8 * PAGE, PROT_READ);
        mprotect(parts + (i + 16) * PAGE, 4 * PAGE, PROT_READ);
    }
    for (size_t i = 0; i < pages(); i++)
        check("parts", parts, 3, i);
}

static void *thread(void *number) {
    uint64_t kind = 16 + (uintptr_t)number;
    _Alignas(PAGE) volatile char stack[STACK * PAGE];
    for (size_t i = 0; i < STACK; i++)
        fill((char *)stack, kind, i);
    __atomic_add_fetch(&threads_ok, 1, __ATOMIC_SEQ_CST);
    wait_for("go");
    for (size_t i = 0; i < STACK; i++)
        check("stack", (char *)stack, kind, i);
    check_plain(kind * 1000);
    __atomic_sub_fetch(&threads_ok, 1, __ATOMIC_SEQ_CST);
    return NULL;
}

// Moves memory in pieces to where it grows, and back beside itself.
static void move(void) {
    size_t piece = bytes / 8;
    for (size_t at = 0; at < bytes; at += piece) {
        char *to = map(2 * piece);
        to = mremap(moved + at, piece, 2 * piece, MREMAP_MAYMOVE | MREMAP_FIXED, to);
        if (to == MAP_FAILED)
            abort();
        if (at / piece % 2)
            madvise(to + piece / 2, piece / 2, MADV_DONTNEED);
        for (size_t i = 0; i < 2 * piece / PAGE; i++)
            if (i * PAGE >= piece || (at / piece % 2 && i * PAGE >= piece / 2))
                check_zero("moved", to, i);
            else
                check_at("moved", to + i * PAGE, 5, at / PAGE + i);
    }
}

// Gives memory back in pieces; what comes there is zero, and stays what is written.
static void drop(void) {
    for (size_t i = 0; i + 64 <= pages(); i += 64) {
        if (madvise(dropped + i * PAGE, 24 * PAGE, MADV_DONTNEED))
            abort();
        check_zero("dropped", dropped, i + 3);
        fill(dropped, 9, i + 5);
        munmap(freed + i * PAGE, 16 * PAGE);
        char *again = mmap(freed + i * PAGE, 8 * PAGE, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (again != MAP_FAILED)
            check_zero("mapped again", again, 2);
    }
    for (size_t i = 0; i < pages(); i++) {
        size_t at = i % 64;
        if (i / 64 * 64 + 64 > pages())
            continue;
        if (at >= 24)
            check("dropped", dropped, 6, i);
        else if (at == 5)
            check("dropped", dropped, 9, i);
        else
            check_zero("dropped", dropped, i);
        if (at >= 16)
            check("freed", freed, 7, i);
    }
}

static void child(int number) {
    for (size_t i = number; i < pages(); i += 5)
        fill(plain, 32 + number, i);
    say("");
    int fd = open(number ? "child1" : "child0", O_CREAT | O_WRONLY, 0600);
    close(fd);
    wait_for("go");
    for (size_t i = 0; i < pages(); i++)
        check("child", plain, i % 5 == (size_t)number ? 32 + number : 1, i);
    move();
    say(number ? "ok child1\n" : "ok child0\n");
    wait_for("end");
    _exit(0);
}

// A child that is forked while pages are missing has all of them.
static void fork_one(const char *name) {
    pid_t pid = fork();
    if (pid == 0) {
        check_plain(4242);
        for (size_t i = 0; i < 200; i++)
            fill(plain, 40, i);
        char line[100];
        snprintf(line, sizeof line, "ok %s\n", name);
        say(line);
        _exit(0);
    }
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
        bad(name, 0, status, 0);
}

// Two children at a time move their memory about as soon as they live, and then look at all of it.
static void moves_at_once(void) {
    enum { ROUNDS = 6, PARTS = 64 };
    size_t part = bytes / PARTS;
    for (int round = 0; round < ROUNDS; round++) {
        if (fork() == 0) {
            for (size_t i = 0; i < 16; i++)
                check_zero("wiped", wiped, i);
            char *parts_of[PARTS], *room = map(bytes + PARTS * PAGE);
            for (size_t i = 0; i < PARTS; i++)
                parts_of[i] = plain + i * part;
            for (size_t n = 0; n < 3 * PARTS; n++) {
                size_t i = (PARTS - 1) - n % PARTS;
                char *to = n / PARTS % 2 ? plain + i * part : room + i * (part + PAGE);
                if (mremap(parts_of[i], part, part, MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
                    abort();
                parts_of[i] = to;
            }
            for (size_t i = 0; i < PARTS; i++)
                for (size_t j = 0; j < part / PAGE; j++)
                    check_at("moved by a child", parts_of[i] + j * PAGE, 1, i * part / PAGE + j);
            _exit(0);
        }
        int status;
        if (round % 2 && (wait(&status) < 0 || status || wait(&status) < 0 || status))
            bad("moving child", round, status, 0);
    }
    for (size_t i = 0; i < 16; i++)
        check("not wiped", wiped, 10, i);
}

// Many children, one after another, of whom none lives long.
static void forks(void) {
    for (int i = 0; i < 100; i++) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(0);
        int status;
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
            bad("fork", i, status, 0);
    }
    check_plain(7);
}

static void ready(void) {
    int fd = open("ready", O_CREAT | O_WRONLY, 0600);
    close(fd);
}

int main(int count, char **arguments) {
    if (count != 3)
        return 2;
    bytes = strtoul(arguments[2], NULL, 10) << 20;
    prepare();
    if (!strcmp(arguments[1], "simple")) {
        ready();
        wait_for("go");
        check_plain(0);
        say("ok root\n");
        wait_for("end");
        return 0;
    }
    if (strcmp(arguments[1], "tree")) {
        ready();
        wait_for("go");
        strcmp(arguments[1], "forks") ? moves_at_once() : forks();
        say("ok root\n");
        wait_for("end");
        return 0;
    }
    for (int i = 0; i < 2; i++) {
        if (fork() == 0)
            child(i);
        wait_for(i ? "child1" : "child0");
    }
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, thread, (void *)i))
            abort();
    while (__atomic_load_n(&threads_ok, __ATOMIC_SEQ_CST) < THREADS)
        usleep(500);
    ready();
    wait_for("go");
    fork_one("first fork");
    drop();
    check_parts();
    move();
    fork_one("second fork");
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    check_plain(1);
    say("ok root\n");
    wait_for("end");
    for (int i = 0; i < 2; i++)
        wait(NULL);
    return 0;
}
