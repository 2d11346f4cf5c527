"""What a driver says about one GPU."""

from dataclasses import dataclass

DISCRETE, INTEGRATED, VIRTUAL, SOFTWARE, OTHER = (
    "discrete", "integrated", "virtual", "software", "other",
)  # fmt: skip
KINDS = (DISCRETE, INTEGRATED, VIRTUAL, OTHER, SOFTWARE)  # the preferred ones first


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One adapter of Vulkan, or one device of CUDA."""

    name: str
    kind: str  # one of `KINDS`; software: a processor that pretends to be a GPU
    driver: str | None  # with its version: "NVIDIA 580.82.07"
    api: str  # "Vulkan 1.4.305" or "CUDA 13.0"
    compute_capability: str | None = None  # of CUDA: "8.7"

    @property
    def is_software(self) -> bool:
        """Whether a processor computes: it is then slower than the processor alone."""
        return self.kind == SOFTWARE

    def text(self) -> str:
        """Name and driver, which together decide what a step costs on it."""
        return self.name if self.driver is None else f"{self.name}, {self.driver}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """The GPUs that one interface offers, or why there are none."""

    gpus: tuple[Gpu, ...]
    problem: str | None  # None where there are some
    is_broken: bool = False  # the driver has ended the process that asked it, or hangs
