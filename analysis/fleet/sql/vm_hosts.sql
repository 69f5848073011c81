-- How well hosts suit each VM: its own (choice 0), and the ten best others. common: kept contents of the VM that another
-- VM of that host holds.
WITH counted AS (
    SELECT n.vm_key, n.host_key, n.is_home, COALESCE(u.uncommon, 0) + COALESCE(c.common, 0) AS both_hold
    FROM near_hosts AS n
    LEFT JOIN uncommon_hosts AS u ON n.vm_key = u.vm_key AND n.host_key = u.host_key
    LEFT JOIN near_hosts_common AS c ON n.vm_key = c.vm_key AND n.host_key = c.host_key
), ordered AS (
    SELECT vm_key, host_key, both_hold, is_home,
           ROW_NUMBER() OVER (PARTITION BY vm_key, is_home ORDER BY both_hold DESC, host_key DESC) AS place
    FROM counted
), chosen AS (
    SELECT vm_key, host_key, both_hold, CASE WHEN is_home = 1 THEN 0 ELSE place END AS choice
    FROM ordered
    WHERE place <= 10 AND (is_home = 1 OR both_hold > 0)
)
SELECT v.host, v.vm, v.uuid, k.kept, c.choice, n.host AS other_host, c.both_hold AS common
FROM chosen AS c
JOIN vms AS v ON c.vm_key = v.vm_key
JOIN kept AS k ON c.vm_key = k.vm_key
JOIN newest AS n ON c.host_key = n.host_key
ORDER BY host ASC, vm ASC, choice ASC
