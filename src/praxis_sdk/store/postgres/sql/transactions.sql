-- What makes every transaction count once, and known to other processes.

-- name: mark
-- The last statement of a transaction: its number, and what it is news for. Statements that end with the same are
-- the last themselves.
WITH marked AS (
    UPDATE writers SET commits = $2, at = $3 WHERE id = $1 RETURNING id
)
SELECT 0, (SELECT count(*) FROM marked), (SELECT count(pg_notify('praxis', news)) FROM unnest($4::text[]) AS news);

-- name: marked
-- Waits for a transaction of this writer that the server has not ended yet.
SELECT commits FROM writers WHERE id = $1 FOR UPDATE;

-- name: add_writer
INSERT INTO writers (id, commits, at) VALUES ($1, 0, $2) ON CONFLICT DO NOTHING;

-- name: remove_writers
-- Those of a store that closes, and those that nobody has used for long.
DELETE FROM writers WHERE id = ANY ($1::text[]) OR at < $2;
