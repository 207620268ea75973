# shellcheck shell=bash
# What the launch scripts share; to be sourced.

LAUNCH=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
readonly LAUNCH

say() { printf '%s: %s\n' "${0##*/}" "$*"; }

# die MESSAGE: what is wrong with the command, as the trainer says it.
die() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# The environment that set-up made, unless another one is active.
use_venv() {
    if [[ -z ${VIRTUAL_ENV:-} && -x $LAUNCH/../.venv/bin/accelerate ]]; then PATH=$(cd "$LAUNCH/../.venv/bin" && pwd -P):$PATH; fi
    command -v accelerate >/dev/null || die "accelerate is not installed here; run: make setup"
}

# number OPTION VALUE: refuse what is no positive number.
number() { [[ $2 =~ ^[1-9][0-9]*$ ]] || die "$1 is '$2', expected a positive number"; }

# value OPTION [VALUE]: refuse an option at the end of the line, without its value.
value() { (($# > 1)) || die "$1 needs a value"; }

# shell_line WORDS...: quoted as a shell takes them.
shell_line() {
    local word line=''
    for word; do
        if [[ $word =~ ^[A-Za-z0-9_@%+=:,./{}-]+$ ]]; then line+=" $word"; else line+=" ${word@Q}"; fi
    done
    printf '%s\n' "${line:1}"
}

# check_run_options STAGE RESTARTS CONTAINER: of launch/run.sh, as its command line has them.
check_run_options() {
    [[ $1 =~ ^(none|copy|mmap-shared)$ ]] || die "--stage is '$1', expected none, copy or mmap-shared"
    [[ $2 =~ ^[0-9]+$ ]] || die "--restarts is '$2', expected a number"
    [[ $3 =~ ^(|apptainer:.+|pyxis:.+)$ ]] || die "--container is '$3', expected apptainer:IMAGE or pyxis:IMAGE"
}

# count_gpus: those that this process may use. CUDA sees the devices of its variable up to the first that is none.
count_gpus() {
    if [[ ${ACCELERATE_USE_CPU:-} =~ ^(1|[Tt]rue|[Yy]es)$ ]] || ! command -v nvidia-smi >/dev/null; then
        echo 0
    elif [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
        tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | awk '!/^ *([0-9]+|GPU-.*|MIG-.*) *$/ { exit } { n++ } END { print n + 0 }'
    else
        nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU' || true
    fi
}
