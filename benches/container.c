// What a container of the podman rows runs: a server with host memory, that answers through named pipes.
//   container MIB IN OUT DEVICE_MIB
// Writes MIB of pseudo-random bytes, copies the first DEVICE_MIB of them to the device, says "ready", and then answers each line of
// IN with one on OUT:
//   ping       "pong", which takes a few pages of it, and a word from the device
//   check      "ok" if every word is what was written, else "WRONG BYTES"
#include "driver.h"
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t next(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    return *state ^= *state << 17;
}

enum { PIECE = 4 << 20 };

// Whether `bytes` of the device are those of the memory.
static int is_there(CUdeviceptr device, const char *memory, size_t bytes) {
    static char piece[PIECE];
    for (size_t at = 0; at < bytes; at += PIECE) {
        size_t count = bytes - at < PIECE ? bytes - at : PIECE;
        CK(cuMemcpyDtoH(piece, device + at, count));
        if (memcmp(piece, memory + at, count)) return 0;
    }
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 5) return 2;
    size_t on_device = (size_t)atol(argv[4]) << 20;
    CUdeviceptr device = 0;
    size_t words = (size_t)atol(argv[1]) << 17;
    uint64_t *memory = malloc(words * sizeof *memory);
    // Both ends are open, so that neither waits for the other nor sees its end.
    FILE *in = fopen(argv[2], "r+"), *out = fopen(argv[3], "r+");
    if (!memory || !in || !out) return 1;
    uint64_t state = 88172645463325252u;
    for (size_t i = 0; i < words; i++) memory[i] = next(&state);
    if (on_device) {
        driver_open();
        CK(cuMemAlloc(&device, on_device));
        CK(cuMemcpyHtoD(device, memory, on_device));
    }
    fputs("ready\n", out);
    fflush(out);
    char line[64];
    while (fgets(line, sizeof line, in)) {
        const char *answer = "pong\n";
        if (on_device && !is_there(device, (char *)memory, sizeof *memory)) answer = "WRONG BYTES\n";
        if (!strcmp(line, "check\n")) {
            state = 88172645463325252u;
            answer = "ok\n";
            for (size_t i = 0; i < words; i++)
                if (memory[i] != next(&state)) answer = "WRONG BYTES\n";
            if (!is_there(device, (char *)memory, on_device)) answer = "WRONG BYTES\n";
        }
        fputs(answer, out);
        fflush(out);
    }
    return 0;
}
