"""JAX: `ps.jax.DistributedOptimizer` keeps a pytree of parameters in step with all workers."""

from ps.jax.optimizer import DistributedOptimizer

__all__ = ["DistributedOptimizer"]
