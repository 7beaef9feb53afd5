#!/usr/bin/env bash
# fio with the libiscsi engine against tgt and our daemon in turns: the load that everyone knows.
#
#   bench/fio.sh [--ours BINARY] [--poll adaptive|busy] [--rounds N] [--seconds S] [--cells REGEX]
#
# One fio thread tops out near 100 000 I/O a second, so look at the target's CPU per I/O. libiscsi has no
# data digest; bench/run.sh measures those. iscsi-perf, the quick stand-in, runs at the end.
set -euo pipefail
cd "$(dirname "$0")"

ours='' poll=adaptive rounds=3 seconds=3 cells=.
while (($#)); do
    case $1 in
        --ours) ours=$(realpath "$2") ;;
        --poll) poll=$2 ;;
        --rounds) rounds=$2 ;;
        --seconds) seconds=$2 ;;
        --cells) cells=$2 ;;
        *) sed -n '2,7p' "$0" >&2; exit 2 ;;
    esac
    shift 2
done

fio=$(./build-fio.sh)
nice -n 10 cargo build --quiet --release --package bench
# shellcheck source=targets.sh
. ./targets.sh
targets=()
if command -v tgtd >/dev/null; then
    start_tgt
    targets+=(tgt)
fi
if [[ -n $ours ]]; then
    start_ours "$ours" "$poll"
    targets+=(ours)
fi

# cpu_ns PID: CPU time of all threads so far.
cpu_ns() {
    local file total=0 run
    for file in /proc/"$1"/task/*/schedstat; do
        read -r run _ <"$file" && total=$((total + run))
    done
    echo "$total"
}

# name | arguments of fio
plan=(
    "4k-randread-qd1|--rw=randread --bs=4k --iodepth=1"
    "4k-randwrite-qd1|--rw=randwrite --bs=4k --iodepth=1"
    "4k-randread-qd32|--rw=randread --bs=4k --iodepth=32"
    "4k-randwrite-qd32|--rw=randwrite --bs=4k --iodepth=32"
    "128k-seqread-qd32|--rw=read --bs=128k --iodepth=32"
    "128k-seqwrite-qd32|--rw=write --bs=128k --iodepth=32"
    "4k-randread-16x8|--rw=randread --bs=4k --iodepth=8 --numjobs=16"
    "4k-randwrite-16x8|--rw=randwrite --bs=4k --iodepth=8 --numjobs=16"
)

for target in "${targets[@]}"; do prefill "$target" ../target/release/load; done

lines=$run_dir/lines
: >"$lines"
for ((round = 1; round <= rounds; round++)); do
    for entry in "${plan[@]}"; do
        name=${entry%%|*}
        [[ $name =~ $cells ]] || continue
        read -ra arguments <<<"${entry#*|}"
        for target in "${targets[@]}"; do
            portal=${target}_portal iqn=${target}_target lun=${target}_lun pid=${target}_pid
            for other in "${targets[@]}"; do
                other_pid=${other}_pid
                if [[ $other == "$target" ]]; then kill -CONT "${!other_pid}"; else kill -STOP "${!other_pid}"; fi
            done
            # Colons of the address and the name are fio's separators unless escaped.
            file="iscsi\\://${!portal/:/\\:}/${!iqn//:/\\:}/${!lun}"
            before=$(cpu_ns "${!pid}")
            # Terse fields (v3): read IOPS 8, total I/O from runtimes; JSON would need another program.
            result=$(timeout $((seconds + 60)) taskset -c "$client_cpu" "$fio" --name=job --thread --group_reporting \
                --ioengine=libiscsi --filename="$file" --size=$((disk_mib / 2))m --time_based --runtime="$seconds" \
                --output-format=terse --terse-version=3 --norandommap --randrepeat=0 "${arguments[@]}" \
                2>/dev/null | grep '^3;') || { echo "bench: fio $target $name failed" >&2; continue; }
            after=$(cpu_ns "${!pid}")
            # Field 6 and 47: KiB read and written; 8 and 49: IOPS; 9 and 50: runtime in ms.
            awk -F';' -v name="$name" -v target="$target" -v cpu=$((after - before)) '{
                iops = $8 + $49; ms = ($9 > $50 ? $9 : $50); ios = iops * ms / 1000
                printf "%s %s %.0f %.2f\n", name, target, iops, (ios > 0 ? cpu / ios / 1000 : 0)
            }' <<<"$result" >>"$lines"
        done
    done
done

median() { sort -g | awk '{ v[NR] = $1 } END { if (NR) print v[int((NR + 1) / 2)]; else print "-" }'; }

machine_facts
echo "$("$fio" --version) with libiscsi; $rounds rounds of $seconds s in turns; poll = $poll"
echo
echo "| cell | target | IOPS | target CPU µs/IO |"
echo "|---|---|---|---|"
for entry in "${plan[@]}"; do
    name=${entry%%|*}
    for target in "${targets[@]}"; do
        rows=$(awk -v n="$name" -v t="$target" '$1 == n && $2 == t' "$lines")
        [[ -n $rows ]] || continue
        echo "| $name | $target | $(awk '{print $3}' <<<"$rows" | median) | $(awk '{print $4}' <<<"$rows" | median) |"
    done
done

for target in "${targets[@]}"; do
    pid=${target}_pid
    kill -CONT "${!pid}"
done
if command -v iscsi-perf >/dev/null; then
    echo
    for target in "${targets[@]}"; do
        portal=${target}_portal iqn=${target}_target lun=${target}_lun
        echo "iscsi-perf $target: $(timeout $((seconds + 20)) taskset -c "$client_cpu" iscsi-perf -m 32 -b 8 -t "$seconds" -r \
            "iscsi://${!portal}/${!iqn}/${!lun}" 2>&1 | tr '\r' '\n' | grep -i 'iops' | tail -n1)"
    done
fi
