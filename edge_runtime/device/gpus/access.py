"""Files through which drivers reach a GPU, and whether this user may open them."""

import grp
import os
import stat
from pathlib import Path

# Of DRM (any GPU), of a Jetson, and of a discrete NVIDIA GPU.
_FILES = ("dri/renderD*", "nvhost-*gpu*", "nvgpu/*/*", "nvmap", "nvidia[0-9]*", "nvidiactl")


def closed_files(root: Path = Path("/")) -> dict[str, str]:
    """Those that this user may not open, each with what would open it."""
    files = (path for pattern in _FILES for path in sorted((root / "dev").glob(pattern)))
    return {str(path): cure for path in files if (cure := _cure(path)) is not None}


def _cure(path: Path) -> str | None:
    try:
        # Not `os.access`: a container's rules refuse what the file's mode allows.
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
    except PermissionError:
        return _permission_cure(path)
    except OSError:  # busy, or its device is gone: not a question of permission
        pass
    return None


def _permission_cure(path: Path) -> str:
    status = path.stat()
    is_ours = status.st_gid in (os.getegid(), *os.getgroups())
    if is_ours or not stat.S_IMODE(status.st_mode) & stat.S_IRWXG:
        return f"pass it into the container (--device {path})"
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:  # of the host, in a container
        return f"start the container with --group-add {status.st_gid}"
    return f"add this user to the group {group} (sudo usermod -aG {group} USER), log in again"
