"""The tokeniser that a text backbone brings: from its folder, or from the hub it is named by.

Knows no torch: whoever only tokenises need not wait for it.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.data.tokeniser import FILES, Tokeniser, TokeniserError, tokeniser_in
from pipeline.models.config import ModelConfig


def tokeniser_of(config: ModelConfig) -> Tokeniser:
    """The tokeniser of ``config.backbone``, cut and padded to ``config.tokens``.

    Raises ``TokeniserError`` where there is none, where it cannot be used, and where a name
    needs the hub and the hub is out of reach.
    """
    library, _, name = config.backbone.partition(":")
    if library != "transformers":
        raise TokeniserError(
            f"model.backbone: {config.backbone!r} reads no text; expected 'transformers:NAME', a "
            "text model of the hub, or 'transformers:./FOLDER', one beside the recipe"
        )
    return tokeniser_in(config.folder or _downloaded(name), config.tokens)


def _downloaded(name: str) -> Path:
    """The folder in which the hub's client keeps the tokenizer of ``name``."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise TokeniserError(
            f"model.backbone: transformers:{name} needs: pip install 'limen[models]'"
        ) from error
    try:
        cached = Path(snapshot_download(name, allow_patterns=list(FILES), local_files_only=True))
        if (cached / FILES[0]).is_file():
            return cached
    except (OSError, ValueError):
        pass  # not asked for before
    try:
        return Path(snapshot_download(name, allow_patterns=list(FILES)))
    except (OSError, ValueError) as error:
        raise TokeniserError(
            f"model.backbone: no tokenizer of {name!r} ({type(error).__name__}); where there is no "
            "network, save model and tokenizer to a folder elsewhere, bring it beside the recipe "
            "and name it: transformers:./FOLDER"
        ) from error
