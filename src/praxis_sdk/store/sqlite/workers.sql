-- name: put_worker
INSERT INTO workers ({WORKER}) VALUES ({WORKER?})
ON CONFLICT (id) DO UPDATE SET
    capacity = excluded.capacity,
    slots = excluded.slots,
    kinds = excluded.kinds,
    -- A lost worker's work is somebody else's by now: it comes back under a new name.
    state = CASE workers.state WHEN 'lost' THEN 'lost' ELSE excluded.state END,
    lease_until = excluded.lease_until,
    host = excluded.host;

-- name: reserve
UPDATE workers SET
    reserved_cpu_cores = reserved_cpu_cores + ?,
    reserved_memory_mb = reserved_memory_mb + ?,
    reserved_network_mbps = reserved_network_mbps + ?,
    reserved_gpus = reserved_gpus + ?,
    reserved_storage_mb = reserved_storage_mb + ?,
    running = running + ?
WHERE id = ?;

-- name: beat
UPDATE workers SET lease_until = ? WHERE id = ? AND state IN ('active', 'draining');

-- name: workers
SELECT {WORKER} FROM workers WHERE NOT :active_only OR state = 'active' ORDER BY started_at, id;

-- name: living_workers
SELECT {WORKER} FROM workers WHERE state IN ('active', 'draining') ORDER BY started_at, id;

-- name: lose
UPDATE workers SET state = 'lost' WHERE id = ? AND state IN ('active', 'draining') AND lease_until = ?;

-- name: lost
SELECT id FROM workers WHERE state = 'lost' AND running > 0 ORDER BY started_at, id;
