"""The SQL schema of the records and of the log of online changes, the same on every database."""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData()
# In the order of its code points on both databases: the order of a PostgreSQL's own language
# would be another one, and an upgrade of its system could change that under the keys.
_NAME = sa.String().with_variant(sa.String(collation="C"), "postgresql")
DECISIONS = sa.Table(
    "decisions",
    METADATA,
    sa.Column("query_id", _NAME, primary_key=True),
    sa.Column("release", _NAME, nullable=False),
    sa.Column("customer", _NAME, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("recorded_probability", sa.Double, nullable=False),
    sa.Column("threshold", sa.Double, nullable=False),
    sa.Column("match_count", sa.Integer, nullable=False),
    sa.Column("histogram", sa.LargeBinary, nullable=False),
    sa.Column("review_rank", sa.BigInteger, nullable=False),
    sa.Index("decisions_in_review_order", "release", "customer", "review_rank"),
)
DRAWS = sa.Table(
    "draws",
    METADATA,
    sa.Column("draw_id", _NAME, primary_key=True),
    sa.Column("query_id", sa.ForeignKey("decisions.query_id"), nullable=False, index=True),
    sa.Column("item_id", _NAME, nullable=False),
    sa.Column("distance", sa.Double, nullable=False),
    sa.Column("bin", sa.Integer, nullable=False),
    sa.Column("probability", sa.Double, nullable=False),
)
VERDICTS = sa.Table(
    "verdicts",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("query_id", sa.ForeignKey("decisions.query_id"), nullable=False, index=True),
    sa.Column("item_id", _NAME, nullable=False),
    sa.Column("is_match", sa.Boolean, nullable=False),
    sa.Column("draw_id", sa.ForeignKey("draws.draw_id"), unique=True),
    sa.Column("customer", _NAME, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)
OVERRIDES = sa.Table(
    "overrides",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("request_id", _NAME, nullable=False),
    sa.Column("key_id", _NAME, nullable=False),
    sa.Column("customer", _NAME, nullable=False),
    sa.Column("release", _NAME, nullable=False),
    sa.Column("threshold", sa.Double, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)

ITEM_LOG = sa.Table(
    "item_log",
    METADATA,
    sa.Column("identity", _NAME, primary_key=True),
)
"""One row: which log the changes below are of."""
ITEM_CHANGES = sa.Table(
    "item_changes",
    METADATA,
    sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True,
              autoincrement=False),
    sa.Column("customer", _NAME, nullable=False),
    sa.Column("own_number", sa.BigInteger, nullable=False),
    sa.Column("item_id", _NAME, nullable=False),
    sa.Column("action", _NAME, nullable=False),
    sa.Column("kind", _NAME),
    sa.Column("content", sa.LargeBinary),
    sa.Column("encoder", _NAME),
    sa.Column("label", _NAME),
    sa.Column("metadata", sa.Text),
    sa.Column("request_key", _NAME),
    sa.Column("request_digest", _NAME),
    sa.Column("at", sa.Double, nullable=False),
    sa.UniqueConstraint("customer", "own_number"),
    sa.Index("item_changes_of_item", "customer", "item_id", "number"),
    sa.Index("item_changes_of_request", "customer", "request_key"),
)

AUDIT_SCOPES = sa.Table(
    "audit_scopes",
    METADATA,
    sa.Column("scope", _NAME, primary_key=True),
    sa.Column("seed", sa.BigInteger, nullable=False),
)
"""What share their labels: the rows of one scope have one key, and one random number for ever."""
AUDITS = sa.Table(
    "audits",
    METADATA,
    sa.Column("audit", _NAME, primary_key=True),
    sa.Column("scope", sa.ForeignKey("audit_scopes.scope"), nullable=False, index=True),
    sa.Column("told", sa.Text, nullable=False),
    sa.Column("cells", sa.LargeBinary, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)
AUDIT_ROWS = sa.Table(
    "audit_rows",
    METADATA,
    sa.Column("audit", sa.ForeignKey("audits.audit"), primary_key=True),
    sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("key", _NAME, nullable=False),
    sa.Column("cell", sa.BigInteger, nullable=False),
    sa.Column("number", sa.Double, nullable=False),
    sa.Column("inclusion", sa.Double, nullable=False),
    sa.Column("before", sa.Double, nullable=False),
    sa.Column("score", sa.Double),
    sa.Column("shown", sa.Text, nullable=False),
    sa.Index("audit_rows_of_key", "key"),
)
"""``inclusion`` 0: not drawn by this audit, but labelled by one before it."""
AUDIT_LABELS = sa.Table(
    "audit_labels",
    METADATA,
    sa.Column("scope", sa.ForeignKey("audit_scopes.scope"), primary_key=True),
    sa.Column("key", _NAME, primary_key=True),
    sa.Column("is_match", sa.Boolean),
    sa.Column("at", sa.Double, nullable=False),
)
"""``is_match`` null: nobody could tell."""
