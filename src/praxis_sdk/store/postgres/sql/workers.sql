-- Who runs executions.

-- name: put_worker
INSERT INTO workers AS kept ({WORKER}) VALUES ({WORKER$1})
ON CONFLICT (id) DO UPDATE SET
    capacity = excluded.capacity,
    slots = excluded.slots,
    kinds = excluded.kinds,
    -- A lost worker's work is somebody else's by now: it comes back under a new name.
    state = CASE kept.state WHEN 'lost' THEN 'lost' ELSE excluded.state END,
    lease_until = excluded.lease_until,
    host = excluded.host;

-- name: beat
UPDATE workers SET lease_until = $2 WHERE id = $1 AND state IN ('active', 'draining') RETURNING id;

-- name: workers
SELECT {WORKER} FROM workers WHERE state = 'active' OR NOT $1 ORDER BY started_at, id;

-- name: lose_workers
UPDATE workers SET state = 'lost' WHERE id = ANY (ARRAY(
    SELECT id FROM workers WHERE state IN ('active', 'draining') AND lease_until <= $1 ORDER BY id FOR NO KEY UPDATE
))
RETURNING id;

-- name: lost_workers
SELECT id FROM workers WHERE state = 'lost' AND running > 0 ORDER BY started_at, id;
