// Stops where memory is to be looked at: prints a stage, waits for a line on stdin, goes on.
//   hold --bytes N        stages: "context" (no copy yet), "small" (4-byte and 64 KiB copies), "large" (after a copy of N bytes)
#include "driver.h"

static void stage(const char *name) {
    char line[16];
    printf("{\"stage\": \"%s\"}\n", name);
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin)) _exit(4);
}

int main(int argc, char **argv) {
    size_t bytes = strtoull(option(argc, argv, "--bytes", "1073741824"), NULL, 0);
    if (bytes < 64 * KIB) bytes = 64 * KIB;
    driver_open();
    CUdeviceptr device;
    CK(cuMemAlloc(&device, bytes));
    char *host = map_anonymous(bytes);
    chore(FILL, host, bytes, 0, 1);
    stage("context");
    for (int i = 0; i < 100; i++) {
        CK(cuMemcpyHtoD(device, host, 4));
        CK(cuMemcpyHtoD(device, host, 64 * KIB));
        CK(cuMemcpyDtoH(host, device, 4));
    }
    stage("small");
    CK(cuMemcpyHtoD(device, host, bytes));
    CK(cuMemcpyDtoH(host, device, bytes));
    CK(cuCtxSynchronize());
    size_t wrong = chore(CHECK, host, bytes, 0, 1);
    if (wrong) die("WRONG BYTES at offset %zu", wrong - 1);
    stage("large");
    return 0;
}
