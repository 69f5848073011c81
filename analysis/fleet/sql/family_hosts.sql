-- How much of each family the VMs of each host hold: each content once, and as often as it is held; and how many of them
-- hold some of it.
WITH there AS (
    SELECT g.family_key, v.host_key, g.hash, COUNT(*) AS held
    FROM grouped AS g
    JOIN vms AS v ON g.vm_key = v.vm_key
    GROUP BY g.family_key, v.host_key, g.hash
), contents AS (
    SELECT family_key, host_key, COUNT(*) AS kept, CAST(SUM(CAST(held AS BIGINT)) AS BIGINT) AS held
    FROM there
    GROUP BY family_key, host_key
), holders_there AS (
    SELECT f.family_key, v.host_key, COUNT(*) AS vms
    FROM family_vms AS f
    JOIN vms AS v ON f.vm_key = v.vm_key
    GROUP BY f.family_key, v.host_key
)
SELECT c.family_key, c.host_key, c.kept, c.held, h.vms
FROM contents AS c
JOIN holders_there AS h ON c.family_key = h.family_key AND c.host_key = h.host_key
