#!/bin/bash
# run-vm.sh [OPTION...] SCRIPT [ARG...]
#
# Boots a test machine (image: build-image.sh), runs SCRIPT in it as root, prints
# its output and returns its exit status.  Emulation only (TCG): no /dev/kvm, no
# privileges of the host.  The root disk is opened behind a throw-away overlay,
# so any number of machines may run at once and nothing that one does lasts,
# except in --out DIR and on --disk FILE.
#
#   --cache DIR       image directory    (${IIBD_CACHE:-~/.cache/iiblockdaemon}/vm)
#   --timeout SEC     end the machine after SEC seconds                     (180)
#   --mem MB          memory                                                (768)
#   --cpus N          virtual processors                                      (2)
#   --share DIR       host directory, read-only at /host
#   --out DIR         host directory, writable at /out
#   --env NAME=VALUE  environment of the script (repeatable)
#   --forward HP=GP   port HP of the host's 127.0.0.1 reaches port GP inside
#                     (repeatable); from inside, 10.0.2.2 is the host's 127.0.0.1
#   --disk FILE       raw image as /dev/vdb (cache=writeback: what the machine
#                     flushed is in FILE, whatever becomes of QEMU)
#   --iommu BITS      an emulated IOMMU with so many bits of address, in front of the
#                     devices of --qemu; 128 huge pages
#   --dpdk-nic MODEL  a network card for DPDK behind an emulated IOMMU (of 48 bits): e1000e
#                     or vmxnet3, bound to nothing, and a hub that joins it to a
#                     second card of the kernel's; 128 huge pages.  The script finds
#                     VM_DPDK_BDF, VM_DPDK_MAC and VM_HUB_MAC in its environment
#   --qemu WORD       a word more for QEMU's command line (repeatable)
#   --console FILE    where the kernel console is kept
#   --pid-file FILE   QEMU's process id, for tests that kill it
#   --append ARGS     more kernel command line
#   --verbose         print the QEMU command line and the time on stderr
#
# Inside: the script's arguments and environment, and `vm` (guest/vm).
#   virtio-serial port 1  stdout and stderr of the script, raw   -> our stdout
#   virtio-serial port 2  its exit status                        -> our status
#   ttyS0                 kernel console                         -> --console
#   9p job, host, out     /job (ro), /host (ro), /out (rw)
#
# Exit status: the script's; 124 when the time limit ended the machine; 125 when
# it ended without a status (panic, QEMU error, killed): the console's tail is
# shown on stderr.
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
die() { echo "run-vm: $*" >&2; exit 2; }

cache=${IIBD_CACHE:-${HOME:-/root}/.cache/iiblockdaemon}/vm
limit=180 mem=768 cpus=2 share='' out='' console='' pidfile='' append='' verbose='' dpdk_nic='' iommu=''
env=() net='user,id=n0,net=10.0.2.0/24,host=10.0.2.2,ipv6=off' more=() devices=()
while [ $# -gt 0 ]; do
    case $1 in
    --verbose) verbose=1; shift; continue ;;
    --*) [ $# -ge 2 ] || usage ;;
    *) break ;;
    esac
    case $1 in
    --cache)    cache=$2 ;;
    --timeout)  limit=$2 ;;
    --mem)      mem=$2 ;;
    --cpus)     cpus=$2 ;;
    --share)    share=$(cd "$2" && pwd) || die "no directory $2" ;;
    --out)      mkdir -p "$2"; out=$(cd "$2" && pwd) ;;
    --env)      env+=("$2") ;;
    --forward)  net+=",hostfwd=tcp:127.0.0.1:${2%%=*}-10.0.2.15:${2#*=}" ;;
    --disk)     more+=(-drive "file=$2,format=raw,if=none,id=d1,cache=writeback,discard=unmap"
                       -device virtio-blk-pci,drive=d1,addr=0x1e) ;;
    --iommu)    iommu=$2 ;;
    --dpdk-nic) dpdk_nic=$2 ;;
    --qemu)     devices+=("$2") ;;
    --console)  console=$2 ;;
    --pid-file) pidfile=$2 ;;
    --append)   append=$2 ;;
    *) usage ;;
    esac
    shift 2
done
[ $# -ge 1 ] || usage
script=$1; shift
[ -f "$script" ] || die "no script $script"
for f in vmlinux initramfs.cpio rootfs.ext4; do
    [ -s "$cache/$f" ] || die "$cache/$f is missing: run build-image.sh first"
done
command -v qemu-system-x86_64 > /dev/null || die "qemu-system-x86_64 is missing (package qemu-system-x86)"

# The IOMMU precedes what is behind it; with fewer than 48 bits of address (its default is
# 39) DPDK cannot use its virtual addresses as the card's.  iommu=pt spares the other devices.
first=()
if [ -n "$dpdk_nic" ]; then
    case $dpdk_nic in e1000e | vmxnet3) ;; *) die "no driver of DPDK's for $dpdk_nic in the image" ;; esac
    iommu=48
    env+=(VM_DPDK_BDF=0000:00:08.0 VM_DPDK_MAC=52:54:00:77:00:08 VM_HUB_MAC=52:54:00:77:00:09)
    more+=(-netdev hubport,id=h0,hubid=0 -netdev hubport,id=h1,hubid=0
           -device "$dpdk_nic,netdev=h0,mac=52:54:00:77:00:08,romfile=,addr=8"
           -device virtio-net-pci,netdev=h1,mac=52:54:00:77:00:09,romfile=,addr=9)
fi
if [ -n "$iommu" ]; then
    first=(-device "intel-iommu,intremap=on,caching-mode=on,aw-bits=$iommu")
    append+=" intel_iommu=on iommu=pt hugepagesz=2M hugepages=200"
fi

W=$(mktemp -d "${TMPDIR:-/tmp}/iibd-vm.XXXXXX")
qpid=''
trap '[ -z "$qpid" ] || kill "$qpid" 2>/dev/null; rm -rf "$W"' EXIT
trap 'exit 143' TERM; trap 'exit 130' INT; trap 'exit 129' HUP
console=${console:-$W/console.log}
mkdir "$W/job" "$W/tmp"
install -m 755 "$script" "$W/job/script"
{ echo '#!/bin/bash'; printf 'exec /job/script'; [ $# -eq 0 ] || printf ' %q' "$@"; echo; } > "$W/job/run"
chmod 755 "$W/job/run"
{   for e in "${env[@]}"; do printf '%s=%q\n' "${e%%=*}" "${e#*=}"; done
    echo "VM_ADDRESS=10.0.2.15/24 VM_GATEWAY=10.0.2.2"
} > "$W/job/env"

# Disks are named in the order of their slots: the root disk (0x1c) is vda, --disk
# (0x1e) vdb.  The script's output goes by a file chardev on a pipe of ours: a stdio chardev
# "disconnects" at the end of its standard input and drops what comes later.
qemu=(qemu-system-x86_64 -nodefaults -no-user-config -no-reboot -display none
    -machine "q35,usb=off,smbus=off,sata=off" -accel tcg,thread=multi,tb-size=256 -cpu max
    -m "$mem" -smp "$cpus" -rtc base=utc
    -kernel "$cache/vmlinux" -initrd "$cache/initramfs.cpio"
    -append "console=ttyS0 quiet loglevel=4 panic=-1 oops=panic mitigations=off nokaslr audit=0 apparmor=0 selinux=0 random.trust_cpu=on tsc=reliable no_timer_check nowatchdog cryptomgr.notests rcupdate.rcu_expedited=1 8250.nr_uarts=1 net.ifnames=0 $append"
    -chardev "file,id=con,path=$console" -serial chardev:con
    -drive "file=$cache/rootfs.ext4,format=raw,if=none,id=root,snapshot=on,cache=unsafe"
    "${first[@]}"
    -device virtio-blk-pci,drive=root,addr=0x1c
    -device virtio-rng-pci,addr=0x17
    -device virtio-serial-pci,addr=0x1d,max_ports=4
    -chardev file,id=out,append=on,path=/proc/self/fd/1 -device virtserialport,chardev=out,nr=1
    -chardev "file,id=rc,path=$W/rc" -device virtserialport,chardev=rc,nr=2
    -fsdev "local,id=job,path=$W/job,security_model=none,readonly=on"
    -device virtio-9p-pci,fsdev=job,mount_tag=job,addr=0x1b
    -netdev "$net" -device virtio-net-pci,netdev=n0,mac=52:54:00:77:00:01,romfile=,addr=3
    "${more[@]}" "${devices[@]}")
[ -z "$share" ] || qemu+=(-fsdev "local,id=host,path=$share,security_model=none,readonly=on,multidevs=remap"
    -device virtio-9p-pci,fsdev=host,mount_tag=host,addr=0x1a)
[ -z "$out" ] || qemu+=(-fsdev "local,id=outd,path=$out,security_model=none"
    -device virtio-9p-pci,fsdev=outd,mount_tag=out,addr=0x19)
[ -z "$pidfile" ] || qemu+=(-pidfile "$pidfile")
[ -z "$verbose" ] || { printf '+'; printf ' %q' "${qemu[@]}"; echo; } >&2

t0=$(date +%s%N)
exec 7> >(cat); catpid=$!
TMPDIR=$W/tmp timeout -k 5 "$limit" "${qemu[@]}" < /dev/null >&7 2> "$W/qemu.err" &
qpid=$!
exec 7>&-
rc=0; wait "$qpid" || rc=$?
qpid=''
wait "$catpid" || true
[ -z "$verbose" ] || echo "run-vm: $(( ($(date +%s%N) - t0) / 1000000 )) ms" >&2
if [ -s "$W/rc" ]; then exit "$(tr -dc 0-9 < "$W/rc")"; fi
if [ $rc -eq 124 ]; then
    echo "run-vm: the time limit of $limit s is reached; console:" >&2
else
    echo "run-vm: the machine ended without a status (QEMU exit $rc); console:" >&2; rc=125
fi
{ tail -n 15 "$W/qemu.err"; tail -n 25 "$console"; } >&2 2>/dev/null || true
exit $rc
