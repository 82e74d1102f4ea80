"""What every node of the pack does before it runs, and what it says when it fails in a way that nobody foresaw."""

from __future__ import annotations

import dis
import logging
import re
import traceback
from functools import cache, wraps
from inspect import signature
from pathlib import Path
from typing import Any

import comfy.model_management
from comfy_api.latest import io

from ...sma import __version__
from ...sma.checks import shown
from .choices import check_choices
from .links import check_links
from .values import check_values

REPORT_AT = "https://github.com/spectral-motion/ComfyUI-Spectral-Motion/issues"

logger = logging.getLogger(__name__)

_OWN = tuple(Path(__file__).resolve().parents[2] / part for part in ("nodes", "sma"))
_PACKAGE = __package__.removesuffix("nodes.host")
# What the pack's own code raises with a sentence for the user.
_SENTENCES = (ValueError, ImportError)
# "/a/b/name" and "C:\a\b\name", in quotes with spaces too; the name stays.
_QUOTED_PATH = re.compile(r"""(['"])(?:[A-Za-z]:)?[\\/][^'"]*[\\/]([^'"\\/]*)\1""")
_PATH = re.compile(r"""(?<![\w.:/\\])(?:[A-Za-z]:)?[\\/](?:[^\s'"\\/:]+[\\/])+""")


def checked(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """Makes a node refuse choices and values that it cannot take, and end in one line whatever happens; returns the node.

    The host's cancel and a full device memory reach the host as they are: it handles both.
    """
    execute = node.execute.__func__
    schema = cache(lambda: node.define_schema())
    # Prompts that were saved before an input came lack it.
    defaults = {name for name, given in signature(execute).parameters.items() if given.default is not given.empty}

    @wraps(execute)
    def run(cls: type[io.ComfyNode], **values: Any) -> io.NodeOutput:
        name = schema().display_name
        try:
            check_choices(values, schema().inputs)
            check_values(values, schema().inputs, defaults)
            check_links(values, schema().inputs)
            return execute(cls, **values)
        except Exception as error:  # noqa: BLE001  the last resort; what the host handles passes
            if _is_ours(error) or _is_the_hosts(error):
                raise
            # As text, and raised from outside: whatever keeps the error keeps the model that its traceback leads to.
            logger.error("%s stopped on an unexpected error\n%s", name, traceback.format_exc())
            failure = _failure(name, error)
        raise failure

    node.execute = classmethod(run)
    return node


def _is_ours(error: Exception) -> bool:
    """Whether the pack's own code raised an error, with a sentence; libraries raise ValueErrors as well, and kinds of them."""
    if type(error).__module__.startswith(_PACKAGE):
        return True
    if type(error) not in _SENTENCES:
        return False
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    # Python itself raises ValueErrors in our code as well, as where values are unpacked.
    raised = dis.opname[code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"
    return raised and any(Path(code.co_filename).is_relative_to(own) for own in _OWN)


def _is_the_hosts(error: Exception) -> bool:
    """The cancel, which is an ordinary exception in older hosts, or a full device memory."""
    management = comfy.model_management
    if isinstance(error, management.InterruptProcessingException):
        return True
    is_oom = getattr(management, "is_oom", None)
    return is_oom(error) if is_oom else isinstance(error, management.OOM_EXCEPTION)


def _failure(name: str, error: Exception) -> Exception:
    """What the page is shown in place of an error, in one line and without paths of the server."""
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return MemoryError(f"{name} needs more memory than there is. Use fewer frames or pixels, or a smaller model.")
    if isinstance(error, OSError) and error.strerror:
        file = f" {shown(Path(error.filename).name)}" if isinstance(error.filename, str) else " a file"
        reason = error.strerror.lower()
        return RuntimeError(f"{name} could not use{file} ({reason}). Look at its permissions and at the free space.")
    said = " ".join(str(error).split())
    said = _PATH.sub("", _QUOTED_PATH.sub(r"\1\2\1", said))
    said = f"{type(error).__name__}: {said[:200]}{'...' if len(said) > 200 else ''}" if said else type(error).__name__
    return RuntimeError(
        f"{name} stopped on an unexpected error ({said}). The log has the details; please report them at {REPORT_AT} "
        f"(Spectral Motion {__version__})."
    )
