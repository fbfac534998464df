"""images by URL: what couriers still have to fetch"""

import sqlalchemy as sa
from alembic import op

from common.db import types

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "intakes",
        sa.Column("job_id", sa.Text(), nullable=False, comment="the job"),
        sa.Column("role", sa.Text(), nullable=False, comment="`image` or `mask`"),
        sa.Column("tenant_id", sa.Text(), nullable=False, comment="whose row it is"),
        sa.Column("url", sa.Text(), nullable=False, comment="where the picture is to be had"),
        sa.Column(
            "attempt",
            types.Whole,
            server_default=sa.text("0"),
            nullable=False,
            comment="tries to fetch it so far",
        ),
        sa.Column("next_at", types.Timestamp(), nullable=False, comment="not before"),
        sa.Column("worker_id", sa.Text(), nullable=True, comment="courier that holds it"),
        sa.Column("lease_until", types.Timestamp(), nullable=True, comment="that courier is presumed dead after this"),
        sa.Column("created_at", types.Timestamp(), nullable=False, comment="when the row was written, database clock"),
        sa.CheckConstraint("(worker_id IS NULL) = (lease_until IS NULL)", name=op.f("ck_intakes_lease")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_intakes_job_id_jobs"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.id"], name=op.f("fk_intakes_tenant_id_tenants")),
        sa.PrimaryKeyConstraint("job_id", "role", name=op.f("pk_intakes")),
        comment="Images to be fetched before their job may be claimed. Written with the job; worked off by couriers.",
    )
    op.create_index(op.f("ix_intakes_next_at"), "intakes", ["next_at"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_intakes_next_at"), table_name="intakes")
    op.drop_table("intakes")
