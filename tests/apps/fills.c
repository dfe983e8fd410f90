/*
 * Copies into pinned memory by a library's own memcpy, in a situation chosen by
 * name:
 *
 *   fills SITUATION LIBRARY
 *
 * LIBRARY is a build of fills_library.c. Every situation compares all bytes of the
 * destination; what it prints must be the same plain and under rewarm.
 */
#include "cuda_min.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#define MIB (1ul << 20)
#define PAGE 4096ul
#define SIZE (8 * MIB + PAGE)
#define READ_WRITE (PROT_READ | PROT_WRITE)
#define OVERLAY 0x794c7630

static const char *library;
static void *handle;
static void (*copy_by_memcpy)(void *to, const void *from, size_t bytes);
static char path[64];
static int file;
static CUcontext context;

static void load_as(int mode)
{
    handle = dlopen(library, mode | RTLD_LOCAL);
    if (!handle) printf("%s\n", dlerror());
    MUST(handle);
    copy_by_memcpy = (void (*)(void *, const void *, size_t))dlsym(handle, "copy_by_memcpy");
    MUST(copy_by_memcpy);
}

static void load(void) { load_as(RTLD_NOW); }

static char *pin(size_t bytes)
{
    char *at;
    OK(cu.cuMemHostAlloc((void **)&at, bytes, 0));
    memset(at, 0x55, bytes);
    return at;
}

static char *anonymous_memory(size_t bytes, uint64_t seed)
{
    char *at = mmap(NULL, bytes, READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(at != MAP_FAILED);
    pattern(at, bytes, seed);
    return at;
}

static void remove_file(void) { unlink(path); }

/* As torch maps what safetensors reads. A file that is new on an overlay is not trusted. */
static char *map_file(void)
{
    struct statfs here;
    MUST(!statfs(".", &here));
    snprintf(path, sizeof path, "%s/weights-XXXXXX", here.f_type == OVERLAY ? "/dev/shm" : ".");
    file = mkstemp(path);
    MUST(file >= 0);
    atexit(remove_file);
    char *content = anonymous_memory(SIZE, 1);
    for (size_t done = 0; done < SIZE;) {
        ssize_t wrote = pwrite(file, content + done, SIZE - done, (off_t)done);
        MUST(wrote > 0);
        done += (size_t)wrote;
    }
    MUST(!munmap(content, SIZE));
    char *at = mmap(NULL, SIZE, READ_WRITE, MAP_PRIVATE, file, 0);
    MUST(at != MAP_FAILED);
    return at;
}

static void copy(char *to, const char *from, size_t bytes)
{
    errno = 77;
    copy_by_memcpy(to, from, bytes);
    MUST(errno == 77);
    MUST(!memcmp(to, from, bytes));
}

/* ---- where the bytes come from ---- */

static void from_file(void) { copy(pin(SIZE), map_file(), SIZE); }

static void from_memory(void) { copy(pin(SIZE), anonymous_memory(SIZE, 2), SIZE); }

static void from_modified(void)
{
    char *from = map_file();
    for (size_t at = 0; at < SIZE; at += 3 * MIB) from[at] ^= 1;
    copy(pin(SIZE), from, SIZE);
}

/* The end of the file lies within the copy: SIGBUS. */
static void from_truncated(void)
{
    char *to = pin(SIZE), *from = map_file();
    MUST(!ftruncate(file, SIZE / 2));
    copy_by_memcpy(to, from, SIZE);
}

static void from_the_same_block(void)
{
    char *at = pin(4 * MIB);
    pattern(at, 2 * MIB, 3);
    copy(at + 2 * MIB, at, 2 * MIB);
}

/* ---- sizes and places ---- */

static void sizes(void)
{
    static const size_t SIZES[] = {0, 1, PAGE, MIB - 1, MIB, MIB + 1, 3 * MIB + 77};
    static const size_t PLACES[] = {0, 8, PAGE + 1};
    char *to = pin(SIZE), *from = map_file();
    for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++)
        for (size_t j = 0; j < sizeof PLACES / sizeof *PLACES; j++) {
            size_t bytes = SIZES[i], at = 1 + PLACES[j], end = at + bytes;
            memset(to, 0x55, SIZE);
            copy(to + at, from + 8 * j, bytes);
            for (size_t before = 0; before < at; before++) MUST(to[before] == 0x55);
            for (size_t behind = end; behind < end + 2 * PAGE; behind++) MUST(to[behind] == 0x55);
        }
}

static void pageable(void)
{
    pin(SIZE);
    copy(anonymous_memory(SIZE, 4), map_file(), SIZE);
}

/* The block ends within a page. */
static void partly_outside(void) { copy(pin(2 * MIB + 100), map_file(), 2 * MIB + 200); }

static void onto_itself(void)
{
    char *at = pin(SIZE);
    pattern(at, SIZE, 5);
    copy(at, at, SIZE);
}

/* ---- blocks that are gone: other memory is where they were ---- */

static void copy_to_where_it_was(char *block)
{
    char *to = mmap(block, SIZE, READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    MUST(to == block);
    copy(to, map_file(), SIZE);
}

static void freed(void)
{
    char *block = pin(SIZE);
    OK(cu.cuMemFreeHost(block));
    copy_to_where_it_was(block);
}

static void gone_with_its_context(void)
{
    CUcontext other;
    OK(cu.cuCtxCreate_v2(&other, 0, 0));
    char *block = pin(SIZE);
    OK(cu.cuCtxDestroy_v2(other));
    OK(cu.cuCtxSetCurrent(context));
    copy_to_where_it_was(block);
}

/* ---- the library ---- */

static void loaded_late(void)
{
    pin(SIZE);
    load();
    copy(pin(SIZE), map_file(), SIZE);
}

static void loaded_behind_the_last_block(void)
{
    char *to = pin(SIZE);
    load();
    copy(to, map_file(), SIZE);
}

static void loaded_again(void)
{
    char *from = map_file();
    copy(pin(SIZE), from, SIZE);
    MUST(!dlclose(handle));
    load();
    copy(pin(SIZE), from, SIZE);
}

/* The slot is as protected as the loader left it. */
static void protected(void)
{
    void **(*slot_of_memcpy)(void) = (void **(*)(void))dlsym(handle, "slot_of_memcpy");
    MUST(slot_of_memcpy);
    void **slot = slot_of_memcpy();
    copy(pin(SIZE), map_file(), SIZE);
    char line[4352], rights[5] = "";
    FILE *maps = fopen("/proc/self/maps", "r");
    MUST(maps);
    while (fgets(line, sizeof line, maps)) {
        void *start, *end;
        if (sscanf(line, "%p-%p %4s", &start, &end, rights) == 3 && (void *)slot >= start && (void *)slot < end) break;
    }
    fclose(maps);
    printf("the slot is %s\n", rights);
}

/* ---- company ---- */

static void *one_thread(void *seed)
{
    OK(cu.cuCtxSetCurrent(context));
    char *to = pin(SIZE), *from = anonymous_memory(SIZE, (uint64_t)seed);
    for (int i = 0; i < 8; i++) {
        memset(to, i, SIZE);
        copy(to + i, from, SIZE - 8);
    }
    return NULL;
}

static void threads(void)
{
    pthread_t thread[4];
    for (uintptr_t i = 0; i < 4; i++) MUST(!pthread_create(&thread[i], NULL, one_thread, (void *)(i + 10)));
    for (int i = 0; i < 4; i++) MUST(!pthread_join(thread[i], NULL));
}

static volatile int loading = 1;

static void *pin_while_loading(void *unused)
{
    OK(cu.cuCtxSetCurrent(context));
    while (loading) {
        void *block;
        OK(cu.cuMemHostAlloc(&block, MIB, 0));
        OK(cu.cuMemFreeHost(block));
    }
    return unused;
}

/* The library comes and goes while another thread pins memory. */
static void loaded_meanwhile(void)
{
    pthread_t thread;
    char *to = pin(SIZE), *from = anonymous_memory(SIZE, 6);
    MUST(!pthread_create(&thread, NULL, pin_while_loading, NULL));
    for (int i = 0; i < 300; i++) {
        load();
        memset(to, i, SIZE);
        copy(to, from, MIB + (size_t)i);
        MUST(!dlclose(handle));
    }
    loading = 0;
    MUST(!pthread_join(thread, NULL));
}

/* A fill, then a copy to the device: what a load consists of. */
static void beside_copies(void)
{
    CUdeviceptr device;
    char *to = pin(SIZE), *back = pin(SIZE), *from = map_file();
    OK(cu.cuMemAlloc_v2(&device, SIZE));
    for (int i = 0; i < 5; i++) {
        copy(to, from, SIZE);
        OK(cu.cuMemcpyHtoD_v2(device, i & 1 ? to : from, SIZE));
        OK(cu.cuMemcpyDtoH_v2(back, device, SIZE));
        MUST(!memcmp(back, from, SIZE));
    }
}

static void in_a_child(void)
{
    char *to = pin(SIZE), *from = map_file();
    copy(to, from, SIZE);
    pid_t child = fork();
    MUST(child >= 0);
    if (!child) {
        char *here = mmap(to, SIZE, READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
        MUST(here == to);
        copy(to, from, SIZE);
        _exit(0);
    }
    int status;
    MUST(waitpid(child, &status, 0) == child && status == 0);
    copy(to, from, SIZE);
}

enum { BEFORE_CUDA, AFTER_CUDA, LAZILY, BY_ITSELF };
static const struct {
    const char *name;
    void (*run)(void);
    int load;
} SITUATIONS[] = {
    {"from_file", from_file, BEFORE_CUDA}, {"from_memory", from_memory, BEFORE_CUDA},
    {"from_modified", from_modified, BEFORE_CUDA}, {"from_truncated", from_truncated, BEFORE_CUDA},
    {"from_the_same_block", from_the_same_block, BEFORE_CUDA}, {"sizes", sizes, BEFORE_CUDA},
    {"pageable", pageable, BEFORE_CUDA}, {"partly_outside", partly_outside, BEFORE_CUDA},
    {"onto_itself", onto_itself, BEFORE_CUDA}, {"freed", freed, BEFORE_CUDA},
    {"gone_with_its_context", gone_with_its_context, BEFORE_CUDA}, {"loaded_after_cuda", from_file, AFTER_CUDA},
    {"loaded_late", loaded_late, BY_ITSELF}, {"loaded_behind_the_last_block", loaded_behind_the_last_block, BY_ITSELF},
    {"loaded_again", loaded_again, AFTER_CUDA}, {"loaded_lazily", from_file, LAZILY},
    {"loaded_meanwhile", loaded_meanwhile, BY_ITSELF}, {"protected", protected, BEFORE_CUDA}, {"threads", threads, BEFORE_CUDA},
    {"beside_copies", beside_copies, BEFORE_CUDA}, {"in_a_child", in_a_child, BEFORE_CUDA},
};

int main(int argc, char **argv)
{
    MUST(argc == 3);
    library = argv[2];
    for (size_t i = 0; i < sizeof SITUATIONS / sizeof *SITUATIONS; i++) {
        if (strcmp(argv[1], SITUATIONS[i].name)) continue;
        if (SITUATIONS[i].load == BEFORE_CUDA) load();
        context = cuda_start();
        if (SITUATIONS[i].load == AFTER_CUDA) load();
        if (SITUATIONS[i].load == LAZILY) load_as(RTLD_LAZY);
        SITUATIONS[i].run();
        OK(cu.cuCtxSynchronize());
        printf("%s: right\n", argv[1]);
        return 0;
    }
    printf("no situation %s\n", argv[1]);
    return 2;
}
