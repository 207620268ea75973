/* Threads that make the crops of a batch. The caller works too; nobody spins. */
#include "internal.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

typedef struct {
    jc_pool *pool;
    jc_decoder *decoder;
    pthread_t thread;
} worker;

struct jc_pool {
    int threads; /* with the caller's, which is worker 0 */
    int running; /* threads started, without the caller's */
    worker *workers;
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    uint64_t batch;   /* number of the batch that is to be done */
    int busy;         /* started threads that have not finished it */
    int stop;
    jc_crop *crops;
    int64_t count;
    atomic_int_least64_t next, failed;
};

/* Who takes the first crop of a group makes all of it; who takes a later one passes on. */
static void decode_some(jc_pool *pool, jc_decoder *decoder)
{
    jc_crop *crops = pool->crops;
    for (;;) {
        int64_t i = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed), end = i + 1, failed = 0;
        if (i >= pool->count) return;
        if (i && are_grouped(&crops[i - 1], &crops[i])) continue;
        while (end < pool->count && are_grouped(&crops[i], &crops[end])) end++;
        decode_group(decoder, &crops[i], end - i);
        for (; i < end; i++) failed += crops[i].status != JC_OK;
        atomic_fetch_add_explicit(&pool->failed, failed, memory_order_relaxed);
    }
}

static void *work(void *argument)
{
    worker *self = argument;
    jc_pool *pool = self->pool;
    uint64_t seen = 0;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (pool->batch == seen && !pool->stop) pthread_cond_wait(&pool->work, &pool->lock);
        if (pool->stop) break;
        seen = pool->batch;
        pthread_mutex_unlock(&pool->lock);
        decode_some(pool, self->decoder);
        pthread_mutex_lock(&pool->lock);
        if (--pool->busy == 0) pthread_cond_signal(&pool->done);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

void jc_pool_free(jc_pool *pool)
{
    if (!pool) return;
    pthread_mutex_lock(&pool->lock);
    pool->stop = 1;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (int i = 1; i <= pool->running; i++) pthread_join(pool->workers[i].thread, NULL);
    for (int i = 0; i < pool->threads; i++) jc_decoder_free(pool->workers[i].decoder);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
    free(pool->workers);
    free(pool);
}

static int start_workers(jc_pool *pool, int flags)
{
    for (int i = 0; i < pool->threads; i++) {
        pool->workers[i] = (worker){.pool = pool, .decoder = jc_decoder_new(flags)};
        if (!pool->workers[i].decoder) return 0;
    }
    for (int i = 1; i < pool->threads; i++) {
        if (pthread_create(&pool->workers[i].thread, NULL, work, &pool->workers[i]) != 0) return 0;
        pool->running = i;
    }
    return 1;
}

jc_pool *jc_pool_new(int threads, int flags)
{
    if (threads < 1 || threads > 1024) return NULL;
    jc_pool *pool = calloc(1, sizeof *pool);
    worker *workers = calloc((size_t)threads, sizeof *workers);
    if (!pool || !workers) {
        free(pool);
        free(workers);
        return NULL;
    }
    pool->threads = threads;
    pool->workers = workers;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->done, NULL);
    if (start_workers(pool, flags)) return pool;
    jc_pool_free(pool);
    return NULL;
}

int64_t jc_pool_decode(jc_pool *pool, jc_crop *crops, int64_t count)
{
    if (count <= 0) return 0;
    pthread_mutex_lock(&pool->lock);
    pool->crops = crops;
    pool->count = count;
    atomic_store(&pool->next, 0);
    atomic_store(&pool->failed, 0);
    pool->busy = pool->running;
    pool->batch++;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    decode_some(pool, pool->workers[0].decoder);
    pthread_mutex_lock(&pool->lock);
    while (pool->busy) pthread_cond_wait(&pool->done, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
    return atomic_load(&pool->failed);
}
