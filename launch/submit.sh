#!/usr/bin/env bash
# Checks a recipe, then puts its training, or the whole way from images to a publication, into SLURM's queue.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'TEXT'
usage: launch/submit.sh RECIPE [OPTION ...] [key=value ...]

Queue the training of RECIPE. It saves before its time is over or its nodes are taken away, and goes back into the queue until it is
done. Checked before: that the processes can share the global batch, that data and network go together, the run folder, its disk.

  --nodes N             nodes (default: 1)
  --gpus-per-node G     GPUs of each, and processes (default: 8); 0 trains one process a node on its CPU
  --time T              of one job, as SLURM has it (default: 24:00:00); what takes longer goes back into the queue
  --cores C             cores of each node (default: the whole node, --exclusive)
  --partition, --account, --qos NAME
  --sbatch OPTION       any other option of sbatch, e.g. --sbatch=--constraint=h100; may be repeated
  --max-requeues N      how often a job goes back into the queue (default: 50)
  --processes, --restarts, --stage, --scratch, --container VALUE
                        as launch/run.sh has them
  --array               RECIPE is a sweep (recipes/sweeps): a job array of its runs
  --chain               convert -> train -> evaluate -> publish, each when the one before is done; what fails cancels the rest
    --convert-train SOURCE, --convert-val SOURCE, --convert-options "OPTION ..."
                        images for the recipe's betons where they are not there yet (a tar, a folder)
    --evaluate-options  (default: "--protocol ten-crop"), --publish-options (default: "--allow-v1-snippet")
    --publish-to DIR    (default: published; into DIR/NAME)
  --dry-run             check, print the commands, queue nothing
TEXT
}

recipe='' overrides=() nodes=1 gpus_per_node=8 time=24:00:00 cores='' partition='' account='' qos='' extra=() max_requeues=50
processes='' restarts=2 stage=none scratch='' container='' array='' chain='' convert_train='' convert_val='' convert_options='' dry_run=''
evaluate_options='--protocol ten-crop' publish_options=--allow-v1-snippet publish_to=published

parse() {
    while (($#)); do
        # --name=value is --name value.
        if [[ $1 == --*=* ]]; then set -- "${1%%=*}" "${1#*=}" "${@:2}"; fi
        case $1 in
        -h | --help)
            usage
            exit
            ;;
        --array | --chain | --dry-run) printf -v "$(variable "$1")" 1 ;;
        --sbatch)
            value "$@"
            extra+=("$2")
            shift
            ;;
        --nodes | --gpus-per-node | --time | --cores | --partition | --account | --qos | --max-requeues | --processes | --restarts | \
            --stage | --scratch | --container | --convert-train | \
            --convert-val | --convert-options | --evaluate-options | --publish-options | --publish-to)
            value "$@"
            printf -v "$(variable "$1")" '%s' "$2"
            shift
            ;;
        -*) die "unknown option $1; see launch/submit.sh --help" ;;
        *=*) overrides+=("$1") ;;
        *)
            [[ -z $recipe ]] || die "one recipe at a time, not '$recipe' and '$1' (a sweep's file with --array)"
            recipe=$1
            ;;
        esac
        shift
    done
}

variable() {
    local name=${1#--}
    echo "${name//-/_}"
}

check() {
    [[ -n $recipe ]] || die "no recipe given; see launch/submit.sh --help"
    number --nodes "$nodes"
    [[ $gpus_per_node =~ ^[0-9]+$ ]] || die "--gpus-per-node is '$gpus_per_node', expected a number"
    [[ -z $cores ]] || number --cores "$cores"
    number --max-requeues "$max_requeues"
    processes=${processes:-$((gpus_per_node > 0 ? gpus_per_node : 1))}
    number --processes "$processes"
    check_run_options "$stage" "$restarts" "$container"
    [[ -n $chain || -z $convert_train$convert_val ]] || die "--convert-train and --convert-val are for --chain"
    [[ -n $dry_run ]] || command -v sbatch >/dev/null || die "there is no sbatch here: submit on a login node, or try --dry-run"
}

# --- What the recipe says ------------------------------------------------------------------------------------------------------

run_dirs=() trains=() vals=()

ask_recipe() {
    local lines key content later=() sweep=()
    if [[ -n $convert_train$convert_val ]]; then later=(--data-later); fi
    [[ -z $array ]] || sweep=(--sweep)
    lines=$(python -m trainer job "$recipe" "${overrides[@]}" --processes "$((nodes * processes))" "${later[@]}" "${sweep[@]}") || exit $?
    while IFS='=' read -r key content; do
        case $key in
        run) run_dirs+=("$content") ;;
        train) trains+=("$content") ;;
        val) vals+=("$content") ;;
        esac
    done <<<"$lines"
}

# --- Jobs ----------------------------------------------------------------------------------------------------------------------

log_dir='' jobs=() logs=()

# submit STAGE AFTER OPTIONS... -- SCRIPT ARGUMENTS...: queue it after the job AFTER, if that is one; its number is in `job`.
submit() {
    local stage=$1 after=$2 line name pattern=%j
    shift 2
    name=$(basename "${recipe%.yaml}")-$stage
    line=(sbatch --parsable --job-name="$name" --time="$time" --export=ALL)
    [[ -z $partition ]] || line+=(--partition="$partition")
    [[ -z $account ]] || line+=(--account="$account")
    [[ -z $qos ]] || line+=(--qos="$qos")
    if [[ -n $array && $stage != convert ]]; then
        line+=(--array="0-$((${#run_dirs[@]} - 1))")
        pattern=%A_%a
    fi
    [[ -z $after ]] || line+=(--dependency="$after" --kill-on-invalid-dep=yes)
    line+=(--output="$log_dir/$name-$pattern.log" "${extra[@]}" "$@")
    if [[ -n $dry_run ]]; then
        shell_line "${line[@]}"
        job=$(tr '[:lower:]' '[:upper:]' <<<"$stage")
        return
    fi
    job=$("${line[@]}") || die "sbatch refused it; the line was: $(shell_line "${line[@]}")"
    job=${job%%;*} # a federation's cluster follows
    printf '%-9s job %s\n' "$stage" "$job"
    jobs+=("$job")
    logs+=("$log_dir/$name-$job")
}

# ask_for NODES GPUS: into `options`. Decoding and encoding take all the cores that there are.
ask_for() {
    options=(--nodes="$1")
    if [[ -n $cores ]]; then options+=(--cpus-per-task="$cores"); else options+=(--exclusive); fi
    if (($2)); then options+=(--gpus-per-node="$2"); fi
}

# queue_conversion SOURCE BETON: where the beton is not there yet.
queue_conversion() {
    [[ -n $1 ]] || return 0
    local words=()
    read -ra words <<<"$convert_options"
    [[ -e $1 ]] || die "$1: no such images to convert"
    submit convert '' "${options[@]}" "$LAUNCH/slurm/convert.sbatch" "$1" "$2" "${words[@]}"
    after+=":$job"
}

queue() {
    local after='' options each=afterok
    # Of an array each run waits for its own.
    [[ -z $array ]] || each=aftercorr
    if [[ -n $chain ]]; then
        ask_for 1 0
        queue_conversion "$convert_train" "${trains[0]}"
        queue_conversion "$convert_val" "${vals[0]}"
    fi
    ask_for "$nodes" "$gpus_per_node"
    local run_options=(--processes "$processes" --restarts "$restarts") staging=(--stage "$stage")
    [[ -z $container ]] || run_options+=(--container "$container")
    [[ -z $scratch ]] || staging+=(--scratch "$scratch")
    export RUN_OPTIONS="${run_options[*]@Q} ${staging[*]@Q}"
    submit train "${after:+afterok$after}" "${options[@]}" "$LAUNCH/slurm/train.sbatch" "$recipe" "${overrides[@]}"
    [[ -n $chain ]] || return 0
    ask_for 1 "$gpus_per_node"
    export RUN_OPTIONS="${run_options[*]@Q}" # training alone is staged
    export EVALUATE_OPTIONS=$evaluate_options PUBLISH_OPTIONS=$publish_options PUBLISHED=$publish_to
    submit evaluate "$each:$job" "${options[@]}" "$LAUNCH/slurm/evaluate.sbatch" --of "$recipe" "${overrides[@]}"
    ask_for 1 0
    submit publish "$each:$job" "${options[@]}" "$LAUNCH/slurm/publish.sbatch" --of "$recipe" "${overrides[@]}"
}

tell() {
    local joined
    printf -v joined ',%s' "${jobs[@]}"
    printf 'watch:    %s\n' "squeue --jobs=${joined:1}" "tail -F ${logs[*]/%/*.log}" "python -m trainer status ${run_dirs[*]} --watch"
    printf 'stop:     scancel %s   # it saves; submitted again, it goes on\n' "${jobs[*]}"
}

parse "$@"
check
use_venv
ask_recipe
# A job inherits the environment. What another job, in which this is typed, was told is not for it.
for name in "${!SLURM_@}"; do
    if [[ $name != SLURM_CONF ]]; then unset "$name"; fi
done
export IMAGENET_TRAINER=${LAUNCH%/*} MAX_REQUEUES=$max_requeues
log_dir=$(dirname "${run_dirs[0]}")/logs
if [[ -z $dry_run ]]; then mkdir -p "$log_dir"; fi # SLURM does not, and says nothing
queue
if [[ -z $dry_run ]]; then tell; fi
