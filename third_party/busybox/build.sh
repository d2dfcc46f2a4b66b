#!/bin/sh -e
# Builds BusyBox, which is no Go program, from its pristine sources with the
# configuration its authors ship, linked statically.
#
#   build.sh OUT CACHE    writes OUT; the sources are kept in CACHE
out=$1 cache=$2
version=1.37.0
sum=3311dff32e746499f4df0d5df04d7eb396382d7e108bb9250e7b519b837043a4
# The time of the release, in place of that of the build: equal digests.
export SOURCE_DATE_EPOCH=1727395200
archive=$cache/busybox-$version.tar.bz2

# The folder of the distribution's mirror in which its BusyBox lies, and the
# sources of newer ones beside it.
pool=$(apt-get -o Dir::State::status=/dev/null download --print-uris busybox-static | sed -n "s|^'\(.*\)/[^/]*' .*|\1|p")

mkdir -p "$cache"
for url in "$pool/busybox_$version.orig.tar.bz2" "https://busybox.net/downloads/busybox-$version.tar.bz2"; do
	echo "$sum  $archive" | sha256sum --check --status 2>/dev/null && break
	curl -sfL -m 300 -o "$archive" "$url" || echo "$url: not available" >&2
done
echo "$sum  $archive" | sha256sum --check --quiet

tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
tar -C "$tree" --strip-components 1 -xjf "$archive"
cd "$tree"
make -s defconfig >/dev/null
# tc does not compile with the headers of newer kernels, and no image needs it.
sed -i -e 's/^# CONFIG_STATIC is not set/CONFIG_STATIC=y/' -e 's/^CONFIG_TC=y/# CONFIG_TC is not set/' .config
yes '' | make -s oldconfig >/dev/null
make -s -j "$(nproc)" busybox >"$tree/log" 2>&1 || { tail -20 "$tree/log" >&2; exit 1; }
install -m 755 busybox "$out"
