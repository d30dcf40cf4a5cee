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

-- name: living_workers
SELECT {WORKER} FROM workers WHERE state IN ('active', 'draining') ORDER BY started_at, id;

-- name: expire_workers
-- $1: ids; $2: their leases as they were seen.
UPDATE workers SET state = 'lost' WHERE id = ANY (ARRAY(
    SELECT id FROM workers JOIN unnest($1::text[], $2::double precision[]) AS seen (worker, lease) ON worker = id
    WHERE state IN ('active', 'draining') AND lease_until = lease ORDER BY id FOR NO KEY UPDATE OF workers
))
RETURNING id;

-- name: lost_workers
SELECT id FROM workers WHERE state = 'lost' AND running > 0 ORDER BY started_at, id;
