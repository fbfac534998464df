"""batches as they are used: leased, checked and inserted in chunks; their webhooks; usage by day"""

import sqlalchemy as sa
from alembic import op

from common.db import types

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_OF_BATCH = "batch_id IS NOT NULL"
_STANDING = "job_id IS NULL AND batch_id IS NULL"
_OLD_STANDING = "job_id IS NULL"
_FAILING = "failing_since IS NOT NULL AND disabled_at IS NULL AND (job_id IS NOT NULL OR batch_id IS NOT NULL)"
_OLD_FAILING = "failing_since IS NOT NULL AND disabled_at IS NULL AND job_id IS NOT NULL"
_EXPIRING = "cleaned_at IS NULL AND expires_at IS NOT NULL"
_OLD_EXPIRING = "cleaned_at IS NULL"
_WRONG = "error IS NOT NULL"
_AWAITED = "held = 'intake'"
_DUE = "tend_at IS NOT NULL"


def upgrade() -> None:
    op.drop_table("batch_items")  # nothing has written to these two so far
    op.drop_table("batches")
    _create_batches()
    _create_items()
    _create_usage()
    op.drop_index("ix_jobs_batch_id_id", table_name="jobs")
    _index("ix_jobs_of_batch", "jobs", ["batch_id", "id"], _OF_BATCH)
    _index("ix_jobs_batch_state", "jobs", ["batch_id", "state", "held", "id"], _OF_BATCH)
    op.drop_index("ix_jobs_expired", table_name="jobs")
    _index("ix_jobs_expired", "jobs", ["expires_at"], _EXPIRING)
    op.drop_index("ix_intakes_next_at", table_name="intakes")  # they are taken in the order of service now
    _index("ix_jobs_intake", "jobs", ["pool", "vtime", "id"], _AWAITED)
    op.add_column("webhooks", sa.Column("batch_id", sa.Text(), nullable=True, comment="the batch"))
    op.create_index(op.f("ix_webhooks_batch_id"), "webhooks", ["batch_id"], unique=False)
    op.drop_index("ix_webhooks_standing", table_name="webhooks")
    _index("ix_webhooks_standing", "webhooks", ["tenant_id", "id"], _STANDING)
    op.drop_index("ix_webhooks_failing", table_name="webhooks")
    _index("ix_webhooks_failing", "webhooks", ["tenant_id", "host"], _FAILING)
    _say(
        "webhooks",
        "Standing endpoints, those of single jobs and of batches. Written by webhook routes, submit and courier.",
    )
    _say_column("intakes", "url", "where the picture is to be had; `darkroom:job_…/2`: result 2 of that job")


def downgrade() -> None:
    _say_column("intakes", "url", "where the picture is to be had")
    _say("webhooks", "Standing endpoints and those of single jobs. Written by the webhook routes, submit and courier.")
    op.drop_index("ix_webhooks_standing", table_name="webhooks")
    op.drop_index("ix_webhooks_failing", table_name="webhooks")
    op.execute("DELETE FROM webhooks WHERE batch_id IS NOT NULL")
    op.drop_index(op.f("ix_webhooks_batch_id"), table_name="webhooks")
    op.drop_column("webhooks", "batch_id")
    _index("ix_webhooks_standing", "webhooks", ["tenant_id", "id"], _OLD_STANDING)
    _index("ix_webhooks_failing", "webhooks", ["tenant_id", "host"], _OLD_FAILING)
    op.drop_index("ix_jobs_intake", table_name="jobs")
    op.create_index("ix_intakes_next_at", "intakes", ["next_at"], unique=False)
    op.drop_index("ix_jobs_expired", table_name="jobs")
    _index("ix_jobs_expired", "jobs", ["expires_at"], _OLD_EXPIRING)
    op.drop_index("ix_jobs_batch_state", table_name="jobs")
    op.drop_index("ix_jobs_of_batch", table_name="jobs")
    op.create_index("ix_jobs_batch_id_id", "jobs", ["batch_id", "id"], unique=False)
    op.drop_table("usage_days")
    op.drop_table("batch_items")
    op.drop_table("batches")
    _create_old_batches()
    _create_old_items()


def _create_batches() -> None:
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
        _whole("version", "durable transitions so far", 1),
        sa.Column(
            "lane",
            sa.Text(),
            server_default="low",
            nullable=False,
            comment="priority of its jobs: `high`, `normal` or `low`",
        ),
        _whole("total", "lines of the manifest", 0),
        _whole("validated", "lines that have been checked", 0),
        _whole("inserted", "lines whose items stand, with their jobs", 0),
        sa.Column("manifest_key", sa.Text(), nullable=True, comment="stored manifest"),
        sa.Column(
            "request",
            types.Document,
            nullable=False,
            comment="defaults, overrides of a retry, on_invalid, metadata",
        ),
        sa.Column("errors", types.Document, nullable=True, comment="first 100 line errors, with the number of all"),
        sa.Column(
            "final_counts",
            types.Document,
            nullable=True,
            comment="counts of its lines, from the rows when it became terminal",
        ),
        _moment("cancel_requested_at", "the wish to cancel"),
        _moment("retagged_at", "after its last pause or cancel: when its flows were drawn together"),
        _moment("tend_at", "when a courier is to look at it next; null: never again"),
        sa.Column("worker_id", sa.Text(), nullable=True, comment="courier that holds it"),
        _moment("lease_until", "that courier is presumed dead after this"),
        sa.Column("retry_of", sa.Text(), nullable=True, comment="batch that this one tries again"),
        _created_at(),
        _moment("started_at", "when all lines had been checked and jobs began to be queued"),
        _moment("finished_at", "when it became terminal"),
        sa.CheckConstraint(
            "state IN ('validating', 'running', 'paused', 'completed', 'canceled', 'rejected')",
            name=op.f("ck_batches_state"),
        ),
        sa.CheckConstraint("lane IN ('high', 'normal', 'low')", name=op.f("ck_batches_lane")),
        sa.CheckConstraint("(worker_id IS NULL) = (lease_until IS NULL)", name=op.f("ck_batches_lease")),
        sa.CheckConstraint(
            "(state IN ('completed', 'canceled', 'rejected')) = (finished_at IS NOT NULL)",
            name=op.f("ck_batches_finished"),
        ),
        sa.CheckConstraint("inserted <= total AND validated <= total", name=op.f("ck_batches_lines")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_batches_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batches")),
        comment="Bulk runs. Written by the batch routes and by couriers.",
    )
    op.create_index(op.f("ix_batches_tenant_id_id"), "batches", ["tenant_id", "id"], unique=False)
    _index("ix_batches_due", "batches", ["tend_at"], _DUE)


def _create_items() -> None:
    op.create_table(
        "batch_items",
        sa.Column("batch_id", sa.Text(), nullable=False, comment="the batch"),
        sa.Column("line", types.Whole, nullable=False, comment="line of the manifest, from 0"),
        sa.Column("tenant_id", sa.Text(), nullable=False, comment="whose row it is"),
        sa.Column(
            "custom_id",
            sa.Text(),
            nullable=True,
            comment="the client's id, unique in the batch; null: the line has none of use",
        ),
        sa.Column(
            "job_id",
            sa.Text(),
            nullable=True,
            comment="its job; null: the line was wrong, or the batch was canceled before",
        ),
        sa.Column("error", types.Document, nullable=True, comment="problem object of a wrong line"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_batch_items_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("batch_id", "line", name=op.f("pk_batch_items")),
        sa.UniqueConstraint("batch_id", "custom_id", name=op.f("uq_batch_items_batch_id_custom_id")),
        comment="Lines of a batch. Written by the courier, in chunks, with their jobs.",
    )
    op.create_index(op.f("ix_batch_items_job_id"), "batch_items", ["job_id"], unique=False)
    _index("ix_batch_items_wrong", "batch_items", ["batch_id"], _WRONG)


def _create_usage() -> None:
    op.create_table(
        "usage_days",
        sa.Column("tenant_id", sa.Text(), nullable=False, comment="whose row it is"),
        sa.Column("day", sa.Text(), nullable=False, comment="UTC day, as `2026-11-22`"),
        sa.Column(
            "shard",
            types.Whole,
            nullable=False,
            comment="one of several rows that add up, so that workers do not wait for each other",
        ),
        _whole("jobs", "jobs that ended", 0),
        _whole("images", "results that were made", 0),
        sa.Column(
            "device_seconds",
            sa.Float(),
            server_default=sa.text("0.0"),
            nullable=False,
            comment="device time of attempts that ended",
        ),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_usage_days_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("tenant_id", "day", "shard", name=op.f("pk_usage_days")),
        comment="What a tenant used. Written in the transaction that ends an attempt or a job.",
    )


def _create_old_batches() -> None:
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


def _create_old_items() -> None:
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


def _index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, unique=False, postgresql_where=sa.text(where), sqlite_where=sa.text(where))


def _whole(name: str, comment: str, default: int) -> "sa.Column[int]":
    return sa.Column(name, types.Whole, server_default=sa.text(str(default)), nullable=False, comment=comment)


def _moment(name: str, comment: str) -> "sa.Column[object]":
    return sa.Column(name, types.Timestamp(), nullable=True, comment=comment)


def _created_at() -> "sa.Column[object]":
    comment = "when the row was written, database clock"
    return sa.Column("created_at", types.Timestamp(), nullable=False, comment=comment)


def _say(table: str, comment: str) -> None:
    if op.get_bind().dialect.name == "postgresql":  # SQLite keeps no comments
        op.create_table_comment(table, comment)


def _say_column(table: str, column: str, comment: str) -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column(table, column, comment=comment)
