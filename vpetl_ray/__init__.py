"""vpetl_ray: search for the best parameter-efficient way to adapt a frozen video model."""

__version__ = "0.1.0"
