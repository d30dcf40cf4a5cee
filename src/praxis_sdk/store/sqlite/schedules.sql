-- name: put_schedule
INSERT OR REPLACE INTO schedules ({SCHEDULE}) VALUES ({SCHEDULE?});

-- name: schedules
SELECT {SCHEDULE} FROM schedules ORDER BY id;

-- name: remove_schedule
DELETE FROM schedules WHERE id = ?;

-- name: fire
UPDATE schedules SET next_at = ?, last_at = ?, last_execution_id = ?
WHERE id = ? AND next_at IS ? AND paused = ?;
