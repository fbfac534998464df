"""urgent jobs: found at once, however long the queue is"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_URGENT = "state = 'queued' AND held IS NULL AND lane = 'high'"


def upgrade() -> None:
    op.create_index(
        "ix_jobs_claim_urgent",
        "jobs",
        ["pool", "vtime", "id"],
        unique=False,
        postgresql_where=sa.text(_URGENT),
        sqlite_where=sa.text(_URGENT),
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_claim_urgent", table_name="jobs")
