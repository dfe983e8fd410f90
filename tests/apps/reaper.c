/*
 * reaper COMMAND...: runs a command, takes note of the end of every process that has
 * lost its parent meanwhile, as the first process of a machine should, and ends with
 * the command's status when all have ended. So their pids are free.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    if (count < 2 || prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) return 2;
    pid_t command = fork(), ended;
    if (!command) {
        execvp(arguments[1], arguments + 1);
        perror(arguments[1]);
        _exit(127);
    }
    int status, result = 1;
    while ((ended = wait(&status)) > 0)
        if (ended == command) result = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return result;
}
