-- How many uncommon contents two VMs have in common.
SELECT a.vm_key AS a, b.vm_key AS b, COUNT(*) AS uncommon
FROM uncommon AS a
JOIN uncommon AS b ON a.hash = b.hash
WHERE a.vm_key < b.vm_key
GROUP BY a.vm_key, b.vm_key
