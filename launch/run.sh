#!/usr/bin/env bash
# The same command on a laptop, on a node, and inside a SLURM allocation: looks at what there is, prints the line that it runs.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    cat <<'TEXT'
usage: launch/run.sh [OPTION ...] RECIPE [key=value ...]
       launch/run.sh [OPTION ...] train|evaluate|recalibrate|doctor ARGUMENT ...

Start the trainer on the devices that there are: on every node of a SLURM allocation when inside one, otherwise on this machine's
GPUs, or its CPU. The `accelerate launch` line is printed before it is run.

  --processes N      processes a node (default: its GPUs; 1 on a CPU)
  --restarts N       how often killed processes are started again in place (default: 2; one process alone: never)
  --stage HOW        read the recipe's data from the node itself: `copy` to its disk, `mmap-shared` into its memory, `none` (default).
                     What does not fit stays where it is. Only to train
  --scratch DIR      where to (default: $SLURM_TMPDIR, $TMPDIR or /tmp; /dev/shm for mmap-shared)
  --container IMAGE  inside a SLURM allocation: apptainer:IMAGE.sif or pyxis:IMAGE, for what runs on the nodes (untested; the
                     host needs this installation, too, and sees the same folders only below this one and the project's)
  --dry-run          print the line, run nothing

Several machines without SLURM; the same line on each, but for its rank:
  --nodes N --node-rank R --master HOST[:PORT]   (HOST is the machine of rank 0; port 29500)
TEXT
}

# --- What the command line says ------------------------------------------------------------------------------------------------

nodes='' node_rank='' master='' processes='' restarts=2 stage=none scratch='' container='' files='' dry_run=''

parse() {
    while (($#)); do
        case $1 in
        -h | --help)
            usage
            exit
            ;;
        --dry-run) dry_run=1 ;;
        --nodes | --node-rank | --master | --processes | --restarts | --stage | --scratch | --container | --files)
            value "$@"
            local name=${1#--}
            printf -v "${name//-/_}" '%s' "$2"
            shift
            ;;
        -*) die "unknown option $1; see launch/run.sh --help" ;;
        *) break ;;
        esac
        shift
    done
    (($#)) || die "no recipe given; see launch/run.sh --help"
    case $1 in
    train | evaluate | recalibrate | doctor) command=("$@") ;;
    *) command=(train "$@") ;;
    esac
}

check() {
    [[ -z $processes ]] || number --processes "$processes"
    check_run_options "$stage" "$restarts" "$container"
    [[ $stage == none || ${command[0]} == train ]] || die "--stage is for training only"
    if [[ -n $nodes$node_rank$master ]]; then
        number --nodes "${nodes:-}"
        [[ $node_rank =~ ^[0-9]+$ ]] || die "--node-rank is '$node_rank', expected the rank of this machine, 0 to $((nodes - 1))"
        ((node_rank < nodes)) || die "--node-rank is $node_rank; of $nodes machines the ranks are 0 to $((nodes - 1))"
        [[ -n $master ]] || die "--nodes needs --master HOST[:PORT], the machine of rank 0"
    elif [[ -n $container ]] && ! in_allocation; then
        die "--container is for SLURM allocations; outside one, start this script inside the container"
    fi
}

# --- In an allocation: one task a node runs this script again -----------------------------------------------------------------

# An allocation, and not one of its steps: those were told their rank.
in_allocation() { [[ -n ${SLURM_JOB_ID:-} && -z $node_rank ]]; }

# The first port from 20000 + the job's number on that is free, if this is the first node; the others cannot look.
choose_port() {
    python - "$1" "$((20000 + SLURM_JOB_ID % 10000))" <<'PYTHON'
import socket, sys
host, port = sys.argv[1], int(sys.argv[2])
if socket.gethostname().split(".")[0] == host.split(".")[0]:
    while True:
        try:
            with socket.socket() as taken:
                taken.bind(("", port))
            break
        except OSError:
            port += 1
print(port)
PYTHON
}

run_in_allocation() {
    local hosts first wrapped=() step=() again=(--restarts "$restarts" --stage "$stage")
    command -v scontrol >/dev/null || die "SLURM_JOB_ID is set, but there is no scontrol to ask for the nodes (inside a container? start it by --container)"
    # A failure must be one: a name that is wrong is worse than none.
    hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST") || die "scontrol cannot tell the nodes of job $SLURM_JOB_ID"
    first=${hosts%%$'\n'*}
    nodes=$(wc -l <<<"$hosts")
    processes=${processes:-$(slurm_gpus)}
    again+=(--nodes "$nodes" --processes "$processes" --master "$first:$(choose_port "$first")")
    if [[ $stage != none ]]; then
        files=${files:-$(data_files)}
        again+=(--files "$files")
    fi
    [[ -z $scratch ]] || again+=(--scratch "$scratch")
    case $container in
    apptainer:*) wrapped=(apptainer exec --nv --bind "$PWD,$LAUNCH/.." "${container#*:}") ;;
    pyxis:*) step=(--container-image="${container#*:}" --container-mounts="$PWD:$PWD,$LAUNCH/..:$LAUNCH/.." --container-workdir="$PWD") ;;
    esac
    # Of this attempt of this job; what an attempt said last is remembered under this name (trainer.run_status).
    TRAINER_LAUNCH=${TRAINER_LAUNCH:-$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}.$(date +%s)}
    export TRAINER_LAUNCH
    # Since SLURM 22.05 a step does not take over the job's --cpus-per-task.
    [[ -z ${SLURM_CPUS_PER_TASK:-} ]] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
    # A task has all the cores of its node, which its processes then share; SLURM might bind it to one.
    # The rank is each node's own: it must be read there, not here.
    # shellcheck disable=SC2016
    local line=(srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --overlap --cpu-bind=none --kill-on-bad-exit=1 --label
        "${step[@]}" "${wrapped[@]}"
        bash -c 'exec "$0" --node-rank "$SLURM_NODEID" "$@"' "$LAUNCH/run.sh" "${again[@]}" "${command[@]}")
    say "job $SLURM_JOB_ID: $nodes node(s) of $processes process(es), which meet at $first"
    say "$(shell_line "${line[@]}")"
    [[ -z $dry_run ]] || exit 0
    exec "${line[@]}"
}

# GPUs that SLURM gave each node (batch scripts have the first variable, salloc's shells the second, as 8 or h100:8); without any, one
# process.
slurm_gpus() {
    local gpus=${SLURM_GPUS_ON_NODE:-${SLURM_GPUS_PER_NODE##*:}}
    if [[ $gpus =~ ^[1-9][0-9]*$ ]]; then echo "$gpus"; else echo 1; fi
}

# The recipe's betons.
data_files() { python -m trainer job "${command[@]:1}" --processes "$((${nodes:-1} * processes))" | sed -n 's/^\(train\|val\)=//p'; }

# --- On a node -----------------------------------------------------------------------------------------------------------------

# meet_at HOST: end at once where waiting would be in vain.
check_meeting() {
    local host=${master%:*} port=${master##*:}
    python - "$host" "$port" "$node_rank" <<'PYTHON'
import socket, sys
host, port, rank = sys.argv[1], sys.argv[2], int(sys.argv[3])
def end(message):
    raise SystemExit(f"error: {message}")
if not port.isdigit() or not 0 < int(port) < 65536:
    end(f"--master {host}:{port}: {port} is no port")
try:
    address = socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_STREAM)[0][4]
except OSError as error:
    end(f"{socket.gethostname()} cannot resolve '{host}', where the nodes are to meet ({error.strerror or error}); give --master an IPv4 address")
with socket.socket() as here:
    here.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        here.bind(address)
        mine, why = True, ""
    except OSError as error:
        import errno
        mine, why = error.errno != errno.EADDRNOTAVAIL, error.strerror
if rank == 0 and not mine:
    end(f"{host} ({address[0]}) is not this machine, {socket.gethostname()}, whose rank is 0: the machine of rank 0 is where all meet")
if rank != 0 and mine and not address[0].startswith("127."):
    end(f"{host} is this machine, where all meet: its rank is 0, not {rank}")
if rank != 0 and address[0].startswith("127."):
    end(f"'{host}' is {address[0]} on {socket.gethostname()}, which is itself: give --master an address that others reach")
if rank == 0 and why:
    end(f"port {port} of {host}, where the nodes are to meet, is taken ({why}); give --master {host}:ANOTHER_PORT, or end what uses it")
PYTHON
}

# The network interface by which this node reaches the one where all meet; nothing if that cannot be told.
interface() {
    local address
    command -v ip >/dev/null || return 0
    address=$(getent ahostsv4 "${master%:*}" | awk 'NR == 1 { print $1 }')
    if ((node_rank == 0)) && [[ $address == 127.* ]]; then # its own name for itself only, as Debian has it
        ip -o -4 route show default | sed -n 's/.* dev \([^ ]*\).*/\1/p' | sed -n 1p
    elif ((node_rank == 0)); then
        ip -o -4 addr show | awk -v address="$address" '{ split($4, own, "/") } own[1] == address { print $2 }' | sed -n 1p
    else
        ip -o route get "$address" 2>/dev/null | sed -n 's/.* dev \([^ ]*\).*/\1/p'
    fi
}

# What torch, NCCL and gloo read, and why.
set_environment() {
    local gpus=$1 cores device
    cores=$(nproc)
    # On a CPU the cores are the network's; on GPUs they are the decoding threads', and OpenMP would be in their way.
    if ((gpus)); then : "${OMP_NUM_THREADS:=1}"; else : "${OMP_NUM_THREADS:=$((cores > processes ? cores / processes : 1))}"; fi
    export OMP_NUM_THREADS OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
    # Elastic launchers die of USR1, which SLURM sends before the time is over, unless they are told to hand it on.
    export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1
    # Seconds between a signal and SIGKILL: a save has to fit. SLURM's own are `--signal`, a partition's GraceTime, and KillWait (30).
    export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-60}
    # Processes that are started again would meet at the addresses that those before them left in the launcher's store (pytorch 135712).
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    # Asserted by the trainer: a launcher that starts fewer processes than it was asked for does not say so.
    export TRAINER_WORLD_SIZE=$((${nodes:-1} * processes))
    if [[ ${nodes:-1} -gt 1 ]]; then
        # Both would take the first interface, which may be one that does not leave the machine. InfiniBand is found by NCCL itself.
        device=$(interface) || device=''
        if [[ -n $device ]]; then
            export NCCL_SOCKET_IFNAME=${NCCL_SOCKET_IFNAME:-=$device} GLOO_SOCKET_IFNAME=${GLOO_SOCKET_IFNAME:-$device}
            # By which the others reach this node, whose name they may not know.
            export PET_LOCAL_ADDR=${PET_LOCAL_ADDR:-$(ip -o -4 addr show dev "$device" | awk '{ split($4, own, "/"); print own[1]; exit }')}
        fi
        # How long a dead peer stays unnoticed is the recipe's trainer.timeout; this makes it an error there, not a hang.
        export TORCH_NCCL_ASYNC_ERROR_HANDLING=1
        # The same word on every node, or they do not find each other; and not that of a launch before.
        export PET_RDZV_ID=${TRAINER_LAUNCH:-$master}
    elif ((processes > 1)) || [[ -n ${SLURM_JOB_ID:-} ]]; then
        export PET_STANDALONE=1 # torch's c10d on a port of its own choice
    fi
    export TRAINER_LAUNCH=${TRAINER_LAUNCH:-${master:-$(hostname)}.$$.$(date +%s)}
}

# The accelerate launch line for this node, into `line`.
choose_line() {
    local gpus=$1 config=(--config_file) waiting=300
    line=(accelerate launch)
    if [[ ${nodes:-1} -gt 1 ]]; then
        # Nodes that copy their data come later, and the first may be the last. It is named: torch would not know a host by an address
        # that its own name does not have.
        [[ $stage == none ]] || waiting=7200
        # With c10d the nodes meet again when a process was killed on one of them. Accelerate takes it from the command line only.
        config+=("$LAUNCH/accelerate/multi_node.yaml" --rdzv_backend c10d --num_machines "$nodes" --num_processes "$((nodes * processes))" --machine_rank "$node_rank"
            --main_process_ip "${master%:*}" --main_process_port "${master##*:}" --rdzv_conf "join_timeout=$waiting,read_timeout=$waiting,is_host=$((node_rank == 0))" --max_restarts "$restarts")
    elif ((processes > 1)) || [[ -n ${SLURM_JOB_ID:-} ]]; then
        config+=("$LAUNCH/accelerate/one_node.yaml" --num_processes "$processes" --max_restarts "$restarts")
    elif ((gpus)); then
        config+=("$LAUNCH/accelerate/one_gpu.yaml" --quiet)
    else
        config+=("$LAUNCH/accelerate/cpu.yaml" --quiet)
    fi
    if ((gpus == 0)); then
        export ACCELERATE_USE_CPU=true
    elif owns_node "$gpus"; then
        # Each process on the cores and the memory next to its GPU.
        config+=(--enable_cpu_affinity)
    fi
    line+=("${config[@]}" -m trainer "${command[@]}")
}

# Whether this node has several memories to choose from, and all its cores and GPUs are ours: Accelerate asks for the GPU of a process's
# rank, whatever CUDA_VISIBLE_DEVICES says, and for cores that must be there.
owns_node() {
    [[ -e /sys/devices/system/node/node1 && $(nproc) == "$(nproc --all)" ]] &&
        [[ -z ${CUDA_VISIBLE_DEVICES:-} || $CUDA_VISIBLE_DEVICES == "$(seq -s , 0 "$(($1 - 1))")" ]]
}

run_here() {
    local gpus line staged
    gpus=$(count_gpus)
    if ((gpus == 0)) && [[ ${SLURM_GPUS_ON_NODE:-0} -gt 0 && -z ${ACCELERATE_USE_CPU:-} ]]; then
        die "SLURM gave $SLURM_GPUS_ON_NODE GPU(s) of $(hostname), but nvidia-smi finds none; ACCELERATE_USE_CPU=true trains on its CPU"
    fi
    processes=${processes:-$((gpus > 0 ? gpus : 1))}
    if ((gpus > 0 && processes > gpus)); then die "$processes processes on $(hostname), which has $gpus GPU(s)"; fi
    [[ -z $master || $master == *:* ]] || master=$master:29500
    if [[ ${nodes:-1} -gt 1 ]]; then check_meeting; fi
    set_environment "$gpus"
    if [[ $stage != none ]]; then
        mapfile -t staged <<<"${files:-$(data_files)}"
        if [[ $stage == copy ]]; then : "${scratch:=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}}"; else : "${scratch:=/dev/shm}"; fi
    fi
    choose_line "$gpus"
    say "$(hostname): $(environment_words) $(shell_line "${line[@]}")"
    if [[ $stage != none ]]; then line=(python -m trainer stage "${staged[@]}" --to "$scratch" --how "$stage" -- "${line[@]}"); fi
    [[ -z $dry_run ]] || exit 0
    exec "${line[@]}"
}

# What the line above needs in its environment, to be copied with it.
environment_words() {
    local name words=()
    for name in ACCELERATE_USE_CPU OMP_NUM_THREADS PET_SIGNALS_TO_HANDLE TORCH_ELASTIC_SHUTDOWN_TIMEOUT \
        TORCH_DISABLE_SHARE_RDZV_TCP_STORE PET_STANDALONE PET_LOCAL_ADDR TRAINER_WORLD_SIZE NCCL_SOCKET_IFNAME GLOO_SOCKET_IFNAME; do
        [[ -z ${!name:-} ]] || words+=("$name=${!name}")
    done
    echo "${words[*]}"
}

command=()
parse "$@"
check
use_venv
if in_allocation; then run_in_allocation; else run_here; fi
