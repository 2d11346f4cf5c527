"""The encoders of a package that run before its steps, and their forward engine."""

from collections.abc import Callable
from functools import partial

from edge_runtime.engines.base import Batch
from edge_runtime.engines.encoders.targets import Targets
from edge_runtime.engines.encoders.teacher import Read, Teacher
from edge_runtime.engines.forward import ORT, ForwardOptions, likely_forward_engine
from edge_runtime.package import Package


class Encoders:
    """Adds the features of a package's frozen encoder and of its teacher to batches."""

    def __init__(
        self, package: Package, name: str, options: ForwardOptions, read: Read
    ) -> None:
        """Load them.

        Args:
            package: with both, one of them or none.
            name: of the forward engine, or "auto": the same for both.
            options: of the forward engine.
            read: returns tensors of the present state, see `Teacher`.

        Raises:
            ConfigError: an unknown name or device.
            EngineError: one of them cannot be loaded.
            NoMemoryError: there is too little memory for it.
            PackageError: weights are not those of the manifest.
            StoppedError: `stop` of the options returned `True`.
        """
        self._targets = Targets(package, name, options)
        try:
            self._teacher = Teacher(package, name, options, read)
        except BaseException:
            self._targets.close()
            raise

    def engine_text(self) -> str | None:
        """Their forward engines as they are recorded, each once; `None`: no encoder."""
        texts = self._targets.engine_text(), self._teacher.engine_text()
        return "; ".join(dict.fromkeys(text for text in texts if text is not None)) or None

    @property
    def shares_processor(self) -> bool:
        """Whether one of them computes on the processor while a step runs."""
        return self._teacher.shares_processor

    def added_to(self, batch: Batch, following: Batch | None = None) -> Batch:
        """The batch with their features, to be called right before its step.

        Args:
            batch: of the step.
            following: of the next step, if it is known, see `Teacher`.

        Raises:
            EncoderError: a forward engine failed.
            EncoderMemoryError: it has too little memory.
            EngineError: the state cannot be read.
        """
        return self._teacher.added_to(self._targets.added_to(batch), following)

    def close(self) -> None:
        """Wait for what is being computed, and free everything."""
        try:
            self._targets.close()
        finally:
            self._teacher.close()


def likely_encoder_engine(package: Package, name: str, device: str) -> str:
    """The forward engine that `choose_encoder_engine` tries first; builds nothing.

    Raises:
        ConfigError: an unknown name or device.
    """
    likely = likely_forward_engine(name, device)
    return likely if package.manifest.forward_graphs else ORT


def choose_encoder_engine(package: Package, name: str, options: ForwardOptions) -> str:
    """The forward engine of the encoders before a step, built and checked before it is used.

    What is built is in the cache afterwards, so that neither a run nor the processes that
    measure its rungs wait for it.

    Args:
        package: with or without such encoders.
        name: of the forward engine, or "auto": the same for both.
        options: of the forward engine.

    Raises:
        ConfigError: an unknown name or device.
        EngineError: the engine that is named cannot run one of them.
        NoMemoryError: there is too little memory for it.
        PackageError: weights are not those of the manifest.
        StoppedError: `stop` of the options returned `True`.
    """
    likely = likely_encoder_engine(package, name, options.device)
    if likely == ORT:
        return ORT
    makers: list[Callable[[], Targets | Teacher]] = [
        partial(Targets, package, name, options),
        partial(Teacher, package, name, options, package.initial_state),
    ]
    for make in makers:  # a build takes memory: one is closed before the next is made
        encoder = make()
        encoder.close()
        if encoder.engine_name == ORT:
            return ORT
    return likely
