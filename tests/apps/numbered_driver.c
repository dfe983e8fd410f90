/*
 * A driver, as libcuda.so.1, whose functions do nothing: each returns a number of
 * its own. FUNCTIONS lists them, F(name) each, without those written here. It is
 * younger than every other driver: 300 functions more, cuFuture000_v2 and so on,
 * which return the sum of their parameters.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define NUMBER(name) number_##name,
enum { first = 1000, FUNCTIONS(NUMBER) };
#undef NUMBER

#define FUNCTION(name)                                                                                               \
    int name(void);                                                                                                  \
    int name(void) { return number_##name; }
FUNCTIONS(FUNCTION)

#define FUTURE(number)                                                                                               \
    long cuFuture##number##_v2(long, long, long, long, long, long, long, long, long, long, long, long, long, long,  \
                               long, long);                                                                          \
    long cuFuture##number##_v2(long a, long b, long c, long d, long e, long f, long g, long h, long i, long j,      \
                               long k, long l, long m, long n, long o, long p)                                       \
    {                                                                                                                \
        return a + b + c + d + e + f + g + h + i + j + k + l + m + n + o + p;                                        \
    }
#define TEN(tens)                                                                                                    \
    FUTURE(tens##0) FUTURE(tens##1) FUTURE(tens##2) FUTURE(tens##3) FUTURE(tens##4)                                  \
    FUTURE(tens##5) FUTURE(tens##6) FUTURE(tens##7) FUTURE(tens##8) FUTURE(tens##9)
#define HUNDRED(hundreds)                                                                                            \
    TEN(hundreds##0) TEN(hundreds##1) TEN(hundreds##2) TEN(hundreds##3) TEN(hundreds##4)                             \
    TEN(hundreds##5) TEN(hundreds##6) TEN(hundreds##7) TEN(hundreds##8) TEN(hundreds##9)
HUNDRED(0)
HUNDRED(1)
HUNDRED(2)

int cuCoredumpFuture(void);
int cuCoredumpFuture(void) { return 1; }

#define SYMBOL(name) {#name, (void *)name},
#define FUTURE_SYMBOL(number) {"cuFuture" #number, (void *)cuFuture##number##_v2},
#undef FUTURE
#define FUTURE FUTURE_SYMBOL
static const struct {
    const char *name;
    void *function;
} symbols[] = {FUNCTIONS(SYMBOL) HUNDRED(0) HUNDRED(1) HUNDRED(2){"cuCoredumpFuture", (void *)cuCoredumpFuture}};

int cuInit(unsigned flags);
int cuInit(unsigned flags) { return (int)flags; }

int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags);
int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags)
{
    (void)version, (void)flags;
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++)
        if (!strcmp(symbols[i].name, name)) {
            *function = symbols[i].function;
            return 0;
        }
    *function = NULL;
    return 500;
}

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status);
int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status)
{
    int code = cuGetProcAddress(name, function, version, flags);
    if (status) *status = code ? 1 : 0;
    return 0;
}
