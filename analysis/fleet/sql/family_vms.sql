-- How much of each family each VM holds.
SELECT family_key, vm_key, COUNT(*) AS kept FROM grouped GROUP BY family_key, vm_key
