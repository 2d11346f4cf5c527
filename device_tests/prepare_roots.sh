#!/bin/sh
# Installs what a target of the Makefile needs to make Debian's roots and to run programs in
# them, and says what to do about what is missing. For arm64 on another processor, its programs
# are run by qemu from here on, until the next start.
#
#     prepare_roots.sh TARGET amd64|arm64 COMMAND...
set -eu

target=$1 architecture=$2
shift 2

fail() {
    echo "make $target: $*" >&2
    exit 1
}

case $architecture in
    arm64) [ "$(uname -m)" = aarch64 ] || is_foreign=yes ;;
esac

[ "$(id -u)" = 0 ] || fail "needs root, for namespaces and file systems of other owners."
missing=
for command in "$@" ${is_foreign:+qemu-aarch64-static}; do
    command -v "$command" > /dev/null || missing="$missing $command"
done
if [ -n "$missing" ]; then
    command -v apt-get > /dev/null || fail "needs$missing; install them."
    apt-get update -qq
    # Other packages have the name of their command.
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
        $(echo "$missing" | sed 's/unshare/util-linux/; s/qemu-aarch64-static/qemu-user-static/')
fi

interpreters=/proc/sys/fs/binfmt_misc
[ -n "${is_foreign:-}" ] || exit 0
[ -e $interpreters/register ] || mount -t binfmt_misc binfmt_misc $interpreters ||
    fail "the kernel cannot run foreign programs (binfmt_misc)."
[ -e $interpreters/qemu-aarch64 ] ||
    printf '%s' "$(cat /usr/lib/binfmt.d/qemu-aarch64.conf)" > $interpreters/register
