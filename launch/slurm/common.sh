# shellcheck shell=bash
# What the batch scripts share; to be sourced. Runs on the first node of the allocation.
#
#   supervise COMMAND...   run it as a step, or as what starts steps, and note SLURM's signals
#   one_task COMMAND...    the same, of a program for one node
#   begin_again            put this job into the queue again, under the same number

source "${IMAGENET_TRAINER:-$SLURM_SUBMIT_DIR}/launch/common.sh"
use_venv

# Scripts that SLURM preempted or that ran out of time come again, at most so often.
readonly MAX_REQUEUES=${MAX_REQUEUES:-50}

asked=''  # the signal that asked this job to stop
child=''

# SLURM sends USR1 to this script alone, before the time is over (#SBATCH --signal). TERM it sends to the steps when the nodes are wanted
# by others, and to this script, too, when the job is cancelled or its grace is over. Launchers that are told twice leave at once, so TERM
# is not passed on, and USR1 once.
on_signal() {
    [[ -z $asked ]] || return 0
    asked=$1
    say "$(date '+%F %T') SIG$1: what runs is to stop and to save"
    if [[ $1 == USR1 ]]; then pass_on; fi
}

# srun hands it on to every task, and the launcher to its processes.
pass_on() {
    if [[ -n $child ]]; then kill -USR1 "$child" 2>/dev/null || true; fi
}
trap 'on_signal USR1' USR1
trap 'on_signal TERM' TERM

# supervise COMMAND...: its exit status is in `status`.
supervise() {
    "$@" &
    child=$!
    if [[ -n $asked ]]; then pass_on; fi # it came before the command was there
    status=0
    wait "$child" || status=$?
    while kill -0 "$child" 2>/dev/null; do # a signal ends `wait`, not the command
        status=0
        wait "$child" || status=$?
    done
    # It may also have ended `wait` just as the command ended by itself, whose status is then still to be had.
    local own=0
    wait "$child" 2>/dev/null || own=$?
    if ((status > 128 && own != 127)); then status=$own; fi
    child=''
}

one_task() {
    # Since SLURM 22.05 a step does not take over the job's --cpus-per-task.
    [[ -z ${SLURM_CPUS_PER_TASK:-} ]] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
    supervise srun --nodes=1 --ntasks=1 --overlap --cpu-bind=none "$@"
}

# Of an array, this task; its number alone may stand for all of them.
readonly THIS_JOB=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}

# What the controller says of this job. It may be busy, or changing its machine.
job_facts() {
    local facts attempt
    for attempt in {1..12}; do
        facts=$(scontrol --oneliner show job "${THIS_JOB:-$SLURM_JOB_ID}" 2>/dev/null) && [[ -n $facts ]] && break
        sleep "$attempt"
    done
    printf '%s\n' "${facts:-}"
}

# Whether SLURM asked for the nodes: of a preemption it tells the steps alone.
was_asked() { [[ -n $asked || $(job_facts) =~ PreemptTime=[0-9] ]]; }

# By scancel: a job that is preempted goes on running until it has left or its grace is over, and one whose time ends got USR1 first.
is_cancelled() {
    local facts
    [[ $asked == TERM ]] || return 1
    facts=$(job_facts)
    [[ -n $facts && ! $facts =~ JobState=RUNNING ]]
}

begin_again() {
    local restarts=${SLURM_RESTART_COUNT:-0} attempt
    if is_cancelled; then
        say "cancelled; submitted again, it goes on from its last checkpoint"
        exit 1
    fi
    if ((restarts >= MAX_REQUEUES)); then
        say "error: requeued $restarts times, the most that MAX_REQUEUES allows; submit it again to go on"
        exit 1
    fi
    say "$(date '+%F %T') requeued, $((restarts + 1)) of at most $MAX_REQUEUES times"
    trap 'exit 1' TERM # by which SLURM ends this script now
    for attempt in {1..12}; do
        if scontrol requeue "${THIS_JOB:-$SLURM_JOB_ID}"; then sleep 60; fi
        sleep "$attempt"
    done
    say "error: SLURM did not take it back; submit it again to go on"
    exit 1
}

# job_of RECIPE [key=value ...]: into `recipe` the words that train takes, into `run_dir` and `val` what they say. In a job array the
# recipe is a sweep's file, of which this task has one run.
# shellcheck disable=SC2034  # the scripts read what it sets
job_of() {
    local lines array=()
    [[ -z ${SLURM_ARRAY_TASK_ID:-} ]] || array=(--sweep)
    lines=$(python -m trainer job "$@" "${array[@]}")
    lines=$(sed -n "$((4 * ${SLURM_ARRAY_TASK_ID:-0} + 1)),$((4 * ${SLURM_ARRAY_TASK_ID:-0} + 4))p" <<<"$lines")
    [[ -n $lines ]] || die "$1: no run number $SLURM_ARRAY_TASK_ID"
    eval "recipe=($(sed -n 's/^recipe=//p' <<<"$lines"))" # quoted for a shell
    run_dir=$(sed -n 's/^run=//p' <<<"$lines")
    val=$(sed -n 's/^val=//p' <<<"$lines")
}

# What is not training has no checkpoint: it is done again from its beginning, unless it was the time that was too short.
finish() {
    if [[ $asked == USR1 && $status != 0 ]]; then
        say "error: it does not fit into its time; submit it with a longer --time"
        exit 1
    fi
    if [[ $status != 0 ]] && was_asked; then begin_again; fi
    exit "$status"
}

say "$(date '+%F %T') job $SLURM_JOB_ID ($SLURM_JOB_NAME) on $SLURM_JOB_NODELIST, restarted ${SLURM_RESTART_COUNT:-0} times"
