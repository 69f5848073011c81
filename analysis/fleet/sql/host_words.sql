-- The common contents of each host, as bits: all, and those that several of its VMs hold.
SELECT p.host_key, n.word,
       CAST(SUM(n.bit) AS BIGINT) AS bits,
       CAST(SUM(CASE WHEN p.vms > 1 THEN n.bit ELSE 0 END) AS BIGINT) AS bits_of_several
FROM places AS p
JOIN numbered AS n ON p.hash = n.hash
GROUP BY p.host_key, n.word
