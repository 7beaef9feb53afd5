# shellcheck shell=bash
# wire.sh: the subject at the other end of an Ethernet link, in place of loopback.
# lib.sh sources it when IIBD_WIRE is set, which says what the link is:
#
#   KIND-MTU[-qN][-vlan][-v6][-huge]
#     host        sockets of the kernel at the far end: proves the judges
#     af_packet   DPDK's net_af_packet on the far end of a veth pair
#     net_tap     DPDK's net_tap (MTU 1500 only)
#     tap         the daemon's own TAP port, without DPDK
#     -qN         N queues, a data core each (1)
#     -vlan       VLAN 7, priority 5
#     -v6         IPv6 addresses in the URLs (there are both kinds always)
#     -huge       hugepages, reserved for the time of the judge and given back;
#                 otherwise DPDK runs with --no-huge
#   as in  IIBD_WIRE=af_packet-9000-q2 tests/judges/qemu
#
# The judge runs in a network namespace of its own, with a private /sys, and is the
# near end: interface $WIRE_IF, 10.77.0.1 and fd77::1.  A veth's far end is in a second
# namespace, which has no address, so that no kernel answers for the subject.  All of it
# is gone when the judge has ended, killed or not: nothing of it has a name outside.
# Root is not needed where the kernel allows user namespaces (then no -huge).
#
#   wire_possible     what is missing for this wire, if anything
#   wire_config       the port's part of the configuration
#   wire_attach       the near end, once it exists
#   $HOST, $HOST4, $HOST6 (bare), $WIRE_IF, $WIRE_MTU, $WIRE_LINK (under the VLAN)
IFS=- read -r WIRE_KIND WIRE_MTU WIRE_MORE <<< "$IIBD_WIRE"
WIRE_QUEUES=1 WIRE_VLAN='' WIRE_V6='' WIRE_HUGE=''
for word in ${WIRE_MORE//-/ }; do
    case $word in
    q[1-9]) WIRE_QUEUES=${word#q} ;;
    vlan)   WIRE_VLAN=7 ;;
    v6)     WIRE_V6=1 ;;
    huge)   WIRE_HUGE=192 ;;
    *)      echo "wire: $word in IIBD_WIRE=$IIBD_WIRE is unknown" >&2; exit 2 ;;
    esac
done
case $WIRE_KIND in
host | af_packet | tap | net_tap) ;;
*) echo "wire: IIBD_WIRE=$IIBD_WIRE is of no kind that is known" >&2; exit 2 ;;
esac
[[ $WIRE_MTU =~ ^[0-9]{3,5}$ ]] || { echo "wire: IIBD_WIRE=$IIBD_WIRE has no MTU" >&2; exit 2; }
CORES=$WIRE_QUEUES
HOST4=10.77.0.2 HOST6=fd77::2
HOST=$HOST4 HOST_BESIDE="[$HOST6]"
[ -z "$WIRE_V6" ] || { HOST="[$HOST6]" HOST_BESIDE=$HOST4; }
WIRE_LINK=iibdnear WIRE_FAR=iibdfar
WIRE_IF=$WIRE_LINK${WIRE_VLAN:+.$WIRE_VLAN}
case $WIRE_KIND in
af_packet | net_tap) IIBD_BIN=${IIBD_DPDK_BIN:-$ROOT/target/dpdk/release/iiblockdaemon} ;;
esac

wire_possible() {
    local tool
    for tool in ip ethtool unshare nsenter setpriv; do
        command -v $tool > /dev/null || { echo "$tool is not installed"; return 1; }
    done
    wire_own_network true 2> /dev/null || { echo "no network namespace may be made here"; return 1; }
    case $WIRE_KIND in
    af_packet | net_tap)
        # (The executable is there where libdpdk was when everything was built.)
        [ -x "$IIBD_BIN" ] || { echo "no $IIBD_BIN: built with feature dpdk, which wants libdpdk-dev and libclang-dev"; return 1; } ;;
    esac
    case $WIRE_KIND in
    tap | net_tap) [ -c /dev/net/tun ] || { echo "no /dev/net/tun"; return 1; } ;;
    esac
    # shellcheck disable=SC2016
    [ -z "$WIRE_VLAN" ] || wire_own_network sh -c 'ip link add d type dummy || ip link add d type veth
        ip link add link d name v type vlan id 7' 2> /dev/null ||
        { echo "this kernel has no VLAN devices; tests/vm/bypass-nic has that part"; return 1; }
    [ -z "$WIRE_HUGE" ] || [ -w /proc/sys/vm/nr_hugepages ] || { echo "hugepages cannot be reserved here"; return 1; }
}
# wire_own_network COMMAND...: in new namespaces; without root, in a user namespace too.
wire_own_network() {
    local new=(unshare --net --mount)
    [ "$(id -u)" -eq 0 ] || new+=(--map-root-user)
    # /sys shows the devices of the namespace that mounted it.
    # shellcheck disable=SC2016
    "${new[@]}" -- sh -c 'mount -t sysfs none /sys && exec "$@"' sh "$@"
}
if [ "${IIBD_WIRE_INSIDE:-}" != "$IIBD_WIRE" ] && wire_possible > /dev/null; then
    export IIBD_WIRE_INSIDE=$IIBD_WIRE
    wire_own_network "$BASH" "$0" "$@"
    exit
fi

# wire_up: the link, and the namespace of its far end.  Both namespaces end with the
# processes in them, which end with the judge: `cat` at the end of its input, the
# subject by the signal that it gets when its parent is gone.
wire_up() {
    ip link set lo up
    # A window that the kernel's queue between the two ends has room for (netdev_max_backlog).
    echo '4096 131072 1048576' > /proc/sys/net/ipv4/tcp_rmem
    echo '4096 131072 1048576' > /proc/sys/net/ipv4/tcp_wmem
    if [ -n "$WIRE_HUGE" ]; then
        coproc WIRE_PAGES { wire_pages; }
        read -r -t 30 _ <&"${WIRE_PAGES[0]}" || { echo "wire: no hugepages"; return 1; }
    fi
    BESIDE=(setpriv --pdeathsig KILL)
    case $WIRE_KIND in
    tap | net_tap) return 0 ;;   # (the near end comes with the subject)
    esac
    # shellcheck disable=SC2016
    coproc WIRE_NAMESPACE { exec unshare --net --mount -- sh -c 'mount -t sysfs none /sys && echo ready && exec cat'; }
    read -r -t 10 _ <&"${WIRE_NAMESPACE[0]}" || return 1
    BESIDE+=(nsenter --net --mount --target "$WIRE_NAMESPACE_PID")
    ip link add $WIRE_LINK address 02:00:4d:00:00:01 numtxqueues "$WIRE_QUEUES" numrxqueues "$WIRE_QUEUES" mtu "$WIRE_MTU" type veth \
        peer name $WIRE_FAR address 02:00:4d:00:00:02 numtxqueues "$WIRE_QUEUES" numrxqueues "$WIRE_QUEUES" mtu "$WIRE_MTU" \
        netns "$WIRE_NAMESPACE_PID" || return 1
    wire_far sh -c 'echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6'
    wire_far ip link set lo up
    wire_far ip link set $WIRE_FAR up || return 1
    wire_far sh -c "$(declare -f wire_in_order); wire_in_order $WIRE_FAR" 2> /dev/null
    [ "$WIRE_KIND" != host ] || wire_kernel_far || return 1
    wire_attach
}
# wire_in_order INTERFACE: frames are received by one processor.  A kernel that sends from two
# has them received by both, each at its own pace, and no real wire changes their order.
# Only root may say so: without, $WIRE_ORDERED stays empty.
wire_in_order() {
    for queue in /sys/class/net/"$1"/queues/rx-*; do
        printf '%x' $((1 << ($(nproc) - 1) % 32)) > "$queue/rps_cpus" || return 1
    done
}
wire_far() { nsenter --net --mount --target "$WIRE_NAMESPACE_PID" "$@"; }
# wire_kernel_far: the far end's kernel is the subject's network.
wire_kernel_far() {
    local far=$WIRE_FAR
    wire_far sh -c 'echo 0 > /proc/sys/net/ipv6/conf/all/disable_ipv6'
    wire_far ethtool -K $WIRE_FAR tx off tso off gso off > /dev/null || return 1
    if [ -n "$WIRE_VLAN" ]; then
        far=$WIRE_FAR.$WIRE_VLAN
        wire_far ip link add link $WIRE_FAR name "$far" type vlan id "$WIRE_VLAN" || return 1
        wire_far ip link set "$far" up || return 1
    fi
    wire_far ip addr add $HOST4/24 dev "$far" && wire_far ip addr add $HOST6/64 dev "$far" nodad
}
# wire_attach: addresses of the near end, and no offloads: a frame that its kernel leaves
# unfinished would be what no real wire carries.
WIRE_ATTACHED='' WIRE_ORDERED=''
wire_attach() {
    [ -e /sys/class/net/$WIRE_LINK ] || { WIRE_ATTACHED=''; return 0; }
    [ -z "$WIRE_ATTACHED" ] || return 0
    # (The daemon's own TAP port finishes them by the header that comes with each frame.)
    [ "$WIRE_KIND" = tap ] || ethtool -K $WIRE_LINK tx off tso off gso off > /dev/null 2>&1
    ! wire_in_order $WIRE_LINK 2> /dev/null || WIRE_ORDERED=1
    {   ip link set $WIRE_LINK mtu "$WIRE_MTU" && ip link set $WIRE_LINK up &&
        { [ -z "$WIRE_VLAN" ] || {
            ip link add link $WIRE_LINK name $WIRE_IF type vlan id "$WIRE_VLAN" egress-qos-map 0:5 &&
            ip link set $WIRE_IF mtu "$WIRE_MTU" up; }; } &&
        ip addr add 10.77.0.1/24 dev "$WIRE_IF" && ip addr add fd77::1/64 dev "$WIRE_IF" nodad
    } > "$W/attach.log" 2>&1 || { echo "wire: the near end could not be set up"; cat "$W/attach.log"; return 1; }
    WIRE_ATTACHED=1
}
# wire_config: the port, in the daemon's configuration.
wire_config() {
    local frames=1024 addresses="addresses = [\"$HOST4/24\", \"$HOST6/64\"]"
    [ "$WIRE_KIND" != host ] || return 0
    case $WIRE_KIND in
    af_packet | net_tap)
        printf '[dpdk]\nmemory_mib = 320\nfile_prefix = "judge%s"\n' $$
        [ -n "$WIRE_HUGE" ] || echo "huge = false" ;;
    esac
    printf '[[port]]\nname = "wire"\nqueues = %s\nmtu = %s\n' "$WIRE_QUEUES" "$WIRE_MTU"
    # A ring's frame has room for a packet and what stands before it; without root the kernel
    # maps no rings of more than 256 of these.
    [ "$(id -u)" -eq 0 ] && [ "$(awk '{ print $3 }' /proc/self/uid_map)" -gt 1 ] || frames=256
    case $WIRE_KIND in
    af_packet) echo 'type = "dpdk"'
        echo "vdev = \"net_af_packet0,iface=$WIRE_FAR,qpairs=$WIRE_QUEUES,qdisc_bypass=1,framesz=16384,blocksz=65536,framecnt=$frames\"" ;;
    net_tap) echo 'type = "dpdk"'; echo "vdev = \"net_tap0,iface=$WIRE_LINK\"" ;;
    tap)     echo 'type = "tap"'; echo "device = \"$WIRE_LINK\"" ;;
    esac
    if [ -z "$WIRE_VLAN" ]; then echo "$addresses"
    else printf '[[port.vlan]]\nid = %s\npcp = 5\n%s\n' "$WIRE_VLAN" "$addresses"; fi
}
# wire_pages: reserves hugepages, says so, and gives them back when its input ends.
wire_pages() {
    local old
    old=$(cat /proc/sys/vm/nr_hugepages)
    trap '' TERM INT HUP
    echo $((old + WIRE_HUGE)) > /proc/sys/vm/nr_hugepages
    [ "$(cat /proc/sys/vm/nr_hugepages)" -lt $((old + WIRE_HUGE)) ] || echo ready
    cat > /dev/null
    echo "$old" > /proc/sys/vm/nr_hugepages
}
