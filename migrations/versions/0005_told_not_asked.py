"""webhooks and their deliveries as they are used; numbered previews; measured paces of workers; finish tags of jobs"""

import sqlalchemy as sa
from alembic import op

from common.db import types

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_PENDING = "state = 'pending'"
_HELD = "lease_until IS NOT NULL"
_STANDING = "job_id IS NULL"
_FAILING = "failing_since IS NOT NULL AND disabled_at IS NULL AND job_id IS NOT NULL"


def upgrade() -> None:
    comment = "grows with every preview of the attempt; 0: none"
    op.add_column(
        "job_progress",
        sa.Column("preview_seq", types.Whole, server_default=sa.text("0"), nullable=False, comment=comment),
    )
    comment = "measured device seconds per megapixel and step, by model; null: nothing measured"
    op.add_column("workers", sa.Column("paces", types.Document, nullable=True, comment=comment))
    comment = "finish tag that its flow had right after it; null: from an earlier release"
    op.add_column("jobs", sa.Column("vfinish", sa.Float(), nullable=True, comment=comment))
    op.add_column("webhooks", sa.Column("description", sa.Text(), nullable=True, comment="for people"))
    comment = "`gone` (it answered 410) or `failing` (for days)"
    op.add_column("webhooks", sa.Column("disabled_reason", sa.Text(), nullable=True, comment=comment))
    comment = "receiver's host in its one spelling, as deliveries have it"
    op.add_column("webhooks", sa.Column("host", sa.Text(), server_default="", nullable=False, comment=comment))
    op.create_index(op.f("ix_webhooks_job_id"), "webhooks", ["job_id"], unique=False)
    for name, columns, where in (
        ("ix_webhooks_standing", ["tenant_id", "id"], _STANDING),
        ("ix_webhooks_failing", ["tenant_id", "host"], _FAILING),
    ):
        op.create_index(
            name, "webhooks", columns, unique=False, postgresql_where=sa.text(where), sqlite_where=sa.text(where)
        )
    op.drop_index(op.f("ix_webhooks_tenant_id_id"), table_name="webhooks")
    op.drop_table("deliveries")  # nothing has written to it so far
    _create_deliveries()


def downgrade() -> None:
    op.drop_table("deliveries")
    _create_old_deliveries()
    op.create_index(op.f("ix_webhooks_tenant_id_id"), "webhooks", ["tenant_id", "id"], unique=False)
    op.drop_index("ix_webhooks_failing", table_name="webhooks")
    op.drop_index("ix_webhooks_standing", table_name="webhooks")
    op.drop_index(op.f("ix_webhooks_job_id"), table_name="webhooks")
    op.drop_column("webhooks", "host")
    op.drop_column("webhooks", "disabled_reason")
    op.drop_column("webhooks", "description")
    op.drop_column("jobs", "vfinish")
    op.drop_column("workers", "paces")
    op.drop_column("job_progress", "preview_seq")


def _create_deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("id", sa.Text(), nullable=False, comment="delivery id"),
        sa.Column("tenant_id", sa.Text(), nullable=False, comment="whose row it is"),
        sa.Column("webhook_id", sa.Text(), nullable=False, comment="endpoint"),
        sa.Column(
            "subject_id", sa.Text(), nullable=True, comment="job or batch that the event is of; null for `webhook.test`"
        ),
        sa.Column("version", types.Whole, nullable=True, comment="version of the subject after the event"),
        sa.Column("event_id", sa.Text(), nullable=False, comment="the `webhook-id` header, same over retries"),
        sa.Column("kind", sa.Text(), nullable=False, comment="event kind"),
        sa.Column(
            "host",
            sa.Text(),
            nullable=False,
            comment="receiver's host in its one spelling, for the limit of calls in flight",
        ),
        sa.Column(
            "body", sa.Text(), nullable=True, comment="what is sent, from the first attempt on; emptied by erasure"
        ),
        sa.Column("state", sa.Text(), nullable=False, comment="`pending`, `delivered`, `failed` or `disabled`"),
        sa.Column("attempt", types.Whole, server_default=sa.text("0"), nullable=False, comment="attempts so far"),
        sa.Column(
            "schedule_from",
            types.Whole,
            server_default=sa.text("0"),
            nullable=False,
            comment="attempts before the schedule began, which a redelivery begins anew",
        ),
        sa.Column(
            "next_at",
            types.Timestamp(),
            nullable=True,
            comment="not before; while a courier holds it, the end of that lease",
        ),
        sa.Column("worker_id", sa.Text(), nullable=True, comment="courier that holds it"),
        sa.Column("lease_until", types.Timestamp(), nullable=True, comment="that courier is presumed dead after this"),
        sa.Column(
            "log", types.Document, nullable=False, comment="per attempt: moment, status, milliseconds, first 1 kB"
        ),
        sa.Column(
            "created_at",
            types.Timestamp(),
            nullable=False,
            comment="when the row was written, database clock",
        ),
        sa.Column("ended_at", types.Timestamp(), nullable=True, comment="when it was delivered or given up"),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'failed', 'disabled')", name=op.f("ck_deliveries_state")),
        sa.CheckConstraint("(worker_id IS NULL) = (lease_until IS NULL)", name=op.f("ck_deliveries_lease")),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_deliveries_tenant_id_tenants")),
        sa.ForeignKeyConstraint(
            ["webhook_id"], ["webhooks.id"], name=op.f("fk_deliveries_webhook_id_webhooks"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("webhook_id", "event_id", name=op.f("uq_deliveries_webhook_id_event_id")),
        comment="One row per event and endpoint. Written with the event; worked off by couriers.",
    )
    for name, columns, where in (
        ("ix_deliveries_due", ["host", "tenant_id", "next_at"], _PENDING),
        ("ix_deliveries_next", ["next_at"], _PENDING),
        ("ix_deliveries_held", ["lease_until"], _HELD),
    ):
        op.create_index(
            name,
            "deliveries",
            columns,
            unique=False,
            postgresql_where=sa.text(where),
            sqlite_where=sa.text(where),
        )
    op.create_index(op.f("ix_deliveries_tenant_id_id"), "deliveries", ["tenant_id", "id"], unique=False)
    op.create_index(
        op.f("ix_deliveries_tenant_id_subject_id_id"), "deliveries", ["tenant_id", "subject_id", "id"], unique=False
    )
    op.create_index(op.f("ix_deliveries_ended_at"), "deliveries", ["ended_at"], unique=False)


def _create_old_deliveries() -> None:
    """As revision 0001 made it."""
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
