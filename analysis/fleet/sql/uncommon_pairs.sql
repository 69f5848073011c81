-- How many uncommon contents two VMs have in common.
WITH first_ones AS (
    SELECT vm_key AS a, hash FROM uncommon
), second_ones AS (
    SELECT vm_key AS b, hash FROM uncommon
)
SELECT f.a, s.b, COUNT(*) AS uncommon
FROM first_ones AS f
JOIN second_ones AS s ON f.hash = s.hash
WHERE f.a < s.b
GROUP BY f.a, s.b
