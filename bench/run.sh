#!/usr/bin/env bash
# tgt and our daemon beside each other, in turns, under our own load generator. Prints a table of medians.
#
#   bench/run.sh [--ours BINARY] [--poll adaptive|busy] [--rounds N] [--seconds S] [--cells REGEX]
#                [--targets "tgt floor ours"] [--out FILE]
#
# On a machine with other work run it as root with "chrt -f 1" in front, and keep it short.
#
# Without --ours only tgt and the floor are measured; the floor is what kernel sockets alone cost, with no
# target on them. Cells: 4 KiB random read and write at queue depth 1 and 32, 128 KiB
# sequential, each with 1 and 16 sessions, digests off and on. The raw lines go to --out.
set -euo pipefail
cd "$(dirname "$0")"

ours='' poll=adaptive rounds=3 seconds=2 cells=. out='' wanted='tgt floor ours'
while (($#)); do
    case $1 in
        --ours) ours=$(realpath "$2") ;;
        --poll) poll=$2 ;;
        --rounds) rounds=$2 ;;
        --seconds) seconds=$2 ;;
        --cells) cells=$2 ;;
        --targets) wanted=$2 ;;
        --out) out=$2 ;;
        *) sed -n '2,12p' "$0" >&2; exit 2 ;;
    esac
    shift 2
done

nice -n 10 cargo build --quiet --release --package bench
bin=../target/release
# shellcheck source=targets.sh
. ./targets.sh
out=${out:-results/run-$(date -u +%Y%m%dT%H%M%SZ).jsonl}
mkdir -p "$(dirname "$out")"
: >"$out"

targets=()
if [[ $wanted == *tgt* ]] && command -v tgtd >/dev/null; then
    start_tgt
    targets+=(tgt)
fi
if [[ $wanted == *floor* ]]; then
    start_floor "$bin/floor" "$poll"
    targets+=(floor)
fi
if [[ $wanted == *ours* && -n $ours ]]; then
    start_ours "$ours" "$poll"
    targets+=(ours)
fi

# only TARGET: stops the others, which may poll the CPU that all of them are pinned to.
only() {
    local other pid
    for other in "${targets[@]}"; do
        pid=${other}_pid
        if [[ $other == "$1" ]]; then kill -CONT "${!pid}"; else kill -STOP "${!pid}"; fi
    done
}

# name | arguments of load
plan=(
    "4k-randread-qd1|--depth 1"
    "4k-randwrite-qd1|--depth 1 --reads 0"
    "4k-randread-qd32|--depth 32"
    "4k-randwrite-qd32|--depth 32 --reads 0"
    "4k-70/30-qd32|--depth 32 --reads 70"
    "4k-randread-16x1|--sessions 16 --depth 1"
    "4k-randread-16x8|--sessions 16 --depth 8"
    "4k-randwrite-16x8|--sessions 16 --depth 8 --reads 0"
    "128k-seqread-qd32|--bytes 131072 --sequential --depth 32"
    "128k-seqwrite-qd32|--bytes 131072 --sequential --depth 32 --reads 0"
    "128k-seqread-16x2|--bytes 131072 --sequential --sessions 16 --depth 2"
    "4k-randread-qd32-digests|--depth 32 --header-digest --data-digest"
    "4k-randwrite-qd32-digests|--depth 32 --reads 0 --header-digest --data-digest"
    "128k-seqread-qd32-digests|--bytes 131072 --sequential --depth 32 --header-digest --data-digest"
    "128k-seqwrite-qd32-digests|--bytes 131072 --sequential --depth 32 --reads 0 --header-digest --data-digest"
)

for target in "${targets[@]}"; do prefill "$target" "$bin/load"; done

for ((round = 1; round <= rounds; round++)); do
    for entry in "${plan[@]}"; do
        name=${entry%%|*}
        [[ $name =~ $cells ]] || continue
        read -ra arguments <<<"${entry#*|}"
        # In turns, and each round begins with another one, so that none always comes after the other.
        shift_by=$((round % ${#targets[@]}))
        order=("${targets[@]:shift_by}" "${targets[@]:0:shift_by}")
        for target in "${order[@]}"; do
            portal=${target}_portal iqn=${target}_target lun=${target}_lun pid=${target}_pid
            only "$target"
            timeout $((${seconds%.*} + 60)) "$bin/load" --portal "${!portal}" --target "${!iqn}" --lun "${!lun}" \
                --target-pid "${!pid}" --cpu "$client_cpu" --target-cpu "$target_cpu" \
                --seconds "$seconds" --label="$target:$name" "${arguments[@]}" >>"$out" ||
                echo "bench: $target $name round $round failed" >&2
        done
    done
done

machine_facts
echo "$rounds rounds of $seconds s in turns; poll = $poll; lines in bench/$out; commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
echo
# The first target of each cell is the one to compare with.
for target in "${targets[@]}"; do grep "\"label\":\"$target:" "$out" || true; done | "$bin/table"
