-- A history as version 1 has written it.
CREATE TABLE runs (
    id INTEGER PRIMARY KEY, run TEXT NOT NULL, scenario TEXT NOT NULL, node TEXT NOT NULL, role TEXT NOT NULL,
    game TEXT NOT NULL, timezone TEXT, UNIQUE (run, scenario, node)
);
CREATE TABLE sessions (
    run INTEGER, session INTEGER, at INTEGER NOT NULL, start INTEGER, first INTEGER NOT NULL, slots INTEGER NOT NULL,
    binding INTEGER NOT NULL, slot_hours REAL NOT NULL, round INTEGER, settled INTEGER, complete INTEGER, ended TEXT,
    homes INTEGER, roster INTEGER, PRIMARY KEY (run, session)
) WITHOUT ROWID;
CREATE TABLE slots (
    run INTEGER, slot INTEGER, session INTEGER NOT NULL, start INTEGER, price REAL NOT NULL, load_kw REAL,
    PRIMARY KEY (run, slot)
) WITHOUT ROWID;
CREATE TABLE members (
    run INTEGER, slot INTEGER, member TEXT, session INTEGER NOT NULL, load_kw REAL NOT NULL, feed_in_price REAL,
    PRIMARY KEY (run, slot, member)
) WITHOUT ROWID;
CREATE TABLE rounds (
    run INTEGER, round INTEGER, inner INTEGER, session INTEGER NOT NULL, at INTEGER NOT NULL, answered INTEGER,
    again INTEGER, questions INTEGER, messages INTEGER, bytes INTEGER, ms REAL, residual REAL,
    PRIMARY KEY (run, round, inner)
) WITHOUT ROWID;
CREATE TABLE missing (
    run INTEGER, round INTEGER, inner INTEGER, member TEXT, action TEXT, session INTEGER NOT NULL, why TEXT NOT NULL,
    PRIMARY KEY (run, round, inner, member, action)
) WITHOUT ROWID;
CREATE TABLE meter (start INTEGER PRIMARY KEY, minutes INTEGER NOT NULL, energy_kwh REAL NOT NULL);
CREATE TABLE modes (
    at INTEGER PRIMARY KEY, mode TEXT NOT NULL, override INTEGER NOT NULL, limited INTEGER NOT NULL,
    takes_part INTEGER NOT NULL
);
CREATE INDEX sessions_by_age ON sessions (at);
INSERT INTO runs VALUES (1, 'grid', '', 'h1', 'home', 'user_oriented', NULL);
INSERT INTO sessions VALUES (1, 1, 1000000000, NULL, 1, 1, 1, 1.0, 3, 1, 1, NULL, 1, NULL);
INSERT INTO slots VALUES (1, 1, 1, NULL, 0.25, 4.0);
INSERT INTO members VALUES (1, 1, 'h1', 1, 4.0, NULL);
PRAGMA user_version = 1;
