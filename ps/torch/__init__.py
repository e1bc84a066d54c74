"""PyTorch: `ps.torch.DistributedOptimizer` around one's own optimizer; the rest of the loop stays as it is."""

from ps.torch.optimizer import DistributedOptimizer

__all__ = ["DistributedOptimizer"]
