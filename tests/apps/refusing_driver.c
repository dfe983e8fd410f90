/*
 * A driver, as libcuda.so.1, for who checkpoints other processes. REFUSE names what
 * fails and how, as in "cuInit=100,cuCheckpointProcessLock=304"; all else is done by
 * the library that REAL_DRIVER names.
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

static int refused(const char *name)
{
    const char *rules = getenv("REFUSE"), *found = rules ? strstr(rules, name) : NULL;
    size_t length = strlen(name);
    return found && found[length] == '=' ? atoi(found + length + 1) : 0;
}

static void *real(const char *name)
{
    static void *driver;
    if (!driver) driver = dlopen(getenv("REAL_DRIVER"), RTLD_NOW | RTLD_LOCAL);
    if (!driver) abort();
    return dlsym(driver, name);
}

#define PASS(name, type, argument)                                                                                   \
    int name(type argument)                                                                                          \
    {                                                                                                                \
        int code = refused(#name);                                                                                   \
        return code ? code : ((int (*)(type))real(#name))(argument);                                                 \
    }
#define PASS_TWO(name, type)                                                                                         \
    int name(type first, void *second)                                                                               \
    {                                                                                                                \
        int code = refused(#name);                                                                                   \
        return code ? code : ((int (*)(type, void *))real(#name))(first, second);                                    \
    }

PASS(cuInit, unsigned, flags)
PASS(cuDriverGetVersion, int *, version)
PASS_TWO(cuGetErrorString, int)
PASS_TWO(cuCheckpointProcessGetState, int)
PASS_TWO(cuCheckpointProcessGetRestoreThreadId, int)
PASS_TWO(cuCheckpointProcessLock, int)
PASS_TWO(cuCheckpointProcessCheckpoint, int)
PASS_TWO(cuCheckpointProcessRestore, int)
PASS_TWO(cuCheckpointProcessUnlock, int)
