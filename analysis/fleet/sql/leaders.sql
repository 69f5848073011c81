-- Candidates without those that nearly the same VMs hold as an earlier one: the leaders of the families.
WITH sizes AS (
    SELECT place, COUNT(*) AS holders FROM led_candidates GROUP BY place
), first_ones AS (
    SELECT vm_key, place AS earlier FROM led_candidates
), second_ones AS (
    SELECT vm_key, place AS later FROM led_candidates
), both_held AS (
    SELECT f.earlier, s.later, COUNT(*) AS both_hold
    FROM first_ones AS f
    JOIN second_ones AS s ON f.vm_key = s.vm_key
    WHERE f.earlier < s.later
    GROUP BY f.earlier, s.later
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
