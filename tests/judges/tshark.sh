# shellcheck shell=bash
# tshark.sh: a capture on loopback and what Wireshark's dissector says of it.
# Sourced after lib.sh.
#
#   capture_possible            root, tshark there; else prints the reason
#   capture_start FILE [KIB]    packets of $PORT into FILE, at most KIB (40000)
#   capture_stop
#   capture_judge NAME FILE HEADER_MIN DATA_MIN
#                               no malformed PDU, no bad digest, and at least that
#                               many good header and data digests
capture_possible() {
    command -v tshark > /dev/null || { echo "tshark is not installed"; return 1; }
    [ "$(id -u)" -eq 0 ] || { echo "capturing on lo needs root"; return 1; }
}
capture_pid=''
capture_start() {
    local i
    timeout -k 3 500 tshark -q -i lo -f "tcp port $PORT" -B 16 -a "filesize:${2:-40000}" -w "$1" > /dev/null 2> "$1.log" < /dev/null &
    capture_pid=$!
    # dumpcap writes the file's head once it is capturing.
    for i in {1..200}; do
        [ -s "$1" ] && grep -q 'Capturing on' "$1.log" && return 0
        kill -0 $capture_pid 2>/dev/null || break
        nap 0.05
    done
    return 1
}
capture_stop() {
    [ -n "$capture_pid" ] || return 0
    nap 0.5   # what the kernel still holds for the capture
    kill -INT "$capture_pid" 2>/dev/null; wait "$capture_pid" 2>/dev/null
    capture_pid=''
}
capture_judge() {
    local name=$1 file=$2 good_h good_d bad n
    # One pass for all: the tree as text.
    bounded 200 tshark -r "$file" -d "tcp.port==$PORT,iscsi" -Y 'iscsi || _ws.malformed' -V -O iscsi > "$W/decoded" 2> "$W/decode.log" ||
        { fail "$name: decoded" "tshark: exit $?" "$W/decode.log"; return; }
    # The SCSI dissector calls a response malformed that the initiator's
    # allocation length cut short.  That is no fault: such a Data-In has no
    # underflow flag, since nothing that was expected is missing.
    awk '/^Frame / { frame = $2; under = 1 }
        / = U: / { under = ($0 !~ /No residual underflow/) }
        /^\[Malformed Packet/ { if ($0 ~ /: SCSI\]/ && !under) cut++; else print frame, $0 }
        END { print cut + 0 > "'"$W/cut"'" }' "$W/decoded" > "$W/malformed"
    n=$(grep -cE 'Opcode: .*\(0x[0-9a-f]+\)' "$W/decoded")
    if [ "$n" -ge 20 ]; then ok "$name: tshark decodes $n PDUs"
    else fail "$name: tshark decodes PDUs" "only $n" "$W/decode.log"; fi
    if [ ! -s "$W/malformed" ]; then ok "$name: none malformed (beside $(cat "$W/cut") whose data an allocation length cut)"
    else fail "$name: malformed PDUs" "$(wc -l < "$W/malformed")" "$W/malformed"; fi
    good_h=$(grep -c 'HeaderDigest: 0x[0-9a-f]* (Good' "$W/decoded")
    good_d=$(grep -c 'DataDigest: 0x[0-9a-f]* (Good' "$W/decoded")
    grep 'Digest: 0x.*(Bad' "$W/decoded" > "$W/bad"; bad=$(wc -l < "$W/bad")
    if [ "$bad" -ne 0 ]; then fail "$name: digests" "$bad are bad" "$W/bad"; return; fi
    if [ "$good_h" -lt "$3" ] || [ "$good_d" -lt "$4" ]; then
        fail "$name: digests" "only $good_h header and $good_d data digests were seen"
    else
        ok "$name: $good_h header and $good_d data digests, all good"
    fi
}
