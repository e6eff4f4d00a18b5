"""GGUF headers from a given stream: metadata, tensor table, shards. Untrusted input throughout.

Any object with `read`, `seek` and `tell` will do (a file, BytesIO, an mmap, a remote range): where the bytes
come from is not this room's business, nor what the metadata means. The rules are llama.cpp's (0c1e57098), so
that a header read here is one that llama.cpp would read. Every count and length is held against what is left
of the stream before memory is taken or time is spent, and large arrays (vocabularies, merges) are stepped
over, to be decoded by `read_array` when somebody asks.
"""

from moetool.gguf.header import ArrayRef, Header, KnownRun, Scalar, Split, TensorInfo, Value, check_data
from moetool.gguf.hollow import hollow_file
from moetool.gguf.reader import known_runs, open_header, read_array, read_header
from moetool.gguf.shards import merge_shards, shard_names

__all__ = [
    "ArrayRef",
    "Header",
    "KnownRun",
    "Scalar",
    "Split",
    "TensorInfo",
    "Value",
    "check_data",
    "hollow_file",
    "known_runs",
    "merge_shards",
    "open_header",
    "read_array",
    "read_header",
    "shard_names",
]
