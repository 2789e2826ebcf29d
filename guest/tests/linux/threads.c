/* clone(2), futex(2), set_tid_address(2), get_robust_list(2), sched_yield(2), and POSIX threads on top of them. */
#include "check.h"
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/time.h>
#include <time.h>

static int word;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
static pthread_rwlock_t rwlock = PTHREAD_RWLOCK_INITIALIZER;
static pthread_barrier_t barrier;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_key_t key;
static sem_t semaphore;
static long counter;
static volatile int stage, destroyed, initialised, signalled;
static __thread int local = 5;

static void *answer(void *argument)
{
    return (char *)argument + 1;
}

static void *add(void *rounds)
{
    for (long i = 0; i < (long)rounds; i++) {
        pthread_mutex_lock(&mutex);
        counter++;
        if (i % 64 == 0)
            sched_yield();
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

static void *wake(void *count)
{
    usleep(20000);
    word = 1;
    long woken = RAW(SYS_futex, &word, FUTEX_WAKE_PRIVATE, (long)count);
    return (void *)woken;
}

static void *wait_(void *unused)
{
    (void)unused;
    return (void *)RAW(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL);
}

static void *wait_bits(void *bits)
{
    return (void *)RAW(SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, 0, NULL, NULL, (long)bits);
}

static void futexes(void)
{
    struct timespec soon = { 0, 5000000 }, bad = { 0, 1000000000 }, past = { 1, 0 };
    CALL("futex wait with another value", SYS_futex, &word, FUTEX_WAIT, 5, NULL);
    CALL("futex wait times out", SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &soon);
    CALL("futex wait bad time", SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &bad);
    CALL("futex wait time at a bad address", SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, BAD);
    CALL("futex wait at a bad address", SYS_futex, BAD, FUTEX_WAIT_PRIVATE, 0, NULL);
    CALL("futex wait at an odd address", SYS_futex, (char *)&word + 1, FUTEX_WAIT_PRIVATE, 0, NULL);
    CALL("futex wake nobody", SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1);
    CALL("futex wake odd address", SYS_futex, (char *)&word + 1, FUTEX_WAKE_PRIVATE, 1);
    CALL("futex unknown", SYS_futex, &word, 99, 0);
    CALL("futex wait bitset none", SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, 0, NULL, NULL, 0);
    CALL("futex wait bitset until the past", SYS_futex, &word, FUTEX_WAIT_BITSET_PRIVATE, 0, &past, NULL, -1);
    CALL("futex wake bitset none", SYS_futex, &word, FUTEX_WAKE_BITSET_PRIVATE, 1, NULL, NULL, 0);
    CALL("futex requeue nobody", SYS_futex, &word, FUTEX_REQUEUE_PRIVATE, 1, 1, &counter, 0);
    CALL("futex compare requeue another value", SYS_futex, &word, FUTEX_CMP_REQUEUE_PRIVATE, 1, 1, &counter, 7);
    CALL("futex requeue negative", SYS_futex, &word, FUTEX_REQUEUE_PRIVATE, -1, 1, &counter, 0);
    pthread_t thread, others[3];
    void *result;
    NEED(pthread_create(&thread, NULL, wake, (void *)1) == 0);
    CALL("futex wait woken", SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL);
    NEED(pthread_join(thread, &result) == 0);
    line("futex woke: %ld", (long)result);
    word = 0;
    for (int i = 0; i < 3; i++)
        NEED(pthread_create(&others[i], NULL, wait_, NULL) == 0);
    usleep(50000);
    CALL("futex wake two of three", SYS_futex, &word, FUTEX_WAKE_PRIVATE, 2);
    CALL("futex requeue the third", SYS_futex, &word, FUTEX_CMP_REQUEUE_PRIVATE, 0, 5, &counter, 0);
    CALL("futex wake where it was", SYS_futex, &word, FUTEX_WAKE_PRIVATE, 5);
    CALL("futex wake where it is", SYS_futex, &counter, FUTEX_WAKE_PRIVATE, 5);
    for (int i = 0; i < 3; i++)
        NEED(pthread_join(others[i], NULL) == 0);
    for (int i = 0; i < 2; i++)
        NEED(pthread_create(&others[i], NULL, wait_bits, (void *)(1L << i)) == 0);
    usleep(50000);
    CALL("futex wake no such bits", SYS_futex, &word, FUTEX_WAKE_BITSET_PRIVATE, 5, NULL, NULL, 4);
    CALL("futex wake one by its bits", SYS_futex, &word, FUTEX_WAKE_BITSET_PRIVATE, 5, NULL, NULL, 2);
    CALL("futex wake the other", SYS_futex, &word, FUTEX_WAKE_PRIVATE, 5);
    for (int i = 0; i < 2; i++)
        NEED(pthread_join(others[i], NULL) == 0);
    int second = 3;
    word = 0;
    CALL("futex wake operation", SYS_futex, &word, FUTEX_WAKE_OP_PRIVATE, 1, 1, &second,
         FUTEX_OP(FUTEX_OP_ADD, 4, FUTEX_OP_CMP_EQ, 3));
    line("futex operation did: %d", second);
    CALL("futex lock", SYS_futex, &word, FUTEX_LOCK_PI_PRIVATE, 0, NULL);
    line("futex lock is held by this thread: %d", (word & FUTEX_TID_MASK) == RAW(SYS_gettid));
    CALL("futex lock again", SYS_futex, &word, FUTEX_LOCK_PI_PRIVATE, 0, NULL);
    CALL("futex unlock", SYS_futex, &word, FUTEX_UNLOCK_PI_PRIVATE);
    CALL("futex unlock again", SYS_futex, &word, FUTEX_UNLOCK_PI_PRIVATE);
}

static void *take_turns(void *me)
{
    for (int i = 0; i < 5; i++) {
        pthread_mutex_lock(&mutex);
        while (stage % 2 != (int)(long)me)
            pthread_cond_wait(&condition, &mutex);
        stage++;
        pthread_cond_broadcast(&condition);
        pthread_mutex_unlock(&mutex);
    }
    return NULL;
}

static void *meet(void *unused)
{
    (void)unused;
    return (void *)(long)pthread_barrier_wait(&barrier);
}

static void *post(void *unused)
{
    (void)unused;
    usleep(10000);
    sem_post(&semaphore);
    return NULL;
}

static void initialise(void)
{
    initialised++;
}

static void *with_locals(void *unused)
{
    (void)unused;
    pthread_once(&once, initialise);
    pthread_setspecific(key, (void *)1);
    local++;
    return (void *)(long)local;
}

static void destroy(void *value)
{
    (void)value;
    destroyed++;
}

static void *forever(void *unused)
{
    (void)unused;
    for (;;)
        sleep(1000);
    return NULL;
}

static void *hold(void *lock)
{
    pthread_mutex_lock(lock);
    return NULL;
}

static void *try_write(void *unused)
{
    (void)unused;
    return (void *)(long)pthread_rwlock_trywrlock(&rwlock);
}

static void on_signal(int signal)
{
    (void)signal;
    signalled = RAW(SYS_gettid);
}

static void *tell_id(void *to)
{
    *(int *)to = RAW(SYS_gettid);
    struct timespec hour = { 3600, 0 };
    return (void *)(long)(nanosleep(&hour, NULL) == -1 ? errno : 0);
}

static void posix(void)
{
    pthread_t threads[8];
    void *result;
    report_error("pthread_create", pthread_create(&threads[0], NULL, answer, (void *)41));
    report_error("pthread_join", pthread_join(threads[0], &result));
    line("it answered: %ld", (long)result);
    counter = 0;
    for (int i = 0; i < 8; i++)
        NEED(pthread_create(&threads[i], NULL, add, (void *)500) == 0);
    for (int i = 0; i < 8; i++)
        NEED(pthread_join(threads[i], NULL) == 0);
    line("eight threads added: %ld", counter);
    for (long i = 0; i < 2; i++)
        NEED(pthread_create(&threads[i], NULL, take_turns, (void *)i) == 0);
    for (int i = 0; i < 2; i++)
        NEED(pthread_join(threads[i], NULL) == 0);
    line("two threads took turns: %d", stage);
    NEED(pthread_barrier_init(&barrier, NULL, 4) == 0);
    for (int i = 0; i < 4; i++)
        NEED(pthread_create(&threads[i], NULL, meet, NULL) == 0);
    int serial = 0;
    for (int i = 0; i < 4; i++) {
        NEED(pthread_join(threads[i], &result) == 0);
        serial += (long)result == PTHREAD_BARRIER_SERIAL_THREAD;
    }
    line("one of four that met was told: %d", serial);
    NEED(sem_init(&semaphore, 0, 0) == 0);
    EXPR("sem_trywait", sem_trywait(&semaphore));
    NEED(pthread_create(&threads[0], NULL, post, NULL) == 0);
    EXPR("sem_wait", sem_wait(&semaphore));
    NEED(pthread_join(threads[0], NULL) == 0);
    struct timespec until;
    NEED(clock_gettime(CLOCK_REALTIME, &until) == 0);
    until.tv_nsec += 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    EXPR("sem_timedwait", sem_timedwait(&semaphore, &until));
    NEED(pthread_mutex_lock(&mutex) == 0);
    report_error("pthread_mutex_trylock of what is held", pthread_mutex_trylock(&mutex));
    report_error("pthread_mutex_timedlock", pthread_mutex_timedlock(&mutex, &until));
    report_error("pthread_cond_timedwait", pthread_cond_timedwait(&condition, &mutex, &until));
    NEED(pthread_mutex_unlock(&mutex) == 0);
    NEED(pthread_key_create(&key, destroy) == 0);
    for (int i = 0; i < 3; i++)
        NEED(pthread_create(&threads[i], NULL, with_locals, NULL) == 0);
    for (int i = 0; i < 3; i++) {
        NEED(pthread_join(threads[i], &result) == 0);
        line("a thread's own variable %d: %ld", i, (long)result);
    }
    line("mine is as it was: %d, initialised %d, destroyed %d", local, initialised, destroyed);
    NEED(pthread_create(&threads[0], NULL, forever, NULL) == 0);
    report_error("pthread_cancel", pthread_cancel(threads[0]));
    NEED(pthread_join(threads[0], &result) == 0);
    line("it was cancelled: %d", result == PTHREAD_CANCELED);
    NEED(pthread_rwlock_rdlock(&rwlock) == 0);
    report_error("pthread_rwlock_tryrdlock", pthread_rwlock_tryrdlock(&rwlock));
    NEED(pthread_create(&threads[0], NULL, try_write, NULL) == 0 && pthread_join(threads[0], &result) == 0);
    report_error("pthread_rwlock_trywrlock of another", (int)(long)result);
    pthread_mutexattr_t attributes;
    pthread_mutex_t robust;
    NEED(pthread_mutexattr_init(&attributes) == 0 && pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0 &&
         pthread_mutex_init(&robust, &attributes) == 0);
    NEED(pthread_create(&threads[0], NULL, hold, &robust) == 0 && pthread_join(threads[0], NULL) == 0);
    report_error("a mutex whose owner is gone", pthread_mutex_lock(&robust));
    report_error("made consistent", pthread_mutex_consistent(&robust));
    report_error("and given back", pthread_mutex_unlock(&robust));
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
    pthread_mutex_t checked;
    NEED(pthread_mutex_init(&checked, &attributes) == 0 && pthread_mutex_lock(&checked) == 0);
    report_error("a mutex locked twice", pthread_mutex_lock(&checked));
    pthread_attr_t attr;
    NEED(pthread_attr_init(&attr) == 0 && pthread_attr_setstacksize(&attr, 1 << 20) == 0 &&
         pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED) == 0);
    int id = 0;
    report_error("pthread_create detached", pthread_create(&threads[0], &attr, tell_id, &id));
    NEED(usleep(20000) == 0);
    TRUE("threads have numbers of their own", id != 0 && id != getpid() && id != RAW(SYS_gettid));
    TRUE("the first thread's is the process's", getpid() == RAW(SYS_gettid));
    struct sigaction action = { .sa_handler = on_signal };
    NEED(sigaction(SIGUSR1, &action, NULL) == 0);
    NEED(pthread_create(&threads[1], NULL, tell_id, &id) == 0 && usleep(20000) == 0);
    report_error("pthread_kill", pthread_kill(threads[1], SIGUSR1));
    NEED(pthread_join(threads[1], &result) == 0);
    line("it was interrupted: %s, in its own thread %d", errno_name((int)(long)result), signalled == id);
}

static int child_ran, child_id, cleared;
static char child_stack[65536];

static int child(void *argument)
{
    child_ran = *(int *)argument;
    RAW(SYS_exit, 0);
    return 0;
}

static void cloning(void)
{
    int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_PARENT_SETTID |
                CLONE_CHILD_CLEARTID;
    int value = 7;
    cleared = 1;
    int id = clone(child, child_stack + sizeof child_stack, flags, &value, &child_id, NULL, &cleared);
    report_ok("clone a thread", id);
    while (__atomic_load_n(&cleared, __ATOMIC_SEQ_CST) != 0)
        RAW(SYS_futex, &cleared, FUTEX_WAIT, 1, NULL);
    line("it ran: %d, was named %d, and its end was told", child_ran, child_id == id);
    CALL("clone a thread without its signal handlers", SYS_clone, CLONE_THREAD | CLONE_VM, child_stack + 60000, 0, 0, 0);
    CALL("clone signal handlers without memory", SYS_clone, CLONE_SIGHAND, child_stack + 60000, 0, 0, 0);
    CALL("clone3 too small", SYS_clone3, &value, 4);
    CALL("clone3 bad address", SYS_clone3, BAD, 64);
    TRUE("set_tid_address gives the thread", RAW(SYS_set_tid_address, &cleared) == RAW(SYS_gettid));
    void *head;
    size_t size = 0;
    CALL("get_robust_list", SYS_get_robust_list, 0, &head, &size);
    line("robust list: %zu bytes", size);
    CALL("get_robust_list nobody", SYS_get_robust_list, 0x3ffffff, &head, &size);
    CALL("set_robust_list bad size", SYS_set_robust_list, head, 5);
    CALL("rseq bad", SYS_rseq, BAD, 3, 0, 0);
    CALL("sched_yield", SYS_sched_yield);
    CALL("tgkill a thread that is gone", SYS_tgkill, getpid(), id, 0);
}

int main(void)
{
    posix();
    futexes();
    cloning();
    line("end");
    _exit(0);
}
