/*
 * Functions of a driver that does nothing (numbered_driver.c), by all routes:
 *
 *   gate stubs FRONT LIST   the stubs of the library whose file name is FRONT, as
 *                           a program that is linked with the driver calls them;
 *                           LIST has lines "name offset"
 *   gate dlsym LIST         the same functions as dlsym gives them
 *   gate lookup LIST        the same as cuGetProcAddress gives them
 *   gate unknown N          N functions that no table has
 *
 * Prints what each returned, and whether it was given as the driver's own.
 */
#include "cuda_min.h"
#include <link.h>

typedef CUresult (*any)(uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t,
                        uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t);
typedef CUresult (*lookup)(const char *, void **, int, uint64_t);

static const char *wanted;
static void *driver;
static lookup four;

static const char *file_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static int base_of(struct dl_phdr_info *info, size_t size, void *base)
{
    (void)size;
    if (strcmp(file_name(info->dlpi_name), wanted)) return 0;
    *(uintptr_t *)base = info->dlpi_addr;
    return 1;
}

static const char *whose(void *function)
{
    Dl_info info;
    MUST(dladdr(function, &info));
    return strcmp(file_name(info.dli_fname), "libcuda.so.1") ? "stub" : "own";
}

static void report(const char *name, void *function)
{
    MUST(function);
    const char *from = whose(function);
    printf("%s %d %s\n", name, ((any)function)(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), from);
}

static void listed(const char *route, const char *list)
{
    char name[100];
    unsigned long offset;
    uintptr_t base = 0;
    FILE *lines = fopen(list, "r");
    MUST(lines);
    if (wanted) MUST(dl_iterate_phdr(base_of, &base));
    while (fscanf(lines, "%99s %lx", name, &offset) == 2) {
        void *function = NULL;
        if (!strcmp(route, "stubs")) function = (void *)(base + offset);
        else if (!strcmp(route, "dlsym")) function = dlsym(driver, name);
        else OK(four(name, &function, 13000, 0));
        report(name, function);
    }
    fclose(lines);
}

static void unknown(int count)
{
    for (int i = 0; i < count; i++) {
        char name[40], symbol[60];
        void *function = NULL;
        sprintf(name, "cuFuture%03d", i);
        sprintf(symbol, "%s_v2", name);
        /* By turns, and always the same answer. */
        if (i % 2) MUST((function = dlsym(driver, symbol)));
        OK(four(name, &function, 99000, 0));
        MUST(function == dlsym(driver, symbol));
        MUST(function == dlsym(driver, symbol));
        printf("%s %d %s\n", symbol,
               ((any)function)(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768 + i),
               whose(function));
    }
    void *open = NULL;
    OK(four("cuCoredumpFuture", &open, 99000, 0));
    report("cuCoredumpFuture", open);
    MUST(!dlsym(driver, "cuNoSuchFunction") && dlerror());
    MUST(four("cuNoSuchFunction", &open, 99000, 0));
}

int main(int argc, char **argv)
{
    MUST(argc > 2);
    driver = cuda_open();
    four = (lookup)dlsym(driver, "cuGetProcAddress");
    OK(cu.cuInit(0));
    if (argc > 3) wanted = argv[2];
    if (!strcmp(argv[1], "unknown")) unknown(atoi(argv[2]));
    else listed(argv[1], argv[argc - 1]);
    return 0;
}
