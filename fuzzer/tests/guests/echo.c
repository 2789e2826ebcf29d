// A server on port 7777 that sends back what it gets, to many clients at once; "quit" ends it.
#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void) {
  int server = socket(AF_INET, SOCK_STREAM, 0), one = 1;
  setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(7777), .sin_addr.s_addr = htonl(INADDR_ANY)};
  if (bind(server, (void *)&at, sizeof at) || listen(server, 10)) return 1;
  puts("ready");
  fflush(stdout);
  struct pollfd fds[64] = {{.fd = server, .events = POLLIN}};
  int count = 1;
  static char bytes[10000];
  for (;;) {
    if (poll(fds, count, -1) < 1) return 2;
    for (int i = count - 1; i > 0; i--) {
      if (!fds[i].revents) continue;
      ssize_t n = read(fds[i].fd, bytes, sizeof bytes);
      if (n == 4 && !memcmp(bytes, "quit", 4)) {
        if (write(fds[i].fd, "bye", 3) != 3) return 3;
        return 7;
      }
      if (n > 0 && write(fds[i].fd, bytes, n) == n) continue;
      close(fds[i].fd);
      fds[i] = fds[--count];
    }
    if (fds[0].revents && count < 64) {
      fds[count].events = POLLIN;
      fds[count].revents = 0;
      fds[count++].fd = accept(server, 0, 0);
    }
  }
}
