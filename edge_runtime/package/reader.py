"""Open a training package: every file is verified, every name checked."""

import hashlib
import math
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import ConfigError, PackageError
from edge_runtime.package.graph_check import MAX_GRAPH_BYTES, check_graph
from edge_runtime.package.manifest import FORMAT, Manifest, Rung, TensorSpec
from edge_runtime.package.names import BUFFER, LOSS_SCALE
from edge_runtime.package.references import problems_of
from edge_runtime.reading import MAX_TABLE_BYTES, parse_json, read_file
from edge_runtime.schema import shown, structure
from edge_runtime.state import State, TensorKind, load_state, problems_with, tensor_names
from edge_runtime.storage import StrPath, file_sha256

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Package:
    """A verified training package."""

    path: Path
    manifest: Manifest
    digest: str  # SHA-256 of manifest.json, which holds those of all other files

    def file(self, name: str) -> Path:
        """Path of a file of the manifest."""
        return self.path / name

    def initial_state(self, names: Collection[str] | None = None) -> State:
        """The state before the first step.

        Args:
            names: the tensors to read; `None`: all of them.

        Raises:
            PackageError: it differs from the manifest's declaration, or has a loss scale that
                cannot be.
        """
        state = self._tensors(self.manifest.state_file, self.expected_state(), names)
        scale = state.get(BUFFER + LOSS_SCALE)
        if scale is not None and not 0 < float(scale) < math.inf:
            raise PackageError(
                f"{self.path}: {self.manifest.state_file}: {BUFFER}{LOSS_SCALE} is {scale}; "
                "expected a finite number above 0. Export the package again."
            )
        return state

    def frozen_weights(self, names: Collection[str] | None = None) -> State:
        """The weights of the frozen encoder, by name; empty if there is none.

        Args:
            names: the tensors to read; `None`: all of them.

        Raises:
            PackageError: they differ from the manifest's declaration.
        """
        encoder = self.manifest.frozen_encoder
        if encoder is None:
            return {}
        expected = _kinds(self.manifest.frozen_weights)
        return self._tensors(encoder.weights_file, expected, names)

    def expected_state(self) -> dict[str, TensorKind]:
        """(dtype, shape) of every state tensor, by name."""
        return _kinds(self.manifest.state)

    def _tensors(
        self,
        name: str,
        expected: Mapping[str, TensorKind],
        names: Collection[str] | None = None,
    ) -> State:
        """Tensors of a file, as declared; `names`: those to read."""
        chosen = expected if names is None else {name: expected[name] for name in names}
        try:
            others = tensor_names(self.file(name)) - expected.keys()
            tensors = load_state(self.file(name), names)
        except (OSError, ValueError) as error:
            raise PackageError(
                f"{self.path}: {name} cannot be read: {error}. Export the package again."
            ) from error
        problems = [f"{other}: not expected" for other in sorted(others)]
        if problems := problems or problems_with(tensors, chosen):
            raise PackageError(
                f"{self.path}: {name} differs from the manifest: {problems[0]} "
                f"({len(problems)} differences). Export the package again."
            )
        return tensors

    def rung(self, rung_id: str) -> Rung:
        """The rung with that id.

        Raises:
            ConfigError: there is none.
        """
        for rung in self.manifest.rungs:
            if rung.id == rung_id:
                return rung
        known = ", ".join(rung.id for rung in self.manifest.rungs)
        raise ConfigError(f"{self.path} has no rung {rung_id!r}; it has {known}.")

    def trained_sets(self, trained: str | None = None) -> tuple[str, ...]:
        """The sets of parameters that rungs train, in the package's order.

        Args:
            trained: the only one that is wanted; `None`: all.

        Raises:
            ConfigError: no rung trains it.
        """
        sets = tuple(dict.fromkeys(rung.trained for rung in self.manifest.rungs))
        if trained is None:
            return sets
        if trained not in sets:
            raise ConfigError(
                f"no rung of {self.path} trains {trained!r}; its rungs train "
                f"{', '.join(sets)}. Choose one of these, or export again with it."
            )
        return (trained,)

    def ladder(self, trained: str | None = None) -> tuple[Rung, ...]:
        """The rungs that a plan may mix: those that train one set of parameters.

        Token-blocks are comparable only between rungs that train the same parameters.

        Args:
            trained: the set; `None`: the package's first.

        Raises:
            ConfigError: no rung trains it.
        """
        wanted, *_ = self.trained_sets(trained)
        return tuple(rung for rung in self.manifest.rungs if rung.trained == wanted)

    def largest_rungs(self, trained: str | None = None) -> list[Rung]:
        """The rungs with the highest keep-ratio, the one without micro-batches first.

        Args and errors as of `ladder`.
        """
        ladder = self.ladder(trained)
        return self.rungs_with_keep_ratio(max(rung.keep_ratio for rung in ladder), trained)

    def rung_with_keep_ratio(self, keep_ratio: float) -> Rung:
        """Of the rungs with that keep-ratio, the one with the largest micro-batch.

        Raises:
            ConfigError: outside (0, 1], or not on the ladder.
        """
        return self.rungs_with_keep_ratio(keep_ratio)[0]

    def rungs_with_keep_ratio(
        self, keep_ratio: float, trained: str | None = None
    ) -> list[Rung]:
        """The rungs with that keep-ratio that differ from the first one only by micro-batches.

        The one without micro-batches comes first, then the one with the largest.

        Args:
            keep_ratio: in (0, 1].
            trained: as of `ladder`.

        Raises:
            ConfigError: outside (0, 1], or not on the ladder; no rung trains this set.
        """
        if not 0 < keep_ratio <= 1:
            raise ConfigError(f"keep-ratio {keep_ratio:g} is outside (0, 1].")
        ladder = self.ladder(trained)
        ladder = tuple(r for r in ladder if r.patch_size_px == ladder[0].patch_size_px)
        rungs = [rung for rung in ladder if rung.keep_ratio == keep_ratio]
        if rungs:
            whole = self.manifest.batch_size + 1
            return sorted(rungs, key=lambda rung: -(rung.micro_batch or whole))
        ratios = dict.fromkeys(rung.keep_ratio for rung in ladder)
        known = ", ".join(f"{ratio:g}" for ratio in ratios)
        raise ConfigError(
            f"keep-ratio {keep_ratio:g} is not on the ladder of {self.path}; it has {known}. "
            "Choose one of these, or export again with --keep-ratios."
        )


def _kinds(specs: Iterable[TensorSpec]) -> dict[str, TensorKind]:
    """(dtype, shape) of each tensor, by name."""
    return {
        spec.name: (spec.dtype, tuple(size for size in spec.shape if size is not None))
        for spec in specs
    }


def open_package(path: StrPath) -> Package:
    """Read and verify a package.

    Args:
        path: its folder.

    Raises:
        PackageError: missing, of an unknown format, damaged, altered, naming files outside its
            folder, or with graphs that use more than themselves and standard operators.
    """
    path = Path(path)
    manifest, digest = read_manifest(path)
    for name in sorted(manifest.sha256):
        _check_file(manifest, path, name)
    return Package(path=path, manifest=manifest, digest=digest)


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """The manifest of a package, checked, and its SHA-256. No other file is read.

    Raises:
        PackageError: it is missing, of an unknown format, damaged, or names files outside its
            folder.
    """
    try:
        content = read_file(path / MANIFEST, MAX_TABLE_BYTES)
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        reason = error.strerror if isinstance(error, OSError) else error
        raise PackageError(
            f"{path} is not a training package: {MANIFEST} cannot be read "
            f"({reason}). Create one with `edge-train export`."
        ) from error
    manifest = structure(
        Manifest, _table(content, path), where=str(path / MANIFEST), error=PackageError
    )
    _check_names(manifest, path)
    return manifest, hashlib.sha256(content).hexdigest()


def _table(content: bytes, path: Path) -> dict[str, object]:
    try:
        table = parse_json(content)
    except ValueError as error:
        raise PackageError(
            f"{path / MANIFEST} is not complete JSON ({error}). Copy or export it again."
        ) from error
    number = table.get("format") if isinstance(table, dict) else None
    if number == FORMAT:
        return dict(table)
    is_older = type(number) is int and 1 <= number < FORMAT
    what = "older than" if is_older else "unknown to"
    raise PackageError(
        f"{path / MANIFEST}: package format {shown(number)} is {what} this edge-train, which "
        f"reads format {FORMAT}. Export the package again with this version, or install the "
        "version that wrote it."
    )


def _check_names(manifest: Manifest, path: Path) -> None:
    """Check that the manifest is consistent, and that no file is a link out of the folder."""
    problems = problems_of(manifest)
    if not problems:
        inside = os.path.realpath(path)
        problems = [
            f"{name!r} is a link that leaves the package"
            for name in sorted(manifest.sha256)
            if not Path(os.path.realpath(path / name)).is_relative_to(inside)
        ]
    if problems:
        lines = [f"{path / MANIFEST}: {len(problems)} problem(s)", *problems]
        raise PackageError("\n  ".join(lines))


def _check_file(manifest: Manifest, path: Path, name: str) -> None:
    """Check a file's SHA-256, and what a graph uses."""
    file = path / name
    try:
        if not file.is_file():
            raise PackageError(
                f"{path}: {name} is missing, or not a file. Copy or export the package again."
            )
        content = read_file(file, MAX_GRAPH_BYTES) if manifest.is_graph(name) else None
        actual = file_sha256(file) if content is None else hashlib.sha256(content).hexdigest()
    except OSError as error:
        raise PackageError(f"{path}: {name} cannot be read ({error.strerror}).") from error
    if actual != manifest.sha256[name]:
        raise PackageError(
            f"{path}: {name} was altered or truncated: its SHA-256 is not that of the "
            "manifest. Copy or export the package again."
        )
    if content is None:
        return
    try:
        check_graph(name, content, training_api=name in manifest.training_models())
    except ValueError as error:
        raise PackageError(
            f"{path}: {name} is not a graph that can be used: {error}. Export the package "
            "again, or take one from somebody you trust."
        ) from error
