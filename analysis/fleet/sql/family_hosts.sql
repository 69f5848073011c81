-- How much of each family the VMs of each host hold: each content once, and as often as it is held.
WITH there AS (
    SELECT g.family_key, v.host_key, g.hash, COUNT(*) AS held
    FROM grouped AS g
    JOIN vms AS v ON g.vm_key = v.vm_key
    GROUP BY g.family_key, v.host_key, g.hash
)
SELECT family_key, host_key, COUNT(*) AS kept, CAST(SUM(held) AS BIGINT) AS held
FROM there
GROUP BY family_key, host_key
