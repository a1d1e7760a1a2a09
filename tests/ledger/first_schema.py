"""A ledger as the first comfyline made it, before there were migrations, with rows in it."""

import json

from sqlalchemy import Engine, text

TABLES = """
CREATE TABLE jobs (
    key VARCHAR(64) NOT NULL PRIMARY KEY, model_id VARCHAR NOT NULL, created_at {time} NOT NULL
);
CREATE TABLE attempts (
    id {id} PRIMARY KEY, key VARCHAR(64) NOT NULL REFERENCES jobs (key), number INTEGER NOT NULL,
    state VARCHAR(16) NOT NULL, pipeline TEXT NOT NULL, item TEXT NOT NULL, step TEXT NOT NULL,
    request JSON NOT NULL, run_id VARCHAR NOT NULL, owner VARCHAR, lease_until {time},
    slot_until {time}, request_id VARCHAR(128), estimate_usd FLOAT, cost_usd FLOAT,
    error_kind VARCHAR, error_message TEXT, created_at {time} NOT NULL, submitted_at {time},
    updated_at {time} NOT NULL, UNIQUE (key, number)
);
CREATE INDEX attempts_by_state ON attempts (state);
CREATE TABLE transitions (
    id {id} PRIMARY KEY, attempt_id INTEGER NOT NULL REFERENCES attempts (id),
    state VARCHAR(16) NOT NULL, at {time} NOT NULL
);
CREATE INDEX ix_transitions_attempt_id ON transitions (attempt_id);
CREATE TABLE outputs (
    id {id} PRIMARY KEY, attempt_id INTEGER NOT NULL REFERENCES attempts (id),
    "index" INTEGER NOT NULL, uri VARCHAR NOT NULL UNIQUE, sha256 VARCHAR(64) NOT NULL,
    bytes INTEGER NOT NULL, media_type VARCHAR NOT NULL
);
CREATE INDEX ix_outputs_attempt_id ON outputs (attempt_id)
"""
INSERTS = """
INSERT INTO jobs (key, model_id, created_at) VALUES (:key, 'acme/painter', :now);
INSERT INTO attempts (
    key, number, state, pipeline, item, step, request, run_id, owner, lease_until, request_id,
    estimate_usd, created_at, submitted_at, updated_at
) VALUES (
    :key, 1, :state, 'scenes', 'cat', 'edit', :request, 'run-0', 'old:1', :lease_until, :request_id,
    0.5, :now, :submitted_at, :now
);
INSERT INTO transitions (attempt_id, state, at)
SELECT id, :state, :now FROM attempts WHERE key = :key
"""
WHEN = "2026-03-01 11:30:00.000000"
STATES = {
    "stored": "persisted",
    "waiting": "in_queue",
    "doubted": "in_doubt",
    "sending": "submitting",
    "never left": "planned",
}
"""The prompt of each job in it, and where its only attempt stands."""


def make_tables(engine: Engine) -> None:
    """What `metadata.create_all` made then."""
    sqlite = engine.dialect.name == "sqlite"
    words = {
        "time": "DATETIME" if sqlite else "TIMESTAMP WITH TIME ZONE",
        "id": "INTEGER NOT NULL" if sqlite else "SERIAL",
    }
    with engine.begin() as connection:
        for statement in TABLES.format(**words).split(";"):
            connection.execute(text(statement))


def fill(engine: Engine, keys: dict[str, str]) -> None:
    """One job of each of `STATES`, under the keys that their prompts have."""
    with engine.begin() as connection:
        for number, (prompt, state) in enumerate(STATES.items(), 1):
            row = {
                "key": keys[prompt],
                "state": state,
                "request": json.dumps(_request(prompt, keys[prompt])),
                "now": WHEN if engine.dialect.name == "sqlite" else WHEN + "+00",
                "request_id": f"r-{number}" if state in {"persisted", "in_queue"} else None,
            }
            row["submitted_at"] = row["now"] if row["request_id"] else None
            row["lease_until"] = row["now"] if state == "submitting" else None
            for statement in INSERTS.split(";"):
                connection.execute(text(statement), row)
        connection.execute(
            text(
                'INSERT INTO outputs (attempt_id, "index", uri, sha256, bytes, media_type) SELECT '
                "id, 0, 'file:///out/cat.png', :sha256, 123, 'image/png' FROM attempts "
                "WHERE state = 'persisted'"
            ),
            {"sha256": "0" * 64},
        )


def _request(prompt: str, key: str) -> dict[str, object]:
    job = {
        "pipeline": "scenes",
        "item": "cat",
        "step": "edit",
        "model_id": "acme/painter",
        "variant": None,
        "settings": {},
        "source": "",
        "inputs": {"prompt": prompt},
        "placement": {"folder": "/out", "name": "{{ index }}.png", "scope": {}},
    }
    return {"job": job, "key": key, "media": [], "estimate_usd": 0.5}
