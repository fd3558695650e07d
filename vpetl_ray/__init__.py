"""vpetl_ray: search for the best parameter-efficient way to adapt a frozen video model."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vpetl_ray.loading import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> object:
    """Give `load` when it is asked for: what it needs takes a moment to import."""
    if name == "load":
        from vpetl_ray.loading import load  # noqa: PLC0415

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
