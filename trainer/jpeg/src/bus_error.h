/* bus_error: a reason, where a mapped file cannot be read.
 *
 * What reads a mapped file that has become shorter, or whose disk fails, gets a signal, SIGBUS, in the place of an
 * error; by default it ends the process without a word. Here a line is written first.
 *
 * Contract
 * - A fault inside of a registered range: its message is written to file descriptor 2, once, however many threads
 *   meet one, then the process ends with status 1 by _exit. Everything is prepared beforehand: nothing is allocated,
 *   locked or flushed then.
 * - Any other SIGBUS, a fault elsewhere or one that was sent: what was to be done about it before is put back, and is
 *   done. So Python's faulthandler works as ever.
 * - The signal is taken over when a range is registered, for the whole process; it is the only global state of this
 *   library. Who takes it over after the last registration has it.
 * - Any thread may call at any time. A forked child has the ranges of its parent, as it has the mappings.
 */
#ifndef BUS_ERROR_H
#define BUS_ERROR_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define JC_BUS_RANGES 64    /* at once */
#define JC_BUS_MESSAGE 4608 /* bytes of a message: a path of the largest length, and what to say of it */

/* Explain faults in [begin, begin + length) by `message`, which is copied and written as it is. Returns a number for
 * jc_forget_bus_errors, or -1 if there is no room: then faults there stay unexplained. */
int jc_explain_bus_errors(const void *begin, size_t length, const char *message);

/* To be called before the range is unmapped: other memory may take its place. */
void jc_forget_bus_errors(int number);

#ifdef __cplusplus
}
#endif
#endif
