-- Candidates without those that nearly the same VMs hold as an earlier one: the leaders of the families.
WITH sizes AS (
    SELECT place, COUNT(*) AS holders FROM led_candidates GROUP BY place
), both_held AS (
    SELECT a.place AS earlier, b.place AS later, COUNT(*) AS both_hold
    FROM led_candidates AS a
    JOIN led_candidates AS b ON a.vm_key = b.vm_key
    WHERE a.place < b.place
    GROUP BY a.place, b.place
), alike AS (
    SELECT DISTINCT p.later
    FROM both_held AS p
    JOIN sizes AS a ON p.earlier = a.place
    JOIN sizes AS b ON p.later = b.place
    WHERE p.both_hold * 100 >= (a.holders + b.holders - p.both_hold) * {family_percent}
)
SELECT l.place, l.leader, s.holders
FROM candidates AS l
JOIN sizes AS s ON l.place = s.place
LEFT JOIN alike AS a ON l.place = a.later
WHERE a.later IS NULL
