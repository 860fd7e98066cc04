"""Who asks over REST: `auth=` of the clients, with the Unpod SDK's names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@runtime_checkable
class Auth(Protocol):
    """Anything that says with which headers a request goes out."""

    def headers(self) -> dict[str, str]:
        """Return them, `Authorization` among them."""
        ...


@dataclass(frozen=True)
class BearerAuth:
    """An API key."""

    api_key: str = field(repr=False)

    def headers(self) -> dict[str, str]:
        """Return `Authorization: Bearer`."""
        return {"Authorization": f"Bearer {self.api_key}"}


@dataclass(frozen=True)
class TokenAuth:
    """A token of the platform, for one of its owner's organisations."""

    token: str = field(repr=False)
    org_handle: str | None = None

    def headers(self) -> dict[str, str]:
        """Return `Authorization: Token`, and `Org-Handle` where there is one."""
        return _of("Token", self.token, self.org_handle)


@dataclass(frozen=True)
class JWTAuth:
    """What a user of the platform is logged in with, for one of their organisations."""

    token: str = field(repr=False)
    org_handle: str | None = None

    def headers(self) -> dict[str, str]:
        """Return `Authorization: JWT`, and `Org-Handle` where there is one."""
        return _of("JWT", self.token, self.org_handle)


def _of(scheme: str, token: str, org_handle: str | None) -> dict[str, str]:
    return {"Authorization": f"{scheme} {token}"} | ({"Org-Handle": org_handle} if org_handle else {})
