"""Every error of the runtime, with the exit code that the command line gives it.

EdgeRuntimeError
  ConfigError        a flag, a recipe or a settings file is wrong    exit 2
  PackageError       the training package is wrong                   exit 3
  DeviceError        sensor, clock or memory of a board              exit 4
    SensorError      a power sensor is missing or lost
    ModeError        a power mode cannot be set
    NoMemoryError    the runtime gets no memory from a device
      EncoderMemoryError   nor for an encoder before the step
  EngineError        an engine is missing or failed                 exit 5
    EncoderError     an encoder before the step failed
  DataError          pictures                                        exit 6
  RecordsError       a run folder                                    exit 6
  BudgetError        no plan fits the budget                         exit 7
  DivergedError      the loss is not a finite number                 exit 8
  StorageError       a disk is full, read-only or gone               exit 9
  StoppedError       SIGINT or SIGTERM, after a checkpoint           exit 130
"""


class EdgeRuntimeError(Exception):
    """Base of every error that a user can cause and fix."""

    exit_code = 1


class ConfigError(EdgeRuntimeError):
    """A flag, a recipe or a settings file is wrong."""

    exit_code = 2


class PackageError(EdgeRuntimeError):
    """A training package is missing, damaged, foreign or of an unknown format."""

    exit_code = 3


class DeviceError(EdgeRuntimeError):
    """A sensor, the clock or the memory of a board."""

    exit_code = 4


class SensorError(DeviceError):
    """A power sensor is missing, was removed, or cannot be read any more."""


class ModeError(DeviceError):
    """A power mode of the board cannot be set, or was changed by somebody else."""


class NoMemoryError(DeviceError):
    """The runtime gets no more memory from the system or from a GPU.

    If that was in a step, the state is that before it, and a smaller rung may still fit.
    """


class EncoderMemoryError(NoMemoryError):
    """There is no memory for an encoder before the step: a smaller rung has the same one."""

    def __init__(self, message: str, device: str) -> None:
        """`device` is that of the encoder, which may be another one than the step's."""
        super().__init__(message)
        self.device = device


class EngineError(EdgeRuntimeError):
    """An engine is not installed, refuses the package, or failed in a step."""

    exit_code = 5


class EncoderError(EngineError):
    """An encoder before the step failed while it computed features or took weights.

    The state is that before the step.
    """

    def __init__(self, message: str, device: str) -> None:
        """`device` is that of the encoder, which may be another one than the step's."""
        super().__init__(message)
        self.device = device


class DataError(EdgeRuntimeError):
    """Pictures are missing, unreadable or too few."""

    exit_code = 6


class RecordsError(EdgeRuntimeError):
    """A run folder is missing, damaged or of an unknown format."""

    exit_code = 6


class BudgetError(EdgeRuntimeError):
    """No plan fits; the message names the limit and the nearest budget that works."""

    exit_code = 7


class DivergedError(EdgeRuntimeError):
    """The loss is NaN or infinite."""

    exit_code = 8


class StorageError(EdgeRuntimeError):
    """A file could not be written."""

    exit_code = 9


class StoppedError(EdgeRuntimeError):
    """SIGINT or SIGTERM ended a run; its checkpoint is saved."""

    exit_code = 130


def how_to_install(extra: str) -> str:
    """How to add an optional part, for messages: edge-train is on no package index."""
    return f"pip install 'PATH[{extra}]', PATH being the checkout or the wheel of edge-train"
