-- Pairs of VMs that have much in common: of each VM its first {candidates}, and of all the first {pairs}.
WITH ways AS (
    SELECT a AS vm_key, b AS other_key, both_hold FROM compared WHERE both_hold >= {least}
    UNION ALL
    SELECT b AS vm_key, a AS other_key, both_hold FROM compared WHERE both_hold >= {least}
), ordered AS (
    SELECT vm_key, other_key, both_hold,
           ROW_NUMBER() OVER (PARTITION BY vm_key ORDER BY both_hold DESC, other_key DESC) AS choice
    FROM ways
), chosen AS (
    SELECT DISTINCT
           CASE WHEN vm_key < other_key THEN vm_key ELSE other_key END AS a,
           CASE WHEN vm_key < other_key THEN other_key ELSE vm_key END AS b,
           both_hold
    FROM ordered
    WHERE choice <= {candidates}
)
SELECT v.host, v.vm, v.uuid, k.kept,
       w.host AS other_host, w.vm AS other_vm, w.uuid AS other_uuid, m.kept AS other_kept,
       c.both_hold AS common,
       CASE WHEN v.host_key = w.host_key THEN 1 ELSE 0 END AS one_host
FROM chosen AS c
JOIN vms AS v ON c.a = v.vm_key
JOIN vms AS w ON c.b = w.vm_key
JOIN kept AS k ON c.a = k.vm_key
JOIN kept AS m ON c.b = m.vm_key
ORDER BY common DESC, host ASC, vm ASC, other_host ASC, other_vm ASC
LIMIT {pairs}
