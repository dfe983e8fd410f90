// The driver's own checkpoint of another process, step by step.
//   checkpoint PID STEPS      STEPS: l (lock), c (checkpoint), r (restore), u (unlock), in this order
// Prints one line with the seconds of each step. After a failed step the process is unlocked again if it can be.
#include "common.h"
#include <dlfcn.h>

// CUcheckpointLockArgs: 64 bytes, the first member is the time limit.
typedef struct {
    unsigned timeout_ms, reserved0;
    uint64_t reserved1[7];
} LockArguments;

static const struct {
    char letter;
    const char *name, *symbol;
} STEPS[] = {
    {'l', "lock", "cuCheckpointProcessLock"},
    {'c', "checkpoint", "cuCheckpointProcessCheckpoint"},
    {'r', "restore", "cuCheckpointProcessRestore"},
    {'u', "unlock", "cuCheckpointProcessUnlock"},
};
enum { COUNT = sizeof STEPS / sizeof *STEPS };

static int (*call[COUNT])(int, void *);

int main(int argc, char **argv) {
    if (argc != 3) die("checkpoint PID STEPS");
    int pid = atoi(argv[1]);
    void *lib = dlopen("libcuda.so.1", RTLD_NOW);
    if (!lib) die("%s", dlerror());
    for (int i = 0; i < COUNT; i++) {
        *(void **)&call[i] = dlsym(lib, STEPS[i].symbol);
        if (!call[i]) die("libcuda.so.1 has no %s", STEPS[i].symbol);
    }
    double taken[COUNT] = {0};
    int done[COUNT] = {0};
    for (const char *step = argv[2]; *step; step++) {
        int i = 0;
        while (i < COUNT && STEPS[i].letter != *step) i++;
        if (i == COUNT) die("no step %c", *step);
        LockArguments limit = {.timeout_ms = 10000};
        double begin = now_ns();
        int code = call[i](pid, *step == 'l' ? &limit : NULL);
        taken[i] = (now_ns() - begin) / 1e9;
        if (code) {
            if (*step == 'c') call[3](pid, NULL);
            die("%s: %d", STEPS[i].symbol, code);
        }
        done[i] = 1;
    }
    const char *comma = "";
    printf("{");
    for (int i = 0; i < COUNT; i++)
        if (done[i]) {
            printf("%s\"%s\": %.6f", comma, STEPS[i].name, taken[i]);
            comma = ", ";
        }
    printf("}\n");
    return 0;
}
