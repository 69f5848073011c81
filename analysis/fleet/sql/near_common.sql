-- How many common contents both VMs of these pairs hold.
SELECT p.a, p.b, CAST(SUM(BIT_COUNT(x.bits & y.bits)) AS BIGINT) AS common
FROM near AS p
JOIN vm_words AS x ON p.a = x.vm_key
JOIN vm_words AS y ON p.b = y.vm_key AND x.word = y.word
GROUP BY p.a, p.b
