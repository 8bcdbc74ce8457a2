"""URLs: which are read, how they are joined, and what of them may be seen.

A URL's query and user may be credentials: they are used to read, and never shown or stored in a dataset.
"""

import re
from typing import Final
from urllib.parse import quote, urlsplit

from pipeline.dataset.errors import UsageError
from pipeline.dataset.names import escape

SCHEMES: Final = ("s3", "gs", "gcs", "http", "https")
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/{2}")


def is_url(text: str) -> bool:
    """Whether it begins with a scheme and two slashes."""
    return _URL.match(text) is not None


def check_scheme(url: str) -> None:
    """Raises UsageError for a URL of a kind that is not read, as file:// or one that names a program."""
    if scheme_of(url) not in SCHEMES:
        raise UsageError(f"{public(url)}: not a URL that can be read; s3://, gs://, http:// and https:// are")


def scheme_of(url: str) -> str:
    """In small letters; "" where it is no URL, or names no host or bucket."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return parts.scheme.lower() if parts.netloc else ""


def is_http(url: str) -> bool:
    """Whether a query may follow its path."""
    return url[:7].lower() == "http://" or url[:8].lower() == "https://"


def public(url: str) -> str:
    """The URL without user, password, query and fragment, as one line: what may be shown and stored."""
    scheme, _, rest = url.partition("://")
    if is_http(url):
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    return escape(f"{scheme}://{host.rpartition('@')[2]}{slash}{path}")


def parent(url: str) -> str:
    """The folder that holds it, without a query."""
    return (re.split(r"[?#]", url, maxsplit=1)[0] if is_http(url) else url).rpartition("/")[0]


def join(folder: str, name: str) -> str:
    """A name below a URL; the query, if there is one, stays at the end."""
    if is_http(folder):
        path, mark, query = folder.partition("?")
        return f"{path.rstrip('/')}/{quote(name, safe='/')}{mark}{query}"
    return f"{folder.rstrip('/')}/{name}"
