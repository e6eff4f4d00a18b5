"""A model made up from a header: weights of the same types and sizes, which mean nothing, in memory alone.

The kernels do with it what they would do with the real one: they read as many bytes and multiply as much.
"""

from moetool.standin.memory_file import MemoryFile, repacked_bytes
from moetool.standin.sampling import Samples, choose_samples, first_layers
from moetool.standin.weights import make_tiles, tensor_pieces

__all__ = [
    "MemoryFile",
    "Samples",
    "choose_samples",
    "first_layers",
    "make_tiles",
    "repacked_bytes",
    "tensor_pieces",
]
