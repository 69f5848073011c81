-- How many uncommon contents of each VM another VM of a host holds.
SELECT u.vm_key, u.home_key, p.host_key, COUNT(*) AS uncommon
FROM (SELECT c.vm_key, c.hash, v.host_key AS home_key FROM uncommon AS c JOIN vms AS v ON c.vm_key = v.vm_key) AS u
JOIN places AS p ON u.hash = p.hash
WHERE p.host_key <> u.home_key OR p.vms > 1
GROUP BY u.vm_key, u.home_key, p.host_key
