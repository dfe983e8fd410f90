/*
 * A library that copies as safetensors does: by a memcpy that it imports.
 */
#include <string.h>

void copy_by_memcpy(void *to, const void *from, size_t bytes) { memcpy(to, from, bytes); }

#ifdef WITH_SLOT
/* The place that the loader puts memcpy's address in. */
void **slot_of_memcpy(void)
{
    void **slot;
    __asm__("lea memcpy@GOTPCREL(%%rip), %0" : "=r"(slot));
    return slot;
}
#endif
