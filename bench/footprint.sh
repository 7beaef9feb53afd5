#!/usr/bin/env bash
# Start-up time to the first accepted login, resident memory with 64 idle sessions, idle CPU and stop time.
#
#   bench/footprint.sh --ours BINARY [--sessions N] [--rounds N]
#
# The pools that the configuration asks for (256 MiB a core by default) are part of the resident memory once
# they are touched; so is the memory disk.
set -euo pipefail
cd "$(dirname "$0")"

ours='' sessions=64 rounds=3
while (($#)); do
    case $1 in
        --ours) ours=$(realpath "$2") ;;
        --sessions) sessions=$2 ;;
        --rounds) rounds=$2 ;;
        *) sed -n '2,7p' "$0" >&2; exit 2 ;;
    esac
    shift 2
done
[[ -n $ours ]] || { sed -n '2,7p' "$0" >&2; exit 2; }

nice -n 10 cargo build --quiet --release --package bench
# shellcheck source=targets.sh
. ./targets.sh
machine_facts
for ((round = 1; round <= rounds; round++)); do
    port=$(free_port)
    mkdir -p "$run_dir/state"
    write_ours_config "$run_dir/ours.toml" "$port" adaptive
    timeout 120 ../target/release/footprint --portal "127.0.0.1:$port" --target iqn.2026-11.io.iiblockdaemon:disk0 \
        --sessions "$sessions" -- "$ours" run --config "$run_dir/ours.toml" --log-level warn
done
