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

# The page of `edge-train report` is tested in a real browser, and engines also on the GPU in
# software (SwiftShader) that it brings.
if ! command -v chromium > /dev/null || ! ldconfig -p | grep -q libvulkan.so.1; then
    command -v apt-get > /dev/null || fail "needs chromium and libvulkan.so.1; install them."
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium libvulkan1
fi

# Engines are tested on lavapipe, a GPU in software that has float16. WebGPU needs Mesa 24 or
# newer, which an older Debian has in its backports.
has_lavapipe() {
    version=$(dpkg-query -W -f '${Version}' mesa-vulkan-drivers 2> /dev/null) \
        && dpkg --compare-versions "$version" ge 24
}
if ! has_lavapipe; then
    sources=/etc/apt/sources.list.d/debian.sources
    [ -f "$sources" ] || fail "needs mesa-vulkan-drivers, version 24 or newer; install them."
    suite="$(. /etc/os-release && echo "$VERSION_CODENAME")-backports"
    # The first paragraph is the archive's; the others are of security updates.
    sed "/^\$/q; s/^Suites:.*/Suites: $suite/" "$sources" > "${sources%debian.sources}$suite.sources"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y -t "$suite" mesa-vulkan-drivers
fi

unshare --mount --pid --fork true || fail "may not create namespaces, although it runs as root." \
    "A container needs --privileged."
unshare --mount sh -ec '
    mount -t tmpfs tmpfs /run
    mkdir /run/data /run/work /run/root
    mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/data,workdir=/run/work /run/root
' || fail "the kernel cannot mount overlays. Load its module: modprobe overlay."
