-- name: insert_batch
INSERT INTO batches ({BATCH}) VALUES ({BATCH?});

-- name: batch
SELECT {BATCH} FROM batches WHERE id = ?;

-- name: batches
SELECT {BATCH} FROM batches ORDER BY created_at DESC, id DESC LIMIT ?;
