/*
 * Keeps what CRIU alone would not bring back, in the hands of a test that
 * checkpoints and restores it. Uses no GPU.
 *
 *   LOG=FILE keeps
 *
 * Has a periodic timer that nobody reads, a second thread that is bound to a CPU, and
 * the file open for writing. Prints "ready PID", then answers each line of its input:
 *   check      "ok", or what is wrong
 *   log TEXT   appends a line to the file
 *   quit       ends
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <unistd.h>

static int timer;
static cpu_set_t bound;
static pthread_t thread;

static void *stay(void *unused)
{
    (void)unused;
    while (pause())
        ;
    return NULL;
}

/* Binds a thread to the last CPU that this process may use. */
static int bind_thread(void)
{
    cpu_set_t all;
    int last = 0;
    if (sched_getaffinity(0, sizeof all, &all))
        return 1;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all))
            last = cpu;
    CPU_ZERO(&bound);
    CPU_SET(last, &bound);
    return pthread_create(&thread, NULL, stay, NULL) ||
           pthread_setaffinity_np(thread, sizeof bound, &bound);
}

static const char *check(void)
{
    cpu_set_t found;
    uint64_t ticks;
    /* The first may have been counted before. */
    for (int round = 0; round < 3; round++) {
        struct pollfd waits = {.fd = timer, .events = POLLIN};
        if (poll(&waits, 1, 10000) != 1)
            return "the timer does not expire";
        if (read(timer, &ticks, sizeof ticks) != sizeof ticks)
            return "the timer cannot be read";
    }
    if (pthread_getaffinity_np(thread, sizeof found, &found) || !CPU_EQUAL(&found, &bound))
        return "the thread is not bound";
    return "ok";
}

int main(void)
{
    struct itimerspec every = {{0, 10000000}, {0, 10000000}};
    char line[256];
    const char *file = getenv("LOG");
    int log = file ? open(file, O_WRONLY | O_CREAT, 0600) : -1;
    timer = timerfd_create(CLOCK_MONOTONIC, 0);
    if (log < 0 || timer < 0 || timerfd_settime(timer, 0, &every, NULL) || bind_thread())
        return 1;
    printf("ready %d\n", getpid());
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        const char *answer = "ok";
        if (!strncmp(line, "log ", 4))
            answer = write(log, line + 4, strlen(line + 4)) > 0 ? "ok" : "it cannot be written";
        else if (!strcmp(line, "check\n"))
            answer = check();
        puts(answer);
        fflush(stdout);
        if (!strcmp(line, "quit\n"))
            return 0;
    }
    return 0;
}
