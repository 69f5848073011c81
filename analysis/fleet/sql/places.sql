-- How many VMs of a host hold a content that several VMs hold.
SELECT s.hash, v.host_key, COUNT(*) AS vms
FROM shared AS s
JOIN vms AS v ON s.vm_key = v.vm_key
GROUP BY s.hash, v.host_key
