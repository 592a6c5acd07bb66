#!/usr/bin/env bash
# The image of deploy/Dockerfile without a container engine: the same steps (deploy/image.sh) in Debian roots made by
# debootstrap, as a docker-archive that `ctr image import` takes. Needs root, debootstrap and gcc.
#
#   tests/kubernetes/image.sh CACHE        # writes CACHE/eagleray.tar and CACHE/pause.tar
set -euo pipefail
cache=${1:?where the image goes}
here=$(cd "$(dirname "$0")" && pwd)
source=$(cd "$here/../.." && pwd)
mkdir -p "$cache"
sources=(/etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources)
mirror=$(cat "${sources[@]}" 2>/dev/null | awk '/^(deb|URIs:) /{print $2; exit}' || true)

# 1. two roots, once: one to build in, one that becomes the image
root() {
    local place=$1 packages=$2
    [ -e "$place/.whole" ] && return
    rm -rf "$place"
    debootstrap --variant=minbase --include="$packages" bookworm "$place" "$mirror" >"$place.log" 2>&1
    rm -rf "$place"/var/cache/apt/archives/*.deb "$place"/var/lib/apt/lists/*
    touch "$place/.whole"
}
root "$cache/build-root" python3,python3-venv,gcc,libc6-dev,ca-certificates
root "$cache/image-root" python3,ca-certificates

# 2. the steps of the Dockerfile
build=$cache/build-root image=$cache/image-root
trap 'umount "$build/proc" "$build/dev" 2>/dev/null || true' EXIT
cp /etc/resolv.conf "$build/etc/resolv.conf"
cp /etc/ssl/certs/ca-certificates.crt "$build/etc/ssl/certs/ca-certificates.crt"
mount -t proc proc "$build/proc"
mount --bind /dev "$build/dev"
rm -rf "$build/src" "$build/opt/eagleray" "$image/opt/eagleray"
mkdir -p "$build/src"
git -C "$source" ls-files -z --cached --others --exclude-standard | tar -C "$source" --null -T - -c | tar -C "$build/src" -x
settings=()
for name in ${!PIP_@} ${!UV_@} ${!http@} ${!https@} ${!HTTP@} ${!HTTPS@} ${!no_@} ${!NO_@}; do
    case $name in PIP_FIND_LINKS) ;; *) settings+=("$name=${!name}") ;; esac
done
chroot "$build" env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    "${settings[@]}" /src/deploy/image.sh /src /opt/eagleray
cp -a "$build/opt/eagleray" "$image/opt/eagleray"
chroot "$image" sh -c 'id -u eagleray >/dev/null 2>&1 || { groupadd --gid 1000 eagleray && useradd --uid 1000 --gid 1000 --create-home eagleray; }
    install -d -o 1000 -g 1000 -m 0700 /data; install -d -o 1000 -g 1000 /project'
chroot "$image" setpriv --reuid 1000 --regid 1000 --clear-groups /opt/eagleray/bin/eagleray --version

# 3. archives
python3 "$here/archive.py" "$image" docker.io/eagleray/eagleray:test "$cache/eagleray.tar"
printf 'int pause(void);int main(){for(;;)pause();}' >"$cache/pause.c"
mkdir -p "$cache/pause-root"
gcc -static -O2 -o "$cache/pause-root/pause" "$cache/pause.c"
python3 "$here/archive.py" "$cache/pause-root" docker.io/eagleray/pause:test "$cache/pause.tar" /pause
