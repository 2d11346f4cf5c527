#!/bin/sh
# Installs what `make test-containers` needs, and says what to do about what is missing. For
# arm64 on another processor, its programs are run by qemu from here on, until the next start.
#
#     prepare.sh amd64|arm64
set -eu

fail() {
    echo "make test-containers: $*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "needs root, for namespaces and file systems of other owners."
missing=
for command in buildah crun debootstrap unshare; do
    command -v "$command" > /dev/null || missing="$missing $command"
done
case $1 in
    arm64)
        [ "$(uname -m)" = aarch64 ] || command -v qemu-aarch64-static > /dev/null ||
            missing="$missing qemu-user-static" ;;
esac
if [ -n "$missing" ]; then
    command -v apt-get > /dev/null || fail "needs$missing; install them."
    apt-get update -qq
    # util-linux has unshare
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
        $(echo "$missing" | sed 's/unshare/util-linux/')
fi

case $1 in
    arm64)
        interpreters=/proc/sys/fs/binfmt_misc
        [ "$(uname -m)" != aarch64 ] || exit 0
        [ -e $interpreters/register ] || mount -t binfmt_misc binfmt_misc $interpreters ||
            fail "the kernel cannot run foreign programs (binfmt_misc)."
        [ -e $interpreters/qemu-aarch64 ] ||
            printf '%s' "$(cat /usr/lib/binfmt.d/qemu-aarch64.conf)" > $interpreters/register ;;
esac
