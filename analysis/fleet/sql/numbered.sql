-- Common contents as bits of words of 60 bits, those of a family together: what two VMs have in common of them is then
-- counted by words and not by contents.
WITH ordered AS (
    SELECT s.hash, ROW_NUMBER() OVER (ORDER BY COALESCE(m.family_key, 0), s.hash) AS place
    FROM signed AS s
    LEFT JOIN members AS m ON s.hash = m.hash
)
SELECT hash, place - place % 60 AS word, CAST(POWER(CAST(2 AS BIGINT), place % 60) AS BIGINT) AS bit FROM ordered
