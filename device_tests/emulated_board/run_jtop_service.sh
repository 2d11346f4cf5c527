#!/bin/bash
# Run a command on an emulated Jetson board with the real jtop service, in a throw-away copy of
# this machine (needs root).
#
#   run_jtop_service.sh [-b BOARD] [-p PYTHON] [-s DIR]... [OPTIONS OF serve_jtop.py] [-- COMMAND...]
#
#   -b BOARD    orin_nx (default), agx_orin, nano
#   -p PYTHON   an interpreter that has jetson-stats (default: python3)
#   -s DIR      a folder that stays shared with the host, read and write; ${TMPDIR:-/tmp} always is
# The exit code is that of COMMAND.  All other files that are written inside vanish at the end.
set -euo pipefail
board=orin_nx python=python3 shares=("${TMPDIR:-/tmp}")
arguments=("$@")
while [ $# -gt 0 ]; do
    case $1 in
        -b) board=$2; shift 2 ;;
        -p) python=$2; shift 2 ;;
        -s) shares+=("$(realpath "$2")"); shift 2 ;;
        *) break ;;
    esac
done
here=$(dirname "$(realpath "$0")")
modules=device_tests.emulated_board
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$here/../..${PYTHONPATH:+:$PYTHONPATH}

if [ "${FAKE_BOARD_INSIDE:-}" != yes ]; then
    unshare --mount --pid --fork true || { echo "$0: needs root and CAP_SYS_ADMIN" >&2; exit 77; }
    exec env FAKE_BOARD_INSIDE=yes unshare --mount --pid --fork --kill-child \
        bash "$here/run_jtop_service.sh" "${arguments[@]}"
fi
unset FAKE_BOARD_INSIDE
# PID 1 of the new namespace.  /run of the host is hidden by a tmpfs, which holds all that is written and the new root.
mount -t tmpfs tmpfs /run
root=/run/root
layer() { # a copy-on-write view of a host folder, at the same place in the new root
    local upper
    upper=$(mktemp -d /run/layer.XXXX)
    mkdir "$upper/data" "$upper/work"
    mount -t overlay overlay -o "lowerdir=$1,upperdir=$upper/data,workdir=$upper/work" "$root$1"
}
mkdir $root
layer /
findmnt -rno TARGET | while read -r dir; do
    dir=$(printf %b "$dir")
    case $dir/ in
        // | /proc/* | /sys/* | /dev/* | /run/*) ;;
        *)
            layer "$dir" 2> /dev/null || mount --bind "$dir" "$root$dir" ||
                echo "not visible inside: $dir" >&2
            ;;
    esac
done
for dir in "${shares[@]}"; do mount --rbind "$dir" "$root$dir"; done
mount --rbind /dev $root/dev
mount -t proc proc $root/proc
mount -t tmpfs tmpfs $root/run
grep -q '^jtop:' /etc/group || echo 'jtop:x:64999:' >> $root/etc/group
"$python" -m $modules write $root/fake_sys --board "$board" --tools $root
# The tree is also /sys, for readers that know only that path; the real CPU topology and
# cgroups stay.
mount --bind $root/fake_sys $root/sys
for dir in devices/system fs; do mount --rbind /sys/$dir $root/sys/$dir; done
exec chroot $root env -C "$PWD" "$python" -m $modules.serve_jtop "$@"
