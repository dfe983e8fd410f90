// Starts a command again and again, in turn without and with LD_PRELOAD, and times each from start to end.
//   spawn LIBRARY RUNS COMMAND [ARGUMENT...]
#include "common.h"
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>

extern char **environ;

int main(int argc, char **argv) {
    if (argc < 4) die("usage: spawn LIBRARY RUNS COMMAND [ARGUMENT...]");
    size_t runs = strtoull(argv[2], NULL, 0), n = 0;
    char preload[4200];
    snprintf(preload, sizeof preload, "LD_PRELOAD=%s", argv[1]);
    while (environ[n]) n++;
    char **env[2] = {calloc(n + 2, sizeof *environ), calloc(n + 2, sizeof *environ)};
    for (size_t i = 0, k = 0; i < n; i++)
        if (strncmp(environ[i], "LD_PRELOAD=", 11)) {
            env[0][k] = env[1][k] = environ[i];
            k++;
            env[1][k] = preload;
        }
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 1, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&files, 2, "/dev/null", O_WRONLY, 0);
    Times times[2] = {{0}}, gain = {0};
    double sum[2] = {0};
    for (size_t r = 0; r < runs + 5; r++) { // the first five warm the caches
        double took[2];
        for (int turn = 0; turn < 2; turn++) {
            int with = (int)((r + (size_t)turn) & 1), status;
            pid_t pid;
            double t = now_ns();
            int code = posix_spawnp(&pid, argv[3], &files, NULL, argv + 3, env[with]);
            if (code) die("cannot start %s: %s", argv[3], strerror(code));
            while (waitpid(pid, &status, 0) < 0)
                if (errno != EINTR) die("waitpid: %s", strerror(errno));
            took[with] = now_ns() - t;
            if (status) die("%s ended with status %#x%s", argv[3], status, with ? " under LD_PRELOAD" : "");
        }
        if (r < 5) continue;
        for (int with = 0; with < 2; with++) {
            times_add(&times[with], took[with]);
            sum[with] += took[with];
        }
        times_add(&gain, took[1] - took[0]);
    }
    const char *names[] = {"plain", "rewarm", "difference"};
    Times *all[] = {&times[0], &times[1], &gain};
    for (int i = 0; i < 3; i++) {
        double mean = (i < 2 ? sum[i] : sum[1] - sum[0]) / (double)runs;
        printf("{\"bench\": \"spawn\", \"side\": \"%s\", \"mean_ns\": %.1f, ", names[i], mean);
        times_print(all[i]);
        printf("}\n");
    }
    return 0;
}
