-- What is submitted again and again, what was submitted together, and settings.

-- name: put_schedule
INSERT INTO schedules ({SCHEDULE}) VALUES ({SCHEDULE$1})
ON CONFLICT (id) DO UPDATE SET {SCHEDULE=excluded};

-- name: schedules
SELECT {SCHEDULE} FROM schedules ORDER BY id;

-- name: remove_schedule
DELETE FROM schedules WHERE id = $1 RETURNING id;

-- name: fire
-- Holds only where nobody moved it on, or paused it, meanwhile.
UPDATE schedules SET next_at = $2, last_at = $3, last_execution_id = $4
WHERE id = $1 AND next_at IS NOT DISTINCT FROM $5 AND paused = $6
RETURNING id;

-- name: add_batch
INSERT INTO batches ({BATCH}) VALUES ({BATCH$1}) ON CONFLICT DO NOTHING RETURNING id;

-- name: batch
SELECT {BATCH} FROM batches WHERE id = $1;

-- name: batches
SELECT {BATCH} FROM batches ORDER BY created_at DESC, id DESC LIMIT $1;

-- name: get_setting
SELECT value FROM settings WHERE name = $1;

-- name: put_setting
INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value;
