"""Addresses (URLs) and the secrets that may be in them: found, refused, never shown."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit

HIDDEN = "***"
_SECRET_NAME = r"password|passwd|passphrase|pwd|token|secret|credential|key"  # noqa: S105 - names
_SHORT_NAME = "pass|auth|authorization|sig|signature|jwt|bearer"
_SECRET_OPTION = re.compile(
    rf"(?i)([?&;#](?:[^=&;#]*(?:{_SECRET_NAME})[^=&;#]*|{_SHORT_NAME})=)[^&;#]+"
)
_LOGIN = re.compile(r"(://[^/\s@:]*:)[^/\s@]+(?=@)")
_SECRET_VARIABLE = re.compile(
    r"PASSWORD|PASSWD|TOKEN|SECRET|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE_KEY"
)
_LEAST_LENGTH = 4
"""Of what is looked for in other text: shorter, it would be found in words."""
_LEAST_LENGTH_OF_VARIABLE = 8


def has_secret(address: str) -> bool:
    """Whether it holds a password, a token, or a user's name where either may be."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "@" in address
    return "@" in parts.netloc or _SECRET_OPTION.search(address) is not None


def without_secrets(address: str) -> str:
    """Write it with ``***`` where its secrets are."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return address
    host_part, slash, tail = rest.partition("/")
    credentials, at, host = host_part.rpartition("@")
    if at:
        user, colon, _ = credentials.partition(":")
        # Without a colon the whole of it may be a token.
        host_part = f"{user}:{HIDDEN}@{host}" if colon else f"{HIDDEN}@{host}"
    tail = _SECRET_OPTION.sub(rf"\g<1>{HIDDEN}", tail)
    host_part = _SECRET_OPTION.sub(rf"\g<1>{HIDDEN}", host_part)
    return f"{scheme}://{host_part}{slash}{tail}"


def redact(text: str, address: str = "") -> str:
    """``text`` without the secrets of an address and of this process's environment.

    Args:
        text: may hold all of the address, a part of it, or what a variable's value is.
        address: of the server that the text is about.
    """
    shown = text.replace(address, without_secrets(address)) if address else text
    for secret in _secrets_of(address) + _secrets_of_environment():
        shown = shown.replace(secret, HIDDEN)
    return _LOGIN.sub(rf"\g<1>{HIDDEN}", shown)


def _secrets_of(address: str) -> list[str]:
    """Passwords and tokens in an address, as they stand there and as a driver shows them."""
    try:
        parts = urlsplit(address)
        found = [parts.password or (parts.username if "@" in parts.netloc else None)]
    except ValueError:
        found = []
    found += [match.group().partition("=")[2] for match in _SECRET_OPTION.finditer(address)]
    written = {secret for secret in found if secret}
    # The longer first, for one may hold the other.
    either = sorted(written | {unquote(secret) for secret in written}, key=len, reverse=True)
    return [secret for secret in either if len(secret) >= _LEAST_LENGTH]


def _secrets_of_environment() -> list[str]:
    """Values of variables with such a name, and the secrets in variables that hold an address."""
    found = []
    for name, value in os.environ.items():
        is_path = value.startswith(("/", "~", "."))
        if _SECRET_VARIABLE.search(name.upper()) and not is_path:
            found += [value] if len(value) >= _LEAST_LENGTH_OF_VARIABLE else []
        elif "://" in value and "@" in value:
            found += _secrets_of(value)
    return sorted(found, key=len, reverse=True)
