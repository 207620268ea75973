#!/usr/bin/env bash
# The main job on a generated data set: synth -> convert -> train -> evaluate -> report. Data that is already there and complete
# is kept; so is a finished run, which is then only evaluated again. Set-up comes first: make quickstart does both.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/common.sh
source launch/common.sh

readonly PYTHON=.venv/bin/python
readonly RECIPE=recipes/quickstart.yaml
readonly DATA=data/quickstart
readonly RUN=runs/quickstart
readonly SYNTH=(--train 2400 --val 500 --seed 0)
readonly COMPLETE=$DATA/complete  # the options of the data; written last

heading() { printf '\n== %s (%d s)\n' "$*" "$SECONDS"; }

prepare() {
    if [[ -f $COMPLETE && $(<"$COMPLETE") == "${SYNTH[*]}" ]]; then
        echo "$DATA: complete, nothing to do"
        return
    fi
    "$PYTHON" -m data_prep synth "$DATA" "${SYNTH[@]}" --overwrite
    "$PYTHON" -m data_prep convert "$DATA/train" "$DATA/train.beton" --overwrite
    "$PYTHON" -m data_prep convert "$DATA/val" "$DATA/val.beton" --overwrite
    echo "${SYNTH[*]}" >"$COMPLETE"
}

# One process, on the first GPU or on the CPU. All that accelerate would choose and warn about is given.
train() {
    local launch=("$PYTHON" -m accelerate.commands.launch --quiet --num_processes 1 --num_machines 1 --mixed_precision no
        --dynamo_backend no --num_cpu_threads_per_process "$(nproc)")
    if (($(count_gpus) == 0)); then launch+=(--cpu); fi
    "${launch[@]}" -m trainer train "$RECIPE"
}

[[ -x $PYTHON ]] || {
    echo "error: there is no .venv yet; run: make quickstart" >&2
    exit 1
}

heading "data: $DATA"
prepare
heading "training: $RECIPE"
train
heading "evaluation: $DATA/val.beton"
"$PYTHON" -m trainer evaluate "$RUN" --data "$DATA/val.beton"
heading "report"
"$PYTHON" -m trainer report "$RUN"
printf '\nquickstart: done in %d s; the run is in %s\n' "$SECONDS" "$PWD/$RUN"
