#!/usr/bin/env bash
# Our daemon over frames beside our daemon over host sockets, in turns, under our own load generator. Prints
# tables of medians.
#
#   bench/bypass.sh [--ours BINARY] [--rounds N] [--seconds S] [--cells REGEX] [--backends "null memory"]
#                   [--poll busy|adaptive] [--huge] [--idle N] [--verify S] [--out FILE]
#
# The link is a vhost-user socket between the daemon (net_vhost) and the load generator (net_virtio_user), MTU
# 9000; sockets go over loopback. Needs a build with DPDK: cargo build --release --features dpdk, which this
# script makes, and --ours must be one. Frames and buffers lie in ordinary memory unless --huge is given (600 huge
# pages of 2 MiB). One data core on TARGET_CPU; the load and everything else of the daemon on CLIENT_CPU.
set -euo pipefail
cd "$(dirname "$0")"

ours='' rounds=3 seconds=1 cells=. out='' backends='null memory' poll=busy huge=false idle=1000 verify=3
while (($#)); do
    case $1 in
        --ours) ours=$(realpath "$2") ;;
        --rounds) rounds=$2 ;;
        --seconds) seconds=$2 ;;
        --cells) cells=$2 ;;
        --backends) backends=$2 ;;
        --poll) poll=$2 ;;
        --idle) idle=$2 ;;
        --verify) verify=$2 ;;
        --out) out=$2 ;;
        --huge) huge=true; shift; continue ;;
        *) sed -n '2,12p' "$0" >&2; exit 2 ;;
    esac
    shift 2
done

nice -n 10 cargo build --quiet --release --manifest-path ../Cargo.toml -p bench -p iiblockdaemon --features bench/dpdk
bin=../target/release
ours=${ours:-$(realpath "$bin/iiblockdaemon")}
# shellcheck source=targets.sh
. ./targets.sh
out=${out:-results/bypass-$(date -u +%Y%m%dT%H%M%SZ).jsonl}
mkdir -p "$(dirname "$out")"
: >"$out"
target=iqn.2026-11.io.iiblockdaemon:disk0
socket=$run_dir/link
load_huge=() pages=normal
[[ $huge == true ]] && load_huge=(--huge) pages=huge

# write_config KIND BACKEND PORT: KIND is link or loopback.
write_config() {
    local backend="type = \"null\", size = \"${disk_mib}MiB\""
    [[ $2 == memory ]] && backend="type = \"memory\", size = \"${disk_mib}MiB\""
    cat <<CONFIG
[daemon]
state_dir = "$run_dir/state-$1"
[cores]
list = [$target_cpu]
pin = true
poll = "$poll"
[limits]
sessions = 4096
unauthenticated_connections = 4096
login_timeout_s = 120
[memory]
pool_mib_per_core = 512
pages = "$pages"
CONFIG
    if [[ $1 == link ]]; then
        cat <<CONFIG
[dpdk]
memory_mib = 256
huge = $huge
file_prefix = "bench-target"
[[port]]
name = "p0"
type = "dpdk"
vdev = "net_vhost0,iface=$socket"
mtu = 9000
addresses = ["10.9.0.1/24"]
[[portal_group]]
tag = 1
portals = ["10.9.0.1:3260"]
CONFIG
    else
        cat <<CONFIG
[[portal_group]]
tag = 1
portals = ["127.0.0.1:$3"]
CONFIG
    fi
    cat <<CONFIG
[[logical_unit]]
name = "disk0"
block_size = 512
backend = { $backend }
[[target]]
name = "$target"
portal_groups = [1]
[[target.lun]]
lun = 0
unit = "disk0"
CONFIG
}

# start KIND BACKEND
start() {
    local port=0
    [[ $1 == loopback ]] && port=$(free_port)
    mkdir -p "$run_dir/state-$1"
    rm -f "$socket"
    write_config "$1" "$2" "$port" >"$run_dir/$1.toml"
    # Its cores pin themselves; what is left stays beside the load.
    XDG_RUNTIME_DIR=$run_dir taskset -c "$client_cpu,$target_cpu" \
        "$ours" run --config "$run_dir/$1.toml" --log-level warn >"$run_dir/$1.log" 2>&1 &
    daemon_pid=$!
    started+=("$daemon_pid")
    if [[ $1 == link ]]; then
        wait_for "the daemon's socket" test -S "$socket" || {
            cat "$run_dir/$1.log" >&2
            return 1
        }
        way=(--portal 10.9.0.1:3260 --vdev "net_virtio_user0,path=$socket,packed_vq=1,queue_size=1024"
            --local 10.9.0.2/24 --mtu 9000 --spin "${load_huge[@]}")
    else
        wait_for "the daemon's portal" can_connect "$port"
        way=(--portal "127.0.0.1:$port")
    fi
}

stop() {
    kill "$daemon_pid" 2>/dev/null || true
    wait "$daemon_pid" 2>/dev/null || true
    started=()
}

# run_load SECONDS_MAX ARGUMENTS...
run_load() {
    local most=$1
    shift
    XDG_RUNTIME_DIR=$run_dir timeout "$most" "$bin/load" "${way[@]}" --target "$target" --target-pid "$daemon_pid" \
        --cpu "$client_cpu" --target-cpu "$target_cpu" "$@" 2>>"$run_dir/load.log"
}

# name | arguments of load
plan=(
    "4k-randread-1x1|--depth 1"
    "4k-randread-1x32|--depth 32"
    "4k-randwrite-1x32|--depth 32 --reads 0"
    "4k-randread-64x8|--sessions 64 --depth 8"
    "4k-randwrite-64x8|--sessions 64 --depth 8 --reads 0"
    "128k-seqread-1x32|--bytes 131072 --sequential --depth 32"
    "128k-seqread-8x8|--bytes 131072 --sequential --sessions 8 --depth 8"
    "128k-seqwrite-1x32|--bytes 131072 --sequential --depth 32 --reads 0"
)

for ((round = 1; round <= rounds; round++)); do
    for backend in $backends; do
        kinds=(loopback link)
        ((round % 2)) || kinds=(link loopback)
        for kind in "${kinds[@]}"; do
            start "$kind" "$backend"
            # Written once, so that no page is missing later.
            run_load 60 --bytes 131072 --sequential --depth 8 --reads 0 --warm-up 0 --seconds 0.5 >/dev/null ||
                echo "bench: $kind $backend cannot be filled: $(tail -n1 "$run_dir/load.log")" >&2
            for entry in "${plan[@]}"; do
                name=${entry%%|*}
                [[ $name =~ $cells ]] || continue
                read -ra arguments <<<"${entry#*|}"
                run_load $((${seconds%.*} + 60)) --seconds "$seconds" --label="$kind:$backend-$name" \
                    "${arguments[@]}" >>"$out" ||
                    echo "bench: $kind $backend $name round $round failed: $(tail -n1 "$run_dir/load.log")" >&2
            done
            stop
        done
    done
done

machine_facts
echo "link: vhost-user, packed rings, MTU 9000, huge = $huge; poll = $poll; $rounds rounds of $seconds s in turns;" \
    "lines in bench/$out; commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
echo
# The first of each cell is the one to compare with.
for kind in loopback link; do grep "\"label\":\"$kind:" "$out" || true; done | "$bin/table"

if [[ $idle != 0 ]]; then
    echo
    echo "Memory of the daemon, resident, KiB:"
    for kind in loopback link; do
        for what in connections sessions; do
            count=$idle
            # Each session has memory set aside for its first command.
            start "$kind" memory
            run_load 120 --idle "$what" --sessions "$count" --depth 1 --label "$kind:idle-$what" ||
                echo "bench: $kind idle $what failed: $(tail -n1 "$run_dir/load.log")" >&2
            stop
        done
    done
fi

if [[ $verify != 0 ]]; then
    echo
    echo "Every block that was read compared with what was written:"
    start link memory
    run_load 120 --verify --sessions 4 --seconds "$verify" --label link:verify
    stop
fi
