-- How many common contents of each VM another VM of these hosts holds.
SELECT n.vm_key, n.host_key,
       CAST(SUM(BIT_COUNT(w.bits & CASE WHEN n.is_home = 1 THEN h.bits_of_several ELSE h.bits END)) AS BIGINT) AS common
FROM near_hosts AS n
JOIN vm_words AS w ON n.vm_key = w.vm_key
JOIN host_words AS h ON n.host_key = h.host_key AND w.word = h.word
GROUP BY n.vm_key, n.host_key
