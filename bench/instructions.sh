#!/usr/bin/env bash
# Instructions per ordinary 4 KiB READ and WRITE command: of the engine alone (session and SCSI, no sockets, a device
# that copies nothing), the same number in every run of one build to half a percent, so that one can say what a
# change costs; and of a whole core over frames, with its reactor and TCP.
#
#   bench/instructions.sh [COMMIT...]
#
# Without a COMMIT the working tree is counted; each COMMIT is checked out and built beside it, with its own
# bench/src/bin/instructions.rs where it has one. Needs valgrind, whose cachegrind and callgrind count; the
# figure is the difference of two runs with different numbers of commands, divided by the difference. A write
# comes as immediate data, so copying its 4 KiB into the buffer is in the figure; that copy is all that is.
#
# Over frames callgrind counts what happens in bench::lone::targets_turn, so that the initiator in the same thread is
# left out, with as many commands at a time as DEPTHS says ("1 8 32"). Taken out of the figure and shown beside it:
# what the port in memory does in place of a card (copies, checksums), and the zeroes that the null device writes.
#
# The third table is of devices alone, behind a core's own set of them: NVMe by our driver, and the memory disk beside
# it. Counted is what happens in begin and finish of bench/src/bin/nvme.rs, so that the controller, a model in the same
# thread, is left out; what its registers do behind a doorbell is taken out and shown. NVME_DEPTHS ("1 32 128").
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."
FEW=2000 MANY=12000
FRAMES_FEW=1024 FRAMES_MANY=3072
DEPTHS=${DEPTHS:-1 8 32}
NVME_FEW=2048 NVME_MANY=12288
NVME_DEPTHS=${NVME_DEPTHS:-1 32 128}
# Copies are counted as the wide moves that they are: valgrind takes each byte of a "rep movsb" for an instruction.
TUNABLES=glibc.cpu.x86_rep_movsb_threshold=1073741824:glibc.cpu.x86_rep_stosb_threshold=1073741824
PORT='src/port/memory\.rs:<.*memory::End as .*Port>::(receive|transmit|flush) '
TCP='src/net/stack/(mod|egress|flows)\.rs:.*Stack<P>>?::(receive|transmit|send|take|tick) '
REGISTERS='model/mod\.rs:<.*ModelBar as .*Bar>::w32 '
ZEROES='src/mem/buf\.rs:.*DmaBuf::fill '
command -v valgrind >/dev/null || { echo "instructions.sh: valgrind is missing (package valgrind)" >&2; exit 2; }
work=$(mktemp -d "${TMPDIR:-/tmp}/iibd-instructions.XXXXXX")
cleanup() {
    local t
    for t in "$work"/tree-*; do [[ ! -d $t ]] || git worktree remove --force "$t"; done
    rm -rf "$work"
}
trap cleanup EXIT

# refs BINARY WAY COMMANDS: instructions of the whole run
refs() {
    valgrind --tool=cachegrind --cache-sim=no --cachegrind-out-file=/dev/null --log-file="$work/log" \
        "$1" --way "$2" --commands "$3" >/dev/null
    sed -n 's/^.*I \+refs: *//p' "$work/log" | tr -d ,
}
# inside FUNCTIONS LEAST: instructions in these of the last profile, with all that they call; LEAST of them must be
# there by name, for one that was inlined would be missing unseen
inside() {
    awk -v functions="$1" -v least="$2" '
        $0 ~ functions { gsub(/,/, "", $1); sum += $1; found++ }
        END { if (found < least) exit 1; print sum + 0 }' "$work/functions" ||
        { echo "instructions.sh: fewer than $2 functions like $1 in the profile" >&2; return 1; }
}
# turns BINARY WAY COMMANDS DEPTH: instructions of the target's turns: all, the port, TCP with the port, zeroes
turns() {
    GLIBC_TUNABLES=$TUNABLES valgrind --tool=callgrind --toggle-collect=bench::lone::targets_turn \
        --callgrind-out-file="$work/profile" --log-file="$work/log" \
        "$1" --over frames --way "$2" --commands "$3" --depth "$4" >"$work/said"
    callgrind_annotate --inclusive=yes --threshold=100 --auto=no "$work/profile" >"$work/functions" 2>/dev/null
    sed -n 's/^.*Collected : *//p' "$work/log"
    inside "$PORT" 3
    inside "$TCP" 3
    inside "$ZEROES" 0
}
over_frames() { # over_frames NAME BINARY WAY ALONE
    local depth counted few many each i
    for depth in $DEPTHS; do
        counted=$(turns "$2" "$3" $FRAMES_FEW "$depth")
        mapfile -t few <<<"$counted"
        counted=$(turns "$2" "$3" $FRAMES_MANY "$depth")
        mapfile -t many <<<"$counted"
        for i in 0 1 2 3; do each[i]=$(((many[i] - few[i]) / (FRAMES_MANY - FRAMES_FEW))); done
        local core=$((each[0] - each[1] - each[3]))
        echo "| $1, $3 | $depth | $4 | $core | $((core - $4)) | $((each[2] - each[1])) | ${each[1]} | ${each[3]} |" \
            >>"$work/frames"
    done
}
# alone BINARY DEVICE WAY COMMANDS DEPTH: instructions of a core's part: all, and registers of the model
alone() {
    local least=0
    [[ $2 != nvme ]] || least=1
    GLIBC_TUNABLES=$TUNABLES valgrind --tool=callgrind --toggle-collect=nvme::begin --toggle-collect=nvme::finish \
        --callgrind-out-file="$work/profile" --log-file="$work/log" \
        "$1" --only "$2" --way "$3" --commands "$4" --depths "$5" >"$work/said"
    callgrind_annotate --inclusive=yes --threshold=100 --auto=no "$work/profile" >"$work/functions" 2>/dev/null
    sed -n 's/^.*Collected : *//p' "$work/log"
    inside "$REGISTERS" "$least"
}
devices() { # devices NAME BINARY
    local device way depth counted few many each i
    for device in memory nvme; do
        for way in read write; do
            for depth in $NVME_DEPTHS; do
                counted=$(alone "$2" $device $way $NVME_FEW "$depth")
                mapfile -t few <<<"$counted"
                counted=$(alone "$2" $device $way $NVME_MANY "$depth")
                mapfile -t many <<<"$counted"
                for i in 0 1; do each[i]=$(((many[i] - few[i]) / (NVME_MANY - NVME_FEW))); done
                echo "| $1, $device, $way | $depth | $((each[0] - each[1])) | ${each[1]} |" >>"$work/devices"
            done
        done
    done
}
count() { # count NAME TREE
    (cd "$2" && nice -n 10 cargo build --quiet --release --package bench --bin instructions)
    local bin=${CARGO_TARGET_DIR:-$2/target}/release/instructions way few many line="| $1 |"
    for way in read write; do
        few=$(refs "$bin" $way $FEW)
        many=$(refs "$bin" $way $MANY)
        line+=" $(((many - few) / (MANY - FEW))) |"
        if "$bin" --help | grep -q -- --over; then
            over_frames "$1" "$bin" $way $(((many - few) / (MANY - FEW)))
        fi
    done
    echo "$line"
    if [[ -e $2/bench/src/bin/nvme.rs ]]; then
        (cd "$2" && nice -n 10 cargo build --quiet --release --package bench --bin nvme)
        devices "$1" "${bin%/*}/nvme"
    fi
}

echo "| engine | READ (10), 4 KiB | WRITE (10), 4 KiB |"
echo "|---|---|---|"
for commit in "$@"; do
    tree=$work/tree-$commit
    git worktree add --quiet --detach "$tree" "$commit"
    if [[ ! -e $tree/bench/src/bin/instructions.rs ]]; then
        echo "instructions.sh: $commit has no bench/src/bin/instructions.rs" >&2
        exit 2
    fi
    CARGO_TARGET_DIR=$PWD/target count "$commit" "$tree"
done
[[ $# -gt 0 ]] || count "$(git rev-parse --short HEAD)$(git diff --quiet HEAD -- src Cargo.lock || echo +)" "$PWD"
[[ ! -e $work/frames ]] || cat <<END

| core over frames | commands at a time | engine alone | core | added by frames | TCP in it | port in memory | zeroes |
|---|---|---|---|---|---|---|---|
$(cat "$work/frames")
END
[[ ! -e $work/devices ]] || cat <<END

| device alone, 4 KiB | commands at a time | instructions a command | registers of the model |
|---|---|---|---|
$(cat "$work/devices")
END
