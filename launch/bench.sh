#!/usr/bin/env bash
# Everything that BENCHMARKS.md has of a machine, in one call: the training step of all depths beside its peers', synthetic and real
# data, the multi-scale evaluation, and the loader beside the peers that are installed.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'TEXT'
usage: launch/bench.sh [--dry-run] DATA.beton [OUT_DIR]

Measure this machine on DATA.beton, and leave JSON, charts and what was printed in OUT_DIR (default: bench). One GPU is measured, the
first; without any, only ResNet-18 on the CPU, in batches of 32. The rest of the machine should be idle; on a GPU it takes an hour.

  --dry-run  print the commands, run nothing
TEXT
}

dry_run='' data='' out=bench

parse() {
    while (($#)); do
        case $1 in
        -h | --help)
            usage
            exit
            ;;
        --dry-run) dry_run=1 ;;
        -*) die "unknown option $1; see launch/bench.sh --help" ;;
        *) break ;;
        esac
        shift
    done
    (($# > 0)) || die "no data given; see launch/bench.sh --help"
    (($# < 3)) || die "one beton and one folder: what is '$3'?"
    data=$1 out=${2:-$out}
    [[ -f $data ]] || die "$data: there is no such beton"
}

# measure NAME WORDS...: `trainer bench` of WORDS, whose output goes to NAME.log as well. What fails does not keep the rest from being
# measured.
failed=()
measure() {
    local name=$1 line
    shift
    line=(python -m trainer bench "$@" --json "$out/$name.json")
    say "$(shell_line "${line[@]}")"
    [[ -z $dry_run ]] || return 0
    "${line[@]}" 2>&1 | tee "$out/$name.log" || failed+=("$name")
}

parse "$@"
use_venv
[[ -n $dry_run ]] || mkdir -p "$out"
if (($(count_gpus) > 0)); then
    measure step step "${LAUNCH%/launch}/recipes/imagenet/resnet50.yaml" --depths 18,34,50,101,152 --batch 256,best --peers timm,torchvision \
        --data "$data" --profile "$out/profile"
    measure multi-scale evaluation "$data" --protocol multi-scale --images 1024
    measure multi-scale-dense evaluation "$data" --protocol multi-scale-dense --images 1024
else
    measure step step "${LAUNCH%/launch}/recipes/imagenet/resnet18.yaml" --peers timm,torchvision --data "$data" --profile "$out/profile" \
        precision=fp32
    measure multi-scale evaluation "$data" --model resnet18 --protocol multi-scale --images 4 --batch 50
fi
measure loader loader "$data" --workers "1,$(nproc)"
((${#failed[@]} == 0)) || {
    echo "error: failed: ${failed[*]}; what it said is in $out" >&2
    exit 1
}
