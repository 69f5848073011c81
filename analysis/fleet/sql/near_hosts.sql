-- Hosts to look at for each VM: its own, those with most of its uncommon contents, and those with most of its largest
-- families.
WITH ordered AS (
    SELECT vm_key, host_key,
           ROW_NUMBER() OVER (PARTITION BY vm_key ORDER BY uncommon DESC, host_key DESC) AS choice
    FROM uncommon_hosts
    WHERE host_key <> home_key
), fullest AS (
    SELECT family_key, host_key,
           ROW_NUMBER() OVER (PARTITION BY family_key ORDER BY kept DESC, host_key DESC) AS choice
    FROM family_hosts
), found AS (
    SELECT vm_key, host_key FROM ordered WHERE choice <= {candidates}
    UNION ALL
    SELECT f.vm_key, o.host_key
    FROM vm_families AS f
    JOIN fullest AS o ON f.family_key = o.family_key
    WHERE o.choice <= {candidates}
    UNION ALL
    SELECT v.vm_key, v.host_key FROM vms AS v JOIN kept AS k ON v.vm_key = k.vm_key
), distinct_hosts AS (
    SELECT DISTINCT vm_key, host_key FROM found
)
SELECT d.vm_key, d.host_key, CASE WHEN d.host_key = v.host_key THEN 1 ELSE 0 END AS is_home
FROM distinct_hosts AS d
JOIN vms AS v ON d.vm_key = v.vm_key
