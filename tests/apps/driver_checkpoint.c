/*
 * The driver's checkpoint calls on other processes:
 *
 *   driver_checkpoint ACTION[,ACTION]... PID...
 *     ACTION   state, lock, checkpoint, restore, unlock
 *
 * Does every action for every process, in the order given; prints one number for
 * each "state". Ends with status 1 and the code at the first that fails.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *driver;

/* A call with a process and something behind it. */
static int call(const char *name, int pid, void *argument)
{
    int (*function)(int, void *) = dlsym(driver, name);
    return function ? function(pid, argument) : 500;
}

static int act(const char *action, int pid)
{
    /* The structures of these calls are 64 bytes and zero, but for lock's timeout in milliseconds. */
    unsigned arguments[16] = {0};
    int state;
    if (!strcmp(action, "state")) {
        int code = call("cuCheckpointProcessGetState", pid, &state);
        if (!code) printf("%d\n", state);
        return code;
    }
    if (!strcmp(action, "lock")) {
        arguments[0] = 10000;
        return call("cuCheckpointProcessLock", pid, arguments);
    }
    if (!strcmp(action, "checkpoint")) return call("cuCheckpointProcessCheckpoint", pid, arguments);
    if (!strcmp(action, "restore")) return call("cuCheckpointProcessRestore", pid, arguments);
    if (!strcmp(action, "unlock")) return call("cuCheckpointProcessUnlock", pid, arguments);
    return 1;
}

int main(int argc, char **argv)
{
    driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver || argc < 3) return 2;
    int (*init)(unsigned) = dlsym(driver, "cuInit");
    int code = init ? init(0) : 500;
    for (char *action = strtok(argv[1], ","); action && !code; action = strtok(NULL, ","))
        for (int i = 2; i < argc && !code; i++) {
            code = act(action, atoi(argv[i]));
            if (code) fprintf(stderr, "%s of process %s: %d\n", action, argv[i], code);
        }
    return code ? 1 : 0;
}
