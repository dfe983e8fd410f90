/*
 * A copy to the device and back, with every driver function reached by one of
 * the routes that programs take:
 *
 *   routes ROUTE
 *
 * Prints what it found, never addresses: the output must be the same plain and
 * under rewarm.
 */
#include "cuda_routes.h"

#define SIZE (3u << 20)

#ifdef CUDA_MIN_LINKED

/* Linked with the driver: the loader binds the calls. */
int main(void)
{
    CUcontext context = NULL;
    CUdeviceptr device = 0;
    char *host = malloc(SIZE), *back = malloc(SIZE);
    pattern(host, SIZE, 1);
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxSetCurrent(context));
    OK(cuMemAlloc_v2(&device, SIZE));
    OK(cuMemcpyHtoD_v2(device, host, SIZE));
    OK(cuMemcpyDtoH_v2(back, device, SIZE));
    MUST(!memcmp(host, back, SIZE));
    /* A second preloaded library may count what passes through it. */
    int (*counted)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "next_counted");
    printf("right, counted %d\n", counted ? counted() : -1);
    return 0;
}

#else

typedef CUresult (*lookup4)(const char *, void **, int, uint64_t);
typedef CUresult (*lookup5)(const char *, void **, int, uint64_t, int *);

static void *handle;
static lookup4 four;
static lookup5 five;

static void *by_dlsym(const char *name) { return dlsym(handle, name); }

static void *by_four(const char *name)
{
    char base[64];
    void *found = NULL;
    uint64_t flags = cuda_base_of(name, base);
    return four(base, &found, 13000, flags) ? NULL : found;
}

static void *by_five(const char *name)
{
    char base[64];
    void *found = NULL;
    int status = -1;
    uint64_t flags = cuda_base_of(name, base);
    return five(base, &found, 13000, flags, &status) ? NULL : found;
}

static void fill(void *(*ask)(const char *))
{
#define ASK_ROUTE(name, arguments) cu.name = (CUresult(*) arguments)ask(#name);
    CUDA_FUNCTIONS(ASK_ROUTE)
}

static void copy_both_ways(void)
{
    CUcontext context = NULL;
    CUdeviceptr device = 0;
    char *host = malloc(SIZE), *back = malloc(SIZE);
    pattern(host, SIZE, 1);
    OK(cu.cuInit(0));
    OK(cu.cuDevicePrimaryCtxRetain(&context, 0));
    OK(cu.cuCtxSetCurrent(context));
    OK(cu.cuMemAlloc_v2(&device, SIZE));
    OK(cu.cuMemcpyHtoD_v2(device, host, SIZE));
    OK(cu.cuMemcpyHtoD_v2_ptds(device, host, SIZE));
    OK(cu.cuMemcpyDtoH_v2(back, device, SIZE));
    MUST(!memcmp(host, back, SIZE));
    printf("right\n");
}

/* What a program learns that only asks whether there is CUDA. */
static void probe(void)
{
    const char *names[] = {"cuInit", "cuMemcpyHtoD_v2", "cuGetProcAddress", "cuDeviceGetCount"};
    void *self = dlopen(NULL, RTLD_NOW);
    for (size_t i = 0; i < 4; i++) {
        dlerror();
        void *found = dlsym(RTLD_DEFAULT, names[i]);
        char *error = dlerror();
        printf("default %s: %s, %s\n", names[i], found ? "found" : "absent", error ? "an error" : "no error");
        found = dlsym(self, names[i]);
        error = dlerror();
        printf("self %s: %s, %s\n", names[i], found ? "found" : "absent", error ? "an error" : "no error");
    }
    printf("library: %s\n", dlopen("libcuda.so.1", RTLD_NOW) ? "found" : "absent");
    printf("error: %s\n", dlerror() ? "yes" : "no");
    printf("strlen: %s\n", dlsym(RTLD_DEFAULT, "strlen") == (void *)strlen ? "found" : "absent");
}

/* The answers of cuGetProcAddress to questions that have no plain answer. */
static void questions(void)
{
    static const struct {
        const char *name;
        int version;
        uint64_t flags;
    } asked[] = {{"cuMemcpyHtoD", 13000, 0}, {"cuMemcpyHtoD", 2000, 0},       {"cuMemcpyHtoD", 3020, 2},
                 {"cuNoSuchFunction", 13000, 0}, {"", 13000, 0},              {"cuInit", 13000, 7},
                 {"cuInit", 1000, 0},            {"cuMemcpyHtoD", 13000, 2}, {"cuGetProcAddress", 13000, 0}};
    for (size_t i = 0; i < sizeof asked / sizeof *asked; i++) {
        void *found = (void *)16;
        int status = -1;
        int code = five(asked[i].name, &found, asked[i].version, asked[i].flags, &status);
        printf("'%s' %d %d: %d, %s, status %d\n", asked[i].name, asked[i].version, (int)asked[i].flags, code,
               !found ? "null" : found == (void *)16 ? "untouched" : "something", status);
        found = (void *)16;
        code = four(asked[i].name, &found, asked[i].version, asked[i].flags);
        printf("  four arguments: %d, %s\n", code, !found ? "null" : found == (void *)16 ? "untouched" : "something");
    }
    printf("null: %d\n", five("cuInit", NULL, 13000, 0, NULL));
}

int main(int argc, char **argv)
{
    MUST(argc == 2);
    const char *route = argv[1];
    if (!strcmp(route, "probe")) {
        probe();
        return 0;
    }
    handle = dlopen("libcuda.so.1", strcmp(route, "default") && strcmp(route, "self") ? RTLD_LAZY | RTLD_LOCAL
                                                                                         : RTLD_NOW | RTLD_GLOBAL);
    MUST(handle);
    four = (lookup4)dlsym(handle, "cuGetProcAddress");
    five = (lookup5)dlsym(handle, "cuGetProcAddress_v2");
    MUST(four && five);
    void *(*ask)(const char *) = by_dlsym;
    if (!strcmp(route, "default")) handle = RTLD_DEFAULT;
    else if (!strcmp(route, "self")) handle = dlopen(NULL, RTLD_NOW);
    else if (!strcmp(route, "four")) ask = by_four;
    else if (!strcmp(route, "five")) ask = by_five;
    else if (!strcmp(route, "lookup_of_lookup")) {
        five = (lookup5)by_five("cuGetProcAddress");
        MUST(five);
        ask = by_five;
    } else if (!strcmp(route, "questions")) {
        questions();
        return 0;
    } else {
        MUST(!strcmp(route, "dlsym"));
    }
    fill(ask);
    copy_both_ways();
    return 0;
}

#endif
