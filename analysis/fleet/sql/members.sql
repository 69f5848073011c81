-- The family of each common content: the first whose leader is held by nearly the same VMs, {family_percent} % of those
-- that hold one of both.
WITH alike AS (
    SELECT f.hash, f.place, ROW_NUMBER() OVER (PARTITION BY f.hash ORDER BY f.place ASC) AS choice
    FROM followers AS f
    JOIN signed AS s ON f.hash = s.hash
    WHERE f.both_hold * 100 >= (s.holders + f.leader_holders - f.both_hold) * {family_percent}
)
SELECT hash, place AS family_key FROM alike WHERE choice = 1
