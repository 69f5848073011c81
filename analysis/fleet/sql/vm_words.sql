-- The common contents of each VM, as bits.
SELECT c.vm_key, n.word, CAST(SUM(n.bit) AS BIGINT) AS bits
FROM common AS c
JOIN numbered AS n ON c.hash = n.hash
GROUP BY c.vm_key, n.word
