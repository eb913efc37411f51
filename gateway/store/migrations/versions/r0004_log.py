"""Adds the event log's tables, on PostgreSQL alone: with SQLite the log is a file of its own."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_TABLES = """
CREATE TABLE log_made (id int PRIMARY KEY, mark text NOT NULL);
CREATE TABLE log_nodes (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, beat timestamptz NOT NULL DEFAULT now());
CREATE TABLE log_batches (
    node bigint NOT NULL, number bigint NOT NULL, body bytea NOT NULL, PRIMARY KEY (node, number));
ALTER TABLE log_batches ALTER body SET STORAGE EXTERNAL;
CREATE TABLE log_stretches (
    ordinal bigint GENERATED ALWAYS AS IDENTITY, number bigint PRIMARY KEY, node bigint, batch bigint NOT NULL,
    key text NOT NULL, home text NOT NULL, epochs text NOT NULL, first bigint NOT NULL, last bigint NOT NULL,
    turn text NOT NULL, mark text NOT NULL, ended double precision, kept boolean NOT NULL DEFAULT false,
    kept_at timestamptz, state bytea NOT NULL, body bytea NOT NULL DEFAULT '');
CREATE UNIQUE INDEX log_stretches_place ON log_stretches (key, first);
CREATE INDEX log_stretches_turn ON log_stretches (turn);
CREATE INDEX log_stretches_mark ON log_stretches (mark) WHERE mark <> '';
CREATE INDEX log_stretches_node ON log_stretches (node) WHERE NOT kept;
CREATE INDEX log_stretches_home ON log_stretches (home) WHERE NOT kept;
CREATE INDEX log_stretches_kept ON log_stretches (kept_at);
CREATE TABLE log_heads (key text PRIMARY KEY, epochs text NOT NULL, head bigint NOT NULL, node bigint);
CREATE INDEX log_heads_node ON log_heads (node) WHERE node IS NOT NULL;
CREATE TABLE log_locks (name text PRIMARY KEY, node bigint NOT NULL);
CREATE TABLE log_post (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, node bigint NOT NULL, body bytea NOT NULL, answer bytea,
    at timestamptz NOT NULL DEFAULT now());
CREATE TABLE log_rates (account text PRIMARY KEY, starts timestamptz[] NOT NULL, newest timestamptz NOT NULL);
CREATE INDEX log_rates_newest ON log_rates (newest);
"""


def upgrade() -> None:
    if op.get_context().dialect.name != "postgresql":
        return
    for statement in filter(str.strip, _TABLES.split(";")):
        op.execute(statement)
    op.execute(sa.text("INSERT INTO log_made (id, mark) VALUES (1, :mark)").bindparams(mark=secrets.token_hex(4)))


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        for table in ("made", "nodes", "batches", "stretches", "heads", "locks", "post", "rates"):
            op.execute(f"DROP TABLE log_{table}")
