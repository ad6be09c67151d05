"""optax is compared in float64 too."""

from __future__ import annotations

try:
    import jax
except ImportError:
    pass
else:
    jax.config.update("jax_enable_x64", True)
