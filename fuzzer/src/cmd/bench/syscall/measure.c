/*
 * What a system call takes, measured from inside: the same program on Linux and in a guest.
 *
 * The guest's clock moves by events, so the CPU's own counter is read, which runs on in a guest as well. Prints a
 * line for each call, with the ticks of each hundred in a row.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define CALLS 10000
#define IN_A_ROW 100
#define WARM_UP 5

static uint64_t ticks[CALLS / IN_A_ROW + WARM_UP];

static void show(const char *name)
{
    printf("%s", name);
    for (int i = WARM_UP; i < CALLS / IN_A_ROW + WARM_UP; i++)
        printf(" %llu", (unsigned long long)ticks[i]);
    printf("\n");
}

/* A terminal, since that is what the call is for; where there is none, a new one. */
static int terminal(void)
{
    struct winsize size;
    if (ioctl(1, TIOCGWINSZ, &size) == 0)
        return 1;
    int fd = posix_openpt(O_RDWR | O_NOCTTY);
    return fd >= 0 ? fd : 1;
}

/* Ticks of the counter in a microsecond, by Linux's clock. */
static double rate(void)
{
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    uint64_t start = __rdtsc();
    do
        clock_gettime(CLOCK_MONOTONIC, &to);
    while ((to.tv_sec - from.tv_sec) * 1000000000LL + to.tv_nsec - from.tv_nsec < 50000000);
    uint64_t end = __rdtsc();
    return (end - start) / ((to.tv_sec - from.tv_sec) * 1e6 + (to.tv_nsec - from.tv_nsec) / 1e3);
}

/* Work for the CPU alone: integers, floating point and memory. */
static double work(int rounds)
{
    static unsigned char composite[1 << 18];
    static double grid[256][256];
    double sum = 0;
    for (int round = 0; round < rounds; round++) {
        memset(composite, 0, sizeof composite);
        for (int i = 2; i < 512; i++)
            for (int j = i * i; !composite[i] && j < 1 << 18; j += i)
                composite[j] = 1;
        for (int i = 1; i < 255; i++)
            for (int j = 1; j < 255; j++)
                grid[i][j] = (grid[i - 1][j] + grid[i + 1][j] + grid[i][j - 1] + grid[i][j + 1]) / 4 + composite[i * j];
        sum += grid[round % 250 + 1][7];
    }
    return sum;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "rate") == 0) {
        printf("rate %f\n", rate());
        return 0;
    }
    if (argc == 3 && strcmp(argv[1], "work") == 0) {
        uint64_t start = __rdtsc();
        volatile double sum = work(atoi(argv[2]));
        (void)sum;
        printf("work %llu\n", (unsigned long long)(__rdtsc() - start));
        return 0;
    }
    int fd = terminal();
    struct winsize size;
    long last = 0;
    for (int i = 0; i < CALLS / IN_A_ROW + WARM_UP; i++) {
        uint64_t start = __rdtsc();
        for (int j = 0; j < IN_A_ROW; j++)
            last = ioctl(fd, TIOCGWINSZ, &size);
        ticks[i] = __rdtsc() - start;
    }
    printf("terminal %d\n", last == 0);
    show("ioctl");
    for (int i = 0; i < CALLS / IN_A_ROW + WARM_UP; i++) {
        uint64_t start = __rdtsc();
        for (int j = 0; j < IN_A_ROW; j++)
            last = getppid();
        ticks[i] = __rdtsc() - start;
    }
    show("getppid");
    return 0;
}
