#!/bin/sh
# Checks what device_tests/ needs besides Python packages. Installs missing system packages, and
# says what to do about everything else that is missing.
set -eu

fail() {
    echo "make test-system: $*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "needs root, for mount namespaces and control groups." \
    "Run it as root, in a container with --privileged."

missing() {
    for command in unshare mount umount findmnt chroot tmux; do
        command -v "$command" > /dev/null || return 0
    done
    return 1
}
if missing; then
    command -v apt-get > /dev/null || fail "needs util-linux, mount, coreutils and tmux; install them."
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y util-linux mount coreutils tmux
fi

# The page of `edge-train report` is tested in a real browser.
if ! command -v chromium > /dev/null; then
    command -v apt-get > /dev/null || fail "needs chromium; install it."
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium
fi

# Engines run on a GPU in software: lavapipe of Mesa, a Vulkan driver with float16. Debian 12's
# own Mesa 22.3 is too old for the WebGPU plugin; its backports have a newer one.
has_lavapipe() {
    ls /usr/share/vulkan/icd.d/lvp_icd*.json > /dev/null 2>&1 || return 1
    dpkg --compare-versions "$(dpkg-query -W -f '${Version}' mesa-vulkan-drivers)" ge 25
}
if ! has_lavapipe || ! ldconfig -p | grep -q libvulkan.so.1; then
    command -v apt-get > /dev/null || fail "needs libvulkan.so.1 and Mesa's lavapipe, 25 or later."
    apt-get update -qq
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    if [ "$suite" = bookworm ]; then
        suite=bookworm-backports
        mirror=$(apt-get indextargets --format '$(REPO_URI)' "Codename: bookworm" | head -n 1)
        echo "deb $mirror $suite main" > /etc/apt/sources.list.d/backports.list
        apt-get update -qq
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends -t "$suite" \
        mesa-vulkan-drivers libvulkan1
fi

unshare --mount --pid --fork true || fail "may not create namespaces, although it runs as root." \
    "A container needs --privileged."
unshare --mount sh -ec '
    mount -t tmpfs tmpfs /run
    mkdir /run/data /run/work /run/root
    mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/data,workdir=/run/work /run/root
' || fail "the kernel cannot mount overlays. Load its module: modprobe overlay."
