-- How many kept contents both VMs of these pairs hold, exactly.
SELECT p.a, p.b, COALESCE(u.uncommon, 0) + COALESCE(c.common, 0) AS both_hold
FROM near AS p
LEFT JOIN uncommon_pairs AS u ON p.a = u.a AND p.b = u.b
LEFT JOIN near_common AS c ON p.a = c.a AND p.b = c.b
