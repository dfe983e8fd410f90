/* rewarm.h, in a process whose socket answers as if it could be frozen, or that has
 * none:  header active|refused|absent */
#include "rewarm.h"

#include <locale.h>

static int failures;

static void expect(int found, int wanted, const char *what) {
    if (found != wanted) {
        printf("%s: %d, not %d: %s\n", what, found, wanted, rewarm_error());
        failures++;
    }
}

static void expect_error(const char *words) {
    if (!strstr(rewarm_error(), words)) {
        printf("\"%s\" is not in: %s\n", words, rewarm_error());
        failures++;
    }
}

static void active(void) {
    static char memory[64];
    /* Where a number has a comma. */
    setlocale(LC_ALL, "de_DE.UTF-8");
    expect(rewarm_is_active(), 1, "rewarm_is_active");
    expect(rewarm_discard(memory, sizeof memory), REWARM_OK, "rewarm_discard");
    expect(rewarm_keep(memory, sizeof memory), REWARM_OK, "rewarm_keep");
    expect(rewarm_freeze("/a \"b\"\\c\n\xc3\xa9", 2.5), REWARM_OK, "rewarm_freeze");
    expect(rewarm_thaw(REWARM_KEEP_SNAPSHOT | REWARM_NO_VERIFY, 1e30), REWARM_OK, "rewarm_thaw");
    expect(rewarm_thaw(0, -1), REWARM_OK, "rewarm_thaw");
    expect_error("");
}

static void refused(void) {
    static char name[10000];
    expect(rewarm_freeze("/s", 0), REWARM_FAILED, "rewarm_freeze");
    expect_error("the \"stream\" \\ does not drain");
    memset(name, '/', sizeof name - 1);
    expect(rewarm_freeze(name, 0), REWARM_FAILED, "rewarm_freeze");
    expect_error("too long");
    memset(name, 1, sizeof name - 1);
    expect(rewarm_freeze(name, 0), REWARM_FAILED, "rewarm_freeze");
    expect_error("too long");
}

static void absent(void) {
    expect(rewarm_is_active(), 0, "rewarm_is_active");
    expect(rewarm_freeze("/s", 1), REWARM_NOT_ACTIVE, "rewarm_freeze");
    expect_error("rewarm run --freezable");
    expect(rewarm_thaw(0, 1), REWARM_NOT_ACTIVE, "rewarm_thaw");
    expect(rewarm_discard(NULL, 1), REWARM_NOT_ACTIVE, "rewarm_discard");
    expect(rewarm_keep(NULL, 1), REWARM_NOT_ACTIVE, "rewarm_keep");
}

int main(int count, char **arguments) {
    if (count == 2 && strcmp(arguments[1], "active") == 0)
        active();
    else if (count == 2 && strcmp(arguments[1], "refused") == 0)
        refused();
    else
        absent();
    return failures > 0;
}
