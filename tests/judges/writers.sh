# shellcheck shell=bash
# writers.sh: two qemu-io writers that log what was acknowledged, for the judges
# that kill something.  Sourced after lib.sh.
#
# Each writer owns half of the disk (DISK_MIB, set before) and puts 4-KiB blocks in
# random places, each place once:
#   fua    every write with FUA
#   flush  eight writes without, then SYNCHRONIZE CACHE
# A block's content follows from its place, so that reading back needs no notes.
BLOCKS_HALF=$((DISK_MIB * 256 / 2))
writers=()
pattern_awk='function pattern(block) { return block * 7 % 251 + 1 }'
# commands FIRST_BLOCK KIND SEED: qemu-io commands, every block of the half once
commands() {
    seq "$1" $(($1 + BLOCKS_HALF - 1)) |
        shuf --random-source=<(awk -v s="$3" 'BEGIN { srand(s); for (;;) printf "%c", 1 + int(rand() * 254) }') |
        awk -v kind="$2" "$pattern_awk"'
            { print "write " (kind == "fua" ? "-f " : "") "-P " pattern($1) " " $1 * 4096 " 4096" }
            kind == "flush" && NR % 8 == 0 { print "flush" }'
}
# start_writers URL SEED: both, in the background
start_writers() {
    local kind first=0
    writers=()
    for kind in fua flush; do
        commands $first $kind "$2" > "$W/$kind.cmd"
        first=$BLOCKS_HALF
        : > "$W/$kind.log"
        timeout -k 3 120 stdbuf -oL qemu-io -f raw -t writeback "$1" < "$W/$kind.cmd" > "$W/$kind.log" 2>&1 &
        writers+=($!)
    done
}
# writers_under_way SECONDS: wait until both have 40 acknowledged
writers_under_way() {
    local i
    for ((i = 0; i < $1 * 10; i++)); do
        [ "$(acknowledged fua | wc -l)" -ge 40 ] && [ "$(acknowledged flush | wc -l)" -ge 40 ] && return 0
        kill -0 "${writers[@]}" 2>/dev/null || return 1
        nap 0.1
    done
    return 1
}
end_writers() {
    [ ${#writers[@]} -gt 0 ] || return 0
    # (SIGTERM: timeout passes it on to qemu-io, which SIGKILL would leave alive)
    kill -TERM "${writers[@]}" 2>/dev/null; wait "${writers[@]}" 2>/dev/null
    writers=()
}
# acknowledged KIND: the offsets that have to be there.  qemu-io runs one command
# after the other and says nothing for a flush: it was acknowledged when a later
# write was.
acknowledged() {
    sed -n 's/^.*wrote 4096\/4096 bytes at offset \([0-9]*\)$/\1/p' "$W/$1.log" |
        if [ "$1" = fua ]; then cat; else awk '{ group[n++] = $1 } n == 9 { for (i = 0; i < 8; i++) print group[i]; group[0] = group[8]; n = 1 }'; fi
}
all_acknowledged() { acknowledged fua; acknowledged flush; }
# read_back URL OFFSETS_FILE: sets $read (blocks that could be read) and $lost
# (of those, blocks with another content)
read_back() {
    awk "$pattern_awk"'{ print "read -P " pattern($1 / 4096) " " $1 " 4096" }' "$2" > "$W/read.cmd"
    timeout -k 3 120 qemu-io -r -f raw "$1" < "$W/read.cmd" > "$W/read.log" 2>&1
    read=$(grep -c 'read 4096/4096 bytes' "$W/read.log")
    lost=$(grep -c 'Pattern verification failed' "$W/read.log")
}
