/* socket(2), bind(2), listen(2), accept4(2), connect(2), socketpair(2), send(2), recv(2), sendmsg(2), recvmsg(2), shutdown(2),
 * getsockopt(2), getsockname(2): Unix, TCP and UDP sockets on the loopback interface. */
#include "check.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

static struct sockaddr_in loopback(int port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port) };
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static struct sockaddr_un named(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    strcpy(address.sun_path, path);
    return address;
}

static void creating(void)
{
    int pair[2], fd;
    OK("socket tcp", SYS_socket, AF_INET, SOCK_STREAM, 0);
    OK("socket tcp by protocol", SYS_socket, AF_INET, SOCK_STREAM, IPPROTO_TCP);
    OK("socket udp", SYS_socket, AF_INET, SOCK_DGRAM, 0);
    OK("socket unix", SYS_socket, AF_UNIX, SOCK_STREAM, 0);
    OK("socket unix datagrams", SYS_socket, AF_UNIX, SOCK_DGRAM, 0);
    OK("socket unix packets", SYS_socket, AF_UNIX, SOCK_SEQPACKET, 0);
    OK("socket flags", SYS_socket, AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CALL("socket unknown family", SYS_socket, 99, SOCK_STREAM, 0);
    CALL("socket unknown type", SYS_socket, AF_INET, 15, 0);
    CALL("socket unknown flags", SYS_socket, AF_INET, SOCK_STREAM | 0x100000, 0);
    CALL("socket udp by tcp's protocol", SYS_socket, AF_INET, SOCK_DGRAM, IPPROTO_TCP);
    CALL("socket unix protocol", SYS_socket, AF_UNIX, SOCK_STREAM, 5);
    CALL("socketpair", SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, pair);
    CALL("socketpair tcp", SYS_socketpair, AF_INET, SOCK_STREAM, 0, pair);
    CALL("socketpair bad address", SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, BAD);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CALL("socket close-on-exec", SYS_fcntl, fd, F_GETFD);
    line("socket nonblocking: %d", (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
    struct stat st;
    NEED(fstat(fd, &st) == 0);
    line("socket mode: %o", st.st_mode);
    char byte = 0;
    CALL("socket lseek", SYS_lseek, fd, 0, SEEK_SET);
    CALL("socket pread", SYS_pread64, fd, &byte, 1, 0);
    CALL("socket read unconnected", SYS_read, fd, &byte, 1);
    CALL("socket write unconnected", SYS_write, fd, &byte, 1);
    CALL("socket ftruncate", SYS_ftruncate, fd, 0);
}

static void pairs(void)
{
    int ends[2];
    char bytes[256] = "";
    signal(SIGPIPE, SIG_IGN);
    NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    CALL("write to a pair", SYS_write, ends[0], "hello", 5);
    CALL("peek", SYS_recvfrom, ends[1], bytes, 3, MSG_PEEK, NULL, NULL);
    CALL("read of a pair", SYS_read, ends[1], bytes, 64);
    line("read gave: %.5s", bytes);
    CALL("recv not waiting", SYS_recvfrom, ends[1], bytes, 64, MSG_DONTWAIT, NULL, NULL);
    CALL("recv nothing", SYS_recvfrom, ends[1], bytes, 0, MSG_DONTWAIT, NULL, NULL);
    CALL("send", SYS_sendto, ends[1], "back", 4, 0, NULL, 0);
    int waiting = 0;
    CALL("ioctl bytes to read", SYS_ioctl, ends[0], FIONREAD, &waiting);
    line("bytes to read: %d", waiting);
    NEED(send(ends[1], " and more", 9, 0) == 9);
    CALL("recv all of a stream", SYS_recvfrom, ends[0], bytes, 13, MSG_WAITALL, NULL, NULL);
    CALL("send from a bad address", SYS_sendto, ends[0], BAD, 4, 0, NULL, 0);
    NEED(send(ends[1], "x", 1, 0) == 1);
    CALL("recv to a bad address", SYS_recvfrom, ends[0], BAD, 4, 0, NULL, 0);
    CALL("shutdown unknown", SYS_shutdown, ends[0], 9);
    CALL("shutdown writing", SYS_shutdown, ends[1], SHUT_WR);
    CALL("read what was sent before", SYS_read, ends[0], bytes, 64);
    CALL("read behind the end", SYS_read, ends[0], bytes, 64);
    CALL("write to who still reads", SYS_write, ends[0], "x", 1);
    CALL("write after shutdown", SYS_write, ends[1], "x", 1);
    CALL("send after shutdown without a signal", SYS_sendto, ends[1], "x", 1, MSG_NOSIGNAL, NULL, 0);
    close(ends[0]);
    CALL("write to nobody", SYS_write, ends[1], "x", 1);
    NEED(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) == 0);
    NEED(write(ends[0], "one", 3) == 3 && write(ends[0], "second", 6) == 6 && write(ends[0], "", 0) == 0);
    CALL("datagrams keep their bounds", SYS_read, ends[1], bytes, 64);
    CALL("a datagram is cut", SYS_recvfrom, ends[1], bytes, 2, MSG_TRUNC, NULL, NULL);
    CALL("an empty datagram", SYS_read, ends[1], bytes, 64);
    CALL("no datagram", SYS_recvfrom, ends[1], bytes, 64, MSG_DONTWAIT, NULL, NULL);
    NEED(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) == 0 && write(ends[0], "packet", 6) == 6);
    CALL("a packet", SYS_read, ends[1], bytes, 64);
    close(ends[0]);
    CALL("no more packets", SYS_read, ends[1], bytes, 64);

    /* Messages, with descriptors. */
    NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    make_file("passed", "content");
    int file = open("passed", O_RDONLY);
    struct iovec parts[2] = { { "ab", 2 }, { "cde", 3 } };
    union {
        char room[CMSG_SPACE(sizeof(int))];
        struct cmsghdr header;
    } control;
    memset(&control, 0, sizeof control);
    struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2, .msg_control = &control, .msg_controllen = sizeof control };
    struct cmsghdr *part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(part), &file, sizeof file);
    CALL("sendmsg with a descriptor", SYS_sendmsg, ends[0], &message, 0);
    struct iovec into = { bytes, 64 };
    memset(&control, 0, sizeof control);
    struct msghdr received = { .msg_iov = &into, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
    CALL("recvmsg", SYS_recvmsg, ends[1], &received, 0);
    part = CMSG_FIRSTHDR(&received);
    int passed = -1;
    if (part && part->cmsg_type == SCM_RIGHTS)
        memcpy(&passed, CMSG_DATA(part), sizeof passed);
    CALL("the descriptor that was passed", SYS_read, passed, bytes, 64);
    line("it gave: %.7s", bytes);
    message.msg_control = NULL;
    message.msg_controllen = 0;
    CALL("sendmsg", SYS_sendmsg, ends[0], &message, 0);
    received.msg_control = NULL;
    received.msg_controllen = 0;
    CALL("recvmsg without control", SYS_recvmsg, ends[1], &received, 0);
    CALL("recvmsg bad address", SYS_recvmsg, ends[1], BAD, 0);
    message.msg_iovlen = 5000;
    CALL("sendmsg too many parts", SYS_sendmsg, ends[0], &message, 0);
}

static void local(void)
{
    struct sockaddr_un address = named("socket"), other;
    socklen_t length;
    char bytes[64] = "";
    int server = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
    CALL("connect to a missing path", SYS_connect, client, &address, sizeof address);
    CALL("bind", SYS_bind, server, &address, sizeof address);
    CALL("bind again", SYS_bind, server, &address, sizeof address);
    CALL("bind to a used path", SYS_bind, client, &address, sizeof address);
    struct sockaddr_un nowhere = named("nowhere/socket");
    CALL("bind in a missing folder", SYS_bind, client, &nowhere, sizeof nowhere);
    CALL("bind short address", SYS_bind, client, &nowhere, 1);
    struct stat st;
    NEED(stat("socket", &st) == 0);
    line("type of a socket's path: %o", st.st_mode & S_IFMT);
    CALL("connect before listening", SYS_connect, client, &address, sizeof address);
    CALL("accept before listening", SYS_accept, server, NULL, NULL);
    CALL("listen", SYS_listen, server, 2);
    CALL("listen again", SYS_listen, server, 5);
    CALL("connect", SYS_connect, client, &address, sizeof address);
    CALL("connect again", SYS_connect, client, &address, sizeof address);
    length = sizeof other;
    int accepted = accept4(server, (void *)&other, &length, SOCK_CLOEXEC);
    report_ok("accept4", accepted);
    line("an unnamed peer: length %d", (int)length);
    CALL("accept4 close-on-exec", SYS_fcntl, accepted, F_GETFD);
    CALL("accept4 unknown flags", SYS_accept4, server, NULL, NULL, 1);
    NEED(fcntl(server, F_SETFL, O_NONBLOCK) == 0);
    CALL("accept nobody", SYS_accept, server, NULL, NULL);
    CALL("accept on a client", SYS_accept, client, NULL, NULL);
    CALL("write to the server", SYS_write, client, "request", 7);
    CALL("read by the server", SYS_read, accepted, bytes, 64);
    length = sizeof other;
    CALL("getpeername", SYS_getpeername, client, &other, &length);
    line("the server's name: %s, length %d", other.sun_path, (int)length);
    length = 3;
    CALL("getsockname in little room", SYS_getsockname, server, &other, &length);
    line("the whole length is told: %d", (int)length);
    CALL("getpeername of a listener", SYS_getpeername, server, &other, &length);
    CALL("getsockname bad address", SYS_getsockname, server, BAD, BAD);
    struct {
        int pid, uid, gid;
    } peer;
    length = sizeof peer;
    CALL("peer's credentials", SYS_getsockopt, client, SOL_SOCKET, SO_PEERCRED, &peer, &length);
    TRUE("it is me", peer.pid == getpid() && peer.uid == (int)getuid());
    CALL("connect a stream with a length of none", SYS_connect, client, &address, 0);
    close(accepted);
    CALL("read from a closed peer", SYS_read, client, bytes, 64);
    close(server);
    client = socket(AF_UNIX, SOCK_STREAM, 0);
    CALL("connect to what listens no more", SYS_connect, client, &address, sizeof address);
    make_file("plain", "x");
    struct sockaddr_un plain = named("plain");
    CALL("connect to a file", SYS_connect, client, &plain, sizeof plain);
    struct sockaddr_un abstract = { .sun_family = AF_UNIX };
    memcpy(abstract.sun_path, "\0unifork-check", 14);
    length = offsetof(struct sockaddr_un, sun_path) + 14;
    server = socket(AF_UNIX, SOCK_STREAM, 0);
    CALL("bind an abstract name", SYS_bind, server, &abstract, length);
    NEED(listen(server, 1) == 0);
    CALL("connect to an abstract name", SYS_connect, client, &abstract, length);
    int receiver = socket(AF_UNIX, SOCK_DGRAM, 0), sender = socket(AF_UNIX, SOCK_DGRAM, 0);
    struct sockaddr_un box = named("box");
    NEED(bind(receiver, (void *)&box, sizeof box) == 0);
    CALL("sendto a datagram socket", SYS_sendto, sender, "letter", 6, 0, &box, sizeof box);
    length = sizeof other;
    CALL("recvfrom it", SYS_recvfrom, receiver, bytes, 64, 0, &other, &length);
    line("the sender has no name: %d", (int)length);
    CALL("sendto a stream's name", SYS_sendto, sender, "x", 1, 0, &address, sizeof address);
    CALL("send to nobody", SYS_sendto, sender, "x", 1, 0, NULL, 0);
    CALL("listen on datagrams", SYS_listen, receiver, 1);
}

static void tcp(void)
{
    struct sockaddr_in address = loopback(0), other, used;
    socklen_t length = sizeof address;
    char bytes[64] = "";
    int one = 1, value = 0;
    int server = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0);
    CALL("tcp accept before listening", SYS_accept, server, NULL, NULL);
    CALL("tcp bind", SYS_bind, server, &address, sizeof address);
    CALL("tcp bind again", SYS_bind, server, &address, sizeof address);
    CALL("tcp bind short address", SYS_bind, client, &address, 4);
    struct sockaddr_in strange = address;
    strange.sin_family = 99;
    CALL("tcp bind unknown family", SYS_bind, client, &strange, sizeof strange);
    strange = address;
    strange.sin_addr.s_addr = htonl(0x08080808);
    CALL("tcp bind to another machine's address", SYS_bind, client, &strange, sizeof strange);
    CALL("tcp bind bad address", SYS_bind, client, BAD, sizeof address);
    CALL("tcp getsockname", SYS_getsockname, server, &address, &length);
    line("tcp a port was chosen: %d, loopback %d, length %d", address.sin_port != 0,
         address.sin_addr.s_addr == htonl(INADDR_LOOPBACK), (int)length);
    CALL("tcp connect before listening", SYS_connect, client, &address, sizeof address);
    close(client);
    client = socket(AF_INET, SOCK_STREAM, 0);
    CALL("tcp listen", SYS_listen, server, 1);
    int second = socket(AF_INET, SOCK_STREAM, 0);
    CALL("tcp bind to a used port", SYS_bind, second, &address, sizeof address);
    CALL("tcp read unconnected", SYS_read, client, bytes, 1);
    CALL("tcp write unconnected", SYS_write, client, bytes, 1);
    CALL("tcp getpeername unconnected", SYS_getpeername, client, &other, &length);
    CALL("tcp shutdown unconnected", SYS_shutdown, second, SHUT_RDWR);
    CALL("tcp connect", SYS_connect, client, &address, sizeof address);
    CALL("tcp connect again", SYS_connect, client, &address, sizeof address);
    CALL("tcp connect a listener", SYS_connect, server, &address, sizeof address);
    length = sizeof other;
    int accepted = accept4(server, (void *)&other, &length, SOCK_NONBLOCK);
    report_ok("tcp accept4", accepted);
    length = sizeof used;
    NEED(getsockname(client, (void *)&used, &length) == 0);
    TRUE("tcp the peer's name is the client's", other.sin_port == used.sin_port && other.sin_family == AF_INET);
    length = sizeof used;
    CALL("tcp getpeername", SYS_getpeername, client, &used, &length);
    TRUE("tcp the peer is the server", used.sin_port == address.sin_port);
    CALL("tcp read nothing yet", SYS_read, accepted, bytes, 64);
    CALL("tcp write", SYS_write, client, "request", 7);
    struct pollfd entry = { accepted, POLLIN | POLLOUT | POLLRDHUP, 0 };
    NEED(poll(&entry, 1, 1000) == 1);
    line("tcp poll: %x", entry.revents);
    CALL("tcp read", SYS_read, accepted, bytes, 64);
    NEED(write(accepted, "ab", 2) == 2 && write(accepted, "cd", 2) == 2);
    CALL("tcp receive all", SYS_recvfrom, client, bytes, 4, MSG_WAITALL, NULL, NULL);
    line("tcp received: %.4s", bytes);
    CALL("tcp sendto with an address", SYS_sendto, client, "x", 1, 0, &address, sizeof address);
    CALL("tcp shutdown writing", SYS_shutdown, client, SHUT_WR);
    CALL("tcp write after shutdown", SYS_write, client, "x", 1);
    entry.events = POLLIN;
    NEED(poll(&entry, 1, 1000) == 1);
    CALL("tcp the last bytes", SYS_read, accepted, bytes, 64);
    CALL("tcp the end", SYS_read, accepted, bytes, 64);
    CALL("tcp the other way still works", SYS_write, accepted, "bye", 3);
    close(accepted);
    CALL("tcp read the rest", SYS_recvfrom, client, bytes, 64, MSG_WAITALL, NULL, NULL);
    CALL("tcp read behind the rest", SYS_read, client, bytes, 64);
    close(client);

    client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    long connected = RAW(SYS_connect, client, &address, sizeof address);
    TRUE("tcp connect without waiting", connected == 0 || errno == EINPROGRESS);
    entry.fd = client;
    entry.events = POLLOUT;
    NEED(poll(&entry, 1, 1000) == 1);
    length = sizeof value;
    CALL("tcp it has no error", SYS_getsockopt, client, SOL_SOCKET, SO_ERROR, &value, &length);
    line("tcp error: %d", value);
    accepted = accept(server, NULL, NULL);
    report_ok("tcp accept", accepted);
    CALL("tcp nonblocking is not inherited", SYS_fcntl, accepted, F_GETFL);
    /* An end that closes with bytes unread resets the connection. */
    NEED(write(client, "unread", 6) == 6);
    entry.fd = accepted;
    entry.events = POLLIN;
    NEED(poll(&entry, 1, 1000) == 1);
    close(accepted);
    entry.fd = client;
    entry.events = POLLIN;
    NEED(poll(&entry, 1, 1000) == 1);
    line("tcp poll of a reset connection: %x", entry.revents);
    CALL("tcp read of a reset connection", SYS_read, client, bytes, 64);
    CALL("tcp write to a reset connection", SYS_write, client, "x", 1);
    NEED(fcntl(server, F_SETFL, O_NONBLOCK) == 0);
    CALL("tcp accept nobody", SYS_accept, server, NULL, NULL);
    entry.fd = server;
    CALL("tcp poll a listener", SYS_poll, &entry, 1, 0);
    close(server);
    client = socket(AF_INET, SOCK_STREAM, 0);
    CALL("tcp connection refused", SYS_connect, client, &address, sizeof address);
    client = socket(AF_INET, SOCK_STREAM, 0);
    CALL("tcp connect to a closed port", SYS_connect, client, &address, sizeof address);
    CALL("tcp connect a file", SYS_connect, 0, &address, sizeof address);
    CALL("tcp connect bad descriptor", SYS_connect, 77, &address, sizeof address);
    CALL("tcp connect short address", SYS_connect, client, &address, 7);
    int again = socket(AF_INET, SOCK_STREAM, 0);
    CALL("setsockopt reuse", SYS_setsockopt, again, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    CALL("tcp bind again to a port just left", SYS_bind, again, &address, sizeof address);
}

static void options(void)
{
    int fd = socket(AF_INET, SOCK_STREAM, 0), unix_one = socket(AF_UNIX, SOCK_STREAM, 0), value, one = 1;
    socklen_t length;
#define ASK(name, fd, level, option)                                             \
    do {                                                                         \
        value = -1;                                                              \
        length = sizeof value;                                                   \
        CALL(name, SYS_getsockopt, fd, level, option, &value, &length);          \
        line(name " is: %d length %d", value, (int)length);                      \
    } while (0)
    ASK("option type", fd, SOL_SOCKET, SO_TYPE);
    ASK("option domain", fd, SOL_SOCKET, SO_DOMAIN);
    ASK("option protocol", fd, SOL_SOCKET, SO_PROTOCOL);
    ASK("option unix type", unix_one, SOL_SOCKET, SO_TYPE);
    ASK("option accepting", fd, SOL_SOCKET, SO_ACCEPTCONN);
    ASK("option reuse", fd, SOL_SOCKET, SO_REUSEADDR);
    ASK("option keep alive", fd, SOL_SOCKET, SO_KEEPALIVE);
    ASK("option error", fd, SOL_SOCKET, SO_ERROR);
    ASK("option no delay", fd, IPPROTO_TCP, TCP_NODELAY);
    CALL("setsockopt no delay", SYS_setsockopt, fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    ASK("option no delay, set", fd, IPPROTO_TCP, TCP_NODELAY);
    CALL("setsockopt keep alive", SYS_setsockopt, fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
    ASK("option keep alive, set", fd, SOL_SOCKET, SO_KEEPALIVE);
    CALL("setsockopt idle time", SYS_setsockopt, fd, IPPROTO_TCP, TCP_KEEPIDLE, &(int){ 300 }, sizeof one);
    ASK("option idle time", fd, IPPROTO_TCP, TCP_KEEPIDLE);
    CALL("setsockopt receive buffer", SYS_setsockopt, fd, SOL_SOCKET, SO_RCVBUF, &(int){ 8192 }, sizeof one);
    ASK("option receive buffer", fd, SOL_SOCKET, SO_RCVBUF);
    CALL("setsockopt reuse port", SYS_setsockopt, fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    struct linger linger = { 1, 5 };
    CALL("setsockopt linger", SYS_setsockopt, fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    CALL("setsockopt linger too short", SYS_setsockopt, fd, SOL_SOCKET, SO_LINGER, &linger, 4);
    struct timeval time = { 0, 20000 };
    CALL("setsockopt receive timeout", SYS_setsockopt, unix_one, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
    int ends[2];
    char byte;
    NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
    NEED(setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time) == 0);
    CALL("recv times out", SYS_recvfrom, ends[0], &byte, 1, 0, NULL, NULL);
    CALL("getsockopt unknown", SYS_getsockopt, fd, SOL_SOCKET, 9999, &value, &length);
    CALL("getsockopt unknown level", SYS_getsockopt, fd, 9999, 1, &value, &length);
    CALL("setsockopt unknown", SYS_setsockopt, fd, SOL_SOCKET, 9999, &one, sizeof one);
    CALL("setsockopt too short", SYS_setsockopt, fd, SOL_SOCKET, SO_REUSEADDR, &one, 1);
    CALL("setsockopt bad address", SYS_setsockopt, fd, SOL_SOCKET, SO_REUSEADDR, BAD, sizeof one);
    CALL("setsockopt not a socket", SYS_setsockopt, 0, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    CALL("getsockopt bad descriptor", SYS_getsockopt, 77, SOL_SOCKET, SO_TYPE, &value, &length);
    CALL("getsockopt bad length", SYS_getsockopt, fd, SOL_SOCKET, SO_TYPE, &value, BAD);
    length = 2;
    CALL("getsockopt little room", SYS_getsockopt, fd, SOL_SOCKET, SO_TYPE, &value, &length);
    CALL("listen not a socket", SYS_listen, 0, 1);
    CALL("shutdown not a socket", SYS_shutdown, 0, SHUT_RD);
    CALL("shutdown bad descriptor", SYS_shutdown, 77, SHUT_RD);
    CALL("recv not a socket", SYS_recvfrom, 0, &byte, 1, 0, NULL, NULL);
    CALL("accept not a socket", SYS_accept, 0, NULL, NULL);
}

static void udp(void)
{
    struct sockaddr_in address = loopback(0), other = { 0 };
    socklen_t length = sizeof address;
    char bytes[64] = "";
    int server = socket(AF_INET, SOCK_DGRAM, 0), client = socket(AF_INET, SOCK_DGRAM, 0);
    NEED(bind(server, (void *)&address, sizeof address) == 0);
    CALL("udp getsockname", SYS_getsockname, server, &address, &length);
    CALL("udp send unconnected", SYS_sendto, client, "x", 1, 0, NULL, 0);
    CALL("udp sendto", SYS_sendto, client, "datagram", 8, 0, &address, sizeof address);
    length = sizeof other;
    CALL("udp recvfrom", SYS_recvfrom, server, bytes, 64, 0, &other, &length);
    line("udp received: %.8s, from port %d", bytes, other.sin_port != 0);
    CALL("udp answer", SYS_sendto, server, "answer", 6, 0, &other, sizeof other);
    CALL("udp connect", SYS_connect, client, &address, sizeof address);
    CALL("udp read", SYS_read, client, bytes, 64);
    CALL("udp write", SYS_write, client, "second", 6);
    CALL("udp is cut", SYS_recvfrom, server, bytes, 3, 0, NULL, NULL);
    CALL("udp nothing", SYS_recvfrom, server, bytes, 64, MSG_DONTWAIT, NULL, NULL);
    CALL("udp listen", SYS_listen, server, 1);
    CALL("udp accept", SYS_accept, server, NULL, NULL);
    struct sockaddr nobody = { .sa_family = AF_UNSPEC };
    CALL("udp connect to nobody in particular", SYS_connect, client, &nobody, sizeof nobody);
    CALL("udp getpeername then", SYS_getpeername, client, &other, &length);
    CALL("udp too large", SYS_sendto, client, bytes, 70000, 0, &address, sizeof address);
    CALL("udp short address", SYS_sendto, client, bytes, 1, 0, &address, 5);
    static char large[60000];
    CALL("udp large", SYS_sendto, client, large, sizeof large, 0, &address, sizeof address);
    CALL("udp large arrives", SYS_recvfrom, server, large, sizeof large, 0, NULL, NULL);
}

int main(void)
{
    own_folder("work");
    creating();
    pairs();
    local();
    tcp();
    options();
    udp();
    line("end");
    return 0;
}
