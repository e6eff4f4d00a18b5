"""The door to the Hub: listing, remote headers, download, verification. The only room that imports
huggingface_hub, and only inside functions: whoever runs a local model must not pay for it.

Every foreign error (HTTP, network, disk) is translated here, once, into the error tree. No message holds
a token or an address with a signature in it.
"""

from moetool.hub.client import Hub, Retry, read_hub
from moetool.hub.download import Download, ReadFreeBytes, check_disk, download, missing_bytes
from moetool.hub.jobs import run_jobs
from moetool.hub.listing import Choose, RepoListing, first_choice, list_files, select_quant, select_sidecars
from moetool.hub.locks import hold_blobs
from moetool.hub.range_file import HttpRangeFile, open_remote
from moetool.hub.search import FoundRepo, search_repos
from moetool.hub.trouble import FileChanged, Trouble

__all__ = [
    "Choose",
    "Download",
    "FileChanged",
    "FoundRepo",
    "HttpRangeFile",
    "Hub",
    "ReadFreeBytes",
    "RepoListing",
    "Retry",
    "Trouble",
    "check_disk",
    "download",
    "first_choice",
    "hold_blobs",
    "list_files",
    "missing_bytes",
    "open_remote",
    "read_hub",
    "run_jobs",
    "search_repos",
    "select_quant",
    "select_sidecars",
]
