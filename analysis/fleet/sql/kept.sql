-- How many contents of each VM are kept.
SELECT vm_key, COUNT(*) AS kept FROM held GROUP BY vm_key
