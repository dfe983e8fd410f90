/*
 * What a program sees of a prewarmed context, by name:
 *
 *   prewarm SCENE [NUMBER]
 *
 * Every scene holds without rewarm too; what it prints must be the same.
 */
#include "cuda_min.h"
#include <dirent.h>
#include <pthread.h>
#include <sys/wait.h>

#define SIZE (3u << 20)

/* Milliseconds of a start that is slow enough for prewarming to be over, however busy the machine. */
#define LONG_START 500

static CUdevice dev;

/* Threads that have the program's own name: the main one, and that which prewarms. */
static int namesakes(void)
{
    char own[64] = "", name[64];
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    FILE *comm = fopen("/proc/self/comm", "r");
    MUST(tasks && comm && fgets(own, sizeof own, comm));
    fclose(comm);
    for (struct dirent *task; (task = readdir(tasks));) {
        if (task->d_name[0] == '.') continue;
        char path[300];
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", task->d_name);
        comm = fopen(path, "r");
        if (!comm) continue;
        count += fgets(name, sizeof name, comm) && !strcmp(name, own);
        fclose(comm);
    }
    closedir(tasks);
    return count;
}

static void start_for(unsigned milliseconds)
{
    usleep(milliseconds * 1000);
    for (int i = 0; milliseconds >= LONG_START && namesakes() > 1 && i < 2000; i++) usleep(5000);
}

/* As a program does that has been importing things for a while. */
static void begin(unsigned milliseconds)
{
    start_for(milliseconds);
    cuda_open();
    OK(cu.cuInit(0));
    OK(cu.cuDeviceGet(&dev, 0));
}

static int active(void)
{
    unsigned flags = 99;
    int is_active = 99;
    OK(cu.cuDevicePrimaryCtxGetState(dev, &flags, &is_active));
    return is_active;
}

/* Free memory, as far as only large allocations change it. */
static size_t free_megabytes(void)
{
    size_t free = 0, total = 0;
    OK(cu.cuMemGetInfo_v2(&free, &total));
    return free >> 20;
}

static void copy_both_ways(void)
{
    CUdeviceptr device = 0;
    unsigned char *host = malloc(SIZE), *back = malloc(SIZE);
    pattern(host, SIZE, (uint64_t)getpid());
    OK(cu.cuMemAlloc_v2(&device, SIZE));
    OK(cu.cuMemcpyHtoD_v2(device, host, SIZE));
    OK(cu.cuMemcpyDtoH_v2(back, device, SIZE));
    MUST(!memcmp(host, back, SIZE));
    OK(cu.cuMemFree_v2(device));
    free(host);
    free(back);
}

static void retain(int wait)
{
    CUcontext context = NULL, again = NULL;
    begin((unsigned)wait);
    MUST(active() == 0);
    OK(cu.cuCtxGetCurrent(&context));
    MUST(!context);
    OK(cu.cuDevicePrimaryCtxRetain(&context, dev));
    MUST(active() == 1);
    OK(cu.cuDevicePrimaryCtxRetain(&again, dev));
    MUST(context == again);
    OK(cu.cuCtxSetCurrent(context));
    copy_both_ways();
    OK(cu.cuDevicePrimaryCtxRelease_v2(dev));
    MUST(active() == 1);
    copy_both_ways();
}

/* The last release destroys the context and what is in it. */
static void release(int wait)
{
    CUcontext context = NULL;
    CUdeviceptr device = 0;
    begin((unsigned)wait);
    OK(cu.cuDevicePrimaryCtxRetain(&context, dev));
    OK(cu.cuCtxSetCurrent(context));
    size_t before = free_megabytes();
    OK(cu.cuMemAlloc_v2(&device, 256u << 20));
    copy_both_ways();
    OK(cu.cuDevicePrimaryCtxRelease_v2(dev));
    MUST(active() == 0);
    printf("one more: %d\n", cu.cuDevicePrimaryCtxRelease_v2(dev));
    printf("copy: %d\n", cu.cuMemsetD8_v2(device, 1, 64));
    OK(cu.cuDevicePrimaryCtxRetain(&context, dev));
    OK(cu.cuCtxSetCurrent(context));
    MUST(free_megabytes() + 64 >= before);
    copy_both_ways();
}

static void reset(int wait)
{
    CUcontext context = NULL;
    CUdeviceptr device = 0;
    begin((unsigned)wait);
    OK(cu.cuDevicePrimaryCtxReset_v2(dev)); /* of nothing */
    MUST(active() == 0);
    OK(cu.cuDevicePrimaryCtxRetain(&context, dev));
    OK(cu.cuCtxSetCurrent(context));
    size_t before = free_megabytes();
    OK(cu.cuMemAlloc_v2(&device, 256u << 20));
    copy_both_ways();
    OK(cu.cuDevicePrimaryCtxReset_v2(dev));
    MUST(active() == 0);
    OK(cu.cuDevicePrimaryCtxRetain(&context, dev));
    OK(cu.cuCtxSetCurrent(context));
    MUST(active() == 1);
    MUST(free_megabytes() + 64 >= before);
    copy_both_ways();
}

/* cuCtxCreate, with flags that a primary context has or has not. */
static void create(int flags)
{
    CUcontext context = NULL, current = NULL, second = NULL;
    CUdeviceptr device = 0;
    unsigned found = 99;
    begin(LONG_START);
    OK(cu.cuCtxCreate_v2(&context, (unsigned)flags, dev));
    OK(cu.cuCtxGetCurrent(&current));
    MUST(context && context == current);
    MUST(active() == 0); /* a created context is not the primary one */
    OK(cu.cuCtxGetFlags(&found));
    printf("flags %u\n", found);
    size_t before = free_megabytes();
    OK(cu.cuMemAlloc_v2(&device, 256u << 20));
    copy_both_ways();
    OK(cu.cuCtxCreate_v4(&second, NULL, 0, dev));
    MUST(second != context);
    copy_both_ways();
    OK(cu.cuCtxDestroy_v2(second));
    OK(cu.cuCtxGetCurrent(&current));
    MUST(current == context);
    OK(cu.cuCtxDestroy_v2(context));
    OK(cu.cuCtxGetCurrent(&current));
    MUST(!current);
    MUST(active() == 0);
    OK(cu.cuCtxCreate_v2(&context, 0, dev));
    MUST(free_megabytes() + 64 >= before);
    copy_both_ways();
    OK(cu.cuCtxDestroy_v2(context));
}

/* A created context and the primary one live and die apart from each other. */
static void create_and_retain(int primary_first)
{
    CUcontext created = NULL, primary = NULL, current = NULL;
    CUdeviceptr in_created = 0, in_primary = 0;
    begin(LONG_START);
    if (primary_first) OK(cu.cuDevicePrimaryCtxRetain(&primary, dev));
    OK(cu.cuCtxCreate_v2(&created, 0, dev));
    size_t before = free_megabytes();
    OK(cu.cuMemAlloc_v2(&in_created, 256u << 20));
    copy_both_ways();
    if (!primary_first) OK(cu.cuDevicePrimaryCtxRetain(&primary, dev));
    MUST(active() == 1);
    OK(cu.cuCtxPushCurrent_v2(primary));
    OK(cu.cuMemAlloc_v2(&in_primary, 128u << 20));
    OK(cu.cuMemsetD8_v2(in_primary, 7, 1024));
    OK(cu.cuCtxPopCurrent_v2(&current));
    OK(cu.cuCtxDestroy_v2(created));
    MUST(active() == 1);
    OK(cu.cuCtxSetCurrent(primary));
    size_t after = free_megabytes();
    MUST(after + 128 + 64 >= before && after <= before); /* 256 MiB came back, 128 did not */
    unsigned char found[1024];
    OK(cu.cuMemcpyDtoH_v2(found, in_primary, sizeof found));
    for (size_t i = 0; i < sizeof found; i++) MUST(found[i] == 7);
    copy_both_ways();
    OK(cu.cuMemFree_v2(in_primary));
    OK(cu.cuDevicePrimaryCtxRelease_v2(dev));
    MUST(active() == 0);
}

/* ---- fork ---- */

static int child_status(pid_t child)
{
    int status = 0;
    MUST(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static int works(void)
{
    CUcontext context = NULL;
    begin(0);
    MUST(active() == 0);
    OK(cu.cuDevicePrimaryCtxRetain(&context, dev));
    OK(cu.cuCtxSetCurrent(context));
    copy_both_ways();
    copy_both_ways();
    return 0;
}

/* A child of a process that has not used CUDA itself has CUDA, and so has its child, and the parent. */
static void fork_after(int milliseconds)
{
    usleep((unsigned)milliseconds * 1000);
    pid_t child = fork();
    if (!child) {
        pid_t grandchild = fork();
        if (!grandchild) _exit(works());
        MUST(child_status(grandchild) == 0);
        exit(works());
    }
    printf("child %d\n", child_status(child));
    printf("parent %d\n", works());
    child = fork();
    if (!child) _exit(cu.cuInit(0));
    printf("child of a user %d\n", child_status(child));
    copy_both_ways();
}

/* The same with many children, some at once. */
static void fork_often(int count)
{
    pid_t children[64];
    MUST(count <= 64);
    for (int i = 0; i < count; i++) {
        usleep((unsigned)(i * 997 % 3000));
        children[i] = fork();
        MUST(children[i] >= 0);
        if (!children[i]) _exit(works());
    }
    for (int i = 0; i < count; i++) MUST(child_status(children[i]) == 0);
    works();
}

static void *fork_here(void *unused)
{
    (void)unused;
    pid_t child = fork();
    if (!child) _exit(works());
    MUST(child_status(child) == 0);
    return NULL;
}

/* Children of threads, of which one may get what the C library kept of an earlier thread. */
static void fork_in_threads(int count)
{
    usleep(300000);
    for (int i = 0; i < count; i++) {
        pthread_t thread;
        MUST(!pthread_create(&thread, NULL, fork_here, NULL));
        MUST(!pthread_join(thread, NULL));
    }
    works();
}

/* A child that looked for CUDA's functions before the fork, and never calls them in the parent. */
static void fork_with_handle(int milliseconds)
{
    cuda_open();
    usleep((unsigned)milliseconds * 1000);
    pid_t child = fork();
    if (!child) {
        CUcontext context = NULL;
        OK(cu.cuInit(0));
        OK(cu.cuDevicePrimaryCtxRetain(&context, 0));
        OK(cu.cuCtxSetCurrent(context));
        copy_both_ways();
        _exit(0);
    }
    printf("child %d\n", child_status(child));
}

/* In a process with CUDA, the child has none, as without rewarm, and can still exec. */
static void fork_of_a_user(int milliseconds)
{
    begin((unsigned)milliseconds);
    CUcontext context = NULL;
    OK(cu.cuDevicePrimaryCtxRetain(&context, dev));
    OK(cu.cuCtxSetCurrent(context));
    copy_both_ways();
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        int count = 0;
        CUdeviceptr device = 0;
        printf("child: %d %d %d %d\n", cu.cuInit(0), cu.cuDeviceGetCount(&count), cu.cuMemAlloc_v2(&device, 64),
               cu.cuMemcpyHtoD_v2(4096, &count, SIZE));
        fflush(stdout);
        execl("/proc/self/exe", "prewarm", "retain", "0", NULL);
        _exit(1);
    }
    MUST(child_status(child) == 0);
    copy_both_ways();
}

/* The process ends before, while or after it prewarms. */
static void leave_after(int microseconds)
{
    usleep((unsigned)microseconds);
    printf("leaving\n");
    exit(7);
}

static int tasks(void)
{
    char line[256];
    int threads = -1;
    FILE *status = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, status)) sscanf(line, "Threads: %d", &threads);
    fclose(status);
    return threads;
}

/* Whether somebody prewarms in this very program. */
static void threads_after(int milliseconds)
{
    start_for((unsigned)milliseconds);
    printf("threads %d, driver %s\n", tasks(), dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD) ? "loaded" : "absent");
}

static const struct {
    const char *name;
    void (*play)(int);
} SCENES[] = {
    {"retain", retain}, {"release", release}, {"reset", reset}, {"create", create},
    {"create_and_retain", create_and_retain}, {"fork_after", fork_after}, {"fork_often", fork_often}, {"fork_in_threads", fork_in_threads},
    {"fork_with_handle", fork_with_handle}, {"fork_of_a_user", fork_of_a_user}, {"leave_after", leave_after},
    {"threads_after", threads_after},
};

int main(int argc, char **argv)
{
    MUST(argc >= 2);
    for (size_t i = 0; i < sizeof SCENES / sizeof *SCENES; i++) {
        if (strcmp(argv[1], SCENES[i].name)) continue;
        SCENES[i].play(argc > 2 ? atoi(argv[2]) : 0);
        printf("%s: right\n", argv[1]);
        return 0;
    }
    printf("no scene %s\n", argv[1]);
    return 2;
}
