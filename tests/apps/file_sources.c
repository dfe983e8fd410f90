/*
 * Copies to the device from mappings of a file, in a situation chosen by name:
 *
 *   file_sources SITUATION
 *
 * Every situation compares what is on the device with what memory holds; what
 * it prints must be the same plain and under rewarm.
 */
#include "cuda_min.h"
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>

#define PAGE 4096ul
#define PAGES 2049ul /* 8 MiB and a page: no multiple of any chunk */
#define SIZE (PAGES * PAGE)
#define READ_WRITE (PROT_READ | PROT_WRITE)
#define OVERLAY 0x794c7630

static char path[128];
static int file;
static CUdeviceptr device;
static char *pinned;

static void fill(int to, uint64_t seed)
{
    char *content = malloc(SIZE);
    MUST(content);
    pattern(content, SIZE, seed);
    for (size_t done = 0; done < SIZE;) {
        ssize_t wrote = pwrite(to, content + done, SIZE - done, (off_t)done);
        MUST(wrote > 0);
        done += (size_t)wrote;
    }
    free(content);
}

static void remove_file(void) { unlink(path); }

static void make_file_in(const char *folder)
{
    snprintf(path, sizeof path, "%s/weights-XXXXXX", folder);
    file = mkstemp(path);
    MUST(file >= 0);
    atexit(remove_file);
    fill(file, 1);
}

/* In the working directory. A file that is new on an overlay is not trusted, as it may have been copied up under a mapping. */
static void make_file(void)
{
    struct statfs here;
    MUST(!statfs(".", &here));
    make_file_in(here.f_type == OVERLAY ? "/dev/shm" : ".");
}

static char *map(int rights, int flags)
{
    char *at = mmap(NULL, SIZE, rights, flags, file, 0);
    MUST(at != MAP_FAILED);
    return at;
}

static void copy(const char *from, size_t bytes)
{
    OK(cu.cuMemsetD8_v2(device, 0x55, SIZE));
    OK(cu.cuMemcpyHtoD_v2(device, from, bytes));
    /* Pinned memory, which no copy of rewarm's touches. */
    OK(cu.cuMemcpyDtoH_v2(pinned, device, bytes));
    MUST(!memcmp(pinned, from, bytes));
}

/* ---- the file has the bytes ---- */

static void shared(void) { copy(map(PROT_READ, MAP_SHARED), SIZE); }

static void private(void) { copy(map(READ_WRITE, MAP_PRIVATE), SIZE); }

static void populated(void)
{
    char *at = map(READ_WRITE, MAP_PRIVATE);
    for (size_t page = 0; page < PAGES; page++) (void)*(volatile char *)(at + page * PAGE);
    copy(at, SIZE);
}

/* Populating a private mapping that is writable makes a copy of every page. */
static void copied_at_once(void) { copy(map(READ_WRITE, MAP_PRIVATE | MAP_POPULATE), SIZE); }

static void read_only(void) { copy(map(PROT_READ, MAP_PRIVATE), SIZE); }

static void any_offset(void) { copy(map(PROT_READ, MAP_PRIVATE) + 3 * PAGE + 77, SIZE - 5 * PAGE); }

static void written_shared(void)
{
    char *at = map(READ_WRITE, MAP_SHARED);
    pattern(at + 100, SIZE / 2, 2);
    copy(at, SIZE);
}

static void given_back(void)
{
    char *at = map(READ_WRITE, MAP_PRIVATE);
    memset(at, 7, SIZE);
    MUST(!madvise(at, SIZE, MADV_DONTNEED));
    copy(at, SIZE);
}

static void in_pieces(void)
{
    char *at = map(READ_WRITE, MAP_PRIVATE);
    for (size_t page = 1; page < PAGES; page += 512) MUST(!mprotect(at + page * PAGE, 7 * PAGE, PROT_READ));
    copy(at, SIZE);
}

static void among_many(void)
{
    char *at = map(READ_WRITE, MAP_PRIVATE);
    for (int i = 0; i < 20000; i++)
        MUST(mmap(NULL, PAGE, i & 1 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
    copy(at, SIZE);
}

static void odd_name(void)
{
    char odd[160];
    snprintf(odd, sizeof odd, "%s new\nline (deleted)", path);
    MUST(!rename(path, odd));
    snprintf(path, sizeof path, "%.120s", odd);
    copy(map(READ_WRITE, MAP_PRIVATE), SIZE);
}

static void in_memory(void)
{
    make_file_in("/dev/shm");
    copy(map(READ_WRITE, MAP_PRIVATE), SIZE);
}

/* ---- now and then ---- */

static void overwritten(void)
{
    char *at = map(READ_WRITE, MAP_PRIVATE);
    for (uint64_t i = 0; i < 5; i++) {
        copy(at, SIZE);
        fill(file, 10 + i);
        MUST(pwrite(file, &i, sizeof i, (off_t)(5 * PAGE + i * 1000)) == sizeof i);
    }
    copy(at, SIZE);
}

static void resized(void)
{
    char *at = map(READ_WRITE, MAP_PRIVATE);
    copy(at, SIZE);
    MUST(!ftruncate(file, SIZE / 2 - 100));
    copy(at, SIZE / 2 - 100);
    copy(at + PAGE, SIZE / 2 - 1 - PAGE); /* zeros behind the end, on its page */
    MUST(!ftruncate(file, SIZE));
    copy(at, SIZE);
}

/* ---- memory has other bytes ---- */

static void modified_pages(size_t first, size_t step)
{
    char *at = map(READ_WRITE, MAP_PRIVATE);
    copy(at, SIZE);
    for (size_t page = first; page < PAGES; page += step) at[page * PAGE + 99] ^= 1;
    copy(at, SIZE);
}

static void modified_start(void) { modified_pages(0, PAGES); }

static void modified_middle(void) { modified_pages(PAGES / 2, PAGES); }

static void modified_end(void) { modified_pages(PAGES - 1, PAGES); }

static void modified(void)
{
    char *at = map(READ_WRITE, MAP_PRIVATE);
    for (size_t page = 0; page < PAGES; page++) at[page * PAGE] ^= 1;
    copy(at, SIZE);
}

/* The file changes where memory has a page of its own with what the file had before. */
static void kept(void)
{
    char *at = map(READ_WRITE, MAP_PRIVATE);
    for (size_t page = 0; page < PAGES; page++) *(volatile char *)(at + page * PAGE) = at[page * PAGE];
    fill(file, 3);
    copy(at, SIZE);
}

static void deleted(void)
{
    char *at = map(READ_WRITE, MAP_PRIVATE);
    MUST(!unlink(path));
    copy(at, SIZE);
}

static void replaced(void)
{
    char other[160], *at = map(READ_WRITE, MAP_PRIVATE);
    snprintf(other, sizeof other, "%s-new", path);
    int to = open(other, O_RDWR | O_CREAT | O_EXCL, 0600);
    MUST(to >= 0);
    fill(to, 4);
    MUST(!rename(other, path));
    copy(at, SIZE);
}

static void memfd(void)
{
    file = memfd_create("weights", 0);
    MUST(file >= 0);
    fill(file, 5);
    copy(map(READ_WRITE, MAP_SHARED), SIZE);
}

static void anonymous(void)
{
    char *at = mmap(NULL, SIZE, READ_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(at != MAP_FAILED);
    pattern(at, SIZE, 6);
    copy(at, SIZE);
}

/* The end of the file lies within the copy: SIGBUS. */
static void truncated(void)
{
    char *at = map(READ_WRITE, MAP_PRIVATE);
    MUST(!ftruncate(file, SIZE / 2));
    OK(cu.cuMemcpyHtoD_v2(device, at, SIZE));
}

/* ---- what the application has beside it ---- */

static struct flock whole(short type) { return (struct flock){.l_type = type, .l_whence = SEEK_SET}; }

/* Whether another process finds the file locked. */
static int is_locked(void)
{
    pid_t child = fork();
    if (!child) {
        struct flock lock = whole(F_WRLCK);
        _exit(fcntl(file, F_GETLK, &lock) || lock.l_type != F_UNLCK);
    }
    int status = 0;
    MUST(child > 0 && waitpid(child, &status, 0) == child);
    return status != 0;
}

static void locked(void)
{
    char *at = map(READ_WRITE, MAP_PRIVATE);
    struct flock lock = whole(F_WRLCK);
    MUST(!fcntl(file, F_SETLK, &lock));
    copy(at, SIZE);
    MUST(is_locked());
}

static int descriptors_of_the_file(int *lowest)
{
    char link[64], to[4096], *real = realpath(path, NULL);
    int found = 0;
    MUST(real);
    for (int number = 0; number < 4096; number++) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", number);
        ssize_t length = readlink(link, to, sizeof to - 1);
        if (length < 0 || number == file) continue;
        to[length] = 0;
        if (strcmp(to, real)) continue;
        if (!found++) *lowest = number;
    }
    free(real);
    return found;
}

/* What rewarm opens has high numbers, and is closed when nothing is copied. */
static void descriptors(void)
{
    char *at = map(READ_WRITE, MAP_PRIVATE);
    int lowest = 0, next = dup(0);
    copy(at, SIZE);
    MUST(dup(0) == next + 1);
    if (descriptors_of_the_file(&lowest)) MUST(lowest >= 200);
    for (int tries = 0; descriptors_of_the_file(&lowest); tries++) {
        MUST(tries < 600);
        usleep(100 * 1000);
    }
    copy(at, SIZE);
}

static const struct {
    const char *name;
    void (*run)(void);
} SITUATIONS[] = {
    {"shared", shared}, {"private", private}, {"populated", populated}, {"copied_at_once", copied_at_once}, {"read_only", read_only},
    {"any_offset", any_offset}, {"written_shared", written_shared}, {"given_back", given_back},
    {"in_pieces", in_pieces}, {"among_many", among_many}, {"odd_name", odd_name}, {"in_memory", in_memory},
    {"overwritten", overwritten}, {"resized", resized}, {"modified_start", modified_start},
    {"modified_middle", modified_middle}, {"modified_end", modified_end}, {"modified", modified}, {"kept", kept},
    {"deleted", deleted}, {"replaced", replaced}, {"memfd", memfd}, {"anonymous", anonymous},
    {"truncated", truncated}, {"locked", locked}, {"descriptors", descriptors},
};

int main(int argc, char **argv)
{
    MUST(argc == 2);
    for (size_t i = 0; i < sizeof SITUATIONS / sizeof *SITUATIONS; i++) {
        if (strcmp(argv[1], SITUATIONS[i].name)) continue;
        cuda_start();
        OK(cu.cuMemAlloc_v2(&device, SIZE));
        OK(cu.cuMemHostAlloc((void **)&pinned, SIZE, 0));
        make_file();
        SITUATIONS[i].run();
        OK(cu.cuCtxSynchronize());
        printf("%s: right\n", argv[1]);
        return 0;
    }
    printf("no situation %s\n", argv[1]);
    return 2;
}
