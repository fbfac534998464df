"""the whole schema"""

import sqlalchemy as sa
from alembic import op

from common.db import types

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "pools",
        sa.Column("name", sa.Text(), nullable=False, comment="pool name"),
        sa.Column(
            "vtime",
            sa.Float(),
            server_default=sa.text("0.0"),
            nullable=False,
            comment="virtual time folded in from workers that are gone",
        ),
        sa.Column("paused_at", types.Timestamp(), nullable=True, comment="claims stop while set"),
        sa.Column("created_at", types.Timestamp(), nullable=False, comment="when the row was written, database clock"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_pools")),
        comment="A queue with workers of its own. Written by submit (first use), sweeper and `darkroom pool`.",
    )
    op.create_table(
        "tenants",
        sa.Column(
            "id", sa.Text(), nullable=False, comment="tenant id; `default` is the one tenant of the embedded stack"
        ),
        sa.Column("name", sa.Text(), nullable=False, comment="name for people"),
        sa.Column(
            "weight", sa.Float(), server_default=sa.text("1.0"), nullable=False, comment="share in the order of service"
        ),
        sa.Column("requests_per_minute", types.Whole, nullable=True, comment="limit; null: the setting's"),
        sa.Column("max_queued", types.Whole, nullable=True, comment="limit of queued jobs; null: the setting's"),
        sa.Column("images_per_day", types.Whole, nullable=True, comment="limit; null: the setting's"),
        sa.Column("device_seconds_per_day", sa.Float(), nullable=True, comment="limit; null: the setting's"),
        sa.Column("max_stored_bytes", types.Whole, nullable=True, comment="limit of stored bytes; null: the setting's"),
        sa.Column("created_at", types.Timestamp(), nullable=False, comment="when the row was written, database clock"),
        sa.Column("erased_at", types.Timestamp(), nullable=True, comment="when everything of this tenant was erased"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenants")),
        comment="Who owns jobs. Written by `darkroom tenants` and the first migration.",
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.Text(), nullable=False, comment="worker id, fresh for every process"),
        sa.Column("pool", sa.Text(), nullable=False, comment="pool that it serves"),
        sa.Column("hostname", sa.Text(), nullable=False, comment="host name"),
        sa.Column("pid", types.Whole, nullable=False, comment="process id"),
        sa.Column("device", sa.Text(), nullable=False, comment="device as the operator names it, such as `cuda:1`"),
        sa.Column("state", sa.Text(), nullable=False, comment="`ready` or `draining`"),
        sa.Column("resident", types.Document, nullable=False, comment="ids of the models in memory"),
        sa.Column(
            "served_vtime",
            sa.Float(),
            server_default=sa.text("0.0"),
            nullable=False,
            comment="largest first-in-order start tag that it claimed",
        ),
        sa.Column("started_at", types.Timestamp(), nullable=False, comment="when the process started"),
        sa.Column("heartbeat_at", types.Timestamp(), nullable=False, comment="last heartbeat"),
        sa.Column("drain_requested_at", types.Timestamp(), nullable=True, comment="an operator's wish"),
        sa.CheckConstraint("state IN ('ready', 'draining')", name=op.f("ck_workers_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
        comment="One row per living worker process. Written by that worker; removed by it or the sweeper.",
    )
    op.create_index(op.f("ix_workers_pool_served_vtime"), "workers", ["pool", "served_vtime"], unique=False)
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text(), nullable=False, comment="public part of the key"),
        sa.Column("tenant_id", sa.Text(), nullable=False, comment="whose row it is"),
        sa.Column("name", sa.Text(), nullable=False, comment="what it is for"),
        sa.Column(
            "secret_sha256",
            sa.LargeBinary(length=32),
            nullable=False,
            comment="SHA-256 of the secret part, which is not kept",
        ),
        sa.Column(
            "scopes", types.Document, nullable=False, comment="list of `jobs:read`, `jobs:write`, `webhooks`, `admin`"
        ),
        sa.Column(
            "max_priority", sa.Text(), server_default="normal", nullable=False, comment="highest lane that it may use"
        ),
        sa.Column("created_at", types.Timestamp(), nullable=False, comment="when the row was written, database clock"),
        sa.Column("expires_at", types.Timestamp(), nullable=True, comment="not valid from then on"),
        sa.Column("revoked_at", types.Timestamp(), nullable=True, comment="not valid since then"),
        sa.Column("last_used_at", types.Timestamp(), nullable=True, comment="last request, to the minute"),
        sa.CheckConstraint("max_priority IN ('high', 'normal', 'low')", name=op.f("ck_api_keys_max_priority")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_api_keys_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        comment="Bearer keys. Written by `darkroom keys`.",
    )
    op.create_table(
        "batch_items",
        sa.Column("batch_id", sa.Text(), nullable=False, comment="the batch"),
        sa.Column("line", types.Whole, nullable=False, comment="line of the manifest, from 0"),
        sa.Column("tenant_id", sa.Text(), nullable=False, comment="whose row it is"),
        sa.Column("custom_id", sa.Text(), nullable=False, comment="the client's id, unique in the batch"),
        sa.Column("job_id", sa.Text(), nullable=True, comment="its job; null when the line was skipped"),
        sa.Column("error", types.Document, nullable=True, comment="why the line was skipped"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_batch_items_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("batch_id", "line", name=op.f("pk_batch_items")),
        sa.UniqueConstraint("batch_id", "custom_id", name=op.f("uq_batch_items_batch_id_custom_id")),
        comment="Lines of a batch. Written by the courier, in chunks.",
    )
    op.create_index(op.f("ix_batch_items_job_id"), "batch_items", ["job_id"], unique=False)
    op.create_table(
        "batches",
        sa.Column("id", sa.Text(), nullable=False, comment="batch id"),
        sa.Column("tenant_id", sa.Text(), nullable=False, comment="whose row it is"),
        sa.Column("name", sa.Text(), nullable=True, comment="name for people"),
        sa.Column(
            "state",
            sa.Text(),
            nullable=False,
            comment="`validating`, `running`, `paused`, `completed`, `canceled` or `rejected`",
        ),
        sa.Column(
            "version", types.Whole, server_default=sa.text("1"), nullable=False, comment="durable transitions so far"
        ),
        sa.Column("total", types.Whole, server_default=sa.text("0"), nullable=False, comment="lines"),
        sa.Column(
            "inserted", types.Whole, server_default=sa.text("0"), nullable=False, comment="lines whose jobs stand"
        ),
        sa.Column("manifest_key", sa.Text(), nullable=True, comment="stored manifest"),
        sa.Column("request", types.Document, nullable=False, comment="name, defaults, priority, webhook, metadata"),
        sa.Column("errors", types.Document, nullable=True, comment="first 100 line errors"),
        sa.Column("worker_id", sa.Text(), nullable=True, comment="courier that validates it"),
        sa.Column("lease_until", types.Timestamp(), nullable=True, comment="that courier is presumed dead after this"),
        sa.Column("retry_of", sa.Text(), nullable=True, comment="batch that this one tries again"),
        sa.Column("created_at", types.Timestamp(), nullable=False, comment="when the row was written, database clock"),
        sa.Column("finished_at", types.Timestamp(), nullable=True, comment="when it became terminal"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_batches_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
        comment="Bulk runs. Written by the batch routes and the courier.",
    )
    op.create_index(op.f("ix_batches_tenant_id_id"), "batches", ["tenant_id", "id"], unique=False)
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Text(), nullable=False, comment="delivery id"),
        sa.Column("tenant_id", sa.Text(), nullable=False, comment="whose row it is"),
        sa.Column("webhook_id", sa.Text(), nullable=False, comment="endpoint"),
        sa.Column("event_id", sa.Text(), nullable=False, comment="the `webhook-id` header, same over retries"),
        sa.Column("kind", sa.Text(), nullable=False, comment="event kind"),
        sa.Column("host", sa.Text(), nullable=False, comment="receiver's host, for the limit of calls in flight"),
        sa.Column("body", types.Document, nullable=True, comment="what is sent"),
        sa.Column("state", sa.Text(), nullable=False, comment="`pending`, `delivered`, `failed` or `disabled`"),
        sa.Column("attempt", types.Whole, server_default=sa.text("0"), nullable=False, comment="attempts so far"),
        sa.Column("next_at", types.Timestamp(), nullable=True, comment="not before"),
        sa.Column("worker_id", sa.Text(), nullable=True, comment="courier that holds it"),
        sa.Column("lease_until", types.Timestamp(), nullable=True, comment="that courier is presumed dead after this"),
        sa.Column(
            "log", types.Document, nullable=False, comment="per attempt: moment, status, milliseconds, first 1 kB"
        ),
        sa.Column("created_at", types.Timestamp(), nullable=False, comment="when the row was written, database clock"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_deliveries_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("webhook_id", "event_id", name=op.f("uq_deliveries_webhook_id_event_id")),
        comment="One row per event and endpoint. Written with the event; worked off by couriers.",
    )
    op.create_index(
        "ix_deliveries_due",
        "deliveries",
        ["next_at"],
        unique=False,
        postgresql_where=sa.text("state = 'pending'"),
        sqlite_where=sa.text("state = 'pending'"),
    )
    op.create_index(op.f("ix_deliveries_tenant_id_id"), "deliveries", ["tenant_id", "id"], unique=False)
    op.create_table(
        "flows",
        sa.Column("pool", sa.Text(), nullable=False, comment="pool"),
        sa.Column("tenant_id", sa.Text(), nullable=False, comment="whose row it is"),
        sa.Column("lane", sa.Text(), nullable=False, comment="`high`, `normal` or `low`"),
        sa.Column(
            "finish", sa.Float(), server_default=sa.text("0.0"), nullable=False, comment="finish tag of the newest job"
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_flows_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("pool", "tenant_id", "lane", name=op.f("pk_flows")),
        comment="Order of service, one row per (pool, tenant, lane). Written at submit, priority change and cancel.",
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("tenant_id", sa.Text(), nullable=False, comment="whose row it is"),
        sa.Column("key", sa.Text(), nullable=False, comment="the client's key"),
        sa.Column(
            "fingerprint", sa.Text(), nullable=False, comment="SHA-256 of method, path, canonical body and files"
        ),
        sa.Column("resource_id", sa.Text(), nullable=False, comment="job or batch that the first request made"),
        sa.Column("created_at", types.Timestamp(), nullable=False, comment="when the row was written, database clock"),
        sa.Column("expires_at", types.Timestamp(), nullable=False, comment="forgotten after this"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_idempotency_keys_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("tenant_id", "key", name=op.f("pk_idempotency_keys")),
        comment="Written in the transaction of the job or batch; removed by the sweeper.",
    )
    op.create_index(op.f("ix_idempotency_keys_expires_at"), "idempotency_keys", ["expires_at"], unique=False)
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text(), nullable=False, comment="job id"),
        sa.Column("tenant_id", sa.Text(), nullable=False, comment="whose row it is"),
        sa.Column("pool", sa.Text(), nullable=False, comment="pool that may claim it"),
        sa.Column("lane", sa.Text(), nullable=False, comment="priority: `high`, `normal` or `low`"),
        sa.Column("task", sa.Text(), nullable=False, comment="`txt2img`, `img2img` or `inpaint`"),
        sa.Column("model", sa.Text(), nullable=False, comment="catalogue id"),
        sa.Column(
            "state",
            sa.Text(),
            nullable=False,
            comment="`queued`, `running`, `succeeded`, `failed` or `canceled`; moved by `common.db.moves` alone",
        ),
        sa.Column(
            "held",
            sa.Text(),
            nullable=True,
            comment="why a queued job may not be claimed: `intake`, `paused`, `delayed`",
        ),
        sa.Column(
            "version", types.Whole, server_default=sa.text("1"), nullable=False, comment="durable transitions so far"
        ),
        sa.Column("vtime", sa.Float(), nullable=False, comment="start tag; jobs are served in this order"),
        sa.Column("cost", sa.Float(), nullable=False, comment="predicted device seconds"),
        sa.Column("step_key", sa.Text(), nullable=False, comment="jobs with equal keys may share a forward pass"),
        sa.Column("call_key", sa.Text(), nullable=False, comment="jobs with equal keys may share one diffusers call"),
        sa.Column("frames", types.Whole, nullable=False, comment="images to make"),
        sa.Column(
            "solo",
            sa.Boolean(),
            server_default=sa.text("false"),
            nullable=False,
            comment="next runs with a worker to itself, after a crash in company",
        ),
        sa.Column(
            "fence",
            types.Whole,
            server_default=sa.text("0"),
            nullable=False,
            comment="claims so far; every write of an attempt carries the fence of its claim",
        ),
        sa.Column(
            "tries",
            types.Whole,
            server_default=sa.text("0"),
            nullable=False,
            comment="tries spent; given back by a release",
        ),
        sa.Column("max_tries", types.Whole, nullable=False, comment="budget of tries"),
        sa.Column(
            "attempt",
            types.Whole,
            server_default=sa.text("0"),
            nullable=False,
            comment="attempts that reached the device",
        ),
        sa.Column(
            "solo_crashes",
            types.Whole,
            server_default=sa.text("0"),
            nullable=False,
            comment="crashes while alone in the process",
        ),
        sa.Column("worker_id", sa.Text(), nullable=True, comment="who holds it"),
        sa.Column("device", sa.Text(), nullable=True, comment="device of the newest attempt"),
        sa.Column("lease_until", types.Timestamp(), nullable=True, comment="the holder is presumed dead after this"),
        sa.Column("run_after", types.Timestamp(), nullable=True, comment="a delayed job is released then"),
        sa.Column(
            "passed_over_since",
            types.Timestamp(),
            nullable=True,
            comment="first time that a claim skipped it at the head",
        ),
        sa.Column("cancel_requested_at", types.Timestamp(), nullable=True, comment="the wish to cancel"),
        sa.Column("deadline_at", types.Timestamp(), nullable=False, comment="not worth finishing after this"),
        sa.Column("created_at", types.Timestamp(), nullable=False, comment="when the row was written, database clock"),
        sa.Column("started_at", types.Timestamp(), nullable=True, comment="first time on a device"),
        sa.Column("finished_at", types.Timestamp(), nullable=True, comment="when it became terminal"),
        sa.Column("expires_at", types.Timestamp(), nullable=True, comment="results may go after this"),
        sa.Column("erased_at", types.Timestamp(), nullable=True, comment="erased on request; reads answer 410"),
        sa.Column("batch_id", sa.Text(), nullable=True, comment="batch"),
        sa.Column("retry_of", sa.Text(), nullable=True, comment="job that this one tries again"),
        sa.Column("external_id", sa.Text(), nullable=True, comment="the client's own id"),
        sa.Column("error", types.Document, nullable=True, comment="problem object of a failed job"),
        sa.Column("metrics", types.Document, nullable=True, comment="milliseconds of each part, engine facts"),
        sa.CheckConstraint("(state = 'failed') = (error IS NOT NULL)", name=op.f("ck_jobs_error")),
        sa.CheckConstraint("(state = 'running') = (lease_until IS NOT NULL)", name=op.f("ck_jobs_lease")),
        sa.CheckConstraint("(state = 'running') = (worker_id IS NOT NULL)", name=op.f("ck_jobs_worker")),
        sa.CheckConstraint(
            "(state IN ('succeeded', 'failed', 'canceled')) = (finished_at IS NOT NULL)", name=op.f("ck_jobs_finished")
        ),
        sa.CheckConstraint(
            "held IS NULL OR (state = 'queued' AND held IN ('intake', 'paused', 'delayed'))", name=op.f("ck_jobs_held")
        ),
        sa.CheckConstraint("lane IN ('high', 'normal', 'low')", name=op.f("ck_jobs_lane")),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'succeeded', 'failed', 'canceled')", name=op.f("ck_jobs_state")
        ),
        sa.CheckConstraint("tries >= 0 AND fence >= tries AND tries <= max_tries", name=op.f("ck_jobs_tries")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_jobs_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        comment="The hot row of a job. Inserted by submit; moved by workers, sweeper and cancel.",
    )
    op.create_index(op.f("ix_jobs_batch_id_id"), "jobs", ["batch_id", "id"], unique=False)
    op.create_index(
        "ix_jobs_claim",
        "jobs",
        ["pool", "vtime", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'queued' AND held IS NULL"),
        sqlite_where=sa.text("state = 'queued' AND held IS NULL"),
    )
    op.create_index(
        "ix_jobs_claim_alike",
        "jobs",
        ["pool", "step_key", "vtime", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'queued' AND held IS NULL"),
        sqlite_where=sa.text("state = 'queued' AND held IS NULL"),
    )
    op.create_index(
        "ix_jobs_deadline",
        "jobs",
        ["deadline_at"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
        sqlite_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "ix_jobs_delayed",
        "jobs",
        ["run_after"],
        unique=False,
        postgresql_where=sa.text("held = 'delayed'"),
        sqlite_where=sa.text("held = 'delayed'"),
    )
    op.create_index(op.f("ix_jobs_expires_at"), "jobs", ["expires_at"], unique=False)
    op.create_index(
        "ix_jobs_lease",
        "jobs",
        ["lease_until"],
        unique=False,
        postgresql_where=sa.text("state = 'running'"),
        sqlite_where=sa.text("state = 'running'"),
    )
    op.create_index(op.f("ix_jobs_tenant_id_id"), "jobs", ["tenant_id", "id"], unique=False)
    op.create_index(
        "ix_jobs_worker",
        "jobs",
        ["worker_id"],
        unique=False,
        postgresql_where=sa.text("state = 'running'"),
        sqlite_where=sa.text("state = 'running'"),
    )
    op.create_table(
        "objects",
        sa.Column("key", sa.Text(), nullable=False, comment="key in the store"),
        sa.Column("tenant_id", sa.Text(), nullable=False, comment="whose row it is"),
        sa.Column("state", sa.Text(), nullable=False, comment="`live` or `deleting`"),
        sa.Column("kind", sa.Text(), nullable=False, comment="`input`, `result`, `step`, `manifest` or `upload`"),
        sa.Column("sha256", sa.Text(), nullable=False, comment="of the bytes"),
        sa.Column("bytes", types.Whole, nullable=False, comment="size"),
        sa.Column("width", types.Whole, nullable=True, comment="pixels, of an image"),
        sa.Column("height", types.Whole, nullable=True, comment="pixels, of an image"),
        sa.Column("created_at", types.Timestamp(), nullable=False, comment="when the row was written, database clock"),
        sa.Column(
            "expires_at", types.Timestamp(), nullable=True, comment="may go after this if no live job refers to it"
        ),
        sa.CheckConstraint("state IN ('live', 'deleting')", name=op.f("ck_objects_state")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_objects_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_objects")),
        comment="What lies in the object store. Written by submit and sink; removed by the cleaner after the object.",
    )
    op.create_index(op.f("ix_objects_state_expires_at"), "objects", ["state", "expires_at"], unique=False)
    op.create_index(op.f("ix_objects_tenant_id_sha256"), "objects", ["tenant_id", "sha256"], unique=False)
    op.create_table(
        "uploads",
        sa.Column("id", sa.Text(), nullable=False, comment="upload id"),
        sa.Column("tenant_id", sa.Text(), nullable=False, comment="whose row it is"),
        sa.Column("state", sa.Text(), nullable=False, comment="`pending`, `ready` or `rejected`"),
        sa.Column("staging_key", sa.Text(), nullable=True, comment="where a presigned PUT lands"),
        sa.Column("object_key", sa.Text(), nullable=True, comment="our own re-encoding, once ready"),
        sa.Column("declared_bytes", types.Whole, nullable=True, comment="size that the client declared"),
        sa.Column("declared_sha256", sa.Text(), nullable=True, comment="hash that the client declared"),
        sa.Column("created_at", types.Timestamp(), nullable=False, comment="when the row was written, database clock"),
        sa.Column("expires_at", types.Timestamp(), nullable=False, comment="may go after this"),
        sa.CheckConstraint("state IN ('pending', 'ready', 'rejected')", name=op.f("ck_uploads_state")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_uploads_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
        comment="Images sent ahead of a job. Written by the upload routes; removed by the sweeper.",
    )
    op.create_index(op.f("ix_uploads_expires_at"), "uploads", ["expires_at"], unique=False)
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.Text(), nullable=False, comment="the job"),
        sa.Column("fence", types.Whole, nullable=False, comment="the claim"),
        sa.Column("tenant_id", sa.Text(), nullable=False, comment="whose row it is"),
        sa.Column("worker_id", sa.Text(), nullable=False, comment="worker process"),
        sa.Column("device", sa.Text(), nullable=False, comment="device"),
        sa.Column("claimed_at", types.Timestamp(), nullable=False, comment="claim"),
        sa.Column("joined_at", types.Timestamp(), nullable=True, comment="reached the device"),
        sa.Column("ended_at", types.Timestamp(), nullable=True, comment="end"),
        sa.Column(
            "outcome",
            sa.Text(),
            nullable=True,
            comment="`succeeded`, `failed`, `canceled`, `retried`, `released` or `lost`; null: open",
        ),
        sa.Column("error_code", sa.Text(), nullable=True, comment="why, if it did not succeed"),
        sa.CheckConstraint("(ended_at IS NULL) = (outcome IS NULL)", name=op.f("ck_attempts_ended")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_attempts_job_id_jobs"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_attempts_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("job_id", "fence", name=op.f("pk_attempts")),
        comment="One row per claim, never overwritten. Written by claim, join, and whatever ends the attempt.",
    )
    op.create_index(op.f("ix_attempts_worker_id"), "attempts", ["worker_id"], unique=False)
    op.create_table(
        "images",
        sa.Column("job_id", sa.Text(), nullable=False, comment="the job"),
        sa.Column("index", types.Whole, nullable=False, comment="image k of the job"),
        sa.Column("tenant_id", sa.Text(), nullable=False, comment="whose row it is"),
        sa.Column("fence", types.Whole, nullable=False, comment="attempt that made it"),
        sa.Column("key", sa.Text(), nullable=False, comment="object key"),
        sa.Column("seed", types.Whole, nullable=False, comment="its own seed"),
        sa.Column("width", types.Whole, nullable=False, comment="pixels"),
        sa.Column("height", types.Whole, nullable=False, comment="pixels"),
        sa.Column("content_type", sa.Text(), nullable=False, comment="`image/png`, `image/jpeg` or `image/webp`"),
        sa.Column("bytes", types.Whole, nullable=False, comment="size of the object"),
        sa.Column("sha256", sa.Text(), nullable=False, comment="of the object's bytes"),
        sa.Column("created_at", types.Timestamp(), nullable=False, comment="when the row was written, database clock"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_images_job_id_jobs"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_images_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("job_id", "index", name=op.f("pk_images")),
        comment="Results. Written with the success of the job, in one transaction.",
    )
    op.create_table(
        "job_events",
        sa.Column("id", types.Whole, autoincrement=True, nullable=False, comment="order of writing"),
        sa.Column("job_id", sa.Text(), nullable=False, comment="the job"),
        sa.Column("tenant_id", sa.Text(), nullable=False, comment="whose row it is"),
        sa.Column("version", types.Whole, nullable=False, comment="the job's version after the transition"),
        sa.Column(
            "kind",
            sa.Text(),
            nullable=False,
            comment="`job.queued`, `job.claimed`, `job.started`, `job.requeued`, `job.succeeded`, …",
        ),
        sa.Column("payload", types.Document, nullable=False, comment="facts of the transition"),
        sa.Column("created_at", types.Timestamp(), nullable=False, comment="when the row was written, database clock"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_events_job_id_jobs"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_job_events_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job_events")),
        sa.UniqueConstraint("job_id", "version", name=op.f("uq_job_events_job_id_version")),
        comment="The outbox: one row per transition, in its transaction. Written by `common.db.moves`.",
    )
    op.create_table(
        "job_progress",
        sa.Column("job_id", sa.Text(), nullable=False, comment="the job"),
        sa.Column("tenant_id", sa.Text(), nullable=False, comment="whose row it is"),
        sa.Column("fence", types.Whole, nullable=False, comment="attempt that reported"),
        sa.Column("seq", types.Whole, nullable=False, comment="volatile counter, grows with every report"),
        sa.Column("stage", sa.Text(), nullable=False, comment="`preparing`, `loading`, `denoising` or `storing`"),
        sa.Column("step", types.Whole, nullable=False, comment="steps done, over all frames"),
        sa.Column("steps", types.Whole, nullable=False, comment="steps to do, over all frames"),
        sa.Column("preview", sa.LargeBinary(), nullable=True, comment="newest preview, JPEG"),
        sa.Column("updated_at", types.Timestamp(), nullable=False, comment="when reported"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_progress_job_id_jobs"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_job_progress_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_progress")),
        comment="How far a running job is; may be lost. Written by the worker's heartbeat thread.",
    )
    op.create_table(
        "job_requests",
        sa.Column("job_id", sa.Text(), nullable=False, comment="the job"),
        sa.Column("tenant_id", sa.Text(), nullable=False, comment="whose row it is"),
        sa.Column("request", types.Document, nullable=False, comment="the request as accepted"),
        sa.Column("params", types.Document, nullable=False, comment="what will run: `EditParams`"),
        sa.Column("inputs", types.Document, nullable=False, comment="prepared inputs by role: key, sha256, size"),
        sa.Column("warnings", types.Document, nullable=False, comment="list of {code, pointer}"),
        sa.Column("tags", types.Document, nullable=False, comment="list of strings"),
        sa.Column("metadata", types.Document, nullable=False, comment="the client's own keys"),
        sa.Column("expires_in_seconds", types.Whole, nullable=False, comment="life of the results, from finish"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_requests_job_id_jobs"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_job_requests_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job_requests")),
        comment="The wide, immutable half of a job. Written by submit; emptied by erasure.",
    )
    op.create_table(
        "job_steps",
        sa.Column("job_id", sa.Text(), nullable=False, comment="the job"),
        sa.Column("step", types.Whole, nullable=False, comment="step of the chain, from 0"),
        sa.Column("tenant_id", sa.Text(), nullable=False, comment="whose row it is"),
        sa.Column("fence", types.Whole, nullable=False, comment="attempt that finished it"),
        sa.Column("key", sa.Text(), nullable=False, comment="object that holds the tensor handed on"),
        sa.Column("sha256", sa.Text(), nullable=False, comment="of that object"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_steps_job_id_jobs"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_job_steps_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("job_id", "step", name=op.f("pk_job_steps")),
        comment="Finished steps of a chain. Written by the worker's sink.",
    )
    op.create_table(
        "object_refs",
        sa.Column("object_key", sa.Text(), nullable=False, comment="the object"),
        sa.Column("job_id", sa.Text(), nullable=False, comment="the job"),
        sa.Column("tenant_id", sa.Text(), nullable=False, comment="whose row it is"),
        sa.Column("role", sa.Text(), nullable=False, comment="`image`, `mask`, `result`, `step`"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_object_refs_job_id_jobs"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_object_refs_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("object_key", "job_id", "role", name=op.f("pk_object_refs")),
        comment="Which jobs need which objects. Written with the job and with its results.",
    )
    op.create_index(op.f("ix_object_refs_job_id"), "object_refs", ["job_id"], unique=False)
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Text(), nullable=False, comment="endpoint id"),
        sa.Column("tenant_id", sa.Text(), nullable=False, comment="whose row it is"),
        sa.Column("job_id", sa.Text(), nullable=True, comment="the job"),
        sa.Column("url", sa.Text(), nullable=False, comment="where to"),
        sa.Column("events", types.Document, nullable=False, comment="kinds that it wants"),
        sa.Column("secret", sa.LargeBinary(), nullable=False, comment="signing secret, encrypted"),
        sa.Column("old_secret", sa.LargeBinary(), nullable=True, comment="previous secret while it rotates, encrypted"),
        sa.Column("old_secret_until", types.Timestamp(), nullable=True, comment="end of the rotation"),
        sa.Column("disabled_at", types.Timestamp(), nullable=True, comment="no deliveries since then"),
        sa.Column("failing_since", types.Timestamp(), nullable=True, comment="first of an unbroken row of failures"),
        sa.Column("created_at", types.Timestamp(), nullable=False, comment="when the row was written, database clock"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_webhooks_job_id_jobs"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_webhooks_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhooks")),
        comment="Standing endpoints and those of single jobs. Written by the webhook routes, submit and courier.",
    )
    op.create_index(op.f("ix_webhooks_tenant_id_id"), "webhooks", ["tenant_id", "id"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_webhooks_tenant_id_id"), table_name="webhooks")
    op.drop_table("webhooks")
    op.drop_index(op.f("ix_object_refs_job_id"), table_name="object_refs")
    op.drop_table("object_refs")
    op.drop_table("job_steps")
    op.drop_table("job_requests")
    op.drop_table("job_progress")
    op.drop_table("job_events")
    op.drop_table("images")
    op.drop_index(op.f("ix_attempts_worker_id"), table_name="attempts")
    op.drop_table("attempts")
    op.drop_index(op.f("ix_uploads_expires_at"), table_name="uploads")
    op.drop_table("uploads")
    op.drop_index(op.f("ix_objects_tenant_id_sha256"), table_name="objects")
    op.drop_index(op.f("ix_objects_state_expires_at"), table_name="objects")
    op.drop_table("objects")
    op.drop_index(
        "ix_jobs_worker",
        table_name="jobs",
        postgresql_where=sa.text("state = 'running'"),
        sqlite_where=sa.text("state = 'running'"),
    )
    op.drop_index(op.f("ix_jobs_tenant_id_id"), table_name="jobs")
    op.drop_index(
        "ix_jobs_lease",
        table_name="jobs",
        postgresql_where=sa.text("state = 'running'"),
        sqlite_where=sa.text("state = 'running'"),
    )
    op.drop_index(op.f("ix_jobs_expires_at"), table_name="jobs")
    op.drop_index(
        "ix_jobs_delayed",
        table_name="jobs",
        postgresql_where=sa.text("held = 'delayed'"),
        sqlite_where=sa.text("held = 'delayed'"),
    )
    op.drop_index(
        "ix_jobs_deadline",
        table_name="jobs",
        postgresql_where=sa.text("state = 'queued'"),
        sqlite_where=sa.text("state = 'queued'"),
    )
    op.drop_index(
        "ix_jobs_claim_alike",
        table_name="jobs",
        postgresql_where=sa.text("state = 'queued' AND held IS NULL"),
        sqlite_where=sa.text("state = 'queued' AND held IS NULL"),
    )
    op.drop_index(
        "ix_jobs_claim",
        table_name="jobs",
        postgresql_where=sa.text("state = 'queued' AND held IS NULL"),
        sqlite_where=sa.text("state = 'queued' AND held IS NULL"),
    )
    op.drop_index(op.f("ix_jobs_batch_id_id"), table_name="jobs")
    op.drop_table("jobs")
    op.drop_index(op.f("ix_idempotency_keys_expires_at"), table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
    op.drop_table("flows")
    op.drop_index(op.f("ix_deliveries_tenant_id_id"), table_name="deliveries")
    op.drop_index(
        "ix_deliveries_due",
        table_name="deliveries",
        postgresql_where=sa.text("state = 'pending'"),
        sqlite_where=sa.text("state = 'pending'"),
    )
    op.drop_table("deliveries")
    op.drop_index(op.f("ix_batches_tenant_id_id"), table_name="batches")
    op.drop_table("batches")
    op.drop_index(op.f("ix_batch_items_job_id"), table_name="batch_items")
    op.drop_table("batch_items")
    op.drop_table("api_keys")
    op.drop_index(op.f("ix_workers_pool_served_vtime"), table_name="workers")
    op.drop_table("workers")
    op.drop_table("tenants")
    op.drop_table("pools")
