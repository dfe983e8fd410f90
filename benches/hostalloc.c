// Time of cuMemHostAlloc and cuMemFreeHost.
//   hostalloc --sizes A,B --reps R
#include "driver.h"

int main(int argc, char **argv) {
    size_t list[16], count = sizes(option(argc, argv, "--sizes", "2147483648"), list, 16);
    size_t reps = strtoull(option(argc, argv, "--reps", "1"), NULL, 0);
    driver_open();
    Times times = {0}, frees = {0};
    for (size_t s = 0; s < count; s++) {
        for (size_t r = 0; r < reps; r++) {
            void *p;
            double t = now_ns();
            CK(cuMemHostAlloc(&p, list[s], 0));
            times_add(&times, now_ns() - t);
            for (size_t at = 0; at < list[s]; at += 4096) ((volatile char *)p)[at] = 1;
            t = now_ns();
            CK(cuMemFreeHost(p));
            times_add(&frees, now_ns() - t);
        }
        printf("{\"bench\": \"hostalloc\", \"call\": \"cuMemHostAlloc\", \"bytes\": %zu, ", list[s]);
        times_print(&times);
        printf("}\n{\"bench\": \"hostalloc\", \"call\": \"cuMemFreeHost\", \"bytes\": %zu, ", list[s]);
        times_print(&frees);
        printf("}\n");
        fflush(stdout);
    }
    return 0;
}
