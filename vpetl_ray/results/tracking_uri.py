"""Where MLflow keeps a search, and how a person opens it. Knows addresses, not MLflow."""

import re
import shlex
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

_HIDDEN = "***"
_SECRET_OPTION = re.compile(
    r"(?i)([?&;](?:[^=&;]*(?:password|passwd|pwd|token|secret|key)[^=&;]*)=)[^&;]+"
)


def store_in(directory: Path | str) -> tuple[str, str]:
    """Tracking URI and artifact location of a store that lies inside a search's directory."""
    root = Path(directory).resolve()
    return f"sqlite:///{root / 'mlflow.db'}", (root / "mlartifacts").as_uri()


def redact(text: str, uri: str) -> str:
    """``text`` without the credentials of ``uri``, whether it holds all of the URI or a part."""
    shown = text.replace(uri, _without_secrets(uri))
    for secret in _secrets_of(uri):
        shown = shown.replace(secret, _HIDDEN)
    return shown


def ui_command(uri: str) -> str:
    """Say what to type (or, of a server, to open in a browser) to see a search in MLflow.

    Credentials are not shown: a database URI has ``***`` where the reader's own go.
    """
    shown = _without_secrets(uri)
    if uri.startswith(("http://", "https://")):
        return shown
    # One worker answers in half the time of MLflow's four, and serves one reader as well.
    return f"{_python()} -m mlflow ui --workers 1 --backend-store-uri {shlex.quote(shown)}"


def ui_address(uri: str) -> str:
    """Where the browser finds MLflow: the server's own address, or what `ui_command` starts."""
    is_server = uri.startswith(("http://", "https://"))
    return _without_secrets(uri).rstrip("/") if is_server else "http://127.0.0.1:5000"


def _python() -> str:
    on_path = shutil.which("python")
    same = on_path is not None and Path(on_path).absolute() == Path(sys.executable).absolute()
    return "python" if same else shlex.quote(sys.executable)


def _without_secrets(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    host_part, slash, tail = rest.partition("/")
    credentials, at, host = host_part.rpartition("@")
    if at:
        user, colon, _ = credentials.partition(":")
        # Without a colon the whole of it may be a token.
        host_part = f"{user}:{_HIDDEN}@{host}" if colon else f"{_HIDDEN}@{host}"
    tail = _SECRET_OPTION.sub(rf"\g<1>{_HIDDEN}", tail)
    return f"{scheme}://{host_part}{slash}{tail}"


def _secrets_of(uri: str) -> list[str]:
    """Passwords and tokens in a URI, long enough to be looked for in other text."""
    parts = urlsplit(uri)
    found = [parts.password or (parts.username if "@" in parts.netloc else None)]
    found += [match.group().partition("=")[2] for match in _SECRET_OPTION.finditer(uri)]
    written = {secret for secret in found if secret}
    # As it stands in the URI and as a driver shows it; the longer first, for one holds the other.
    either = sorted(written | {unquote(secret) for secret in written}, key=len, reverse=True)
    return [secret for secret in either if len(secret) >= 4]
