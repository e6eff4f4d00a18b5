"""What can go wrong, as a tree; each leaf knows its code and exit code, none knows who shows it.

MoetoolError            1  error
├── UsageError          2  usage            a flag or a value that cannot be meant
│   └── ConstraintError 2  constraint       a schema or grammar that cannot be compiled
├── DoesNotFit          3  does-not-fit     memory or disk is too small
│   └── DiskFull        3  disk-full
├── OutputInvalid       4  output-invalid   generated text breaks off inside its schema
├── Unanswered          4  unanswered       some prompts of a batch have no valid answer
├── NotFound            5  not-found        file, repo or quant
├── VerificationFailed  6  verification     bytes are not what the Hub stated
├── Interrupted       130  interrupted      Ctrl-C
├── HeaderError         1  bad-header       not GGUF, truncated, or lying about its sizes
├── EngineError         1  engine           llama.cpp refused or failed
│   ├── ContextFull     1  context-full
│   └── WorkerError     1  worker           a worker of --rpc is missing, another version, or gone
├── SessionError        1  session          what was kept is damaged, foreign, or of another model
├── ReferenceUnusable   1  reference        what a model is to be held against is damaged, or of another text
├── TemplateError       1  template         a chat template that cannot be rendered
└── HubError            1  hub              network, server, permission
    └── GatedRepo       1  gated
"""

from __future__ import annotations


class MoetoolError(Exception):
    """One sentence for the user, and a hint that says what to do next."""

    code = "error"
    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(MoetoolError):
    """The command line asks for something that has no meaning."""

    code = "usage"
    exit_code = 2


class ConstraintError(UsageError):
    """A schema, grammar, regex or choice that cannot be compiled."""

    code = "constraint"


class DoesNotFit(MoetoolError):
    """The machine is too small for what was asked."""

    code = "does-not-fit"
    exit_code = 3


class DiskFull(DoesNotFit):
    """The disk is too small for what would be written."""

    code = "disk-full"


class OutputInvalid(MoetoolError):
    """The text that was generated is not a whole sentence of its grammar."""

    code = "output-invalid"
    exit_code = 4


class Unanswered(MoetoolError):
    """A batch came to its end, and some of its prompts have no answer, or none that is valid."""

    code = "unanswered"
    exit_code = 4


class NotFound(MoetoolError):
    """No such file, repo, revision or quant."""

    code = "not-found"
    exit_code = 5


class VerificationFailed(MoetoolError):
    """The bytes that arrived are not the bytes that were promised."""

    code = "verification"
    exit_code = 6


class Interrupted(MoetoolError):
    """The user pressed Ctrl-C."""

    code = "interrupted"
    exit_code = 130


class HeaderError(MoetoolError):
    """Bytes that are not a GGUF header, with the offset at which that became clear."""

    code = "bad-header"

    def __init__(self, message: str, offset: int, hint: str = "") -> None:
        super().__init__(message, hint)
        self.offset = offset


class EngineError(MoetoolError):
    """llama.cpp refused or failed; the message carries the first error line of its log."""

    code = "engine"


class ContextFull(EngineError):
    """The prompt, or the answer, does not fit into the context."""

    code = "context-full"


class WorkerError(EngineError):
    """A worker cannot be used: it is not there, speaks another protocol, or went away."""

    code = "worker"


class SessionError(MoetoolError):
    """What was kept of a session cannot be used."""

    code = "session"


class ReferenceUnusable(MoetoolError):
    """A reference that a model cannot be held against."""

    code = "reference"


class TemplateError(MoetoolError):
    """The model's chat template cannot be rendered."""

    code = "template"


class HubError(MoetoolError):
    """The Hub cannot be reached, or says no."""

    code = "hub"


class GatedRepo(HubError):
    """The Hub wants a token, or the terms accepted."""

    code = "gated"
