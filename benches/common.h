// What the bench programs share: clock, statistics, JSON lines, data that can be checked.
#ifndef REWARM_BENCH_COMMON_H
#define REWARM_BENCH_COMMON_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define GIB ((size_t)1 << 30)

static inline double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

__attribute__((noreturn, format(printf, 1, 2))) static inline void die(const char *format, ...) {
    va_list rest;
    va_start(rest, format);
    char text[512];
    vsnprintf(text, sizeof text, format, rest);
    va_end(rest);
    for (char *c = text; *c; c++)
        if (*c == '"' || *c == '\\' || *c == '\n') *c = '\'';
    printf("{\"error\": \"%s\"}\n", text);
    fflush(stdout);
    _exit(3);
}

// ---------------------------------------------------------------- statistics

static inline int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct {
    double *v;
    size_t n, room;
} Times;

static inline void times_add(Times *t, double ns) {
    if (t->n == t->room) {
        t->room = t->room ? t->room * 2 : 64;
        t->v = realloc(t->v, t->room * sizeof *t->v);
        if (!t->v) die("out of memory");
    }
    t->v[t->n++] = ns;
}

// Prints the members that every line has; the caller opens and closes the object. Sorts and empties `t`.
static inline void times_print(Times *t) {
    double first = t->n ? t->v[0] : 0;
    qsort(t->v, t->n, sizeof *t->v, ascending);
    size_t n = t->n;
    double median = n == 0 ? 0 : n % 2 ? t->v[n / 2] : (t->v[n / 2 - 1] + t->v[n / 2]) / 2;
    printf("\"n\": %zu, \"first_ns\": %.1f, \"min_ns\": %.1f, \"median_ns\": %.1f, \"p90_ns\": %.1f, \"max_ns\": %.1f", n,
           first, n ? t->v[0] : 0, median, n ? t->v[n * 9 / 10] : 0, n ? t->v[n - 1] : 0);
    t->n = 0;
}

// ---------------------------------------------------------------- data

// The 8 bytes at index `i`: every place differs, so a misplaced chunk shows.
static inline uint64_t pattern(uint64_t i, uint64_t seed) {
    uint64_t z = (i + seed * 0x100000001ull) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    return z ^ (z >> 27);
}

static inline int cpus(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) ? 1 : CPU_COUNT(&set);
}

enum Chore { FILL, CHECK, POISON };

typedef struct {
    enum Chore chore;
    char *base;
    size_t from, to; // bytes, multiples of 8 but for the end
    uint64_t seed, offset;
    size_t wrong; // first wrong byte + 1, or 0
} Part;

static inline void *chore_part(void *raw) {
    Part *p = raw;
    if (p->chore == POISON) {
        memset(p->base + p->from, 0xEE, p->to - p->from);
        return NULL;
    }
    for (size_t at = p->from; at < p->to; at += 8) {
        uint64_t want = pattern((p->offset + at) / 8, p->seed);
        size_t len = p->to - at < 8 ? p->to - at : 8;
        if (p->chore == FILL)
            memcpy(p->base + at, &want, len);
        else if (memcmp(p->base + at, &want, len)) {
            p->wrong = at + 1;
            return NULL;
        }
    }
    return NULL;
}

// Fills, checks or poisons with as many threads as there are CPUs; the first wrong byte + 1, or 0.
static inline size_t chore(enum Chore chore, void *base, size_t bytes, uint64_t offset, uint64_t seed) {
    int t = cpus();
    if (t > 16) t = 16;
    if (bytes < 4 * MIB) t = 1;
    Part part[16];
    pthread_t thread[16];
    int started[16] = {0};
    size_t each = (bytes / (size_t)t + 7) & ~(size_t)7;
    for (int i = 0; i < t; i++) {
        size_t from = each * (size_t)i, to = i == t - 1 ? bytes : each * (size_t)(i + 1);
        if (from > bytes) from = bytes;
        if (to > bytes) to = bytes;
        part[i] = (Part){chore, base, from, to, seed, offset, 0};
        started[i] = t > 1 && pthread_create(&thread[i], NULL, chore_part, &part[i]) == 0;
        if (!started[i]) chore_part(&part[i]);
    }
    size_t wrong = 0;
    for (int i = 0; i < t; i++) {
        if (started[i]) pthread_join(thread[i], NULL);
        if (!wrong) wrong = part[i].wrong;
    }
    return wrong;
}

// Memory as an application has it: anonymous, private, whatever pages the kernel gives.
static inline void *map_anonymous(size_t bytes) {
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) die("cannot map %zu bytes", bytes);
    return p;
}

// ---------------------------------------------------------------- arguments

// "--name value" among the arguments, or the default.
static inline const char *option(int argc, char **argv, const char *name, const char *otherwise) {
    for (int i = 1; i + 1 < argc; i++)
        if (!strcmp(argv[i], name)) return argv[i + 1];
    return otherwise;
}

static inline int flag(int argc, char **argv, const char *name) {
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], name)) return 1;
    return 0;
}

// Bytes, parted by commas.
static inline size_t sizes(const char *text, size_t *out, size_t room) {
    size_t n = 0;
    while (*text && n < room) {
        char *end;
        out[n++] = strtoull(text, &end, 0);
        if (end == text) die("not a size: %s", text);
        text = *end == ',' ? end + 1 : end;
    }
    return n;
}
#endif
