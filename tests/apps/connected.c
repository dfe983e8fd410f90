/* A server with a client of its own: a listening TCP socket and an established connection, with bytes under way.
 * Says "ready PID", then answers each line of its input that comes back over the connection, and over a new one. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MUST(condition) \
    do \
        if (!(condition)) { \
            printf("failed: %s: %m\n", #condition); \
            exit(1); \
        } \
    while (0)

static int listener;
static struct sockaddr_in address = {.sin_family = AF_INET};

/* Both ends of a new connection. */
static void connect_to_self(int *client, int *server)
{
    MUST((*client = socket(AF_INET, SOCK_STREAM, 0)) >= 0);
    MUST(!connect(*client, (struct sockaddr *)&address, sizeof address));
    MUST((*server = accept(listener, NULL, NULL)) >= 0);
}

/* Sends a line through a connection behind what is in it, and puts what arrives first into `line`. */
static void pass(int client, int server, char *line, size_t room)
{
    MUST(write(client, line, strlen(line)) == (ssize_t)strlen(line));
    size_t got = 0;
    do MUST(got + 1 < room && read(server, line + got, 1) == 1);
    while (line[got++] != '\n');
    line[got] = 0;
}

int main(void)
{
    setvbuf(stdout, NULL, _IOLBF, 0);
    socklen_t size = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    MUST((listener = socket(AF_INET, SOCK_STREAM, 0)) >= 0);
    MUST(!bind(listener, (struct sockaddr *)&address, sizeof address) && !listen(listener, 4));
    MUST(!getsockname(listener, (struct sockaddr *)&address, &size));
    int client, server;
    connect_to_self(&client, &server);
    /* It stays in the connection: each line is answered with the one before. */
    MUST(write(client, "nothing\n", 8) == 8);
    printf("ready %d\n", (int)getpid());
    char line[200];
    while (fgets(line, sizeof line, stdin)) {
        pass(client, server, line, sizeof line);
        int new_client, new_server;
        connect_to_self(&new_client, &new_server);
        pass(new_client, new_server, line, sizeof line);
        close(new_client);
        close(new_server);
        fputs(line, stdout);
    }
    return 0;
}
