"""Configuration of the documentation site: ``nox -s docs`` builds it, offline."""

from __future__ import annotations

import inspect
import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

import attrs
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.environment import BuildEnvironment

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

from inventories import INVENTORIES, write_inventory  # noqa: E402 -- it is beside this file
from llms import write_llms  # noqa: E402 -- likewise

import trio_dgram  # noqa: E402 -- ruff takes it for a module beside this file
from trio_dgram import dtls, quic, sim, workers  # noqa: E402 -- likewise
from trio_dgram._kernel.options import OPTIONS  # noqa: E402 -- likewise
from trio_dgram._socket.socket_options import SocketWithOptions  # noqa: E402 -- likewise

for _name in trio_dgram.__all__:
    # A public name is imported, and shown by its public path, when it is first used.
    getattr(trio_dgram, _name)

project = "trio_dgram"
author = "trio_dgram contributors"
project_copyright = author
release = version = installed_version("trio_dgram")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinxcontrib_trio",
    "sphinxext.opengraph",
]
exclude_patterns = ["_build"]
nitpicky = True
nitpick_ignore_regex = [
    # Type variables, aliases whose values the text lists, and what other projects do not document.
    (r"py:class", r"(.*\.)?(T|EventT_co|HandlerErrors|Buffer|AddressFamily|SocketKind)"),
    (r"py:class", r"AbstractAsyncContextManager|st\.SearchStrategy"),
    (r"py:class", r"Distribution|Fate|Loss|NoteKind|Schedule|Seed|StrPath|Threads|TooBig|trio_dgram\.sim\._.*"),
    # Words of the types of options.
    (r"py:class", r"addresses and networks|iterable|async|lookup|1 and 2|-> Address|math\.inf|'.*'"),
]

# The signatures of attrs classes and functions come from the code, the text from Google-style docstrings. An
# "Attributes:" section is rendered as a list, so that attributes are not documented twice.
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
for _field in PyObject.doc_field_types:
    if _field.name == "variable":
        _field.label = "Attributes"
for _name, _option in OPTIONS.items():
    # The type of the value, not that of the descriptor.
    SocketWithOptions.__annotations__[_name] = _option.type
autodoc_default_options = {
    "members": True,
    # Bases of other packages, whose members are documented there.
    "inherited-members": "object,tuple,dict,BaseException,Channel,ReceiveChannel,SendChannel,Listener,SocketType",
}

# Links to other projects resolve by committed inventories, without the network.
intersphinx_mapping = {
    name: (site, str(write_inventory(name, DOCS / "_build" / "inventories"))) for name, site in INVENTORIES.items()
}

html_theme = "furo"
html_title = "trio_dgram"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
ogp_site_url = os.environ.get("READTHEDOCS_CANONICAL_URL", "")
ogp_social_cards = {"enable": False}
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]


def simplify_signature(
    _app: Sphinx, what: str, _name: str, documented: object, _options: object, signature: str, returns: str
) -> tuple[str, str | None] | None:
    """Hide the constructor of a class that programs do not create, and the return types that sphinxcontrib-trio shows
    as ``async with`` and ``async for``."""
    if what == "function" and (returns or "").startswith(
        ("AbstractAsyncContextManager", "AsyncGenerator", "AsyncIterator")
    ):
        return signature, None
    if what not in {"class", "exception"} or not inspect.isclass(documented) or not signature:
        return None
    is_value = attrs.has(documented) or issubclass(documented, tuple)
    gotten = issubclass(documented, BaseException) or documented.__name__.endswith("Statistics")
    created = "Args:" in (documented.__doc__ or "") or (is_value and not gotten)
    return None if created else ("", None)


def shorten_listener_options(
    _app: Sphinx, _what: str, name: str, _of: object, _options: object, lines: list[str]
) -> None:
    """Do not repeat the options of sockets and of peers, which the same page lists."""
    if name.endswith("ListenerOptions"):
        del lines[lines.index("Attributes:") :]


COLON = "\N{INFORMATION SEPARATOR ONE}"


def hide_colon(_app: Sphinx, what: str, _name: str, _of: object, _options: object, lines: list[str]) -> None:
    """Keep napoleon from taking the text before a colon for the type of an attribute."""
    if what in {"attribute", "data", "property"} and lines:
        lines[0] = lines[0].replace(":", COLON)


def show_colon(_app: Sphinx, _what: str, _name: str, _of: object, _options: object, lines: list[str]) -> None:
    """Undo :func:`hide_colon` after napoleon."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def resolve_short_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.reference | None:
    """Resolve a public name from the documentation of another module than its own."""
    if node.get("refdomain") != "py":
        return None
    domain = env.domains.python_domain
    for module in (trio_dgram, dtls, quic, sim, workers):
        name = f"{module.__name__}.{node['reftarget'].removeprefix('trio_dgram.')}"
        if name in domain.objects:
            return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, contnode)
    return None


def setup(app: Sphinx) -> None:
    """Connect what this project adds to Sphinx."""
    app.connect("autodoc-process-signature", simplify_signature)
    app.connect("autodoc-process-docstring", shorten_listener_options, priority=100)
    app.connect("autodoc-process-docstring", hide_colon, priority=100)
    app.connect("autodoc-process-docstring", show_colon, priority=900)
    app.connect("missing-reference", resolve_short_name)
    app.connect("build-finished", write_llms)
