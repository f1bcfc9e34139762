"""What `mlim serve` lets the routes of a version do."""

from pathlib import Path

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from mlim.config import Config


class ApiOptions(Config):
    """Where pictures may come from besides the request itself, and how requests are computed together.

    A version is told only what differs from these defaults, so that a later option does not shut out versions that do
    not know it.
    """

    images: Path | None = Field(default=None, description="the folder below which `path` leads; null: no paths")
    url_hosts: tuple[str, ...] = Field(default=(), description="hosts that `url` may name; none: no addresses")
    private_urls: bool = Field(default=False, description="also fetch from private, loopback and link-local addresses")
    picture_mb: PositiveFloat = Field(default=50, description="largest file behind a path or an address, megabytes")
    seconds: PositiveInt = Field(default=60, description="for an answer")
    batch_wait_ms: NonNegativeFloat = Field(
        default=2.0,
        description="how long rows wait for those of other requests that are being read; 0: each request by itself",
    )
    batches_in_memory: PositiveInt = Field(default=2, description="batches of rows that are read or computed at a time")
