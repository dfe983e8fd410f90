/*
 * A tree of processes with everything that programs hold, in the hands of a test
 * that dumps and restores it:
 *
 *   tree [gpus=N]    so many of its processes use CUDA (default 3: all but one)
 *
 * The parent has three children and one of these a child, two of them in sessions of
 * their own. Each has threads, memory of every kind, pipes and sockets with bytes
 * under way, locks, timers, events. It works in $TMPDIR.
 *
 * Prints "ready PID", then answers each line of its input with one line:
 *   check       all that there is, in every process: "ok", or what is wrong
 *   touch SEED  gives memory of every kind other bytes, in every process
 *   pids        of all processes, the parent first
 *   quit        ends
 */
#include "cuda_min.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#define BYTES ((size_t)1 << 20)
#define THREADS 4
#define MOST_CHILDREN 3

/* Which process this is: 0 the parent, 1 to 3 its children, 4 the child of 3. */
static int own;
static uint64_t seed = 1;
static const char *wrong;
static unsigned char *wanted;

#define CHECK(condition)                                                                                             \
    do {                                                                                                             \
        if (!(condition) && !wrong) wrong = #condition;                                                              \
    } while (0)

/* ---- memory ---- */

static unsigned char *private_memory, *common_memory, *mapped_file, *mapped_memfd, *mapped_deleted;
static int memfd, deleted, appended, position_file;

static unsigned char *map(int file, int flags)
{
    void *at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, flags, file, 0);
    MUST(at != MAP_FAILED);
    return at;
}

static int file_named(const char *kind, int flags)
{
    char name[64];
    snprintf(name, sizeof name, "%s-%d", kind, own);
    int file = open(name, O_RDWR | O_CREAT | O_CLOEXEC | flags, 0600);
    MUST(file >= 0 && !ftruncate(file, (off_t)BYTES));
    return file;
}

static void hold_memory(void)
{
    private_memory = map(-1, MAP_PRIVATE | MAP_ANONYMOUS);
    int file = file_named("mapped", 0);
    mapped_file = map(file, MAP_SHARED);
    close(file);
    memfd = memfd_create("tree", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    MUST(memfd >= 0 && !ftruncate(memfd, (off_t)BYTES));
    MUST(!fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK));
    mapped_memfd = map(memfd, MAP_SHARED);
    deleted = file_named("deleted", 0);
    mapped_deleted = map(deleted, MAP_SHARED);
    char name[64];
    snprintf(name, sizeof name, "deleted-%d", own);
    MUST(!unlink(name));
    MUST(lseek(deleted, 12345, SEEK_SET) == 12345);
    position_file = file_named("position", 0);
    MUST(lseek(position_file, 777, SEEK_SET) == 777);
    appended = file_named("appended", O_APPEND);
}

/* The memories and files of this process that have patterns. Shared by all, the common one has its own part for each. */
static unsigned char *memory_of(int index)
{
    unsigned char *all[] = {private_memory, common_memory + (size_t)own * BYTES, mapped_file, mapped_memfd, mapped_deleted};
    return index < 5 ? all[index] : NULL;
}

static void touch_memory(void)
{
    for (int i = 0; memory_of(i); i++) pattern(memory_of(i), BYTES, seed * 100 + (uint64_t)(own * 10 + i));
    char byte = (char)seed;
    MUST(pwrite(position_file, &byte, 1, 5) == 1);
}

static void check_memory(void)
{
    for (int i = 0; memory_of(i); i++) {
        pattern(wanted, BYTES, seed * 100 + (uint64_t)(own * 10 + i));
        CHECK(!memcmp(wanted, memory_of(i), BYTES));
    }
    CHECK(pread(deleted, wanted, BYTES, 0) == (ssize_t)BYTES && !memcmp(wanted, mapped_deleted, BYTES));
    CHECK(pread(memfd, wanted, BYTES, 0) == (ssize_t)BYTES && !memcmp(wanted, mapped_memfd, BYTES));
    CHECK(fcntl(memfd, F_GET_SEALS) == F_SEAL_SHRINK);
    CHECK(lseek(deleted, 0, SEEK_CUR) == 12345);
    CHECK(lseek(position_file, 0, SEEK_CUR) == 777);
    CHECK(fcntl(appended, F_GETFL) & O_APPEND);
    CHECK(fcntl(appended, F_GETFD) & FD_CLOEXEC);
    char byte = 0;
    CHECK(pread(position_file, &byte, 1, 5) == 1 && byte == (char)seed);
}

/* ---- threads ---- */

static _Thread_local uint64_t thread_local_number;
static struct thread {
    pthread_t thread;
    uint64_t number, asked, answered;
} threads[THREADS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

/* Answers with what only it knows, whenever it is asked. */
static void *answer(void *argument)
{
    struct thread *this = argument;
    thread_local_number = this->number;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (this->answered >= this->asked) pthread_cond_wait(&changed, &lock);
        if (thread_local_number == this->number) this->answered++;
        pthread_cond_broadcast(&changed);
    }
    return NULL;
}

static void hold_threads(void)
{
    for (int i = 0; i < THREADS; i++) {
        char name[16];
        threads[i] = (struct thread){.number = (uint64_t)(own * 100 + i + 7)};
        MUST(!pthread_create(&threads[i].thread, NULL, answer, &threads[i]));
        snprintf(name, sizeof name, "thread-%d", i);
        pthread_setname_np(threads[i].thread, name);
    }
}

static void check_threads(void)
{
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += 60;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < THREADS; i++) threads[i].asked++;
    pthread_cond_broadcast(&changed);
    for (int i = 0; i < THREADS; i++) {
        int late = 0;
        while (!late && threads[i].answered < threads[i].asked) late = pthread_cond_timedwait(&changed, &lock, &limit);
        CHECK(!late);
    }
    pthread_mutex_unlock(&lock);
    char name[16] = "";
    pthread_getname_np(threads[2].thread, name, sizeof name);
    CHECK(!strcmp(name, "thread-2"));
}

/* ---- pipes and sockets ---- */

static int full_pipe[2], pair[2], unix_listener, tcp_listener, tcp_near = -1, tcp_far = -1;
static struct sockaddr_in tcp_address = {.sin_family = AF_INET};
static struct sockaddr_un unix_address = {.sun_family = AF_UNIX};

/* What is written stays under way; what is read is written again. */
static int passes(int to, int from, const char *text)
{
    char read_back[64] = "";
    size_t length = strlen(text);
    return read(from, read_back, length) == (ssize_t)length && !memcmp(read_back, text, length) &&
           write(to, text, length) == (ssize_t)length;
}

static void hold_sockets(void)
{
    socklen_t length = sizeof tcp_address;
    MUST(!pipe2(full_pipe, O_CLOEXEC) && write(full_pipe[1], "in the pipe", 11) == 11);
    MUST(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair) && write(pair[0], "in the socket", 13) == 13);
    unix_listener = socket(AF_UNIX, SOCK_STREAM, 0);
    /* The whole path may be too long for a socket. */
    snprintf(unix_address.sun_path, sizeof unix_address.sun_path, "listener-%d", own);
    MUST(!bind(unix_listener, (void *)&unix_address, sizeof unix_address) && !listen(unix_listener, 8));
    tcp_listener = socket(AF_INET, SOCK_STREAM, 0);
    tcp_address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    MUST(!bind(tcp_listener, (void *)&tcp_address, sizeof tcp_address) && !listen(tcp_listener, 8));
    MUST(!getsockname(tcp_listener, (void *)&tcp_address, &length));
    tcp_near = socket(AF_INET, SOCK_STREAM, 0);
    MUST(!connect(tcp_near, (void *)&tcp_address, sizeof tcp_address));
    tcp_far = accept(tcp_listener, NULL, NULL);
    MUST(tcp_far >= 0 && write(tcp_near, "on the wire", 11) == 11);
}

static int accepts(int listener, int family, void *address, socklen_t length)
{
    int near = socket(family, SOCK_STREAM, 0), far = -1;
    if (!connect(near, address, length)) far = accept(listener, NULL, NULL);
    int works = far >= 0 && write(near, "hello", 5) == 5 && passes(far, far, "hello") && passes(near, near, "hello");
    close(near);
    close(far);
    return works;
}

static void check_sockets(void)
{
    CHECK(passes(full_pipe[1], full_pipe[0], "in the pipe"));
    CHECK(passes(pair[0], pair[1], "in the socket"));
    CHECK(passes(tcp_near, tcp_far, "on the wire"));
    CHECK(accepts(unix_listener, AF_UNIX, &unix_address, sizeof unix_address));
    CHECK(accepts(tcp_listener, AF_INET, &tcp_address, sizeof tcp_address));
}

/* ---- events, timers, signals, locks ---- */

static int events, far_timer, poller, locked_whole, locked_range;
static volatile int ticks, late;
static timer_t ticker;

static void tick(int number)
{
    (void)number;
    ticks++;
}

static void note_late(int number)
{
    (void)number;
    late++;
}

static void hold_events(void)
{
    struct itimerspec hour = {.it_value = {3600, 0}}, often = {{0, 20000000}, {0, 20000000}};
    struct sigevent wish = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 50};
    events = eventfd(41, EFD_CLOEXEC | EFD_NONBLOCK);
    far_timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    MUST(events >= 0 && far_timer >= 0 && !timerfd_settime(far_timer, 0, &hour, NULL));
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event one = {EPOLLIN, {.u64 = 1111}}, other = {EPOLLIN, {.u64 = 2222}};
    MUST(!epoll_ctl(poller, EPOLL_CTL_ADD, events, &one) && !epoll_ctl(poller, EPOLL_CTL_ADD, far_timer, &other));
    signal(SIGRTMIN, tick);
    MUST(!timer_create(CLOCK_MONOTONIC, &wish, &ticker) && !timer_settime(ticker, 0, &often, NULL));
    signal(SIGUSR2, note_late);
    MUST(!kill(getpid(), SIGUSR2));
    locked_whole = file_named("locked", 0);
    MUST(!flock(locked_whole, LOCK_EX));
    locked_range = file_named("range", 0);
    MUST(!fcntl(locked_range, F_SETLK, &range));
}

static void check_events(void)
{
    struct epoll_event found[4];
    struct itimerspec left;
    uint64_t value = 0;
    CHECK(epoll_wait(poller, found, 4, 1000) == 1 && found[0].data.u64 == 1111);
    CHECK(read(events, &value, 8) == 8 && value == 41 && write(events, &value, 8) == 8);
    CHECK(!timerfd_gettime(far_timer, &left) && left.it_value.tv_sec > 3000 && left.it_value.tv_sec <= 3600);
    int before = ticks;
    for (int i = 0; i < 600 && ticks == before; i++) usleep(10000);
    CHECK(ticks != before);
    sigset_t pending;
    CHECK(!sigpending(&pending) && sigismember(&pending, SIGUSR2) && !late);
    char name[64];
    snprintf(name, sizeof name, "locked-%d", own);
    int again = open(name, O_RDWR | O_CLOEXEC);
    CHECK(again >= 0 && flock(again, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK);
    close(again);
}

/* A lock of a range is its process's: only a child sees it. */
static void check_range(void)
{
    int status = -1;
    pid_t child = fork();
    if (!child) {
        struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 120, .l_len = 1};
        _exit(fcntl(locked_range, F_GETLK, &range) || range.l_type == F_UNLCK || range.l_start != 100);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* ---- device memory ---- */

static int uses_cuda;
static CUdeviceptr device_memory;
static CUcontext context;

static void touch_device(void)
{
    pattern(wanted, BYTES, seed * 1000 + (uint64_t)own);
    for (int i = 0; i < 4; i++) OK(cu.cuMemcpyHtoD_v2(device_memory + (size_t)i * BYTES, wanted, BYTES));
    OK(cu.cuCtxSynchronize());
}

static void hold_device(void)
{
    context = cuda_start();
    OK(cu.cuMemAlloc_v2(&device_memory, 4 * BYTES));
}

static void check_device(void)
{
    unsigned char *found = malloc(BYTES);
    MUST(found);
    pattern(wanted, BYTES, seed * 1000 + (uint64_t)own);
    for (int i = 0; i < 4; i++) {
        OK(cu.cuMemcpyDtoH_v2(found, device_memory + (size_t)i * BYTES, BYTES));
        CHECK(!memcmp(found, wanted, BYTES));
    }
    free(found);
}

/* ---- the tree ---- */

static struct {
    int line;
    pid_t pid;
} children[MOST_CHILDREN];
static int child_count;
static pid_t own_pid, own_session, own_group, parent;
/* The tree's first process, and the session that it was started in. */
static pid_t first, outer_session;

/* Sessions of the tree come back as they were. A job of a shell is in the session of
   whoever restores it. */
static pid_t wanted_session(void)
{
    return own_session == outer_session ? getsid(first) : own_session;
}

/* In the child, its standard input and output are a socket to its parent. */
static int has_become_child(int number, int leads_session)
{
    int line[2];
    MUST(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, line));
    fflush(stdout);
    pid_t child = fork();
    MUST(child >= 0);
    if (child) {
        close(line[1]);
        children[child_count].line = line[0];
        children[child_count++].pid = child;
        return 0;
    }
    /* Its parent's end, too: when that goes, the child ends. */
    close(line[0]);
    for (int i = 0; i < child_count; i++) close(children[i].line);
    child_count = 0;
    own = number;
    if (leads_session) MUST(setsid() > 0);
    else MUST(!setpgid(0, 0));
    MUST(dup2(line[1], 0) == 0 && dup2(line[1], 1) == 1);
    return 1;
}

static void grow(void)
{
    if (has_become_child(1, 1) || has_become_child(2, 0)) return;
    if (has_become_child(3, 0)) has_become_child(4, 1);
}

static void receive(int child, char *text, size_t room)
{
    size_t length = 0;
    while (length + 1 < room && read(children[child].line, text + length, 1) == 1 && text[length] != '\n') length++;
    text[length] = 0;
}

/* Passes a command on. The answers of all others than "ok" are what this one says, too. */
static void ask_children(const char *command, char *answer, size_t room)
{
    for (int i = 0; i < child_count; i++) dprintf(children[i].line, "%s\n", command);
    for (int i = 0; i < child_count; i++) {
        char said[300];
        receive(i, said, sizeof said);
        if (!strcmp(command, "pids")) snprintf(answer + strlen(answer), room - strlen(answer), " %s", said);
        else if (strcmp(said, "ok")) snprintf(answer, room, "%d: %s", (int)children[i].pid, *said ? said : "is gone");
    }
}

static void check_itself(void)
{
    CHECK(getpid() == own_pid && getsid(0) == wanted_session() && getpgid(0) == own_group);
    CHECK(own == 0 || getppid() == parent);
    for (int i = 0; i < child_count; i++) CHECK(getpgid(children[i].pid) > 0);
}

static void check(void)
{
    check_itself();
    check_memory();
    check_threads();
    check_sockets();
    check_events();
    check_range();
    if (uses_cuda) check_device();
}

static void touch(void)
{
    touch_memory();
    if (uses_cuda) touch_device();
}

static int obey(char *line)
{
    static char answer[400];
    snprintf(answer, sizeof answer, "ok");
    wrong = NULL;
    if (!strcmp(line, "pids")) snprintf(answer, sizeof answer, "%d", (int)getpid());
    ask_children(line, answer, sizeof answer);
    if (!strcmp(line, "check")) check();
    if (!strncmp(line, "touch ", 6)) {
        seed = strtoull(line + 6, NULL, 10);
        touch();
    }
    puts(wrong ? wrong : answer);
    fflush(stdout);
    return strcmp(line, "quit");
}

int main(int argc, char **argv)
{
    static char line[400];
    int gpus = argc > 1 && !strncmp(argv[1], "gpus=", 5) ? atoi(argv[1] + 5) : 3;
    const char *folder = getenv("TMPDIR");
    MUST(folder && !chdir(folder));
    /* A signal that waits for ever: no thread lets it in. */
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR2);
    MUST(!sigprocmask(SIG_BLOCK, &blocked, NULL));
    wanted = malloc(BYTES);
    MUST(wanted);
    common_memory = mmap(NULL, 5 * BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(common_memory != MAP_FAILED);
    first = getpid(), outer_session = getsid(0);
    grow();
    own_pid = getpid(), own_session = getsid(0), own_group = getpgid(0), parent = getppid();
    /* The parent, the child with a session of its own, the grandchild. */
    int order[] = {0, 1, 4, 3, 2};
    for (int i = 0; i < gpus && i < 5; i++) uses_cuda |= order[i] == own;
    hold_memory();
    hold_threads();
    hold_sockets();
    hold_events();
    if (uses_cuda) hold_device();
    touch();
    for (int i = 0; i < child_count; i++) receive(i, line, sizeof line);
    printf("ready %d\n", (int)getpid());
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (!obey(line)) break;
    }
    for (int i = 0; i < child_count; i++) close(children[i].line);
    while (wait(NULL) > 0) continue;
    return 0;
}
