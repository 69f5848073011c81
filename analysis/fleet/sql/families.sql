-- Contents that many VMs hold, such as systems and libraries, taken together where nearly the same VMs hold them.
-- kept: contents. held: how often VMs hold one of them. on_hosts: the same with each content once on each host, which is
-- what is left when hosts merge it. vms, hosts: those that hold at least half of it.
WITH sizes AS (
    SELECT family_key, COUNT(*) AS kept FROM members GROUP BY family_key
), of_vms AS (
    SELECT f.family_key,
           CAST(SUM(CAST(f.kept AS BIGINT)) AS BIGINT) AS held,
           CAST(SUM(CASE WHEN f.kept * 2 >= s.kept THEN 1 ELSE 0 END) AS BIGINT) AS vms
    FROM family_vms AS f
    JOIN sizes AS s ON f.family_key = s.family_key
    GROUP BY f.family_key
), of_hosts AS (
    SELECT f.family_key,
           CAST(SUM(CAST(f.kept AS BIGINT)) AS BIGINT) AS on_hosts,
           CAST(SUM(CASE WHEN f.kept * 2 >= s.kept THEN 1 ELSE 0 END) AS BIGINT) AS hosts
    FROM family_hosts AS f
    JOIN sizes AS s ON f.family_key = s.family_key
    GROUP BY f.family_key
), fullest AS (
    SELECT family_key, vm_key, ROW_NUMBER() OVER (PARTITION BY family_key ORDER BY kept DESC, vm_key DESC) AS choice
    FROM family_vms
)
SELECT s.family_key, s.kept, v.held, h.on_hosts, v.vms, h.hosts, e.host AS example_host, e.vm AS example_vm
FROM sizes AS s
JOIN of_vms AS v ON s.family_key = v.family_key
JOIN of_hosts AS h ON s.family_key = h.family_key
JOIN fullest AS f ON s.family_key = f.family_key
JOIN vms AS e ON f.vm_key = e.vm_key
WHERE f.choice = 1 AND s.kept >= {family_kept}
ORDER BY held DESC, family_key ASC
