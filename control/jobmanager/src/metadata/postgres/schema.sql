-- Version 1. Times are told to the millisecond. Where a text had the character NUL, which PostgreSQL has
-- not, it has U+2400.

CREATE TABLE tidemill.migrations (
    version    integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now(),
    applied_by text NOT NULL DEFAULT current_user
);

-- Who leads. Locked by every write; changed by elections alone.
CREATE TABLE tidemill.leadership (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    term     bigint NOT NULL,
    holder   text,
    address  text,
    since    timestamptz
);
INSERT INTO tidemill.leadership (term) VALUES (0);

-- Whether the leader is alive.
CREATE TABLE tidemill.lease (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    renewals   bigint NOT NULL DEFAULT 0,
    renewed_at timestamptz
);
INSERT INTO tidemill.lease DEFAULT VALUES;

CREATE TABLE tidemill.jobs (
    job_id              text PRIMARY KEY,
    -- In the order of submission.
    number              bigint NOT NULL GENERATED ALWAYS AS IDENTITY UNIQUE,
    name                text NOT NULL,
    status              text NOT NULL,
    cause               text,
    submitted_at        timestamptz NOT NULL,
    ended_at            timestamptz,
    attempt             bigint NOT NULL,
    parallelism         bigint NOT NULL,
    artifact            text NOT NULL,
    args                text[] NOT NULL,
    allow_dropped_state boolean NOT NULL,
    initial             json,
    store               json NOT NULL,
    workers             json NOT NULL,
    submission          json NOT NULL
);

-- For people: what the rows of jobs said of each attempt. Not read by JobManagers.
CREATE TABLE tidemill.attempts (
    job_id      text NOT NULL REFERENCES tidemill.jobs ON DELETE CASCADE,
    attempt     bigint NOT NULL,
    term        bigint NOT NULL,
    first_at    timestamptz NOT NULL DEFAULT now(),
    last_at     timestamptz NOT NULL DEFAULT now(),
    last_status text NOT NULL,
    parallelism bigint NOT NULL,
    workers     json NOT NULL,
    PRIMARY KEY (job_id, attempt)
);

CREATE TABLE tidemill.status_history (
    job_id text NOT NULL REFERENCES tidemill.jobs ON DELETE CASCADE,
    number bigint NOT NULL,
    status text NOT NULL,
    at     timestamptz NOT NULL,
    PRIMARY KEY (job_id, number)
);

CREATE TABLE tidemill.checkpoints (
    job_id       text NOT NULL REFERENCES tidemill.jobs ON DELETE CASCADE,
    epoch        bigint NOT NULL,
    state        text NOT NULL,
    savepoint    boolean NOT NULL,
    triggered_at timestamptz NOT NULL,
    duration_ms  bigint,
    object_bytes bigint NOT NULL,
    shared_bytes bigint NOT NULL,
    records      bigint NOT NULL,
    location     text,
    reason       text,
    PRIMARY KEY (job_id, epoch)
);

CREATE TABLE tidemill.savepoints (
    job_id       text NOT NULL REFERENCES tidemill.jobs ON DELETE CASCADE,
    trigger_id   bigint NOT NULL,
    stop         boolean NOT NULL,
    requested_at timestamptz NOT NULL,
    state        text NOT NULL,
    epoch        bigint,
    location     text,
    reason       text,
    PRIMARY KEY (job_id, trigger_id)
);

CREATE TABLE tidemill.exceptions (
    job_id  text NOT NULL REFERENCES tidemill.jobs ON DELETE CASCADE,
    number  bigint NOT NULL,
    at      timestamptz NOT NULL,
    attempt bigint NOT NULL,
    task    text,
    host    text,
    message text NOT NULL,
    PRIMARY KEY (job_id, number)
);
