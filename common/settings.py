"""Settings: read once, validated at start, frozen. Nothing else in the code base reads the environment."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_LEAST_KEY = 32


class Settings(BaseSettings):
    """Every setting of every process, as `DARKROOM_<NAME>` in the environment or in `.env`.

    Raises `pydantic.ValidationError` naming the setting and what is allowed.
    """

    model_config = SettingsConfigDict(
        env_prefix="DARKROOM_",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    data_dir: Path = Field(
        Path("darkroom-data"), description="Folder of everything embedded: database, doorbells, objects."
    )
    database_url: str = Field(
        "", description="SQLAlchemy URL, `postgresql://…` or `sqlite:///…`; empty: SQLite in the data folder."
    )
    broker_url: str = Field(
        "", description="Celery broker, `redis://…` or `amqp://…`; empty: files in the data folder."
    )
    store_url: str = Field(
        "",
        description="Object store, `s3://bucket/prefix?endpoint=…&region=…&style=path` or `file:///…`; "
        "empty: the data folder.",
    )
    store_public_url: str | None = Field(
        None, description="Endpoint that clients reach the S3 store at, when it differs."
    )
    models_file: Path | None = Field(None, description="A `models.toml` that replaces the built-in catalogue.")
    models_dir: Path | None = Field(
        None, description="Folder of local checkpoints named by the catalogue; default: the hub cache."
    )
    hf_token: SecretStr | None = Field(
        None, validation_alias="HF_TOKEN", description="Hugging Face token for gated repositories."
    )

    host: str = Field("127.0.0.1", description="Address that the API listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Port that the API listens on; 0 takes a free one.")
    public_url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="Base URL that clients reach the API at, when it differs, such as behind a TLS proxy.",
    )
    auth: Literal["none", "keys"] = Field(
        "none", description="`keys` asks for a bearer key; `none` is for loopback only."
    )
    docs: bool = Field(True, description="Whether the API serves `/docs` and `/openapi.json`.")
    max_body_bytes: int = Field(32 << 20, gt=0, description="Largest request body, in bytes.")
    max_image_bytes: int = Field(20 << 20, gt=0, description="Largest image in a request, in bytes.")
    max_image_pixels: int = Field(16_777_216, gt=0, description="Largest image, in pixels.")
    decoders: int = Field(2, ge=1, le=64, description="Image decoding processes per API process.")
    allow_private_urls: bool = Field(
        False,
        description="Whether the URLs of images and webhooks may lead to private and loopback addresses and use http; "
        "for development.",
    )
    secret_key: SecretStr | None = Field(
        None,
        min_length=_LEAST_KEY,
        description="What webhook secrets are encrypted with, at least 32 characters, the same for API and couriers; "
        "several separated by commas: the first encrypts, all decrypt. Empty: with SQLite a file in the data folder.",
    )
    webhook_schedule: str = Field(
        "5,300,1800,7200,18000,36000,50400,72000,86400",
        pattern=r"^\d+(\.\d+)?(,\d+(\.\d+)?)*$",
        description="Pauses between the attempts of a delivery, in seconds (± 20 %).",
    )
    webhook_timeout_seconds: float = Field(15, gt=0, description="Longest call of a webhook, in seconds.")
    webhook_threads: int = Field(32, ge=4, le=256, description="Webhook calls that one courier makes at once.")
    webhooks_per_host: int = Field(4, ge=1, le=64, description="Webhook calls to one host at once, over all couriers.")
    webhook_disable_seconds: float = Field(
        432000, gt=0, description="A webhook that failed at every call for so long is disabled, in seconds."
    )
    webhook_rotation_seconds: float = Field(
        86400, ge=0, description="How long a replaced webhook secret still signs beside the new one, in seconds."
    )
    delivery_log_seconds: float = Field(
        1209600, gt=0, description="How long a delivery stays in the log after its end, in seconds."
    )
    stream_ping_seconds: float = Field(15, gt=0, description="Between two comments on a silent stream, in seconds.")
    stream_stall_seconds: float = Field(
        20, gt=0, description="A stream whose reader takes nothing for so long is dropped, in seconds."
    )
    stream_seconds: float = Field(
        900, gt=0, description="Longest life of a stream, in seconds; its client then connects again and loses nothing."
    )
    max_waiters: int = Field(
        4000,
        ge=1,
        description="Streams and long polls that one API process holds at once; further ones are refused. Never more "
        "than its limit of open files (`ulimit -n`, raised to the hard limit at the start) less 256.",
    )
    courier_threads: int = Field(4, ge=1, le=64, description="Errands that one courier runs at once.")
    batch_chunk: int = Field(
        5000, ge=1, le=20_000, description="Lines of a batch that one transaction checks or writes."
    )
    result_url_seconds: int = Field(900, ge=10, description="Life of a presigned result URL, in seconds.")

    pool: str = Field("default", pattern=r"^[a-z0-9-]{1,32}$", description="Pool that a worker serves.")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|stub|cuda(:\d+)?)$", description="Device of a worker.")
    pinned_device: str | None = Field(None, description="Set by the launcher: the one device that this process sees.")
    model_memory_bytes: int = Field(
        0, ge=0, description="What loaded models may take together, in bytes; 0: 60 % of the device's memory."
    )
    engine: Literal["auto", "pipeline", "step"] = Field(
        "auto",
        description="`step`: unlike jobs share forward passes and come and go between them; `pipeline`: plain "
        "diffusers calls; `auto`: `step` for the families that it can do.",
    )
    max_rows: int = Field(
        32, ge=2, le=256, description="Most rows of one forward pass; an image has two, without guidance one."
    )
    row_memory_bytes: int = Field(
        0, ge=0, description="What the rows of one forward pass may take, in bytes; 0: 30 % of the device's memory."
    )
    batch_frames: int = Field(
        8, ge=1, le=64, description="Images of like jobs that one diffusers call may take together (`pipeline`)."
    )
    compile: Literal["off", "regional"] = Field(
        "off", description="`regional`: compile the repeated blocks of UNets, behind the scenes, per number of rows."
    )
    channels_last: bool = Field(
        False, description="Whether UNets and VAEs keep channels last in memory, which is faster on many GPUs."
    )
    fuse_qkv: bool = Field(
        False, description="Whether attention computes its three projections as one; no adapters then."
    )
    offload: Literal["off", "model"] = Field(
        "off",
        description="`model`: parts of a model wait in main memory until they are needed, for small GPUs (`pipeline`).",
    )
    launcher: str = Field("", description="Set by a launcher for the workers that it starts: its token.")
    store_threads: int = Field(8, ge=1, le=64, description="Results that a worker encodes and stores at once.")
    prepare_threads: int = Field(4, ge=1, le=64, description="Jobs that a worker fetches and prepares at once.")
    stub_step_seconds: float = Field(0, ge=0, description="A step of the `stub` device, which tests of the queue use.")
    torch_threads: int = Field(
        0, ge=0, description="CPU threads of torch in a worker; 0: half of the cores, at least one."
    )

    lease_seconds: float = Field(30, gt=0, description="How long a claim holds without a heartbeat, in seconds.")
    heartbeat_seconds: float = Field(5, gt=0, description="Between two renewals of a lease, in seconds.")
    sweep_seconds: float = Field(5, gt=0, description="Between two sweeps, in seconds.")
    clean_seconds: float = Field(
        60, gt=0, description="Between two rounds of the cleaner, which removes what expired or was erased, in seconds."
    )
    orphan_seconds: float = Field(
        86400,
        ge=0,
        description="Age at which an object that no row knows is removed from the store, in seconds; 0: never.",
    )
    poll_seconds: float = Field(
        1, gt=0, description="Between two looks for work without a doorbell, in seconds (± 20 %)."
    )
    passed_over_seconds: float = Field(
        30,
        ge=0,
        description="How long a worker may pass over the first job in order for others whose model it has loaded, in "
        "seconds; 0: never.",
    )
    wish_seconds: float = Field(
        0.5, gt=0, description="Between two looks at cancel wishes of running jobs, in seconds."
    )
    drain_seconds: float = Field(110, ge=0, description="Grace that a draining worker gives its jobs, in seconds.")
    linger_seconds: float = Field(
        0,
        ge=0,
        description="How long a stopping API still accepts requests, so that load balancers see it turn unready.",
    )
    watchdog_seconds: float = Field(
        0, ge=0, description="Longest silence of a device within a step, in seconds; 0: 60, on a CPU 600."
    )
    max_tries: int = Field(3, ge=1, le=100, description="How often a job may be tried.")
    doorbells: bool = Field(True, description="Whether submits ring the broker; without, workers poll.")
    failpoints: str = Field(
        "",
        description="For fault tests: `name:action[:probability]`, separated by commas; see `common/failpoints.py`.",
    )
    failpoint_seed: int = Field(0, ge=0, description="Seed of the failpoints' probabilities; 0: none.")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="Log lines for a person or for a machine."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe log line written."
    )

    @field_validator("secret_key")
    @classmethod
    def _check_secret_key(cls, value: SecretStr | None) -> SecretStr | None:
        keys = [key.strip() for key in value.get_secret_value().split(",") if key.strip()] if value else []
        if any(len(key) < _LEAST_KEY for key in keys):
            raise ValueError(f"each key of SECRET_KEY (a comma ends one) must have at least {_LEAST_KEY} characters")
        return value

    @model_validator(mode="after")
    def _check_heartbeat(self) -> "Settings":
        if self.heartbeat_seconds * 2 > self.lease_seconds:
            raise ValueError(
                "HEARTBEAT_SECONDS must be at most half of LEASE_SECONDS, else a living worker loses its jobs"
            )
        return self

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in use, with the psycopg 3 driver named for PostgreSQL."""
        url = self.database_url or f"sqlite:///{self.data_dir.resolve() / 'darkroom.db'}"
        scheme, separator, rest = url.partition("://")
        return f"postgresql+psycopg://{rest}" if separator and scheme in {"postgres", "postgresql"} else url

    @property
    def broker(self) -> str:
        """The Celery broker URL in use."""
        return self.broker_url or "filesystem://"

    @property
    def webhook_pauses(self) -> tuple[float, ...]:
        """Seconds between the attempts of a delivery; there is one attempt more than pauses."""
        return tuple(float(pause) for pause in self.webhook_schedule.split(","))

    @property
    def store(self) -> str:
        """The object store URL in use."""
        return self.store_url or (self.data_dir.resolve() / "store").as_uri()

    @property
    def is_loopback(self) -> bool:
        """True when the API is reachable from this machine only."""
        return self.host in _LOOPBACK


def load_settings(**overrides: object) -> Settings:
    """The settings of this process: `overrides` before the environment before `.env` before the defaults."""
    return Settings(**{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]


def child_environment(settings: Settings, **extra: str) -> dict[str, str]:
    """The environment of a child process that must see exactly these settings, and `extra` over them."""
    own = {f"DARKROOM_{name.upper()}": str(value) for name, value in settings.model_dump().items() if _passes_on(value)}
    secrets = {"HF_TOKEN": settings.hf_token, "DARKROOM_SECRET_KEY": settings.secret_key}
    told = {name: secret.get_secret_value() for name, secret in secrets.items() if secret}
    return {**os.environ, **own, **told, **extra}


def _passes_on(value: object) -> bool:
    return value is not None and value != "" and not isinstance(value, SecretStr)
