"""Parametrizations of weights, one file each. A new one needs a file and a line here."""

from edge_export.parametrizations.base import Parametrization, ParametrizationSetting
from edge_export.parametrizations.lora import Lora, LoraOptions
from edge_runtime.errors import ConfigError

PARAMETRIZATIONS: dict[str, type[Parametrization]] = {
    parametrization.name: parametrization for parametrization in (Parametrization, Lora)
}


def parametrization_named(name: str) -> type[Parametrization]:
    """The parametrization of that name.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in PARAMETRIZATIONS:
        known = ", ".join(PARAMETRIZATIONS)
        raise ConfigError(f"unknown parametrization {name!r}; known are {known}.")
    return PARAMETRIZATIONS[name]


__all__ = [
    "PARAMETRIZATIONS",
    "Lora",
    "LoraOptions",
    "Parametrization",
    "ParametrizationSetting",
    "parametrization_named",
]
