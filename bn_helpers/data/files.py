"""A data set's files: found in ``BN_HELPERS_DATA`` or the cache, or downloaded, and checked."""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class DataError(RuntimeError):
    """Data could not be had, or a file or folder of it is not what it should be.

    The message names the file, what was found, what was expected and the way out.
    """


WAY_OUT = "delete it and put a good copy there, or unset BN_HELPERS_DATA to have it downloaded"


def find(
    whose: str,
    names: Sequence[str],
    *,
    subfolder: str,
    download: tuple[str, str],
    mirrors: Sequence[str],
    by_hand: str,
    pickled: Sequence[str] = (),
) -> Path:
    """Path of one of a data set's files.

    Parameters
    ----------
    whose : str, the data set, for the messages: ``"MNIST"``.
    names : str, what the file may be called, the best first; a folder's name ends in ``/``.
    subfolder : str, where in the folder ``BN_HELPERS_DATA`` it may lie too.
    download : (name, MD5) of the file that the mirrors have.
    mirrors : URLs that the name is appended to, tried in turn where the variable is unset.
    by_hand : str, how to do without the download, for the messages.
    pickled : names of a version that is never read.

    Raises
    ------
    DataError
        the folder is none or has no such file; no mirror gives it; the cache cannot be written.
    """
    named = os.environ.get("BN_HELPERS_DATA")
    if not named:
        return _fetch(whose, *download, mirrors, by_hand)
    # A folder that is set is meant: what it lacks is an error, never a reason to download.
    folder = Path(named).expanduser().absolute()
    if not folder.is_dir():
        raise DataError(f"BN_HELPERS_DATA is {folder}, which is no folder; {by_hand}")
    places = (folder, folder / subfolder)
    for path, name in ((place / name, name) for name in names for place in places):
        if path.is_dir() if name.endswith("/") else path.is_file():
            return path
    for path in (place / name for name in pickled for place in places):
        if path.exists():
            raise DataError(
                f"{path}: found {whose} only in its pickled Python version, which is never read "
                f"(loading it can run any code), expected {names[0]}; {by_hand}, or unset it to "
                "have that downloaded"
            )
    raise DataError(
        f"BN_HELPERS_DATA is {folder}, but neither it nor its subfolder {subfolder} holds "
        f"{', '.join(names[:-1])} or {names[-1]}; {by_hand}, or unset it to use the cache or a "
        "download"
    )


def _fetch(whose, name, md5, mirrors, by_hand):
    """Path of the mirrors' file in the cache, downloaded if it is missing or damaged there."""
    import pooch
    from requests import RequestException

    failures = []
    for mirror in mirrors:
        cache = pooch.create(
            path=pooch.os_cache("bn_helpers"),
            base_url=mirror,
            env="BN_HELPERS_CACHE",
            registry={name: f"md5:{md5}"},
        )
        try:
            return Path(cache.fetch(name, progressbar=True))
        except (RequestException, ValueError) as error:  # ValueError: pooch, the checksum is wrong
            failures.append(f"\n- {mirror}{name}: {error}")
        except OSError as error:  # RequestException is an OSError too: what remains is the disk
            raise DataError(
                f"the cache folder {cache.abspath} cannot be used for {name} ({error}); set "
                f"BN_HELPERS_CACHE to a folder that can be written, or {by_hand}"
            ) from None
    state = "a damaged copy" if (cache.abspath / name).exists() else "no copy"
    raise DataError(
        f"{whose}'s {name} is not to be had: BN_HELPERS_DATA is not set, the cache folder "
        f"{cache.abspath} holds {state}, and the download failed:{''.join(failures)}\n"
        f"Connect to the network and try again, or {by_hand}"
    ) from None


def bad(path: Path, found: object, expected: object) -> DataError:
    """The :class:`DataError` for a file that is not what it should be."""
    return DataError(f"{path}: found {found}, expected {expected}; {WAY_OUT}")


@contextmanager
def reading(path: Path, whole: str) -> Iterator[None]:
    """Turn errors of reading and unpacking ``path`` into a DataError; ``whole``: what it is."""
    try:
        yield
    except (EOFError, OSError, tarfile.TarError, zlib.error) as error:
        raise bad(path, f"damaged or unreadable data ({error})", f"the whole of {whole}") from None
