"""What a placement takes on each device: weights, caches, states, compute and output buffers.

Pure, and exact where llama.cpp is: the caches and weights by its rules, the compute buffers by writing down
its graph and running its allocator over the sizes. Whether a placement is a good one is not said here.
"""

from moetool.memory.cache_types import CacheSize, cache_sizes
from moetool.memory.model import DeviceMemory, device_memory
from moetool.memory.placement import Placement, make_placement, place_tensors

__all__ = [
    "CacheSize",
    "DeviceMemory",
    "Placement",
    "cache_sizes",
    "device_memory",
    "make_placement",
    "place_tensors",
]
