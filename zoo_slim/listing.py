"""What there is to load: architectures by name, and models on the Hub."""

from typing import TYPE_CHECKING, Literal, overload

from zoo_slim._errors import HubError
from zoo_slim.registry import registry

if TYPE_CHECKING:
    from zoo_slim.hub import HubModel

__all__ = ["list_models"]


@overload
def list_models(pattern: str = "*", *, hub: Literal[False] = False) -> list[str]: ...


@overload
def list_models(
    pattern: str = "*", *, hub: Literal[True], author: str | None = None, token: str | bool | None = None
) -> "list[HubModel]": ...


def list_models(
    pattern: str = "*", *, hub: bool = False, author: str | None = None, token: str | bool | None = None
) -> "list[str] | list[HubModel]":
    """Return what matches a shell pattern such as ``"resnet*"``, sorted by name.

    Args:
        pattern: of architectures' names; on the Hub, of a repository's name (with or without ``org/``) or of its
            architecture.
        hub: list the models on the Hub, with their variants and what was measured of each, instead of the architectures
            that are installed. No weights are downloaded.
        author: user or organisation on the Hub; None: anyone.
        token: access token, with which private models are listed too; None: that of this machine; False: none.

    Returns:
        Names of architectures; or models on the Hub, see `zoo_slim.hub.HubModel`.

    Raises:
        HubError: the Hub cannot be asked, or refuses.
    """
    if hub:
        from zoo_slim.hub import list_hub

        return list_hub(pattern, author, token)
    if author is not None:
        raise HubError(f"list_models: architectures have no author; pass hub=True to list the models of {author!r}")
    return registry().names(pattern)
