/*
 * The ways in which a process can live and end around its use of CUDA:
 *
 *   lifecycle SCENE
 */
#include "cuda_min.h"
#include <dirent.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#define SIZE (3u << 20)

static void *library;
static CUcontext context;
static CUdeviceptr device;
static char *host, *back;
extern char **environ;

static void copy(void)
{
    pattern(host, SIZE, 1);
    OK(cu.cuMemcpyHtoD_v2(device, host, SIZE));
    OK(cu.cuMemcpyDtoH_v2(back, device, SIZE));
    MUST(!memcmp(host, back, SIZE));
}

static void use_cuda(void)
{
    host = malloc(SIZE);
    back = malloc(SIZE);
    library = cuda_open();
    OK(cu.cuInit(0));
    OK(cu.cuDevicePrimaryCtxRetain(&context, 0));
    OK(cu.cuCtxSetCurrent(context));
    OK(cu.cuMemAlloc_v2(&device, SIZE));
    copy();
}

static void say(const char *what)
{
    printf("%s\n", what);
    fflush(stdout);
}

static void by_return(void) { use_cuda(); }

static void by_exit(void)
{
    use_cuda();
    exit(3);
}

static void by_fast_exit(void)
{
    use_cuda();
    say("leaving");
    _exit(4);
}

static void by_quick_exit(void)
{
    use_cuda();
    say("leaving");
    quick_exit(5);
}

static void by_abort(void)
{
    use_cuda();
    say("aborting");
    abort();
}

static void by_signal(void)
{
    use_cuda();
    say("ending");
    raise(SIGTERM);
}

static void *by_exit_elsewhere(void *unused)
{
    exit(unused ? 1 : 6);
}

static void by_exit_of_a_thread(void)
{
    pthread_t thread;
    use_cuda();
    pthread_create(&thread, NULL, by_exit_elsewhere, NULL);
    pthread_join(thread, NULL);
}

static void *outlive(void *unused)
{
    (void)unused;
    usleep(50000);
    OK(cu.cuCtxSetCurrent(context));
    copy();
    say("outlived main");
    exit(12); /* the driver's threads would keep the process alive */
}

static void by_pthread_exit(void)
{
    pthread_t thread;
    use_cuda();
    pthread_create(&thread, NULL, outlive, NULL);
    pthread_detach(thread);
    pthread_exit(NULL);
}

static jmp_buf before;

static void jump(void *unused)
{
    (void)unused;
    longjmp(before, 1);
}

static void by_longjmp(void)
{
    use_cuda();
    if (!setjmp(before)) jump(NULL);
    copy();
}

static void *copy_for_ever(void *unused)
{
    (void)unused;
    OK(cu.cuCtxSetCurrent(context));
    char *own = malloc(SIZE);
    for (;;) {
        /* After exit has begun the driver may refuse, but nothing may crash. */
        if (cu.cuMemcpyHtoD_v2_ptds(device, own, SIZE)) pause();
    }
}

static void exit_amid_copies(void)
{
    pthread_t threads[3];
    use_cuda();
    for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, copy_for_ever, NULL);
    usleep(20000);
    exit(8);
}

static void copy_at_the_very_end(void)
{
    printf("in an exit handler: %d\n", cu.cuMemcpyHtoD_v2(device, host, SIZE));
}

static void copy_in_exit_handler(void)
{
    atexit(copy_at_the_very_end); /* before CUDA, so it runs behind everything of CUDA's */
    use_cuda();
}

static void close_library(void)
{
    use_cuda();
    MUST(!dlclose(library));
    copy(); /* a library stays as long as rewarm uses it; addresses stay good */
    cuda_open();
    copy();
}

static void close_unused_library(void)
{
    for (int i = 0; i < 3; i++) {
        void *handle = dlopen("libcuda.so.1", RTLD_NOW);
        MUST(handle && dlsym(handle, "cuInit"));
        MUST(!dlclose(handle));
    }
    use_cuda();
}

static void exec_after_use(void)
{
    use_cuda();
    say("executing");
    setenv("REWARM_STATS", "/dev/null", 1);
    execl("/proc/self/exe", "lifecycle", "return", NULL);
}

static void start_others(void)
{
    pid_t child;
    char *arguments[] = {"sh", "-c", "echo child; exit 9", NULL};
    int status = 0;
    use_cuda();
    MUST(!posix_spawn(&child, "/bin/sh", NULL, NULL, arguments, environ));
    MUST(waitpid(child, &status, 0) == child);
    printf("status %d\n", WEXITSTATUS(status));
    fflush(stdout);
    printf("system %d\n", WEXITSTATUS(system("exit 10")));
    child = vfork();
    if (!child) {
        execve("/bin/sh", (char *[]){"sh", "-c", "exit 11", NULL}, environ);
        _exit(1);
    }
    MUST(waitpid(child, &status, 0) == child);
    printf("vfork %d\n", WEXITSTATUS(status));
    copy();
}

/* Whoever writes to descriptors that it closed must not write into a file or socket of rewarm's. */
static void closed_descriptors(void)
{
    for (int fd = 0; fd < 3; fd++) close(fd);
    use_cuda();
    int strangers = 0;
    for (int fd = 0; fd < 3; fd++) {
        char path[32], target[4096] = "";
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        strangers += readlink(path, target, sizeof target - 1) > 0 && !strstr(target, "simcuda");
    }
    copy();
    _exit(20 + strangers);
}

static int entries(const char *folder)
{
    int count = 0;
    DIR *open = opendir(folder);
    while (readdir(open)) count++;
    closedir(open);
    return count;
}

/* What a process that uses CUDA looks like from outside. */
static void look(void)
{
    char line[4096];
    int core = 0;
    use_cuda();
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps)) core += strstr(line, "librewarm_core") != NULL;
    fclose(maps);
    DIR *tasks = opendir("/proc/self/task");
    int ours = 0;
    for (struct dirent *task; (task = readdir(tasks));) {
        char path[300];
        snprintf(path, sizeof path, "/proc/self/task/%s/comm", task->d_name);
        FILE *comm = fopen(path, "r");
        if (!comm) continue;
        ours += fgets(line, sizeof line, comm) && !strncmp(line, "rewarm", 6);
        fclose(comm);
    }
    closedir(tasks);
    printf("core %s, its threads %d, descriptors %d\n", core ? "mapped" : "absent", ours, entries("/proc/self/fd"));
}

static volatile sig_atomic_t handled;

static void on_signal(int number)
{
    (void)number;
    handled++;
}

static void *bother(void *data)
{
    for (int i = 0; i < 300; i++) {
        pthread_kill(*(pthread_t *)data, SIGUSR1);
        usleep(200);
    }
    return NULL;
}

/* Signals interrupt copies; handlers run in the program's own threads. */
static void signals(void)
{
    pthread_t thread, self = pthread_self();
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    use_cuda();
    pthread_create(&thread, NULL, bother, &self);
    for (int i = 0; i < 60; i++) copy();
    pthread_join(thread, NULL);
    MUST(handled > 0);
}

static pthread_barrier_t together;

static void *begin_in_thread(void *unused)
{
    CUcontext own = NULL;
    CUdeviceptr memory = 0;
    char *from = malloc(SIZE), *to = malloc(SIZE);
    pattern(from, SIZE, 2);
    pthread_barrier_wait(&together);
    OK(cu.cuInit(0));
    OK(cu.cuDevicePrimaryCtxRetain(&own, 0));
    OK(cu.cuCtxSetCurrent(own));
    usleep(300000); /* longer than anything of rewarm's needs to open */
    OK(cu.cuMemAlloc_v2(&memory, SIZE));
    OK(cu.cuMemcpyHtoD_v2_ptds(memory, from, SIZE));
    OK(cu.cuMemcpyDtoH_v2_ptds(to, memory, SIZE));
    MUST(!memcmp(from, to, SIZE));
    OK(cu.cuMemFree_v2(memory));
    OK(cu.cuDevicePrimaryCtxRelease_v2(0));
    return unused;
}

/* The first call of CUDA comes from eight threads at once. */
static void begin_in_threads(void)
{
    pthread_t threads[8];
    unsigned flags = 0;
    int active = 1;
    cuda_open();
    pthread_barrier_init(&together, NULL, 8);
    for (int i = 0; i < 8; i++) pthread_create(&threads[i], NULL, begin_in_thread, NULL);
    for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
    OK(cu.cuDevicePrimaryCtxGetState(0, &flags, &active));
    MUST(!active);
    use_cuda();
}

static const struct {
    const char *name;
    void (*play)(void);
} SCENES[] = {
    {"return", by_return}, {"exit", by_exit}, {"fast_exit", by_fast_exit}, {"quick_exit", by_quick_exit},
    {"abort", by_abort}, {"signal", by_signal}, {"exit_of_a_thread", by_exit_of_a_thread},
    {"pthread_exit", by_pthread_exit}, {"longjmp", by_longjmp}, {"exit_amid_copies", exit_amid_copies},
    {"copy_in_exit_handler", copy_in_exit_handler}, {"close_library", close_library},
    {"close_unused_library", close_unused_library}, {"exec_after_use", exec_after_use},
    {"start_others", start_others}, {"closed_descriptors", closed_descriptors}, {"look", look},
    {"signals", signals}, {"begin_in_threads", begin_in_threads},
};

int main(int argc, char **argv)
{
    MUST(argc == 2);
    for (size_t i = 0; i < sizeof SCENES / sizeof *SCENES; i++) {
        if (strcmp(argv[1], SCENES[i].name)) continue;
        SCENES[i].play();
        printf("%s: right\n", argv[1]);
        return 0;
    }
    printf("no scene %s\n", argv[1]);
    return 2;
}
