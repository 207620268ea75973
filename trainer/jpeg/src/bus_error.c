/* One handler for SIGBUS and a fixed table of what it explains. */
#define _XOPEN_SOURCE 700 /* for SA_ONSTACK */

#include "bus_error.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    atomic_uintptr_t begin; /* 0: free. Written last: what the handler finds is complete */
    uintptr_t end;
    size_t length; /* of the message */
    char message[JC_BUS_MESSAGE];
} range;

static range ranges[JC_BUS_RANGES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of those who register; the handler takes none */
static struct sigaction before;
static volatile sig_atomic_t stood_aside;

static void end_with(const range *range)
{
    static atomic_flag told = ATOMIC_FLAG_INIT;
    while (atomic_flag_test_and_set(&told)) pause(); /* another thread was first, and ends this one, too */
    const char *rest = range->message;
    for (size_t left = range->length; left;) {
        ssize_t written = write(STDERR_FILENO, rest, left);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) break;
        rest += written;
        left -= (size_t)written;
    }
    _exit(1);
}

/* Let what was there before have the signal. If that hands it back to us, as faulthandler does to whom it found, the
 * default has it. */
static void stand_aside(void)
{
    struct sigaction plain = {.sa_handler = SIG_DFL};
    sigemptyset(&plain.sa_mask);
    sigaction(SIGBUS, stood_aside ? &plain : &before, NULL);
    stood_aside = 1;
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
    (void)context;
    int error = errno;
    int is_fault = info->si_code > 0; /* by the kernel, which also says where */
    uintptr_t place = (uintptr_t)info->si_addr;
    for (int i = 0; is_fault && i < JC_BUS_RANGES; i++) {
        uintptr_t begin = atomic_load_explicit(&ranges[i].begin, memory_order_acquire);
        if (begin && begin <= place && place < ranges[i].end) end_with(&ranges[i]);
    }
    stand_aside();
    if (!is_fault) raise(number); /* a fault happens again by itself */
    errno = error;
}

/* The caller holds the lock. */
static void take_over(void)
{
    struct sigaction now, ours = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&ours.sa_mask);
    if (sigaction(SIGBUS, NULL, &now) != 0) return;
    if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == on_bus_error) return;
    before = now;
    stood_aside = 0;
    sigaction(SIGBUS, &ours, NULL);
}

int jc_explain_bus_errors(const void *begin, size_t length, const char *message)
{
    size_t message_length = strlen(message);
    if (!begin || message_length > JC_BUS_MESSAGE) return -1;
    int number = -1;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < JC_BUS_RANGES && number < 0; i++)
        if (!atomic_load_explicit(&ranges[i].begin, memory_order_relaxed)) number = i;
    if (number >= 0) {
        range *range = &ranges[number];
        range->end = (uintptr_t)begin + length;
        range->length = message_length;
        memcpy(range->message, message, message_length);
        atomic_store_explicit(&range->begin, (uintptr_t)begin, memory_order_release);
        take_over();
    }
    pthread_mutex_unlock(&lock);
    return number;
}

void jc_forget_bus_errors(int number)
{
    if (number < 0 || number >= JC_BUS_RANGES) return;
    pthread_mutex_lock(&lock);
    atomic_store_explicit(&ranges[number].begin, 0, memory_order_release);
    pthread_mutex_unlock(&lock);
}
