// Threads that are there before the first input, and some that come with it: each byte is added up by the
// worker whose turn it is, and the result is the same function of the input in every run.
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { WORKERS = 3 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static const uint8_t *bytes;
static size_t next, end, done;
static long sums[WORKERS];
static double halves[WORKERS];

static void *work(void *argument) {
    long me = (long)argument;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (next == end || (long)(next % WORKERS) != me) pthread_cond_wait(&changed, &lock);
        uint8_t byte = bytes[next++];
        if (byte == 'X') *(volatile int *)0 = me; // in a thread, not in the harness
        sums[me] += byte * (me + 1);
        halves[me] += byte / 2.0; // in a register of its own
        done++;
        pthread_cond_broadcast(&changed);
    }
    return NULL;
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    for (long i = 0; i < WORKERS; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)i)) return 1;
    }
    usleep(1000); // all of them wait
    return 0;
}

static void *send(void *argument) {
    usleep(100);
    return (void *)(long)write(*(int *)argument, "three", 3);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pthread_mutex_lock(&lock);
    bytes = data, next = done = 0, end = size;
    pthread_cond_broadcast(&changed);
    while (done < size) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);

    int ends[2], set = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = 1};
    pthread_t sender;
    if (pipe(ends) || epoll_ctl(set, EPOLL_CTL_ADD, ends[0], &event)) return 1;
    if (pthread_create(&sender, NULL, send, &ends[1])) return 2;
    if (epoll_wait(set, &event, 1, 1000) != 1) return 3;
    char text[8];
    if (read(ends[0], text, sizeof text) != 3) return 4;
    void *sent;
    if (pthread_join(sender, &sent) || sent != (void *)3) return 5;
    close(ends[0]), close(ends[1]), close(set);

    double half = halves[0] + halves[1] + halves[2];
    return 1000 + (int)((sums[0] + sums[1] + sums[2]) * 2 + (long)(half * 2));
}
