"""Writing files and folders on file systems without permissions."""

import errno
import os

import pytest

from edge_runtime.errors import StorageError
from edge_runtime.storage import new_folder, write_file


def refuse_modes(monkeypatch, number: int) -> None:
    def chmod(path, mode, **_):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "chmod", chmod)


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP])
def test_a_file_system_without_permissions_is_no_failure(
    tmp_path, monkeypatch, number
) -> None:
    """As vfat on a USB stick, or CIFS."""
    refuse_modes(monkeypatch, number)
    write_file(tmp_path / "a.json", b"{}")
    with new_folder(tmp_path / "run") as building:
        (building / "b.json").write_bytes(b"[]")
    assert (tmp_path / "a.json").read_bytes() == b"{}"
    assert (tmp_path / "run/b.json").read_bytes() == b"[]"


def test_another_failure_of_permissions_is_one(tmp_path, monkeypatch) -> None:
    refuse_modes(monkeypatch, errno.EROFS)
    with pytest.raises(StorageError, match=r"cannot write .*a\.json: Read-only file system"):
        write_file(tmp_path / "a.json", b"{}")
    assert list(tmp_path.iterdir()) == []


def test_files_and_folders_are_readable_by_others(tmp_path) -> None:
    write_file(tmp_path / "a.json", b"{}")
    with new_folder(tmp_path / "run"):
        pass
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o755
