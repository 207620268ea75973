#!/usr/bin/env bash
# Set-up: everything this project needs, in .venv beside it. Run it as often as you like; when nothing has changed it ends at once.
#
#   system headers -> .venv -> the versions of requirements.lock -> FFCV and pillow-simd, built here
#   -> this project and its C library -> a check
#
# PYTHON=/path/to/python3 chooses the interpreter. Indexes, mirrors and proxies are pip's own business (pip config, PIP_*).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly LOCK=requirements.lock
readonly VENV=.venv
readonly VENV_PYTHON=.venv/bin/python
readonly STATE=.venv/setup.state       # 'begun', 'failed', or the fingerprint of what was finished
readonly SIMD_BUILD=.venv/pillow-simd.build  # the compiler command that pillow-simd was built with
readonly LOG=.cache/setup.log
readonly NATIVE=trainer/jpeg  # its C library is built in place from src/
readonly PKG_CONFIG_MODULES="opencv4 libturbojpeg libjpeg zlib libwebp libwebpmux libwebpdemux"

SECONDS=0  # those of this script, whatever a caller's variable of that name says (make fuzz SECONDS=60)

export PIP_USER=0 PIP_NO_INPUT=1 PIP_DISABLE_PIP_VERSION_CHECK=1

child=
trap '[[ -z $child ]] || kill -- "-$child" 2>/dev/null || true' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf 'setup: %s\n' "$*"; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# run WHAT COMMAND...: the output goes to the log; a sign of life every 20 s; the end of the log if it fails.
run() {
    local what=$1 began=$SECONDS told=$SECONDS doing
    shift
    say "$what"
    set -m # a process group of its own, so that an interrupt ends the compilers with the pip that started them
    "$@" >>"$LOG" 2>&1 </dev/null &
    child=$!
    set +m
    while kill -0 "$child" 2>/dev/null; do
        sleep 0.3
        if ((SECONDS - told >= 20)); then
            told=$SECONDS
            doing=$(tail -n 1 "$LOG" | tr -d '\r' | cut -c 1-110)
            say "  $((SECONDS - began)) s${doing:+: $doing}"
        fi
    done
    if ! wait "$child"; then
        child=
        # What failed by itself left .venv in order, unlike what was killed: the next set-up can go on in it.
        if "$VENV_PYTHON" -m pip --version >/dev/null 2>&1; then echo failed >"$STATE"; fi
        tail -n 30 "$LOG" >&2
        die "this step failed: $what (its last lines are above, the whole log is $PWD/$LOG)"
    fi
    child=
}

# The locked requirement of one package, without its marker: NAME==VERSION.
locked() {
    local line
    line=$(grep -m 1 "^$1==" "$LOCK") || die "$LOCK pins no version of $1; write it again with: make lock"
    printf '%s\n' "${line%% *}"
}

# --- Python and the system's headers -------------------------------------------------------------------------------------------

# Succeeds for an interpreter that the lock has packages for.
supported() { "$1" -c 'import sys; raise SystemExit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1; }

has_venv() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

# Print the interpreter to use: the first with venv, or else the first that could have it.
find_python() {
    local candidate without_venv='' candidates=(python3 python3.13 python3.12 python3.11 python3.14 python3.10 python)
    if [[ -n ${PYTHON:-} ]]; then candidates=("$PYTHON"); fi
    for candidate in "${candidates[@]}"; do
        supported "$candidate" || continue
        if has_venv "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
        without_venv=${without_venv:-$candidate}
    done
    [[ -n $without_venv ]] ||
        die "no Python from 3.10 to 3.14 found (tried: ${candidates[*]}); install one, or name it: make setup PYTHON=/path/to/python3"
    printf '%s\n' "$without_venv"
}

simd_cpu() { [[ $(uname -m) == x86_64 ]]; }

# Print what is missing to build with, one word each; nothing when all is there. Takes the interpreter.
missing_tools() {
    local python=$1 tool module
    has_venv "$python" || echo venv
    for tool in cc c++ pkg-config; do command -v "$tool" >/dev/null || echo "$tool"; done
    for module in $PKG_CONFIG_MODULES; do pkg-config --exists "$module" 2>/dev/null || echo "$module"; done
    # A .pc file may outlive its headers, and Python's headers have none that can be relied on: let the compiler look.
    local flags
    flags="-I$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')"
    # shellcheck disable=SC2046,SC2086  # flags and modules are lists
    printf '#include <%s>\n' Python.h stdio.h opencv2/core/version.hpp turbojpeg.h jpeglib.h zlib.h webp/decode.h |
        c++ -fsyntax-only -x c++ "$flags" $(pkg-config --cflags $PKG_CONFIG_MODULES 2>/dev/null) - 2>&1 |
        sed -n "s/.*fatal error: \([^:]*\):.*/\1/p" || true
}

apt_packages() {
    local python=$1 version
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo build-essential pkg-config libopencv-dev libturbojpeg0-dev libjpeg-dev zlib1g-dev libwebp-dev
    has_venv "$python" || echo "python$version-venv"
    "$python" -c 'import os, sysconfig; raise SystemExit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' ||
        echo "python$version-dev"
}

# Install the given packages with apt as root or through a sudo that asks nothing; fails where neither can be.
apt_install() {
    local root=()
    command -v apt-get >/dev/null || return 1
    if [[ $(id -u) != 0 ]]; then
        sudo -n true 2>/dev/null || return 1
        root=(sudo -n)
    fi
    local apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -y)
    # One broken third-party list must not stop us: whether the packages can be had is what install tells.
    run "reading apt's package lists" bash -c '"$@" update || true' apt "${apt[@]}"
    run "installing with apt: $*" "${apt[@]}" install --no-install-recommends "$@"
}

need_tools() {
    local python=$1 missing packages
    missing=$(missing_tools "$python" | sort -u | paste -sd ' ')
    [[ -n $missing ]] || return 0
    packages=$(apt_packages "$python" | paste -sd ' ')
    # shellcheck disable=SC2086  # a list
    if apt_install $packages; then
        missing=$(missing_tools "$python" | sort -u | paste -sd ' ')
        [[ -n $missing ]] || return 0
    fi
    die "FFCV, pillow-simd and trainer.jpeg are built on this machine, and these are missing: $missing
Install them, then run the same command again:
  apt    sudo apt-get install $packages
  dnf    sudo dnf install gcc-c++ pkgconf-pkg-config opencv-devel turbojpeg-devel libjpeg-turbo-devel zlib-devel libwebp-devel python3-devel
  conda  conda install -c conda-forge cxx-compiler pkg-config libopencv libjpeg-turbo zlib libwebp python"
}

# --- .venv ---------------------------------------------------------------------------------------------------------------------

# What a finished set-up depends on. A moved folder counts: the scripts in .venv/bin hold absolute paths.
fingerprint() {
    {
        pwd -P
        uname -m
        simd_compiler
        "$VENV_PYTHON" -VV
        cat "$LOCK" pyproject.toml setup.py launch/setup.sh "$NATIVE"/src/*
    } | sha256sum | cut -d ' ' -f 1
}

simd_compiler() { if grep -qw avx2 /proc/cpuinfo 2>/dev/null; then echo "cc -mavx2"; else echo cc; fi; }

# Succeeds when `import PIL` is the locked pillow-simd (Pillow, where there is no x86-64 to vectorise for).
right_pil() {
    local wanted
    if simd_cpu; then wanted=$(locked pillow-simd); else wanted=$(locked pillow); fi
    [[ $("$VENV_PYTHON" -c 'import PIL; print(PIL.__version__)' 2>/dev/null) == "${wanted#*==}" ]]
}

# Succeeds unless PYTHON names another version than the one in .venv.
chosen_python() { [[ -z ${PYTHON:-} || $("$PYTHON" -V 2>&1) == $("$VENV_PYTHON" -V 2>&1) ]]; }

has_library() { compgen -G "$NATIVE/_jpegcrop*.so" >/dev/null; }

up_to_date() {
    [[ -x $VENV_PYTHON && -f $STATE && $(<"$STATE") == "$(fingerprint)" ]] && chosen_python && has_library && right_pil
}

make_venv() {
    local python=$1
    if [[ -f $STATE ]]; then
        if [[ $(<"$STATE") == begun ]]; then
            say "the last set-up was interrupted: starting $VENV afresh"
            rm -rf "$VENV"
        elif ! supported "$VENV_PYTHON" || [[ $("$VENV_PYTHON" -c 'import sys; print(sys.prefix)') != "$(pwd -P)/$VENV" ]]; then
            say "the Python of $VENV is gone or has moved: starting it afresh"
            rm -rf "$VENV"
        elif ! chosen_python; then
            say "$VENV holds $("$VENV_PYTHON" -V), not $("$python" -V): starting it afresh"
            rm -rf "$VENV"
        fi
    fi
    if [[ -x $VENV_PYTHON ]]; then
        echo begun >"$STATE"
    else
        mkdir -p "$VENV"
        echo begun >"$STATE"
        run "creating $VENV with $("$python" -V)" "$python" -m venv "$VENV"
    fi
}

# --- packages ------------------------------------------------------------------------------------------------------------------

# No resolution anywhere: the lock is complete (make lock resolved it). No isolation: what builds the sources is locked too.
readonly PIP_INSTALL=("$VENV_PYTHON" -m pip install --no-deps --no-build-isolation)
# Built against this machine's libraries: a wheel from another day or place may be linked to others.
readonly PIP_BUILD=("${PIP_INSTALL[@]}" --no-cache-dir --no-binary :all: --force-reinstall)

# NAME==VERSION of a package in .venv; nothing if it is not there.
installed() {
    "$VENV_PYTHON" -c 'import sys, importlib.metadata as m; print(sys.argv[1] + "==" + m.version(sys.argv[1]))' "$1" 2>/dev/null || true
}

install_locked() {
    local requirements=$VENV/requirements.txt tools=$VENV/build-tools.txt not_here='ffcv|pillow-simd'
    if simd_cpu; then not_here+='|pillow'; fi
    grep -E '^(pip|pybind11|setuptools|wheel)==' "$LOCK" >"$tools"
    grep -vE "^($not_here)==" "$LOCK" >"$requirements"
    run "installing pip and the build tools" "$VENV_PYTHON" -m pip install --no-deps -r "$tools"
    run "installing the packages of $LOCK (the first time about 3 GB, most of it PyTorch with CUDA)" \
        "${PIP_INSTALL[@]}" -r "$requirements"
}

install_ffcv() {
    local wanted
    wanted=$(locked ffcv)
    [[ $(installed ffcv) != "$wanted" ]] || return 0
    run "building $wanted against this machine's OpenCV and TurboJPEG" "${PIP_BUILD[@]}" "$wanted"
}

# pillow-simd and Pillow are both the folder PIL: the one installed last is the one imported, so Pillow goes first.
install_pillow_simd() {
    local wanted compiler
    if ! simd_cpu; then
        say "$(uname -m) has no SIMD that pillow-simd knows: keeping $(locked pillow)"
        return
    fi
    wanted=$(locked pillow-simd)
    compiler=$(simd_compiler)
    if [[ -z $(installed pillow) && $(installed pillow-simd) == "$wanted" && -f $SIMD_BUILD && $(<"$SIMD_BUILD") == "$compiler" ]] &&
        right_pil; then
        return
    fi
    run "making room for pillow-simd" "$VENV_PYTHON" -m pip uninstall -y pillow pillow-simd
    CC=$compiler run "building $wanted with '$compiler'" "${PIP_BUILD[@]}" "$wanted"
    echo "$compiler" >"$SIMD_BUILD"
}

check() {
    right_pil || die "'import PIL' in $VENV is not $(locked pillow-simd); remove $VENV and run the same command again"
    "$VENV_PYTHON" -W ignore - <<'PYTHON' || die "a package cannot be imported (the reason is above)"
from importlib.metadata import version

import PIL
import accelerate
import ffcv
import timm
import torch
import torchvision

import trainer.jpeg  # its C library loads

names = [("PIL", PIL), ("torch", torch), ("torchvision", torchvision), ("timm", timm), ("accelerate", accelerate)]
print("setup: imports", ", ".join(f"{name} {module.__version__}" for name, module in names) + ", ffcv", version("ffcv"))
device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "CPU only (PyTorch finds no usable GPU)"
print("setup: device", device)
PYTHON
}

main() {
    if up_to_date; then
        say "$VENV is up to date"
        return
    fi
    mkdir -p "$(dirname "$LOG")"
    : >"$LOG"
    local python
    python=$(find_python)
    need_tools "$python"
    make_venv "$python"
    install_locked
    install_ffcv
    install_pillow_simd
    run "building trainer.jpeg's C library and installing this project (editable)" "${PIP_INSTALL[@]}" -e .
    check
    fingerprint >"$STATE"
    say "done in $SECONDS s"
}

main
