# shellcheck shell=bash
# What the batch scripts share; to be sourced. Runs on the first node of the allocation.
#
#   supervise COMMAND...   run it, pass on SLURM's signals
#   begin_again            put this job into the queue again, under the same number

source "${IMAGENET_TRAINER:-$SLURM_SUBMIT_DIR}/launch/common.sh"
use_venv

# Scripts that SLURM preempted or that ran out of time come again, at most so often.
readonly MAX_REQUEUES=${MAX_REQUEUES:-50}

asked=''  # the signal that asked this job to stop
child=''

# USR1 comes before the time is over (#SBATCH --signal), TERM when SLURM takes the nodes away. Whoever is asked twice stops at once,
# so only the first is passed on.
on_signal() {
    [[ -z $asked ]] || return 0
    asked=$1
    say "$(date '+%F %T') SIG$1: asking what runs to stop and to save"
    # srun hands USR1 on to every task, and the launcher to its processes.
    if [[ -n $child ]]; then kill -USR1 "$child" 2>/dev/null || true; fi
}
trap 'on_signal USR1' USR1
trap 'on_signal TERM' TERM

# supervise COMMAND...: its exit status is in `status`.
supervise() {
    "$@" &
    child=$!
    # A signal that came before the command was there.
    if [[ -n $asked ]]; then kill -USR1 "$child" 2>/dev/null || true; fi
    while :; do
        status=0
        wait "$child" || status=$?
        kill -0 "$child" 2>/dev/null || break  # a signal ends `wait`, not the command
    done
    child=''
}

# By scancel, that is, not because of SLURM's own.
is_cancelled() { [[ $(scontrol --oneliner show job "$SLURM_JOB_ID") =~ JobState=CANCELLED ]]; }

begin_again() {
    local restarts=${SLURM_RESTART_COUNT:-0}
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
    scontrol requeue "$SLURM_JOB_ID"
    sleep 60
    exit 1
}

# job_of RECIPE [key=value ...]: into `recipe` the words that train takes, into `run_dir` and `val` what they say. In a job array the
# recipe is a sweep's file, of which this task has one run.
# shellcheck disable=SC2034  # the scripts read what it sets
job_of() {
    local lines array=()
    [[ -z ${SLURM_ARRAY_TASK_ID:-} ]] || array=(--sweep)
    lines=$(python -m trainer job "$@" "${array[@]}")
    lines=$(tail -n "+$((4 * ${SLURM_ARRAY_TASK_ID:-0} + 1))" <<<"$lines" | head -n 4)
    [[ -n $lines ]] || die "$1: no run number $SLURM_ARRAY_TASK_ID"
    eval "recipe=($(sed -n 's/^recipe=//p' <<<"$lines"))" # quoted for a shell
    run_dir=$(sed -n 's/^run=//p' <<<"$lines")
    val=$(sed -n 's/^val=//p' <<<"$lines")
}

# What is not training has no checkpoint: it is done again from its beginning.
finish() {
    if [[ -n $asked && $status != 0 ]]; then begin_again; fi
    exit "$status"
}

say "$(date '+%F %T') job $SLURM_JOB_ID ($SLURM_JOB_NAME) on $SLURM_JOB_NODELIST, restarted ${SLURM_RESTART_COUNT:-0} times"
