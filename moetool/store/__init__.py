"""What is on this disk: the models in the Hub's cache folder, and which of their bytes were verified."""

from moetool.store.layout import (
    VerifiedBlob,
    blob_path,
    digest_of,
    is_blob_right,
    is_verified,
    read_cache_dir,
    read_record,
    repo_dir,
    snapshot_path,
    start_hash,
    write_atomically,
    write_record,
)
from moetool.store.models import (
    LocalModel,
    OnProgress,
    find_local,
    list_local,
    list_repo,
    match_repo,
    require_local,
    verify_local,
)

__all__ = [
    "LocalModel",
    "OnProgress",
    "VerifiedBlob",
    "blob_path",
    "digest_of",
    "find_local",
    "is_blob_right",
    "is_verified",
    "list_local",
    "list_repo",
    "match_repo",
    "read_cache_dir",
    "read_record",
    "repo_dir",
    "require_local",
    "snapshot_path",
    "start_hash",
    "verify_local",
    "write_atomically",
    "write_record",
]
