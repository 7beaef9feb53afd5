# Starts and stops the targets that are measured, each pinned to one CPU with a disk in memory.
# Sourced by the scripts beside it. Sets for each: <name>_pid, <name>_portal, <name>_target, <name>_lun.
# shellcheck shell=bash

target_cpu=${TARGET_CPU:-1}
client_cpu=${CLIENT_CPU:-0}
disk_mib=${DISK_MIB:-512}
run_dir=$(mktemp -d /tmp/iiblockdaemon-bench.XXXXXX)
shm_file=/dev/shm/iiblockdaemon-bench.$$
started=()

can_connect() { timeout 1 bash -c ": < /dev/tcp/127.0.0.1/$1"; }

# A port that nobody listens on now.
free_port() {
    local port
    for _ in {1..100}; do
        port=$((20000 + RANDOM % 12000))
        can_connect "$port" 2>/dev/null || { echo "$port"; return 0; }
    done
    return 1
}

# wait_for DESCRIPTION COMMAND...: tries the command for at most 10 s, as fast as it fails.
wait_for() {
    local what=$1 end=$((SECONDS + 10))
    shift
    until "$@" >/dev/null 2>&1; do
        if ((SECONDS >= end)); then
            echo "bench: $what did not become ready" >&2
            return 1
        fi
    done
}

# start_tgt: Debian's tgtd with a control socket of its own, a shm file, digests allowed.
start_tgt() {
    local port control
    port=$(free_port)
    control=$((port % 32000))
    tgt_portal=127.0.0.1:$port
    tgt_target=iqn.2026-11.io.iiblockdaemon:tgt
    tgt_lun=1
    truncate -s "${disk_mib}M" "$shm_file"
    taskset -c "$target_cpu" tgtd -f -C "$control" --iscsi "portal=$tgt_portal" >"$run_dir/tgtd.log" 2>&1 &
    tgt_pid=$!
    started+=("$tgt_pid")
    tgt_admin=(tgtadm -C "$control" --lld iscsi)
    wait_for tgtd "${tgt_admin[@]}" --op show --mode sys
    "${tgt_admin[@]}" --op new --mode target --tid 1 -T "$tgt_target"
    "${tgt_admin[@]}" --op new --mode logicalunit --tid 1 --lun 1 -b "$shm_file"
    "${tgt_admin[@]}" --op bind --mode target --tid 1 -I ALL
    local pair
    # The same freedom that our daemon has, or its small defaults would be measured.
    for pair in HeaderDigest=CRC32C,None DataDigest=CRC32C,None MaxRecvDataSegmentLength=262144 \
        MaxBurstLength=262144 FirstBurstLength=65536 InitialR2T=No MaxOutstandingR2T=4; do
        "${tgt_admin[@]}" --op update --mode target --tid 1 -n "${pair%%=*}" -v "${pair#*=}"
    done
    # Written once, so that no page is missing later.
    dd if=/dev/zero of="$shm_file" bs=1M count="$disk_mib" conv=notrunc status=none
    wait_for "tgtd's portal" can_connect "$port"
}

# start_floor BINARY POLL: kernel sockets and a flat piece of memory, nothing of a target.
start_floor() {
    local port spin=()
    port=$(free_port)
    [[ $2 == busy ]] && spin=(--spin)
    floor_portal=127.0.0.1:$port
    floor_target=iqn.2026-11.io.iiblockdaemon:floor
    floor_lun=0
    "$1" --portal "$floor_portal" --disk-mib "$disk_mib" --cpu "$target_cpu" "${spin[@]}" >"$run_dir/floor.log" 2>&1 &
    floor_pid=$!
    started+=("$floor_pid")
    wait_for "the floor" can_connect "$port"
}

# write_ours_config FILE PORT POLL
write_ours_config() {
    cat >"$1" <<CONFIG
[daemon]
state_dir = "$run_dir/state"
[cores]
list = [$target_cpu]
pin = true
poll = "$3"
[[portal_group]]
tag = 1
portals = ["127.0.0.1:$2"]
[[logical_unit]]
name = "disk0"
block_size = 512
backend = { type = "memory", size = "${disk_mib}MiB" }
[[target]]
name = "iqn.2026-11.io.iiblockdaemon:disk0"
portal_groups = [1]
[[target.lun]]
lun = 0
unit = "disk0"
CONFIG
}

# start_ours BINARY [POLL]
start_ours() {
    local port
    port=$(free_port)
    ours_portal=127.0.0.1:$port
    ours_target=iqn.2026-11.io.iiblockdaemon:disk0
    ours_lun=0
    mkdir -p "$run_dir/state"
    write_ours_config "$run_dir/ours.toml" "$port" "${2:-adaptive}"
    "$1" run --config "$run_dir/ours.toml" --log-level warn >"$run_dir/ours.log" 2>&1 &
    ours_pid=$!
    started+=("$ours_pid")
    wait_for "our daemon" can_connect "$port" || {
        cat "$run_dir/ours.log" >&2
        return 1
    }
}

# prefill TARGET LOAD_BINARY: writes the span that is used once, so that no page is missing later.
prefill() {
    local portal=${1}_portal iqn=${1}_target lun=${1}_lun
    timeout 60 "$2" --portal "${!portal}" --target "${!iqn}" --lun "${!lun}" --cpu "$client_cpu" --target-cpu "$target_cpu" \
        --bytes 131072 --sequential --depth 8 --reads 0 --warm-up 0 --seconds 1 >/dev/null
}

stop_all() {
    local pid
    for pid in "${started[@]}"; do
        kill "$pid" 2>/dev/null || true
        kill -CONT "$pid" 2>/dev/null || true
    done
    for pid in "${started[@]}"; do
        # tgtd does not always go on SIGTERM while sessions were open.
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            kill -0 "$pid" 2>/dev/null || break
            read -rt 0.2 _ <> <(:) || true
        done
        kill -9 "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    started=()
    rm -rf "$run_dir" "$shm_file"
}
trap stop_all EXIT

machine_facts() {
    echo "machine: $(nproc) CPUs, $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n1), kernel $(uname -r), $(date -u +%Y-%m-%dT%H:%MZ)"
    echo "target on CPU $target_cpu, load on CPU $client_cpu, loopback, disk of $disk_mib MiB in memory"
    command -v tgtd >/dev/null && echo "tgt $(dpkg-query -W -f='${Version}' tgt 2>/dev/null)"
    return 0
}
