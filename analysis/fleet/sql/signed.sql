-- Common contents, with three samples of their holders: the smallest number of a holder in three orders of all VMs.
-- Contents of nearly the same holders have nearly always the same samples (min-hashes: Broder, "On the resemblance and
-- containment of documents", 1997).
SELECT hash,
       COUNT(*) AS holders,
       MIN((CAST(vm_key AS BIGINT) * 1103515245 + 12345) % 2147483647) AS sample_1,
       MIN((CAST(vm_key AS BIGINT) * 1664525 + 1013904223) % 2147483647) AS sample_2,
       MIN((CAST(vm_key AS BIGINT) * 1140671485 + 12820163) % 2147483647) AS sample_3
FROM common
GROUP BY hash
