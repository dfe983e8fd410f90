/*
 * Device memory of many kinds with known bytes and a CUDA graph over it, in the
 * hands of a test:
 *
 *   freeze [OPTION=VALUE]...
 *     route=NAME        linked, dlsym (default), four, five: see cuda_routes.h
 *     memory=KIND,...   what is allocated in every context (default: all of
 *                       small,plain,odd,zero,pitch,own,parts,twin,pool)
 *     devices=N         primary contexts of so many devices (default 1)
 *     created=1         and a created context of device 0
 *     peers=1           device 0 reads the memory of device 1
 *     children=N        processes that do the same, forked before CUDA is used
 *
 * Prints "ready PID", then answers each line of its input with one line:
 *   check             all bytes are compared, the graph is run, and again
 *   touch N SEED      N pieces of the memory get other bytes
 *   alloc KIND        one more block in the first context; drop KIND frees it
 *   where KIND        address and bytes of the last block of a kind
 *   lost KIND         its bytes are expected to be zero from now on
 *   busy, idle        a stream that waits for memory, until "idle"
 *   host, unhost      a host function that waits, until "unhost"
 *   capture, release  a capture in progress, until "release"
 *   nested            captures of the thread's own stream and another, the own one ends first
 *   abandon           a capture that ends with its context
 *   knock             a thread copies a block back; "answered" says "yes" or "no"
 *   fork              forks a child that ends
 *   fault RULES       of the software driver; "calls NAME" counts its calls
 *   child N COMMAND   asks a child
 *   quit              frees all and ends; leave: ends by exit(3) at once
 */
#include "cuda_routes.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/wait.h>

#define PIECE ((size_t)1 << 20)
#define GRAIN ((size_t)2 << 20)
#define MOST_BLOCKS 128
#define MOST_CONTEXTS 8

struct piece {
    uint64_t seed; /* 0: zeroes */
    uint32_t added;
};

struct block {
    const char *kind;
    int context;
    CUdeviceptr address, twin;
    size_t bytes;
    CUmemGenericAllocationHandle handle;
    int mappings;
    struct piece *pieces;
};

struct context {
    CUcontext context;
    int device;
    CUstream stream;
    CUfunction add, copy;
};

static cuda_table driver;
#define CU(name) driver.name

static struct block blocks[MOST_BLOCKS];
static struct context contexts[MOST_CONTEXTS];
static int block_count, context_count, with_peers;
static CUgraphExec graph;
static unsigned char *buffer, *wanted;
static char difference[200];

static size_t pieces_of(const struct block *block) { return (block->bytes + PIECE - 1) / PIECE; }

static size_t length_of(const struct block *block, size_t piece)
{
    size_t rest = block->bytes - piece * PIECE;
    return rest < PIECE ? rest : PIECE;
}

static void use(int context) { OK(CU(cuCtxSetCurrent)(contexts[context].context)); }

/* The bytes that a piece must have. */
static void expected(const struct block *block, size_t index, unsigned char *at)
{
    const struct piece *piece = &block->pieces[index];
    size_t bytes = length_of(block, index);
    if (piece->seed) pattern(at, bytes, piece->seed);
    else memset(at, 0, bytes);
    if (!piece->added) return;
    for (size_t word = 0; word + 4 <= bytes; word += 4) {
        uint32_t value;
        memcpy(&value, at + word, 4);
        value += piece->added;
        memcpy(at + word, &value, 4);
    }
}

static void launch_add(struct context *context, CUstream stream, CUdeviceptr address, size_t bytes, uint32_t value)
{
    uint64_t words = bytes / 4;
    void *arguments[] = {&address, &words, &value};
    OK(CU(cuLaunchKernel)(context->add, 8, 1, 1, 128, 1, 1, 0, stream, arguments, NULL));
}

/* Gives a piece other bytes: by a copy and by a kernel. */
static void fill(struct block *block, size_t index, uint64_t seed)
{
    struct context *context = &contexts[block->context];
    struct piece *piece = &block->pieces[index];
    size_t bytes = length_of(block, index);
    CUdeviceptr at = block->address + index * PIECE;
    use(block->context);
    pattern(buffer, bytes, seed);
    OK(CU(cuMemcpyHtoDAsync_v2)(at, buffer, bytes, context->stream));
    launch_add(context, context->stream, at, bytes, 7);
    OK(CU(cuStreamSynchronize)(context->stream));
    piece->seed = seed;
    piece->added = 7;
}

static void clear(struct block *block)
{
    use(block->context);
    OK(CU(cuMemsetD8_v2)(block->address, 0, block->bytes));
    OK(CU(cuCtxSynchronize)());
    memset(block->pieces, 0, pieces_of(block) * sizeof *block->pieces);
}

static void give_access(const struct block *block, CUdeviceptr address, size_t bytes, int flags)
{
    int device = contexts[block->context].device;
    CUmemAccessDesc access = {{CU_MEM_LOCATION_TYPE_DEVICE, device}, flags};
    OK(CU(cuMemSetAccess)(address, bytes, &access, 1));
    if (!with_peers) return;
    access.location.id = 1 - device;
    OK(CU(cuMemSetAccess)(address, bytes, &access, 1));
}

/* Memory that the program maps itself: whole, in swapped halves, or a second time to be read only. */
static void map_own(struct block *block)
{
    CUmemAllocationProp wish = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {CU_MEM_LOCATION_TYPE_DEVICE, contexts[block->context].device}};
    block->bytes = 2 * GRAIN;
    OK(CU(cuMemCreate)(&block->handle, block->bytes, &wish, 0));
    OK(CU(cuMemAddressReserve)(&block->address, block->bytes, 0, 0, 0));
    block->mappings = !strcmp(block->kind, "parts") ? 2 : 1;
    if (block->mappings == 2) {
        int code = CU(cuMemMap)(block->address, GRAIN, GRAIN, block->handle, 0);
        /* Driver 580 maps nothing but the beginning of a handle: "not supported". */
        if (code == 801) block->mappings = 1;
        else OK(code);
    }
    if (block->mappings == 2) {
        OK(CU(cuMemMap)(block->address + GRAIN, GRAIN, 0, block->handle, 0));
    } else {
        OK(CU(cuMemMap)(block->address, block->bytes, 0, block->handle, 0));
    }
    give_access(block, block->address, block->bytes, CU_MEM_ACCESS_READWRITE);
    if (!strcmp(block->kind, "twin")) {
        OK(CU(cuMemAddressReserve)(&block->twin, block->bytes, 0, 0, 0));
        OK(CU(cuMemMap)(block->twin, block->bytes, 0, block->handle, 0));
        give_access(block, block->twin, block->bytes, CU_MEM_ACCESS_READ);
    }
    if (!strcmp(block->kind, "own")) return;
    /* Mappings keep it alive. */
    OK(CU(cuMemRelease)(block->handle));
    block->handle = 0;
}

static const struct {
    const char *kind;
    size_t bytes;
} PLAIN[] = {{"small", 100000}, {"tiny", 2 << 20}, {"plain", 4 << 20}, {"odd", (5 << 20) + 4099}, {"zero", 8 << 20},
             {"blank", 2 << 20}, {"large", 48 << 20}};

/* A block of memory of another process, which a child made for it. */
static void import(struct block *block)
{
    int down[2];
    CUipcMemHandle handle;
    MUST(!pipe2(down, O_CLOEXEC));
    if (!fork()) {
        char *arguments[] = {"freeze", "exporter=1", NULL};
        dup2(down[1], 1);
        /* Memory that can be frozen cannot be shared. */
        setenv("REWARM_FREEZABLE", "0", 1);
        execv("/proc/self/exe", arguments);
        _exit(1);
    }
    MUST(read(down[0], &handle, sizeof handle) == sizeof handle);
    close(down[0]);
    close(down[1]);
    block->bytes = 4 << 20;
    OK(CU(cuIpcOpenMemHandle_v2)(&block->address, handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS));
}

/* The other process: lives until its parent ends. */
static void export(void)
{
    CUdeviceptr memory;
    CUipcMemHandle handle;
    use(0);
    OK(CU(cuMemAlloc_v2)(&memory, 4 << 20));
    OK(CU(cuIpcGetMemHandle)(&handle, memory));
    MUST(write(1, &handle, sizeof handle) == sizeof handle);
    pid_t parent = getppid();
    while (getppid() == parent) usleep(20000);
    _exit(0);
}

static struct block *allocate(int context, const char *kind)
{
    static uint64_t seed = 1000;
    MUST(block_count < MOST_BLOCKS);
    struct block *block = &blocks[block_count];
    memset(block, 0, sizeof *block);
    block->kind = strdup(kind);
    block->context = context;
    use(context);
    if (!strcmp(kind, "pitch")) {
        size_t pitch = 0;
        OK(CU(cuMemAllocPitch_v2)(&block->address, &pitch, 3001, 1400, 4));
        block->bytes = pitch * 1400;
    } else if (!strcmp(kind, "own") || !strcmp(kind, "parts") || !strcmp(kind, "twin")) {
        map_own(block);
    } else if (!strcmp(kind, "pool")) {
        block->bytes = 3 << 20;
        OK(CU(cuMemAllocAsync)(&block->address, block->bytes, contexts[context].stream));
    } else if (!strcmp(kind, "managed")) {
        block->bytes = 4 << 20;
        OK(CU(cuMemAllocManaged)(&block->address, block->bytes, CU_MEM_ATTACH_GLOBAL));
    } else if (!strcmp(kind, "imported")) {
        import(block);
    } else {
        for (size_t i = 0; i < sizeof PLAIN / sizeof *PLAIN; i++)
            if (!strcmp(kind, PLAIN[i].kind)) block->bytes = PLAIN[i].bytes;
        MUST(block->bytes);
        OK(CU(cuMemAlloc_v2)(&block->address, block->bytes));
    }
    block_count++;
    block->pieces = calloc(pieces_of(block), sizeof *block->pieces);
    clear(block);
    if (!strcmp(kind, "zero") || !strcmp(kind, "blank")) return block;
    for (size_t piece = 0; piece < pieces_of(block); piece++) fill(block, piece, ++seed);
    return block;
}

static void unmap(CUdeviceptr address, size_t bytes)
{
    OK(CU(cuMemUnmap)(address, bytes));
    OK(CU(cuMemAddressFree)(address, bytes));
}

static void drop(struct block *block)
{
    use(block->context);
    if (block->mappings) {
        if (block->twin) unmap(block->twin, block->bytes);
        unmap(block->address, block->bytes);
        if (block->handle) OK(CU(cuMemRelease)(block->handle));
    } else if (!strcmp(block->kind, "pool")) {
        OK(CU(cuMemFreeAsync)(block->address, contexts[block->context].stream));
    } else if (strcmp(block->kind, "imported")) {
        OK(CU(cuMemFree_v2)(block->address));
    }
    free(block->pieces);
    free((char *)block->kind);
    memmove(block, block + 1, (size_t)(&blocks[--block_count] - block) * sizeof *block);
}

/* The last block of a kind. */
static struct block *last(const char *kind)
{
    for (int i = block_count - 1; i >= 0; i--)
        if (!strcmp(blocks[i].kind, kind)) return &blocks[i];
    printf("there is no block of kind %s\n", kind);
    fflush(stdout);
    _exit(1);
}

static void make_context(int device, int created)
{
    struct context *context = &contexts[context_count];
    CUmodule module;
    MUST(context_count < MOST_CONTEXTS);
    context->device = device;
    if (created) OK(CU(cuCtxCreate_v2)(&context->context, 0, device));
    else OK(CU(cuDevicePrimaryCtxRetain)(&context->context, device));
    use(context_count++);
    OK(CU(cuStreamCreate)(&context->stream, CU_STREAM_NON_BLOCKING));
    OK(CU(cuModuleLoadData)(&module, CUDA_KERNELS));
    OK(CU(cuModuleGetFunction)(&context->add, module, "sim_add"));
    OK(CU(cuModuleGetFunction)(&context->copy, module, "sim_copy"));
}

/* A graph that adds one to the first piece of every block of the first context. */
static void make_graph(void)
{
    CUgraph captured;
    use(0);
    OK(CU(cuStreamBeginCapture_v2)(contexts[0].stream, CAPTURE_THREAD_LOCAL));
    for (int i = 0; i < block_count; i++)
        if (!blocks[i].context)
            launch_add(&contexts[0], contexts[0].stream, blocks[i].address, length_of(&blocks[i], 0), 1);
    OK(CU(cuStreamEndCapture)(contexts[0].stream, &captured));
    OK(CU(cuGraphInstantiateWithFlags)(&graph, captured, 0));
    OK(CU(cuGraphDestroy)(captured));
}

static int graph_blocks;

static void run_graph(void)
{
    use(0);
    OK(CU(cuGraphLaunch)(graph, contexts[0].stream));
    OK(CU(cuStreamSynchronize)(contexts[0].stream));
    for (int i = 0; i < graph_blocks; i++)
        if (!blocks[i].context) blocks[i].pieces[0].added++;
}

static int is_right(const struct block *block, CUdeviceptr address, const char *what)
{
    use(block->context);
    for (size_t piece = 0; piece < pieces_of(block); piece++) {
        size_t bytes = length_of(block, piece);
        memset(buffer, 0xee, bytes);
        OK(CU(cuMemcpyDtoH_v2)(buffer, address + piece * PIECE, bytes));
        expected(block, piece, wanted);
        if (!memcmp(buffer, wanted, bytes)) continue;
        size_t at = 0;
        while (buffer[at] == wanted[at]) at++;
        snprintf(difference, sizeof difference, "differs: %s of context %d, %s, byte %zu: %02x, not %02x", block->kind,
                 block->context, what, piece * PIECE + at, buffer[at], wanted[at]);
        return 0;
    }
    return 1;
}

/* What the driver says of a block beside its bytes. */
static int is_described(const struct block *block)
{
    CUdeviceptr base = 0;
    size_t bytes = 0;
    unsigned long long flags = 9;
    CUmemLocation location = {CU_MEM_LOCATION_TYPE_DEVICE, contexts[block->context].device};
    use(block->context);
    OK(CU(cuMemGetAddressRange_v2)(&base, &bytes, block->address));
    int right = block->mappings == 2 || (base == block->address && bytes == block->bytes);
    if (block->twin) {
        OK(CU(cuMemGetAccess)(&flags, &location, block->twin));
        right = right && flags == CU_MEM_ACCESS_READ;
        OK(CU(cuMemGetAccess)(&flags, &location, block->address));
        right = right && flags == CU_MEM_ACCESS_READWRITE;
    }
    if (!right)
        snprintf(difference, sizeof difference, "differs: %s of context %d: range %llx, %zu bytes, access %llu",
                 block->kind, block->context, base, bytes, flags);
    return right;
}

/* Where device 0 reads to; not made for each check, as freeing waits for busy streams. */
static CUdeviceptr scratch;
#define PEER_BYTES 65536

/* Device 0 reads a block of device 1 by a kernel. */
static int peer_is_right(void)
{
    struct block *from = NULL;
    for (int i = 0; i < block_count; i++)
        if (contexts[blocks[i].context].device == 1 && !strcmp(blocks[i].kind, "plain")) from = &blocks[i];
    MUST(from);
    CUdeviceptr source = from->address;
    uint64_t bytes = PEER_BYTES;
    use(0);
    void *arguments[] = {&scratch, &source, &bytes};
    OK(CU(cuLaunchKernel)(contexts[0].copy, 8, 1, 1, 128, 1, 1, 0, contexts[0].stream, arguments, NULL));
    OK(CU(cuStreamSynchronize)(contexts[0].stream));
    OK(CU(cuMemcpyDtoH_v2)(buffer, scratch, bytes));
    expected(from, 0, wanted);
    if (!memcmp(buffer, wanted, bytes)) return 1;
    snprintf(difference, sizeof difference, "differs: what device 0 reads of device 1");
    return 0;
}

static const char *check(void)
{
    for (int pass = 0; pass < 2; pass++) {
        for (int i = 0; i < block_count; i++) {
            struct block *block = &blocks[i];
            if (!is_described(block) || !is_right(block, block->address, "its bytes")) return difference;
            if (block->twin && !is_right(block, block->twin, "its read-only mapping")) return difference;
        }
        if (with_peers && !peer_is_right()) return difference;
        if (!pass) run_graph();
    }
    return "ok";
}

static void touch(int count, uint64_t seed)
{
    for (int i = 0; i < count; i++) {
        struct block *block = &blocks[random_next(&seed) % (uint64_t)block_count];
        fill(block, random_next(&seed) % pieces_of(block), random_next(&seed) | 1);
    }
}

/* What keeps streams from running dry. */
static CUstream aside;
static uint32_t *flag;
static sem_t may_go;

static void wait_in_host(void *nothing)
{
    (void)nothing;
    while (sem_wait(&may_go) && errno == EINTR) {}
}

static void make_aside(void)
{
    if (aside) return;
    use(0);
    OK(CU(cuStreamCreate)(&aside, CU_STREAM_NON_BLOCKING));
    OK(CU(cuMemHostAlloc)((void **)&flag, 4096, 0));
    sem_init(&may_go, 0, 0);
}

static void obstruct(const char *command)
{
    CUgraph captured;
    make_aside();
    use(0);
    if (!strcmp(command, "busy")) {
        __atomic_store_n(flag, 0, __ATOMIC_SEQ_CST);
        OK(CU(cuStreamWaitValue32_v2)(aside, (CUdeviceptr)(uintptr_t)flag, 1, CU_STREAM_WAIT_VALUE_EQ));
    } else if (!strcmp(command, "host")) {
        OK(CU(cuLaunchHostFunc)(aside, wait_in_host, NULL));
    } else if (!strcmp(command, "capture")) {
        OK(CU(cuStreamBeginCapture_v2)(aside, CAPTURE_THREAD_LOCAL));
    } else if (!strcmp(command, "release")) {
        /* Whoever looked at it must not have spoiled it. */
        OK(CU(cuStreamEndCapture)(aside, &captured));
        OK(CU(cuGraphDestroy)(captured));
    } else if (!strcmp(command, "idle")) {
        __atomic_store_n(flag, 1, __ATOMIC_SEQ_CST);
    } else {
        sem_post(&may_go);
    }
}

/* The thread's own stream ends its capture while the default stream cannot be asked. */
static void capture_nested(void)
{
    CUstream blocking;
    CUgraph captured;
    use(0);
    OK(CU(cuStreamCreate)(&blocking, 0));
    OK(CU(cuStreamBeginCapture_v2_ptsz)(NULL, CAPTURE_RELAXED));
    OK(CU(cuStreamBeginCapture_v2)(blocking, CAPTURE_RELAXED));
    OK(CU(cuStreamEndCapture_ptsz)(NULL, &captured));
    OK(CU(cuGraphDestroy)(captured));
    OK(CU(cuStreamEndCapture)(blocking, &captured));
    OK(CU(cuGraphDestroy)(captured));
    OK(CU(cuStreamDestroy_v2)(blocking));
}

static void abandon_capture(void)
{
    CUcontext context;
    CUstream stream;
    OK(CU(cuCtxCreate_v2)(&context, 0, 0));
    OK(CU(cuStreamCreate)(&stream, CU_STREAM_NON_BLOCKING));
    OK(CU(cuStreamBeginCapture_v2)(stream, CAPTURE_RELAXED));
    OK(CU(cuCtxDestroy_v2)(context));
    use(0);
}

static int answered;

static void *knock(void *nothing)
{
    unsigned char *own = malloc(4096);
    CUdeviceptr memory = blocks[0].address;
    OK(CU(cuCtxSetCurrent)(contexts[0].context));
    OK(CU(cuMemcpyDtoH_v2)(own, memory, 4096));
    free(own);
    __atomic_store_n(&answered, 1, __ATOMIC_SEQ_CST);
    return nothing;
}

static void start_knocking(void)
{
    pthread_t thread;
    answered = 0;
    MUST(!pthread_create(&thread, NULL, knock, NULL));
    pthread_detach(thread);
}

static void fork_once(void)
{
    int status = -1;
    pid_t child = fork();
    if (!child) _exit(0);
    MUST(child > 0 && waitpid(child, &status, 0) == child && status == 0);
}

static struct {
    FILE *to, *from;
    pid_t pid;
} children[8];
static int child_count;

/* In the child: its input and output are pipes of the parent from now on. */
static int make_child(void)
{
    int down[2], up[2];
    MUST(child_count < 8 && !pipe2(down, O_CLOEXEC) && !pipe2(up, O_CLOEXEC));
    fflush(stdout);
    pid_t child = fork();
    MUST(child >= 0);
    if (!child) {
        for (int i = 0; i < child_count; i++) close(fileno(children[i].to));
        dup2(down[0], 0);
        dup2(up[1], 1);
    } else {
        children[child_count].to = fdopen(down[1], "w");
        children[child_count].from = fdopen(up[0], "r");
        children[child_count++].pid = child;
    }
    close(down[child ? 0 : 1]);
    close(up[child ? 1 : 0]);
    return !child;
}

static void ask_child(int child, const char *command, char *answer, int room)
{
    MUST(child < child_count);
    fprintf(children[child].to, "%s\n", command);
    fflush(children[child].to);
    if (!fgets(answer, room, children[child].from)) snprintf(answer, (size_t)room, "gone");
    answer[strcspn(answer, "\n")] = 0;
}

static void quit(void)
{
    for (int i = 0; i < child_count; i++) fclose(children[i].to);
    for (int i = 0; i < child_count; i++) waitpid(children[i].pid, NULL, 0);
    OK(CU(cuGraphExecDestroy)(graph));
    while (block_count) drop(&blocks[block_count - 1]);
}

/* Carries out a command and says what there is to say. */
static const char *obey(char *line)
{
    static char answer[400];
    char *rest = strchr(line, ' ');
    if (rest) *rest++ = 0;
    else rest = "";
    snprintf(answer, sizeof answer, "ok");
    if (!strcmp(line, "check")) return check();
    if (!strcmp(line, "touch")) {
        char *seed;
        int count = (int)strtol(rest, &seed, 10);
        touch(count, strtoull(seed, NULL, 10));
    } else if (!strcmp(line, "alloc")) {
        allocate(0, rest);
    } else if (!strcmp(line, "drop")) {
        MUST(last(rest) - blocks >= graph_blocks);
        drop(last(rest));
    } else if (!strcmp(line, "where")) {
        snprintf(answer, sizeof answer, "%llu %zu", last(rest)->address, last(rest)->bytes);
    } else if (!strcmp(line, "lost")) {
        memset(last(rest)->pieces, 0, pieces_of(last(rest)) * sizeof(struct piece));
    } else if (!strcmp(line, "knock")) {
        start_knocking();
    } else if (!strcmp(line, "answered")) {
        return __atomic_load_n(&answered, __ATOMIC_SEQ_CST) ? "yes" : "no";
    } else if (!strcmp(line, "fork")) {
        fork_once();
    } else if (!strcmp(line, "fault")) {
        int (*set)(const char *) = dlsym(cuda_handle(), "simcuda_set_fault");
        MUST(set);
        set(rest);
    } else if (!strcmp(line, "calls")) {
        uint64_t (*count)(const char *) = dlsym(cuda_handle(), "simcuda_call_count");
        MUST(count);
        snprintf(answer, sizeof answer, "%llu", (unsigned long long)count(rest));
    } else if (!strcmp(line, "child")) {
        char *command;
        int child = (int)strtol(rest, &command, 10);
        ask_child(child, command + 1, answer, sizeof answer);
    } else if (!strcmp(line, "nested")) {
        capture_nested();
    } else if (!strcmp(line, "abandon")) {
        abandon_capture();
    } else {
        obstruct(line);
    }
    return answer;
}

static const char *option(int argc, char **argv, const char *name, const char *value)
{
    size_t length = strlen(name);
    for (int i = 1; i < argc; i++)
        if (!strncmp(argv[i], name, length) && argv[i][length] == '=') value = argv[i] + length + 1;
    return value;
}

static void begin(int argc, char **argv)
{
    cuda_take(&driver, option(argc, argv, "route", "dlsym"));
    OK(CU(cuInit)(0));
    int devices = atoi(option(argc, argv, "devices", "1"));
    for (int device = 0; device < devices; device++) make_context(device, 0);
    if (atoi(option(argc, argv, "exporter", "0"))) export();
    if (atoi(option(argc, argv, "created", "0"))) make_context(0, 1);
    with_peers = atoi(option(argc, argv, "peers", "0"));
    if (with_peers) {
        use(0);
        OK(CU(cuCtxEnablePeerAccess)(contexts[1].context, 0));
        OK(CU(cuMemAlloc_v2)(&scratch, PEER_BYTES));
    }
    char kinds[200];
    snprintf(kinds, sizeof kinds, "%s", option(argc, argv, "memory", "small,plain,odd,zero,pitch,own,parts,twin,pool"));
    for (char *kind = strtok(kinds, ","); kind; kind = strtok(NULL, ","))
        for (int context = 0; context < context_count; context++) allocate(context, kind);
    graph_blocks = block_count;
    make_graph();
    run_graph();
}

int main(int argc, char **argv)
{
    static char line[400];
    buffer = malloc(PIECE);
    wanted = malloc(PIECE);
    MUST(buffer && wanted);
    int is_child = 0;
    for (int i = atoi(option(argc, argv, "children", "0")); i > 0 && !is_child; i--) is_child = make_child();
    if (is_child) child_count = 0;
    begin(argc, argv);
    /* A parent is ready when all its children are. */
    for (int i = 0; i < child_count; i++) MUST(fgets(line, sizeof line, children[i].from));
    printf("ready %d\n", (int)getpid());
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (!strcmp(line, "quit")) {
            quit();
            puts("ok");
            return 0;
        }
        if (!strcmp(line, "leave")) exit(3);
        puts(obey(line));
        fflush(stdout);
    }
    return 0;
}
