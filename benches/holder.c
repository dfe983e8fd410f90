// Holds device memory with known contents, and obeys lines on stdin: what is frozen and thawed.
//   holder --bytes N [--each N] [--share F]
// N bytes in allocations of --each (1 GiB); the first F of each (1) is pseudo-random, the rest as the driver gave it.
// Says {"ready": …} when done, then answers a line of JSON to each of
//   check      a kernel compares every word with what was written, once launched and once from a graph captured before
//   change F   writes the first F of each allocation anew, and captures the graph again
//   info       cuMemGetInfo
//   quit
// Without any memory (--bytes 0) it is a bare context, from which others can be seen coming and going.
#include "driver.h"

// Words are 32 bits and depend on their address and the seed, so that a part can be compared by itself; seed 0 gives
// zeroes. `check` adds the number of words that differ to *result.
#define WORD                                                                                                           \
    "shr.u64 %d8, %d6, 2; cvt.u32.u64 %r6, %d8; mul.lo.u32 %r7, %r1, 0x9E3779B1; add.u32 %r6, %r6, %r7;\n"                                  \
    "shr.u32 %r7, %r6, 16; xor.b32 %r6, %r6, %r7; mul.lo.u32 %r6, %r6, 0x85EBCA6B;\n"                                  \
    "shr.u32 %r7, %r6, 13; xor.b32 %r6, %r6, %r7; mul.lo.u32 %r6, %r6, 0xC2B2AE35;\n"                                  \
    "shr.u32 %r7, %r6, 16; xor.b32 %r6, %r6, %r7; selp.b32 %r6, 0, %r6, %p2;\n"
#define START                                                                                                          \
    ".reg .pred %p<4>; .reg .b32 %r<12>; .reg .b64 %d<12>;\n"                                                          \
    "ld.param.u64 %d1, [memory]; ld.param.u64 %d2, [count]; ld.param.u32 %r1, [seed];\n"                               \
    "cvta.to.global.u64 %d1, %d1; setp.eq.u32 %p2, %r1, 0;\n"                                                          \
    "mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x; mov.u32 %r4, %tid.x; mov.u32 %r5, %nctaid.x;\n"                      \
    "mul.wide.u32 %d3, %r2, %r3; cvt.u64.u32 %d4, %r4; add.u64 %d3, %d3, %d4; mul.wide.u32 %d5, %r5, %r3;\n"
#define EACH                                                                                                           \
    "NEXT: setp.ge.u64 %p1, %d3, %d2; @%p1 bra DONE; shl.b64 %d6, %d3, 2; add.u64 %d6, %d1, %d6;\n" WORD

static const char PTX[] =
    ".version 7.0\n.target sm_75\n.address_size 64\n"
    ".visible .entry fill(.param .u64 memory, .param .u64 count, .param .u32 seed) {\n" START EACH
    "st.global.u32 [%d6], %r6; add.u64 %d3, %d3, %d5; bra NEXT;\nDONE: ret;\n}\n"
    ".visible .entry check(.param .u64 memory, .param .u64 count, .param .u32 seed, .param .u64 result) {\n" START
    "mov.u32 %r9, 0;\n" EACH
    "ld.global.u32 %r8, [%d6]; setp.ne.u32 %p1, %r8, %r6; @%p1 add.u32 %r9, %r9, 1;\n"
    "add.u64 %d3, %d3, %d5; bra NEXT;\n"
    "DONE: setp.eq.u32 %p1, %r9, 0; @%p1 ret;\n"
    "ld.param.u64 %d7, [result]; cvta.to.global.u64 %d7, %d7; red.global.add.u32 [%d7], %r9; ret;\n}\n";

#define MORE_CALLS(X)                                                                                                  \
    X(cuMemGetInfo, cuMemGetInfo_v2, (size_t *, size_t *))                                                             \
    X(cuStreamBeginCapture, cuStreamBeginCapture_v2, (CUhandle, int))                                                  \
    X(cuStreamEndCapture, cuStreamEndCapture, (CUhandle, CUhandle *))                                                  \
    X(cuGraphInstantiate, cuGraphInstantiateWithFlags, (CUhandle *, CUhandle, unsigned long long))                     \
    X(cuGraphLaunch, cuGraphLaunch, (CUhandle, CUhandle))                                                              \
    X(cuGraphExecDestroy, cuGraphExecDestroy, (CUhandle))                                                              \
    X(cuGraphDestroy, cuGraphDestroy, (CUhandle))
#define DECLARE(name, symbol, arguments) static int(*name) arguments;
MORE_CALLS(DECLARE)
#undef DECLARE

// Words that differ: of those that were written, and of those that never were.
enum { WRITTEN, UNWRITTEN, RESULTS };
enum { MOST = 4096, BLOCKS = 1056, THREADS = 512 };

static CUhandle stream, fill_kernel, check_kernel, graph;
static CUdeviceptr results, memory[MOST];
static size_t count, each, written, changed;
static unsigned generation;

static void fill(CUdeviceptr at, size_t bytes, unsigned seed) {
    uint64_t words = bytes / 4;
    void *arguments[] = {&at, &words, &seed};
    if (words) CK(cuLaunchKernel(fill_kernel, BLOCKS, 1, 1, THREADS, 1, 1, 0, stream, arguments, NULL));
}

static void compare(CUdeviceptr at, size_t bytes, unsigned seed, int which) {
    uint64_t words = bytes / 4;
    CUdeviceptr result = results + 4 * (unsigned)which;
    void *arguments[] = {&at, &words, &seed, &result};
    if (words) CK(cuLaunchKernel(check_kernel, BLOCKS, 1, 1, THREADS, 1, 1, 0, stream, arguments, NULL));
}

// Seeds are odd, so never 0, and differ by allocation and generation.
static unsigned seed(size_t allocation, unsigned of_generation) {
    return 2 * ((unsigned)allocation + MOST * of_generation) + 1;
}

static void compare_all(void) {
    for (size_t i = 0; i < count; i++) {
        compare(memory[i], changed, seed(i, generation), WRITTEN);
        compare(memory[i] + changed, written - changed, seed(i, 0), WRITTEN);
        compare(memory[i] + written, each - written, 0, UNWRITTEN);
    }
}

static void capture(void) {
    CUhandle captured;
    if (graph) CK(cuGraphExecDestroy(graph));
    CK(cuStreamBeginCapture(stream, 0));
    compare_all();
    CK(cuStreamEndCapture(stream, &captured));
    CK(cuGraphInstantiate(&graph, captured, 0));
    CK(cuGraphDestroy(captured));
}

// What differs, by one of the two ways.
static void differing(unsigned *found, int by_graph) {
    CK(cuMemsetD8(results, 0, 4 * RESULTS));
    CK(cuCtxSynchronize());
    if (by_graph)
        CK(cuGraphLaunch(graph, stream));
    else
        compare_all();
    CK(cuStreamSynchronize(stream));
    CK(cuMemcpyDtoH(found, results, 4 * RESULTS));
}

static void open_more(void) {
    void *lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    if (!lib) die("%s", dlerror());
#define FIND(name, symbol, arguments)                                                                                  \
    *(void **)&name = dlsym(lib, #symbol);                                                                             \
    if (!name) die("libcuda.so.1 has no %s", #symbol);
    MORE_CALLS(FIND)
#undef FIND
}

// The kernels above, or the software driver's own, which take the same arguments.
static void load_kernels(void) {
    CUhandle module;
    CK(cuModuleLoadData(&module, PTX));
    if (!cuModuleGetFunction(&fill_kernel, module, "fill")) {
        CK(cuModuleGetFunction(&check_kernel, module, "check"));
        return;
    }
    CK(cuModuleGetFunction(&fill_kernel, module, "sim_fill"));
    CK(cuModuleGetFunction(&check_kernel, module, "sim_check"));
}

// If the machine runs out of memory, this process is the one to go.
static void volunteer(void) {
    FILE *file = fopen("/proc/self/oom_score_adj", "w");
    if (!file) return;
    fputs("1000", file);
    fclose(file);
}

int main(int argc, char **argv) {
    size_t bytes = strtoull(option(argc, argv, "--bytes", "1073741824"), NULL, 0);
    each = strtoull(option(argc, argv, "--each", "1073741824"), NULL, 0);
    double share = strtod(option(argc, argv, "--share", "1"), NULL);
    count = each ? bytes / each : 0;
    if (count > MOST || each % 4 || share < 0 || share > 1) die("at most %d allocations of whole words", MOST);
    written = (size_t)((double)each * share) / (64 * KIB) * (64 * KIB);
    volunteer();
    driver_open();
    open_more();
    load_kernels();
    CK(cuStreamCreate(&stream, 1));
    CK(cuMemAlloc(&results, 4 * RESULTS));
    for (size_t i = 0; i < count; i++) CK(cuMemAlloc(&memory[i], each));
    for (size_t i = 0; i < count; i++) fill(memory[i], written, seed(i, 0));
    CK(cuStreamSynchronize(stream));
    capture();
    unsigned before[RESULTS], launched[RESULTS], replayed[RESULTS];
    differing(before, 0);
    if (before[WRITTEN]) die("WRONG BYTES: the kernels do not agree about %u words", before[WRITTEN]);
    printf("{\"ready\": true, \"bytes\": %zu, \"written\": %zu, \"unwritten_not_zero\": %u}\n", count * each,
           count * written, before[UNWRITTEN]);
    fflush(stdout);

    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        if (!strcmp(line, "check\n")) {
            double begin = now_ns();
            differing(launched, 0);
            double middle = now_ns();
            differing(replayed, 1);
            int same = !launched[WRITTEN] && !replayed[WRITTEN] && launched[UNWRITTEN] == before[UNWRITTEN] &&
                       replayed[UNWRITTEN] == before[UNWRITTEN];
            printf("{\"same\": %s, \"ms\": %.3f, \"graph_ms\": %.3f, \"differing\": [%u, %u, %u, %u]}\n",
                   same ? "true" : "false", (middle - begin) / 1e6, (now_ns() - middle) / 1e6, launched[WRITTEN],
                   replayed[WRITTEN], launched[UNWRITTEN], replayed[UNWRITTEN]);
        } else if (!strncmp(line, "change ", 7)) {
            size_t wanted = (size_t)((double)each * strtod(line + 7, NULL)) / (64 * KIB) * (64 * KIB);
            if (wanted > written) wanted = written;
            for (size_t i = 0; i < count; i++) fill(memory[i], changed, seed(i, 0)); // what an earlier change left
            changed = wanted;
            generation++;
            for (size_t i = 0; i < count; i++) fill(memory[i], changed, seed(i, generation));
            CK(cuStreamSynchronize(stream));
            capture();
            printf("{\"changed\": %zu}\n", count * changed);
        } else if (!strcmp(line, "info\n")) {
            size_t free_bytes, total;
            CK(cuMemGetInfo(&free_bytes, &total));
            printf("{\"free\": %zu, \"total\": %zu}\n", free_bytes, total);
        } else if (!strcmp(line, "quit\n")) {
            return 0;
        } else {
            die("not a command: %s", line);
        }
        fflush(stdout);
    }
    return 0;
}
