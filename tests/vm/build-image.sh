#!/bin/bash
# build-image.sh [CACHE_DIR]
#
# Makes, in CACHE_DIR (default: ${IIBD_CACHE:-~/.cache/iiblockdaemon}/vm), what
# the test machines boot from, out of Debian packages and nothing else: no
# debootstrap, no chroot, no mounts, nothing installed on the host, and no
# maintainer script is run.
#
#   vmlinux         the stock Debian kernel, unpacked here once.  QEMU boots an
#                   ELF kernel by its PVH note, which spares the emulated
#                   processor the xz decompression (several seconds).
#   initramfs.cpio  busybox and the modules that reach the root disk
#   rootfs.ext4     the root file system (always opened with snapshot=on)
#   packages.txt    name and version of every package inside
#   stamp           key of the inputs: this script, and every package's version
#
# Prints one line when done or already up to date (about 2 s then).  When the
# package index cannot be read, an image made by this same script serves on.
#
# Environment:
#   IIBD_VM_BUILD_TIMEOUT  seconds the whole build may take       (900)
#   IIBD_VM_KERNEL         kernel metapackage                     (linux-image-amd64)
#   IIBD_VM_KERNEL_DEBS    files of another kernel's packages, in its place: the image and its
#                          modules.  Give it a cache of its own.  (Ubuntu's linux-image-unsigned-*
#                          and linux-modules-* have iommufd, and VFIO without an IOMMU.)
#
# Host needs: bash, apt-get and dpkg-deb with Debian sources, xz, cpio, mke2fs.
set -euo pipefail
umask 022
export LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin

# Bound the whole run: start again, once, under timeout(1).
if [ -z "${IIBD_VM_BOUNDED:-}" ]; then
    exec env IIBD_VM_BOUNDED=1 timeout -k 5 "${IIBD_VM_BUILD_TIMEOUT:-900}" "$BASH" "$0" "$@"
fi

here=$(cd "$(dirname "$0")" && pwd)
CACHE=${1:-${IIBD_CACHE:-$HOME/.cache/iiblockdaemon}/vm}
mkdir -p "$CACHE"
CACHE=$(cd "$CACHE" && pwd)
KMETA=${IIBD_VM_KERNEL:-linux-image-amd64}
LOG=$CACHE/build.log

# ---------------------------------------------------------------- contents --
# A fixed list, so that the image does not depend on what the host has.
PACKAGES="base-files base-passwd bash dash coreutils util-linux mount kmod procps
 grep sed mawk findutils hostname libc-bin ncurses-base busybox-static iproute2
 open-iscsi sg3-utils lsscsi fio e2fsprogs libgcc-s1 libssl3 ddpt dmsetup
 multipath-tools udev nvme-cli"
# What a daemon with feature dpdk loads: the libraries that it is linked with, and the
# drivers of the emulated network cards.
PACKAGES+=" librte-eal23 librte-ethdev23 librte-net-ring23 librte-mempool-ring23 librte-bus-pci23
 librte-bus-vdev23 librte-net-e1000-23 librte-net-vmxnet3-23"
# Kernel modules to keep; their dependencies come along.
MODULES="virtio_pci virtio_blk virtio_net virtio_console virtio_rng 9p 9pnet_virtio
 ext4 loop iscsi_tcp scsi_transport_iscsi sd_mod sg crc32c_generic crc32c_intel
 libcrc32c crct10dif_pclmul crc-t10dif dm-multipath dm-service-time dm-round-robin
 scsi_dh_alua vfio-pci vfio_iommu_type1 8021q nvme"
# Loaded in this order by the initramfs.
BOOT_MODULES="virtio_pci virtio_blk crc32c_generic ext4"

# One builder at a time for each cache directory.
exec 9> "$CACHE/.lock"
flock -x 9
: > "$LOG"
W=$(mktemp -d "$CACHE/.work.XXXXXX")
finish() {
    local rc=$?
    rm -rf "$W"
    [ $rc -eq 0 ] || { echo "build-image: FAILED (exit $rc); the end of $LOG:" >&2; tail -n 20 "$LOG" >&2; }
}
trap finish EXIT
for tool in apt-get apt-cache dpkg-deb xz cpio mke2fs; do
    command -v "$tool" > /dev/null || { echo "missing tool: $tool" >> "$LOG"; exit 1; }
done

# ---------------------------------------------------------------- packages --
# apt with an *empty* dpkg status resolves the whole closure, whatever the host
# has installed, and downloads into the cache without touching the host.
DEBS=$CACHE/debs
mkdir -p "$DEBS/partial" "$W/apt"
: > "$W/apt/status"
APT=(-q -o Debug::NoLocking=1 -o APT::Sandbox::User=root
     -o Dir::State::status="$W/apt/status" -o Dir::State::extended_states="$W/apt/ext"
     -o Dir::Cache::archives="$DEBS" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
     -o APT::Install-Recommends=false -o Acquire::Retries=3)
# The host's package lists serve if they know our packages; else our own copy.
if ! apt-cache -q show "$KMETA" open-iscsi > /dev/null 2>&1; then
    mkdir -p "$CACHE/lists/partial"
    APT+=(-o Dir::State::lists="$CACHE/lists")
    apt-get "${APT[@]}" update >> "$LOG" 2>&1 || echo "no package index" >> "$LOG"
fi
# resolve: "name version" of everything in the image, the kernel last.
resolve() {
    local kernel image
    # shellcheck disable=SC2086  # a list of names
    apt-get -y "${APT[@]}" --simulate install $PACKAGES 2>> "$LOG" |
        sed -n 's/^Inst \([^ ]*\) (\([^ ]*\) .*/\1 \2/p' | sort -u
    if [ -n "${IIBD_VM_KERNEL_DEBS:-}" ]; then
        # shellcheck disable=SC2086  # a list of files
        image=$(cat $IIBD_VM_KERNEL_DEBS | sha256sum) || return 1
        echo "given-kernel ${image%% *}"
        return
    fi
    kernel=$(apt-cache "${APT[@]}" depends "$KMETA" 2>> "$LOG" |
        sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1)
    [ -n "$kernel" ] || { echo "cannot resolve $KMETA" >> "$LOG"; return 1; }
    echo "$kernel $(apt-cache "${APT[@]}" show "$kernel" 2>> "$LOG" | sed -n 's/^Version: //p' | head -n 1)"
}
script_key=$(cat "$0" "$here/guest/init" "$here/guest/vm" | sha256sum | cut -d' ' -f1)
present() { [ -s "$CACHE/vmlinux" ] && [ -s "$CACHE/initramfs.cpio" ] && [ -s "$CACHE/rootfs.ext4" ]; }
old=$(cat "$CACHE/stamp" 2>/dev/null || true)
if ! resolve > "$W/packages.txt" || [ "$(wc -l < "$W/packages.txt")" -lt 20 ]; then
    if present && [ "${old%% *}" = "$script_key" ]; then
        echo "image kept (no package index to compare with): $CACHE ($(cat "$CACHE/release"))"
        exit 0
    fi
    echo "the package closure cannot be resolved (apt-get update?)" >> "$LOG"
    exit 1
fi
key="$script_key $(sha256sum < "$W/packages.txt" | cut -d' ' -f1)"
if present && [ "$old" = "$key" ]; then
    echo "image up to date: $CACHE ($(cat "$CACHE/release"), $(wc -l < "$W/packages.txt") packages)"
    exit 0
fi
kernel=$(tail -n 1 "$W/packages.txt"); kernel=${kernel%% *}

# shellcheck disable=SC2086
apt-get -y "${APT[@]}" --download-only install $PACKAGES >> "$LOG" 2>&1
deb() { # deb NAME VERSION: path of the downloaded package
    find "$DEBS" -maxdepth 1 -name "$1_${2/:/%3a}_*.deb" | head -n 1
}
set -- $(tail -n 1 "$W/packages.txt")
[ -n "$(deb "$1" "$2")" ] || [ "$1" = given-kernel ] || (cd "$DEBS" && apt-get "${APT[@]}" download "$1=$2" >> "$LOG" 2>&1)

# Merged-/usr links first, which tar keeps where a package has a directory.
ROOT=$W/root KDIR=$W/kernel
mkdir -p "$ROOT"/usr/{bin,sbin,lib,lib64}
for d in bin sbin lib lib64; do ln -s usr/$d "$ROOT/$d"; done
unpack() { # unpack FILE INTO
    mkdir -p "$2"
    dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink -C "$2" 2>> "$LOG"
}
while read -r name version; do
    [ "$name" != given-kernel ] || continue
    f=$(deb "$name" "$version")
    [ -n "$f" ] || { echo "not downloaded: $name $version" >> "$LOG"; exit 1; }
    case $name in "$kernel") into=$KDIR ;; *) into=$ROOT ;; esac
    unpack "$f" "$into"
    echo "$f" >> "$W/used.txt"
done < "$W/packages.txt"
# What an older image needed goes, so that the cache does not grow for ever.
find "$DEBS" -maxdepth 1 -name '*.deb' | { grep -vxFf "$W/used.txt" || true; } | xargs -r rm -f

# ------------------------------------------------------------------ kernel --
for f in ${IIBD_VM_KERNEL_DEBS:-}; do unpack "$f" "$KDIR"; done
[ -e "$KDIR/lib" ] || ln -s usr/lib "$KDIR/lib"
bz=$(echo "$KDIR"/boot/vmlinuz-*)
release=${bz##*/vmlinuz-}
# The boot header (Documentation/arch/x86/boot.rst: setup_sects at 0x1f1,
# payload_offset at 0x248, payload_length at 0x24c) tells where the ELF is.
setup=$(od -An -tu1 -j 497 -N 1 "$bz" | tr -d ' ')
# shellcheck disable=SC2046
set -- $(od -An -tu4 -j 584 -N 8 "$bz")
dd if="$bz" bs=4M iflag=skip_bytes,count_bytes skip=$(( (setup + 1) * 512 + $1 )) count="$2" \
    status=none > "$W/payload"
# (Both have something after the end, of which zstd complains.)
case $(od -An -tx1 -N 4 "$W/payload" | tr -d ' ') in
28b52ffd) zstd -dc "$W/payload" > "$W/vmlinux" 2>> "$LOG" || true ;;
*)        xz -dc --single-stream "$W/payload" > "$W/vmlinux" 2>> "$LOG" ;;
esac
[ -s "$W/vmlinux" ]

# kmod is run out of the unpacked tree by its own loader: the host needs none.
kmod_run() { # kmod_run ARGV0 ARG...
    local a0=$1; shift
    "$ROOT"/lib64/ld-linux-x86-64.so.2 --argv0 "$a0" \
        --library-path "$ROOT/usr/lib/x86_64-linux-gnu" "$ROOT/bin/kmod" "$@"
}
kmod_run depmod -b "$KDIR" "$release" >> "$LOG" 2>&1
MD=$KDIR/lib/modules/$release
# closure NAME...: paths of the modules and their dependencies, those first.
closure() {
    local m
    for m in "$@"; do
        { kmod_run modprobe -d "$KDIR" -S "$release" --show-depends "$m" 2>> "$LOG" || true; } |
            sed -n "s|^insmod .*/lib/modules/$release/\([^ ]*\).*|\1|p"
    done | awk '!seen[$0]++'
}
DST=$ROOT/lib/modules/$release
mkdir -p "$DST"
cp "$MD"/modules.{builtin,builtin.modinfo,order} "$DST/"
# shellcheck disable=SC2086
closure $MODULES > "$W/modules.txt"
module() { # module FILE INTO: not compressed any more
    mkdir -p "${2%/*}"
    case $1 in *.zst) zstd -q -dc "$1" > "${2%.zst}" ;; *.xz) xz -dc "$1" > "${2%.xz}" ;; *) cp "$1" "$2" ;; esac
}
while read -r m; do module "$MD/$m" "$DST/$m"; done < "$W/modules.txt"
kmod_run depmod -b "$ROOT" "$release" >> "$LOG" 2>&1

# --------------------------------------------------------------- root disk --
# Not needed inside, and much of the size: documentation, fio's Python tools.
rm -rf "${ROOT:?}"/usr/share/{doc,man,info,locale,lintian,bash-completion,bug,zoneinfo,perl,python3} \
       "${ROOT:?}"/usr/lib/{python3*,udev/hwdb.d} "${ROOT:?}"/usr/bin/*python3* "${ROOT:?}"/boot
mkdir -p "$ROOT"/{proc,sys,dev,run,tmp,mnt,root,host,out,job,usr/local/sbin,etc/iscsi,var/lib/iscsi}
chmod 1777 "$ROOT/tmp"
ln -sf dash "$ROOT/usr/bin/sh"
ln -sf mawk "$ROOT/usr/bin/awk"
ln -sf /proc/mounts "$ROOT/etc/mtab"
cp "$ROOT"/usr/share/base-passwd/passwd.master "$ROOT/etc/passwd"
cp "$ROOT"/usr/share/base-passwd/group.master "$ROOT/etc/group"
echo "127.0.0.1 localhost vm" > "$ROOT/etc/hosts"
echo "InitiatorName=iqn.1993-08.org.debian:01:testvm" > "$ROOT/etc/iscsi/initiatorname.iscsi"
# iscsiadm must not ask systemd for iscsid: `vm iscsid` starts it.
sed -i 's|^iscsid.startup|#iscsid.startup|' "$ROOT/etc/iscsi/iscsid.conf"
"$ROOT/sbin/ldconfig" -r "$ROOT" >> "$LOG" 2>&1
install -m 755 "$here/guest/init" "$ROOT/sbin/vm-init"
install -m 755 "$here/guest/vm" "$ROOT/usr/local/sbin/vm"

# --------------------------------------------------------------- initramfs --
I=$W/initramfs
mkdir -p "$I"/{bin,proc,sys,dev,root,lib}
cp "$ROOT/bin/busybox" "$I/bin/busybox"
n=10
# shellcheck disable=SC2086
for m in $(closure $BOOT_MODULES); do module "$MD/$m" "$I/lib/$n-${m##*/}"; n=$((n + 1)); done
cat > "$I/init" <<'INIT'
#!/bin/busybox sh
B=/bin/busybox
$B mount -t devtmpfs dev /dev
$B mount -t proc proc /proc
$B mount -t sysfs sys /sys
for m in /lib/*.ko; do [ ! -e $m ] || $B insmod $m; done
i=0
while [ ! -b /dev/vda ] && [ $i -lt 100 ]; do $B usleep 20000; i=$((i + 1)); done
$B mount -t ext4 -o noatime /dev/vda /root || { echo "initramfs: no root disk"; $B poweroff -f; }
for d in dev proc sys; do $B mount -o move /$d /root/$d; done
exec $B switch_root /root /sbin/vm-init
INIT
chmod 755 "$I/init"
(cd "$I" && find . | sort | cpio -o -H newc -R 0:0 --quiet) > "$W/initramfs.cpio" 2>> "$LOG"

# mke2fs -d copies the tree without mounting anything.  256 MB of room for what
# tests write: the image is sparse, and machines see a throw-away overlay of it.
kb=$(du -sk "$ROOT" | cut -f1)
mke2fs -q -F -t ext4 -O ^has_journal,^metadata_csum -E root_owner=0:0,lazy_itable_init=1 -m 0 \
    -L vmroot -d "$ROOT" "$W/rootfs.ext4" $(( kb * 5 / 4 + 262144 ))k >> "$LOG" 2>&1

# Publish; the stamp last, so that an interrupted build is never taken as done.
rm -f "$CACHE/stamp"
mv "$W/vmlinux" "$W/initramfs.cpio" "$W/rootfs.ext4" "$W/packages.txt" "$W/modules.txt" "$CACHE/"
echo "$release" > "$CACHE/release"
echo "$key" > "$CACHE/stamp"
echo "image built: $CACHE ($release, $(wc -l < "$CACHE/packages.txt") packages, $(( kb / 1024 )) MB)"
