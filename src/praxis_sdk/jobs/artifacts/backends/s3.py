"""Artifacts in S3 or what speaks like it, through obstore; the only module that imports it.

A small object is put in one conditional request (`If-None-Match: *`), so that it is created and never replaced.
A large one is uploaded in parts, which S3's protocol through obstore cannot make conditional: two uploads
of it at once both complete, with the same bytes, because every body is checked against the digest in the
key before its last part is sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from praxis_sdk.errors import MissingExtra, ValidationError
from praxis_sdk.jobs.artifacts.backends.backend import ObjectStat
from praxis_sdk.jobs.artifacts.body import Body
from praxis_sdk.jobs.artifacts.errors import ArtifactStoreUnavailable
from praxis_sdk.jobs.artifacts.threads import in_thread

if TYPE_CHECKING:
    from obstore.store import S3Store

_SINGLE_PUT_BYTES: Final = 8 << 20
_PART_BYTES: Final = 8 << 20
_MAX_PARTS: Final = 10_000
_PARTS_AT_ONCE: Final = 2  # with the part in the making, so many are in memory for one upload
_READ_BYTES: Final = 1 << 20
_LIST_PAGE: Final = 1000
_TIMEOUT_S: Final = 30.0  # without a byte; a whole transfer may take longer
_TRANSFER_S: Final = 3600.0
_MAX_RETRIES: Final = 3
_MAX_WORDS: Final = 300
# Whoever gets at the bucket with a browser downloads, and opens nothing.
_ATTRIBUTES: Final = {"Content-Type": "application/octet-stream", "Content-Disposition": "attachment"}
_TRUE: Final = ("1", "true", "yes", "on")


@dataclass(frozen=True, slots=True)
class S3Options:
    """How to reach a bucket; what is None is looked up as AWS tools do (environment, web identity, instance).

    Args:
        endpoint: address of an S3-compatible service; None for AWS.
        region: its region.
        access_key_id: first half of a key.
        secret_access_key: second half; not shown in logs.
        session_token: for temporary keys; not shown in logs.
        virtual_hosted: the bucket is part of the host name instead of the path.
        allow_http: unencrypted connections are acceptable.
    """

    endpoint: str | None = None
    region: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    virtual_hosted: bool = False
    allow_http: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> S3Options:
        """Read the variables that AWS tools read, and two of obstore.

        AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL, AWS_REGION or AWS_DEFAULT_REGION, AWS_ALLOW_HTTP and
        AWS_VIRTUAL_HOSTED_STYLE_REQUEST. Keys are left to obstore, which reads them itself.
        """
        return cls(
            endpoint=environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL"),
            region=environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION"),
            virtual_hosted=environment.get("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "").lower() in _TRUE,
            allow_http=environment.get("AWS_ALLOW_HTTP", "").lower() in _TRUE,
        )


class Bucket:
    """A `Backend` in a bucket that exists already.

    Args:
        bucket: its name.
        prefix: comes before every key; may be empty.
        options: how to reach it.

    Raises:
        MissingExtra: obstore is not installed.
        ValidationError: obstore does not accept the options.
    """

    def __init__(self, bucket: str, prefix: str, options: S3Options) -> None:
        self._bucket = bucket
        self._prefix = prefix.strip("/")
        self._obstore = _import_obstore()
        self._store = _make_store(bucket, self._prefix, options)

    def uri(self, key: str) -> str:
        """Return `s3://BUCKET/PREFIX/KEY`."""
        return "s3://" + "/".join(part for part in (self._bucket, self._prefix, key) if part)

    async def create(self, key: str, body: Body) -> bool:
        """See `Backend.create`."""
        if body.size_bytes > _SINGLE_PUT_BYTES:
            if await self.stat(key) is not None:
                return False
            await self._put_parts(key, body)
            return True
        data = await in_thread(_whole, body)
        try:
            await self._put(key, data, mode="create")
        except self._obstore.exceptions.AlreadyExistsError:
            return False
        return True

    async def renew(self, key: str, body: Body) -> None:
        """See `Backend.renew`: S3 gives an object a new time only when it is written."""
        if body.size_bytes > _SINGLE_PUT_BYTES:
            await self._put_parts(key, body)
        else:
            await self._put(key, await in_thread(_whole, body), mode="overwrite")

    async def stat(self, key: str) -> ObjectStat | None:
        """See `Backend.stat`."""
        try:
            with self._translated():
                meta = await self._obstore.head_async(self._store, key)
        except FileNotFoundError:
            return None
        return ObjectStat(key, meta["size"], meta["last_modified"].timestamp())

    async def read(self, key: str) -> AsyncGenerator[bytes, None]:
        """See `Backend.read`."""
        with self._translated():
            result = await self._obstore.get_async(self._store, key)
        stream = aiter(result.stream(_READ_BYTES))
        while True:
            try:
                with self._translated():
                    chunk = await anext(stream)
            except StopAsyncIteration:
                return
            yield bytes(chunk)

    async def objects(self, prefix: str) -> AsyncIterator[ObjectStat]:
        """See `Backend.objects`."""
        pages = aiter(self._obstore.list(self._store, prefix, chunk_size=_LIST_PAGE))
        while True:
            try:
                with self._translated():
                    page = await anext(pages)
            except StopAsyncIteration:
                return
            for meta in page:
                yield ObjectStat(meta["path"], meta["size"], meta["last_modified"].timestamp())

    async def remove(self, key: str) -> None:
        """See `Backend.remove`."""
        with self._translated(), contextlib.suppress(FileNotFoundError):
            await self._obstore.delete_async(self._store, key)

    async def tidy(self, before_s: float) -> None:
        """See `Backend.tidy`: uploads that were cut off are removed by a lifecycle rule of the bucket."""

    async def _put(self, key: str, data: bytes, mode: str) -> None:
        with self._writing():
            await self._obstore.put_async(
                self._store, key, data, mode=mode, attributes=_ATTRIBUTES, use_multipart=False
            )

    async def _put_parts(self, key: str, body: Body) -> None:
        part_bytes = max(_PART_BYTES, -(-body.size_bytes // _MAX_PARTS))
        with self._writing():
            await self._obstore.put_async(
                self._store,
                key,
                _in_threads(body, part_bytes),
                attributes=_ATTRIBUTES,
                chunk_size=part_bytes,
                max_concurrency=_PARTS_AT_ONCE,
            )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Say what a "not found" means to a write: the bucket."""
        try:
            with self._translated():
                yield
        except FileNotFoundError as error:
            raise self._unavailable(error) from error

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        exceptions = self._obstore.exceptions
        try:
            yield
        except exceptions.AlreadyExistsError:
            raise
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise self._unavailable(error) from error
            raise
        except (exceptions.BaseError, OSError) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> ArtifactStoreUnavailable:
        words = " ".join(str(error).split("Debug source:")[0].split())[:_MAX_WORDS]
        return ArtifactStoreUnavailable(
            f"the bucket '{self._bucket}' cannot be used: {words}",
            remedy="check that it exists, its endpoint and the credentials",
        )


def _whole(body: Body) -> bytes:
    return b"".join(body.chunks(_SINGLE_PUT_BYTES))


async def _in_threads(body: Body, chunk_bytes: int) -> AsyncIterator[bytes]:
    """Yield a body's chunks, reading and hashing them beside the event loop."""
    chunks = body.chunks(chunk_bytes)
    while (chunk := await in_thread(next, chunks, None)) is not None:
        yield chunk


def _import_obstore() -> Any:
    try:
        import obstore
        import obstore.exceptions
        import obstore.store
    except ImportError as error:
        raise MissingExtra("obstore", "jobs") from error
    return obstore


def _make_store(bucket: str, prefix: str, options: S3Options) -> S3Store:
    obstore = _import_obstore()
    given = {
        "endpoint": options.endpoint,
        "region": options.region,
        "access_key_id": options.access_key_id,
        "secret_access_key": options.secret_access_key,
        "session_token": options.session_token,
    }
    try:
        store: S3Store = obstore.store.S3Store(
            bucket,
            prefix=prefix or None,
            virtual_hosted_style_request=options.virtual_hosted,
            client_options={
                "allow_http": options.allow_http,
                "connect_timeout": timedelta(seconds=_TIMEOUT_S),
                "read_timeout": timedelta(seconds=_TIMEOUT_S),
                "timeout": timedelta(seconds=_TRANSFER_S),
            },
            retry_config={"max_retries": _MAX_RETRIES, "retry_timeout": timedelta(seconds=_TIMEOUT_S)},
            **{name: value for name, value in given.items() if value is not None},
        )
    except (obstore.exceptions.BaseError, ValueError, TypeError) as error:
        words = " ".join(str(error).split("Debug source:")[0].split())[:_MAX_WORDS]
        raise ValidationError(f"artifact store s3://{bucket}: {words}") from error
    return store
