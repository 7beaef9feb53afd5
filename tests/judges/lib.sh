# shellcheck shell=bash
# lib.sh: what every judge shares.  Sourced, bash.
#
# The subject is the daemon under test.  IIBD_SUBJECT=daemon (default) starts
# IIBD_BIN (default target/release/iiblockdaemon); IIBD_SUBJECT=tgt starts
# Debian's tgtd in its place, to prove the judges themselves.  Each judge
# describes its targets, starts its own subject on a free loopback port with its
# own directory, and ends it; nothing is shared between judges.  With IIBD_WIRE the
# subject is at the other end of an Ethernet link instead: see wire.sh.
#
#   judge NAME                  begin: makes the directory $W, arms the cleaning up
#   subject_target NAME [KEY=VALUE...]
#                               backend=memory|file|null size=MIB block_size=N
#                               read_only=true removable=true explicit_alua=true
#                               long_cdbs=true (the unit)
#                               lun_read_only=true (its mapping) chap=USER:SECRET
#                               also=NAME (another target's unit as the next LUN)
#                               mutual=USER:SECRET header_digest=optional|required|off
#   subject_start               write the configuration, start, wait until it
#                               is ready for logins; sets $PORT, $SUBJECT_PID; with
#                               PORTALS=2 a portal group 2 at $PORT2
#   subject_stop [SECONDS]      SIGTERM, then wait for the end
#   subject_kill                SIGKILL and reap
#   subject_again               start once more: same port, same state and files
#   iqn NAME, url NAME [QUERY], url2 NAME (by $PORT2), file_of NAME, $LUN, $HOST
#   ok NAME | fail NAME WHY [LOG] | skip NAME REASON
#   check NAME COMMAND...       ok or fail by the exit status, output on failure
#   judge_end                   sum up; the exit status of the judge
#
# Every external command is bounded: `bounded SECONDS COMMAND...`.
set -uo pipefail
export LC_ALL=C

JUDGES=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$JUDGES/../.." && pwd)
IIBD_SUBJECT=${IIBD_SUBJECT:-daemon}
IIBD_BIN=${IIBD_BIN:-$ROOT/target/release/iiblockdaemon}
IIBD_CACHE=${IIBD_CACHE:-${HOME:-/root}/.cache/iiblockdaemon}
PATH=$PATH:/usr/sbin:/sbin
INITIATOR=iqn.1993-08.org.debian:01:judge
# Where the subject is, as a URL has it, and what starts a program beside it.
HOST=127.0.0.1 BESIDE=()
# shellcheck source=wire.sh
[ -z "${IIBD_WIRE:-}" ] || . "$JUDGES/wire.sh"

# ------------------------------------------------------------------ results --
passed=0 failed=0 skipped=0
ok()   { passed=$((passed + 1)); echo "ok   $JUDGE: $1"; }
skip() { skipped=$((skipped + 1)); echo "skip $JUDGE: $1 ($2)"; }
fail() { # fail NAME WHY [LOG]
    failed=$((failed + 1)); echo "FAIL $JUDGE: $1: $2"
    [ -z "${3:-}" ] || { tail -n 25 "$3" | sed 's/^/     | /'; }
}
check() { # check NAME COMMAND...
    local name=$1 rc=0; shift
    "$@" > "$W/check.log" 2>&1 || rc=$?
    if [ $rc -eq 0 ]; then ok "$name"; else fail "$name" "exit $rc" "$W/check.log"; return 1; fi
}
bounded() { timeout -k 3 "$@" < /dev/null; }
# nap SECONDS: between two looks in a bounded loop (no process is started).
nap() { read -r -t "$1" <> <(:) || true; }

judge() { # judge NAME
    JUDGE=${IIBD_WIRE:+$IIBD_WIRE/}$1
    W=$(mktemp -d "${TMPDIR:-/tmp}/iibd-judge.XXXXXX")
    SHM=''
    SUBJECT_PID='' PORT='' PORT2='' TARGETS=()
    trap judge_cleanup EXIT
    trap 'exit 143' TERM; trap 'exit 130' INT
    [ -z "${IIBD_WIRE:-}" ] || wire_possible > "$W/why" || { skip "all" "$(cat "$W/why")"; judge_end; }
    case $IIBD_SUBJECT in
    daemon) LUN=0
        [ -x "$IIBD_BIN" ] || { fail "start" "no executable $IIBD_BIN (cargo build --release)"; judge_end; } ;;
    tgt)    LUN=1 ;;
    *)      fail "start" "IIBD_SUBJECT=$IIBD_SUBJECT is neither daemon nor tgt"; judge_end ;;
    esac
    [ -z "${IIBD_WIRE:-}" ] || wire_up > "$W/wire.log" 2>&1 || { fail "start" "no wire $IIBD_WIRE" "$W/wire.log"; judge_end; }
}
judge_cleanup() {
    local rc=$?
    [ -z "$SUBJECT_PID" ] || { kill -9 "$SUBJECT_PID" 2>/dev/null; wait "$SUBJECT_PID" 2>/dev/null; }
    [ -z "${JUDGE_LATER:-}" ] || eval "$JUDGE_LATER"
    if [ -n "${IIBD_KEEP:-}" ]; then echo "kept: $W $SHM"; else rm -rf "$W" ${SHM:+"$SHM"}; fi
    exit $rc
}
judge_end() {
    echo "$JUDGE: $passed passed, $failed failed, $skipped skipped"
    [ -z "${IIBD_TOTALS:-}" ] || echo "${JUDGE#"${IIBD_WIRE:+$IIBD_WIRE/}"} $passed $failed $skipped" >> "$IIBD_TOTALS"
    [ $failed -eq 0 ]
    exit $?
}

# ------------------------------------------------------------------ subject --
iqn() { echo "iqn.2026-11.io.iiblockdaemon:$1"; }
# spec NAME KEY [DEFAULT]: a value given to subject_target
spec() {
    local t
    for t in "${TARGETS[@]}"; do
        [ "${t%% *}" = "$1" ] || continue
        case " $t " in *" $2="*) t=${t#*" $2="}; echo "${t%% *}"; return ;; esac
    done
    echo "${3:-}"
}
subject_target() { TARGETS+=("$*"); }
file_of() {
    if [ "$(spec "$1" backend memory)" = file ]; then echo "$W/state/$1.img"
    elif [ "$IIBD_SUBJECT" = tgt ]; then echo "$SHM/$1.img"
    fi
}
url() { # url NAME [QUERY]
    local cred; cred=$(spec "$1" chap)
    echo "iscsi://${cred:+${cred%%:*}%${cred#*:}@}$HOST:$PORT/$(iqn "$1")/$LUN${2:+?$2}"
}
url2() { local PORT=$PORT2; url "$@"; }
listening() { # listening PORT: is anyone on this TCP port? (no connection is made)
    local hex; hex=$(printf ':%04X' "$1")
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk -v p="$hex" '$4 == "0A" && substr($2, length($2) - 4) == p { f = 1 } END { exit !f }'
}
# free_port: below the range that the kernel hands out to connecting sockets.
free_port() {
    local p i
    for i in {1..100}; do
        p=$(( 20000 + (RANDOM * 32768 + RANDOM) % 12000 ))
        listening $p || { echo $p; return; }
    done
    return 1
}

subject_start() {
    local try
    mkdir -p "$W/state"
    for try in 1 2 3; do
        PORT=$(free_port) || break
        PORT2=''
        if [ "${PORTALS:-1}" -gt 1 ]; then
            until PORT2=$(free_port) && [ "$PORT2" != "$PORT" ]; do :; done
        fi
        "subject_config_$IIBD_SUBJECT"
        subject_again && return 0
        grep -qi 'address already in use\|EADDRINUSE' "$W/subject.log" || break
    done
    fail "start" "the subject did not become ready" "$W/subject.log"
    judge_end
}
subject_again() {
    : > "$W/subject.log"
    "subject_launch_$IIBD_SUBJECT"
}
# Wait for the end of the subject, SECONDS at most; sets $SUBJECT_STATUS.
subject_wait() {
    local i
    for (( i = 0; i < $1 * 20; i++ )); do
        if ! kill -0 "$SUBJECT_PID" 2>/dev/null; then
            SUBJECT_STATUS=0; wait "$SUBJECT_PID" || SUBJECT_STATUS=$?
            SUBJECT_PID=''
            return 0
        fi
        nap 0.05
    done
    return 1
}
# (tgtd ignores SIGTERM while it has targets.)
subject_stop() {
    if [ "$IIBD_SUBJECT" = tgt ]; then subject_kill; SUBJECT_STATUS=0; return; fi
    kill -TERM "$SUBJECT_PID" && subject_wait "${1:-15}"
}
subject_kill() { kill -9 "$SUBJECT_PID"; wait "$SUBJECT_PID" 2>/dev/null; SUBJECT_PID=''; }

# ---- the daemon itself
subject_config_daemon() {
    local t name backend cred kv
    {   echo "[daemon]"
        echo "state_dir = \"$W/state\""
        echo "shutdown_timeout_s = ${SHUTDOWN_TIMEOUT_S:-10}"
        echo "[cores]"
        echo "count = ${CORES:-1}"
        [ -z "${LOGIN_TIMEOUT_S:-}" ] || printf '[limits]\nlogin_timeout_s = %s\n' "$LOGIN_TIMEOUT_S"
        [ -z "${METRICS:-}" ] || printf '[metrics]\nlisten = "%s"\n' "$METRICS"
        echo "[[portal_group]]"
        echo "tag = 1"
        echo "portals = [\"$HOST:$PORT\"${HOST_BESIDE:+, \"$HOST_BESIDE:$PORT\"}]"
        [ -z "$PORT2" ] || printf '[[portal_group]]\ntag = 2\nportals = ["%s:%s"]\n' "$HOST" "$PORT2"
        [ -z "${IIBD_WIRE:-}" ] || wire_config
        for t in "${TARGETS[@]}"; do
            name=${t%% *} backend=$(spec "$name" backend memory)
            echo "[[logical_unit]]"
            echo "name = \"$name\""
            echo "block_size = $(spec "$name" block_size 512)"
            for kv in read_only removable physical_block_size explicit_alua long_cdbs; do
                [ -z "$(spec "$name" $kv)" ] || echo "$kv = $(spec "$name" $kv)"
            done
            if [ "$backend" = file ]; then
                kv=$(spec "$name" engine)
                echo "backend = { type = \"file\", path = \"$(file_of "$name")\", size = \"$(spec "$name" size 64)MiB\"${kv:+, engine = \"$kv\"} }"
            else
                echo "backend = { type = \"$backend\", size = \"$(spec "$name" size 64)MiB\" }"
            fi
            echo "[[target]]"
            echo "name = \"$(iqn "$name")\""
            echo "portal_groups = [1${PORT2:+, 2}]"
            kv=$(spec "$name" header_digest)
            [ -z "$kv" ] || printf 'header_digest = "%s"\n' "$kv"
            cred=$(spec "$name" chap)
            echo "[target.auth]"
            if [ -n "$cred" ]; then
                printf 'method = "chap"\nuser = "%s"\nsecret = "%s"\n' "${cred%%:*}" "${cred#*:}"
                kv=$(spec "$name" mutual)
                [ -z "$kv" ] || printf 'mutual_user = "%s"\nmutual_secret = "%s"\n' "${kv%%:*}" "${kv#*:}"
            else
                echo 'method = "none"'
            fi
            echo "[[target.lun]]"
            echo "lun = $LUN"
            echo "unit = \"$name\""
            [ -z "$(spec "$name" lun_read_only)" ] || echo "read_only = true"
            kv=$(spec "$name" also)
            [ -z "$kv" ] || printf '[[target.lun]]\nlun = %s\nunit = "%s"\n' $((LUN + 1)) "$kv"
        done
    } > "$W/config.toml"
    chmod 600 "$W/config.toml"
}
subject_launch_daemon() {
    local i
    "${BESIDE[@]}" "$IIBD_BIN" run --config "$W/config.toml" >> "$W/subject.log" 2>&1 < /dev/null &
    SUBJECT_PID=$!
    for i in {1..200}; do
        [ -z "${IIBD_WIRE:-}" ] || wire_attach
        ! grep -q "ready for logins" "$W/subject.log" || return 0
        kill -0 "$SUBJECT_PID" 2>/dev/null || break
        nap 0.05
    done
    kill -9 "$SUBJECT_PID" 2>/dev/null; wait "$SUBJECT_PID" 2>/dev/null; SUBJECT_PID=''
    return 1
}

# ---- tgt in its place (tid and account by position)
subject_config_tgt() { SHM=$(mktemp -d /dev/shm/iibd-judge.XXXXXX); export TGT_IPC_SOCKET=$W/tgt-ipc; }
tgt() { bounded 10 tgtadm -C $((PORT % 30000)) --lld iscsi "$@"; }
subject_launch_tgt() {
    local i t name f cred tid=0
    "${BESIDE[@]}" tgtd -f -C $((PORT % 30000)) --iscsi portal="$HOST:$PORT" >> "$W/subject.log" 2>&1 < /dev/null &
    SUBJECT_PID=$!
    for i in {1..100}; do
        tgt --op show --mode sys > /dev/null 2>&1 && break
        kill -0 "$SUBJECT_PID" 2>/dev/null || return 1
        nap 0.05
    done
    {   for t in "${TARGETS[@]}"; do
            name=${t%% *} tid=$((tid + 1)) f=$(file_of "$name")
            [ -e "$f" ] || truncate -s "$(spec "$name" size 64)M" "$f"
            tgt --op new --mode target --tid $tid -T "$(iqn "$name")" &&
            tgt --op update --mode target --tid $tid -n HeaderDigest -v "$([ "$(spec "$name" header_digest)" = required ] && echo CRC32C || echo None,CRC32C)" &&
            tgt --op update --mode target --tid $tid -n DataDigest -v None,CRC32C &&
            tgt --op update --mode target --tid $tid -n InitialR2T -v No &&
            tgt --op new --mode logicalunit --tid $tid --lun $LUN -b "$f" &&
            tgt --op update --mode logicalunit --tid $tid --lun $LUN --params thin_provisioning=1 || return 1
            cred=$(spec "$name" chap)
            if [ -n "$cred" ]; then
                tgt --op new --mode account --user "${cred%%:*}" --password "${cred#*:}"
                tgt --op bind --mode account --tid $tid --user "${cred%%:*}"
            fi
            cred=$(spec "$name" mutual)
            if [ -n "$cred" ]; then
                tgt --op new --mode account --user "${cred%%:*}" --password "${cred#*:}"
                tgt --op bind --mode account --tid $tid --user "${cred%%:*}" --outgoing
            fi
            tgt --op bind --mode target --tid $tid -I ALL || return 1
        done
    } >> "$W/subject.log" 2>&1
}
