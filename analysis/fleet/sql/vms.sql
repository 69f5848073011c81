-- The VMs of the newest sketches, each with a number. One that is known by its UUID on several hosts is where it was
-- seen last.
WITH seen AS (
    SELECT n.host_key, n.host, n.run, n.begin_us, h.vm, h.uuid,
           ROW_NUMBER() OVER (
               PARTITION BY h.uuid,
                            CASE WHEN h.uuid IS NULL THEN n.host_key END,
                            CASE WHEN h.uuid IS NULL THEN h.vm END
               ORDER BY n.begin_us DESC, n.host_key DESC, h.vm DESC
           ) AS age
    FROM hosts AS h
    JOIN newest AS n ON h.host = n.host AND h.run = n.run AND h.begin_us = n.begin_us
    WHERE h.vm IS NOT NULL
)
SELECT CAST(ROW_NUMBER() OVER (ORDER BY host_key, vm) AS INT) AS vm_key, host_key, host, run, begin_us, vm, uuid
FROM seen
WHERE age = 1
