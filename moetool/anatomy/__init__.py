"""What a model is made of, from its header alone: layers, roles, parameters, bytes, what it must remember.

Roles come from tensor names, kinds of layers from tensors and metadata; only what a file leaves out stands in
a table (`facts`). Knows no machine and no placement.
"""

from moetool.anatomy.layers import CacheRow, Layer
from moetool.anatomy.model import Anatomy, Sparse, make_anatomy
from moetool.anatomy.roles import ROLES, Role, RoledTensor, layer_of, role_of
from moetool.anatomy.routing import Routing
from moetool.anatomy.shifting import why_no_shift
from moetool.anatomy.sizes import effective_size, kv_bytes_per_token, kv_window_bytes, state_bytes

__all__ = [
    "ROLES",
    "Anatomy",
    "CacheRow",
    "Layer",
    "Role",
    "RoledTensor",
    "Routing",
    "Sparse",
    "effective_size",
    "kv_bytes_per_token",
    "kv_window_bytes",
    "layer_of",
    "make_anatomy",
    "role_of",
    "state_bytes",
    "why_no_shift",
]
