#!/usr/bin/env bash
# Builds Debian's fio with the libiscsi engine, which Debian's own binary leaves out, and prints its path.
#
# Nothing of /etc/apt changes: sources and lists stand in the cache folder. A second call only looks.
#   bench/build-fio.sh [CACHE_DIR]        default: ~/.cache/iiblockdaemon-bench
# Needs: root or installed libiscsi-dev, gcc, make, dpkg-dev (installed here when root and missing).
set -euo pipefail

cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/iiblockdaemon-bench}
fio=$cache/fio-libiscsi
limit_s=600 # for each of download and build

has_engine() { [[ -x $fio ]] && "$fio" --enghelp 2>/dev/null | grep -qw libiscsi; }

if has_engine; then
    echo "$fio"
    exit 0
fi

for package in libiscsi-dev gcc make dpkg-dev; do
    if ! dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed'; then
        echo "build-fio: installing $package" >&2
        timeout "$limit_s" apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$package" >&2
    fi
done

work=$cache/fio-build
rm -rf "$work"
mkdir -p "$work/parts" "$work/lists/partial"
cd "$work"
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
cat > parts/src.sources <<SOURCES
Types: deb-src
URIs: http://deb.debian.org/debian
Suites: $suite
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES
options=(-o "Dir::Etc::SourceList=/dev/null" -o "Dir::Etc::SourceParts=$work/parts"
    -o "Dir::State::Lists=$work/lists" -o "APT::Sandbox::User=root")
timeout "$limit_s" apt-get "${options[@]}" update >&2
timeout "$limit_s" apt-get "${options[@]}" source fio >&2
cd fio-*/
# The engine is off unless it is named.
timeout "$limit_s" ./configure --enable-libiscsi >&2
timeout "$limit_s" nice -n 10 make -j"$(nproc)" fio >&2
install -m 755 fio "$fio"
cd "$cache"
rm -rf "$work"
has_engine || { echo "build-fio: the build has no libiscsi engine" >&2; exit 1; }
echo "$fio"
