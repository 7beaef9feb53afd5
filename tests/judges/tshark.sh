# shellcheck shell=bash
# tshark.sh: a capture on loopback and what Wireshark's dissector says of it.
# Sourced after lib.sh.
#
#   capture_possible            root, tshark there; else prints the reason
#   capture_start FILE [KIB]    packets of $PORT (or CAPTURE_FILTER) on $WIRE_IF or
#                               loopback into FILE, at most KIB (40000)
#   capture_stop
#   capture_judge NAME FILE HEADER_MIN DATA_MIN
#                               no malformed PDU, no bad digest, and at least that
#                               many good header and data digests
#   capture_wire NAME FILE      what passed on a wire: nothing malformed, each checksum
#                               right, nothing sent twice by the subject, but what
#                               was first sent 10 ms ago or longer
capture_possible() {
    command -v tshark > /dev/null || { echo "tshark is not installed"; return 1; }
    [ "$(id -u)" -eq 0 ] || { echo "capturing on lo needs root"; return 1; }
}
capture_pid=''
capture_start() {
    local i
    timeout -k 3 500 tshark -q -i "${WIRE_IF:-lo}" -f "${CAPTURE_FILTER-tcp port $PORT}" -B "${CAPTURE_MIB:-16}" -a "filesize:${2:-40000}" -w "$1" > /dev/null 2> "$1.log" < /dev/null &
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
# TWICE: of a line for each segment with data of the subject's (frame, time in s, stream, number of its
# first byte counted from 1, length, TSval in ms), those that leave bytes out, "hole", and those with bytes
# sent before: "late" where the last of these was first sent "answered" seconds ago or longer, else "soon".
# The time is when the subject says it sent, for a captured frame may have waited for a processor.
TWICE='
    {
        now = $6 == "" ? $2 : $6 / 1000
        if (!($3 in next_byte)) next_byte[$3] = 1
    }
    $4 > next_byte[$3] { print "hole", $0 }
    $4 < next_byte[$3] {
        last = $4 + $5 < next_byte[$3] ? $4 + $5 : next_byte[$3]
        for (i = count[$3]; i > 1 && start[$3, i] >= last; i--);
        print (now - at[$3, i] >= answered ? "late" : "soon"), $0, "first", at[$3, i]
    }
    $4 + $5 > next_byte[$3] {
        count[$3]++
        start[$3, count[$3]] = next_byte[$3]; at[$3, count[$3]] = now; next_byte[$3] = $4 + $5
    }'
capture_wire() {
    local name=$1 file=$2 n twice late zero sums=TRUE
    # A TAP with an offload header carries frames whose sums are still to be filled in.
    [ "$WIRE_KIND" != tap ] || { sums=FALSE; skip "$name: checksums" "the TAP's frames have none yet"; }
    # Linux and DPDK's net_tap write FFFF where 0000 is due, as UDP has it; every receiver takes
    # either (RFC 1624 §3). Not so the subject, where it writes its checksums itself.
    zero="!(tcp.checksum.ffff && tcp.srcport != $PORT)"
    [ "$WIRE_KIND" != net_tap ] || zero='!tcp.checksum.ffff'
    bounded 300 tshark -r "$file" -o tcp.check_checksum:$sums -o ip.check_checksum:$sums -T fields -E separator=' ' -e frame.number -e tcp.srcport \
        -e ip.checksum.status -e tcp.checksum.status -e tcp.checksum -e icmp.checksum.status -e icmpv6.checksum.status \
        -Y "ip.checksum.status == 0 || (tcp.checksum.status == 0 && $zero) || icmp.checksum.status == 0 || icmpv6.checksum.status == 0" \
        > "$W/damaged" 2> "$W/damaged.log" || { fail "$name: decoded" "tshark: exit $?" "$W/damaged.log"; return; }
    bounded 300 tshark -r "$file" -d "tcp.port==$PORT,iscsi" -T fields -E separator=' ' -e frame.number -e tcp.srcport -e _ws.malformed \
        -Y _ws.malformed > "$W/malformed" 2> "$W/damaged.log" || { fail "$name: decoded" "tshark: exit $?" "$W/damaged.log"; return; }
    bounded 300 tshark -r "$file" -T fields -E separator=' ' -e frame.number -e tcp.srcport -e _ws.col.Info \
        -Y 'tcp.analysis.retransmission || tcp.analysis.out_of_order || tcp.analysis.lost_segment || tcp.analysis.duplicate_ack' > "$W/flags" 2>/dev/null
    n=$(capinfos -cM "$file" | sed -n 's/^Number of packets: *//p')
    if [ "${n:-0}" -ge 500 ]; then ok "$name: $n frames"; else fail "$name: frames" "only ${n:-0}"; fi
    # (The SCSI dissector calls a response malformed that an allocation length cut short:
    # capture_judge tells those from others.)
    # Nor is a segment damaged whose bytes were sent before; see below.
    grep -vF -e '[Malformed Packet: SCSI]' -e 'New fragment overlaps old data (retransmission?)' "$W/malformed" >> "$W/damaged"
    if [ ! -s "$W/damaged" ]; then ok "$name: none malformed$([ $sums = FALSE ] || echo ", each checksum right")"
    else fail "$name: malformed or with a wrong checksum" "$(wc -l < "$W/damaged")" "$W/damaged"; fi
    # Nothing is lost on this wire, so only what was not answered for long may be sent again, which
    # happens where this machine had no processor for one of the two ends: the daemon asks after a
    # flight of 20 ms, the kernel sooner (RFC 8985 §7).
    if [ -z "$WIRE_ORDERED" ]; then skip "$name: what was sent twice" "without root the frames change their order"; return; fi
    bounded 300 tshark -r "$file" -Y "tcp.srcport == $PORT && tcp.len > 0" -T fields -E separator=/t -e frame.number -e frame.time_relative \
        -e tcp.stream -e tcp.seq -e tcp.len -e tcp.options.timestamp.tsval > "$W/sent" 2> "$W/damaged.log" ||
        { fail "$name: decoded" "tshark: exit $?" "$W/damaged.log"; return; }
    awk -F '\t' -v answered=0.01 "$TWICE" "$W/sent" > "$W/again"
    twice=$(grep -cv '^late' "$W/again") late=$(grep -c '^late' "$W/again")
    if [ ! -s "$W/sent" ]; then fail "$name: sent twice or out of order by the subject" "none of its segments was seen"
    elif [ "$twice" -eq 0 ] || [ "$WIRE_KIND" = host ]; then
        ok "$name: of $(wc -l < "$W/sent") segments with data the subject sent $twice twice or out of order, and $late again 10 ms and more behind the first time"
    else fail "$name: sent twice or out of order by the subject" "$twice" "$W/again"; fi
    # A probe of the kernel's is one segment and one duplicate ACK; the third duplicate in a row,
    # and what the kernel sends because of it, would be a sign that something is lost.
    grep -E 'Fast Retransmission|Dup ACK [0-9]+#([3-9]|[0-9]{2,})\]' "$W/flags" > "$W/storms"
    twice=$(grep -cE 'Retransmission|Dup ACK' "$W/flags")
    if [ "$WIRE_KIND" != host ] && [ -s "$W/storms" ]; then fail "$name: duplicate ACKs in a row" "$(wc -l < "$W/storms")" "$W/storms"
    elif [ $((twice * 100)) -le "$n" ]; then ok "$name: $twice retransmissions and duplicate ACKs in all, no three in a row"
    else fail "$name: retransmissions and duplicate ACKs" "$twice in $n frames" "$W/flags"; fi
}
