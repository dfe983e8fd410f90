// ns of cuMemAlloc and of cuMemFree, by size.
//   allocations --sizes A,B --reps R
// Each block is freed before the next is made; so is nothing else in the context.
#include "driver.h"

int main(int argc, char **argv) {
    size_t list[16], n = sizes(option(argc, argv, "--sizes", "2097152,20971520,536870912"), list, 16);
    int reps = atoi(option(argc, argv, "--reps", "200"));
    driver_open();
    for (size_t i = 0; i < n; i++) {
        Times allocated = {0}, freed = {0};
        for (int rep = 0; rep < reps; rep++) {
            CUdeviceptr block;
            double begin = now_ns();
            CK(cuMemAlloc(&block, list[i]));
            double middle = now_ns();
            CK(cuMemFree(block));
            double end = now_ns();
            times_add(&allocated, middle - begin);
            times_add(&freed, end - middle);
        }
        printf("{\"bench\": \"allocations\", \"call\": \"cuMemAlloc\", \"bytes\": %zu, ", list[i]);
        times_print(&allocated);
        printf("}\n{\"bench\": \"allocations\", \"call\": \"cuMemFree\", \"bytes\": %zu, ", list[i]);
        times_print(&freed);
        printf("}\n");
    }
    return 0;
}
