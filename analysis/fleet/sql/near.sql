-- Pairs of VMs to compare: for each VM those with which it has most uncommon contents, and those that hold most of its
-- largest families.
WITH ways AS (
    SELECT a AS vm_key, b AS other_key, uncommon FROM uncommon_pairs WHERE uncommon >= {least}
    UNION ALL
    SELECT b AS vm_key, a AS other_key, uncommon FROM uncommon_pairs WHERE uncommon >= {least}
), ordered AS (
    SELECT vm_key, other_key,
           ROW_NUMBER() OVER (PARTITION BY vm_key ORDER BY uncommon DESC, other_key DESC) AS choice
    FROM ways
), fullest AS (
    SELECT family_key, vm_key, ROW_NUMBER() OVER (PARTITION BY family_key ORDER BY kept DESC, vm_key DESC) AS choice
    FROM family_vms
), found AS (
    SELECT vm_key, other_key FROM ordered WHERE choice <= {candidates}
    UNION ALL
    SELECT f.vm_key, o.vm_key AS other_key
    FROM vm_families AS f
    JOIN fullest AS o ON f.family_key = o.family_key
    WHERE o.choice <= 3
)
SELECT DISTINCT
       CASE WHEN vm_key < other_key THEN vm_key ELSE other_key END AS a,
       CASE WHEN vm_key < other_key THEN other_key ELSE vm_key END AS b
FROM found
WHERE vm_key <> other_key
